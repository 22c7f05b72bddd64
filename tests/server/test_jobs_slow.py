"""Jobs while the server and its workers are killed."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests.fakes import put_fake
from tests.jobs.exactly_once import DEADLY_QUIRKS, LEASE, MOMENTS, Client, check_that_one_deadly_item_spoils_no_other
from tests.server.conftest import Server, eventually
from tests.server.test_jobs import crew, working

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes to wake workers by"),
]


def kill(*processes: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    # No death here is the item's own fault, and one may be met by several.
    with working(folder, job_workers=2, job_lease_seconds=LEASE, job_attempts=MOMENTS) as server:
        yield server


@pytest.mark.timeout(300)
def test_killed_at_twenty_moments_every_item_ends_exactly_once(tmp_path: Path) -> None:
    chance, client, killed = random.Random(5), Client("brief"), 0  # noqa: S311 - moments, not secrets
    while killed < MOMENTS:
        with serving(tmp_path) as server:
            client.submit(server, 6)
            assert eventually(lambda server=server: len(crew(server)) == 2)
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
        client.check(server, tmp_path)


@pytest.mark.timeout(120)
def test_an_item_that_always_crashes_its_worker_is_dead_and_all_else_goes_on(tmp_path: Path) -> None:
    put_fake(tmp_path / "models", "deadly", DEADLY_QUIRKS)
    with working(tmp_path) as server:
        check_that_one_deadly_item_spoils_no_other(server)
        told_of_deaths = "sensorium_job_worker_deaths_total"
        assert told_of_deaths in requests.get(f"{server.url}/metrics", timeout=10).text
