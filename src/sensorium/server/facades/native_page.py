"""What the OpenAPI document says of our own routes, derived from the tasks' schemas."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field

from sensorium.schemas.base import Frozen, Request
from sensorium.schemas.examples import example_of

EXAMPLE_URL = "https://example.com/cat.jpg"


class Manner(Frozen):
    """How the caller wants to be served; named beside the request's own fields."""

    timeout: Annotated[float, Field(gt=0, le=3600)] | None = None
    """Seconds until the answer must be there, waiting in line included. Absent: as the server's settings say."""
    cache: bool = True
    """Whether a remembered answer will do."""


def page_of(request: type[Request]) -> dict[str, Any]:
    """The Operation Object of a task's route."""
    example = json.loads(example_of(request.answer).model_dump_json())
    answer = f"#/components/schemas/{request.answer.__name__}"
    results = {"results": [{"result": example}]}
    return {
        "operationId": request.task,
        "summary": (request.__doc__ or "").partition("\n")[0],
        "tags": ["tasks"],
        "requestBody": {"required": True, "content": _bodies(request)},
        "responses": {
            "200": {
                "description": "The answer. For a list of pictures, an outcome for each, in their order.",
                "content": {
                    "application/json": {
                        "schema": {"oneOf": [{"$ref": answer}, _list_of(answer)]},
                        "examples": {"one": {"value": example}, "many": {"value": results}},
                    }
                },
            }
        },
    }


def _bodies(request: type[Request]) -> dict[str, Any]:
    example = dict.fromkeys(request.source_fields(), EXAMPLE_URL)
    whole = {"schema": {"type": "string", "format": "binary"}}
    bodies = {
        "application/json": {"schema": _json_body(request), "example": example},
        "multipart/form-data": {"schema": _form_body(request)},
    }
    return {**bodies, "image/*": whole, "application/octet-stream": whole} if request.source_fields() else bodies


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
    for name in request.source_fields():
        file = {"type": "string", "format": "binary"}
        words = _words(schema["properties"][name])
        first = name == request.source_fields()[0]
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
