"""`sensorium batch`, run as users run it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from sensorium.batch import hands
from tests.batch.conftest import DEADLY, run, some, told
from tests.cli.conftest import Sensorium
from tests.fakes import put_fake
from tests.pictures import jpeg

ALONE = ("--at-once", "1")
"""One process with one input at a time: the quickest to start."""


def results(path: Path) -> dict[str, str]:
    """By input: `ok`, or the code of the error. Each input must be there once."""
    lines = told(path)
    found = {line["image"]: "ok" if "result" in line else line["error"]["code"] for line in lines}
    assert len(found) == len(lines)
    return found


def test_each_input_is_told_once_and_a_bad_file_stops_no_other(sensorium: Sensorium, photos: Path) -> None:
    summary = run(sensorium, "照片", "-o", "out.jsonl", *ALONE, code=2)
    assert results(Path("out.jsonl")) == {
        "照片/a.png": "ok",
        "照片/b 猫.jpg": "ok",
        "照片/broken.jpg": "corrupt_media",
        "照片/旅行/长城": "ok",
    }
    assert (summary["state"], summary["done"], summary["failed"]) == ("complete", 3, {"corrupt_media": 1})
    (failed,) = told(Path("out.failures.jsonl"))
    assert (failed["image"], failed["error"]["code"]) == ("照片/broken.jpg", "corrupt_media")
    assert len({line.get("result", {}).get("meta", {}).get("trace") for line in told(Path("out.jsonl"))}) == 4
    assert "照片/旅行/长城".encode() in Path("out.jsonl").read_bytes()


def test_files_of_one_name_in_two_folders_are_two_inputs_and_one_named_twice_is_one(
    sensorium: Sensorium, home: Path
) -> None:
    for name in ("a", "b"):
        some(home / name, 2)
    run(sensorium, "a", "b", "a/0000.jpg", "-o", "out.jsonl", *ALONE)
    assert set(results(Path("out.jsonl"))) == {"a/0000.jpg", "a/0001.jpg", "b/0000.jpg", "b/0001.jpg"}


def test_the_same_command_again_does_what_is_new_only(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 3)
    run(sensorium, "p", "-o", "out.jsonl", *ALONE)
    before = Path("out.jsonl").read_bytes()
    (home / "p" / "new.jpg").write_bytes(jpeg())
    summary = run(sensorium, "p/", "-o", "out.jsonl", *ALONE)
    assert (summary["done"], summary["worked_on"]) == (4, 1)
    assert Path("out.jsonl").read_bytes().startswith(before)


def test_another_command_on_the_same_output_is_refused_in_plain_words(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 1)
    run(sensorium, "p", "-o", "out.jsonl", *ALONE)
    done = sensorium("batch", "p", "--task", "read", "--model", "fake", "-o", "out.jsonl")
    assert done.exit_code == 2
    assert "was begun by another command" in done.stderr
    assert 'task was "classify", now "read"' in done.stderr
    assert "--restart" in done.stderr
    done = sensorium("batch", "p", "--task", "read", "--model", "fake", "-o", "out.jsonl", "--restart", *ALONE)
    assert done.exit_code == 0, done.output
    assert "lines" in told(Path("out.jsonl"))[0]["result"]


def test_another_option_is_named_where_a_command_is_refused_for_it(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 1)
    run(sensorium, "p", "-o", "out.jsonl", *ALONE)
    done = sensorium("batch", "p", "--task", "classify", "--model", "fake", "--top-k", "2", "-o", "out.jsonl")
    assert done.exit_code == 2
    assert "another command: top-k was not given, now 2. Run" in done.stderr


def test_when_all_was_done_already_that_is_said_and_no_speed(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 2)
    run(sensorium, "p", "-o", "out.jsonl", *ALONE)
    done = sensorium("batch", "p", "--task", "classify", "--model", "fake", "-o", "out.jsonl")
    assert done.stderr.splitlines() == ["2 done, 0 failed.", "All was done already: this run had nothing left to do."]


def test_two_outputs_of_one_folder_have_files_of_failures_of_their_own(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 1)
    (home / "p" / "bad.jpg").write_bytes(b"bad")
    told_of = {
        run(sensorium, "p", "-o", f"out.{end}", *ALONE, code=2)["failures"] for end in ("jsonl", "ndjson", "csv")
    }
    assert told_of == {"out.failures.jsonl", "out.failures.ndjson", "out.csv.failures.jsonl"}
    assert all(len(told(Path(one))) == 1 for one in told_of)


@pytest.mark.parametrize("word", ["nowhere/", "nowhere", "nowhere.jpg", "nowhere/**/*.jpg"])
def test_a_word_that_stands_for_nothing_begins_nothing(sensorium: Sensorium, home: Path, word: str) -> None:
    done = sensorium("batch", word, "--task", "classify", "--model", "fake", "-o", "out.jsonl")
    assert done.exit_code == 2
    assert "nowhere" in done.stderr
    assert list(home.iterdir()) == []
    some(home / "p", 1)
    assert run(sensorium, "p", "-o", "out.jsonl", *ALONE)["done"] == 1


def test_a_folder_that_is_away_is_told_before_the_others_begin(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 1)
    done = sensorium("batch", "p", "usb/", "--task", "classify", "--model", "fake", "-o", "out.jsonl")
    assert (done.exit_code, "There is no folder usb/" in done.stderr) == (2, True)


def test_a_file_that_is_away_stops_no_other(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 1)
    summary = run(sensorium, "p/0000.jpg", "p/gone.jpg", "-o", "out.jsonl", *ALONE, code=2)
    assert (summary["done"], summary["failed"]) == (1, {"file_missing": 1})


def test_a_file_that_is_of_no_batch_is_not_overwritten_unless_asked(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 1)
    (home / "out.jsonl").write_text("my notes\n")
    done = sensorium("batch", "p", "--task", "classify", "--model", "fake", "-o", "out.jsonl")
    assert (done.exit_code, Path("out.jsonl").read_text()) == (2, "my notes\n")
    run(sensorium, "p", "-o", "out.jsonl", "--restart", *ALONE)
    assert len(told(Path("out.jsonl"))) == 1


def test_nothing_is_written_into_a_folder_that_is_read(sensorium: Sensorium, photos: Path) -> None:
    before = sorted(photos.rglob("*"))
    for words in (
        ["照片", "-o", "照片/out.jsonl"],
        ["照片/**/*.jpg", "-o", "照片/旅行/out.csv"],
        [".", "-o", "out.json"],
    ):
        done = sensorium("batch", *words, "--task", "classify", "--model", "fake")
        assert done.exit_code == 2
        assert "is only read" in done.stderr
    assert sorted(photos.rglob("*")) == before
    assert [path.name for path in photos.parent.iterdir()] == ["照片"]


def test_what_failed_is_tried_again_in_its_place_when_asked(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 4)
    good = (home / "p" / "0001.jpg").read_bytes()
    for name in ("0001.jpg", "0002.jpg"):
        (home / "p" / name).write_bytes(good[:30])
    run(sensorium, "p", "-o", "out.jsonl", "--keep-order", *ALONE, code=2)
    assert run(sensorium, "p", "-o", "out.jsonl", *ALONE, code=2)["worked_on"] == 0
    (home / "p" / "0001.jpg").write_bytes(good)
    (home / "p" / "0002.jpg").unlink()
    summary = run(sensorium, "p", "-o", "out.jsonl", "--keep-order", "--retry-failed", *ALONE, code=2)
    assert summary["worked_on"] == 2
    found = results(Path("out.jsonl"))
    assert found == {f"p/000{number}.jpg": "ok" for number in (0, 1, 3)} | {"p/0002.jpg": "file_missing"}
    assert [name for name in found if name != "p/0002.jpg"] == ["p/0000.jpg", "p/0001.jpg", "p/0003.jpg"]
    assert [line["image"] for line in told(Path("out.failures.jsonl"))] == ["p/0002.jpg"]


def test_when_nothing_fails_any_more_there_is_no_file_of_failures(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 1)
    good = (home / "p" / "0000.jpg").read_bytes()
    (home / "p" / "0000.jpg").write_bytes(b"bad")
    run(sensorium, "p", "-o", "out.jsonl", *ALONE, code=2)
    (home / "p" / "0000.jpg").write_bytes(good)
    run(sensorium, "p", "-o", "out.jsonl", "--retry-failed", *ALONE)
    assert not Path("out.failures.jsonl").exists()
    assert results(Path("out.jsonl")) == {"p/0000.jpg": "ok"}


@pytest.mark.parametrize("output", ["out.jsonl", "-"])
def test_order_is_kept_when_asked(sensorium: Sensorium, home: Path, output: str) -> None:
    folder = some(home / "p", 40)
    (folder / "0003.jpg").write_bytes(b"bad")
    words = ("p", "p/0001.jpg", "p/0039.jpg", "gone.jpg")
    done = sensorium("batch", *words, "--task", "classify", "--model", "slow", "-o", output, "--keep-order")
    assert done.exit_code == 2, done.output
    lines = told(Path("out.jsonl")) if output != "-" else [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"] for line in lines] == [*(f"p/{number:04d}.jpg" for number in range(40)), "gone.jpg"]


def test_standard_output_is_lines_alone_and_the_summary_goes_elsewhere(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 2)
    names = b"p/0000.jpg\np/0001.jpg\np/0000.jpg\n"
    done = sensorium("batch", "-", "--task", "classify", "--model", "fake", "-o", "-", *ALONE, input=names)
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == ["p/0000.jpg", "p/0001.jpg"]
    assert "2 done, 0 failed." in done.stderr
    assert sorted(path.name for path in home.iterdir()) == ["p"]


@pytest.mark.slow  # it takes several seconds
def test_other_formats_are_written_at_the_end(sensorium: Sensorium, photos: Path) -> None:
    run(sensorium, "照片", "-o", "out.json", "--keep-order", code=2)
    told_all = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert [one["image"] for one in told_all] == ["照片/a.png", "照片/b 猫.jpg", "照片/broken.jpg", "照片/旅行/长城"]
    run(sensorium, "照片", "-o", "out.csv", "--keep-order", code=2)
    with Path("out.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["error"] for row in rows] == ["", "", "corrupt_media", ""]
    assert rows[0]["labels.0.name"] == "golden retriever"
    pytest.importorskip("pyarrow")
    run(sensorium, "照片", "-o", "out.parquet", code=2)
    from pyarrow import parquet

    assert parquet.read_table("out.parquet").num_rows == 4


def test_options_are_those_of_the_task(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 1)
    assert "\n  --prompt" in sensorium("batch", "--task", "ask", "--help").stdout
    assert "\n  --prompt" not in sensorium("batch", "--help").stdout
    done = sensorium("batch", "p", "--task", "ask", "--prompt", "What?", "--model", "fake", "-o", "out.jsonl", *ALONE)
    assert done.exit_code == 0, done.output
    assert told(Path("out.jsonl"))[0]["result"]["text"] == "example"
    wrong = sensorium("batch", "p", "--task", "classify", "--top-k", "0", "--model", "fake", "-o", "b.jsonl")
    assert (wrong.exit_code, Path("b.jsonl").exists()) == (2, False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["p", "--task", "clasify"], "classify"),
        (["p", "--task", "compare"], "not asked about one picture"),
        (["p", "--task", "tokens", "--model", "gpt-4o", "--max-cost", "x"], "max-cost"),
        (["p", "--task", "classify", "--model", "nothing"], "nothing"),
        (["p", "--task", "detect"], "No model is named"),
        (["empty", "--task", "classify", "--model", "fake"], "no picture was found in empty"),
        (["@nowhere.txt", "--task", "classify", "--model", "fake"], "nowhere.txt"),
    ],
)
def test_what_can_never_work_is_told_before_anything_begins(
    sensorium: Sensorium, home: Path, words: list[str], said: str
) -> None:
    some(home / "p", 1)
    (home / "empty").mkdir()
    done = sensorium("batch", *words, "-o", "out.jsonl")
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_that_every_input_would_meet_ends_it_and_nothing_is_marked_as_failed(
    sensorium: Sensorium, home: Path, models: Path
) -> None:
    some(home / "p", 3)
    done = sensorium("batch", "p", "--task", "classify", "--model", "keyless", "-o", "out.jsonl", *ALONE)
    assert done.exit_code == 1
    assert "keyless@1 fails" in done.stderr
    assert told(Path("out.jsonl")) == []
    put_fake(models, "keyless")
    assert run(sensorium, "p", "-o", "out.jsonl", "--model", "keyless", *ALONE)["done"] == 3


def test_an_input_that_takes_too_long_is_told_and_the_rest_goes_on(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 2)
    run(sensorium, "p", "-o", "out.jsonl", "--model", "slow", "--timeout", "0.01", *ALONE, code=1)
    assert set(results(Path("out.jsonl")).values()) == {"deadline_exceeded"}


@pytest.mark.slow
def test_an_input_that_kills_its_process_is_told_and_its_neighbours_are_done(sensorium: Sensorium, home: Path) -> None:
    folder = some(home / "p", 20)
    for number in (4, 11):
        (folder / f"{number:04d}.jpg").write_bytes(jpeg(width=DEADLY))
    run(sensorium, "p", "-o", "out.jsonl", "--model", "fragile", code=1)
    assert Counter(results(Path("out.jsonl")).values()) == {"ok": 18, "worker_died": 2}
    failed = told(Path("out.failures.jsonl"))
    assert {line["image"] for line in failed} == {"p/0004.jpg", "p/0011.jpg"}
    assert "exit code 70, 3 times with this input in hand" in failed[0]["error"]["message"]


@pytest.mark.slow
def test_when_every_input_kills_the_process_it_is_not_the_inputs(
    sensorium: Sensorium, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands, "MOST_IN_A_ROW", 2)
    folder = some(home / "p", 3)
    for path in folder.iterdir():
        path.write_bytes(jpeg(width=DEADLY))
    done = sensorium("batch", "p", "--task", "classify", "--model", "fragile", "-o", "out.jsonl", *ALONE)
    assert done.exit_code == 1
    assert "ends again and again" in done.stderr
    assert len(told(Path("out.jsonl"))) == 1


def test_a_process_that_cannot_start_says_why(
    sensorium: Sensorium, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some(home / "p", 1)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    done = sensorium("batch", "p", "--task", "classify", "--model", "fake", "-o", "out.jsonl", *ALONE)
    assert done.exit_code == 1
    assert "A process for the work cannot start" in done.stderr


def test_an_output_that_cannot_be_written_is_told_before_anything_begins(sensorium: Sensorium, home: Path) -> None:
    some(home / "p", 1)
    (home / "file").write_bytes(b"")
    done = sensorium("batch", "p", "--task", "classify", "--model", "fake", "-o", "file/out.jsonl")
    assert done.exit_code == 1
    assert "Cannot write file/out.jsonl" in done.stderr


@pytest.mark.slow  # it takes several seconds
@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="this system does not bound files")
def test_a_full_disk_ends_it_clearly_and_the_same_command_goes_on(home: Path) -> None:
    some(home / "p", 30)
    command = [*COMMAND, "p", "-o", "out.jsonl"]
    bound = "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    full = subprocess.run(
        [sys.executable, "-c", f"import resource, signal; {bound}; {MAIN}", *command],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert full.returncode == 1, full.stderr
    assert "Cannot write out.jsonl" in full.stderr
    assert "the same command again" in full.stderr
    assert 0 <= len(told(home / "out.jsonl")) < 30
    done = subprocess.run([sys.executable, "-c", MAIN, *command], check=False)
    assert done.returncode == 0
    assert len(results(home / "out.jsonl")) == 30


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no terminals")
def test_on_a_terminal_a_bar_tells_how_far_it_is_how_fast_and_what_failed(home: Path) -> None:
    some(home / "p", 40)
    (home / "p" / "0000.jpg").write_bytes(b"bad")
    parent, child = os.openpty()
    command = [sys.executable, "-c", MAIN, *COMMAND, "p", "-o", "out.jsonl", "--at-once", "2"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        said = read_all(parent)
    assert process.returncode == 2
    assert "/40" in said
    assert "1 failed" in said
    assert " a second " in said
    assert "left" in said
    assert "39 done, 1 failed (1 unsupported_media)." in said


def read_all(descriptor: int) -> str:
    said = b""
    with suppress(OSError):  # as Linux tells that a terminal has no writer any more
        while read := os.read(descriptor, 65536):
            said += read
    os.close(descriptor)
    return said.decode(errors="replace")


COMMAND = ["batch", "--task", "classify", "--model", "slow"]
MAIN = "from sensorium.cli import main; main()"


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_finishes_what_is_under_way_and_says_how_to_go_on(home: Path, number: signal.Signals) -> None:
    some(home / "p", 200)
    command = [sys.executable, "-c", MAIN, *COMMAND, "p", "-o", "out.jsonl", "--at-once", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        wait_for_lines(home / "out.jsonl", 1)
        process.send_signal(number)
        said = process.communicate(timeout=50)[1]
    assert process.returncode == 130
    assert "The same command goes on from here." in said
    assert "Traceback" not in said
    done = results(home / "out.jsonl")
    assert 0 < len(done) < 200
    assert set(done.values()) == {"ok"}


def wait_for_lines(path: Path, count: int) -> None:
    end = time.monotonic() + 50
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < end
        time.sleep(0.01)
