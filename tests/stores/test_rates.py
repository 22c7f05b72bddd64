"""Both ways to count keep the same promises."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.stores import rates
from sensorium.stores.rates import MemoryRates, Rates, SqliteRates, taken
from tests.stores.test_stores import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
async def counted(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Rates]:
    made: Rates = (
        MemoryRates(clock) if request.param == "memory" else SqliteRates(tmp_path / "rates.sqlite", clock=clock)
    )
    yield made
    await made.close()


async def test_a_minutes_requests_may_come_at_once_and_the_next_must_wait_its_share(
    counted: Rates, clock: Clock
) -> None:
    assert [await counted.take("shop", 6) for _ in range(6)] == [0] * 6
    assert await counted.take("shop", 6) == pytest.approx(10)
    clock.now += 4
    assert await counted.take("shop", 6) == pytest.approx(6)
    clock.now += 6
    assert await counted.take("shop", 6) == 0
    assert await counted.take("shop", 6) == pytest.approx(10)


async def test_how_a_caller_stands_is_told_and_takes_nothing(counted: Rates, clock: Clock) -> None:
    assert tuple(await counted.standing("shop", 6)) == pytest.approx((6, 6, 0))
    for left in (5, 4, 3, 2, 1, 0):
        await counted.take("shop", 6)
        assert tuple(await counted.standing("shop", 6)) == pytest.approx((6, left, 60 - 10 * left))
    await counted.take("shop", 6)
    assert tuple(await counted.standing("shop", 6)) == pytest.approx((6, 0, 60))
    clock.now += 15
    assert tuple(await counted.standing("shop", 6)) == pytest.approx((6, 1, 45))
    clock.now += 45
    assert tuple(await counted.standing("shop", 6)) == pytest.approx((6, 6, 0))
    assert (await counted.standing("another", 7)).left == 7


async def test_waiting_as_long_as_was_told_is_enough(counted: Rates, clock: Clock) -> None:
    for per_minute in (1, 7, 600):
        while not (after := await counted.take(f"{per_minute}", per_minute)):
            pass
        clock.now += after
        assert await counted.take(f"{per_minute}", per_minute) == 0


async def test_one_who_is_refused_pays_nothing_and_others_are_not_touched(counted: Rates, clock: Clock) -> None:
    assert await counted.take("shop", 1) == 0
    for _ in range(5):
        assert await counted.take("shop", 1) == pytest.approx(60)
    assert await counted.take("another", 1) == 0


async def test_a_clock_that_was_set_back_locks_nobody_out_for_more_than_a_minute(counted: Rates, clock: Clock) -> None:
    await counted.take("shop", 1)
    clock.now -= 86400
    assert await counted.take("shop", 1) <= 60


async def test_names_that_are_not_seen_again_are_forgotten(clock: Clock) -> None:
    counted = MemoryRates(clock)
    for n in range(rates.MOST_NAMES):
        await counted.take(f"{n}", 60)
    clock.now += 61
    await counted.take("last", 60)
    assert list(counted._paid) == ["last"]


@given(
    per_minute=st.integers(1, 10_000),
    gaps=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=200),
)
def test_never_more_than_the_bucket_holds_and_what_flowed_in(per_minute: int, gaps: list[float]) -> None:
    now, paid, allowed = 0.0, 0.0, 0
    for gap in gaps:
        now += gap
        paid, after = taken(paid, now, per_minute)
        allowed += not after
    assert allowed <= per_minute * (1 + now / 60) + 1e-3


SPENDER = """
import asyncio, sys
from pathlib import Path
from sensorium.stores.rates import SqliteRates

async def spend():
    rates = SqliteRates(Path(sys.argv[1]))
    await rates.take("another", 1)
    print("ready", flush=True)
    sys.stdin.readline()
    print(sum([not await rates.take("shop", 1000) for _ in range(800)]))
    await rates.close()

asyncio.run(spend())
"""


def test_two_processes_share_a_rate(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SPENDER, str(tmp_path / "rates.sqlite")]
    start = time.time()
    both = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    got = sum(int(process.communicate("go\n", timeout=30)[0]) for process in both)
    flowed_in = 1000 / 60 * (time.time() - start)
    assert 1000 <= got <= 1000 + flowed_in + 1


async def test_where_the_file_fails_each_process_counts_alone(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder is needed", encoding="utf-8")
    counted = SqliteRates(tmp_path / "taken" / "rates.sqlite")
    assert await counted.take("shop", 1) == 0
    assert await counted.take("shop", 1) > 0
    await counted.close()


async def test_many_at_once_get_no_more_than_there_are(tmp_path: Path, clock: Clock) -> None:
    stores = [SqliteRates(tmp_path / "rates.sqlite", clock) for _ in range(4)]
    waits = await asyncio.gather(*(store.take("shop", 10) for _ in range(10) for store in stores))
    assert waits.count(0) == 10
    await asyncio.gather(*(store.close() for store in stores))


async def test_nobody_counts_between_anothers_look_and_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (SqliteRates(tmp_path / "rates.sqlite") for _ in range(2))
    waits: list[float] = []
    interloper = threading.Thread(target=lambda: waits.append(asyncio.run(other.take("shop", 1))))

    def taken_slowly(*how: Any) -> tuple[float, float]:
        if not interloper.ident:
            interloper.start()
            interloper.join(0.2)  # it must still wait when this is over
        return taken(*how)

    monkeypatch.setattr(rates, "taken", taken_slowly)
    assert await one.take("shop", 1) == 0
    await asyncio.to_thread(interloper.join)
    assert waits[0] > 0
    await one.close()
    await other.close()
