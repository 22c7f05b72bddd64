"""What the OpenAPI document says of our own routes, derived from the tasks' schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from sensorium.schemas.base import Frozen, Request, checked
from sensorium.schemas.examples import example_of
from sensorium.schemas.picture import Picture

EXAMPLE_URL = "https://example.com/cat.jpg"

AS, FORMS = "as", ("json", "image")
"""The field that says how a picture that is the answer goes back."""

FORM_OF_ANSWER = {
    "name": AS,
    "in": "query",
    "description": "`image`: the answer is the picture itself, as with `Accept: image/*`; the rest stands in headers.",
    "schema": {"type": "string", "enum": [*FORMS], "default": FORMS[0]},
}

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")

WHOLE = {"schema": {"type": "string", "format": "binary"}}

EVENTS = (
    "With `stream`: the event `stream`, which tells the stream's id; then `delta` (words), `item` (a finished part), "
    "`progress`; then `result` (the whole answer) or `error`, and last `end`. Each has an `id`, with which `GET /v1/streams/ID` "
    "goes on after a broken connection. Lines that begin with a colon are signs of life."
)


class Manner(Frozen):
    """How the caller wants to be served; named beside the request's own fields."""

    timeout: Annotated[float, Field(gt=0, le=3600)] | None = None
    """Seconds until the answer must be there, waiting in line included. Absent: as the server's settings say."""
    cache: bool = True
    """Whether a remembered answer will do."""
    privacy: Literal["any", "local"] = "any"
    """Which models may answer. `local`: none for which pictures or words would leave the server's machine."""
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """The most that the answer may cost, in US dollars, by the estimate before it is asked for. Absent: no limit."""
    stream: bool | None = None
    """Whether to tell the answer as it comes, as server-sent events. Absent: as `Accept` says."""


MANNERS = frozenset(Manner.model_fields)

USUAL = Manner()
"""Of a caller who says nothing of it."""


def manner_of(named: Mapping[str, Any], what: str) -> Manner:
    """What the caller says of it, beside what they ask for. Raises InvalidRequest, as `checked`."""
    return checked(Manner, named, what) if named else USUAL


def page_of(request: type[Request]) -> dict[str, Any]:
    """The Operation Object of a task's route."""
    example = json.loads(example_of(request.answer).model_dump_json())
    answer = f"#/components/schemas/{request.answer.__name__}"
    results = {"results": [{"result": example}]}
    return {
        "operationId": request.task,
        "summary": (request.__doc__ or "").partition("\n")[0],
        "tags": ["tasks"],
        **({"parameters": [FORM_OF_ANSWER]} if issubclass(request.answer, Picture) else {}),
        "requestBody": {"required": True, "content": _bodies(request)},
        "responses": {
            "200": {
                "description": "The answer. For a list of pictures, an outcome for each, in their order.",
                "content": {
                    "application/json": {
                        "schema": {"oneOf": [{"$ref": answer}, _list_of(answer)]},
                        "examples": {"one": {"value": example}, "many": {"value": results}},
                    },
                    "text/event-stream": {"schema": {"description": EVENTS}},
                    **(dict.fromkeys(IMAGE_TYPES, WHOLE) if issubclass(request.answer, Picture) else {}),
                },
            }
        },
    }


def _bodies(request: type[Request]) -> dict[str, Any]:
    example = _example(request)
    bodies = {
        "application/json": {"schema": _json_body(request), "example": example},
        "multipart/form-data": {"schema": _form_body(request)},
    }
    return {**bodies, "image/*": WHOLE, "application/octet-stream": WHOLE} if request.source_fields() else bodies


def _example(request: type[Request]) -> dict[str, Any]:
    fields = request.model_fields
    words = {name: fields[name].examples[0] for name in request.positional}  # type: ignore[index] # they have one
    several = {request.gathers: [EXAMPLE_URL, EXAMPLE_URL]} if request.gathers else {}
    return {**dict.fromkeys(request.source_fields(), EXAMPLE_URL), **words, **several}


def _json_body(request: type[Request]) -> dict[str, Any]:
    """The request's schema, with one picture or a list of them as the first source."""
    schema = _with_manner(request)
    for first in request.source_fields()[:1]:
        one = schema["properties"][first]
        several = {"type": "array", "items": _without_words(one), "minItems": 1}
        schema["properties"][first] = {**_words(one), "oneOf": [_without_words(one), several]}
    return schema


def _form_body(request: type[Request]) -> dict[str, Any]:
    """As in JSON, with files in place of sources. A form cannot tell one picture from a list of one."""
    schema = _with_manner(request)
    for name in (*request.source_fields(), *request.source_lists()):
        file = {"type": "string", "format": "binary"}
        words = _words(schema["properties"][name])
        first = name in (*request.source_fields()[:1], *request.source_lists())
        schema["properties"][name] = {**words, **({"type": "array", "items": file, "minItems": 1} if first else file)}
    return schema


def _with_manner(request: type[Request]) -> dict[str, Any]:
    own = request.model_json_schema(ref_template="#/components/schemas/{model}")
    own.pop("$defs", None)
    return {**own, "properties": {**own["properties"], **Manner.model_json_schema()["properties"]}}


def _words(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: schema[name] for name in ("title", "description") if name in schema}


def _without_words(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name not in ("title", "description")}


def _list_of(answer: str) -> dict[str, Any]:
    item = {
        "oneOf": [
            {"type": "object", "required": ["result"], "properties": {"result": {"$ref": answer}}},
            {"type": "object", "required": ["error"], "properties": {"error": {"$ref": "#/components/schemas/Error"}}},
        ]
    }
    return {"type": "object", "required": ["results"], "properties": {"results": {"type": "array", "items": item}}}
