"""`GET /v1/usage`: what was used, by oneself; by everyone, for operators."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pydantic import Field
from pydantic_core import to_json

from sensorium.engine import Caller
from sensorium.schemas.base import Frozen, checked
from sensorium.server.facades.base import Reply
from sensorium.stores.usage import Amounts, By, UsageBook, window

PATH = "/v1/usage"

SEES_ALL = "admin"
"""The scope of those who see what everyone used."""

USUAL_DAYS = 30


class Wanted(Frozen):
    """What a client asks of it, in the query."""

    by: By = "model"
    """What to sum up by."""
    since: date | None = None
    """The first day, in UTC, such as `2026-11-30`. Absent: 30 days ago."""
    key: str | None = Field(default=None, max_length=200)
    """Whose usage. Absent: one's own; with the scope `admin`, everyone's."""


async def used(book: UsageBook, caller: Caller, query: Mapping[str, Any]) -> Reply:
    """Raises InvalidRequest for a query that is wrong, and Forbidden for another's usage."""
    wanted = checked(Wanted, query, "usage")
    key = wanted.key if caller.may(SEES_ALL) else caller.name
    if wanted.key not in (None, key):
        caller.require(SEES_ALL)
    since = wanted.since.isoformat() if wanted.since else first_day()
    lines = await book.lines(wanted.by, since, key)
    told = [{wanted.by: line.name, **line.amounts._asdict()} for line in lines]
    return Reply(200, to_json({"since": since, "usage": told, "budget": await budget_of(book, caller)}))


def first_day() -> str:
    return (datetime.now(UTC) - timedelta(days=USUAL_DAYS)).date().isoformat()


async def budget_of(book: UsageBook, caller: Caller) -> dict[str, Any] | None:
    """What the caller may spend, and has spent of it; None where nothing is limited."""
    budget = caller.budget
    if budget is None:
        return None
    spent = await book.spent(caller.name, budget)
    ends = datetime.fromtimestamp(window(budget, datetime.now(UTC).timestamp())[1], UTC)
    return {
        "per": budget.per,
        "usd": budget.usd,
        "tokens": budget.tokens,
        "spent_usd": spent.cost,
        "spent_tokens": spent.tokens,
        "until": ends.isoformat(timespec="seconds"),
    }


def page() -> dict[str, Any]:
    """The route, as OpenAPI describes it."""
    refused = {str(status): {"$ref": f"#/components/responses/Refused{status}"} for status in (400, 401, 403, 503)}
    parameters = [
        {"name": name, "in": "query", "schema": schema, "description": schema.pop("description", "")}
        for name, schema in Wanted.model_json_schema()["properties"].items()
    ]
    answer = {"description": "What was used", "content": {"application/json": {"schema": _ANSWER}}}
    about = {"operationId": "usage", "summary": "What was used, and what may still be spent", "tags": ["keys"]}
    return {PATH: {"get": {**about, "parameters": parameters, "responses": {"200": answer, **refused}}}}


_NUMBERS = {
    name: {"type": "number" if name in ("seconds", "cost") else "integer", "minimum": 0} for name in Amounts._fields
}

_ANSWER = {
    "type": "object",
    "required": ["since", "usage", "budget"],
    "properties": {
        "since": {"type": "string", "format": "date", "description": "The first day that is in it, in UTC"},
        "usage": {
            "type": "array",
            "items": {
                "type": "object",
                "description": "One key, model, task or day, in a field of that name; `model` is empty where no model answered",
                "required": list(_NUMBERS),
                "properties": {**{name: {"type": "string"} for name in ("key", "model", "task", "day")}, **_NUMBERS},
            },
        },
        "budget": {
            "description": "What the key that asks may spend; null: as much as it likes",
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "per": {"enum": ["day", "month"]},
                        "usd": {"type": ["number", "null"]},
                        "tokens": {"type": ["integer", "null"]},
                        "spent_usd": {"type": "number"},
                        "spent_tokens": {"type": "integer"},
                        "until": {"type": "string", "format": "date-time"},
                    },
                },
                {"type": "null"},
            ],
        },
    },
}
