"""Cards of providers: their addresses, keys, and whether pictures leave the house."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sensorium.engine import Card
from sensorium.errors import InvalidModel
from sensorium.registry import Registry
from sensorium.runtimes.provider import closed


def registry(tmp_path: Path, *lines: str) -> Registry:
    head = ['name = "mine"', 'kind = "openai"', 'tasks = ["ask"]', 'licence = "MIT"']
    (tmp_path / "card.toml").write_text("\n".join([*head, *lines]), encoding="utf-8")
    return Registry(tmp_path)


def card(tmp_path: Path, address: str, *lines: str) -> Card:
    return registry(tmp_path, *lines, "[quirks]", f'base_url = "{address}"').card("mine", "ask")


@pytest.mark.parametrize(
    ("address", "remote"),
    [
        ("https://api.example/v1", True),
        ("http://192.168.1.5:8000/v1", True),
        ("http://localhost.example:8000/v1", True),
        ("http://127.0.0.1.example/v1", True),
        ("http://127.0.0.1@api.example/v1", True),
        ("http://localhost:8000/v1", False),
        ("http://127.0.0.9:8000/v1", False),
        ("http://[::1]:8000/v1", False),
    ],
)
def test_pictures_leave_the_house_unless_the_address_is_this_machines(
    tmp_path: Path, address: str, remote: bool
) -> None:
    assert card(tmp_path, address).remote is remote


def test_what_a_card_says_of_that_goes_before_its_address(tmp_path: Path) -> None:
    assert not card(tmp_path, "http://10.0.0.7/v1", "remote = false").remote
    assert card(tmp_path, "http://localhost:4000/v1", "remote = true").remote


def test_the_environment_moves_a_provider_and_with_it_whether_it_is_remote(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Registry().card("ollama/llava:7b", "ask").remote
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://gpu.example:11434/v1/")
    moved = Registry().card("ollama/llava:7b", "ask")
    assert moved.remote
    assert moved.quirks["base_url"] == "http://gpu.example:11434/v1"


def test_a_known_model_of_a_provider_is_remote_wherever_the_environment_sends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:4000")  # a gateway on this machine passes it on
    assert Registry().card("gpt-4o", "ask").remote
    assert Registry().card("openai/gpt-99", "ask").remote


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("openai/gpt-99", "gpt-99"),
        ("OpenAI/GPT-99", "GPT-99"),
        ("vllm/Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("ollama/llava:7b-v1.6", "llava:7b-v1.6"),
        ("openai/gpt-99@1", "gpt-99"),
    ],
)
def test_any_model_of_a_provider_has_a_name(name: str, model: str) -> None:
    found = Registry().card(name, "ask")
    assert found.quirks["model"] == model
    assert found.name == f"{name.partition('/')[0].lower()}/{model}"
    assert Registry().card(found.id, "ask") == found


def test_a_model_that_is_known_is_found_by_its_providers_name_too() -> None:
    assert Registry().card("openai/gpt-4o", "ask").name == "gpt-4o"


def test_a_card_of_ones_own_can_be_a_provider(tmp_path: Path) -> None:
    own = registry(tmp_path, "[quirks]", 'base_url = "https://api.example/v1"', "any_model = true")
    found = own.card("mine/some/Model", "ask")
    assert found.quirks["base_url"] == "https://api.example/v1"
    assert found.licence == "MIT"


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (["[quirks]"], "base_url"),
        (["[quirks]", 'base_url = "ftp://a"'], "base_url"),
        (["[quirks]", 'base_url = "https://a"', 'kay = "A"'], "kay"),
    ],
)
def test_a_card_with_wrong_quirks_says_which(tmp_path: Path, lines: list[str], wrong: str) -> None:
    found = registry(tmp_path, *lines)
    assert wrong in str(found.problems[0])
    with pytest.raises(InvalidModel, match=wrong):
        found.card("mine", "ask")


def test_a_card_in_a_folder_has_no_slash_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text('name = "a/b"\nkind = "fake"\ntasks = ["ask"]\nlicence = "MIT"')
    assert "slash" in str(Registry(tmp_path).problems[0])


def test_a_provider_without_its_key_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "OPENAI_API_KEY" in registry.state(registry.card("gpt-4o", "ask"))
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    assert registry.state(registry.card("gpt-4o", "ask")) == "ready"
    assert registry.state(registry.card("ollama/llava", "ask")) == "ready"


def test_a_schema_is_closed_wherever_it_takes_further_fields() -> None:
    inner: dict[str, Any] = {"type": "object", "properties": {}}
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": inner}}, "anyOf": [inner]}
    made = closed(schema)
    assert made["additionalProperties"] is False
    assert made["properties"]["a"]["items"]["additionalProperties"] is False
    assert made["anyOf"][0]["additionalProperties"] is False
    assert "additionalProperties" not in schema


def test_the_card_on_the_page_is_one_that_would_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "providers.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "acme.toml").write_text(written, encoding="utf-8")
    found = Registry(tmp_path)
    assert not found.problems
    assert found.card("acme/some/Model", "ask").remote


@pytest.mark.parametrize("kind", ["openai", "anthropic", "gemini"])
def test_the_page_names_every_provider_key_and_quirk(kind: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "providers.md").read_text(encoding="utf-8")
    module = Registry().kinds[kind]
    providers = [card for card in module.CARDS if card.quirks.get("any_model")]
    named = {f"`{card.name}/...`" for card in providers}
    named |= {f"`{card.quirks[quirk]}`" for card in providers for quirk in ("key", "base_url_from")}
    named |= {f"`{quirk}`" for quirk in module.Quirks.model_fields}
    assert {name for name in named if name not in page} == set()
