"""The lines of a batch: whole after any crash, each item once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from sensorium.batch.files import Files
from sensorium.batch.journal import Journal, Line, cost_of, write_whole
from sensorium.errors import InvalidConfiguration, OutputFailed

Paths = tuple[Path, Path]
Open = Callable[[], Journal]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return tmp_path / "out.jsonl", tmp_path / "index.sqlite"


@pytest.fixture
def opened(paths: Paths) -> Iterator[Open]:
    """Opens the journal, after closing the one before."""
    with ExitStack() as open_ones:

        def opening() -> Journal:
            open_ones.close()
            return open_ones.enter_context(closing(Journal(*paths)))

        yield opening


def line(name: str, ordinal: int = 0, code: str | None = None, cost: float = 0.0) -> Line:
    told = {"error": {"code": code}} if code else {"result": {"meta": {"usage": {"cost": cost}}}}
    return Line(name, json.dumps(told).encode(), ordinal, code, cost)


def names(journal: Journal, *, in_order: bool = False) -> list[str]:
    return [json.loads(told)["image"] for told in journal.lines(in_order=in_order)]


def test_what_was_appended_is_done_also_for_who_comes_later(paths: Paths, opened: Open) -> None:
    odd = os.fsdecode(b"\xff.jpg")
    for added in (["a", "照片/猫 .jpg"], [odd]):
        opened().append([line(name) for name in added])
    journal = opened()
    assert journal.done(["a", "照片/猫 .jpg", odd, "b"]) == {"a", "照片/猫 .jpg", odd}
    assert names(journal) == ["a", "照片/猫 .jpg", odd]
    assert "照片/猫 .jpg".encode() in paths[0].read_bytes(), "UTF-8 as it is, not escaped"


def test_a_torn_last_line_is_cut_off_and_its_item_is_not_done(paths: Paths, opened: Open) -> None:
    journal = opened()
    journal.append([line("a"), line("b")])
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[:-5])
    journal = opened()
    assert journal.done(["a", "b"]) == {"a"}
    journal.append([line("b")])
    assert paths[0].read_bytes() == whole


def test_lines_that_the_index_lacks_are_read_and_a_broken_or_lost_index_is_made_anew(
    paths: Paths, opened: Open
) -> None:
    journal = opened()
    journal.append([line("a", cost=0.5), line("b", code="corrupt_media")])
    with paths[0].open("ab") as file:
        file.write(b'{"image":"c","result":{}}\n')
    for damage in (lambda: None, paths[1].unlink, lambda: paths[1].write_bytes(b"no database" * 100)):
        damage()
        journal = opened()
        assert journal.done(["a", "b", "c"]) == {"a", "b", "c"}
        assert journal.counts() == {None: 2, "corrupt_media": 1}
        assert journal.spent == 0.5


def test_another_file_of_the_same_name_is_read_anew(paths: Paths, opened: Open) -> None:
    journal = opened()
    journal.append([line("a"), line("b")])
    write_whole(paths[0], [b'{"image":"z","result":{}}\n'])
    assert opened().done(["a", "z"]) == {"z"}


def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(paths: Paths, opened: Open) -> None:
    paths[0].write_text("my notes\n")
    with pytest.raises(InvalidConfiguration, match="none of a batch's"):
        opened()
    assert paths[0].read_text() == "my notes\n"


def test_one_process_writes_at_a_time_and_one_that_is_killed_leaves_no_lock(paths: Paths, opened: Open) -> None:
    script = (
        "import sys, pathlib; from sensorium.batch.journal import Journal\n"
        "held = Journal(*map(pathlib.Path, sys.argv[1:])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, *map(str, paths)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InvalidConfiguration, match="Another batch"):
            opened()
        other.kill()
    opened()


def test_a_full_disk_ends_it_with_whole_lines_and_says_so(
    paths: Paths, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource
    import signal

    journal = opened()
    journal.append([line("a")])
    size = paths[0].stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignoring = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(OutputFailed, match="the same command again"):
            journal.append([line("b")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignoring)
    assert paths[0].stat().st_size == size
    journal.append([line("b")])
    assert names(journal) == ["a", "b"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_called_so() -> None:
    with pytest.raises(OutputFailed, match="the disk is full"):
        write_whole(Path("/tmp/never"), [b"x" * 100_000], beside=Path("/dev/full"))  # noqa: S108 - never written


def test_lines_are_put_in_order_in_one_step(paths: Paths, opened: Open) -> None:
    journal = opened()
    journal.append([line("b", 1), line("c", 2), line("a", 0)])
    assert not journal.is_in_order
    assert names(journal) == ["b", "c", "a"]
    journal.keep(journal.lines(in_order=True))
    assert names(journal) == ["a", "b", "c"]
    assert journal.is_in_order
    journal.forget_places()
    journal.append([line("d", 1)])
    journal.place([("a", 0), ("b", 2), ("d", 7), ("a", 9)])
    assert names(journal, in_order=True) == ["a", "d", "b", "c"]


def test_failures_are_told_in_the_order_of_their_inputs_and_can_be_taken_out(paths: Paths, opened: Open) -> None:
    journal = opened()
    journal.append([line("c", 2, "x", 0.25), line("b", 1), line("a", 0, "y", 0.25)])
    assert [json.loads(told)["image"] for told in journal.failures()] == ["a", "c"]
    assert journal.spent_on_failures == 0.5
    journal.keep(journal.results())
    assert (names(journal), journal.counts(), journal.done(["a"])) == (["b"], {None: 1}, set())


@pytest.mark.parametrize(
    ("outcome", "cost"),
    [
        ('{"result":{"meta":{"usage":{"cost":0.5}}}}', 0.5),
        ('{"result":{"meta":{"cached":true,"usage":{"cost":0.5}}}}', 0.0),
        ('{"result":{"meta":{}}}', 0.0),
        ('{"error":{"code":"x","usage":{"cost":0.1}}}', 0.1),
        ('{"error":{"code":"x"}}', 0.0),
    ],
)
def test_an_outcome_says_what_it_cost(outcome: str, cost: float) -> None:
    assert cost_of(outcome.encode()) == cost


@pytest.mark.parametrize("name", ["command.json", "again.jsonl"])
def test_a_damaged_note_is_told_and_not_taken_for_another_command(tmp_path: Path, name: str) -> None:
    files = Files(tmp_path / "out.jsonl", "jsonl")
    files.begin({"task": "classify"}).close()
    (tmp_path / "out.jsonl.batch" / name).write_bytes(b'{"task": ')

    def go_on() -> None:
        files.begin({"task": "classify"}).close()
        files.noted()

    with pytest.raises(InvalidConfiguration, match=f"{name} is damaged"):
        go_on()
    files.begin({"task": "classify"}, restart=True).close()
    assert files.noted() == []
