"""The process's worker threads, and its budget of pixels: what bounds the work on pictures."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

from sensorium.errors import Overloaded, ServiceClosed
from sensorium.telemetry import TELEMETRY

T = TypeVar("T")


def in_thread(work: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    """To be awaited: what `work(*args)` returns, worked out in one of the process's worker threads, one a core.

    The thread is free again when the work ends, not when the waiter goes: work that has begun runs to its end though
    nobody waits, work that has not is dropped. Context variables, and so the limits, are the caller's.
    """
    loop = asyncio.get_running_loop()
    errand = _Errand(work, args, loop, loop.create_future())
    _workers().queue.put(errand)
    return errand.waiter


def abandoned() -> list[float]:
    """When threads began, on the monotonic clock, what they work on though nobody waits for it any more."""
    under_way = _crew.under_way.copy() if _crew else {}
    return [began for errand, began in under_way.items() if errand.waiter.done()]


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(slots=True, eq=False)
class _Errand:
    """Work for a thread, and who waits for it."""

    work: Callable[..., Any]
    args: tuple[Any, ...]
    loop: asyncio.AbstractEventLoop
    waiter: asyncio.Future[Any]
    context: Context = field(default_factory=copy_context)
    result: Any = None
    error: BaseException | None = None

    def run(self) -> None:
        """In a worker thread."""
        if self.waiter.cancelled():
            return
        try:
            self.result = self.context.run(self.work, *self.args)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the waiter gets it
            self.error = error
        with suppress(RuntimeError):  # the waiter's loop is closed
            self.loop.call_soon_threadsafe(self.deliver)

    def deliver(self) -> None:
        """In the waiter's loop."""
        if self.waiter.done():
            return
        if self.error is None:
            self.waiter.set_result(self.result)
        else:
            self.waiter.set_exception(self.error)


class _Workers:
    """Threads that serve one queue.

    Not a ThreadPoolExecutor: its futures, with a lock and a condition for each, their copying into asyncio's futures
    and the turns of the loop between took 0.1 ms of a picture's 15 (measured).
    """

    def __init__(self) -> None:
        self.queue: SimpleQueue[_Errand | None] = SimpleQueue()
        self.under_way: dict[_Errand, float] = {}
        # At least two, so that a slow disk does not stop the decoding of what is already here.
        names = [f"sensorium-media_{number}" for number in range(max(2, cores()))]
        self._threads = [threading.Thread(target=self._serve, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Let what is queued end, and the threads with it."""
        for _ in self._threads:
            self.queue.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (errand := self.queue.get()) is not None:
            self.under_way[errand] = time.monotonic()
            errand.run()
            del self.under_way[errand]
            del errand  # with it pixels may go


_crew: _Workers | None = None
_crew_lock = threading.Lock()
_ended = False


def _workers() -> _Workers:
    return _crew or _hired()


def _hired() -> _Workers:
    global _crew
    with _crew_lock:
        if _ended:
            raise ServiceClosed("The interpreter is ending")
        if _crew is None:
            _crew = _Workers()
        return _crew


def _dismiss() -> None:
    global _crew, _ended
    with _crew_lock:
        crew, _crew, _ended = _crew, None, True
    if crew is not None:
        crew.close()


# As concurrent.futures does: work under way ends before the interpreter takes its modules apart. The verbs' own comes
# later and so runs earlier, when there must still be threads.
threading._register_atexit(_dismiss)  # type: ignore[attr-defined]


class Lease:
    """Room for some pixels, given back when `close` is called or nothing refers to it any more."""

    __slots__ = ("_budget", "_gone", "_pixels")

    def __init__(self, budget: PixelBudget, pixels: int) -> None:
        self._budget, self._pixels = budget, pixels

    def close(self) -> None:
        pixels, self._pixels = self._pixels, 0
        if pixels:
            self._budget._give_back(pixels)

    def until_gone(self, pixels: Any) -> None:
        """Keep the room until the array is gone, with every view of it."""
        self._gone = weakref.ref(pixels, self._end)
        self._budget.held.add(self)

    def _end(self, gone: object) -> None:  # noqa: ARG002 - a weak reference's callback
        self._budget.held.discard(self)
        self.close()

    __del__ = close


class PixelBudget:
    """How many pixels are alive or being decoded. First come, first served, from any thread and any loop.

    A picture larger than the whole budget is let in when no other is.
    """

    def __init__(self) -> None:
        self.held: set[Lease] = set()
        """Those that live as long as an array does."""
        self._lock = threading.Lock()
        self._used = 0
        self._returned: deque[int] = deque()
        self._waiting: deque[_Waiter] = deque()

    @property
    def used(self) -> int:
        """Pixels that are accounted for now."""
        self._settle()
        return self._used

    def try_take(self, pixels: int, capacity: int) -> Lease | None:
        """Room for so many pixels if there is some now and nobody waits; else None."""
        self._settle()
        with self._lock:
            lease = self._admit(pixels, capacity) if not self._waiting else None
        self._settle()
        return lease

    async def take(self, pixels: int, capacity: int, seconds: float) -> Lease:
        """Room for so many pixels, as soon as there is some.

        Raises Overloaded after so many seconds: one who holds a picture while waiting for another could wait for ever.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(pixels, capacity, loop, loop.create_future())
        with self._lock:
            self._waiting.append(waiter)
            self._wake()
        self._settle()
        try:
            async with asyncio.timeout(seconds):
                return await waiter.future
        except TimeoutError as error:
            raise Overloaded(
                "Too many pixels are being worked on",
                why=f"{self._used:,} are alive of {capacity:,} allowed (`pixel_budget`)",
                fix="Send less at once, or try again later.",
            ) from error
        finally:
            self._leave(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._wake()
        self._settle()

    def _admit(self, pixels: int, capacity: int) -> Lease | None:
        if self._used and self._used + pixels > capacity:
            return None
        self._used += pixels
        return Lease(self, pixels)

    def _wake(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            lease = self._admit(first.pixels, first.capacity)
            if lease is None:
                return
            self._waiting.popleft()
            first.grant(lease)

    def _give_back(self, pixels: int) -> None:
        self._returned.append(pixels)
        self._settle()

    def _settle(self) -> None:
        # A picture may die anywhere, also in a collection of garbage while this thread holds the lock: so it never
        # waits for the lock. What cannot be booked now is booked by the holder, who comes here after letting go.
        while self._returned and self._lock.acquire(blocking=False):
            try:
                while self._returned:
                    self._used -= self._returned.popleft()
                self._wake()
            finally:
                self._lock.release()


class _Waiter:
    def __init__(
        self, pixels: int, capacity: int, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Lease]
    ) -> None:
        self.pixels, self.capacity, self.loop, self.future = pixels, capacity, loop, future

    def grant(self, lease: Lease) -> None:
        try:
            self.loop.call_soon_threadsafe(self._hand_over, lease)
        except RuntimeError:  # the waiter's loop is closed; the lease goes back as nobody holds it
            return

    def _hand_over(self, lease: Lease) -> None:
        if not self.future.done():
            self.future.set_result(lease)


BUDGET = PixelBudget()
"""The process's own."""
TELEMETRY.pixels[()].watch(BUDGET, lambda budget: budget.used)


def _start_afresh() -> None:
    """A forked child has neither its parent's threads nor its waiters."""
    global _crew, _crew_lock
    _crew, _crew_lock = None, threading.Lock()
    BUDGET.__init__()  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
