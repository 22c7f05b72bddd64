"""Answers told as they come, as server-sent events: at once, with signs of life, and never with an end that is none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Self

from sensorium.errors import SensoriumError
from sensorium.schemas.base import Result
from sensorium.schemas.events import Event
from sensorium.server.facades.base import Encoder

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HEAD = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
"""So that no proxy on the way gathers, squeezes or keeps what should pass at once."""


class Talk:
    """One answer while it is told. Around the work: `with Talk(...) as talk: await work(listener=talk.hear)`.

    What the work says is sent in the work's own task, without a queue in between: a client that reads slowly slows the
    work down, and one that has left a write unread for `patience` seconds is dropped, by cancelling that task. While
    there is nothing to send for `interval` seconds, a sign of life goes out. The status is sent with the first bytes of
    the answer or the first sign of life, whichever comes first: what fails before can still be answered with its own.
    """

    __slots__ = (
        "_beats",
        "_encoder",
        "_interval",
        "_loop",
        "_over",
        "_patience",
        "_send",
        "_sent",
        "_task",
        "_timer",
        "_writing",
        "stalled",
        "started",
    )

    def __init__(self, encoder: Encoder, send: Send, *, interval: float, patience: float) -> None:
        self._encoder, self._send, self._interval, self._patience = encoder, send, interval, patience
        self._loop = asyncio.get_running_loop()
        self._writing = False
        self._sent = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._beats: asyncio.Task[None] | None = None  # held, so that it is not collected
        self._over = False
        self.started = False
        """Whether the status has been sent."""
        self.stalled = False
        """Whether the client was dropped because it did not read."""

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._timer = self._loop.call_later(self._interval, self._tick)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    async def hear(self, event: Event) -> None:
        """Pass on what the work says: the listener of its call."""
        if data := self._encoder.event(event):
            await self.tell(data)

    async def end(self, result: Result) -> None:
        """Tell the rest of a whole answer."""
        await self.tell(self._encoder.end(result), more=False)

    async def fail(self, error: SensoriumError) -> None:
        """Tell that there will be no whole answer."""
        await self.tell(self._encoder.error(error), more=False)

    async def tell(self, data: bytes, *, more: bool = True) -> None:
        """Tell what is encoded already; `more`: it is not the end."""
        if self._beats is not None:
            await asyncio.wait([self._beats])
        self._over = not more
        await self._put(data, more)

    async def _beat(self) -> None:
        try:
            if not (self._over or self._writing):
                await self._put(self._encoder.beat(), True)
        finally:
            self._beats = None

    async def _put(self, data: bytes, more: bool) -> None:
        self._sent, self._writing = self._loop.time(), True
        try:
            if not self.started:
                self.started = True
                await self._send({"type": "http.response.start", "status": 200, "headers": list(HEAD)})
                data = self._encoder.start() + data
            await self._send({"type": "http.response.body", "body": data, "more_body": more})
        finally:
            self._writing = False

    def _tick(self) -> None:
        """Once in an interval without a write: a sign of life, or the end of a client that does not read."""
        silent = self._loop.time() - self._sent
        if self._writing:
            due = min(self._patience - silent, self._interval)
            if due <= 0:
                self._drop()
                return
        else:
            due = self._interval - silent
            if due <= 0:
                self._beats = self._loop.create_task(self._beat())
                due = self._interval
        self._timer = self._loop.call_later(max(due, 0.001), self._tick)

    def _drop(self) -> None:
        self.stalled = True
        if self._task is not None:
            self._task.cancel()
