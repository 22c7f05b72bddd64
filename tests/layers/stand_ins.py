"""Engines for the layers' tests: small, and told what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from sensorium.engine import Call, Delta, Event
from sensorium.schemas.base import Request, Result


class Answer(Result):
    text: str


class Ask(Request):
    task: ClassVar[str] = "say"
    answer: ClassVar[type[Result]] = Answer

    text: str


class Talker:
    """Says each word, then all of them; `before` each run something may be raised."""

    def __init__(self, *, before: Exception | None = None, after: Exception | None = None, times: int = 10**9) -> None:
        self.before, self.after, self.times = before, after, times
        self.calls = 0
        self.cancelled = 0
        self.gate: asyncio.Event | None = None

    async def run(self, request: Request, call: Call) -> Answer:
        assert isinstance(request, Ask)
        self.calls += 1
        failing = self.calls <= self.times
        if self.before and failing:
            raise self.before
        try:
            for word in request.text.split():
                await call.emit(Delta(word))
                await self._pause()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.after and failing:
            raise self.after
        return Answer(text=request.text)

    async def _pause(self) -> None:
        if self.gate:
            await self.gate.wait()


def listening() -> tuple[Call, list[Event]]:
    heard: list[Event] = []

    async def listen(event: Event) -> None:
        heard.append(event)

    return Call(listener=listen), heard


async def until(true: Callable[[], Any]) -> None:
    """Let the loop turn until something holds; the test's own time limit ends a vain wait."""
    while not true():  # noqa: ASYNC110 - the condition belongs to the code under test
        await asyncio.sleep(0)
