"""Several processes that answer as one, with real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensorium.server import run_folder
from sensorium.server.run_folder import RunFolder
from sensorium.telemetry import Telemetry
from tests.server.conftest import eventually, running
from tests.server.test_metrics import ask, scrape, value

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a server is one process there")

WORKER = """
import json, sys
from pathlib import Path
from sensorium.server import run_folder
from sensorium.telemetry import Telemetry

run_folder.SECONDS = 0.02
telemetry = Telemetry()
telemetry.workers[()].watch(telemetry, lambda _: 1)
telemetry.build["1", "3"].watch(telemetry, lambda _: 1)
folder = run_folder.RunFolder(Path(sys.argv[1]), telemetry)
for line in sys.stdin:
    word, _, count = line.strip().partition(" ")
    if word == "count":
        telemetry.requests["read", "ok"].add(int(count))
        telemetry.decode_seconds[()].observe(0.5)
    if word == "end":
        folder.close()
        break
    told = folder.snapshot()
    print(json.dumps([told["sensorium_requests_total"].get(("read", "ok"), [0])[0],
        told["sensorium_decode_seconds"].get((), [0, 0])[-2], told["sensorium_workers"][()][0],
        told["sensorium_build_info"]["1", "3"][0]]), flush=True)
"""

Told = list[float]
"""Requests, pictures decoded, processes, and what must stay 1."""


class Worker:
    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", WORKER, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def says(self, line: str) -> Told:
        """What it tells of all of them after it was told to do something."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{line}\n")
        answer: Told = json.loads(self.process.stdout.readline())
        return answer

    def dies(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ends(self) -> None:
        self.process.communicate("end\n", timeout=10)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    started = [Worker(tmp_path / "run") for _ in range(3)]
    for one in started:
        one.says("look")
    yield started
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_whichever_is_asked_answers_for_all_and_goes_on_counting_the_dead(
    workers: list[Worker], tmp_path: Path
) -> None:
    first, second, third = workers
    first.says("count 1")
    second.says("count 10")
    assert third.says("count 100") == [111, 3, 3, 1]
    assert first.says("look") == [111, 3, 3, 1]
    second.dies()
    assert first.says("look") == [111, 3, 2, 1]
    third.ends()
    assert first.says("look") == [111, 3, 1, 1]
    newcomer = Worker(tmp_path / "run")
    workers.append(newcomer)
    assert newcomer.says("count 1000") == [1111, 4, 2, 1]
    assert {path.suffix for path in (tmp_path / "run").iterdir()} <= {".json", ".lock", ".part", ""}
    assert len([*(tmp_path / "run").iterdir()]) <= 2 * 3 + 2


def test_what_one_has_told_no_other_goes_back_on(workers: list[Worker]) -> None:
    told = 0.0
    for number in range(60):
        now = workers[number % 3].says("count 1" if number % 2 else "look")[0]
        assert now >= told
        told = now
    assert told == 30


def test_a_process_that_counts_without_being_asked_is_heard(workers: list[Worker]) -> None:
    first, second, _ = workers
    second.says("count 5")
    assert eventually(lambda: first.says("look")[0] == 5)


def folder_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFolder, Telemetry]:
    monkeypatch.setattr(run_folder, "SECONDS", 60.0)
    telemetry = Telemetry()
    return RunFolder(path, telemetry), telemetry


def leftover(path: Path, numbers: Any, name: str = "dead") -> None:
    path.mkdir(exist_ok=True)
    (path / f"{name}.lock").touch()
    (path / f"{name}.json").write_text(json.dumps({"numbers": numbers}), encoding="utf-8")


REQUESTS = "sensorium_requests_total"


def test_the_dead_are_added_once_though_their_files_could_not_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {REQUESTS: [[["read", "ok"], [7]]]}
    leftover(tmp_path, numbers)
    folder, _ = folder_of(tmp_path, monkeypatch)
    leftover(tmp_path, numbers)  # as if it had died between adding and removing
    assert folder.snapshot()[REQUESTS] == {("read", "ok"): [7]}
    assert folder.snapshot()[REQUESTS] == {("read", "ok"): [7]}
    assert not (tmp_path / "dead.lock").exists()
    folder.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"numbers": {"sensorium_requests_total": [[["read"], [1]]]}}',
        b'{"numbers": {"sensorium_decode_seconds": [[[], [1]]]}}',
        b'{"numbers": {"of_another_version": [[[], [1]]]}}',
    ],
)
def test_a_file_that_cannot_be_understood_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    leftover(tmp_path, {})
    (tmp_path / "dead.json").write_bytes(content)
    folder, telemetry = folder_of(tmp_path, monkeypatch)
    telemetry.requests["read", "ok"].add()
    told = folder.snapshot()
    assert told[REQUESTS] == {("read", "ok"): [1]}
    assert told["sensorium_decode_seconds"] == {}
    folder.close()


def test_the_last_numbers_are_left_when_a_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, telemetry = folder_of(tmp_path, monkeypatch)
    telemetry.requests["read", "ok"].add(3)
    folder.close()
    other, _ = folder_of(tmp_path, monkeypatch)
    assert other.snapshot()[REQUESTS] == {("read", "ok"): [3]}
    other.close()


@pytest.mark.slow
def test_two_real_servers_answer_as_one(tmp_path: Path) -> None:
    shared = {"run_dir": str(tmp_path / "run")}
    with running(tmp_path / "one", **shared) as one:
        with running(tmp_path / "other", **shared) as other:
            assert [ask(server) for server in (one, other, other)] == [200, 200, 200]
            assert value(scrape(other), "sensorium_workers") == 2
            assert eventually(lambda: value(scrape(one), REQUESTS, code="ok") == 3)
            other.process.kill()
            other.process.wait()
        told = scrape(one)
        assert (value(told, REQUESTS, code="ok"), value(told, "sensorium_workers")) == (3, 1)


@pytest.mark.slow
def test_the_workers_of_one_server_answer_as_one(tmp_path: Path) -> None:
    with running(tmp_path, workers=2) as server:
        assert eventually(lambda: value(scrape(server), "sensorium_workers") == 2)
        assert [ask(server) for _ in range(6)] == [200] * 6
        assert eventually(lambda: [value(scrape(server), REQUESTS, code="ok") for _ in range(6)] == [6] * 6)
