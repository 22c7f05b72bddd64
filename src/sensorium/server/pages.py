"""Pieces of which routes write their pages for OpenAPI."""

from __future__ import annotations

from typing import Any

REFUSALS = (400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 422, 429, 503)
"""Statuses that any of these routes may refuse with."""


def parameter(name: str, place: str, schema: dict[str, Any], words: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "schema": schema, "description": words, **more}


def answer(schema: dict[str, Any], words: str) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def operation(
    name: str,
    summary: str,
    parameters: list[dict[str, Any]],
    answers: dict[str, Any],
    body: dict[str, Any] | None = None,
    *,
    tag: str,
) -> dict[str, Any]:
    """One operation, with all the ways in which it may refuse."""
    refusals = {str(status): {"$ref": f"#/components/responses/Refused{status}"} for status in REFUSALS}
    page = {"operationId": name, "summary": summary, "tags": [tag], "parameters": parameters}
    return {**page, **({"requestBody": body} if body else {}), "responses": {**answers, **refusals}}
