"""The OpenAPI 3.1 document, derived from the tasks' schemas and the facades' pages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

import sensorium
from sensorium.errors import every_error
from sensorium.registry import Task
from sensorium.server import models, resume, usage
from sensorium.server.facades.base import Facade
from sensorium.server.facades.status import HTTP_CODES, status_of

TEMPLATE = "#/components/schemas/{model}"

REASONS = {
    400: "The request is wrong",
    401: "No key or token, or not a good one",
    402: "It would cost more than is allowed",
    403: "The key or token does not allow it; or without keys, a foreign `Host` or `Origin`",
    404: "No such task, stream, job or route",
    405: "The route takes another method",
    408: "The body did not arrive whole and in time",
    409: "The model's new version cannot be used, or the idempotency key is another job's",
    410: "What comes next is not kept any more",
    413: "Too many bytes or pixels",
    415: "A type of body or of picture that is not taken",
    422: "A picture that is damaged or cannot be fetched",
    424: "The key for a provider is not set",
    429: "Too many requests wait; `Retry-After` says when to come back",
    500: "The server or an engine failed",
    501: "Not installed here",
    502: "A provider failed, or its answer cannot be used",
    503: "Not here, or not now",
    504: "No answer in time",
}


SECURITY = {
    "key": {"type": "http", "scheme": "bearer", "description": "A key or a token (JWT), where the server asks for one"},
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same, in a header of its own",
    },
}


def document(tasks: Iterable[Task], facades: Iterable[Facade], more: Mapping[str, Any]) -> dict[str, Any]:
    """The whole document; `more` are paths of routes beside those of facades."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sensorium",
            "version": sensorium.__version__,
            "summary": "Understand images on your own machines",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            **_health(),
            **_who(),
            **usage.page(),
            **models.pages(),
            **resume.page(),
            **more,
            **{facade.path: {facade.method.lower(): _page(facade)} for facade in facades},
        },
        "security": [{"key": []}, {"header": []}, {}],
        "components": {"schemas": _schemas(tasks), "responses": _refusals(), "securitySchemes": SECURITY},
    }


def _page(facade: Facade) -> dict[str, Any]:
    """The facade's own page; errors are told in our shape, unless it says how it tells them by `default`."""
    page = facade.operation()
    if "default" in page["responses"]:
        return page
    refused = {str(status): {"$ref": f"#/components/responses/{_name(status)}"} for status in _codes()}
    return {**page, "responses": {**page["responses"], **refused}}


def _codes() -> Mapping[int, list[str]]:
    """The error codes behind each status."""
    codes: defaultdict[int, list[str]] = defaultdict(list)
    for kind in every_error():
        codes[status_of(kind)].append(kind.code)
    for code, status in HTTP_CODES.items():
        codes[status].append(code)
    return dict(sorted(codes.items()))


def _name(status: int) -> str:
    return f"Refused{status}"


def _refusals() -> dict[str, Any]:
    return {_name(status): _refusal(status, codes) for status, codes in _codes().items()}


def _refusal(status: int, codes: list[str]) -> dict[str, Any]:
    error = {"code": codes[-1], "message": "What happened: why. What to do.", "retryable": status in (408, 429, 504)}
    listed = ", ".join(f"`{code}`" for code in codes)
    schema = {"anyOf": [{"$ref": "#/components/schemas/Refusal"}, {"$ref": "#/components/schemas/Refusals"}]}
    return {
        "description": f"{REASONS[status]}. Codes: {listed}.",
        "content": {
            "application/json": {"schema": schema, "example": {"error": {**error, "trace": "4bf92f3577b34da6"}}}
        },
    }


def _schemas(tasks: Iterable[Task]) -> dict[str, Any]:
    known = list(tasks)
    answers = [(task.answer, "serialization") for task in known]
    _, derived = models_json_schema(answers, ref_template=TEMPLATE)  # type: ignore[arg-type]
    return {**_parts_of_requests(tasks), **derived["$defs"], **_ERRORS}


def _parts_of_requests(tasks: Iterable[Task]) -> dict[str, Any]:
    """What the requests' schemas refer to."""
    schemas = [task.request.model_json_schema(ref_template=TEMPLATE) for task in tasks]
    return {name: schema for one in schemas for name, schema in one.get("$defs", {}).items()}


_ERRORS = {
    "Error": {
        "type": "object",
        "required": ["code", "message", "retryable", "trace"],
        "properties": {
            "code": {"type": "string", "description": "Stable: programs may rely on it"},
            "message": {"type": "string", "description": "For people: what happened, why, and what to do"},
            "retryable": {"type": "boolean", "description": "Whether the same request may succeed later"},
            "retry_after_seconds": {"type": "number", "description": "When to try again"},
            "trace": {"type": "string", "description": "The id to look for in the server's log"},
        },
    },
    "Refusal": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"$ref": "#/components/schemas/Error"}},
    },
    "Refusals": {
        "type": "object",
        "description": "A list of pictures of which none could be answered, in their order",
        "required": ["results"],
        "properties": {"results": {"type": "array", "items": {"$ref": "#/components/schemas/Refusal"}}},
    },
}


def _health() -> dict[str, Any]:
    told = {"content": {"application/json": {"schema": {"type": "object"}}}}

    def page(name: str, summary: str, **more: Any) -> dict[str, Any]:
        responses = {"200": {"description": "Yes", **told}, **more}
        operation = {"operationId": name, "summary": summary, "tags": ["health"], "responses": responses}
        return {"get": {**operation, "security": []}}

    return {
        "/health": page("health", "Whether the process is up, as classic clients ask"),
        "/health/live": page("live", "Whether the process is up"),
        "/health/ready": page(
            "ready",
            "Whether it can answer, and the state of each task's models",
            **{"503": {"description": "No", **told}},
        ),
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "What the server has done and does, for Prometheus",
                "tags": ["health"],
                "responses": {
                    "200": {"description": "Numbers", "content": {"text/plain": {"schema": {"type": "string"}}}},
                    **{str(status): {"$ref": f"#/components/responses/{_name(status)}"} for status in (401, 403)},
                },
            }
        },
    }


def _who() -> dict[str, Any]:
    fields = {
        "name": {"type": "string"},
        "scopes": {"type": "array", "items": {"type": "string"}},
        "requests_per_minute": {"type": ["integer", "null"]},
    }
    example = {"name": "shop", "scopes": ["classify", "read"], "requests_per_minute": 600}
    answer = {"schema": {"type": "object", "required": list(fields), "properties": fields}, "example": example}
    refused = {"401": {"$ref": f"#/components/responses/{_name(401)}"}}
    told = {"description": "Name, scopes and rate", "content": {"application/json": answer}}
    page = {"operationId": "caller", "summary": "Whose key this is, and what it may do", "tags": ["keys"]}
    return {"/v1/caller": {"get": {**page, "responses": {"200": told, **refused}}}}
