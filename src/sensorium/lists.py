"""Lists: an outcome for each request, in order, with a bounded number of them under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any

from sensorium.errors import SensoriumError
from sensorium.schemas.base import Request, Result

Outcome = Result | SensoriumError
Run = Callable[[Request], Awaitable[Any]]
_Place = tuple[Request, "asyncio.Future[Outcome]"]
"""A request of a list, and where its outcome goes."""


async def in_order(requests: Iterable[Request], run: Run, at_once: int) -> AsyncGenerator[Outcome, None]:
    """The outcome of each request, in order, as soon as it is there. Takes requests no faster than it works.

    Leaving early cancels what is under way.
    """
    queue: asyncio.Queue[_Place] = asyncio.Queue()
    ahead: deque[asyncio.Future[Outcome]] = deque()
    hands: list[asyncio.Task[None]] = []
    try:
        for request in requests:
            ahead.append(asyncio.get_running_loop().create_future())
            queue.put_nowait((request, ahead[-1]))
            if len(hands) < at_once:
                hands.append(asyncio.create_task(_serve(queue, run)))
            # So many that all are kept busy although answers leave in order.
            if len(ahead) >= 2 * at_once:
                yield await ahead.popleft()
        while ahead:
            yield await ahead.popleft()
    finally:
        for hand in hands:
            hand.cancel()
        await asyncio.gather(*hands, return_exceptions=True)


async def _serve(queue: asyncio.Queue[_Place], run: Run) -> None:
    """Work on one request of a list after the other: a task for each would cost the loop more turns."""
    while True:
        request, place = await queue.get()
        try:
            told: Outcome | Exception = await run(request)
        except Exception as mistake:  # noqa: BLE001 - a failure is an outcome, and a mistake of ours goes to who asked
            told = mistake
        if place.done():  # nobody asks any more
            continue
        if isinstance(told, SensoriumError | Result):
            place.set_result(told)
        else:
            place.set_exception(told)
