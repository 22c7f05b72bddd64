"""Loads an engine at its first request, says which model answered, and makes what it throws ours."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from sensorium.engine import Call, Card, Engine, Loadable
from sensorium.errors import EngineFailed, SensoriumError, ServiceClosed
from sensorium.media.pool import in_thread
from sensorium.schemas.base import Meta, Request, Result

UNKNOWN = Meta()


class LoadableEngine(Engine[Request, Result], Loadable, Protocol):
    """What a kind's module offers as `Engine`."""


class Loaded:
    """The innermost layer: one model, made ready when it is first needed."""

    def __init__(self, engine: LoadableEngine, card: Card) -> None:
        self._engine, self._card = engine, card
        self._loading = asyncio.Lock()
        self._ready = self._closed = False

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._ready

    async def run(self, request: Request, call: Call) -> Result:
        start = time.perf_counter()
        await self.load()
        ready = time.perf_counter()
        try:
            result = await self._engine.run(request, call)
        except SensoriumError:
            raise
        except Exception as error:
            raise _ours(error, self._card) from error
        took = time.perf_counter() - start
        # Of what the engine says of itself, only the devices that it had to pass over.
        meta = UNKNOWN.altered(
            engine=self._card.id, seconds=took, loading_seconds=ready - start, skipped=result.meta.skipped
        )
        return result.altered(meta=meta)

    async def load(self) -> None:
        """Make the model ready; at once when it is. A failure is told to this caller, and tried again for the next."""
        if self._ready:
            return
        async with self._loading:
            if self._closed:
                raise ServiceClosed(f"Model {self._card.id} is closed")
            if not self._ready:
                await self._load()

    async def _load(self) -> None:
        try:
            await in_thread(self._engine.load)
        except SensoriumError:
            raise
        except Exception as error:
            raise _ours(error, self._card) from error
        self._ready = True

    async def close(self) -> None:
        """Give the model's memory and threads back. Nothing runs on it afterwards."""
        async with self._loading:
            if self._ready:
                await in_thread(self._engine.close)
            self._ready, self._closed = False, True


def _ours(error: Exception, card: Card) -> EngineFailed:
    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return EngineFailed(f"Model {card.id} broke", why=why, fix="Report this, with the input that caused it")
