"""JSON schemas from outside: what is taken, what is refused, and that checking is bounded."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import BaseModel, Field

from sensorium.errors import InvalidRequest
from sensorium.schemas.structure import LARGEST, Structure


class Part(BaseModel):
    name: str = Field(pattern="^[a-z]+$")
    parts: list[Part] = []


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def test_a_value_is_held_to_its_schema() -> None:
    structure = Structure.of(Part.model_json_schema())
    assert structure.problem({"name": "a", "parts": [{"name": "b"}]}) is None
    fault = structure.problem({"name": "a", "parts": [{"name": "B"}, {}]})
    assert fault is not None
    assert "`parts.0.name`" in fault
    assert "'name' is a required property" in fault


def test_a_field_may_be_called_like_a_keyword() -> None:
    schema = {"type": "object", "properties": {"pattern": {"type": "string"}, "$ref": {"type": "integer"}}}
    assert Structure.of(schema).problem({"pattern": "(?<=x)", "$ref": 1}) is None


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "https://example.com/schema.json"}, "leads to"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "leads to"),
        ({"$ref": "#/const", "const": {"patternProperties": {"(a+)+$": {}}}}, "leads to"),
        ({"$ref": "#/$defs/missing"}, "leads to nothing"),
        ({"patternProperties": {"(a+)+$": {}}}, "patternProperties"),
        ({"items": {"unevaluatedProperties": False}}, "unevaluatedProperties"),
        ({"pattern": "(?=a)b"}, "look-around"),
        ({"pattern": "(a"}, "pattern"),
        ({"type": "colour"}, "colour"),
        ({"properties": []}, "properties"),
        ({"enum": ["x" * LARGEST]}, "characters"),
        ({"const": {1, 2}}, "JSON"),
        ({"const": float("nan")}, "JSON"),
        (nested(40), "levels"),
        (nested(5000), "JSON|levels"),
    ],
)
def test_what_cannot_be_bounded_or_is_no_schema_is_refused(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        Structure.of(schema).problem({"a": 1})


def test_a_schema_that_leads_round_in_a_circle_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="circle"):
        Structure.of({"$ref": "#"}).problem(1)


def test_a_schema_that_doubles_its_work_at_each_level_ends() -> None:
    levels = {f"l{n}": {"allOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(28)}
    schema = {"$ref": "#/$defs/l0", "$defs": {**levels, "l28": {"type": "integer"}}}
    start = time.thread_time()
    with pytest.raises(InvalidRequest, match="steps"):
        Structure.of(schema).problem(1)
    assert time.thread_time() - start < 5


def test_things_that_are_compared_each_with_each_are_counted() -> None:
    schema = {"type": "array", "uniqueItems": True}
    assert Structure.of(schema).problem([{}, {}]) is not None
    with pytest.raises(InvalidRequest, match="steps"):
        Structure.of(schema).problem([{"n": number} for number in range(1000)])


def test_a_pattern_that_would_backtrack_for_ever_does_not() -> None:
    start = time.thread_time()
    assert Structure.of({"pattern": "^(a+)+$"}).problem("a" * 5000 + "!") is not None
    assert time.thread_time() - start < 2


def test_messages_stay_short_whatever_the_answer() -> None:
    fault = Structure.of({"type": "integer"}).problem("x" * 100_000)
    assert fault is not None
    assert len(fault) < 500
