"""Results as a person reads them."""

from __future__ import annotations

from sensorium.cli.views import headline, seen
from sensorium.schemas.analyze import Analysis, Failure
from sensorium.schemas.base import Frozen, ImageInfo, Meta, Result, Skipped
from sensorium.schemas.classify import Classification, Label
from sensorium.schemas.compare_faces import FaceComparison
from sensorium.schemas.detect import DetectedObject, Detections
from sensorium.schemas.examples import example_of
from sensorium.schemas.faces import Face, FaceAttributes, Faces
from sensorium.schemas.geometry import Box
from sensorium.schemas.read import Reading, TextLine
from sensorium.schemas.tokens import PictureTokens, TokenCount

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


def test_things_are_told_with_their_place() -> None:
    box = Box(left=10.4, top=20, right=110, bottom=70)
    said = seen("x", Detections(image=IMAGE, objects=(DetectedObject(name="dog", score=0.91, box=box),))).plain
    assert "dog   91 %  100 × 50 at 10, 20" in said
    assert "nothing found" in seen("x", Detections(image=IMAGE)).plain


def test_faces_are_told_with_what_is_likely_of_them() -> None:
    box = Box(left=10, top=20, right=110, bottom=120)
    looks = FaceAttributes(age=31.6, gender="female", emotions={"happy": 0.75, "sad": 0.1}, glasses=1.0, mask=0.0)
    faces = (Face(box=box, score=0.98, attributes=looks), Face(box=box))
    said = seen("x", Faces(image=IMAGE, faces=faces)).plain.splitlines()
    assert said[1].split("  ")[1:] == [" 98 %", "100 × 100 at 10, 20", "female, about 32, happy, glasses"]
    assert said[2].strip() == "face   100 × 100 at 10, 20"
    assert "no faces found" in seen("x", Faces(image=IMAGE)).plain


def test_nothing_recognised_is_said_in_words() -> None:
    assert "nothing recognised" in seen("x", Classification(image=IMAGE)).plain
    assert headline(Classification(image=IMAGE)) == ""


def test_a_fallback_is_never_silent() -> None:
    skipped = Skipped(engine="resnet50@1", code="engine_failed", message="It broke.")
    told = Reading(image=IMAGE, meta=Meta(engine="other@1", seconds=1.5, cached=True, skipped=(skipped,)))
    assert "resnet50@1 did not answer: It broke." in seen("x", told).plain
    assert "other@1 · 1.5 s · remembered" in seen("x", told).plain


def test_a_fallback_s_reason_is_not_said_twice() -> None:
    message = "Model far@1 did not answer: 3 attempts: no connection."
    skipped = Skipped(engine="far@1", code="provider_failed", message=message)
    told = seen("x", Reading(image=IMAGE, meta=Meta(engine="other@1", seconds=1.5, skipped=(skipped,)))).plain
    assert "far@1 did not answer: 3 attempts: no connection." in told
    assert told.count("did not answer") == 1


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


def counted(**fields: object) -> str:
    picture = PictureTokens(tokens=9, width=90, height=80, used_width=45, used_height=40, refused="it is too large")
    told = example_of(TokenCount).altered(pictures=(picture,), meta=Meta(), **fields)
    return seen("x", told).plain


def test_tokens_are_told_with_what_is_left_of_a_picture_and_why_one_is_refused() -> None:
    told = counted(most_cost=12.5, input_cost=2.84e-5)
    assert "9 tokens for a picture of 90 × 80, used at 45 × 40" in told
    assert "gpt-4o would not take it as it is: it is too large" in told
    assert "$12.50" in told
    assert "$0.000028" in told
    assert "(exact)" in told


def test_a_guess_and_a_missing_price_are_called_so() -> None:
    told = counted(confidence="guess", most_cost=None, input_cost=None)
    assert "a guess: how gpt-4o counts is not known" in told
    assert "no price is known" in told
    assert "$" not in told


def test_a_comparison_of_faces_says_who_it_takes_them_for_and_how_often_that_is_wrong() -> None:
    told = example_of(FaceComparison)
    same = seen("x", told.altered(score=0.9967, meta=Meta())).plain
    assert "the same person" in same
    assert "99.7%" in same, "never 100 %"
    assert "of two people: none of them are as near as these two" in same
    assert "of one person: 24.0% are farther apart than these two" in same
    assert "shows" not in same, "one face each"
    few = seen("x", told.altered(false_match_rate=0.0003, false_non_match_rate=1.0, meta=Meta())).plain
    assert "of two people: 0.1% are" in few, "few are not none"
    assert "of one person: all of them are" in few
    crowd = told.faces[1].altered(faces_found=3)
    assert (
        "picture 2 shows 3 faces: the largest was compared"
        in seen("x", told.altered(faces=(told.faces[0], crowd))).plain
    )
    assert "different people\n" in seen("x", told.altered(same=False, meta=Meta())).plain


def test_what_else_was_asked_of_a_face_is_told_in_words() -> None:
    face = Face(box=Box(left=0, top=0, right=9, bottom=9), embedding=(0.0,) * 128, crop="data:,", live=0.97)
    told = seen("x", Faces(image=IMAGE, faces=(face,))).plain
    assert "live 97%, 128 numbers, cut out" in told
    assert "stand in --json" in told
    assert "--json" not in seen("x", Faces(image=IMAGE, faces=(face.altered(embedding=None, crop=None),))).plain
    assert "no attributes" not in told
    blank = seen("x", Faces(image=IMAGE, faces=(face,), untold=("attributes",), meta=Meta(engine="yunet@1"))).plain
    assert "no attributes: yunet@1 tells none" in blank
    assert "data:" not in told
