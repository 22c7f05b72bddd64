"""Other people's clients against our server: in an environment of their own, by `make test-sdks`."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("openai") else ["test_*.py"]
