"""Every damaged, hostile and odd file, sent to every route that takes uploads: never a failure of the server's own."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from sensorium.registry import Registry
from tests.server.conftest import Server, running
from tests.server.wire import form

LARGEST_MIB = 1024
TASKS = [task.name for task in Registry().tasks]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the models that tasks have by default, but for that of an extra."""
    with running(tmp_path_factory.mktemp("real"), models={"embed_faces": ["fake"]}) as started:
        yield started


def in_a_form(path: str, field: str, times: int = 1) -> Callable[[Server, bytes], requests.Response]:
    def sent(server: Server, data: bytes) -> requests.Response:
        return requests.post(server.url + path, **form(*[(field, "picture.jpg", data)] * times), timeout=60)

    return sent


def as_the_body(path: str) -> Callable[[Server, bytes], requests.Response]:
    headers = {"Content-Type": "application/octet-stream"}
    return lambda server, data: requests.post(server.url + path, data=data, headers=headers, timeout=60)


BESIDE = {
    "ask": "?prompt=What+is+this%3F",
    "tokens": "?model=gpt-4o&prompt=What%3F",
    "detect": "?model=fake",
}
"""What tasks want to be told beside the picture."""

PAIRS = ("compare", "compare_faces")
SINGLE = [task for task in TASKS if task not in PAIRS]

ROUTES = {
    **{f"{task}, form": in_a_form(f"/v1/{task}{BESIDE.get(task, '')}", "image") for task in SINGLE},
    **{f"{task}, body": as_the_body(f"/v1/{task}{BESIDE.get(task, '')}") for task in SINGLE},
    **{f"{task}, form": in_a_form(f"/v1/{task}", "images", times=2) for task in PAIRS},
    "analyze/upload": in_a_form("/v1/analyze/upload", "file"),
    "predict": in_a_form("/predict", "file"),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("route", ROUTES)
def test_no_bad_file_makes_the_server_fail(real: Server, route: str, shared_data: Path) -> None:
    with (shared_data / "bad" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    statuses = {name: ROUTES[route](real, (shared_data / "bad" / name).read_bytes()).status_code for name in names}
    failed = {name: status for name, status in statuses.items() if status >= 500}
    assert not failed
    assert set(statuses.values()) >= {200, 422}
    assert requests.get(f"{real.url}/health/live", timeout=10).status_code == 200
    assert "Traceback" not in real.log()
    assert peak_mib(real.process.pid) < LARGEST_MIB


def peak_mib(process: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
