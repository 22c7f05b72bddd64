"""The end of a block that takes too long."""

from __future__ import annotations

import asyncio

import pytest

from sensorium.deadline import at_most, no_answer
from sensorium.errors import DeadlineExceeded


async def test_a_block_that_takes_too_long_ends_with_its_own_error() -> None:
    with pytest.raises(DeadlineExceeded), at_most(0.001, no_answer):
        await asyncio.Event().wait()
    await asyncio.sleep(0)  # and nothing of it is left to cancel what follows


async def test_a_timeout_inside_passes_as_it_is() -> None:
    with pytest.raises(TimeoutError), at_most(60, no_answer):
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()


async def test_who_else_cancels_is_heard_though_the_time_is_over_too() -> None:
    async def wait() -> None:
        with at_most(60, no_answer) as limit:
            limit._end()
            asyncio.current_task().cancel()  # type: ignore[union-attr] # a coroutine runs in a task
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(wait())


async def test_a_block_that_is_done_in_time_is_left_alone() -> None:
    with at_most(0.001, no_answer):
        pass
    await asyncio.sleep(0.005)
