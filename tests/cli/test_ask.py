"""`sensorium ask` and `sensorium compare`: words for people as they come, JSON for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Sensorium, lines
from tests.fakes import put_fake
from tests.pictures import jpeg, photograph, png


@pytest.fixture(autouse=True)
def models(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORIUM_MODELS", '{"read": ["fake"]}')  # which is ready at once
    folder = tmp_path / "models"
    put_fake(folder, "talker", 'words = ["a ", "cat \\u001b[31m"]')
    put_fake(folder, "breaking", 'words = ["a "]\nfail = "provider_failed"')
    put_fake(folder, "far", remote=True)
    (home / "a.jpg").write_bytes(photograph())
    (home / "b.png").write_bytes(png())


def test_the_answer_alone_goes_to_standard_output_and_what_it_took_to_standard_error(sensorium: Sensorium) -> None:
    done = sensorium("ask", "a.jpg", "What is this?")
    assert done.exit_code == 0
    assert done.stdout.startswith("I am not a language model")
    assert "espresso" in done.stdout
    assert "perception@1" not in done.stdout
    assert "perception@1 · " in done.stderr


def test_words_are_written_as_they_come_and_steer_no_terminal(sensorium: Sensorium) -> None:
    done = sensorium("ask", "a.jpg", "What is this?", "--model", "talker", "--stream")
    assert done.stdout == "a cat �[31m\n"
    assert "talker@1" in done.stderr


def test_a_model_that_streams_nothing_is_told_whole(sensorium: Sensorium) -> None:
    assert sensorium("ask", "a.jpg", "What is this?", "--model", "fake", "--stream").stdout == "example\n"


def test_a_stream_that_breaks_says_so_after_the_words(sensorium: Sensorium) -> None:
    done = sensorium("ask", "a.jpg", "What is this?", "--model", "breaking", "--stream")
    assert (done.exit_code, done.stdout) == (1, "a \n")
    assert "breaking@1 fails" in done.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no terminals")
def test_on_a_terminal_words_are_written_as_they_come(home: Path) -> None:
    parent, child = os.openpty()
    command = [sys.executable, "-m", "sensorium", "ask", "a.jpg", "What?", "--model", "talker"]
    done = subprocess.run(command, cwd=home, stdout=child, stderr=subprocess.PIPE, timeout=60)
    os.close(child)
    assert done.returncode == 0
    assert os.read(parent, 1000).startswith(b"a cat ")
    os.close(parent)


def test_a_question_without_pictures_is_asked_by_itself(sensorium: Sensorium) -> None:
    assert "no picture" in sensorium("ask", "Hello?").stdout
    assert "no picture" in sensorium("ask", "--prompt", "Hello?").stdout


def test_a_forgotten_question_is_asked_for(sensorium: Sensorium) -> None:
    for words in (["a.jpg"], ["a.jpg", "b.png"], ["https://example.com/a.jpg"], []):
        done = sensorium("ask", *words)
        assert done.exit_code == 2
        assert "Put it last: `sensorium ask " in done.stderr
    assert 'photo.jpg "How much is this?"' in sensorium("ask").stderr or 'ask "How' in sensorium("ask").stderr


def test_a_question_before_its_picture_is_put_in_its_place(sensorium: Sensorium, home: Path) -> None:
    (home / "my cat.png").write_bytes(png())
    done = sensorium("ask", "How old is it?", "my cat.png")
    assert done.exit_code == 2
    assert 'sensorium ask "my cat.png" "How old is it?"`' in done.stderr


def test_a_schema_given_as_a_file_is_told_how_to_be_given(sensorium: Sensorium, home: Path) -> None:
    (home / "schema.json").write_text("{}", encoding="utf-8")
    for value, hinted in (("schema.json", True), ("@schema.json", True), ("{" * 5000, False)):
        done = sensorium("ask", "a.jpg", "What?", "--json-schema", value)
        assert done.exit_code == 2
        assert ("$(cat FILE)" in done.stderr) is hinted


def test_many_pictures_are_asked_about_one_by_one(sensorium: Sensorium) -> None:
    told = lines(sensorium("ask", "a.jpg", "nowhere.jpg", "b.png", "这是什么？", "--json"))
    assert [one["input"] for one in told] == ["a.jpg", "nowhere.jpg", "b.png"]
    assert "不是语言模型" in told[0]["result"]["text"]
    assert told[1]["error"]["code"] == "file_missing"
    plain = sensorium("ask", "a.jpg", "b.png", "What is this?").stdout
    assert plain.startswith("a.jpg\n")
    assert "\nb.png\n" in plain


def test_several_pictures_of_one_question_are_named_beside_it(sensorium: Sensorium) -> None:
    done = sensorium("ask", "a.jpg", "Which one?", "--images", "b.png")
    assert "Picture 2 has 64 × 48" in done.stdout


def test_a_schema_gives_a_value(sensorium: Sensorium) -> None:
    schema = json.dumps({"type": "object", "properties": {"label": {"type": "string"}}})
    (told,) = lines(sensorium("ask", "a.jpg", "What?", "--json-schema", schema, "--json"))
    assert told["result"]["data"] == {"label": "espresso"}


def test_a_remote_model_is_refused_where_privacy_is_local(sensorium: Sensorium) -> None:
    assert sensorium("ask", "a.jpg", "What?", "--model", "far").exit_code == 0
    done = sensorium("ask", "a.jpg", "What?", "--model", "far", "--privacy", "local", "--no-stream")
    assert done.exit_code == 2
    assert "`privacy` is local" in done.stderr


def test_pictures_are_compared(sensorium: Sensorium) -> None:
    done = sensorium("compare", "a.jpg", "b.png")
    assert done.exit_code == 0
    for said in ("a.jpg, b.png", "similarities", "differences", "- Picture 1: espresso", "recommendation"):
        assert said in done.stdout
    (told,) = lines(sensorium("compare", "a.jpg", "b.png", "--json", "--question", "Which?"))
    assert told["result"]["recommendation"]


def test_what_cannot_be_compared_is_told(sensorium: Sensorium, home: Path) -> None:
    assert "two pictures or more" in sensorium("compare", "a.jpg").stderr
    (home / "broken.jpg").write_bytes(jpeg()[:200])
    for other in ("nowhere.jpg", "broken.jpg"):
        done = sensorium("compare", "a.jpg", other)
        assert done.exit_code == 2
        assert other in done.stderr
    assert "no model 'nobody' for ask" in sensorium("compare", "a.jpg", "b.png", "--model", "nobody").stderr
    assert sensorium("compare").exit_code == 2
