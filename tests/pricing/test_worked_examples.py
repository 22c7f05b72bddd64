"""Every example that providers publish, or that their own code gives, comes out to the token."""

from __future__ import annotations

from datetime import date

import pytest

from sensorium.pricing import estimate, rule_for
from sensorium.pricing.grids import InternVL
from sensorium.pricing.pictures import Detail
from sensorium.pricing.qwen import MARKS, SmartResize

Size = tuple[int, int]

THUMB, SQUARE, PHOTO, UHD, STRIP = (512, 512), (1024, 1024), (1920, 1080), (3840, 2160), (4096, 512)

TILES: dict[str, dict[Size, int]] = {
    "gpt-4o": {(200, 200): 255, THUMB: 255, SQUARE: 765, (2048, 4096): 1105, PHOTO: 1105, UHD: 1105, STRIP: 765},
    "gpt-4o-mini": {
        (200, 200): 8500,
        THUMB: 8500,
        SQUARE: 25_501,
        (2048, 4096): 36_835,
        PHOTO: 36_835,
        UHD: 36_835,
        STRIP: 25_501,
    },
    "gpt-5": {(200, 200): 210, THUMB: 210, SQUARE: 630, (2048, 4096): 910, PHOTO: 910, UHD: 910, STRIP: 630},
    "o3": {(200, 200): 225, THUMB: 225, SQUARE: 675, (2048, 4096): 975, PHOTO: 975, UHD: 975, STRIP: 675},
}
SAME = {"gpt-4.1": "gpt-4o", "gpt-4-turbo": "gpt-4o", "gpt-4.5-preview": "gpt-4o", "gpt-5.1": "gpt-5", "o1": "o3"}

PATCH_SIZES: tuple[Size, ...] = (SQUARE, (2048, 2048), STRIP, (1800, 2400), PHOTO, UHD)
PATCHES: dict[tuple[str, Detail], tuple[int, ...]] = {
    ("gpt-6-astra", "high"): (1229, 3000, 2458, 2942, 2448, 2931),
    ("gpt-5.6-sol", "high"): (1229, 3000, 615, 2942, 2448, 2765),
    ("gpt-5.4", "high"): (1229, 3000, 615, 2942, 2448, 2765),
    ("gpt-5.4-mini", "auto"): (1229, 3000, 615, 2942, 2448, 2765),
    ("gpt-5.5", "auto"): (1229, 4916, 2458, 5130, 2448, 9792),
    ("gpt-5.5", "original"): (1229, 4916, 2458, 5130, 2448, 9792),
    ("gpt-5.4", "low"): (1229, 4916, 615, 3687, 2448, 2765),
    ("gpt-5.2", "low"): (1229, 4916, 615, 3687, 2448, 2765),
    ("gpt-5.2", "high"): (1229, 4916, 615, 3687, 2448, 2765),
    ("gpt-4.1-mini", "auto"): (1659, 6636, 830, 4977, 3305, 3733),
}
OLDER_SIZES: tuple[Size, ...] = (SQUARE, STRIP, (1800, 2400), PHOTO, UHD)
OLDER: dict[str, tuple[int, ...]] = {
    "gpt-4.1-mini": (1659, 830, 2353, 2443, 2443),
    "o4-mini": (1762, 881, 2498, 2594, 2594),
    "gpt-4.1-nano": (2520, 1260, 3572, 3710, 3710),
}

CLAUDE: dict[Size, tuple[int, int]] = {
    (200, 200): (64, 64),
    (1000, 1000): (1296, 1296),
    (1092, 1092): (1521, 1521),
    (1075, 1520): (1551, 2145),
    PHOTO: (1560, 2691),
    (2000, 1500): (1564, 3888),
    UHD: (1560, 4784),
    STRIP: (392, 1104),
}

QWEN_SIZES: tuple[Size, ...] = ((224, 224), (640, 480), SQUARE, PHOTO, UHD)
QWEN: dict[str, tuple[str, Detail, int, tuple[int, ...]]] = {
    "2.5 local": ("Qwen/Qwen2.5-VL-7B-Instruct", "auto", MARKS, (64, 391, 1369, 2691, 10_549)),
    "2.5 hosted": ("dashscope/qwen2.5-vl-72b-instruct", "auto", MARKS, (64, 391, 1225, 1222, 1222)),
    "3 local": ("Qwen/Qwen3-VL-8B-Instruct", "auto", MARKS, (49, 300, 1024, 2040, 8160)),
    "3 hosted": ("qwen3-vl-plus", "auto", 0, (51, 302, 1026, 2042, 2481)),
    "3 hosted, high resolution": ("qwen3-vl-plus", "original", 0, (51, 302, 1026, 2042, 8162)),
}

GRIDS: dict[str, dict[Size, int]] = {
    "OpenGVLab/InternVL3-8B": {
        (448, 448): 256 + InternVL.MARKS,
        (896, 448): 768 + InternVL.MARKS,
        (800, 1200): 1792 + InternVL.MARKS,
        SQUARE: 2560 + InternVL.MARKS,
        PHOTO: 2304 + InternVL.MARKS,
        (640, 480): 3328 + InternVL.MARKS,
    },
    "llava-hf/llava-1.5-7b-hf": {(336, 336): 576, PHOTO: 576},
    "llava-v1.6-mistral-7b": {
        (336, 336): 1176,
        (672, 672): 2928,
        SQUARE: 2928,
        (640, 480): 2340,
        PHOTO: 1948,
        (500, 300): 1560,
    },
}

GEMINI: dict[tuple[str, Detail], dict[Size, int]] = {
    ("gemini-2.5-flash", "auto"): {(384, 384): 258, (960, 540): 1548, SQUARE: 1032, (4000, 4000): 1032},
    ("gemini-2.5-flash", "low"): {SQUARE: 64},
    ("gemini-3-pro-preview", "low"): {SQUARE: 280},
    ("gemini-3-pro-preview", "auto"): {SQUARE: 1120, (100, 100): 1120},
    ("gemini-3-pro-preview", "high"): {SQUARE: 1120},
    ("gemini-3-pro-preview", "original"): {SQUARE: 2240},
}


def tokens(model: str, size: Size, detail: Detail = "auto", on: date | None = None) -> int:
    rule = rule_for(model, on)
    assert rule is not None, model
    return estimate(rule, *size, detail).tokens


@pytest.mark.parametrize("model", [*TILES, *SAME])
@pytest.mark.parametrize("detail", ["auto", "high"])
def test_models_that_count_tiles(model: str, detail: Detail) -> None:
    expected = TILES[SAME.get(model, model)]
    assert {size: tokens(model, size, detail) for size in expected} == expected


@pytest.mark.parametrize(("model", "low"), [("gpt-4o", 85), ("gpt-4o-mini", 2833), ("gpt-5.1", 70), ("o1-pro", 75)])
def test_low_detail_of_tiles_is_one_number(model: str, low: int) -> None:
    assert {tokens(model, size, "low") for size in (*TILES[SAME.get(model, "gpt-4o")], (9, 9))} == {low}


def test_a_small_picture_is_not_enlarged() -> None:
    assert tokens("gpt-4o", (128, 64)) == 85 + 170
    used = estimate(rule_for("gpt-4o"), 128, 64)
    assert (used.width, used.height) == (128, 64)


@pytest.mark.parametrize(("model", "detail"), PATCHES)
def test_models_that_count_patches(model: str, detail: Detail) -> None:
    assert tuple(tokens(model, size, detail) for size in PATCH_SIZES) == PATCHES[model, detail]


@pytest.mark.parametrize("model", OLDER)
def test_what_models_counted_by_the_guide_of_2025(model: str) -> None:
    assert tuple(tokens(model, size, on=date(2026, 5, 1)) for size in OLDER_SIZES) == OLDER[model]


@pytest.mark.parametrize("model", ["gpt-6-astra", "gpt-5.6-luna", "gpt-5.5"])
def test_low_detail_of_patches_is_a_picture_of_512(model: str) -> None:
    assert (tokens(model, SQUARE, "low"), tokens(model, PHOTO, "low")) == (308, 173)
    used = estimate(rule_for(model), *PHOTO, "low")
    assert (used.width, used.height) == (512, 288)


def test_the_size_that_patches_are_counted_on() -> None:
    used = estimate(rule_for("gpt-4.1-mini", date(2026, 5, 1)), 1800, 2400)
    assert (used.width, used.height) == (1056, 1408)


@pytest.mark.parametrize("size", CLAUDE)
def test_both_tiers_of_claude(size: Size) -> None:
    assert (tokens("claude-sonnet-4-5", size), tokens("claude-opus-4-7", size)) == CLAUDE[size]


@pytest.mark.parametrize(
    ("model", "size", "used"),
    [
        ("claude-haiku-4-5", (1075, 1520), (924, 1307)),
        ("claude-haiku-4-5", PHOTO, (1456, 819)),
        ("claude-haiku-4-5", STRIP, (1568, 196)),
        ("claude-sonnet-5", UHD, (2576, 1449)),
        ("claude-sonnet-5", STRIP, (2576, 322)),
    ],
)
def test_the_size_that_claude_sees(model: str, size: Size, used: Size) -> None:
    seen = estimate(rule_for(model), *size)
    assert (seen.width, seen.height) == used


@pytest.mark.parametrize("model", QWEN)
def test_qwen_at_home_and_hosted(model: str) -> None:
    """The examples of local models leave out the two marks around a picture, which are counted here."""
    name, detail, marks, expected = QWEN[model]
    assert tuple(tokens(name, size, detail) - marks for size in QWEN_SIZES) == expected


@pytest.mark.parametrize(
    ("counting", "size", "resized"),
    [
        (SmartResize(28, 16_384), (640, 480), (644, 476)),
        (SmartResize(28, 16_384), PHOTO, (1932, 1092)),
        (SmartResize(28, 16_384), UHD, (3836, 2156)),
        (SmartResize(28, 1280), SQUARE, (980, 980)),
        (SmartResize(28, 1280), PHOTO, (1316, 728)),
        (SmartResize(32, 16_384), PHOTO, (1920, 1088)),
        (SmartResize(32, 16_384), UHD, (3840, 2176)),
        (SmartResize(32, 2560), UHD, (2144, 1184)),
        (SmartResize(32, 2560, least=64), (224, 224), (256, 256)),
    ],
)
def test_the_size_that_qwen_sees(counting: SmartResize, size: Size, resized: Size) -> None:
    assert counting.resized(*size, "auto") == resized
    assert counting.count(*size, "auto").tokens == resized[0] * resized[1] // counting.factor**2 + MARKS


@pytest.mark.parametrize("model", GRIDS)
def test_models_that_cut_a_picture_into_squares(model: str) -> None:
    assert {size: tokens(model, size) for size in GRIDS[model]} == GRIDS[model]


def test_onevision_makes_a_large_grid_smaller() -> None:
    """768 × 768 fills four squares: 729 + 54 · 55. 1920 × 1080 would fill fifteen, which are made nine."""
    assert tokens("llava-onevision-qwen2-7b", (768, 768)) == 729 + 54 * 55
    assert tokens("llava-onevision-qwen2-7b", PHOTO) == 729 + 60 * 109


@pytest.mark.parametrize(("model", "detail"), GEMINI)
def test_gemini_by_crops_and_by_resolution(model: str, detail: Detail) -> None:
    expected = GEMINI[model, detail]
    assert {size: tokens(model, size, detail) for size in expected} == expected
