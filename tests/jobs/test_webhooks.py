"""A job's end is told to its webhook: signed, guarded, and again until it is heard."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sensorium.config import Settings
from sensorium.errors import ForbiddenAddress, InvalidConfiguration, InvalidRequest
from sensorium.jobs import attendant, webhooks
from sensorium.jobs.attendant import Attendant
from sensorium.jobs.telling import about
from sensorium.jobs.webhooks import PAUSES, Webhooks
from sensorium.stores.files import Files
from sensorium.stores.jobs import Job, Settled, Submission
from sensorium.stores.jobs_sqlite import FILE, SqliteJobs
from tests.stores.test_stores import Clock


class Receiver:
    """A real one, which keeps what it hears, and answers as it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[web.Response] = []
        self.port = 0
        self.news = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.heard.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        self.news.set()
        if request.path == "/endless":
            answer = web.StreamResponse()
            await answer.prepare(request)
            while True:
                await answer.write(bytes(100_000))
        if request.path == "/silent":
            await asyncio.sleep(60)
        return self.answers.pop(0) if self.answers else web.Response(status=204)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    yield receiver
    await runner.cleanup()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteJobs]:
    store = SqliteJobs(tmp_path / FILE, clock=clock)
    yield store
    await store.close()


def settings_of(folder: Path, receiver: Receiver | None = None, **more: Any) -> Settings:
    allowed = [f"127.0.0.1:{receiver.port}"] if receiver else []
    return Settings(data_dir=folder, **{"allowed_hosts": allowed, **more})


def caller_of(folder: Path, receiver: Receiver | None = None, **more: Any) -> Webhooks:
    return Webhooks(settings_of(folder, receiver, **more))


async def ended(store: SqliteJobs, webhook: str, owner: str = "shop", state: str = "done") -> Job:
    job = await store.submit(Submission(secrets.token_hex(16), owner, "classify", (b"{}",), webhook=webhook))
    if state == "cancelled":
        return await store.cancel(job.id, owner)
    (item,) = await store.claim("a", 1, 10.0, idle=True)
    outcome = b'{"result":1}' if state == "done" else b'{"error":{}}'
    await store.settle("a", [Settled(item.job, item.place, "done" if state == "done" else "failed", outcome)])
    return await store.find(job.id, owner)


def verify(secret: str, headers: dict[str, str], body: bytes) -> None:
    """As a receiver does by the text of the specification, with nothing of ours."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    assert 24 <= len(key) <= 64
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 300
    content = headers["webhook-id"] + "." + headers["webhook-timestamp"] + "." + body.decode()
    expected = base64.b64encode(hmac.new(key, content.encode(), hashlib.sha256).digest()).decode()
    assert ("v1," + expected) in headers["webhook-signature"].split(" ")


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
async def test_an_end_is_told_signed_and_without_pictures(
    receiver: Receiver, store: SqliteJobs, tmp_path: Path, state: str
) -> None:
    caller = caller_of(tmp_path, receiver)
    job = await ended(store, receiver.url, state=state)
    assert await caller.call(job) == ("", None)
    ((headers, body),) = receiver.heard
    verify(await caller.secret("shop"), headers, body)
    told = json.loads(body)
    assert (told["type"], told["data"]["state"], headers["content-type"]) == (f"job.{state}", state, "application/json")
    assert told["data"]["links"]["job"] == f"/v1/jobs/{job.id}"
    assert told["data"]["progress"]["total"] == 1
    assert len(body) < 1000
    with pytest.raises(AssertionError):
        verify(await caller.secret("other"), headers, body)


async def test_a_secret_is_each_owners_own_and_outlives_the_process(tmp_path: Path) -> None:
    secrets = [await caller_of(tmp_path).secret(owner) for owner in ("a", "a", "b")]
    assert secrets[0] == secrets[1] != secrets[2]
    assert (tmp_path / "server.key").stat().st_mode & 0o777 == 0o600
    told = [await caller_of(tmp_path, sealing_key="k" * 32).secret("a") for _ in range(2)]
    assert told[0] == told[1] != secrets[0]
    with pytest.raises(InvalidConfiguration, match="32"):
        await caller_of(tmp_path, sealing_key="short").secret("a")


async def test_each_try_says_the_same_under_the_same_id(receiver: Receiver, store: SqliteJobs, tmp_path: Path) -> None:
    receiver.answers = [web.Response(status=500)]
    caller = caller_of(tmp_path, receiver)
    job = await ended(store, receiver.url)
    first = await caller.call(job)
    assert first.fault == "the answer was 500"
    assert PAUSES[0] <= (first.after or 0) <= PAUSES[0] * 1.1
    await store.attended(job.id, first)
    await caller.call(await store.find(job.id, "shop"))
    (one, other) = receiver.heard
    assert one[1] == other[1]
    assert one[0]["webhook-id"] == other[0]["webhook-id"]


async def test_calls_end_after_the_last_pause_and_when_the_receiver_wants_no_more(
    receiver: Receiver, store: SqliteJobs, tmp_path: Path, clock: Clock
) -> None:
    receiver.answers = [web.Response(status=503) for _ in range(20)]
    caller = caller_of(tmp_path, receiver)
    job = await ended(store, receiver.url)
    for _ in PAUSES:
        called = await caller.call(await store.find(job.id, "shop"))
        assert called.after is not None
        await store.attended(job.id, called)
    last = await caller.call(await store.find(job.id, "shop"))
    assert last == ("the answer was 503", None)
    receiver.answers = [web.Response(status=410)]
    assert await caller.call(job) == ("the answer was 410", None)


async def test_redirects_are_not_followed(receiver: Receiver, store: SqliteJobs, tmp_path: Path) -> None:
    receiver.answers = [web.Response(status=307, headers={"Location": "/elsewhere"})]
    called = await caller_of(tmp_path, receiver).call(await ended(store, receiver.url))
    assert (called.fault, len(receiver.heard)) == ("the answer was 307", 1)


async def test_an_endless_answer_is_not_read(receiver: Receiver, store: SqliteJobs, tmp_path: Path) -> None:
    job = await ended(store, receiver.url.replace("/hook", "/endless"))
    async with asyncio.timeout(30):
        assert await caller_of(tmp_path, receiver).call(job) == ("", None)


async def test_a_silent_receiver_is_left(
    receiver: Receiver, store: SqliteJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "CALL_SECONDS", 0.2)
    called = await caller_of(tmp_path, receiver).call(await ended(store, receiver.url.replace("/hook", "/silent")))
    assert called.fault == "no answer came within 0.2 s"
    assert called.after is not None


async def test_nobody_there_is_tried_again(store: SqliteJobs, tmp_path: Path) -> None:
    caller = caller_of(tmp_path, allowed_hosts=["127.0.0.1"])
    called = await caller.call(await ended(store, "http://127.0.0.1:9/hook"))
    assert called.fault == "no connection could be made"
    assert called.after is not None


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/hook", "http://localhost:{port}/", "http://0x7f.1:{port}/"])
async def test_private_addresses_are_never_called(
    receiver: Receiver, store: SqliteJobs, tmp_path: Path, url: str
) -> None:
    url, caller = url.format(port=receiver.port), caller_of(tmp_path)
    with pytest.raises(ForbiddenAddress, match="allowed_hosts"):
        await caller.check(url)
    called = await caller.call(await ended(store, url))
    assert "private" in called.fault
    assert called.after is None
    assert receiver.heard == []


async def test_a_name_that_turns_inward_after_the_submission_is_not_called(
    receiver: Receiver, store: SqliteJobs, tmp_path: Path
) -> None:
    answers = iter([["93.184.215.14"], ["127.0.0.1"]])

    async def resolve(host: str, port: int) -> list[str]:
        return next(answers)

    caller = Webhooks(settings_of(tmp_path), resolve)
    url = f"http://rebinding.example:{receiver.port}/"
    await caller.check(url)
    assert "private" in (await caller.call(await ended(store, url))).fault
    assert receiver.heard == []


async def test_a_name_that_is_not_known_yet_is_let_pass_and_what_is_no_url_is_not(tmp_path: Path) -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    caller = Webhooks(settings_of(tmp_path), unknown)
    await caller.check("https://not-yet.example/hook")
    with pytest.raises(InvalidRequest):
        await caller.check("http://:80")


async def test_an_attendant_calls_until_it_is_heard_and_jobs_tell_how_far_it_is(
    receiver: Receiver, store: SqliteJobs, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendant, "LOOK_SECONDS", 0.01)
    receiver.answers = [web.Response(status=500)]
    job = await ended(store, receiver.url)
    assert about(job)["webhook_call"] == {"state": "waiting", "calls": 0, "error": None}
    files = Files(tmp_path / "inputs")
    running = asyncio.create_task(Attendant(store, files, caller_of(tmp_path, receiver), keeps_inputs=False).run())
    try:
        told = await _told(store, job, calls=1)
        assert told == {"state": "waiting", "calls": 1, "error": "the answer was 500"}
        clock.now += PAUSES[0] * 1.2
        assert await _told(store, job, calls=2) == {"state": "delivered", "calls": 2, "error": None}
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(receiver.heard) == 2


async def test_a_slow_receiver_holds_up_no_other(
    receiver: Receiver, store: SqliteJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendant, "LOOK_SECONDS", 0.01)
    await ended(store, receiver.url.replace("/hook", "/silent"))
    job = await ended(store, receiver.url)
    running = asyncio.create_task(
        Attendant(store, Files(tmp_path / "inputs"), caller_of(tmp_path, receiver), keeps_inputs=False).run()
    )
    try:
        assert (await _told(store, job, calls=1))["state"] == "delivered"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _told(store: SqliteJobs, job: Job, calls: int) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (await store.find(job.id, job.owner)).calls < calls:  # noqa: ASYNC110 - a store tells nobody
            await asyncio.sleep(0.01)
    told: dict[str, Any] = about(await store.find(job.id, job.owner))["webhook_call"]
    return told


async def test_slow_receivers_of_one_owner_hold_up_nobody_else(
    receiver: Receiver, store: SqliteJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendant, "LOOK_SECONDS", 0.02)
    for _ in range(attendant.AT_ONCE + 10):
        await ended(store, receiver.url.replace("hook", "silent"), "slow")
    job = await ended(store, receiver.url, "shop")
    running = asyncio.create_task(
        Attendant(store, Files(tmp_path / "inputs"), caller_of(tmp_path, receiver), keeps_inputs=False).run()
    )
    try:
        async with asyncio.timeout(10):
            while not any(job.id.encode() in body for _, body in receiver.heard):
                await receiver.news.wait()
                receiver.news.clear()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
