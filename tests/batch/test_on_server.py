"""`sensorium batch --server`: the same lines, worked out by a server's jobs, whatever becomes of the server meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.batch.conftest import run, some, told
from tests.batch.test_batch import MAIN
from tests.cli.conftest import Sensorium
from tests.pictures import JUNK, jpeg
from tests.server.conftest import Server, eventually, running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes to wake workers by")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("batch")) as started:
        yield started


def alike(path: Path) -> list[dict[str, Any]]:
    """The lines without what is another each time."""
    lines = told(path)
    for line in lines:
        line.get("result", {}).pop("meta", None)
        line.get("error", {}).pop("trace", None)
    return lines


def jobs(server: Server, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = requests.get(f"{server.url}/v1/jobs", params=query, timeout=10).json()["jobs"]
    return found


def test_lines_failures_and_order_are_those_of_this_machine(sensorium: Sensorium, home: Path, server: Server) -> None:
    for folder in ("p/a", "p/北京"):
        some(home / folder, 40)
    (home / "p" / "a" / "0003.jpg").write_bytes(jpeg()[:60])
    (home / "p" / "b 猫.jpg").write_bytes(JUNK)
    Path("list.txt").write_text("p/b 猫.jpg\np/gone.jpg\nhttp://127.0.0.1:1/private.jpg\n", encoding="utf-8")
    words = ("p", "@list.txt", "--keep-order")
    here = run(sensorium, *words, "-o", "here.jsonl", code=2)
    there = run(sensorium, *words, "-o", "there.jsonl", "--server", server.url, code=2)
    assert (there["done"], there["failed"]) == (here["done"], here["failed"])
    assert there["worked_on"] == 83
    assert alike(Path("there.jsonl")) == alike(Path("here.jsonl"))
    assert sorted(line["image"] for line in told(Path("there.failures.jsonl"))) == sorted(
        ["p/a/0003.jpg", "p/b 猫.jpg", "p/gone.jpg", "http://127.0.0.1:1/private.jpg"]
    )
    again = run(sensorium, *words, "-o", "there.jsonl", "--server", server.url, code=2)
    assert again["worked_on"] == 0


def test_standard_output_keeps_the_order_too(sensorium: Sensorium, home: Path, server: Server) -> None:
    some(home / "p", 70)
    done = sensorium(
        "batch", "p", "--task", "classify", "--model", "fake", "-o", "-", "--keep-order", "--server", server.url
    )
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == [f"p/{one:04d}.jpg" for one in range(70)]


def test_options_of_the_task_and_the_time_of_each_input_go_along(
    sensorium: Sensorium, home: Path, server: Server
) -> None:
    some(home / "p", 1)
    wrong = sensorium("batch", "p", "--task", "classify", "-o", "a.jsonl", "--top-k", "0", "--server", server.url)
    assert (wrong.exit_code, "top-k" in wrong.stderr) == (2, True)
    run(sensorium, "p", "-o", "brief.jsonl", "--model", "brief", "--server", server.url)
    assert told(Path("brief.jsonl"))[0]["result"]["meta"]["engine"].startswith("brief")
    late = run(
        sensorium, "p", "-o", "late.jsonl", "--model", "slow", "--timeout", "0.1", "--server", server.url, code=1
    )
    assert late["failed"] == {"deadline_exceeded": 1}


@pytest.mark.slow
def test_files_are_told_apart_from_each_other_when_together_they_are_too_large(
    sensorium: Sensorium, home: Path, tmp_path: Path
) -> None:
    """One that the server takes from nobody is the only one that fails."""
    some(home / "p", 8)
    (home / "p" / "large.jpg").write_bytes(jpeg() + bytes(100_000))
    with running(tmp_path, max_bytes=50_000, max_upload_bytes=60_000) as strict:
        summary = run(sensorium, "p", "-o", "out.jsonl", "--server", strict.url, code=2)
    assert (summary["done"], summary["failed"]) == (8, {"input_too_large": 1})


def test_what_every_input_would_meet_ends_it_and_nothing_is_marked_as_failed(
    sensorium: Sensorium, home: Path, server: Server, tmp_path: Path
) -> None:
    some(home / "p", 3)
    classify = ("batch", "p", "--task", "classify", "-o", "out.jsonl")
    wrong = sensorium(*classify, "--model", "nobody", "--server", server.url)
    assert (wrong.exit_code, "no model 'nobody'" in wrong.stderr) == (2, True)
    away = sensorium(*classify, "--server", "http://127.0.0.1:1")
    assert (away.exit_code, "Cannot reach http://127.0.0.1:1" in away.stderr) == (1, True)
    with running(tmp_path, auth="on") as keyed:
        stranger = sensorium(*classify, "--server", keyed.url)
    assert (stranger.exit_code, "--key" in stranger.stderr) == (2, True)
    assert told(Path("out.jsonl")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-cost", "1"), "on this machine only"),
        (("--on", "ray"), "two places"),
        (("--device", "cpu"), "--device does not go with --server"),
    ],
)
def test_what_does_not_go_together_is_refused(
    sensorium: Sensorium, home: Path, words: tuple[str, ...], said: str
) -> None:
    some(home / "p", 1)
    done = sensorium("batch", "p", "--task", "classify", "-o", "out.jsonl", "--server", "http://127.0.0.1:1", *words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_name_that_is_no_text_is_sent_too(sensorium: Sensorium, home: Path, server: Server) -> None:
    (home / "p").mkdir()
    try:
        (home / "p" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(jpeg())
    except OSError:
        pytest.skip("this file system has no such names")
    assert run(sensorium, "p", "-o", "out.jsonl", "--server", server.url)["done"] == 1


@pytest.mark.slow
def test_a_server_that_is_full_is_waited_for(sensorium: Sensorium, home: Path, tmp_path: Path) -> None:
    some(home / "p", 130)
    with running(tmp_path, jobs_per_key=1) as small:
        summary = run(sensorium, "p", "-o", "out.jsonl", "--server", small.url)
    assert summary["done"] == 130


def started(server: Server, *more: str) -> subprocess.Popen[bytes]:
    command = ["batch", "p", "--task", "classify", "--model", "brief", "-o", "out.jsonl", "--server", server.url, *more]
    return subprocess.Popen([sys.executable, "-c", MAIN, *command], stderr=subprocess.PIPE)


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_a_second_interruption_calls_off_what_is_under_way(home: Path, server: Server) -> None:
    some(home / "p", 200)
    with started(server, "--model", "slow") as process:
        assert eventually(lambda: jobs(server, state="running"), 20)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert eventually(lambda: b"finished first" in process.stderr.readline(), 10)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert eventually(lambda: not jobs(server, state="running") and not jobs(server, state="waiting"), 10)


@pytest.mark.slow
def test_a_killed_batch_and_a_restarted_server_lose_nothing_and_do_nothing_twice(home: Path, tmp_path: Path) -> None:
    some(home / "p", 300)
    with running(tmp_path) as first:
        with started(first, "--at-once", "32") as process:
            assert eventually(lambda: lines_in(Path("out.jsonl")) > 20, 60)
            process.kill()
        with started(first, "--at-once", "32") as process:
            assert eventually(lambda: lines_in(Path("out.jsonl")) > 60, 60)
            first.process.kill()
            first.process.wait()
            with running(tmp_path, port=first.port):
                assert process.wait(60) == 0
    names = [line["image"] for line in told(Path("out.jsonl"))]
    assert sorted(names) == [f"p/{one:04d}.jpg" for one in range(300)]
