"""A model that works on one thing at a time: its own thread, the line before it, and an end at once for who has left.

For work of seconds to minutes that nobody may have to wait out: it looks at its `Turn` as it goes.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sensorium.errors import Overloaded, ServiceClosed
from sensorium.telemetry import TELEMETRY


class Left(Exception):
    """Nobody waits for the work any more."""


@dataclass(slots=True, eq=False)
class Turn:
    """A piece of work, and who waits for it."""

    work: Callable[[Turn], Any]
    loop: asyncio.AbstractEventLoop
    waiter: asyncio.Future[Any]
    ended: bool = False
    """Whether it is to end because the model is given back."""
    arrived: float = field(default_factory=time.perf_counter)

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more."""
        return self.ended or self.waiter.cancelled() or self.loop.is_closed()

    def check(self) -> None:
        """To be called often by the work, in whichever thread. Raises Left."""
        if self.gone:
            raise Left

    def tell(self, told: Callable[..., object], *said: Any) -> None:
        """Have something called in the waiter's own loop; a loop that has closed has no waiter left."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(told, *said)


class Turns:
    """Work of one model, one piece after the other, in the order in which it came.

    Closed by `close`; until then its thread keeps it alive.
    """

    def __init__(self, name: str, queue: int) -> None:
        """No more than `queue` pieces wait."""
        self._name, self._queue = name, queue
        self._waiting: deque[Turn] = deque()
        self._current: Turn | None = None
        self._change = threading.Condition()
        self._closed = False
        self._mean_seconds = 0.0
        self._thread = threading.Thread(target=self._serve, name=f"{name}-turns", daemon=True)
        self._queued = TELEMETRY.session_queue_seconds[name]
        self._ran = TELEMETRY.session_run_seconds[name]
        TELEMETRY.session_waiting[name].watch(self, lambda turns: len(turns._waiting))
        # Runtimes end badly when the interpreter goes away under a thread that is inside of them.
        atexit.register(self.close)

    def take(self, work: Callable[[Turn], Any]) -> asyncio.Future[Any]:
        """To be awaited: what `work` returns. Whoever cancels it has the work dropped, or ended at its next `check`.

        Raises Overloaded when the line is full, and ServiceClosed.
        """
        loop = asyncio.get_running_loop()
        turn = Turn(work, loop, loop.create_future())
        with self._change:
            if self._closed:
                raise self._closed_error()
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.gone)
            if len(self._waiting) >= self._queue:
                raise self._overloaded()
            self._waiting.append(turn)
            if not self._thread.is_alive():
                self._thread.start()
            self._change.notify()
        return turn.waiter

    def close(self) -> None:
        """Fail what waits, end what is under way, and give the thread back. May be called again."""
        with self._change:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            if self._current is not None:
                self._current.ended = True
            self._change.notify()
        for turn in waiting:
            self._fail(turn, self._closed_error())
        if self._thread.is_alive():
            self._thread.join()
        atexit.unregister(self.close)

    def _serve(self) -> None:
        while (turn := self._next()) is not None:
            start = time.perf_counter()
            try:
                self._work(turn)
            finally:
                seconds = time.perf_counter() - start
                self._queued.observe(start - turn.arrived)
                self._ran.observe(seconds)
                self._mean_seconds += (seconds - self._mean_seconds) * (0.1 if self._mean_seconds else 1.0)
            del turn  # its work may hold pictures

    def _next(self) -> Turn | None:
        """The next piece that somebody waits for; None when all is over."""
        with self._change:
            self._current = None
            while not self._closed:
                if not self._waiting:
                    self._change.wait()
                elif not (turn := self._waiting.popleft()).gone:
                    self._current = turn
                    return turn
            return None

    def _work(self, turn: Turn) -> None:
        try:
            answer = turn.work(turn)
        except Left:
            self._fail(turn, self._closed_error())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for whoever waits
            self._fail(turn, error)
        else:
            turn.tell(_settle, turn.waiter, answer)

    def _fail(self, turn: Turn, error: Exception) -> None:
        turn.tell(_fail, turn.waiter, error)

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"Model {self._name} has no room for another question",
            why=f"{len(self._waiting)} are waiting already",
            fix="Try again later, or name another model",
            retry_after_seconds=max(round(len(self._waiting) * self._mean_seconds, 1), 0.1),
        )

    def _closed_error(self) -> ServiceClosed:
        return ServiceClosed(f"Model {self._name} was closed")


def _settle(waiter: asyncio.Future[Any], answer: Any) -> None:
    if not waiter.done():
        waiter.set_result(answer)


def _fail(waiter: asyncio.Future[Any], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
