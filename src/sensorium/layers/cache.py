"""Remembers answers, and lets equal requests that come at once share one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from sensorium.engine import Call, Delta, Engine, Event, Item, Progress
from sensorium.schemas.base import Request, Result
from sensorium.stores import Store
from sensorium.telemetry import Telemetry


class Cache:
    """One model's answers, by caller and by what was asked about which bytes. Only whole, good answers are kept."""

    def __init__(
        self, inner: Engine[Request, Result], store: Store, model: str, seconds: float, telemetry: Telemetry
    ) -> None:
        self._inner, self._store, self._model, self._seconds = inner, store, model, seconds
        self._telemetry = telemetry
        self._flights: dict[str, Flight] = {}

    async def run(self, request: Request, call: Call) -> Result:
        if not call.options.cache:
            return await self._inner.run(request, call)
        key = f"{self._model}/{call.caller}/{await request.fingerprint()}"
        remembered = await self._store.get(key)
        self._telemetry.count("cache", outcome="hit" if remembered else "miss", task=request.task)
        if remembered:
            return await _replay(remembered, request, call)
        return await self._share(key, request, call)

    async def _share(self, key: str, request: Request, call: Call) -> Result:
        flight = self._flights.get(key)
        if flight is None or flight.left_alone:
            flight = self._flights[key] = Flight(call)
            flight.task = asyncio.create_task(self._work_out(key, request, flight))
        return await flight.join(call)

    async def _work_out(self, key: str, request: Request, flight: Flight) -> Result:
        try:
            result = await self._inner.run(request, flight.call)
            await self._store.put(key, _record(flight.said, result), self._seconds)
        finally:
            flight.over()
            if self._flights.get(key) is flight:
                del self._flights[key]
        return result


class Flight:
    """One answer being worked out for all who wait for it: it has its own call, tells each waiter
    everything from the start, and ends with the last of them."""

    task: asyncio.Task[Result]

    def __init__(self, first: Call) -> None:
        self.call = Call(
            listener=self._tell, runner=first.runner, caller=first.caller, trace=first.trace, options=first.options
        )
        self.said: list[Delta | Item] = []
        self._progress: Progress | None = None
        self._deadlines: list[float | None] = []
        self._news = asyncio.Event()
        self._over = False
        self.left_alone = False

    async def join(self, call: Call) -> Result:
        """Wait for the answer, hearing all of it."""
        self._deadlines.append(call.deadline)
        self._set_deadline()
        try:
            await self._follow(call)
            return await asyncio.shield(self.task)
        finally:
            self._deadlines.remove(call.deadline)
            self._set_deadline()
            if not self._deadlines:
                self.left_alone = True
                self.task.cancel()

    def over(self) -> None:
        """Nothing more will be said."""
        self._over = True
        self._wake()

    async def _follow(self, call: Call) -> None:
        heard, progress = 0, None
        while True:
            news = self._news
            while heard < len(self.said):
                heard += 1
                await call.emit(self.said[heard - 1])
            if self._progress is not progress and self._progress is not None:
                progress = self._progress
                await call.emit(progress)
            elif self._over and heard == len(self.said):
                return
            elif news is self._news:
                await news.wait()

    async def _tell(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._progress = event
        else:
            self.said.append(event)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _set_deadline(self) -> None:
        """The latest of those who wait; none when one of them would wait forever."""
        known = [moment for moment in self._deadlines if moment is not None]
        self.call.deadline = max(known) if known and len(known) == len(self._deadlines) else None


def _record(said: list[Delta | Item], result: Result) -> bytes:
    events = [event.text if isinstance(event, Delta) else [event.index, event.value] for event in said]
    return json.dumps([events, result.model_dump(mode="json")], ensure_ascii=False, default=_plain).encode()


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json")


async def _replay(record: bytes, request: Request, call: Call) -> Result:
    events, fields = json.loads(record)
    for event in events:
        await call.emit(Delta(event) if isinstance(event, str) else Item(*event))
    result = request.answer.model_validate(fields)
    return result.stamped(result.meta.model_copy(update={"cached": True, "loading_seconds": 0.0}))
