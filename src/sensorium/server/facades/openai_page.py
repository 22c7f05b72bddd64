"""What the OpenAPI document says of the chat completions."""

from __future__ import annotations

from typing import Any

from sensorium.server.facades.native_page import Manner

MANNER = ("privacy", "max_cost", "cache", "timeout")
"""Fields that OpenAI does not have: official clients send them by `extra_body`."""

_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
_MAYBE_TEXT = {"type": ["string", "null"]}

_PART = {
    "oneOf": [
        {"type": "object", "required": ["type", "text"], "properties": {"type": {"const": "text"}, "text": _TEXT}},
        {
            "type": "object",
            "required": ["type", "image_url"],
            "properties": {
                "type": {"const": "image_url"},
                "image_url": {
                    "type": "object",
                    "required": ["url"],
                    "properties": {
                        "url": {**_TEXT, "description": "An http(s) URL, or a data URL"},
                        "detail": {"enum": ["auto", "low", "high", "original"]},
                    },
                },
            },
        },
    ]
}

_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"oneOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": _PART, "minItems": 1}]},
    },
}

REQUEST = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        "model": {
            **_TEXT,
            "description": "A model of the task `ask`, as `GET /v1/models` lists them. Absent: the default",
        },
        "messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": 10_000_000},
        "max_completion_tokens": {
            "type": "integer",
            "minimum": 1,
            "maximum": 10_000_000,
            "description": "Goes before `max_tokens`",
        },
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "stop": {"oneOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": 16}]},
        "seed": {"type": "integer"},
        "n": {"const": 1},
        "stream": {"type": "boolean"},
        "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
        "response_format": {
            "type": "object",
            "required": ["type"],
            "properties": {
                "type": {"enum": ["text", "json_object", "json_schema"]},
                "json_schema": {"type": "object", "properties": {"schema": {"type": "object"}}},
            },
        },
        **{name: Manner.model_json_schema()["properties"][name] for name in MANNER},
    },
}

ANSWER = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": _TEXT,
        "object": {"const": "chat.completion"},
        "created": _COUNT,
        "model": _TEXT,
        "choices": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index", "message", "finish_reason"],
                "properties": {
                    "index": {"const": 0},
                    "message": {
                        "type": "object",
                        "required": ["role", "content"],
                        "properties": {"role": {"const": "assistant"}, "content": _TEXT},
                    },
                    "finish_reason": {"enum": ["stop", "length", "content_filter"]},
                },
            },
        },
        "usage": {
            "type": ["object", "null"],
            "description": "Null where nobody counted",
            "properties": {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT},
        },
    },
}

FAILURE = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": _TEXT, "type": _TEXT, "param": _MAYBE_TEXT, "code": _MAYBE_TEXT},
        }
    },
}

_QUESTION = {"model": "perception", "messages": [{"role": "user", "content": "What is a picture?"}]}
_FAILED = {"message": "There is no model 'x' for ask.", "type": "invalid_request_error"}


def operation() -> dict[str, Any]:
    """The route's page in the OpenAPI document."""
    return {
        "operationId": "chat_completions",
        "summary": "Ask about pictures or words, as OpenAI's clients do",
        "description": "Fields that are not named here are left alone.",
        "tags": ["compatible"],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": REQUEST, "example": _QUESTION}},
        },
        "responses": {
            "200": {
                "description": "The answer; with `stream`, its chunks, then `[DONE]`",
                "content": {
                    "application/json": {"schema": ANSWER},
                    "text/event-stream": {},
                },
            },
            "default": {
                "description": "Why there is no answer",
                "content": {
                    "application/json": {
                        "schema": FAILURE,
                        "example": {"error": {**_FAILED, "param": "model", "code": "model_not_found"}},
                    }
                },
            },
        },
    }
