"""Options made from a schema's fields."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field

from sensorium.cli.options import given, options_of
from sensorium.media.source import Source
from sensorium.schemas.base import ImageRequest, ImageResult, Result, Score


class Everything(ImageRequest):
    """A request with a field of every sort."""

    task: ClassVar[str] = "everything"
    answer: ClassVar[type[Result]] = ImageResult

    how_many: int = Field(default=5, ge=1, lt=10)
    """How many.  Spread over
    lines."""
    share: Score = 0.5
    fast: bool = False
    mode: Literal["a_b", "c"] = "c"
    parts: tuple[Literal["x_y", "z"], ...] = ("x_y", "z")
    box: tuple[float, float, float, float] | None = None
    other: Source | None = None
    colour: dict[str, int] = {}
    question: str
    timeout: int = 3


FIELDS = {name: field for name, field in Everything.model_fields.items() if name not in ("image", "model")}


def parsed(*words: str) -> dict[str, Any]:
    """The fields that come of a command line."""
    found: dict[str, Any] = {}
    command = click.Command(
        "x",
        params=list(options_of(FIELDS, taken=("timeout",))),
        callback=lambda **options: found.update(given(options)),
    )
    done = CliRunner().invoke(command, ["--question", "why?", *words], standalone_mode=False)
    if done.exception:
        raise done.exception
    return found


def test_what_is_not_given_is_left_to_the_schema() -> None:
    assert parsed() == {"question": "why?"}


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (("--how-many", "9"), "how_many", 9),
        (("--share", "0.25"), "share", 0.25),
        (("--fast",), "fast", True),
        (("--no-fast",), "fast", False),
        (("--mode", "a-b"), "mode", "a_b"),
        (("--mode", "a_b"), "mode", "a_b"),
        (("--parts", "x-y,z"), "parts", ("x_y", "z")),
        (("--parts", "z", "--parts", "x_y"), "parts", ("z", "x_y")),
        (("--box", "1,2,3,4.5"), "box", (1.0, 2.0, 3.0, 4.5)),
        (("--colour", '{"红": 1}'), "colour", {"红": 1}),
        (("--the-timeout", "7"), "timeout", 7),
        (("--other", "猫.jpg"), "other", Source.of("猫.jpg")),
    ],
)
def test_every_sort_of_field_can_be_typed_in(words: tuple[str, ...], field: str, value: object) -> None:
    assert parsed(*words)[field] == value


@pytest.mark.parametrize(
    "words",
    [
        ("--how-many", "10"),
        ("--how-many", "0"),
        ("--how-many", "many"),
        ("--share", "1.1"),
        ("--mode", "b"),
        ("--parts", "z,q"),
        ("--box", "1,two"),
        ("--colour", "red"),
    ],
)
def test_what_the_schema_refuses_is_a_wrong_command_line(words: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        parsed(*words)


def test_a_field_without_default_must_be_given() -> None:
    done = CliRunner().invoke(click.Command("x", params=list(options_of(FIELDS))), [])
    assert (done.exit_code, "--question" in done.output) == (2, True)


def test_help_says_what_the_field_says_with_limits_and_default() -> None:
    said = (
        CliRunner().invoke(click.Command("x", params=list(options_of(FIELDS))), ["--help"], terminal_width=200).output
    )
    for words in ("How many. Spread over lines. [default: 5]", "[1<=x<10]", "[default: no-fast]", "[default: x_y,z]"):
        assert words in said
