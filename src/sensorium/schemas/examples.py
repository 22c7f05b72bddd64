"""An example of any schema, made from its fields: for documentation, and for the fake engine's answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import Enum
from functools import partial
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Model = TypeVar("Model", bound=BaseModel)

DEEPEST = 16
"""Levels of an example; a schema may hold itself."""

PLAIN: dict[type, Any] = {str: "example", int: 1, float: 0.5, bool: False, bytes: b"example"}


def example_of(model: type[Model]) -> Model:
    """A valid instance: each field's own example, else its default, else the plainest value of its type."""
    return model.model_validate({name: _field(field) for name, field in model.model_fields.items()})


def example_for(schema: Any, root: Mapping[str, Any] | None = None, depth: int = 0) -> Any:
    """A value that keeps a plain JSON schema: the first of several choices, the shortest list, the smallest number.

    Patterns, and numbers that are to be multiples, it does not look at.
    """
    if not isinstance(schema, Mapping) or depth > DEEPEST:
        return None
    root = schema if root is None else root
    inner = partial(example_for, root=root, depth=depth + 1)
    if "$ref" in schema:
        kind, _, name = str(schema["$ref"]).removeprefix("#/").partition("/")
        return inner(root[kind][name] if name else root)
    for keyword in ("anyOf", "oneOf", "allOf", "enum", "examples"):
        if schema.get(keyword):
            first = schema[keyword][0]
            return first if keyword in ("enum", "examples") else inner(first)
    if "const" in schema:
        return schema["const"]
    kinds = schema.get("type", "object")
    return _of_kind(kinds[0] if isinstance(kinds, list) else kinds, schema, inner)


def _of_kind(kind: str, schema: Mapping[str, Any], inner: Callable[[Any], Any]) -> Any:
    if kind == "object":
        return {name: inner(part) for name, part in schema.get("properties", {}).items() if name in _needed(schema)}
    if kind == "array":
        return [inner(schema.get("items", {}))] * max(schema.get("minItems", 1), 1)
    if kind in ("integer", "number"):
        return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    return {"string": "example".ljust(schema.get("minLength", 0), "."), "boolean": False}.get(kind)


def _needed(schema: Mapping[str, Any]) -> Collection[str]:
    return schema.get("required", schema.get("properties", ()))  # type: ignore[no-any-return]


def _field(field: FieldInfo) -> Any:
    if field.examples:
        return field.examples[0]
    if _is_compound(field.annotation):
        return _value(field.annotation)
    return _value(field.annotation) if field.is_required() else field.get_default(call_default_factory=True)


def _is_compound(kind: Any) -> bool:
    """Whether an example says more than the default: nothing is learned from `lines: []`."""
    return _is_model(kind) or any(_is_compound(part) for part in get_args(kind))


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _value(kind: Any) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if _is_model(kind):
        return example_of(kind)
    if origin is Literal:
        return parts[0]
    if origin in (Union, UnionType):
        return _value(next(part for part in parts if part is not NoneType))
    if origin in (tuple, list, set, frozenset):
        return [_value(part) for part in parts if part is not Ellipsis]
    if origin is dict:
        return {}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind))
    return PLAIN.get(kind)
