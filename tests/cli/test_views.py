"""Results as a person reads them."""

from __future__ import annotations

from sensorium.cli.views import headline, seen
from sensorium.schemas.analyze import Analysis, Failure
from sensorium.schemas.base import Frozen, ImageInfo, Meta, Result, Skipped
from sensorium.schemas.classify import Classification, Label
from sensorium.schemas.examples import example_of
from sensorium.schemas.read import Reading, TextLine

IMAGE = ImageInfo(width=400, height=300, format="jpeg")


class Thing(Frozen):
    """A part of an answer of no known task."""

    word: str
    sure: bool


class Novelty(Result):
    """An answer of no known task."""

    mood: str
    strength: float
    things: tuple[Thing, ...]
    best: Thing | None = None


def test_a_bar_is_as_long_as_the_score() -> None:
    labels = tuple(Label(name=name, score=score, index=0) for name, score in (("all", 1), ("half", 0.5), ("none", 0)))
    rows = seen("x", Classification(image=IMAGE, labels=labels)).plain.splitlines()[1:4]
    assert [row.count("█") for row in rows] == [20, 10, 0]


def test_chinese_names_keep_the_columns_straight() -> None:
    labels = tuple(Label(name=name, score=0.5, index=0) for name in ("金毛寻回犬", "cat"))
    rows = seen("x", Classification(image=IMAGE, labels=labels)).split("\n")[1:3]
    assert rows[0].cell_len == rows[1].cell_len


def test_text_from_a_picture_cannot_steer_the_terminal_nor_the_layout() -> None:
    line = TextLine(text="[red]a\x1b[2J:smile:", score=0.9, polygon=((0, 0), (1, 0), (1, 1)))
    assert "[red]a�[2J:smile:" in seen("x", Reading(image=IMAGE, lines=(line,))).plain


def test_no_text_is_said_in_words() -> None:
    assert "no text found" in seen("x", Reading(image=IMAGE)).plain


def test_a_fallback_is_never_silent() -> None:
    skipped = Skipped(engine="resnet50@1", code="engine_failed", message="It broke.")
    told = Reading(image=IMAGE, meta=Meta(engine="other@1", seconds=1.5, cached=True, skipped=(skipped,)))
    assert "resnet50@1 did not answer: It broke." in seen("x", told).plain
    assert "other@1 · 1.5 s · remembered" in seen("x", told).plain


def test_a_part_that_failed_is_told_beside_the_others() -> None:
    told = Analysis(image=IMAGE, read=Reading(image=IMAGE), failures={"classify": Failure(code="x", message="No.")})
    said = seen("x", told).plain
    assert "classify has no answer: No." in said
    assert "no text found" in said


def test_a_result_of_an_unknown_task_is_shown_field_by_field() -> None:
    told = Novelty(
        mood="gay", strength=0.12345, things=(Thing(word="猫", sure=True),), best=Thing(word="a", sure=False)
    )
    said = seen("x", told).plain
    for words in ("mood: gay", "strength: 0.123", "things (1)", "word 猫, sure yes", "best", "sure: no"):
        assert words in said


def test_a_reduced_picture_says_so_and_a_drawing_where_it_is() -> None:
    from pathlib import Path

    told = Reading(image=ImageInfo(width=8000, height=8000, format="jpeg", scale=0.25))
    said = seen("x", told, Path("画.jpg")).plain
    assert "8000 × 8000 jpeg, decoded at 1/4" in said
    assert "drawn in 画.jpg" in said


def test_the_title_of_a_drawing_is_the_best_name() -> None:
    assert headline(example_of(Analysis)) == "golden retriever 93 %"
    assert headline(Reading(image=IMAGE)) == ""
