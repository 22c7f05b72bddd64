"""JSON schemas that callers hand in: bounded and checked, before an answer is held to them.

A schema is as hostile as any other input. Its size and depth are bounded; a `$ref` leads only to its own `$defs`; what
would be matched by a backtracking engine, or looked through again and again, is refused or counted.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from sensorium.errors import InvalidRequest

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

LARGEST = 65_536
"""Characters of a schema, written as JSON."""
DEEPEST = 32
"""Levels of schemas inside schemas; no answer worth asking for has as many."""
MOST_STEPS = 200_000
"""Keywords that are looked at to check one answer: a second's work. Schemas can be written that never end."""
TOLD = 3
"""How many of an answer's faults are named."""
LONGEST_FAULT = 300
"""Characters of each."""

REFUSED = frozenset(
    ("patternProperties", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef", "$dynamicAnchor")
)
"""Keywords whose checking cannot be bounded. No provider takes them either."""
NAMING = frozenset(("properties", "$defs", "definitions", "dependentSchemas"))
"""Keywords whose value has a schema for each of some names."""
DATA = frozenset(("const", "enum", "default", "examples", "example", "required", "dependentRequired"))
"""Keywords whose value holds no schema."""

_steps: ContextVar[list[int]] = ContextVar("steps")


class Structure:
    """A schema that has been looked through. Make it by `of`."""

    def __init__(self, text: str) -> None:
        self.text = text
        """The schema as JSON."""
        self.schema = json.loads(text)
        _look_through(self.schema)
        self._validator = _validator(self.schema)

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> Structure:
        """Raises InvalidRequest, saying what is wrong with the schema. Blocks: a large one takes a while."""
        return _remembered(_as_json(schema))

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value; None when it keeps the schema. Blocks.

        Raises InvalidRequest where that cannot be told with bounded work.
        """
        faults = [f"{_place(path)}: {said}" for path, said in itertools.islice(self.faults(value), TOLD)]
        return "; ".join(faults) or None

    def faults(self, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Each fault of a value: where in it, and what is wrong."""
        from referencing.exceptions import Unresolvable

        token = _steps.set([MOST_STEPS])
        try:
            found = [(tuple(fault.absolute_path), fault.message) for fault in self._validator.iter_errors(value)]
        except Unresolvable as error:
            raise _wrong(f"`{error.ref}` leads to nothing") from error
        except RecursionError as error:
            raise _wrong("it leads round in a circle") from error
        finally:
            _steps.reset(token)
        for path, said in found:
            yield path, said if len(said) <= LONGEST_FAULT else f"{said[:LONGEST_FAULT]}…"


@functools.lru_cache(maxsize=64)
def _remembered(text: str) -> Structure:
    return Structure(text)


def _as_json(schema: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _wrong("it cannot be written as JSON") from error
    if len(text) > LARGEST:
        raise _wrong(f"it has {len(text):,} characters, and {LARGEST:,} are allowed")
    return text


def _look_through(schema: Any) -> None:
    """Raises InvalidRequest for what cannot be bounded, and for what is no schema."""
    level, depth = [schema], 0
    while level:
        if (depth := depth + 1) > DEEPEST:
            raise _wrong(f"it has more than {DEEPEST} levels")
        for one in level:
            _look_at(one)
        level = [inner for one in level if isinstance(one, dict) for inner in _inner(one)]


def _look_at(schema: Any) -> None:
    if not isinstance(schema, dict):
        return
    if strange := REFUSED & schema.keys():
        raise _wrong(f"`{min(strange)}` is not supported")
    leads = schema.get("$ref", "#")
    if not isinstance(leads, str) or not _is_own(leads):
        raise _wrong(f"`$ref` leads to {str(leads)[:60]!r}", fix="Only `#` and `#/$defs/NAME` are followed")
    if isinstance(pattern := schema.get("pattern"), str):
        _matcher(pattern)


def _is_own(leads: str) -> bool:
    kind, _, name = leads.removeprefix("#/").partition("/")
    return leads == "#" or (leads.startswith("#/") and kind in ("$defs", "definitions") and "/" not in name)


def _inner(schema: dict[str, Any]) -> Iterator[Any]:
    for keyword, value in schema.items():
        if keyword in DATA:
            continue
        if isinstance(value, dict):
            yield from value.values() if keyword in NAMING else [value]
        elif isinstance(value, list):
            yield from value


def _validator(schema: Any) -> Validator:
    from jsonschema.exceptions import SchemaError
    from referencing import Registry

    kind = _validators()
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise _wrong(f"{_place(tuple(error.absolute_path))}: {error.message[:LONGEST_FAULT]}") from error
    # With a registry of its own it fetches nothing, whatever a `$ref` says.
    return kind(schema, registry=Registry())


@functools.cache
def _validators() -> Any:
    """Draft 2020-12, counting its steps, and with patterns matched in linear time."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    checks = {**Draft202012Validator.VALIDATORS, "pattern": _pattern}
    counted = {name: _counted(check, name) for name, check in checks.items() if name not in REFUSED}
    return extend(Draft202012Validator, counted)


def _counted(check: Callable[..., Any], name: str) -> Callable[..., Any]:
    def run(validator: Any, wanted: Any, value: Any, schema: Any) -> Any:
        left = _steps.get(None)
        if left is not None:
            left[0] -= _cost(name, value)
            if left[0] < 0:
                raise _wrong(f"checking an answer takes more than {MOST_STEPS:,} steps")
        return check(validator, wanted, value, schema)

    return run


def _cost(name: str, value: Any) -> int:
    """Steps that a keyword takes."""
    if name == "$ref":
        return 10  # as long as ten of the others (measured)
    # Things that have no order are compared each with each.
    return len(value) ** 2 if name == "uniqueItems" and isinstance(value, list) else 1


def _pattern(validator: Any, wanted: str, value: Any, schema: Any) -> Any:  # noqa: ARG001 - as jsonschema calls it
    from jsonschema.exceptions import ValidationError

    if isinstance(value, str) and not _matcher(wanted).isinstance_python(value):
        yield ValidationError(f"{value!r} does not match {wanted!r}")


@functools.lru_cache(maxsize=256)
def _matcher(pattern: str) -> Any:
    """What tells whether a pattern is found in a text. Its engine knows no look-around, and so takes linear time."""
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as error:
        raise _wrong(f"the pattern {pattern[:60]!r} is not supported", fix="Do without look-around in it") from error


def _place(path: tuple[str | int, ...]) -> str:
    return f"`{'.'.join(map(str, path))}`" if path else "the whole"


def _wrong(why: str, fix: str = "") -> InvalidRequest:
    return InvalidRequest("`json_schema` cannot be used", why=why, fix=fix)
