"""Worker threads and the budget of pixels."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from sensorium.errors import Overloaded
from sensorium.media import limits, pool
from sensorium.media.limits import Limits
from sensorium.media.pool import BUDGET, PixelBudget, in_thread
from sensorium.media.source import Source
from tests.pictures import jpeg


async def test_cancelling_the_waiter_starts_no_more_work_than_there_are_threads() -> None:
    running: list[int] = []
    most: list[int] = []
    go = threading.Event()

    def work() -> None:
        running.append(1)
        most.append(len(running))
        go.wait(10)
        running.pop()

    threads = max(2, pool.cores())
    waiters = [asyncio.ensure_future(in_thread(work)) for _ in range(threads)]
    while len(running) < threads:  # noqa: ASYNC110
        await asyncio.sleep(0)
    for waiter in waiters:
        waiter.cancel()
    later = asyncio.ensure_future(in_thread(work))
    await asyncio.sleep(0.05)
    assert len(running) == threads
    go.set()
    await later
    assert max(most) == threads


async def test_work_in_a_thread_keeps_to_the_limits_of_who_sent_it() -> None:
    with limits.use(Limits(max_bytes=7)):
        assert (await in_thread(limits.current)).max_bytes == 7
    assert (await in_thread(limits.current)).max_bytes == Limits().max_bytes


async def test_the_budget_serves_in_the_order_of_asking() -> None:
    budget = PixelBudget()
    held = budget.try_take(80, 100)
    assert held is not None
    served: list[int] = []

    async def ask(pixels: int) -> None:
        lease = await budget.take(pixels, 100, 5)
        served.append(pixels)
        lease.close()

    asked = [asyncio.create_task(ask(pixels)) for pixels in (90, 10, 20)]
    await asyncio.sleep(0)
    assert budget.try_take(1, 100) is None, "nobody overtakes those who wait"
    held.close()
    await asyncio.gather(*asked)
    assert served == [90, 10, 20]
    assert budget.used == 0


async def test_a_picture_larger_than_the_budget_is_let_in_alone() -> None:
    budget = PixelBudget()
    small = budget.try_take(10, 100)
    assert small is not None
    assert budget.try_take(1000, 100) is None
    small.close()
    assert budget.try_take(1000, 100) is not None


async def test_one_who_waits_too_long_is_told_to_come_again() -> None:
    budget = PixelBudget()
    held = budget.try_take(100, 100)
    with pytest.raises(Overloaded, match="pixel_budget"):
        await budget.take(50, 100, 0.01)
    assert held is not None
    held.close()
    assert budget.used == 0


async def test_a_waiter_that_is_cancelled_leaves_nothing_behind() -> None:
    budget = PixelBudget()
    held = budget.try_take(100, 100)
    assert held is not None
    waiter = asyncio.create_task(budget.take(50, 100, 5))
    await asyncio.sleep(0)
    held.close()  # granted, but cancelled before it hears of it
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    del waiter
    await asyncio.sleep(0)
    gc.collect()
    assert budget.used == 0


async def test_room_is_given_back_with_the_last_view_of_the_pixels() -> None:
    budget = PixelBudget()
    lease = budget.try_take(6, 100)
    assert lease is not None
    pixels = np.zeros((2, 3, 3), np.uint8)
    lease.until_gone(pixels)
    view = pixels[:1]
    del pixels, lease
    assert budget.used == 6
    del view
    assert budget.used == 0


def test_the_budget_counts_right_from_many_threads() -> None:
    budget = PixelBudget()

    def work() -> None:
        async def many() -> None:
            for _ in range(100):
                lease = budget.try_take(40, 100) or await budget.take(40, 100, 30)
                assert budget._used <= 100
                await asyncio.sleep(0)
                lease.close()

        asyncio.run(many())

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert budget.used == 0


async def test_pictures_alive_are_counted_and_further_ones_wait() -> None:
    gc.collect()
    before = BUDGET.used
    data = [jpeg(100, 100, seed) for seed in range(4)]
    with limits.use(Limits(pixel_budget=before + 25_000)):
        held = [await Source.of(data[0]).image(), await Source.of(data[1]).image()]
        assert BUDGET.used == before + 20_000
        third = asyncio.create_task(Source.of(data[2]).image(then=lambda image: image.width))
        await asyncio.sleep(0.05)
        assert not third.done()
        held.pop()
        assert await asyncio.wait_for(third, 30) == 100
        held.clear()
    await _becomes(before)


async def test_a_failed_decoding_gives_its_room_back() -> None:
    before = BUDGET.used
    for _ in range(3):
        with pytest.raises(Exception, match="cannot be decoded"):
            await Source.of(jpeg(100, 100)[:-900]).image()
    gc.collect()
    await _becomes(before)


async def _becomes(used: int) -> None:
    """A worker thread lets go of its last picture a moment after it has answered."""
    for _ in range(500):
        if BUDGET.used == used:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(BUDGET.used)


async def test_a_leader_cancelled_while_waiting_for_room_hands_over() -> None:
    before = BUDGET.used
    with limits.use(Limits(pixel_budget=before + 10_000)):
        held = await Source.of(jpeg(100, 100)).image()
        source = Source.of(jpeg(100, 100, 1))
        first, second = asyncio.create_task(source.image()), asyncio.create_task(source.image())
        start = time.monotonic()
        while not BUDGET._waiting and time.monotonic() < start + 5:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        del held
        assert (await asyncio.wait_for(second, 30)).width == 100
    del second, first


def test_work_sent_after_the_interpreter_has_begun_to_end_is_refused_and_never_hangs() -> None:
    script = """
import asyncio, atexit
from sensorium.media.pool import in_thread
async def zero():
    return await in_thread(int)
def late():
    try:
        asyncio.run(zero())
    except Exception as error:
        print(type(error).__name__)
atexit.register(late)
print(asyncio.run(zero()))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.split() == ["0", "ServiceClosed"]


async def test_what_work_raises_reaches_its_waiter() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await in_thread(int, "x")


async def test_work_whose_waiter_left_before_it_began_is_dropped() -> None:
    go, done = threading.Event(), list[int]()
    blocking = [asyncio.ensure_future(in_thread(go.wait, 10)) for _ in range(max(2, pool.cores()))]
    waiter = asyncio.ensure_future(in_thread(done.append, 1))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait([waiter])
    go.set()
    await asyncio.gather(*blocking)
    await in_thread(int)
    assert done == []
