"""A stand-in for any engine: answers every task at once, and streams, stalls and fails on demand.

It reads the pictures that it is given, so that a bad one fails here as it would elsewhere. What
else it does stands on its card, under `quirks`:

    words = ["a", "cat"]     said one by one before the answer
    times = 3                how often it says them all over
    seconds = 0.1            how long it works before each word, and before the answer
    fail = "overloaded"      the code of the error that it raises in place of the answer
    fail_times = 2           how often it fails before it recovers; without it, always
    deadly_width = 13        the width of pictures that end the whole process at once, as a crash in a decoder does
"""

from __future__ import annotations

import asyncio
import json
import os

from pydantic import Field

from sensorium.engine import Call, Card, Delta, Host
from sensorium.errors import EngineFailed, SensoriumError, every_error
from sensorium.schemas.ask import Answer, AskRequest
from sensorium.schemas.base import Frozen, ImageInfo, Meta, Request, Result
from sensorium.schemas.examples import example_for, example_of

REQUIRES: tuple[str, ...] = ()

CARDS = (
    Card(
        name="fake",
        kind="fake",
        tasks=("*",),
        licence="Apache-2.0",
        origin="sensorium: examples in place of answers, for trying things out and for tests",
    ),
)


class Quirks(Frozen):
    """What a fake does beside answering."""

    words: tuple[str, ...] = ()
    times: int = Field(default=1, ge=1)
    seconds: float = Field(default=0.0, ge=0)
    fail: str | None = None
    fail_times: int | None = Field(default=None, ge=1)
    deadly_width: int | None = Field(default=None, ge=1)


class Engine:
    """Answers with the example of the task's result."""

    def __init__(self, card: Card, host: Host) -> None:  # noqa: ARG002 - every kind is made alike
        self._card = card
        self._quirks = Quirks()
        self._calls = 0

    def load(self) -> None:
        self._quirks = self._card.quirks_as(Quirks)

    def close(self) -> None:
        self._calls = 0

    async def run(self, request: Request, call: Call) -> Result:
        self._calls += 1
        seen = [await source.image() for source in request.sources()]
        if any(image.width == self._quirks.deadly_width for image in seen):
            os._exit(70)
        words = self._quirks.words * self._quirks.times
        for word in words:
            await asyncio.sleep(self._quirks.seconds)
            await call.emit(Delta(word))
        await asyncio.sleep(self._quirks.seconds)
        self._fail_on_demand()
        if isinstance(request, AskRequest) and request.json_schema is not None and not words:
            return Answer(text=json.dumps(example_for(request.json_schema)), answered_by=self._card.id)
        return _example(request, ImageInfo.of(seen[0]) if seen else None, "".join(words))

    def _fail_on_demand(self) -> None:
        times = self._quirks.fail_times
        if self._quirks.fail and (times is None or self._calls <= times):
            raise _error(self._quirks.fail)(f"Model {self._card.id} fails", why="its card tells it to")


def _error(code: str) -> type[SensoriumError]:
    return next((kind for kind in every_error() if kind.code == code), EngineFailed)


def _example(request: Request, image: ImageInfo | None, said: str) -> Result:
    answer = example_of(request.answer)
    known = {
        name: value for name, value in (("image", image), ("text", said)) if value and name in type(answer).model_fields
    }
    return answer.model_copy(update={"meta": Meta(), **known})
