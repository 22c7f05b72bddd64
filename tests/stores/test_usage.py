from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sensorium.engine import Budget
from sensorium.errors import BudgetSpent, Unavailable
from sensorium.schemas.base import Usage
from sensorium.stores.usage import KEPT_DAYS, WRITE_SECONDS, Amounts, Line, Spent, UsageBook, window
from sensorium.telemetry import Telemetry

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def book(tmp_path: Path, clock: Clock) -> AsyncIterator[UsageBook]:
    made = UsageBook(tmp_path / "usage.sqlite", clock, Telemetry())
    yield made
    await made.close()


def tokens(count: int, cost: float | None = None) -> Usage:
    return Usage(input_tokens=count, cost=cost)


async def test_what_is_noted_is_added_up_by_key_model_task_and_day(book: UsageBook, clock: Clock) -> None:
    book.note("shop", "gpt@1", "ask", Amounts(requests=1, input_tokens=10, cost=0.5))
    book.note("shop", "gpt@1", "ask", Amounts(requests=1, errors=1, cost=0.25))
    book.note("robot", "lite@1", "classify", Amounts(requests=1, pictures=1, seconds=0.5))
    clock.now += 86400
    book.note("shop", "lite@1", "classify", Amounts(pictures=2))
    assert await book.lines("key") == [
        Line("shop", Amounts(requests=2, errors=1, pictures=2, input_tokens=10, cost=0.75)),
        Line("robot", Amounts(requests=1, pictures=1, seconds=0.5)),
    ]
    assert [line.name for line in await book.lines("model")] == ["gpt@1", "lite@1"]
    assert [(line.name, line.amounts.pictures) for line in await book.lines("task")] == [("ask", 0), ("classify", 3)]
    assert [(line.name, line.amounts.requests) for line in await book.lines("day")] == [
        ("2026-11-30", 3),
        ("2026-12-01", 0),
    ]
    assert [line.name for line in await book.lines("day", since="2026-12-01")] == ["2026-12-01"]
    assert [line.name for line in await book.lines("model", key="robot")] == ["lite@1"]


async def test_noting_does_not_write_and_a_second_later_it_is_written(tmp_path: Path, clock: Clock) -> None:
    writing = UsageBook(tmp_path / "usage.sqlite", clock, Telemetry())
    for _ in range(1000):
        writing.note("shop", "lite@1", "classify", Amounts(requests=1))
    assert not (tmp_path / "usage.sqlite").exists()
    reading = UsageBook(tmp_path / "usage.sqlite", clock, Telemetry())
    async with asyncio.timeout(WRITE_SECONDS + 30):
        while not await reading.lines("key"):  # noqa: ASYNC110 - another process's file says nothing by itself
            await asyncio.sleep(0.05)
    assert await reading.lines("key") == [Line("shop", Amounts(requests=1000))]
    await writing.close()
    await reading.close()


async def test_closing_writes_what_is_left(tmp_path: Path, clock: Clock) -> None:
    first = UsageBook(tmp_path / "usage.sqlite", clock, Telemetry())
    first.note("shop", "lite@1", "classify", Amounts(requests=1))
    await first.close()
    second = UsageBook(tmp_path / "usage.sqlite", clock, Telemetry())
    assert await second.lines("key") == [Line("shop", Amounts(requests=1))]
    await second.close()


async def test_what_is_older_than_it_is_kept_goes(book: UsageBook, clock: Clock) -> None:
    book.note("shop", "lite@1", "classify", Amounts(requests=1))
    await book.lines("key")
    clock.now += (KEPT_DAYS + 1) * 86400
    book.note("shop", "lite@1", "classify", Amounts(requests=1))
    assert await book.lines("key") == [Line("shop", Amounts(requests=1))]


async def test_a_burst_cannot_overrun_a_budget(book: UsageBook) -> None:
    budget, let_in, go = Budget("day", tokens=1000), 0, asyncio.Event()

    async def one() -> None:
        nonlocal let_in
        async with book.holding("shop", budget, tokens(100)):
            let_in += 1
            await go.wait()

    burst = [asyncio.create_task(one()) for _ in range(50)]
    await asyncio.wait(burst, return_when=asyncio.FIRST_EXCEPTION)
    go.set()
    outcomes = await asyncio.gather(*burst, return_exceptions=True)
    assert let_in == 10
    assert sum(isinstance(outcome, BudgetSpent) for outcome in outcomes) == 40


async def test_room_that_was_not_used_is_given_back_and_what_was_used_counts(book: UsageBook) -> None:
    budget = Budget("day", usd=1.0)
    async with book.holding("shop", budget, tokens(10, cost=0.9)):
        with pytest.raises(BudgetSpent):
            async with book.holding("shop", budget, tokens(10, cost=0.2)):
                pass
        async with book.holding("another", budget, tokens(10, cost=0.9)):
            pass
        book.note("shop", "gpt@1", "ask", Amounts(cost=0.3))
    assert await book.spent("shop", budget) == Spent(0, 0.3)
    async with book.holding("shop", budget, tokens(10, cost=0.7)):
        pass
    with pytest.raises(BudgetSpent):
        async with book.holding("shop", budget, tokens(10, cost=0.71)):
            pass


@pytest.mark.parametrize(
    ("per", "over"),
    [("day", datetime(2026, 12, 1, tzinfo=UTC)), ("month", datetime(2027, 1, 1, tzinfo=UTC))],
    ids=["day", "month"],
)
async def test_a_spent_budget_says_when_it_is_full_again_and_then_is(
    book: UsageBook, clock: Clock, per: str, over: datetime
) -> None:
    clock.now = NOON if per == "day" else datetime(2026, 12, 1, 0, 0, 1, tzinfo=UTC).timestamp()
    budget = Budget("day" if per == "day" else "month", tokens=100)
    book.note("shop", "gpt@1", "ask", Amounts(input_tokens=60, output_tokens=40))
    with pytest.raises(BudgetSpent, match=f"100 tokens a {per} are allowed, 100 are used") as raised:
        async with book.holding("shop", budget, tokens(1)):
            pass
    clock.now += raised.value.retry_after_seconds
    assert clock.now == over.timestamp() == window(budget, clock.now - 1)[1]
    async with book.holding("shop", budget, tokens(1)):
        pass


async def test_what_costs_nothing_has_room_in_any_budget(book: UsageBook) -> None:
    book.note("shop", "gpt@1", "ask", Amounts(input_tokens=60, cost=9.0))
    async with book.holding("shop", Budget("day", usd=1.0), tokens(5, cost=0.0)):
        pass


async def test_a_process_that_was_killed_holds_its_room_for_a_while_only(tmp_path: Path, clock: Clock) -> None:
    budget = Budget("day", tokens=100)
    killed, living = (UsageBook(tmp_path / "usage.sqlite", clock, Telemetry()) for _ in range(2))
    async with AsyncExitStack() as held:
        await held.enter_async_context(killed.holding("shop", budget, tokens(100), seconds=30))
        with pytest.raises(BudgetSpent):
            async with living.holding("shop", budget, tokens(1)):
                pass
        clock.now += 91
        async with living.holding("shop", budget, tokens(100)):
            pass
    await killed.close()
    await living.close()


async def test_who_leaves_while_waiting_for_room_holds_none(book: UsageBook) -> None:
    budget = Budget("day", tokens=100)

    async def hold() -> None:
        async with book.holding("shop", budget, tokens(100)):
            await asyncio.Event().wait()

    for turns in (0, 1, 2, 5):
        leaving = asyncio.create_task(hold())
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        async with asyncio.timeout(30), book.holding("shop", budget, tokens(100)):
            pass


SPENDER = """
import asyncio, sys
from pathlib import Path
from sensorium.engine import Budget
from sensorium.errors import BudgetSpent
from sensorium.schemas.base import Usage
from sensorium.stores.usage import Amounts, UsageBook

async def main():
    book, spent = UsageBook(Path(sys.argv[1])), 0

    async def one():
        nonlocal spent
        try:
            async with book.holding("shop", Budget("month", tokens=1000), Usage(input_tokens=10)):
                book.note("shop", "gpt@1", "ask", Amounts(requests=1, input_tokens=10))
                spent += 10
        except BudgetSpent:
            pass

    for _ in range(20):
        await asyncio.gather(*(one() for _ in range(10)))
    await book.close()
    print(spent)

asyncio.run(main())
"""


async def test_processes_that_spend_one_budget_at_once_spend_exactly_that(tmp_path: Path) -> None:
    path = tmp_path / "usage.sqlite"
    command = [sys.executable, "-c", SPENDER, str(path)]
    spenders = [await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE) for _ in range(3)]
    spent = [int((await spender.communicate())[0]) for spender in spenders]
    book = UsageBook(path)
    (line,) = await book.lines("key")
    await book.close()
    assert sum(spent) == line.amounts.input_tokens == 1000
    assert line.amounts.requests == 100


async def test_without_the_file_numbers_wait_budgets_are_refused_and_both_recover(tmp_path: Path) -> None:
    telemetry, taken = Telemetry(), tmp_path / "data"
    taken.write_text("a file where a folder is needed", encoding="utf-8")
    book = UsageBook(taken / "usage.sqlite", Clock(), telemetry)
    book.note("shop", "lite@1", "classify", Amounts(requests=1))
    with pytest.raises(Unavailable, match="budget cannot be read"):
        async with book.holding("shop", Budget("day", tokens=100), tokens(1)):
            pass
    assert telemetry.usage_errors[()].value >= 1
    book.note("shop", "lite@1", "classify", Amounts(requests=1))
    taken.unlink()
    async with book.holding("shop", Budget("day", tokens=100), tokens(1)):
        pass
    assert await book.lines("key") == [Line("shop", Amounts(requests=2))]
    await book.close()


async def test_a_number_that_no_file_can_hold_fails_alone(book: UsageBook) -> None:
    free = Budget("day", usd=1.0)
    book.note("shop", "lite@1", "classify", Amounts(requests=1))
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable):
            async with book.holding("shop", free, tokens(10**30)):
                pass
        async with book.holding("shop", free, tokens(1)):
            pass
    assert await book.lines("key") == [Line("shop", Amounts(requests=1))]


async def test_a_damaged_file_is_told_without_its_place(tmp_path: Path) -> None:
    (tmp_path / "usage.sqlite").write_bytes(b"no database" * 100)
    book = UsageBook(tmp_path / "usage.sqlite", Clock(), Telemetry())
    with pytest.raises(Unavailable) as raised:
        await book.lines("key")
    assert str(tmp_path) not in json.dumps(raised.value.as_dict())
    await book.close()


async def test_memory_is_bounded_while_the_file_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, book: UsageBook
) -> None:
    monkeypatch.setattr("sensorium.stores.usage.MOST_PLACES", 3)
    for name in "abcde":
        book.note(name, "lite@1", "classify", Amounts(requests=1))
    assert {line.name: line.amounts.requests for line in await book.lines("key")} == {"a": 1, "b": 1, "c": 1, "": 2}
