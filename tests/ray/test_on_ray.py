"""`sensorium batch --on ray` against real clusters of Ray."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.batch.conftest import DEADLY, some, told
from tests.pictures import jpeg

pytestmark = pytest.mark.timeout(240)


def batch(*words: str | Path, code: int = 0) -> dict[str, Any]:
    """The summary of a batch by a process of its own, since a process cannot be in two clusters one after the other."""
    done = subprocess.run(
        [sys.executable, "-m", "sensorium", "batch", *words, "--json"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == code, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"error": done.stderr}
    return summary


def without_meta(path: Path) -> dict[str, Any]:
    """The lines of a file by the names of their inputs, without what may differ between equal outcomes."""
    lines = {line["image"]: line for line in told(path)}
    for line in lines.values():
        line.get("result", {}).pop("meta", None)
        line.get("error", {}).pop("trace", None)
    return lines


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = some(tmp_path / "图片", 40)
    (folder / "bad.jpg").write_bytes(b"no picture")
    return folder


def test_two_actors_give_the_same_lines_as_this_machine_alone(pictures: Path, tmp_path: Path) -> None:
    how = (pictures, "--task", "classify", "--at-once", "2")
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert batch(*how, "-o", here, code=2)["done"] == 40
    summary = batch(*how, "-o", there, "--on", "ray", code=2)
    assert (summary["done"], summary["failed"]) == (40, {"unsupported_media": 1})
    assert len(told(there)) == 41
    assert without_meta(there) == without_meta(here)


def test_an_input_that_kills_its_process_is_told_and_the_rest_is_done(tmp_path: Path) -> None:
    folder = some(tmp_path / "pictures", 20)
    (folder / "0007-deadly.jpg").write_bytes(jpeg(width=DEADLY, height=12))
    output = tmp_path / "out.jsonl"
    summary = batch(
        folder, "--task", "classify", "--model", "fragile", "-o", output, "--on", "ray", "--at-once", "1", code=1
    )
    assert (summary["done"], summary["failed"]) == (20, {"worker_died": 1})
    assert [line["image"] for line in told(output) if "error" in line] == [str(folder / "0007-deadly.jpg")]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster that runs by itself."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    words = f"start --head --block --port={port} --num-cpus=2 --include-dashboard=false --node-ip-address=127.0.0.1"
    process = subprocess.Popen(
        [ray, *words.split(), "--disable-usage-stats"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_batch_joins_a_cluster_by_its_address_and_goes_on_where_it_stopped(
    cluster: str, pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    how = (pictures, "--task", "classify", "--model", "fake", "-o", output, "--on", f"ray:{cluster}")
    assert batch(*how, code=2)["worked_on"] == 41
    some(pictures, 45)
    assert batch(*how, code=2)["worked_on"] == 5
    assert len(told(output)) == 46


def test_a_cluster_that_is_not_there_is_said(pictures: Path, tmp_path: Path) -> None:
    how = (pictures, "--task", "classify", "-o", tmp_path / "out.jsonl", "--on", "ray:127.0.0.1:1")
    assert "There is no cluster of Ray" in batch(*how, code=1)["error"]
