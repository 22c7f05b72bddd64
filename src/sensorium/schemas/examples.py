"""An example of any schema, made from its fields: for documentation, and for the fake engine's answers."""

from __future__ import annotations

from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Model = TypeVar("Model", bound=BaseModel)

PLAIN: dict[type, Any] = {str: "example", int: 1, float: 0.5, bool: False, bytes: b"example"}


def example_of(model: type[Model]) -> Model:
    """A valid instance: each field's own example, else its default, else the plainest value of its type."""
    return model.model_validate({name: _field(field) for name, field in model.model_fields.items()})


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
