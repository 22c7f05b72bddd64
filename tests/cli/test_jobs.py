"""`sensorium jobs`: handing in, listing, showing, watching and calling off, against a real server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Sensorium, lines
from tests.server.conftest import Server, running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes to wake workers by")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("jobs")) as started:
        yield started


def submit(sensorium: Sensorium, server: Server, *words: str | Path) -> str:
    told = sensorium("jobs", "submit", *words, "--server", server.url)
    assert told.exit_code == 0, told.output
    return told.stdout.strip()


def test_a_job_is_handed_in_and_watched_to_its_end(sensorium: Sensorium, photos: Path, server: Server) -> None:
    identity = submit(sensorium, server, "classify", "照片", "--model", "fake", "--top-k", "1")
    assert len(identity) == 32, "the id alone, for scripts"
    told = sensorium("jobs", "watch", identity, "--server", server.url)
    assert told.exit_code == 2, "one of them is broken"
    assert "broken.jpg" in told.stderr
    assert "golden retriever" in told.stdout
    assert "is done" in told.stderr
    shown = sensorium("jobs", "show", identity, "--server", server.url)
    assert "is done" in shown.stdout
    assert "golden retriever" in shown.stdout


def test_programs_get_a_line_of_json_for_each(sensorium: Sensorium, photos: Path, server: Server) -> None:
    Path("junk.jpg").write_bytes(b"junk")
    words = ("classify", photos / "a.png", "junk.jpg", "--model", "fake", "--watch", "--json", "--server", server.url)
    told = sensorium("jobs", "submit", *words)
    outcomes = {one["index"]: one for one in lines(told)}
    assert outcomes[1]["input"] == "junk.jpg"
    assert "result" in outcomes[0]
    assert outcomes[1]["error"]["code"] == "unsupported_media"
    assert told.exit_code == 2
    listed = lines(sensorium("jobs", "list", "--limit", "1", "--json", "--server", server.url))
    assert [(job["task"], job["state"], job["progress"]["failed"]) for job in listed] == [("classify", "done", 1)]
    shown = lines(sensorium("jobs", "show", listed[0]["id"], "--json", "--server", server.url))
    assert len(shown) == 3


def test_a_job_is_called_off_and_listed(sensorium: Sensorium, photos: Path, server: Server) -> None:
    identity = submit(sensorium, server, "classify", photos / "a.png", "--model", "slow", "--priority", "5")
    told = sensorium("jobs", "cancel", identity, "--server", server.url)
    assert f"Job {identity} (classify) is cancelled: 0 of 1." in told.stdout
    listed = sensorium("jobs", "list", "--state", "cancelled", "--server", server.url)
    assert identity in listed.stdout
    assert "no such jobs" in sensorium("jobs", "list", "--state", "waiting", "--server", server.url).stdout


def test_a_question_takes_its_words_as_its_own_command_does(sensorium: Sensorium, photos: Path, server: Server) -> None:
    words = ("ask", photos / "a.png", "What is this?", "--model", "fake", "--watch")
    told = sensorium("jobs", "submit", *words, "--server", server.url)
    assert told.exit_code == 0, told.output


def test_the_secret_of_webhooks_is_shown(sensorium: Sensorium, server: Server) -> None:
    told = sensorium("jobs", "secret", "--server", server.url)
    assert told.stdout.startswith("whsec_")
    (line,) = sensorium("jobs", "secret", "--json", "--server", server.url).stdout.splitlines()
    assert json.loads(line)["secret"] == told.stdout.strip()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("show", "0" * 32), 2, "no such job"),
        (("submit", "classify", "missing.jpg"), 2, "missing.jpg"),
        (("submit", "nothing", "a.png"), 2, "nothing"),
        (("list", "--state", "asleep"), 2, "waiting"),
    ],
)
def test_what_is_wrong_is_said(
    sensorium: Sensorium, photos: Path, server: Server, words: tuple[str, ...], code: int, said: str
) -> None:
    told = sensorium("jobs", *words, "--server", server.url)
    assert (told.exit_code, said in told.stderr) == (code, True), told.output


def test_no_server_is_told_with_a_remedy(sensorium: Sensorium, photos: Path) -> None:
    told = sensorium("jobs", "list", "--server", "http://127.0.0.1:9")
    assert told.exit_code == 1
    assert "Cannot reach http://127.0.0.1:9" in told.stderr


def test_an_unknown_task_is_said_with_the_likeliest(sensorium: Sensorium, photos: Path, server: Server) -> None:
    told = sensorium("jobs", "submit", "clasify", photos, "--server", server.url)
    assert (told.exit_code, "Did you mean classify?" in told.stderr) == (2, True)


def test_more_than_a_job_may_have_names_what_takes_any_number(sensorium: Sensorium, home: Path, server: Server) -> None:
    (home / "one.jpg").write_bytes(b"")
    told = sensorium("jobs", "submit", "classify", *["one.jpg"] * 1001, "--server", server.url)
    assert told.exit_code == 2
    assert f"sensorium batch one.jpg --task classify --server {server.url}" in told.stderr


def test_a_key_that_is_missing_is_asked_for_by_its_option(sensorium: Sensorium, tmp_path: Path) -> None:
    with running(tmp_path / "keyed", auth="on") as keyed:
        told = sensorium("jobs", "list", "--server", keyed.url)
    assert (told.exit_code, "--key KEY" in told.stderr) == (2, True)
