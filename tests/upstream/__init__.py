"""A provider of vision-language models for tests, on a real socket; the model's name selects its fault.

    with upstream() as provider:
        ...  # ask `cut-3` at provider.openai, provider.anthropic or provider.gemini

`tests/upstream/faults.py` lists the faults. Requests are kept in `provider.requests`, as the provider understood them.
"""

from tests.upstream.faults import FAULTS, Fault, fault_of
from tests.upstream.provider import Upstream, upstream
from tests.upstream.wire import Seen, Sight

__all__ = ["FAULTS", "Fault", "Seen", "Sight", "Upstream", "fault_of", "upstream"]
