"""The models: listed for operators and for OpenAI's clients, and changed for what the models folder holds now.

`GET /v1/models` serves both with one object: `models` is all that operators want to know of every version, `object` and
`data` are what OpenAI's clients look for, the models that can be asked questions.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from pydantic_core import to_json

from sensorium.engine import Card
from sensorium.errors import SensoriumError, UnknownModel
from sensorium.models import State
from sensorium.server.facades import native, openai
from sensorium.server.facades.base import Reply
from sensorium.server.facades.openai_page import FAILURE
from sensorium.service import Sensorium

LIST, ONE, RELOAD = "/v1/models", "/v1/models/{name:path}", "/v1/models/{name:path}/reload"
"""The routes; the last asks for the scope `admin`. Names may have slashes."""

ASK = "ask"
"""The task that OpenAI's clients know."""


async def listed(service: Sensorium) -> Reply:
    """Every model with its version, tasks, licence and state."""
    states = await asyncio.to_thread(service.models.states)
    askable = [state.card for state in states if state.card and state.current and state.card.does(ASK)]
    told = {"object": "list", "data": [_openai(service, card.name, card) for card in askable]}
    return Reply(200, to_json({**told, "models": [_told(state) for state in states]}))


async def one(service: Sensorium, name: str, trace: str) -> Reply:
    """A model that can be asked questions, as OpenAI's clients look for it."""
    try:
        card = await asyncio.to_thread(service.registry.card, name, ASK)
    except SensoriumError as error:
        return openai.refuse(error, trace)
    return Reply(200, to_json(_openai(service, name, card)))


async def reloaded(service: Sensorium, name: str, trace: str) -> Reply:
    """What became of changing over to the model's files as they are now."""
    try:
        return Reply(200, to_json(asdict(await service.models.reload(name))))
    except UnknownModel as error:  # here the model is the path, not a field
        return native.refuse(error, trace)._replace(status=404)


def pages() -> dict[str, Any]:
    """Both routes, as OpenAPI describes them."""
    refused = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}}
    keyless = {"401": {"description": "A key is asked for, and this is none", **refused}}
    name = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": "A model's name, or name@version",
    }
    unknown = {"404": {"description": "There is no such model", "content": {"application/json": {"schema": FAILURE}}}}
    return {
        LIST: {"get": _page("models", "Every model, its version and its state", {"200": _answer(_LISTED), **keyless})},
        "/v1/models/{name}": {
            "get": {
                **_page("model", "A model of the task `ask`", {"200": _answer(_ONE), **keyless, **unknown}),
                "parameters": [name],
            }
        },
        "/v1/models/{name}/reload": {
            "post": {
                **_page(
                    "reload_model",
                    "Change over to the model's files as they are now, while requests go on",
                    {
                        "200": _answer(_RELOADED),
                        **keyless,
                        "403": {"description": "The key lacks the scope `admin`", **refused},
                        "404": {"description": "There is no such model", **refused},
                        "409": {"description": "It cannot be used; what was there goes on answering", **refused},
                        "503": {"description": "The server is starting or stopping", **refused},
                    },
                ),
                "parameters": [name],
            }
        },
    }


def _openai(service: Sensorium, name: str, card: Card) -> dict[str, Any]:
    """When it was made, nobody knows; 0 is a number, as clients expect."""
    return {"id": name, "object": "model", "created": 0, "owned_by": service.registry.catalogue.owner(card)}


def _told(state: State) -> dict[str, Any]:
    card = state.card
    return {
        "model": card.id if card else None,
        "name": state.name,
        "version": card.version if card else None,
        "kind": card.kind if card else None,
        "tasks": card.tasks if card else [],
        "licence": card.licence if card else None,
        "state": state.state,
        "why": state.why,
        "current": state.current,
        "pinned": state.pinned,
        "bytes": state.bytes,
    }


def _page(name: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "tags": ["models"], "responses": responses}


def _answer(schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": schema["description"], "content": {"application/json": {"schema": schema}}}


_TEXT, _MAYBE_TEXT = {"type": "string"}, {"type": ["string", "null"]}

_ONE = {
    "type": "object",
    "description": "As OpenAI's clients know a model",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": _TEXT,
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {
            **_TEXT,
            "description": "Its provider, such as `openai`, or `sensorium` for a model of this server",
        },
    },
}

_LISTED = {
    "type": "object",
    "description": "Those of the models folder first",
    "required": ["models", "object", "data"],
    "properties": {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": _ONE,
            "description": "Those that can be asked, as OpenAI's clients know them",
        },
        "models": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "model": {**_MAYBE_TEXT, "description": "name@version; null for a card that cannot be read"},
                    "name": _TEXT,
                    "version": _MAYBE_TEXT,
                    "kind": _MAYBE_TEXT,
                    "tasks": {"type": "array", "items": _TEXT},
                    "licence": _MAYBE_TEXT,
                    "state": {"enum": ["not installed", "ready", "loading", "loaded", "failed"]},
                    "why": {**_MAYBE_TEXT, "description": "What is wrong, in words"},
                    "current": {"type": "boolean", "description": "Whether the name alone means this version"},
                    "pinned": {"type": "boolean", "description": "Whether the settings name this version"},
                    "bytes": {"type": ["integer", "null"], "description": "Size of the weights' file"},
                },
            },
        },
    },
}

_RELOADED = {
    "type": "object",
    "description": "It answers from now on; what was under way before ends where it began",
    "required": ["model", "before", "seconds"],
    "properties": {
        "model": {**_TEXT, "description": "What answers now, as name@version"},
        "before": {**_MAYBE_TEXT, "description": "What answered before"},
        "seconds": {"type": "number"},
    },
}
