"""Circuit breakers: a provider that fails again and again is left alone for a while, by all who would ask it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from sensorium.errors import CircuitOpen
from sensorium.telemetry import TELEMETRY

STATES = {"closed": 0, "half_open": 1, "open": 2}
"""And the numbers that metrics tell."""

RECENT_SECONDS, RECENT_CALLS = 30.0, 100
"""Which calls are looked at: those of so long, and of them the last."""
LEAST_CALLS, MOST_FAILED = 10, 0.5
"""It opens when, of at least so many, at least this share has failed."""
FIRST_COOL_DOWN, LONGEST_COOL_DOWN = 5.0, 20.0
"""How long it stays open, in seconds; twice as long each time that a call afterwards fails too. A provider that works
again is used again within the longest."""


class Breaker:
    """Closed, all calls pass. Open, none does. Half open, one passes at a time, and decides for all."""

    def __init__(self, domain: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.domain, self._clock = domain, clock
        self._recent: deque[tuple[float, bool]] = deque(maxlen=RECENT_CALLS)
        self._opened_until: float | None = None
        self._cool_down = FIRST_COOL_DOWN
        self._trial: int | None = None
        self._calls = 0
        TELEMETRY.circuit_state[domain].watch(self, lambda breaker: STATES[breaker.state])

    @property
    def state(self) -> str:
        """One of `STATES`."""
        if self._opened_until is None:
            return "closed"
        return "open" if self._clock() < self._opened_until else "half_open"

    def enter(self) -> int:
        """Begin a call, of which `leave` tells how it went. Raises CircuitOpen when none may begin."""
        state = self.state
        if state == "open" or self._trial is not None:
            raise self._refusal()
        self._calls += 1
        if state == "half_open":
            self._trial = self._calls
        return self._calls

    def leave(self, call: int, failed: bool | None) -> None:
        """End the call: the provider failed, or it did its part; None: neither can be said."""
        if self._trial == call:
            self._trial = None
            self._decide(failed)
        elif self._opened_until is None and failed is not None:  # else it began before it opened, and tells nothing new
            self._recent.append((self._clock(), failed))
            if failed:
                self._open_if_most_fail()

    def _decide(self, failed: bool | None) -> None:
        if failed:
            self._cool_down = min(2 * self._cool_down, LONGEST_COOL_DOWN)
            self._open()
        elif failed is not None:
            self._cool_down, self._opened_until = FIRST_COOL_DOWN, None

    def _open_if_most_fail(self) -> None:
        since = self._clock() - RECENT_SECONDS
        recent = [failed for moment, failed in self._recent if moment >= since]
        if len(recent) >= LEAST_CALLS and sum(recent) >= MOST_FAILED * len(recent):
            self._open()

    def _open(self) -> None:
        self._recent.clear()
        self._opened_until = self._clock() + self._cool_down
        TELEMETRY.circuit_openings[self.domain].add()

    def _refusal(self) -> CircuitOpen:
        left = (self._opened_until or 0.0) - self._clock()
        after = max(1.0, round(left, 1))
        return CircuitOpen(
            "The provider is left alone for a while",
            why=f"{self.domain} failed again and again",
            fix=f"Try again in {after:g} s, or name another model to fall back on",
            retry_after_seconds=after,
        )


class Breakers:
    """Those of a process: one for each quota domain, whichever models share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, Breaker] = {}

    def of(self, domain: str) -> Breaker:
        if domain not in self._known:
            self._known[domain] = Breaker(domain, self._clock)
        return self._known[domain]
