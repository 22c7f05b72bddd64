"""Loads an engine at its first request, gives it back when it is idle, says which model answered, and makes what it
throws ours."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from sensorium.engine import Call, Card, Engine, Loadable
from sensorium.errors import EngineFailed, SensoriumError, ServiceClosed
from sensorium.runtimes import memory
from sensorium.schemas.base import Meta, Request, Result
from sensorium.telemetry import TELEMETRY

UNKNOWN = Meta()

log = logging.getLogger("sensorium.models")


class LoadableEngine(Engine[Request, Result], Loadable, Protocol):
    """What a kind's module offers as `Engine`."""


class Loaded:
    """The innermost layer: one model, made ready when it is first needed.

    `make` gives a new engine that is not loaded yet; it may raise. A model without requests for `idle_seconds` is given
    back, and made ready again for the next; 0 keeps it.

    Loading and closing have threads of their own: they take seconds, in which pictures must go on being decoded.
    """

    def __init__(self, make: Callable[[], LoadableEngine], card: Card, idle_seconds: float = 0.0) -> None:
        self.card = card
        self.failure: SensoriumError | None = None
        """Why it could not be loaded the last time."""
        self.successor: Loaded | None = None
        """What answers in its place, once this is not loaded any more."""
        self.keep = False
        """Whether it must stay in memory: what lies in the folder now would not load."""
        self._make, self._idle_seconds = make, idle_seconds
        self._engine: LoadableEngine | None = None
        self._loading: asyncio.Task[LoadableEngine] | None = None
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._last_used = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._going: asyncio.Task[None] | None = None
        self._closed = False
        TELEMETRY.model_loaded[card.id].watch(self, lambda loaded: loaded.ready)

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._engine is not None

    @property
    def loading(self) -> bool:
        """Whether the model is being loaded."""
        return self._loading is not None

    async def run(self, request: Request, call: Call) -> Result:
        start = ready = time.perf_counter()
        engine = self._engine
        if engine is None and self.successor is not None and self._may_pass_on(request):
            return await self.successor.run(request, call)
        # Counted before it is loaded, so that it is not given back between being ready and being used.
        self._under_way += 1
        try:
            if engine is None:
                engine = await self.load()
                ready = time.perf_counter()
            result = await engine.run(request, call)
        except SensoriumError:
            raise
        except Exception as error:
            raise _ours(error, self.card) from error
        finally:
            self._last_used = time.perf_counter()
            self._under_way -= 1
            if not self._under_way:
                self._quiet.set()
        took = self._last_used - start
        # Of what the engine says of itself, only the devices that it had to pass over, and what the answer took.
        said = result.meta
        meta = UNKNOWN.altered(
            engine=self.card.id, seconds=took, loading_seconds=ready - start, skipped=said.skipped, usage=said.usage
        )
        return result.altered(meta=meta)

    async def load(self) -> LoadableEngine:
        """Make the model ready; at once when it is.

        All who wait share one load, which goes on though they leave. A failure is told to them, and the next tries again.
        """
        if self._engine is not None:
            return self._engine
        if self._closed:
            raise ServiceClosed(f"Model {self.card.id} is closed")
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
            self._loading.add_done_callback(_heard)
        return await asyncio.shield(self._loading)

    async def unload(self) -> None:
        """Give memory and threads back once no request is under way; the next request loads the model again."""
        while self._under_way:
            self._quiet.clear()
            await self._quiet.wait()
        await self._give_back()

    async def retire(self) -> None:
        """Let what is under way finish, then give memory and threads back for good."""
        await self.unload()
        self._closed = True

    async def close(self) -> None:
        """Give memory and threads back now. What still runs fails, and nothing runs on it afterwards."""
        self._closed = True
        for task in (self._loading, self._going):
            if task is not None:
                await asyncio.wait([task])
        await self._give_back()

    async def _load(self) -> LoadableEngine:
        start = time.perf_counter()
        try:
            engine = await asyncio.to_thread(_made, self._make)
        except Exception as error:
            self.failure = error if isinstance(error, SensoriumError) else _ours(error, self.card)
            if self.failure is error:
                raise
            raise self.failure from error
        finally:
            self._loading = None
        if self._closed:
            await asyncio.to_thread(_give_back, engine)
            raise ServiceClosed(f"Model {self.card.id} is closed")
        self.failure, self._engine, self._last_used = None, engine, time.perf_counter()
        TELEMETRY.model_load_seconds[self.card.id].observe(self._last_used - start)
        self._look_in_later(self._idle_seconds)
        return engine

    async def _give_back(self) -> None:
        engine, self._engine = self._engine, None
        if self._timer is not None:
            self._timer.cancel()
        if engine is not None:
            await asyncio.to_thread(_give_back, engine)

    def _look_in_later(self, seconds: float) -> None:
        if self._idle_seconds > 0:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._unload_if_idle)

    def _unload_if_idle(self) -> None:
        left = self._last_used + self._idle_seconds - time.perf_counter()
        if left > 0 or self._under_way or self.keep:
            self._look_in_later(left if left > 0 else self._idle_seconds)
        elif self.ready:
            log.info("Model %s has been idle for %g s, and is unloaded", self.card.id, self._idle_seconds)
            self._going = asyncio.create_task(self._give_back())

    def _may_pass_on(self, request: Request) -> bool:
        """Whoever names a version gets that version."""
        same = self.successor is not None and self.successor.card.id == self.card.id
        return same or request.model is None or "@" not in request.model


def _made(make: Callable[[], LoadableEngine]) -> LoadableEngine:
    engine = make()
    try:
        engine.load()
    except BaseException:
        with suppress(Exception):  # the first failure is the one to tell
            engine.close()
        raise
    memory.give_back()  # reading a file of 18 MB leaves 20 MB
    return engine


def _give_back(engine: LoadableEngine) -> None:
    engine.close()
    memory.give_back()


def _heard(loading: asyncio.Task[LoadableEngine]) -> None:
    """Those who waited have been told of a failure; where all have left, it stands in `failure`."""
    if not loading.cancelled():
        loading.exception()


def _ours(error: Exception, card: Card) -> EngineFailed:
    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return EngineFailed(f"Model {card.id} broke", why=why, fix="Report this, with the input that caused it")
