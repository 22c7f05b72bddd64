"""The process's worker threads, and its budget of pixels: what bounds the work on pictures."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from sensorium.errors import Overloaded

T = TypeVar("T")

_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """What `work(*args)` returns, worked out in one of the process's worker threads, one a core.

    The thread is free again when the work ends, not when the waiter goes: work that has begun runs to its end though
    nobody waits, work that has not is dropped. Context variables, and so the limits, are the caller's.
    """
    return await asyncio.get_running_loop().run_in_executor(_threads(), copy_context().run, work, *args)


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        with _pool_lock:
            if _pool is None:
                # At least two, so that a slow disk does not stop the decoding of what is already here.
                _pool = ThreadPoolExecutor(max(2, cores()), thread_name_prefix="sensorium-media")
    return _pool


class Lease:
    """Room for some pixels, given back when `close` is called or nothing refers to it any more."""

    __slots__ = ("_budget", "_pixels")

    def __init__(self, budget: PixelBudget, pixels: int) -> None:
        self._budget, self._pixels = budget, pixels

    def close(self) -> None:
        pixels, self._pixels = self._pixels, 0
        if pixels:
            self._budget._give_back(pixels)

    def until_gone(self, pixels: Any) -> None:
        """Keep the room until the array is gone, with every view of it."""
        weakref.finalize(pixels, self.close).atexit = False

    __del__ = close


class PixelBudget:
    """How many pixels are alive or being decoded. First come, first served, from any thread and any loop.

    A picture larger than the whole budget is let in when no other is.
    """

    def __init__(self) -> None:
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


def _start_afresh() -> None:
    """A forked child has neither its parent's threads nor its waiters."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()
    BUDGET.__init__()  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
