"""Asks the next model when one cannot answer."""

from __future__ import annotations

from collections.abc import Sequence

from sensorium.engine import Call, Engine
from sensorium.errors import (
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    ReaderStalled,
    RemoteForbidden,
    SensoriumError,
    Unavailable,
)
from sensorium.schemas.base import Request, Result, Skipped

FINAL = (InvalidInput, DeadlineExceeded, ReaderStalled)
"""Failures that no other model would mend: the request is wrong, or nobody waits any more."""


class Fallback:
    """Several models in order of preference; the answer says which ones were passed over, and why."""

    def __init__(self, models: Sequence[tuple[str, Engine[Request, Result]]]) -> None:
        self._models = models

    async def run(self, request: Request, call: Call) -> Result:
        skipped: list[Skipped] = []
        failures: list[SensoriumError] = []
        for name, engine in self._models:
            try:
                result = await engine.run(request, call)
            except SensoriumError as error:
                if call.heard or isinstance(error, FINAL):
                    raise
                skipped.append(Skipped(engine=name, code=error.code, message=str(error)))
                failures.append(error)
            else:
                return _with(result, skipped)
        raise _all_failed(skipped, failures) from failures[-1]


def _with(result: Result, skipped: list[Skipped]) -> Result:
    # What the model itself had to pass over, a graphics card without memory, comes after.
    return result.stamped(skipped=(*skipped, *result.meta.skipped)) if skipped else result


def _all_failed(skipped: list[Skipped], failures: list[SensoriumError]) -> SensoriumError:
    what, fix = "No model could answer", failures[-1].fix
    why = "; ".join(f"{one.engine}: {one.message.rstrip('.')}" for one in skipped)
    if all(isinstance(error, RemoteForbidden) for error in failures):
        return RemoteForbidden(what, why=why, fix=fix)
    waits = [error.retry_after_seconds for error in failures if isinstance(error, Overloaded)]
    if len(waits) < len(failures):
        return Unavailable(what, why=why, fix=fix)
    # When waiting helps with all of them, callers hear so, and for how long.
    (kind, *others) = {type(error) for error in failures if isinstance(error, Overloaded)}
    return (Overloaded if others else kind)(what, why=why, fix=fix, retry_after_seconds=min(waits))
