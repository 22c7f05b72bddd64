"""Rules as a whole: their bounds, their dates, and what they make of strange sizes."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.errors import InvalidConfiguration
from sensorium.pricing import estimate, rule_for
from sensorium.pricing.grids import AnyResolution, InternVL
from sensorium.pricing.pictures import Detail
from sensorium.pricing.rules import RULES, UNKNOWN, Rule

DETAILS: tuple[Detail, ...] = ("auto", "low", "high", "original")

every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
sides = st.one_of(st.integers(1, 5000), st.integers(1, 70_000))


@every_rule
@settings(max_examples=40)  # of each of many
@given(width=sides, height=sides, detail=st.sampled_from(DETAILS))
def test_no_picture_takes_more_than_one_of_unknown_size(rule: Rule, width: int, height: int, detail: Detail) -> None:
    assert 0 < estimate(rule.id, width, height, detail).tokens <= estimate(rule.id, None, None, detail).tokens


@every_rule
@settings(max_examples=40)  # of each of many
@given(width=sides, height=sides, detail=st.sampled_from(DETAILS))
def test_the_size_that_is_used_is_never_larger_and_costs_no_more(
    rule: Rule, width: int, height: int, detail: Detail
) -> None:
    first = estimate(rule.id, width, height, detail)
    assert first.width
    assert first.height
    assert 1 <= first.width <= width
    assert 1 <= first.height <= height
    again = estimate(rule.id, first.width, first.height, detail)
    # A grid turns on the picture's shape, which rounding to pixels changes a little.
    assert again.tokens <= first.tokens or isinstance(rule.counting, (AnyResolution, InternVL))
    assert not again.refused or "times as long" in again.refused


def test_a_size_that_is_not_known_has_no_size() -> None:
    told = estimate("openai/gpt-4o", None, None)
    assert (told.tokens, told.width, told.height) == (85 + 8 * 170, None, None)


def test_a_model_without_a_rule_is_a_guess_that_leaves_the_picture_alone() -> None:
    assert rule_for("a-model-nobody-knows") is None
    told = estimate(None, 4000, 3000)
    assert (told.confidence, told.width, told.height, told.rule_id) == ("guess", 4000, 3000, UNKNOWN.id)
    assert told.tokens > 10_000


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        ("gpt-4o-2024-08-06", "openai/gpt-4o"),
        ("openai/gpt-4o-mini", "openai/gpt-4o-mini"),
        ("chatgpt-4o-latest", "openai/gpt-4o"),
        ("gpt-4.1-2025-04-14", "openai/gpt-4o"),
        ("gpt-4.1-mini-2025-04-14", "openai/gpt-4.1-mini"),
        ("gpt-5-2025-08-07", "openai/gpt-5"),
        ("gpt-5-chat-latest", "openai/gpt-5"),
        ("gpt-5-mini", "openai/gpt-5-mini"),
        ("gpt-5.4-nano", "openai/gpt-5.4"),
        ("o1-pro", "openai/o1"),
        ("o3-2025-04-16", "openai/o1"),
        ("o4-mini", "openai/o4-mini"),
        ("claude-3-5-sonnet-20241022", "anthropic/standard"),
        ("claude-sonnet-4-20250514", "anthropic/standard"),
        ("claude-opus-4-6", "anthropic/standard"),
        ("anthropic/claude-opus-4.7", "anthropic/high-resolution"),
        ("claude-opus-4-8-20260601", "anthropic/high-resolution"),
        ("claude-opus-4-10", "anthropic/high-resolution"),
        ("claude-fable-5", "anthropic/high-resolution"),
        ("models/gemini-1.5-flash", "gemini/2.5"),
        ("gemini/gemini-3-pro-preview", "gemini/3"),
        ("gemini-3.8-flash", "gemini/3"),
        ("gemini-4-carbon", "gemini/3"),
        ("qwen-vl-max-latest", "dashscope/qwen-vl"),
        ("dashscope/qwen3-vl-8b-instruct", "dashscope/qwen3-vl"),
        ("qwen3.5-plus", "dashscope/qwen3-vl"),
        ("vllm/Qwen/Qwen2.5-VL-7B-Instruct", "qwen/2.5-vl"),
        ("ollama/qwen2.5vl:7b", "qwen/2.5-vl"),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", "qwen/3-vl"),
        ("OpenGVLab/InternVL2_5-8B", "internvl/internvl"),
        ("ollama/llava:13b", "llava/1.5"),
        ("llava-hf/llava-v1.6-mistral-7b-hf", "llava/next"),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava/onevision"),
    ],
)
def test_a_model_is_known_by_its_provider_s_name(model: str, rule: str) -> None:
    found = rule_for(model)
    assert found is not None
    assert found.partition("@")[0] == rule


@pytest.mark.parametrize("model", ["o3-mini", "gpt-3.5-turbo", "gpt-4", "gpt-5.3", "qwen2.5-7b", "mistral-large", ""])
def test_a_name_that_only_resembles_one_has_no_rule(model: str) -> None:
    assert rule_for(model) is None


def test_a_rule_holds_from_its_day() -> None:
    before, after = rule_for("gpt-5.2", date(2026, 8, 31)), rule_for("gpt-5.2", date(2026, 9, 1))
    assert (before, after) == ("openai/gpt-5.2@2025-04-14", "openai/gpt-5.2@2026-09-01")
    assert estimate(before, 2048, 2048).tokens < estimate(after, 2048, 2048).tokens
    assert estimate("openai/gpt-5.2", 2048, 2048).rule_id == after


def test_ids_are_told_apart() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("name", ["openai/gpt-9", "openai/gpt-4o@1999-01-01"])
def test_a_rule_that_is_not_there_is_told_with_those_that_are(name: str) -> None:
    with pytest.raises(InvalidConfiguration, match="openai/gpt-4o-mini"):
        estimate(name, 10, 10)


def test_what_a_provider_would_refuse_is_said_and_counted_as_the_largest_that_it_takes() -> None:
    told = estimate("openai/gpt-6-astra", 8000, 8000)
    assert "62,500 patches" in told.refused
    assert told.tokens <= 36_000
    assert told.width
    assert not estimate("openai/gpt-6-astra", told.width, told.height or 0).refused
    assert "8,000" in estimate("anthropic/standard", 9000, 100).refused
    assert "200 times" in estimate("qwen/3-vl", 2010, 10).refused
    assert not estimate("qwen/3-vl", 2000, 10).refused


def test_the_page_names_every_rule() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tokens.md").read_text(encoding="utf-8")
    rows = "".join(line.partition("|")[2].partition("|")[0] for line in page.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([^`]+)`", rows)) == {rule.name for rule in RULES}
