"""Jobs of a server from Python: handed in, waited for, called off, and told as the verbs tell."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import web

import sensorium
from sensorium.errors import (
    DeadlineExceeded,
    FileMissing,
    IdempotencyConflict,
    InvalidAnswer,
    UnidentifiedMedia,
    UnknownJob,
)
from sensorium.schemas.classify import Classification
from tests.client.conftest import Speaking
from tests.pictures import JUNK, jpeg
from tests.server.conftest import Server, running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes to wake workers by")


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("jobs")) as started:
        yield started


@pytest.fixture
def client(working: Server) -> Iterator[sensorium.client.Client]:
    with sensorium.connect(working.url) as made:
        yield made


def widths(outcomes: Any) -> dict[int, Any]:
    return {
        one.index: one.outcome if isinstance(one.outcome, Exception) else one.outcome.image.width for one in outcomes
    }


def test_pictures_are_handed_in_and_their_outcomes_come_as_the_verbs_tell_them(
    client: sensorium.client.Client, tmp_path: Path
) -> None:
    (tmp_path / "cat.jpg").write_bytes(jpeg(width=30))
    job = client.jobs.submit("classify", [tmp_path / "cat.jpg", JUNK, jpeg(width=40)], model="fake", top_k=1)
    assert (job.task, job.progress.total) == ("classify", 3)
    told = list(client.jobs.outcomes(job))
    assert widths(told)[0] == 30
    assert widths(told)[2] == 40
    errors = [one.outcome for one in told if isinstance(one.outcome, Exception)]
    assert [type(error) for error in errors] == [UnidentifiedMedia]
    (first, *_) = [one.outcome for one in told if one.index == 0]
    assert isinstance(first, Classification)
    assert len(first.labels) == 1
    ended = client.jobs.wait(job.id, timeout=50)
    assert (ended.state, ended.over, ended.progress.done, ended.progress.failed) == ("done", True, 2, 1)


def test_urls_ids_and_files_may_be_mixed_and_nothing_is_left_at_the_server(client: sensorium.client.Client) -> None:
    job = client.jobs.submit("classify", [jpeg(width=50), "http://127.0.0.1:9/cat.jpg", jpeg(width=60)], model="fake")
    told = widths(client.jobs.outcomes(job))
    assert (told[0], told[2]) == (50, 60)
    assert told[1].code == "forbidden_address"
    assert requests.get(f"{client.server.url}/v1/files", timeout=10).json()["data"] == []


def test_a_question_about_several_pictures_is_one_item(client: sensorium.client.Client) -> None:
    job = client.jobs.submit("ask", jpeg(), "What is it?", images=[jpeg(seed=2)], model="fake")
    assert job.progress.total == 1
    ((index, answer),) = client.jobs.outcomes(job)
    assert (index, type(answer).__name__) == (0, "Answer")


def test_the_same_key_is_the_same_job(client: sensorium.client.Client) -> None:
    one, same = (client.jobs.submit("classify", jpeg(), model="fake", idempotency_key="k") for _ in range(2))
    assert one.id == same.id
    with pytest.raises(IdempotencyConflict):
        client.jobs.submit("classify", jpeg(seed=3), model="fake", idempotency_key="k")


def test_jobs_are_listed_waited_for_within_a_time_and_called_off(client: sensorium.client.Client) -> None:
    jobs = [client.jobs.submit("classify", jpeg(), model="slow") for _ in range(3)]
    assert [job.id for job in client.jobs.list(limit=2)] == [jobs[2].id, jobs[1].id]
    with pytest.raises(DeadlineExceeded, match="goes on"):
        client.jobs.wait(jobs[0], timeout=0.1)
    assert {client.jobs.cancel(job).state for job in jobs} == {"cancelled"}
    assert {job.id for job in client.jobs.list("cancelled")} >= {job.id for job in jobs}
    assert client.jobs.get(jobs[0].id).over
    assert list(client.jobs.outcomes(jobs[0])) == []


@pytest.mark.parametrize("identity", ["0" * 32, "../v1/models", ""])
def test_what_is_not_there_is_said(client: sensorium.client.Client, identity: str) -> None:
    with pytest.raises(UnknownJob):
        client.jobs.get(identity)


def test_a_missing_file_is_told_before_anything_is_sent(client: sensorium.client.Client, tmp_path: Path) -> None:
    before = client.jobs.list()
    with pytest.raises(FileMissing):
        client.jobs.submit("classify", [jpeg(), tmp_path / "missing.jpg"], model="fake")
    assert client.jobs.list() == before


async def test_the_same_for_await(working: Server) -> None:
    async with sensorium.aio.connect(working.url) as client:
        job = await client.jobs.submit("classify", [jpeg(width=30), jpeg(width=40)], model="fake")
        told = [one async for one in client.jobs.outcomes(job)]
        assert widths(told) == {0: 30, 1: 40}
        assert (await client.jobs.wait(job)).state == "done"
        assert (await client.jobs.list(limit=1))[0].id == job.id


async def test_another_servers_answer_is_no_job(speaking: Speaking) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"id": 1})

    async with speaking(answer) as url, sensorium.aio.connect(url) as client:
        with pytest.raises(InvalidAnswer, match="no job"):
            await client.jobs.get("0" * 32)
