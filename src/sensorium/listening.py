"""One answer heard as it comes, whoever gives it: a queue of its parts, with a bound, and then the whole of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from sensorium.errors import ReaderStalled
from sensorium.schemas.events import Event


class Stream:
    """The events of one request, to be read with `async for`; then `result` is the whole answer.

    A reader that leaves `buffer` events unread for `patience` seconds is dropped: the work ends
    and gives its place back, and the reader gets ReaderStalled. Leaving early cancels the work.
    """

    def __init__(self, ask: Callable[..., Awaitable[Any]], buffer: int = 64, patience: float = 30.0) -> None:
        """`ask(listener=...)` gives the whole answer, and tells the listener its parts."""
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(buffer)
        self._patience = patience
        self._work = asyncio.create_task(self._run(ask))

    async def __aiter__(self) -> AsyncIterator[Event]:
        try:
            while (event := await self._next()) is not None:
                yield event
            await asyncio.shield(self._work)
        finally:
            await self.aclose()

    @property
    def result(self) -> Any:
        """The whole answer, once all events have been read."""
        return self._work.result()

    async def aclose(self) -> None:
        """Leave; work that is not finished is cancelled."""
        self._work.cancel()
        await asyncio.wait([self._work])

    async def _run(self, ask: Callable[..., Awaitable[Any]]) -> Any:
        return await ask(listener=self._put)

    async def _put(self, event: Event) -> None:
        if not self._events.full():
            self._events.put_nowait(event)
            return
        try:
            async with asyncio.timeout(self._patience):
                await self._events.put(event)
        except TimeoutError as error:
            waited = f"{self._events.qsize()} events stood unread for {self._patience:g} s"
            raise ReaderStalled("The reader of the stream stopped reading", why=waited) from error

    async def _next(self) -> Event | None:
        """The next event, or None when the work is over and all has been read."""
        if not self._events.empty():
            return self._events.get_nowait()
        getting = asyncio.ensure_future(self._events.get())
        try:
            await asyncio.wait([getting, self._work], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not getting.done():
                getting.cancel()
        if getting.done() and not getting.cancelled():
            return getting.result()
        return None if self._events.empty() else self._events.get_nowait()
