"""Counts and times what passes, and stamps answers with how they came about."""

from __future__ import annotations

import asyncio
import time

from sensorium.engine import Call, Engine
from sensorium.errors import DeadlineExceeded, SensoriumError
from sensorium.schemas.base import Request, Result
from sensorium.telemetry import Telemetry


class Metrics:
    """Every request of a task passes here once, nested ones too."""

    def __init__(self, inner: Engine[Request, Result], telemetry: Telemetry) -> None:
        self._inner, self._telemetry = inner, telemetry

    async def run(self, request: Request, call: Call) -> Result:
        start, code = time.perf_counter(), "failed"
        try:
            with self._telemetry.span(request.task):
                result = await self._inner.run(request, call)
            code = "ok"
        except SensoriumError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = DeadlineExceeded.code if call.is_late() else "cancelled"
            raise
        finally:
            took = time.perf_counter() - start
            self._telemetry.requests[request.task, code].add()
            self._telemetry.request_seconds[request.task].observe(took)
        return result.stamped(engine=result.meta.engine or request.task, seconds=took, trace=call.trace)
