"""The commands that look after sensorium, and the help of all."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from sensorium.cli import main
from sensorium.cli.group import OTHERS
from sensorium.config import Settings
from tests.cli.conftest import Sensorium, lines
from tests.pictures import JUNK, jpeg

COMMANDS = [[name] for name in main.list_commands(click.Context(main))] + [
    ["models", "add"],
    ["models", "quantize"],
    ["keys", "create"],
    ["keys", "budget"],
    ["keys", "list"],
    ["keys", "revoke"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_shows_an_example_and_every_default(command: list[str], sensorium: Sensorium) -> None:
    said = sensorium(*command, "--help")
    assert said.exit_code == 0, said.output
    assert f"  sensorium {' '.join(command)}" in said.stdout.partition("Example")[2]
    assert "[default: ]" not in " ".join(said.stdout.split())
    found: click.Command | None = main
    for name in command:
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(main), name)
    assert found is not None
    for option in found.params:
        if isinstance(option, click.Option) and not option.required and not option.multiple:
            assert option.help, f"{option.opts} says nothing"


def test_help_of_the_whole_lists_every_command_with_a_summary(sensorium: Sensorium) -> None:
    said = sensorium("--help").stdout.splitlines()
    for command, *_ in COMMANDS:
        assert any(line.split()[:1] == [command] and len(line.split()) > 3 for line in said), command


def test_a_file_in_place_of_a_command_is_understood(sensorium: Sensorium, photos: Path) -> None:
    told = sensorium(photos / "a.png")
    assert told.exit_code == 2
    assert "Did you mean `sensorium analyze" in told.stderr


def test_engines_tell_licence_state_and_file(sensorium: Sensorium) -> None:
    models = {line["model"]: line for line in lines(sensorium("engines", "--json"))}
    lite = models["efficientnet_lite0@1"]
    assert (lite["licence"], lite["state"], lite["tasks"]) == ("Apache-2.0", "ready", ["classify"])
    assert Path(lite["source"]).is_file()
    assert "sensorium models add resnet50" in models["resnet50@1"]["state"]
    assert "efficientnet_lite0@1" in sensorium("engines").stdout
    assert "efficientnet_lite0@1" not in sensorium("engines", "--task", "describe-pixels").stdout


def test_a_broken_card_is_told_below_the_engines(sensorium: Sensorium, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "坏.toml").write_text("name = 1", encoding="utf-8")
    told = sensorium("engines")
    assert told.exit_code == 0
    assert "坏.toml is wrong" in told.stderr
    assert "坏.toml is wrong" in sensorium("doctor").stdout


def test_the_doctor_tries_the_main_job(sensorium: Sensorium) -> None:
    told = sensorium("doctor", "--json")
    assert told.exit_code == 0, told.output
    checks = {check["name"]: check for check in json.loads(told.stdout)["checks"]}
    assert "efficientnet_lite0@1 classified a picture" in checks["main job"]["found"]
    assert {"Python", "packages", "settings", "cache folder", "disk", "models folder"} <= set(checks)


def test_the_doctor_looks_at_the_models_that_the_settings_name(
    sensorium: Sensorium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSORIUM_MODELS", json.dumps({"classify": ["vgg16", "fake"], "ask": ["nobody"]}))
    told = json.loads(sensorium("doctor", "--json").stdout)["checks"]
    looked = [(check["health"], check["found"]) for check in told if check["name"] == "model for classify"]
    assert looked == [
        ("note", "vgg16@1, not installed: sensorium models add vgg16 vgg16.onnx"),
        ("ok", "fake@1, ready"),
    ]
    (ask,) = [check for check in told if check["name"] == "model for ask"]
    assert ask["health"] == "bad"
    assert "'nobody'" in ask["found"]


@pytest.mark.parametrize("named", [{}, {"faces": ["yunet", "haar_frontalface"]}])
def test_the_doctor_opens_files_that_were_put_into_the_models_folder_by_hand(
    sensorium: Sensorium, home: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, list[str]]
) -> None:
    monkeypatch.setenv("SENSORIUM_MODELS", json.dumps(named))
    (home.parent / "models").mkdir()
    (home.parent / "models" / "yunet.onnx").write_bytes(b"junk")
    told = sensorium("doctor", "--json")
    assert told.exit_code == 1
    first = next(check for check in json.loads(told.stdout)["checks"] if check["name"] == "model for faces")
    assert first["health"] == "bad"
    assert "yunet@1: Cannot read yunet.onnx" in first["found"]
    assert "put it in place of" in first["found"]


def test_the_doctor_looks_at_the_models_to_fall_back_on(sensorium: Sensorium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    fallbacks = {
        "gpt-4o": ["perception", "nobody", "efficientnet_lite0", "openai", "openai/gpt-4.1"],
        "gpt-40": ["perception"],
    }
    monkeypatch.setenv("SENSORIUM_FALLBACKS", json.dumps(fallbacks))
    told = sensorium("doctor", "--json")
    assert told.exit_code == 1
    checks = json.loads(told.stdout)["checks"]
    first, wrong = (check for check in checks if check["name"] == "model with fallbacks")
    assert first["health"] == "note", "its key is missing"
    assert "OPENAI_API_KEY" in first["found"]
    assert (wrong["health"], wrong["fix"]) == ("bad", "Correct the setting `fallbacks`, at 'gpt-40'.")
    others = [check for check in checks if check["name"] == "fallback of gpt-4o"]
    assert [check["health"] for check in others] == ["ok", "bad", "bad", "bad", "note"]
    reasons = ("perception@1, ready", "'nobody'", "does not answer ask", "it is a provider", "OPENAI_API_KEY")
    for check, said in zip(others, reasons, strict=True):
        assert said in check["found"]


def test_the_doctor_names_what_is_wrong_and_what_mends_it(
    sensorium: Sensorium, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_bytes(b"")
    monkeypatch.setenv("SENSORIUM_CACHE_DIR", str(home / "file" / "cache"))
    monkeypatch.setenv("SENSORIUM_PROT", "80")
    told = sensorium("doctor")
    assert told.exit_code == 1
    assert "Set SENSORIUM_CACHE_DIR" in told.stdout
    assert "SENSORIUM_PROT: there is no such setting" in told.stdout
    assert "Something is wrong" in told.stdout


def test_the_doctor_tells_a_missing_package(sensorium: Sensorium, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["numpy>=2", "nowhere-to-be-found>=1", 'neither-this; extra == "video"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needed)
    told = sensorium("doctor")
    assert told.exit_code == 1
    assert "nowhere-to-be-found: not installed\n      Run `pip install" in told.stdout
    assert "pip install 'sensorium[video]'" in told.stdout
    assert "main job" not in told.stdout, "nothing else can be told before"


def test_the_doctor_tells_two_runtimes_that_spoil_each_other(
    sensorium: Sensorium, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"onnxruntime": "1", "onnxruntime-gpu": "1", "numpy": "2"}
    needed = ["numpy>=2", "onnxruntime>=1", 'onnxruntime-gpu>=1; extra == "gpu"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needed)
    monkeypatch.setattr("sensorium.cli.doctor._version", both.get)
    told = sensorium("doctor")
    assert told.exit_code == 1
    assert "pip uninstall --yes onnxruntime onnxruntime-gpu" in told.stdout
    del both["onnxruntime"]
    assert "onnxruntime-gpu 1" in sensorium("doctor").stdout
    assert sensorium("doctor").exit_code == 0, "the one for graphics cards takes the other's place"


def test_a_device_here_does_not_go_with_a_server_elsewhere(sensorium: Sensorium) -> None:
    told = sensorium("classify", "x.jpg", "--device", "cpu", "--server", "http://127.0.0.1:1")
    assert told.exit_code == 2
    assert "--device does not go with --server" in told.stderr


def test_the_doctor_does_not_miss_what_only_graphics_cards_need(
    sensorium: Sensorium, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = ["numpy>=2", 'onnxruntime-gpu-that-is-not-here>=1; extra == "gpu"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needed)
    assert "not-here" not in sensorium("doctor").stdout


def test_the_doctor_tells_that_no_font_has_chinese(sensorium: Sensorium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorium.media.draw.can_write_chinese", lambda: False)
    assert "no font with Chinese: --draw puts numbers" in sensorium("doctor").stdout


def test_the_doctor_tells_wrong_settings(sensorium: Sensorium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORIUM_PORT", "door")
    told = sensorium("doctor")
    assert told.exit_code == 1
    assert "`port`" in told.stdout


def test_probe_says_what_files_are(sensorium: Sensorium, photos: Path) -> None:
    told = sensorium("probe", photos / "b 猫.jpg", photos / "notes.txt", "missing", "-", "--json", input=JUNK)
    assert told.exit_code == 2
    picture, text, missing, unknown = lines(told)
    assert (picture["result"]["called"], picture["result"]["accepted"]) == ("a JPEG", True)
    assert (text["result"]["kind"], text["result"]["accepted"]) == ("text", False)
    assert missing["error"]["code"] == "file_missing"
    assert unknown["result"]["kind"] == "unknown"
    said = sensorium("probe", photos / "b 猫.jpg").stdout
    assert "a JPEG" in said
    assert "can be analysed" in said


def test_settings_say_where_each_comes_from(sensorium: Sensorium, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "sensorium.toml").write_text("port = 9000", encoding="utf-8")
    monkeypatch.setenv("SENSORIUM_HOST", "::1")
    told = json.loads(sensorium("settings", "--json").stdout)
    assert told["port"] == {"value": 9000, "from": "sensorium.toml"}
    assert told["host"] == {"value": "::1", "from": "SENSORIUM_HOST"}
    assert told["waiting"]["from"] == "default"
    assert "9000  (sensorium.toml)" in sensorium("settings").stdout


def test_serve_hands_its_options_on_as_settings(sensorium: Sensorium, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr("sensorium.server.serve.serve", seen.append)
    assert sensorium("serve", "--port", "0", "--threads", "3", "--cache", "off").exit_code == 0
    assert (seen[0].port, seen[0].threads, seen[0].cache, seen[0].host) == (0, 3, "off", "127.0.0.1")
    assert sensorium("serve", "--port", "70000").exit_code == 2


def test_no_command_hides_a_task() -> None:
    from sensorium import discovery

    assert not set(OTHERS) & set(discovery.modules(discovery.TASKS))


def test_a_broken_task_from_elsewhere_spoils_no_help(sensorium: Sensorium, monkeypatch: pytest.MonkeyPatch) -> None:
    from sensorium import discovery

    places = {**discovery.modules(discovery.TASKS), "ghost": "no_such_package.ghost"}
    monkeypatch.setattr(discovery, "modules", lambda package: places)
    assert "ghost" in sensorium("--help").stdout
    told = sensorium("ghost", "x.jpg")
    assert told.exit_code == 2
    assert "Task 'ghost' cannot be loaded" in told.stderr


def test_a_picture_needs_no_suffix(sensorium: Sensorium, home: Path) -> None:
    (home / "图").write_bytes(jpeg())
    assert sensorium("classify", "图", "--model", "fake").exit_code == 0
