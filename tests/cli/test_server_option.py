"""Task commands that ask a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Sensorium, lines
from tests.fakes import put_fake
from tests.pictures import jpeg
from tests.server.conftest import Server, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    for name, more in (("talker", ""), ("breaking", 'fail = "provider_failed"')):
        put_fake(folder / "models", name, f'words = ["a ", "cat"]\n{more}')
    with running(folder) as started:
        yield started


def test_the_answers_are_those_of_this_machine(sensorium: Sensorium, photos: Path, server: Server) -> None:
    words = ("classify", "照片", "missing.jpg", "-", "--model", "fake", "--json")
    here, there = (lines(sensorium(*words, *more, input=jpeg())) for more in ((), ("--server", server.url)))
    for line in (*here, *there):
        line.get("result", {}).pop("meta", None)
    assert here == there
    assert [next(iter(line.get("error", line["input"]))) for line in there[-2:]] == ["code", "-"]


def test_people_see_the_same_and_drawings_are_made_here(sensorium: Sensorium, photos: Path, server: Server) -> None:
    told = sensorium("read", photos / "a.png", "--server", server.url, "--draw", "out.png")
    assert told.exit_code == 0, told.output
    assert "fake@1" in told.stdout
    with Image.open("out.png") as drawn:
        assert drawn.width == 64


def test_a_failure_of_the_connection_ends_with_1_and_a_remedy(sensorium: Sensorium, photos: Path) -> None:
    told = sensorium("classify", photos / "a.png", "--server", "http://127.0.0.1:9")
    assert told.exit_code == 1
    assert "Cannot reach http://127.0.0.1:9" in told.stderr
    assert "that the server runs there" in told.stderr


def test_a_wrong_address_or_key_ends_with_2_and_is_not_repeated(
    sensorium: Sensorium, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSORIUM_KEY", "wrong secret")
    told = sensorium("classify", photos / "a.png", "--server", "http://127.0.0.1:9")
    assert told.exit_code == 2
    assert "`key`" in told.stderr
    assert "secret" not in told.output
    assert sensorium("classify", photos / "a.png", "--server", "127.0.0.1:9", "--key", "x").exit_code == 2


def test_a_missing_key_is_told_with_where_to_give_one(
    sensorium: Sensorium, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running(tmp_path_factory.mktemp("keyed"), auth="on") as keyed:
        told = sensorium("classify", photos / "a.png", "--server", keyed.url)
    assert told.exit_code == 2
    assert "--key" in told.stderr
    assert "SENSORIUM_KEY" in told.stderr


def test_words_are_written_as_the_server_tells_them(sensorium: Sensorium, photos: Path, server: Server) -> None:
    words = ("ask", photos / "a.png", "What is this?", "--server", server.url, "--stream", "--model")
    told = sensorium(*words, "talker")
    assert (told.exit_code, told.stdout) == (0, "a cat\n")
    assert "talker@1" in told.stderr
    told = sensorium(*words, "breaking")
    assert (told.exit_code, told.stdout) == (1, "a cat\n")
    assert "breaking@1 fails" in told.stderr
    assert "nobody" in sensorium(*words, "nobody").stderr
