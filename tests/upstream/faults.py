"""What can go wrong with a provider. A model's name is a fault's, and a number where the fault takes one: `cut-3`.

A name that is no fault's answers well, so that real names (`gpt-4o`) can be used; `Upstream.faults` gives one a fault.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FAULTS = {
    "ok": "answers",
    # Before the answer
    "limited": "429 without Retry-After",
    "limited-seconds": "429, Retry-After: N",
    "limited-date": "429, Retry-After: the date in N seconds",
    "limited-ms": "429, retry-after-ms: N",
    "limited-info": "429, google.rpc.RetryInfo of N seconds in the body",
    "insufficient-quota": "429 that waiting does not help",
    "status": "the status N",
    "page": "502 with a page of HTML",
    "reset": "the connection is reset before the first byte",
    "hang": "no response, until the client leaves or `release` is called",
    "too-long": "the refusal of too many words and pictures",
    "filtered": "the refusal by a content filter",
    "refused": "400, a field is wrong",
    "denied": "401",
    "unknown": "404, no such model",
    "status-once": "the status N for the first request, then answers",
    "no-prefill": "400 where the assistant has the last word in the question, else answers",
    "flapping": "503 for the first N requests, then answers",
    "reset-once": "the first N connections are reset, then answers",
    "limited-once": "429 with Retry-After: N for the first request, then answers",
    "at-most": "429 for what is more than N at once",
    "per-second": "429 for what is more than N in any second",
    # In the answer
    "slow-first": "the first token after N seconds, headers at once",
    "slow-headers": "headers and all after N seconds",
    "slow-tokens": "N seconds before each token",
    "cut": "the connection is reset after N tokens",
    "end-early": "the body ends well after N tokens, without any end mark",
    "stall": "silence after N tokens, until the client leaves or `release` is called",
    "malformed": "what is no JSON after N tokens, then goes on well",
    "error-after": "an error told in the stream after N tokens",
    "no-done": "all tokens and the reason why it stopped, but no [DONE]",
    "no-usage": "does not tell what it took",
    "cached": "says that N of the input's tokens were in its cache",
    "took": "says that it took N tokens, and gave as many",
    "odd-name": "says that the answer is of a model whose name has a key, an escape and several lines",
    "many-values": "an answer of N values",
    "length": "stops because of max_tokens",
    "filtered-answer": "stops because of the content filter",
    "odd-frames": "well, but with CRLF, comments, data over several lines, and 7 bytes at a time",
    "huge-event": "one event of N bytes",
    "huge-body": "an answer of N bytes",
    "endless": "tokens for ever",
    "empty": "answers with no words at all",
}


@dataclass(frozen=True)
class Fault:
    """A fault, and how much of it."""

    name: str
    amount: float = 0.0

    @property
    def count(self) -> int:
        return int(self.amount)


def fault_of(model: str) -> Fault:
    """The fault that a model's name selects."""
    name = model.rpartition("/")[2]
    if name in FAULTS:
        return Fault(name)
    named = re.fullmatch(r"(.+?)-([0-9]+(?:\.[0-9]+)?)", name)
    return Fault(named[1], float(named[2])) if named and named[1] in FAULTS else Fault("ok")
