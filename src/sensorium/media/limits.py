"""How much may come in. Read where work starts, so that each service in a process keeps to its own."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused before it costs anything."""

    max_bytes: int = 20_000_000
    """Encoded bytes of one input."""
    max_pixels: int = 50_000_000
    """Decoded pixels of one picture. A JPEG of more is decoded at 1/2, 1/4 or 1/8 instead of being refused."""
    pixel_budget: int = 100_000_000
    """Pixels of all pictures of the process that are alive or being decoded; 3 bytes each. Further ones wait."""
    budget_seconds: float = 30.0
    """How long a picture may wait for room in the budget, before Overloaded."""
    fetch_seconds: float = 10.0
    """From the start of a download to its last byte, redirects included."""
    max_redirects: int = 5
    allowed_hosts: tuple[str, ...] = ()
    """Hosts that URLs may lead to whatever their address is: `host` or `host:port`, exactly as in the URL."""


_DEFAULT = Limits()
_CURRENT: ContextVar[Limits] = ContextVar("sensorium_limits", default=_DEFAULT)


def current() -> Limits:
    """The limits that hold here."""
    return _CURRENT.get()


class use:  # noqa: N801 - read as a verb: `with limits.use(mine):`
    """Hold to these limits inside the block, in tasks started there, and in work that it sends to the pool."""

    __slots__ = ("_before", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def __enter__(self) -> Limits:
        self._before = _CURRENT.set(self._limits)
        return self._limits

    def __exit__(self, *error: object) -> None:
        _CURRENT.reset(self._before)
