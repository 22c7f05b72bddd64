"""Jobs while processes are killed: every item ends exactly once, and none is lost."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fakes import put_fake
from tests.pictures import jpeg
from tests.server.conftest import Server, eventually
from tests.server.test_jobs import crew, ended, get, submit, working
from tests.server.wire import data_url

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes to wake workers by"),
]

LEASE = 2.0
ITEMS = 10
WIDTHS = [20 + place for place in range(ITEMS)]
PICTURES = [data_url(jpeg(width=width)) for width in WIDTHS]

MOMENTS = 20


def kill(*processes: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


class Client:
    """Hands in jobs until each is taken, whatever becomes of the server, and knows which it handed in."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.taken: dict[str, str] = {}

    def submit(self, server: Server, count: int) -> None:
        self.open += [f"key {len(self.taken) + len(self.open) + number}" for number in range(count)]
        while self.open:
            key = self.open[0]
            try:
                answer = submit(server, *[{"image": one, "model": "brief"} for one in PICTURES], idempotency_key=key)
            except requests.ConnectionError:
                return  # the next server is asked again, with the same key
            assert answer.status_code == 202, answer.text
            self.taken[key] = answer.json()["id"]
            del self.open[0]


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    # No death here is the item's own fault, and one may be met by several.
    with working(folder, job_workers=2, job_lease_seconds=LEASE, job_attempts=MOMENTS) as server:
        yield server


@pytest.mark.timeout(300)
def test_killed_at_twenty_moments_every_item_ends_exactly_once(tmp_path: Path) -> None:
    chance, client, killed = random.Random(5), Client(), 0  # noqa: S311 - moments, not secrets
    while killed < MOMENTS:
        with serving(tmp_path) as server:
            client.submit(server, 6)
            assert eventually(lambda server=server: len(crew(server)) == 2, 20)
            time.sleep(chance.uniform(0.5, 2.0))
            kill(chance.choice(crew(server)[-2:]))
            client.submit(server, 3)
            time.sleep(chance.uniform(0, 1.0))
            workers = crew(server)[-2:] if chance.random() < 0.3 else []  # as a machine that goes down
            kill(server.process.pid, *workers)
            killed += 2
            server.process.wait()
    with serving(tmp_path) as server:
        client.submit(server, 1)
        for key, identity in client.taken.items():
            assert eventually(lambda identity=identity: get(server, identity).json()["ended"], 60), key
            check(get(server, identity).json())
        listed = requests.get(f"{server.url}/v1/jobs", params={"limit": "1000"}, timeout=10).json()["jobs"]
        assert {job["id"] for job in listed} == set(client.taken.values()), "and no job twice"
        assert eventually(lambda: not list((tmp_path / "data" / "jobs" / "inputs").iterdir()))


def check(job: Any) -> None:
    assert (job["state"], job["progress"]["done"]) == ("done", ITEMS), job
    told = {one["index"]: one["result"]["image"]["width"] for one in job["outcomes"]}
    assert len(job["outcomes"]) == len(told) == ITEMS
    assert [told[place] for place in range(ITEMS)] == WIDTHS


@pytest.mark.timeout(120)
def test_an_item_that_always_crashes_its_worker_is_dead_and_all_else_goes_on(tmp_path: Path) -> None:
    put_fake(tmp_path / "models", "deadly", "deadly_width = 13")
    with working(tmp_path) as server:
        asked = [{"image": data_url(jpeg(width=width)), "model": "deadly"} for width in (20, 13, 30)]
        poisoned = submit(server, *asked).json()["id"]
        others = [submit(server, {"image": PICTURES[0], "model": "fake"}).json()["id"] for _ in range(20)]
        alone = submit(server, asked[1]).json()["id"]
        for identity in others:
            assert eventually(lambda identity=identity: get(server, identity).json()["state"] == "done", 60)
        assert eventually(lambda: get(server, poisoned).json()["ended"], 60)
        job = get(server, poisoned).json()
        assert job["progress"] == {"total": 3, "settled": 3, "done": 2, "failed": 0, "dead": 1}
        told = {one["index"]: one for one in job["outcomes"]}
        assert (told[1]["state"], told[1]["error"]["code"]) == ("dead", "worker_died")
        assert eventually(lambda: get(server, alone).json()["ended"], 60)
        job = get(server, alone).json()
        assert (job["state"], job["error"]["code"]) == ("failed", "worker_died")
        assert ended(server, submit(server, {"image": PICTURES[0], "model": "fake"}).json()["id"])["state"] == "done"
        told_of_deaths = "sensorium_job_worker_deaths_total"
        assert told_of_deaths in requests.get(f"{server.url}/metrics", timeout=10).text
