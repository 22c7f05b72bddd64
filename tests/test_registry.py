from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sensorium.engine import Host
from sensorium.errors import InvalidModel, MissingDependency, UnknownModel
from sensorium.registry import Registry, version_order

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


def test_versions_live_side_by_side_and_the_highest_is_meant_unless_one_is_named_or_pinned(tmp_path: Path) -> None:
    for version in ("2", "10", "9.1"):
        write(tmp_path / version, "mine", more=f'version = "{version}"')
    assert Registry(tmp_path).card("mine", "classify").version == "10"
    assert Registry(tmp_path).card("Mine@2", "classify").version == "2"
    pinned = Registry(tmp_path, pinned=["mine@9.1", "mine@2"])
    assert pinned.card("mine", "classify").version == "9.1"
    assert pinned.card("mine@10", "classify").version == "10"
    assert {card.id for card in pinned.cards} >= {"mine@2", "mine@10", "mine@9.1"}


def test_versions_are_compared_as_people_read_them() -> None:
    rising = ["0.9", "1", "1.0-rc1", "1.0-rc2", "1.0", "1.0-int8", "1.0.1", "v1.2", "1.10", "2-beta", "2", "2024-11-01"]
    assert sorted(set(rising), key=version_order) == rising


def test_a_users_own_version_goes_before_a_known_one_of_any_version(tmp_path: Path) -> None:
    write(tmp_path, "fake", more='version = "0.1"')
    assert Registry(tmp_path).card("fake", "classify").version == "0.1"


@pytest.mark.parametrize("text", ['name = "mine"', 'name = "mine"\nkind = ', "\xff"])
def test_a_model_with_a_broken_card_is_told_so_by_name_and_others_are_not_touched(tmp_path: Path, text: str) -> None:
    write(tmp_path, "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "card.toml").write_bytes(text.encode("latin-1"))
    registry = Registry(tmp_path)
    with pytest.raises(InvalidModel, match=r"card\.toml"):
        registry.card("mine", "classify")
    assert registry.card("other", "classify").name == "other"


def test_a_broken_card_of_a_provider_is_told_where_one_of_its_models_is_named(tmp_path: Path) -> None:
    quirks = 'any_model = true\nbase_ulr = "http://127.0.0.1:1/v1"'
    text = f'name = "acme"\nkind = "openai"\ntasks = ["ask"]\nlicence = "none"\n[quirks]\n{quirks}\n'
    (tmp_path / "acme.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidModel, match="`base_ulr`: there is no such field"):
        Registry(tmp_path).card("acme/some-model", "ask")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("opena", "Did you mean openai/MODEL"),
        ("gpt-4", "Did you mean gpt-4"),
        ("opnai/gpt-4o", "Did you mean openai/gpt-4o"),
        ("vlm/", "Did you mean vllm/MODEL"),
    ],
)
def test_only_what_can_be_asked_is_proposed_for_an_unknown_model(name: str, near: str) -> None:
    with pytest.raises(UnknownModel) as unknown:
        Registry().card(name, "ask")
    assert near in str(unknown.value)


def test_the_list_of_models_names_providers_by_how_their_models_are_asked() -> None:
    for name in ("xxxxxxxxxxxx", "efficientnet_lite0"):
        with pytest.raises(UnknownModel) as unknown:
            Registry().card(name, "ask")
        assert unknown.value.fix
        names = unknown.value.fix.partition(": ")[2].split(", ")
        assert {"openai/MODEL", "vllm/MODEL", "perception", "gpt-4o"} <= set(names)
        assert not {"openai", "vllm"} & set(names)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("perception", "sensorium"),
        ("gpt-4o", "openai"),
        ("qwen-vl-max", "dashscope"),
        ("claude-sonnet-5", "anthropic"),
        ("gemini-2.5-pro", "gemini"),
        ("llava/llava-1.6", "llava"),
        ("vllm", "vllm"),
        ("lab", "lab"),
        ("lab/big", "lab"),
        ("receipts", "receipts"),
        ("mine", "openai"),
    ],
)
def test_a_model_s_owner_is_its_provider(tmp_path: Path, name: str, owner: str) -> None:
    for own, quirks in {
        "lab": 'any_model = true\nbase_url = "http://10.0.0.5:1/v1"',
        "receipts": 'base_url = "http://10.0.0.6:1/v1"',
        "mine": 'base_url = "https://api.openai.com/v1"\nmodel = "ft:gpt"',
    }.items():
        text = f'name = "{own}"\nkind = "openai"\ntasks = ["ask"]\nlicence = "none"\n[quirks]\n{quirks}\n'
        (tmp_path / f"{own}.toml").write_text(text, encoding="utf-8")
    catalogue = (registry := Registry(tmp_path)).catalogue
    assert catalogue.owner(catalogue.of(name) or registry.card(name, "ask")) == owner


def test_a_second_look_finds_what_has_changed_and_keeps_the_rest(tmp_path: Path) -> None:
    write(tmp_path, "one", more='[weights]\nfile = "one.onnx"')
    write(tmp_path, "two")
    registry = Registry(tmp_path)
    first = registry.look({})
    second = registry.look(first)
    assert all(second[path] is first[path] for path in first)
    (tmp_path / "one.onnx").write_bytes(b"weights")
    third = registry.look(second)
    assert third[tmp_path / "one.toml"].stands != second[tmp_path / "one.toml"].stands
    assert third[tmp_path / "two.toml"] is second[tmp_path / "two.toml"]
    write(tmp_path, "two", more='origin = "elsewhere"')
    assert registry.look(third)[tmp_path / "two.toml"].card != third[tmp_path / "two.toml"].card


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


def test_weights_of_a_known_model_that_need_no_card_are_that_model_where_they_lie(tmp_path: Path) -> None:
    task = Registry().task("faces")
    assert Registry(tmp_path).own(task) == ("haar_frontalface",)
    (tmp_path / "yunet.onnx").write_bytes(b"anything")
    registry = Registry(tmp_path)
    assert registry.own(task) == ("yunet", "haar_frontalface")
    card = registry.card("yunet", "faces")
    assert card.folder == tmp_path
    assert [one.id for one in registry.cards].count(card.id) == 1
    before = registry.catalogue.found
    assert registry.look(before)[tmp_path / "yunet.onnx"] is before[tmp_path / "yunet.onnx"]
    (tmp_path / "yunet.onnx").unlink()
    assert registry.look(before) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_weights_that_are_a_link_to_elsewhere_are_not_passed_over_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.onnx").write_bytes(b"anything")
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "yunet.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    assert any("leads out" in str(problem) for problem in Registry(folder).problems)


def test_of_a_tasks_own_models_the_last_is_meant_where_none_is_at_hand(tmp_path: Path) -> None:
    task = replace(Registry().task("faces"), defaults=("yunet",))
    assert Registry(tmp_path).own(task) == ("yunet",)
