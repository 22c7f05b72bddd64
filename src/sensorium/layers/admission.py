"""Lets in as much as can be worked on; a little more waits its turn, and the rest is sent away at once."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import OrderedDict

from sensorium.engine import Call, Engine
from sensorium.errors import Overloaded
from sensorium.schemas.base import Request, Result

Turn = tuple[int, int, asyncio.Future[None]]
"""Priority (lowest first), arrival, and what wakes the one who waits."""


class Admission:
    """At most `running` requests at once and `waiting` in line.

    Callers take turns, so that one who sends a thousand delays another by one request, not by a
    thousand; among the requests of one caller, priority and then arrival decide.
    """

    def __init__(self, inner: Engine[Request, Result], *, running: int, waiting: int) -> None:
        self._inner = inner
        self._free, self._running, self._room = running, running, waiting
        self._lines: OrderedDict[str, list[Turn]] = OrderedDict()
        self._arrivals = itertools.count()
        self._seconds = 0.0  # how long a request takes, as a moving average

    async def run(self, request: Request, call: Call) -> Result:
        if self._free:
            self._free -= 1
        else:
            await self._wait(call)
        start = time.monotonic()
        try:
            return await self._inner.run(request, call)
        finally:
            self._seconds += 0.1 * (time.monotonic() - start - self._seconds)
            self._pass_on()

    async def _wait(self, call: Call) -> None:
        self._refuse_when_full()
        turn = (-call.options.priority, next(self._arrivals), asyncio.get_running_loop().create_future())
        heapq.heappush(self._lines.setdefault(call.caller, []), turn)
        self._room -= 1
        try:
            await turn[2]
        except asyncio.CancelledError:
            self._leave(call.caller, turn)
            raise
        finally:
            self._room += 1

    def _leave(self, caller: str, turn: Turn) -> None:
        line = self._lines.get(caller, [])
        if turn not in line:
            self._pass_on()  # called just as it was leaving: the place goes to the next
            return
        line.remove(turn)
        heapq.heapify(line)
        if not line:
            del self._lines[caller]

    def _refuse_when_full(self) -> None:
        if self._room > 0:
            return
        waiting = sum(map(len, self._lines.values()))
        after = max(0.1, round(self._seconds * waiting / self._running, 1))
        raise Overloaded(
            "Too many requests are waiting",
            why=f"{waiting} wait already",
            fix=f"Try again in {after:g} s",
            retry_after_seconds=after,
        )

    def _pass_on(self) -> None:
        """Give a place that became free to the next in line, or keep it."""
        while self._lines:
            caller, line = self._lines.popitem(last=False)
            *_, waiter = heapq.heappop(line)
            if line:
                self._lines[caller] = line  # to the back: the others come first
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
