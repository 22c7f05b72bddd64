"""Asks a provider again when it fails in a way that may pass, and leaves it alone when it fails again and again."""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections.abc import Callable, Sequence

from sensorium.engine import Call, Card, Engine, has_come
from sensorium.errors import (
    CircuitOpen,
    ContentFiltered,
    ContextTooLong,
    DeadlineExceeded,
    ProviderFailed,
    ProviderLimited,
    ProviderRefused,
    SensoriumError,
)
from sensorium.schemas.base import Request, Result
from sensorium.stores.breakers import Breakers
from sensorium.stores.quota import domain_of
from sensorium.telemetry import Telemetry

MAY_PASS = (ProviderFailed, ProviderLimited)
"""Failures after which asking again may help, where they say so themselves."""

ANSWERED = (ProviderRefused, ContextTooLong, ContentFiltered)
"""Failures by which the provider shows that it works."""

FIRST_SECONDS, LONGEST_SECONDS = 0.5, 20.0
"""The longest pause before the second attempt; doubled for each further one, up to the longest."""

FAIR_SECONDS = 10.0
"""A provider that is silent for so long has failed; one that an impatient caller gave less may have been about to speak."""


class Retry:
    """At most so many attempts, all while the call has patience, and none after the caller has heard a word.

    A provider that says how long to wait is never asked sooner; where that would be too late, the failure is told at once.
    """

    def __init__(
        self,
        inner: Engine[Request, Result],
        card: Card,
        breakers: Breakers,
        telemetry: Telemetry,
        attempts: int = 3,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._inner, self._card, self._telemetry = inner, card, telemetry
        self._breaker = breakers.of(domain_of(card))
        self._attempts, self._spread = attempts, spread

    async def run(self, request: Request, call: Call) -> Result:
        failures: list[SensoriumError] = []
        while True:
            try:
                return await self._attempt(request, call)
            except (*MAY_PASS, CircuitOpen) as error:
                failures.append(error)
                pause = self._pause(failures, call)
                if pause is None:
                    raise _all_said(self._card, failures) from error.__cause__
            self._telemetry.provider_retries[self._card.id, failures[-1].code].add()
            await asyncio.sleep(pause)

    async def _attempt(self, request: Request, call: Call) -> Result:
        entered, start = self._breaker.enter(), time.monotonic()
        failed, code = None, "failed"
        try:
            result = await self._inner.run(request, call)
            failed, code = False, "ok"
        except SensoriumError as error:
            failed, code = _blame(error), error.code
            raise
        except asyncio.CancelledError:
            # A provider that keeps silent until nobody waits any more has failed; a caller who leaves says nothing of it.
            failed, code = (True, DeadlineExceeded.code) if _is_late(call) else (None, "cancelled")
            raise
        finally:
            self._breaker.leave(entered, None if failed and _was_hurried(call, start) else failed)
            self._telemetry.provider_attempts[self._card.id, code].add()
        return result

    def _pause(self, failures: Sequence[SensoriumError], call: Call) -> float | None:
        """Seconds until the next attempt; None: there is none."""
        last = failures[-1]
        if call.heard or not isinstance(last, MAY_PASS) or not last.retryable or len(failures) >= self._attempts:
            return None
        # Doubled in time for the pause not to grow beyond what a float holds.
        most = min(FIRST_SECONDS * 2 ** min(len(failures) - 1, 16), LONGEST_SECONDS)
        pause = max(self._spread(0.0, most), getattr(last, "retry_after_seconds", None) or 0.0)
        left = call.patience()
        return pause if left is None or pause < left else None


def _blame(error: SensoriumError) -> bool | None:
    """Whether the provider failed; None where that says nothing of it, as a limit does."""
    if isinstance(error, (ProviderFailed, DeadlineExceeded)):
        return True
    return False if isinstance(error, ANSWERED) else None


def _is_late(call: Call) -> bool:
    """Whether the model has had its time."""
    return has_come(call.deadline if call.begin_by is None or call.heard else call.begin_by)


def _was_hurried(call: Call, start: float) -> bool:
    """Whether the model was stopped while it spoke, or before it had a fair time to begin.

    Without this one impatient caller could close a provider for all others.
    """
    return _is_late(call) and (call.heard or time.monotonic() - start < FAIR_SECONDS)


def _all_said(card: Card, failures: Sequence[SensoriumError]) -> SensoriumError:
    """The last failure, with what each attempt said; what all said alike, once."""
    last = failures[-1]
    if len(failures) == 1:
        return last
    said = [str(one).rstrip(".") for one in failures]
    if len(set(said)) == 1:
        why = f"{len(said)} attempts: {said[0]}"
    else:
        why = "; ".join(f"attempt {number}: {one}" for number, one in enumerate(said, 1))
    told = copy.copy(last)
    SensoriumError.__init__(told, f"Model {card.id} did not answer", why=why, fix=last.fix)
    return told
