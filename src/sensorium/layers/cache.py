"""Remembers answers, and lets equal requests that come at once share one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple

from sensorium.engine import Call, Delta, Engine, Event, Item, Progress, ignore
from sensorium.errors import SensoriumError
from sensorium.schemas.base import Request, Result
from sensorium.stores import Store
from sensorium.telemetry import Telemetry


class Cache:
    """One model's answers, by caller and by what was asked about which bytes. Only whole, good answers are kept.

    A high temperature changes nothing: who wants another answer to the same question asks without the cache. Pictures at
    URLs are fetched, since what is there may change; those of requests without the cache can be passed on as they are.
    """

    def __init__(
        self, inner: Engine[Request, Result], store: Store, model: str, seconds: float, telemetry: Telemetry
    ) -> None:
        self._inner, self._store, self._model, self._seconds = inner, store, model, seconds
        self._telemetry = telemetry
        self._flights: dict[tuple[str, float | None], Flight] = {}
        """By what is asked, and what it may cost: what is too dear for one may not be for another."""

    def run(self, request: Request, call: Call) -> Coroutine[Any, Any, Result]:
        # Not a coroutine itself: one more on the way would be woken, too, whenever the model's is.
        return self._remembered(request, call) if call.options.cache else self._inner.run(request, call)

    async def _remembered(self, request: Request, call: Call) -> Result:
        # No name holds a line break: nobody finds what is another's.
        key = f"{self._model}\n{call.caller.name}\n{await request.fingerprint()}"
        remembered = await self._recall(key, request)
        self._telemetry.cache_lookups[request.task, "hit" if remembered else "miss"].add()
        if remembered is None:
            return await self._share(key, request, call)
        await _retell(remembered.said, remembered.result, call)
        return remembered.result

    async def _recall(self, key: str, request: Request) -> Remembered | None:
        """What is remembered; nothing where the store fails, or holds what cannot be read."""
        try:
            record = await self._store.get(key)
            return _read(record, request) if record else None
        except SensoriumError:
            raise
        except Exception:  # noqa: BLE001 - whatever a store may raise: without a cache the answer is worked out
            self._telemetry.cache_errors[request.task].add()
            return None

    async def _remember(self, key: str, request: Request, flight: Flight, result: Result) -> None:
        try:
            await self._store.put(key, _record(flight.said, result), self._seconds)
        except SensoriumError:
            raise
        except Exception:  # noqa: BLE001 - as above
            self._telemetry.cache_errors[request.task].add()

    async def _share(self, key: str, request: Request, call: Call) -> Result:
        place = key, call.options.max_cost
        flight = self._flights.get(place)
        if flight is None or flight.left_alone:
            flight = self._flights[place] = Flight(call)
            flight.task = asyncio.create_task(self._work_out(key, request, flight))
        return await flight.join(call)

    async def _work_out(self, key: str, request: Request, flight: Flight) -> Result:
        try:
            result = await self._inner.run(request, flight.call)
            if result.whole:
                await self._remember(key, request, flight, result)
        finally:
            flight.over()
            place = key, flight.call.options.max_cost
            if self._flights.get(place) is flight:
                del self._flights[place]
        return result


class Remembered(NamedTuple):
    """An answer, and what was said on the way to it."""

    said: list[Delta | Item]
    result: Result


class Flight:
    """One answer being worked out for all who wait for it: it has its own call, tells each waiter
    everything from the start, and ends with the last of them."""

    task: asyncio.Task[Result]

    def __init__(self, first: Call) -> None:
        # Where nobody listens, a model need not answer word by word.
        self.call = Call(
            listener=ignore if first.listener is ignore else self._tell,
            runner=first.runner,
            caller=first.caller,
            trace=first.trace,
            options=first.options,
        )
        self.said: list[Delta | Item] = []
        self._progress: Progress | None = None
        self._moments: list[tuple[float | None, float | None]] = []
        self._news = asyncio.Event()
        self._over = False
        self.left_alone = False

    async def join(self, call: Call) -> Result:
        """Wait for the answer, hearing all of it."""
        moments = call.deadline, call.begin_by
        self._moments.append(moments)
        self._set_moments()
        try:
            if call.listener is ignore:
                return await asyncio.shield(self.task)
            await self._follow(call)
            result = await asyncio.shield(self.task)
            if not self.said:
                await _retell([], result, call)
            return result
        finally:
            self._moments.remove(moments)
            self._set_moments()
            if not self._moments:
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

    def _set_moments(self) -> None:
        if not self._moments:  # a thread, which nobody can cancel, hears by its deadline that nobody waits
            self.call.deadline = self.call.begin_by = time.monotonic()
            return
        self.call.deadline = _latest([deadline for deadline, _ in self._moments])
        self.call.begin_by = _latest([begin_by for _, begin_by in self._moments])


def _latest(moments: list[float | None]) -> float | None:
    """The latest of those who wait; none when one of them would wait forever."""
    known = [moment for moment in moments if moment is not None]
    return max(known) if known and len(known) == len(moments) else None


async def _retell(said: list[Delta | Item], result: Result, call: Call) -> None:
    """What was said on the way; when it was asked for without a listener, the words of the answer."""
    if call.listener is ignore:
        return
    for event in said or ([Delta(result.words)] if result.words else []):
        await call.emit(event)


def _record(said: list[Delta | Item], result: Result) -> bytes:
    events = [event.text if isinstance(event, Delta) else [event.index, event.value] for event in said]
    return json.dumps([events, result.model_dump(mode="json")], ensure_ascii=False, default=_plain).encode()


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json")


def _read(record: bytes, request: Request) -> Remembered:
    events, fields = json.loads(record)
    said = [Delta(event) if isinstance(event, str) else Item(*event) for event in events]
    result = request.answer.model_validate(fields)
    return Remembered(said, result.stamped(cached=True, loading_seconds=0.0))
