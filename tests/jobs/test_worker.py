"""A worker takes items, has them done, and settles what became of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sensorium.config import WITH_SECRETS, Settings
from sensorium.engine import Caller
from sensorium.errors import (
    FileMissing,
    IdempotencyConflict,
    InvalidBase64,
    SensoriumError,
    StorageFailed,
    UnknownJob,
    WorkerDied,
)
from sensorium.jobs import attendant
from sensorium.jobs import worker as of_worker
from sensorium.jobs.desk import Desk, Wanted
from sensorium.jobs.place import open_jobs
from sensorium.jobs.worker import Worker
from sensorium.media.pool import in_thread
from sensorium.media.source import Source
from sensorium.schemas.ask import AskRequest, Message, Picture, Words
from sensorium.schemas.classify import ClassifyRequest
from sensorium.service import Sensorium
from sensorium.stores.files import Files
from sensorium.stores.jobs import Job
from sensorium.stores.jobs_sqlite import SqliteJobs
from tests.fakes import put_fake
from tests.pictures import JUNK, jpeg

SHOP = Caller("shop", frozenset({"classify"}), requests_per_minute=1)


class House:
    """A desk, and workers for what is handed in there."""

    def __init__(self, settings: Settings, service: Sensorium) -> None:
        self.settings, self.service = settings, service
        self.store, self.files = open_jobs(settings)
        self.desk = Desk(self.store, self.files, self.wake)
        self.workers: list[Worker] = []
        self.inputs = settings.data_dir / "jobs" / "inputs"

    def wake(self, count: int) -> None:
        for worker in self.workers:
            worker.wake()

    @asynccontextmanager
    async def worker(self, name: str = "a") -> AsyncIterator[Worker]:
        worker = Worker(name, self.service, self.store, self.files)
        self.workers.append(worker)
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.leave()
            await running

    async def submit(self, *requests: Any, caller: Caller = SHOP, **more: Any) -> Job:
        wanted = [Wanted(classify(one) if isinstance(one, bytes) else one) for one in requests]
        return await self.desk.submit(wanted, caller, **{"task": "classify", "trace": "t", **more})

    async def ended(self, job: Job) -> tuple[Job, list[Any]]:
        """Its outcomes by their places."""
        await eventually(lambda: self._is_over(job))
        told = await self.store.outcomes(job.id, 0, 1000)
        return await self.store.find(job.id, job.owner), [json.loads(one.outcome) for one in sorted(told)]

    async def _is_over(self, job: Job) -> bool:
        return (await self.store.find(job.id, job.owner)).over


async def eventually(holds: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def classify(picture: bytes | Path, model: str = "fake") -> ClassifyRequest:
    return ClassifyRequest(image=Source.of(picture), model=model)


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(of_worker, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(attendant, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(of_worker, "LEAVE_SECONDS", 0.1)
    monkeypatch.setattr("sensorium.stores.jobs.FIRST_PAUSE", 0.01)
    put_fake(tmp_path / "models", "busy", 'fail = "overloaded"\nfail_times = 2')
    put_fake(tmp_path / "models", "full", 'fail = "overloaded"')
    put_fake(tmp_path / "models", "late", "seconds = 30")
    settings = Settings(cache_dir=tmp_path, data_dir=tmp_path, models_dir=tmp_path / "models", cache="off")
    async with Sensorium(settings) as service:
        house = House(settings, service)
        yield house
        await house.store.close()


async def test_items_end_each_with_its_own_outcome(house: House, tmp_path: Path) -> None:
    async with house.worker():
        wrong = InvalidBase64("The text is not base64")
        job, told = await house.ended(await house.submit(jpeg(width=30), wrong, JUNK, jpeg(width=40)))
    assert [one["result"]["image"]["width"] if "result" in one else one["error"]["code"] for one in told] == [
        30,
        "invalid_base64",
        "unidentified_media",
        40,
    ]
    assert (job.state, job.done, job.failed) == ("done", 2, 2)


async def test_inputs_lie_aside_until_the_job_has_ended(house: House) -> None:
    job = await house.submit(jpeg(), jpeg(), jpeg(seed=2))
    files = list((house.inputs / job.id).iterdir())
    assert len(files) == 2, "equal inputs are one file"
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    (item, *_) = await house.store.claim("nobody", 9, 10.0, idle=True)
    assert set(json.loads(item.order)["request"]["image"]) == {"spool", "path", "name"}, "no bytes in the store"
    await house.store.give_back("nobody")
    async with house.worker():
        await house.ended(job)
        await eventually(lambda: asyncio.to_thread(lambda: not list(house.inputs.iterdir())))


async def test_an_input_that_vanished_is_that_items_error(house: House) -> None:
    job = await house.submit(jpeg(), jpeg(seed=2))
    (house.inputs / job.id / await Source.of(jpeg()).digest()).unlink()
    async with house.worker():
        job, told = await house.ended(job)
    assert (told[0]["error"]["code"], job.state) == (FileMissing.code, "done")
    assert "result" in told[1]


async def test_pictures_in_messages_are_put_aside_too(house: House) -> None:
    message = Message(role="user", parts=(Picture(image=Source.of(jpeg())), Words(text="What is it?")))
    ask = AskRequest(messages=(message,), model="fake")
    caller = Caller("shop")
    job = await house.submit(ask, caller=caller, task="ask")
    assert len(list((house.inputs / job.id).iterdir())) == 1
    async with house.worker():
        assert "result" in (await house.ended(job))[1][0]


async def test_the_scopes_of_who_submitted_hold_where_the_work_is_done(house: House) -> None:
    request = AskRequest(prompt="What?", model="fake")
    async with house.worker():
        _, told = await house.ended(await house.submit(request, task="ask"))
    assert told[0]["error"]["code"] == "forbidden"


async def test_the_rate_counts_jobs_and_not_their_items(house: House) -> None:
    async with house.worker():
        job, _ = await house.ended(await house.submit(*[jpeg()] * 5))
    assert job.done == 5


@pytest.mark.slow  # it takes several seconds
async def test_what_may_pass_is_tried_again_and_at_last_an_error(house: House) -> None:
    async with house.worker():
        _, passing = await house.ended(await house.submit(classify(jpeg(), "busy")))
        _, lasting = await house.ended(await house.submit(classify(jpeg(), "full")))
    assert "result" in passing[0]
    assert lasting[0]["error"]["code"] == "overloaded"


async def test_a_cancelled_job_is_worked_on_no_longer(house: House) -> None:
    async with house.worker() as worker:
        job = await house.submit(classify(jpeg(), "late"))
        await eventually(lambda: asyncio.sleep(0, bool(worker._under_way)))
        assert (await house.desk.cancel(job.id, SHOP)).state == "cancelled"
        await eventually(lambda: asyncio.sleep(0, not worker._under_way))
        _, told = await house.ended(await house.submit(jpeg()))
        assert "result" in told[0], "and its place is free"
    with pytest.raises(UnknownJob):
        await house.desk.cancel(job.id, Caller("other"))


async def test_a_worker_that_leaves_gives_back_what_it_did_not_finish(house: House) -> None:
    async with house.worker() as worker:
        await house.submit(classify(jpeg(), "late"))
        await eventually(lambda: asyncio.sleep(0, bool(worker._under_way)))
    (item,) = await house.store.claim("b", 9, 10.0, idle=True)
    assert (item.tries, item.deaths) == (0, 0)


async def test_a_worker_that_comes_back_has_lost_what_it_held_before(house: House) -> None:
    job = await house.submit(jpeg())
    await house.store.claim("a", 9, 1000.0, idle=True)
    async with house.worker("a"):
        job, _ = await house.ended(job)
    assert job.done == 1


async def test_outcomes_wait_for_a_store_that_cannot_be_written(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_worker, "LOOK_SECONDS", 0.02)
    settle, failures = SqliteJobs.settle, iter(range(3))

    async def failing(store: SqliteJobs, *args: Any) -> None:
        if next(failures, None) is not None:
            raise StorageFailed("The disk is full")
        await settle(store, *args)

    monkeypatch.setattr(SqliteJobs, "settle", failing)
    async with house.worker():
        job, _ = await house.ended(await house.submit(jpeg()))
    assert job.done == 1
    assert next(failures, None) is None


async def test_a_worker_that_meets_what_nobody_foresaw_ends_and_its_items_go_to_the_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await house.submit(jpeg())
    with monkeypatch.context() as broken:
        broken.setattr(of_worker, "work", None)
        with pytest.raises(TypeError):
            await Worker("a", house.service, house.store, house.files).run()
    async with house.worker():
        job, _ = await house.ended(job)
    assert job.done == 1


async def test_the_same_submission_again_is_the_same_job_and_leaves_nothing(house: House) -> None:
    first = await house.submit(jpeg(), key="k", trace="one")
    again = await house.submit(jpeg(), key="k", trace="another")
    assert again.id == first.id
    with pytest.raises(IdempotencyConflict):
        await house.submit(jpeg(seed=2), key="k")
    assert [path.name for path in house.inputs.iterdir()] == [first.id]


async def test_a_job_of_which_nothing_can_be_done_is_refused(house: House) -> None:
    with pytest.raises(InvalidBase64):
        await house.submit(InvalidBase64("The text is not base64"))
    assert await house.store.listed("shop", None, None, 9) == []


@pytest.mark.parametrize("broken", ["inputs", "store"])
async def test_what_cannot_be_kept_is_refused_and_leaves_nothing(
    house: House, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken == "inputs":
        house.inputs.parent.mkdir()
        house.inputs.write_bytes(b"a file where the folder should be")
    else:

        async def full(store: SqliteJobs, submission: Any) -> Job:
            raise StorageFailed("The job cannot be kept", why="database or disk is full")

        monkeypatch.setattr(SqliteJobs, "submit", full)
    with pytest.raises(StorageFailed):
        await house.submit(jpeg())
    assert house.inputs.is_file() or not list(house.inputs.iterdir())


def test_a_disk_that_fills_while_an_input_is_put_aside_leaves_no_half_of_it(tmp_path: Path) -> None:
    class Content:
        """Whose second read fails as a write to a full disk does."""

        reads = 0

        def read(self, count: int) -> bytes:
            self.reads += 1
            if self.reads > 1:
                raise OSError(28, "No space left on device")
            return b"half"

    files, shelf = Files(tmp_path), "0" * 32
    with pytest.raises(StorageFailed, match="No space left"):
        files.put(shelf, Content())  # type: ignore[arg-type] # as much of a file as is used
    assert list((tmp_path / shelf).iterdir()) == []
    files.remove(shelf)
    files.remove(shelf)
    assert list(tmp_path.iterdir()) == []


async def test_inputs_of_no_job_and_of_forgotten_jobs_are_swept(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_worker, "ABANDONED_SECONDS", -1.0)
    waiting = await house.submit(classify(jpeg(), "late"))
    (house.inputs / ("0" * 32)).mkdir()
    async with house.worker():
        await eventually(lambda: asyncio.to_thread(lambda: len(list(house.inputs.iterdir())) == 1))
    assert [path.name for path in house.inputs.iterdir()] == [waiting.id]


def test_errors_of_storage_are_unavailable_and_may_pass() -> None:
    assert issubclass(StorageFailed, SensoriumError)
    assert StorageFailed.retryable


async def test_a_worker_with_a_thread_that_hangs_ends_and_what_it_holds_goes_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_worker, "STUCK_SECONDS", 0.1)
    await house.submit(classify(jpeg(), "late"))
    begun, go = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go.wait(10)

    hanging = in_thread(hang)
    try:
        await asyncio.to_thread(begun.wait)
        worker = Worker("a", house.service, house.store, house.files)
        running = asyncio.create_task(worker.run())
        await eventually(lambda: asyncio.sleep(0, bool(worker._under_way)))
        await asyncio.sleep(0.2)
        assert not running.done(), "somebody waits for it"
        hanging.cancel()
        with pytest.raises(WorkerDied, match="nobody waits for"):
            await running
    finally:
        go.set()
    (item,) = await house.store.claim("b", 9, 10.0, idle=True)
    assert (item.tries, item.deaths) == (0, 0)


HANGING = """
import asyncio, threading
from sensorium.jobs import worker
from sensorium.media.pool import in_thread

async def hang():
    begun = threading.Event()
    in_thread(lambda: (begun.set(), threading.Event().wait()))
    await asyncio.to_thread(begun.wait)

asyncio.run(hang())
worker.END_SECONDS = 0.2
worker.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes to wake workers by")
def test_a_worker_whose_server_is_gone_ends_though_a_thread_of_it_hangs(house: House) -> None:
    reads, writes = os.pipe()
    command = [sys.executable, "-c", HANGING, "a", str(reads)]
    settings = house.settings.model_dump_json(context=WITH_SECRETS).encode() + b"\n"
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(reads,)) as process:
        try:
            process.communicate(settings, timeout=30)
        finally:
            process.kill()
    assert process.returncode == 1, "by itself"
    os.close(reads)
    os.close(writes)


async def test_an_upload_that_many_requests_name_is_neither_copied_nor_counted_twice(
    house: House, tmp_path: Path
) -> None:
    data = jpeg(width=300)
    digest = await Source.of(data).digest()
    (tmp_path / "sent").write_bytes(data)
    request = ClassifyRequest(image=Source.spooled(tmp_path / "sent", digest, "cat.jpg"), model="fake")
    job = await house.submit(request, request, jpeg())
    assert job.inputs == max(4096, len(data)) + 4096
    assert (house.inputs / job.id / digest).samefile(tmp_path / "sent")
    (tmp_path / "sent").unlink()
    async with house.worker():
        job, told = await house.ended(job)
    assert (job.done, told[1]["result"]["image"]["width"]) == (3, 300)


async def test_an_upload_that_vanished_is_missing_and_its_place_is_not_told(house: House, tmp_path: Path) -> None:
    request = ClassifyRequest(image=Source.spooled(tmp_path / "sent", "0" * 64, "cat.jpg"), model="fake")
    with pytest.raises(FileMissing, match=r"cat\.jpg") as told:
        await house.submit(request)
    assert str(tmp_path) not in str(told.value)
