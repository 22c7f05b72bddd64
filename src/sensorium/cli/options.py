"""Command-line options made from the fields of a schema: names, kinds, limits, defaults and help."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from sensorium.cli.inputs import is_there
from sensorium.media.source import Source

if TYPE_CHECKING:
    ParamType = click.ParamType[Any, Any]
else:
    ParamType = click.ParamType  # not generic in all versions

PREFIX = "field_"
"""Before a field's name among a command's parameters, so that it hides none of the command's own."""

PLAIN: dict[Any, ParamType] = {str: click.STRING, int: click.INT, float: click.FLOAT, bool: click.BOOL}


def options_of(
    fields: Mapping[str, FieldInfo],
    *,
    taken: Collection[str] = (),
    of: str = "the",
    before: str = "",
    all_optional: bool = False,
) -> Iterator[click.Option]:
    """An option for each field, called --before-name; one whose name is taken is called --the-name, or by whose it is.

    What is not given on the command line is None, so that the schema's own default holds, which the help shows.
    `given` finds the values again among all parameters of the command.
    """
    for name, field in fields.items():
        flag = before + name.replace("_", "-")
        required = field.is_required() and not all_optional
        yield _option(f"{of}-{flag}" if name in taken else flag, name, field, required)


def given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were given on the command line, by their own names."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in parameters.items()
        if name.startswith(PREFIX) and value is not None
    }


class Json(ParamType):
    """A value of a kind that has no plainer way to be typed."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            # The name of a file is what people try first.
            hint = ' Of a file, give its text: "$(cat FILE)".' if is_there(value.removeprefix("@")) else ""
            self.fail(f"{value!r} is no JSON ({error}).{hint}", param, ctx)


class Picture(ParamType):
    """A picture beside the main one."""

    name = "file|url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        return Source.of(value)


class Words(click.Choice[str]):
    """One of some names; hyphens stand for underscores, as in the commands' names."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(value if value in self.choices else str(value).replace("-", "_"), param, ctx)


class Several(ParamType):
    """A list, its parts separated by commas; the option may also be repeated."""

    def __init__(self, inner: ParamType) -> None:
        self.inner = inner
        self.name = f"{inner.name},…"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        one = self.inner.get_metavar(param, ctx) or self.inner.name.upper()
        return f"{one}[,…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        return tuple(self.inner.convert(part.strip(), param, ctx) for part in str(value).split(",") if part.strip())


def _option(flag: str, name: str, field: FieldInfo, required: bool) -> click.Option:
    kind = _kind(field.annotation, field.metadata)
    is_switch = kind is click.BOOL
    # A default of None, once named, counts as given.
    unless_given: dict[str, Any] = {} if required else {"default": None}
    return click.Option(
        [f"--{flag}/--no-{flag}" if is_switch else f"--{flag}", f"{PREFIX}{name}"],
        type=None if is_switch else kind,
        multiple=isinstance(kind, Several),
        callback=_joined if isinstance(kind, Several) else None,
        required=required,
        help=f"{_sentence(field.description)}{_shown(_default(field), flag if is_switch else None)}",
        **unless_given,
    )


def _kind(annotation: Any, metadata: Collection[Any]) -> ParamType:
    """How the value of a field is typed in."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        marks = [mark for part in parts[1:] for mark in (part.metadata if isinstance(part, FieldInfo) else [part])]
        return _kind(parts[0], [*metadata, *marks])
    if origin in (Union, UnionType) and len(plain := [part for part in parts if part is not NoneType]) == 1:
        return _kind(plain[0], metadata)
    if origin is Literal and all(isinstance(part, str) for part in parts):
        return Words(parts)
    if origin in (tuple, list, set, frozenset) and not isinstance(inner := _kind(parts[0], ()), (Json, Several)):
        return Several(inner)
    if annotation in (int, float):
        return _range(annotation, metadata)
    if annotation is Source:
        return Picture()
    if annotation is Path:
        return click.Path(path_type=Path)
    return PLAIN.get(annotation) or Json()


def _range(number: type[int] | type[float], metadata: Collection[Any]) -> ParamType:
    told = {name: getattr(mark, name) for mark in metadata for name in ("ge", "gt", "le", "lt") if hasattr(mark, name)}
    if not told:
        return PLAIN[number]
    bounds: dict[str, Any] = {
        "min": told.get("ge", told.get("gt")),
        "max": told.get("le", told.get("lt")),
        "min_open": "gt" in told,
        "max_open": "lt" in told,
    }
    return click.IntRange(**bounds) if number is int else click.FloatRange(**bounds)


def _joined(ctx: click.Context, param: click.Parameter, value: Any) -> tuple[Any, ...] | None:  # noqa: ARG001
    return tuple(part for several in value for part in several) or None


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _sentence(description: str | None) -> str:
    return " ".join((description or "").split()).replace("`", "")


def _shown(default: Any, switch: str | None) -> str:
    if switch is not None:
        return f" [default: {switch if default else f'no-{switch}'}]"
    if default is None or default in ({}, (), [], ""):
        return ""
    if isinstance(default, (tuple, list, set, frozenset)):
        default = ",".join(map(str, default))
    return f" [default: {default}]"
