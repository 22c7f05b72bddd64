"""The commands of the tasks: what comes in, how answers are told, and how the command ends."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from sensorium.cli import tasks
from tests.cli.conftest import Sensorium, lines
from tests.fakes import put_fake
from tests.pictures import JUNK, jpeg, png

TASKS = ("analyze", "classify", "read", "describe-pixels")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_answers_for_people_and_for_programs(task: str, sensorium: Sensorium, photos: Path) -> None:
    told = sensorium(task, photos / "a.png", "--model", "fake")
    assert told.exit_code == 0, told.output
    assert "fake@1" in told.stdout
    assert "64 × 48 png" in told.stdout
    answer = lines(sensorium(task, photos / "a.png", "--model", "fake", "--json"))
    assert [line["result"]["image"]["width"] for line in answer] == [64]


def test_answers_come_in_order_and_a_bad_file_stops_no_other(sensorium: Sensorium, photos: Path) -> None:
    told = sensorium("classify", "照片", "missing.jpg", photos / "notes.txt", "--model", "fake", "--json")
    assert told.exit_code == 2
    found = lines(told)
    assert [line["input"] for line in found] == [
        str(Path("照片", "a.png")),
        str(Path("照片", "b 猫.jpg")),
        str(Path("照片", "broken.jpg")),
        str(Path("照片", "旅行", "长城")),
        "missing.jpg",
        str(photos / "notes.txt"),
    ]
    assert [line.get("error", {}).get("code") for line in found] == [
        None,
        None,
        "corrupt_media",
        None,
        "file_missing",
        "unsupported_media",
    ]
    assert "猫" in told.stdout, "UTF-8 as it is, not escaped"


def test_for_people_errors_go_to_standard_error(sensorium: Sensorium, photos: Path) -> None:
    told = sensorium("classify", photos, "--model", "fake")
    assert told.exit_code == 2
    assert "broken.jpg" in told.stderr
    assert "broken.jpg" not in told.stdout
    assert told.stdout.count("golden retriever") == 3
    assert "\x1b" not in told.output, "no colours in what is piped"
    assert "Traceback" not in told.output


def test_a_folder_without_pictures_says_so(sensorium: Sensorium, home: Path) -> None:
    (home / "空").mkdir()
    told = sensorium("classify", "空", "--model", "fake")
    assert told.exit_code == 2
    assert "nothing to look at in 空" in told.stderr


def test_standard_input_is_read_as_bytes(sensorium: Sensorium) -> None:
    told = sensorium("classify", "-", "--model", "fake", "--json", input=jpeg())
    assert [(line["input"], line["result"]["image"]["format"]) for line in lines(told)] == [("-", "jpeg")]
    assert sensorium("classify", "-", "--model", "fake", input=JUNK).exit_code == 2
    assert sensorium("classify", "-", "-", "--model", "fake", input=jpeg()).exit_code == 2


def test_an_endless_standard_input_is_cut_off(sensorium: Sensorium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORIUM_MAX_BYTES", "1000")
    told = sensorium("classify", "-", "--model", "fake", "--json", input=png() + bytes(5000))
    assert lines(told)[0]["error"]["code"] == "input_too_large"


def test_a_url_that_may_not_be_reached_is_an_error_of_its_own(sensorium: Sensorium, photos: Path) -> None:
    address = "http://user:secret@127.0.0.1:9/cat.jpg?token=secret"
    told = sensorium("classify", address, photos / "a.png", "--model", "fake", "--json")
    assert told.exit_code == 2
    assert [list(line) for line in lines(told)] == [["input", "error"], ["input", "result"]]
    assert "secret" not in told.output


def test_what_the_caller_got_wrong_is_told_once_with_a_hint(sensorium: Sensorium, photos: Path) -> None:
    told = sensorium("classify", photos, "--model", "efficientnet_lite")
    assert told.exit_code == 2
    assert told.stderr.count("There is no model") == 1
    assert "efficientnet_lite0" in told.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("classify",),
        ("classify", "x.jpg", "--top-k", "0"),
        ("classify", "x.jpg", "--timeout", "nan"),
        ("classify", "x.jpg", "--timeout", "-1"),
        ("analyze", "x.jpg", "--parts", "smell"),
        ("clasify", "x.jpg"),
        ("--nonsense",),
        ("engines", "--task", "smell"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_a_sentence(words: tuple[str, ...], sensorium: Sensorium) -> None:
    told = sensorium(*words)
    assert told.exit_code == 2
    assert "Error: " in told.stderr
    assert "Traceback" not in told.output


def test_wrong_settings_end_with_2_and_name_the_setting(sensorium: Sensorium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORIUM_THREADS", "many")
    told = sensorium("classify", "x.jpg")
    assert told.exit_code == 2
    assert "`threads`" in told.stderr


def test_a_failing_engine_ends_with_1(sensorium: Sensorium, photos: Path, tmp_path: Path) -> None:
    put_fake(tmp_path / "models", "ill", 'fail = "engine_failed"')
    told = sensorium("classify", photos / "a.png", "--model", "ill", "--json")
    assert told.exit_code == 1
    assert lines(told)[0]["error"]["code"] == "engine_failed"
    both = sensorium("classify", photos / "a.png", "missing.jpg", "--model", "ill")
    assert both.exit_code == 2, "bad input weighs more"


def test_time_that_runs_out_is_told(sensorium: Sensorium, photos: Path, tmp_path: Path) -> None:
    put_fake(tmp_path / "models", "slow", "seconds = 30.0")
    told = sensorium("classify", photos / "a.png", "--model", "slow", "--timeout", "0.2", "--json")
    assert told.exit_code == 1
    assert lines(told)[0]["error"]["code"] == "deadline_exceeded"


def test_an_unexpected_error_is_one_sentence_unless_asked_for_more(
    sensorium: Sensorium, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*words: object, **more: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("sensorium.cli.tasks.expand", broken)
    told = sensorium("classify", photos)
    assert told.exit_code == 1
    assert "ZeroDivisionError: by nothing" in told.stderr
    assert "report" in told.stderr
    assert "Traceback" not in told.output
    monkeypatch.setenv("SENSORIUM_DEBUG", "1")
    assert "Traceback" in sensorium("classify", photos).stderr


def test_debug_may_stand_anywhere_and_holds_for_one_run(sensorium: Sensorium, photos: Path) -> None:
    assert "Traceback" in sensorium("classify", "x.jpg", "--model", "none", "--debug").output
    assert "Traceback" in sensorium("--debug", "classify", "x.jpg", "--model", "none").output
    assert "Traceback" not in sensorium("classify", "x.jpg", "--model", "none").output


def test_one_picture_is_drawn_where_it_is_told(sensorium: Sensorium, photos: Path, home: Path) -> None:
    told = sensorium("read", photos / "b 猫.jpg", "--model", "fake", "--draw", "画.png")
    assert told.exit_code == 0, told.output
    assert "drawn in 画.png" in told.stdout
    with Image.open(home / "画.png") as drawn:
        assert drawn.format == "PNG"


def test_many_pictures_are_drawn_into_a_folder(sensorium: Sensorium, photos: Path, home: Path) -> None:
    told = sensorium("read", photos, photos / "a.png", "--model", "fake", "--draw", "out", "--json")
    assert told.exit_code == 2, "one is broken"
    drawn = {path.relative_to(home / "out").as_posix() for path in (home / "out").rglob("*") if path.is_file()}
    assert drawn == {"a.png", "a-2.png", "b 猫.jpg", "旅行/长城.jpg"}


def test_a_drawing_never_goes_over_an_input(sensorium: Sensorium, photos: Path) -> None:
    before = (photos / "a.png").read_bytes()
    told = sensorium("read", photos / "a.png", "--model", "fake", "--draw", Path("照片", "..", "照片", "a.png"))
    assert (told.exit_code, told.stdout) == (2, "")
    assert "Will not write over" in told.stderr
    assert sensorium("read", photos, "--model", "fake", "--draw", photos).exit_code == 2
    assert (photos / "a.png").read_bytes() == before


@pytest.mark.parametrize("out", ["out.gif", "out"])
def test_a_drawing_of_no_known_kind_is_refused_before_any_work(out: str, sensorium: Sensorium, photos: Path) -> None:
    told = sensorium("read", photos / "a.png", "--model", "fake", "--draw", out)
    assert (told.exit_code, told.stdout) == (2, "")
    assert ".jpg" in told.stderr


def test_a_drawing_that_cannot_be_written_is_the_error_of_that_input(
    sensorium: Sensorium, photos: Path, home: Path
) -> None:
    (home / "file").write_bytes(b"")
    told = sensorium("read", photos / "a.png", "--model", "fake", "--draw", "file/out.jpg", "--json")
    assert told.exit_code == 2
    assert lines(told)[0]["error"]["code"] == "invalid_configuration"


def test_a_name_cannot_steer_the_terminal(sensorium: Sensorium) -> None:
    told = sensorium("classify", "\x1b[2Jnone.jpg", "--model", "fake")
    assert "\x1b" not in told.output


def test_a_name_that_is_no_text_is_written_as_an_escape(sensorium: Sensorium) -> None:
    told = sensorium("classify", "\udcff.jpg", "--model", "fake", "--json")
    assert lines(told)[0]["input"] == "\udcff.jpg"


def test_the_cache_is_used_unless_told_not_to(
    sensorium: Sensorium, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSORIUM_CACHE", "sqlite")
    monkeypatch.setenv("SENSORIUM_CACHE_DIR", str(tmp_path / "cache"))
    ask = ("classify", photos / "a.png", "--model", "fake", "--json")
    told = [sensorium(*ask), sensorium(*ask), sensorium(*ask, "--no-cache")]
    assert [lines(result)[0]["result"]["meta"]["cached"] for result in told] == [False, True, False]


def test_the_main_job_on_a_real_photograph(sensorium: Sensorium) -> None:
    from tests.pictures import skimage_photograph

    told = sensorium("analyze", skimage_photograph("coffee.png"))
    assert told.exit_code == 0, told.output
    for said in ("espresso", "no text found", "brown", "efficientnet_lite0@1", "3:2 (landscape)"):
        assert said in told.stdout


def test_json_of_the_command_is_that_of_the_schema(sensorium: Sensorium, photos: Path) -> None:
    from sensorium.schemas.analyze import Analysis

    told = sensorium("analyze", photos / "a.png", "--model", "fake", "--json")
    result = lines(told)[0]["result"]
    assert Analysis.model_validate_json(json.dumps(result)).model_dump(mode="json") == result


def test_a_name_too_long_for_any_file_fails_alone(sensorium: Sensorium, photos: Path) -> None:
    told = sensorium("classify", "x" * 5_000, photos / "a.png", "--model", "fake", "--json")
    assert [list(line)[1] for line in lines(told)] == ["error", "result"]
    assert told.exit_code == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
def test_a_drawn_picture_has_the_rights_of_any_new_file(sensorium: Sensorium, photos: Path, home: Path) -> None:
    (home / "usual").touch()
    assert sensorium("read", photos / "a.png", "--model", "fake", "--draw", home / "drawn.png").exit_code == 0
    assert (home / "drawn.png").stat().st_mode == (home / "usual").stat().st_mode


def test_tokens_are_told_for_people_and_for_programs(sensorium: Sensorium, photos: Path) -> None:
    told = sensorium("tokens", photos / "a.png", "--model", "gpt-4o", "--prompt", "How much is this?")
    assert told.exit_code == 0, told.output
    assert "255 tokens for a picture of 64 × 48" in told.stdout
    assert "$0.00" in told.stdout
    (line,) = lines(sensorium("tokens", photos / "a.png", "--model", "gpt-4o", "--json"))
    assert line["result"]["pictures"][0]["tokens"] == 255
    refused = sensorium("tokens", photos / "a.png")
    assert refused.exit_code == 2
    assert "--model" in sensorium("tokens", "--help").stdout
    assert "`model`" in refused.stderr


def test_tokens_take_pictures_and_words_as_ask_does(sensorium: Sensorium, photos: Path) -> None:
    def counted(*words: object) -> tuple[int, int]:
        told = sensorium("tokens", *words, "--model", "gpt-4o", "--json")
        assert told.exit_code == 0, told.output
        (line,) = lines(told)
        return line["result"]["image_tokens"], line["result"]["text_tokens"]

    question = "How much is this?"
    assert counted(photos / "a.png", question) == counted(photos / "a.png", "--prompt", question)
    pictures, words = counted(question)
    assert pictures == 0
    assert words > counted(photos / "a.png")[1]
    missing = sensorium("tokens", "nowhere.JPG", "--model", "gpt-4o", "--json")
    assert lines(missing)[0]["error"]["code"] == "file_missing"


def test_the_help_of_compare_names_the_models_that_it_asks(sensorium: Sensorium) -> None:
    told = " ".join(sensorium("compare", "--help").stdout.split())
    assert "`sensorium engines --task ask`" in told
    assert "else perception" in told
    assert '--question "Which one fits a passport?"' in told


def test_a_result_that_comes_just_as_the_work_is_broken_off_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> int:
        given_up = asyncio.get_running_loop().create_future()
        given_up.cancel()
        asyncio.get_running_loop().call_soon(given_up.set_result, None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return 7

    assert tasks.finish(work()) == 7
    assert not caplog.records
