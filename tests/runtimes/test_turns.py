"""One thing at a time, in order, and no longer than somebody waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from sensorium.errors import Overloaded, ServiceClosed
from sensorium.runtimes.turns import Left, Turn, Turns


@pytest.fixture
def turns() -> Iterator[Turns]:
    made = Turns("speaker@1", queue=2)
    yield made
    made.close()


class Work:
    """Work that goes on until it is let go or nobody waits."""

    def __init__(self) -> None:
        self.begun, self.ended, self.let_go = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, turn: Turn) -> str:
        self.begun.set()
        try:
            while not self.let_go.wait(0.001):
                turn.check()
        finally:
            self.ended.set()
        return "done"

    async def has_begun(self) -> None:
        await asyncio.to_thread(self.begun.wait, 5)


async def test_work_is_done_one_after_the_other_in_order(turns: Turns) -> None:
    first, order = Work(), list[int]()
    waiting = [turns.take(first)]
    await first.has_begun()
    waiting += [turns.take(lambda _: order.append(1)), turns.take(lambda _: order.append(2))]
    assert not order
    first.let_go.set()
    assert (await asyncio.gather(*waiting))[0] == "done"
    assert order == [1, 2]


async def test_a_full_line_refuses_and_says_for_how_long(turns: Turns) -> None:
    first = Work()
    under_way = turns.take(first)
    await first.has_begun()
    waiting = [turns.take(lambda _: None) for _ in range(2)]
    with pytest.raises(Overloaded, match="2 are waiting already") as caught:
        turns.take(lambda _: None)
    assert caught.value.retry_after_seconds > 0
    waiting[0].cancel()
    another = turns.take(lambda _: "another")
    first.let_go.set()
    assert await another == "another"
    await under_way


async def test_who_leaves_ends_the_work_and_whoever_waits_is_next(turns: Turns) -> None:
    first = Work()
    left, after = turns.take(first), turns.take(lambda _: "next")
    await first.has_begun()
    left.cancel()
    assert await after == "next"
    assert first.ended.is_set()
    assert not first.let_go.is_set()


async def test_work_that_nobody_waits_for_is_not_begun(turns: Turns) -> None:
    first, never = Work(), Work()
    under_way, left = turns.take(first), turns.take(never)
    await first.has_begun()
    left.cancel()
    first.let_go.set()
    await under_way
    await turns.take(lambda _: None)
    assert not never.begun.is_set()


async def test_a_failure_is_told_to_who_asked_and_the_next_is_served(turns: Turns) -> None:
    def fail(_: Turn) -> None:
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        await turns.take(fail)
    assert await turns.take(lambda _: 5) == 5


async def test_words_are_told_in_the_waiters_own_loop_before_the_answer(turns: Turns) -> None:
    told: list[tuple[str, int]] = []

    def work(turn: Turn) -> str:
        turn.tell(lambda said: told.append((said, threading.get_ident())), "word")
        return "answer"

    assert await turns.take(work) == "answer"
    assert told == [("word", threading.get_ident())]


async def test_closing_ends_what_is_under_way_and_fails_what_waits() -> None:
    turns, first = Turns("speaker@1", queue=2), Work()
    asked = [turns.take(first), turns.take(lambda _: None)]
    await first.has_begun()
    await asyncio.to_thread(turns.close)
    assert [type(told) for told in await asyncio.gather(*asked, return_exceptions=True)] == [ServiceClosed] * 2
    assert not [thread for thread in threading.enumerate() if "speaker@1" in thread.name]
    with pytest.raises(ServiceClosed):
        turns.take(lambda _: None)
    turns.close()


def test_a_loop_that_is_gone_ends_its_work(turns: Turns) -> None:
    first = Work()

    async def ask() -> None:
        turns.take(first)
        await first.has_begun()

    asyncio.run(ask())
    assert first.ended.wait(5)


def test_what_is_checked_after_the_waiter_left_ends() -> None:
    loop = asyncio.new_event_loop()
    turn = Turn(lambda _: None, loop, loop.create_future())
    turn.check()
    turn.waiter.cancel()
    with pytest.raises(Left):
        turn.check()
    loop.close()
