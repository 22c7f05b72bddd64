from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sensorium.errors import ReaderStalled
from sensorium.listening import Stream
from sensorium.schemas.events import Delta, Event

Listener = Callable[[Event], Awaitable[None]]


@pytest.mark.parametrize("full", [False, True], ids=["with room", "just as room is made"])
async def test_work_that_is_cancelled_while_it_tells_says_nothing_more(full: bool) -> None:
    said: list[str] = []

    async def talk(listener: Listener) -> Any:
        asyncio.get_running_loop().call_soon(stream._work.cancel)
        for word in ("one", "two", "three"):
            said.append(word)
            await listener(Delta(word))
            await asyncio.sleep(0)

    stream = Stream(talk, buffer=1 if full else 64)
    if full:
        stream._events.put_nowait(Delta("zero"))
        asyncio.get_running_loop().call_soon(stream._events.get_nowait)
    await asyncio.wait([stream._work])
    assert stream._work.cancelled()
    assert said == ["one"]


async def test_a_reader_that_stops_reading_is_dropped() -> None:
    async def talk(listener: Listener) -> Any:
        for _ in range(3):
            await listener(Delta("more"))

    stream = Stream(talk, buffer=1, patience=0.01)
    with pytest.raises(ReaderStalled, match="1 events stood unread"):
        await stream._work
