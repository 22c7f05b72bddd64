"""Batches that are killed again and again, and long ones."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.batch.conftest import some, told
from tests.fakes import put_fake

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")]


def children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def begin(*words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sensorium", "batch", "p", "--task", "classify", "--model", "brisk", *words]
    with Path("told").open("ab") as said:
        return subprocess.Popen(command, stderr=said)


def grows(journal: Path, process: subprocess.Popen[bytes]) -> bool:
    """Whether work goes on: there is more in the journal than there was; else it has ended."""
    before = journal.stat().st_size if journal.exists() else 0
    while process.poll() is None:
        if journal.exists() and journal.stat().st_size > before:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("output", "count", "kills"), [("out.jsonl", 6000, 20), ("out.csv", 2500, 5)])
def test_killed_at_random_moments_of_its_work_every_item_ends_exactly_once_in_the_output(
    home: Path, models: Path, output: str, count: int, kills: int
) -> None:
    journal = home / ("out.jsonl" if output == "out.jsonl" else "out.csv.batch/journal.jsonl")
    failures = "out.failures.jsonl" if output == "out.jsonl" else "out.csv.failures.jsonl"
    put_fake(models, "brisk", "seconds = 0.01")
    some(home / "p", count)
    bad = (7, count // 2, count - 1)
    for number in bad:
        (home / "p" / f"{number:04d}.jpg").write_bytes(b"bad")
    chance = random.Random(5)  # noqa: S311 - which moments does not matter, but the same ones again
    killed = 0
    process = begin("-o", output)
    while killed < kills and grows(journal, process):
        time.sleep(chance.uniform(0.0, 0.3))
        victims = [process.pid, *children(process.pid)]
        victim = chance.choice(victims)
        orphans = victims[1:] if victim == process.pid else []
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            killed += 1
        if victim == process.pid:
            process.wait()
            gone(orphans)
            process = begin("-o", output)
    assert killed == kills, f"it ended by itself ({process.returncode}): {Path('told').read_text(encoding='utf-8')}"
    assert process.wait() == 2
    lines = told(journal)
    names = [line["image"] for line in lines]
    assert len(names) == len(set(names)) == count
    assert {line["image"] for line in lines if "error" in line} == {f"p/{one:04d}.jpg" for one in bad}
    assert len(told(home / failures)) == 3
    if output == "out.csv":
        assert len((home / output).read_text(encoding="utf-8-sig").splitlines()) == count + 1


def test_processes_that_are_killed_before_they_are_ready_are_started_again(home: Path, models: Path) -> None:
    put_fake(models, "brisk")
    some(home / "p", 50)
    process = begin("-o", "out.jsonl")
    while not (young := children(process.pid)):
        time.sleep(0.001)
    for child in young:
        os.kill(child, signal.SIGKILL)
    assert process.wait(60) == 0
    assert len(told(home / "out.jsonl")) == 50


def gone(processes: list[int]) -> None:
    """Children end when their parent does, also when it had no time to tell them."""
    end = time.monotonic() + 50
    while any(map(lives, processes)):
        assert time.monotonic() < end, "a child outlives its parent"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """Whether it still runs; one that nobody has buried yet does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.timeout(900)
def test_ten_thousand_pictures_take_no_more_memory_than_a_thousand_and_all_bad_ones_are_told(tmp_path: Path) -> None:
    from benchmarks import batch

    folder = tmp_path / "pictures"
    _, bad = batch.make(folder, 10_000)
    measured = batch.batch(folder, tmp_path / "out.jsonl")
    assert (measured.lines, measured.failed) == (10_000, len(bad))
    assert measured.growth_mib <= batch.MOST_GROWTH
    failures = told(tmp_path / "out.failures.jsonl")
    assert {line["image"] for line in failures} == bad
    assert {line["error"]["code"] for line in failures} == {"corrupt_media", "unsupported_media"}
