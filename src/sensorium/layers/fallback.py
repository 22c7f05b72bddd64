"""Asks the next model when one cannot answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sensorium.engine import Call, Engine
from sensorium.errors import (
    ContextTooLong,
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    ReaderStalled,
    RemoteForbidden,
    SensoriumError,
    Unavailable,
    Unseeing,
    final,
)
from sensorium.schemas.base import Request, Result, Skipped

FINAL = (InvalidInput, ReaderStalled)
"""Failures that no other model would mend: the request is wrong, or nobody waits any more."""
OF_ONE_MODEL = (ContextTooLong, Unseeing)
"""Those of them that another model may well mend."""
KEPT = (RemoteForbidden, ContextTooLong, Unseeing)
"""Failures that are told as themselves where all models fail in that way."""

GRACE_SECONDS = 0.25
"""How long after its share a model is left to say itself why it did not begin."""


class Fallback:
    """Several models in order of preference; the answer says which ones were passed over, and why.

    While others can still be asked, a model has an equal share of the time that is left to begin its answer: of 60 s, the
    first of two has 30, and the second what is left then. Once part of an answer was told, it has all the time there is,
    and no other model is asked. Where nobody listens, the answer begins with its end.
    """

    def __init__(self, models: Sequence[tuple[str, Engine[Request, Result]]]) -> None:
        self._models = models

    async def run(self, request: Request, call: Call) -> Result:
        skipped: list[Skipped] = []
        failures: list[SensoriumError] = []
        until = call.begin_by  # of whoever asks for this as a part of something else
        for number, (name, engine) in enumerate(self._models):
            call.begin_by = until
            try:
                result = await _within_share(name, engine, request, call, len(self._models) - number)
            except SensoriumError as error:
                if call.heard or _is_final(error, call):
                    raise
                skipped.append(Skipped(engine=name, code=error.code, message=str(error)))
                failures.append(error)
            else:
                return _with(result, skipped)
        raise _all_failed(skipped, failures) from failures[-1]


async def _within_share(
    name: str, engine: Engine[Request, Result], request: Request, call: Call, models: int
) -> Result:
    """What the first of so many models answers. Raises DeadlineExceeded when it has not begun in its share of the time."""
    left = call.patience()
    if left is None or models == 1:
        return await engine.run(request, call)
    share = left / models
    call.begin_by = time.monotonic() + share
    try:
        # Providers are left by those who wait for them, who know more of it; this is for all others.
        async with asyncio.timeout(None) as limit:
            with _unless_heard(call, limit, share + GRACE_SECONDS):
                return await engine.run(request, call)
    except TimeoutError as error:
        if not limit.expired():
            raise
        why = f"nothing came within {share:.3g} s, its share of the time"
        raise DeadlineExceeded(f"{name} did not answer", why=why, fix="Allow more time with `timeout`") from error


@contextmanager
def _unless_heard(call: Call, limit: asyncio.Timeout, seconds: float) -> Iterator[None]:
    """The limit is reached after so many seconds, unless part of the answer was told by then."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        if not call.heard:
            limit.reschedule(loop.time())

    timer = loop.call_later(seconds, end)
    try:
        yield
    finally:
        timer.cancel()


def _is_final(error: SensoriumError, call: Call) -> bool:
    """Whether no other model is to be asked."""
    if isinstance(error, DeadlineExceeded):  # of the caller, or only of the model
        return call.is_late()
    return isinstance(error, FINAL) and not isinstance(error, OF_ONE_MODEL)


def _with(result: Result, skipped: list[Skipped]) -> Result:
    # What the model itself had to pass over, a graphics card without memory, comes after.
    return result.stamped(skipped=(*skipped, *result.meta.skipped)) if skipped else result


def _all_failed(skipped: list[Skipped], failures: list[SensoriumError]) -> SensoriumError:
    what, fix = "No model could answer", failures[-1].fix
    why = "; ".join(f"{one.engine}: {one.message.rstrip('.')}" for one in skipped)
    for kept in KEPT:
        if all(isinstance(error, kept) for error in failures):
            return kept(what, why=why, fix=fix)
    full = [error for error in failures if isinstance(error, Overloaded)]
    if len(full) < len(failures):
        return Unavailable(what, why=why, fix=fix)
    # When waiting helps with one of them, callers hear so, and for how long.
    (kind, *others) = {type(error) for error in full}
    waits = [error.retry_after_seconds for error in full if error.retryable]
    failed = (Overloaded if others else kind)(what, why=why, fix=fix, retry_after_seconds=min(waits, default=0.0))
    return failed if waits else final(failed)
