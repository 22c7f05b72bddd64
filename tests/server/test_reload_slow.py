"""A hundred reloads of a model of real size, under load."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
import requests

from tests.modelfiles import put
from tests.server.conftest import Server, eventually, running
from tests.server.load import asking

BALLAST = 16
"""MiB of weights in the model."""


def resident(server: Server) -> float:
    """MiB of memory that the server holds."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def settled(server: Server) -> float:
    """The least MiB that the server holds over two seconds: the allocator gives pages back when it next looks."""
    ends = time.monotonic() + 2
    least = resident(server)
    while time.monotonic() < ends:
        time.sleep(0.1)
        least = min(least, resident(server))
    return least


def reload(server: Server, models: Path, says: str) -> float:
    put(models, "1", says, ballast=BALLAST)
    answer = requests.post(f"{server.url}/v1/models/net/reload", timeout=60)
    assert answer.status_code == 200, answer.text
    return float(answer.json()["seconds"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_hundred_reloads_under_load_fail_no_request_and_give_the_memory_back(tmp_path: Path) -> None:
    models = tmp_path / "models"
    with running(tmp_path, watch_seconds=0) as server:
        reload(server, models, "red")
        with asking(server.url, "net"):
            time.sleep(2)
        held = [settled(server)]
        took = []
        with asking(server.url, "net") as load:
            for number in range(100):
                says = ("green", "red")[number % 2]
                took.append(reload(server, models, says))
                assert load.says(says)
                held.append(resident(server))
        held.append(settled(server))
        told = f"{sum(load.heard.values())} requests, {dict(load.heard)}; reload {statistics.median(took):.2f} s"
        print(f"\n{told}; MiB before {held[0]:.0f}, most {max(held):.0f}, after {held[-1]:.0f}")  # noqa: T201
    assert set(load.heard) == {"red", "green"}
    assert held[-1] <= held[0] * 1.05 + 4


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_model_unloaded_after_idle_time_gives_its_memory_back(tmp_path: Path) -> None:
    models = tmp_path / "models"
    with running(tmp_path, watch_seconds=0, unload_after_seconds=1) as server:
        put(models, "1", "red", ballast=BALLAST)
        after = []
        for cycle in range(1, 9):
            requests.post(f"{server.url}/v1/models/net/reload", timeout=60)
            with asking(server.url, "net", clients=2) as load:
                assert load.says("red")
            full = resident(server)
            assert eventually(lambda: server.log().count("has been idle") == cycle)  # noqa: B023 - called here
            assert eventually(lambda: resident(server) < full - 0.9 * BALLAST)  # noqa: B023
            after.append(settled(server))
        print(f"\nMiB loaded {full:.0f}, unloaded {[round(one) for one in after]}")  # noqa: T201
        # A single cycle may leave some twenty MiB more than another; models never given back would add four of themselves.
        assert min(after[5:]) <= max(after[:2]) + 2 * BALLAST
