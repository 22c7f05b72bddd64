"""Lets in who may, as much as can be worked on; a little more waits its turn, and the rest is sent away at once."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable

from sensorium.engine import Call, Caller, Engine
from sensorium.errors import Overloaded, RateLimited
from sensorium.schemas.base import Request, Result
from sensorium.stores.rates import MemoryRates, Rates
from sensorium.telemetry import TELEMETRY, Telemetry

Turn = tuple[int, int, asyncio.Future[None]]
"""Priority (lowest first), arrival, and what wakes the one who waits."""


def nowhere_else(request: Request) -> bool:  # noqa: ARG001 - says so of every request
    """Every request is worked on here."""
    return False


class Admission:
    """At most `running` requests at once and `waiting` in line; and apart from them, as many as `elsewhere` says of
    those whose answer is only awaited here, since another machine works on it.

    A caller without the task's scope is refused, and so is one whose requests for this minute are used up.
    Callers take turns, so that one who sends a thousand delays another by one request, not by a
    thousand; among the requests of one caller, priority and then arrival decide.
    """

    def __init__(
        self,
        inner: Engine[Request, Result],
        *,
        running: int,
        waiting: int,
        elsewhere: int = 0,
        is_elsewhere: Callable[[Request], bool] = nowhere_else,
        rates: Rates | None = None,
        telemetry: Telemetry = TELEMETRY,
    ) -> None:
        self._inner, self._rates, self._is_elsewhere = inner, rates or MemoryRates(), is_elsewhere
        self._here, self._elsewhere = _Room(running, waiting), _Room(elsewhere, waiting)
        self._waited = telemetry.admission_wait_seconds[()]
        telemetry.requests_in_progress[()].watch(self, lambda door: door._here.taken + door._elsewhere.taken)
        telemetry.admission_waiting[()].watch(self, lambda door: door._here.waiting + door._elsewhere.waiting)

    async def run(self, request: Request, call: Call) -> Result:
        await self.admit(request.task, call.caller)
        room = self._elsewhere if self._is_elsewhere(request) else self._here
        arrived = time.monotonic()
        await room.enter(call)
        start = time.monotonic()
        self._waited.observe(start - arrived)
        try:
            return await self._inner.run(request, call)
        finally:
            room.leave(time.monotonic() - start)

    async def admit(self, task: str, caller: Caller) -> None:
        """Count one request of the caller's. Raises Forbidden without the task's scope, and RateLimited."""
        caller.require(task)
        if caller.requests_per_minute is not None:
            await self._count(caller.name, caller.requests_per_minute)

    async def _count(self, name: str, per_minute: int) -> None:
        after = await self._rates.take(name, per_minute)
        if after > 0:
            raise RateLimited(
                f"{name} has used up its requests",
                why=f"{per_minute} a minute are allowed",
                fix=f"Try again in {after:.1f} s",
                retry_after_seconds=after,
            )

    def refuse_when_full(self) -> None:
        """Raises Overloaded while another request to be worked on here would find no place, neither at work nor in line."""
        self._here.refuse_when_full()


class _Room:
    """So many places, and the line before them."""

    def __init__(self, places: int, waiting: int) -> None:
        self._free, self._places, self._left, self._most = places, places, waiting, waiting
        self._lines: OrderedDict[str, list[Turn]] = OrderedDict()
        self._arrivals = itertools.count()
        self._seconds = 0.0  # how long a request takes, as a moving average

    @property
    def taken(self) -> int:
        return self._places - self._free

    @property
    def waiting(self) -> int:
        return self._most - self._left

    async def enter(self, call: Call) -> None:
        """Take a place. Raises Overloaded when the line is full."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(call)

    def leave(self, seconds: float) -> None:
        """Give the place back after so long."""
        self._seconds += 0.1 * (seconds - self._seconds)
        self._pass_on()

    async def _wait(self, call: Call) -> None:
        self.refuse_when_full()
        turn = (-call.options.priority, next(self._arrivals), asyncio.get_running_loop().create_future())
        heapq.heappush(self._lines.setdefault(call.caller.name, []), turn)
        self._left -= 1
        try:
            await turn[2]
        except asyncio.CancelledError:
            self._give_up(call.caller.name, turn)
            raise
        finally:
            self._left += 1

    def _give_up(self, caller: str, turn: Turn) -> None:
        line = self._lines.get(caller, [])
        if turn not in line:
            self._pass_on()  # called just as it was leaving: the place goes to the next
            return
        line.remove(turn)
        heapq.heapify(line)
        if not line:
            del self._lines[caller]

    def refuse_when_full(self) -> None:
        """Raises Overloaded while another request would find no place, neither at work nor in line."""
        if self._free or self._left > 0:
            return
        waiting = sum(map(len, self._lines.values()))
        after = max(0.1, round(self._seconds * waiting / self._places, 1))
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
