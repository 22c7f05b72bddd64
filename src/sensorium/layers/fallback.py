"""Asks the next model when one cannot answer."""

from __future__ import annotations

from collections.abc import Sequence

from sensorium.engine import Call, Engine
from sensorium.errors import DeadlineExceeded, InvalidInput, ReaderStalled, SensoriumError, Unavailable
from sensorium.schemas.base import Request, Result, Skipped

FINAL = (InvalidInput, DeadlineExceeded, ReaderStalled)
"""Failures that no other model would mend: the request is wrong, or nobody waits any more."""


class Fallback:
    """Several models in order of preference; the answer says which ones were passed over, and why."""

    def __init__(self, models: Sequence[tuple[str, Engine[Request, Result]]]) -> None:
        self._models = models

    async def run(self, request: Request, call: Call) -> Result:
        skipped: list[Skipped] = []
        for name, engine in self._models:
            try:
                result = await engine.run(request, call)
            except SensoriumError as error:
                if call.heard or isinstance(error, FINAL):
                    raise
                skipped.append(Skipped(engine=name, code=error.code, message=str(error)))
                last = error
            else:
                return _with(result, skipped)
        raise _all_failed(skipped, last) from last


def _with(result: Result, skipped: list[Skipped]) -> Result:
    # What the model itself had to pass over, a graphics card without memory, comes after.
    return result.stamped(skipped=(*skipped, *result.meta.skipped)) if skipped else result


def _all_failed(skipped: list[Skipped], last: SensoriumError) -> Unavailable:
    why = "; ".join(f"{one.engine}: {one.message.rstrip('.')}" for one in skipped)
    return Unavailable("No model could answer", why=why, fix=last.fix)
