"""Which model counts how, as data: one row for each rule, with the day from which it holds.

Providers change their rules without a word. So a row is never changed: a new one is added, with its date; what an
estimate was made by is told with it.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

from sensorium.errors import InvalidConfiguration
from sensorium.pricing.claude import Claude
from sensorium.pricing.gemini import Crops, Resolutions
from sensorium.pricing.grids import AnyResolution, InternVL, Square
from sensorium.pricing.openai import Bounds, Patches, Tiles
from sensorium.pricing.pictures import Confidence, Counting, Detail, PictureTokens
from sensorium.pricing.qwen import SmartResize


@dataclass(frozen=True)
class Rule:
    """How the models of one provider count, from one day on."""

    name: str
    """As provider/family; what a card's `rule` says."""
    since: date
    models: str
    """A regular expression, in small letters, searched for in a model's name; empty: models say it by their card."""
    counting: Counting
    confidence: Confidence = "documented"

    @property
    def id(self) -> str:
        return f"{self.name}@{self.since}"


_LOW = Bounds(512)
_HIGH = Bounds(2048, patches=2500)
_GUIDE_2026 = Bounds(2048, patches=6144)
_GUIDE_2025 = Bounds(2048, patches=1536)
_UNBOUND = Bounds(65_535, refused_above=30_000)

_SPRING_2025, _AUTUMN_2026 = date(2025, 4, 14), date(2026, 9, 1)
"""When models that count patches came, and by when the guide's present edition was there."""

RULES: tuple[Rule, ...] = (
    # OpenAI, by tiles. What is more particular stands first.
    Rule("openai/gpt-4o-mini", date(2024, 7, 18), r"\bgpt-4o-mini", Tiles(2833, 5667), "exact"),
    Rule(
        "openai/gpt-4o",
        date(2023, 11, 6),
        r"\b(chat)?gpt-4(o|-turbo|-vision|\.5|\.1(?!-(mini|nano)))",
        Tiles(85, 170),
        "exact",
    ),
    Rule("openai/gpt-5", date(2025, 8, 7), r"\bgpt-5(\.1)?(?![.\d])(?!-(mini|nano))", Tiles(70, 140)),
    Rule("openai/o1", date(2024, 12, 17), r"\bo[13](?!-mini)(-|$)", Tiles(75, 150)),
    Rule("openai/computer-use", date(2025, 3, 11), r"\bcomputer-use-preview", Tiles(65, 129)),
    Rule("openai/gpt-image-1", date(2025, 4, 23), r"\bgpt-image-1", Tiles(65, 129, shortest=512)),
    # OpenAI, by patches.
    Rule(
        "openai/gpt-6-astra",
        _AUTUMN_2026,
        r"\bgpt-6-astra",
        Patches(1.2, {"auto": _UNBOUND, "low": _LOW, "high": Bounds(65_535, patches=2500)}),
        "exact",
    ),
    Rule("openai/gpt-5.6", _AUTUMN_2026, r"\bgpt-5\.6", Patches(1.2, {"auto": _UNBOUND, "low": _LOW, "high": _HIGH})),
    Rule(
        "openai/gpt-5.5",
        _AUTUMN_2026,
        r"\bgpt-5\.5",
        Patches(1.2, {"auto": Bounds(6000, patches=10_000), "low": _LOW, "high": _HIGH}),
    ),
    Rule(
        "openai/gpt-5.4",
        _AUTUMN_2026,
        r"\bgpt-5\.4",
        Patches(1.2, {"auto": _HIGH, "low": _GUIDE_2026, "original": Bounds(6000, patches=10_000)}),
    ),
    Rule("openai/gpt-5.2", _SPRING_2025, r"\bgpt-5\.2", Patches(1.2, {"auto": _GUIDE_2025})),
    Rule("openai/gpt-5.2", _AUTUMN_2026, r"\bgpt-5\.2", Patches(1.2, {"auto": _GUIDE_2026})),
    Rule("openai/gpt-4.1-mini", _SPRING_2025, r"\bgpt-4\.1-mini", Patches(1.62, {"auto": _GUIDE_2025})),
    Rule("openai/gpt-4.1-mini", _AUTUMN_2026, r"\bgpt-4\.1-mini", Patches(1.62, {"auto": _GUIDE_2026})),
    Rule("openai/gpt-4.1-nano", _SPRING_2025, r"\bgpt-4\.1-nano", Patches(2.46, {"auto": _GUIDE_2025})),
    Rule("openai/gpt-5-mini", _SPRING_2025, r"\bgpt-5-mini", Patches(1.62, {"auto": _GUIDE_2025})),
    Rule("openai/gpt-5-mini", _AUTUMN_2026, r"\bgpt-5-mini", Patches(1.2, {"auto": _GUIDE_2025})),
    Rule("openai/gpt-5-nano", _SPRING_2025, r"\bgpt-5-nano", Patches(2.46, {"auto": _GUIDE_2025})),
    Rule("openai/gpt-5-nano", _AUTUMN_2026, r"\bgpt-5-nano", Patches(1.5, {"auto": _GUIDE_2025})),
    Rule("openai/o4-mini", _SPRING_2025, r"\bo4-mini", Patches(1.72, {"auto": _GUIDE_2025})),
    # Anthropic. From 4.7 on, and in families that began later, models see more.
    Rule(
        "anthropic/high-resolution",
        date(2026, 1, 1),
        r"\bclaude-[a-z]+-(4[.-]([7-9]|[1-9]\d)|[5-9]|[1-9]\d)(?!\d)",
        Claude(2576, 4784),
        "exact",
    ),
    Rule("anthropic/standard", date(2024, 3, 4), r"\bclaude", Claude(1568, 1568), "exact"),
    # Google.
    Rule(
        "gemini/3",
        date(2025, 11, 18),
        r"\bgemini-([3-9]|[1-9]\d)(?!\d)",
        Resolutions({"auto": 1120, "low": 280, "high": 1120, "original": 2240}),
    ),
    Rule("gemini/2.5", date(2024, 12, 11), r"\bgemini", Crops()),
    # Qwen: hosted first, since the names of open models are the same there.
    Rule("dashscope/qwen-vl", date(2026, 1, 1), r"\bqwen-vl-(max|plus)", SmartResize(32, 1280, original=16_384)),
    Rule(
        "dashscope/qwen2.5-vl",
        date(2025, 1, 26),
        r"^dashscope/.*(qwen2(\.5)?-vl|qvq)|\bqvq-(max|plus)",
        SmartResize(28, 1280, original=16_384),
    ),
    Rule(
        "dashscope/qwen3-vl",
        date(2025, 9, 23),
        r"^dashscope/.*qwen3|\bqwen3-vl-(plus|flash)|\bqwen3\.\d+-(plus|flash|max)",
        SmartResize(32, 2560, original=16_384),
    ),
    Rule("qwen/2.5-vl", date(2024, 8, 29), r"\b(qwen-?2(\.5)?-?vl|qwen2\.5-omni|qvq)", SmartResize(28, 16_384)),
    Rule("qwen/3-vl", date(2025, 9, 23), r"\bqwen-?3(\.\d+|-?vl|-omni)", SmartResize(32, 16_384)),
    # Open models that cut pictures into squares.
    Rule("internvl/internvl", date(2024, 7, 4), r"\binternvl-?[23]", InternVL()),
    Rule(
        "llava/onevision",
        date(2024, 8, 5),
        r"\bllava-?onevision",
        AnyResolution(384, 27, tuple((across, down) for down in range(1, 7) for across in range(1, 7)), most_squares=9),
    ),
    Rule(
        "llava/next",
        date(2024, 1, 30),
        r"\bllava-?(v?1\.6|next)",
        AnyResolution(336, 24, ((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))),
    ),
    Rule("llava/1.5", date(2023, 10, 5), r"\b(bak)?llava", Square(576, 336)),
)

UNKNOWN = Rule("unknown", date(2024, 1, 1), "", SmartResize(28, 16_384), "guess")
"""For models that no rule is known of: patches of 28 pixels are the smallest that large models count by."""


def rule_for(model: str, on: date | None = None) -> str | None:
    """The id of the rule that the model counts by on that day, by default today; None: no rule is known.

    `model` is a provider's name for it, with or without `provider/` before it.
    """
    return _known(model.lower(), on or _today())


@functools.lru_cache(maxsize=1000)
def _known(model: str, on: date) -> str | None:
    found = next((rule.name for rule in RULES if re.search(rule.models, model)), None)
    return None if found is None else _in_force(found, on).id


def estimate(rule: str | None, width: int | None, height: int | None, detail: Detail = "auto") -> PictureTokens:
    """What an upright picture of that many pixels takes. A size that is not known gives the most that any can take.

    `rule` is its id, or its name for what is in force today; None: of a model whose rule is not known.
    Raises InvalidConfiguration when there is no such rule.
    """
    row = UNKNOWN if rule is None else _rule(rule, _today())
    if not width or not height:
        return PictureTokens(row.counting.most(detail), row.id, row.confidence, None, None)
    counted = row.counting.count(width, height, detail)
    if row is UNKNOWN:
        return PictureTokens(counted.tokens, row.id, row.confidence, width, height)
    return PictureTokens(counted.tokens, row.id, row.confidence, counted.width, counted.height, counted.refused)


@functools.lru_cache(maxsize=1000)
def _rule(named: str, today: date) -> Rule:
    name, _, since = named.partition("@")
    if since:
        found = next((rule for rule in (*RULES, UNKNOWN) if rule.id == named), None)
    else:
        found = _in_force(name, today) if any(rule.name == name for rule in RULES) else None
    if found is None:
        known = ", ".join(dict.fromkeys(rule.name for rule in RULES))
        raise InvalidConfiguration(f"There is no rule {named!r} for the tokens of pictures", fix=f"There are: {known}")
    return found


def _in_force(name: str, on: date) -> Rule:
    """The latest row of that name; of a day before the first, the first."""
    rows = sorted((rule for rule in RULES if rule.name == name), key=lambda rule: rule.since)
    return next((rule for rule in reversed(rows) if rule.since <= on), rows[0])


def _today() -> date:
    return datetime.now(UTC).date()
