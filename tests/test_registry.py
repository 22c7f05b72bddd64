from __future__ import annotations

import os
from pathlib import Path

import pytest

from sensorium.engine import Host
from sensorium.errors import InvalidModel, MissingDependency
from sensorium.registry import Registry

CARD = """
name = "{name}"
kind = "{kind}"
tasks = ["classify"]
licence = "MIT"
"""


def write(folder: Path, name: str, kind: str = "fake", more: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(CARD.format(name=name, kind=kind) + more, encoding="utf-8")


def test_a_card_in_the_models_folder_is_a_model_also_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "我的模型", "mine")
    registry = Registry(tmp_path)
    assert registry.card("mine", "classify").folder == tmp_path / "我的模型"
    assert registry.state(registry.card("mine", "classify")) == "ready"


def test_a_users_card_goes_before_a_known_one_of_the_same_name_and_version(tmp_path: Path) -> None:
    write(tmp_path, "fake", more='origin = "mine"')
    registry = Registry(tmp_path)
    assert registry.card("fake", "classify").origin == "mine"
    assert [card.id for card in registry.cards].count("fake@1") == 1


def test_versions_live_side_by_side_and_the_first_is_meant_unless_one_is_named(tmp_path: Path) -> None:
    write(tmp_path / "1", "mine")
    write(tmp_path / "2", "mine", more='version = "2"')
    registry = Registry(tmp_path)
    assert registry.card("mine@2", "classify").version == "2"
    assert {card.id for card in registry.cards} >= {"mine@1", "mine@2"}


def test_weights_of_a_users_model_need_a_checksum(tmp_path: Path) -> None:
    write(tmp_path, "mine", more='[weights]\nfile = "mine.onnx"')
    registry = Registry(tmp_path)
    assert not [card for card in registry.cards if card.name == "mine"]
    assert [str(problem) for problem in registry.problems if "sha256" in str(problem)]


@pytest.mark.parametrize("text", ["name = ", "\xff\xfe", 'name = "Not Allowed"', 'name = "x"'])
def test_a_wrong_card_is_told_by_its_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "wrong.toml").write_bytes(text.encode("latin-1"))
    registry = Registry(tmp_path)
    assert registry.cards
    assert [type(problem) for problem in registry.problems] == [InvalidModel]
    assert "wrong.toml" in str(registry.problems[0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_or_a_monster_among_the_cards_spoils_no_other(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 50_000, encoding="utf-8")
    (tmp_path / "large.toml").write_text("#" * 1_000_001, encoding="utf-8")
    registry = Registry(tmp_path)
    assert registry.cards
    assert [type(problem) for problem in registry.problems] == [InvalidModel] * 3


def test_an_engine_kind_that_does_not_exist_is_told_with_near_ones(tmp_path: Path) -> None:
    write(tmp_path, "mine", kind="fak")
    registry = Registry(tmp_path)
    card = registry.card("mine", "classify")
    assert "no engine kind 'fak'" in registry.state(card)
    with pytest.raises(InvalidModel, match="Did you mean fake"):
        registry.engine(card, Host(cache_dir=tmp_path))


def test_a_package_that_is_missing_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sensorium.engines.fake

    monkeypatch.setattr(sensorium.engines.fake, "REQUIRES", ("no_such_package",))
    registry = Registry(tmp_path)
    card = registry.card("fake", "classify")
    assert registry.state(card).startswith("missing no_such_package: pip install")
    with pytest.raises(MissingDependency, match="pip install"):
        registry.engine(card, Host(cache_dir=tmp_path))


def test_a_models_folder_that_is_not_there_is_no_problem(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "nowhere")
    assert registry.cards
    assert not registry.problems
