"""A key that is revoked takes its jobs along."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sensorium.jobs import revoked
from sensorium.jobs.revoked import Revocations
from sensorium.stores.jobs import Job
from sensorium.stores.jobs_sqlite import SqliteJobs
from sensorium.stores.keys import SqliteKeys
from tests.jobs.test_worker import eventually
from tests.keyring import new_key
from tests.stores.test_jobs import claimed, new


class Office:
    """Keys, jobs, and who looks after both."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.store = SqliteKeys(folder / "keys"), SqliteJobs(folder / "jobs")

    async def state(self, job: Job) -> str:
        return (await self.store.find(job.id, job.owner)).state

    async def become(self, job: Job, state: str) -> None:
        async def is_so() -> bool:
            return await self.state(job) == state

        await eventually(is_so)


@pytest.fixture
async def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Office]:
    monkeypatch.setattr(revoked, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(revoked, "AT_ONCE", 2)
    office = Office(tmp_path)
    for name in ("shop", "other"):
        await office.keys.add(new_key(name)[1])
    running = asyncio.create_task(Revocations(office.keys, office.store).run())
    yield office
    running.cancel()
    await asyncio.wait([running])
    await office.keys.close()
    await office.store.close()


async def test_jobs_of_a_key_are_called_off_when_it_is_revoked_and_others_are_not(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    running = await office.store.submit(new())
    await claimed(office.store)
    waiting = [await office.store.submit(new()) for _ in range(4)]
    others = [await office.store.submit(new(owner=owner)) for owner in ("other", "local", "jwt:shop")]
    with caplog.at_level(logging.WARNING):
        await office.keys.revoke("shop")
        for job in (running, *waiting):
            await office.become(job, "cancelled")
    assert [await office.state(job) for job in others] == ["waiting"] * 3
    assert "5 of its jobs" in caplog.text


async def test_a_job_that_slips_in_after_that_is_called_off_too(office: Office) -> None:
    first = await office.store.submit(new())
    await office.keys.revoke("shop")
    await office.become(first, "cancelled")
    await office.become(await office.store.submit(new()), "cancelled")


async def test_a_name_that_is_in_use_again_keeps_its_jobs(office: Office) -> None:
    await office.keys.revoke("shop")
    await office.keys.add(new_key("shop")[1])
    mark = await office.store.submit(new(owner="other"))
    job = await office.store.submit(new())
    await office.keys.revoke("other")
    await office.become(mark, "cancelled")
    assert await office.state(job) == "waiting"
