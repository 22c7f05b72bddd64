"""The classic way to ask about a picture by its address: `POST /v1/analyze/image`.

    curl --json '{"image_url": "https://example.com/cat.jpg", "prompt": "What is this?"}' http://127.0.0.1:8000/v1/analyze/image
    {"id": "img-1f3a9c02", "result": "A cat."}

`image_url` is an http(s) URL or a data URL. With `"stream": true` the answer comes as `data: {"content": "..."}`, and last
`data: [DONE]`; a failure is `data: {"error": "..."}`, without it. Before anything is told, it is `{"error": "..."}` with
its status.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from sensorium.errors import InvalidRequest, SensoriumError
from sensorium.media.source import Source
from sensorium.schemas.ask import Answer, AskRequest
from sensorium.schemas.base import Result, checked
from sensorium.schemas.events import Delta, Event
from sensorium.server.facades.base import BEAT, Facade, Message, Outcome, Plan, Reply
from sensorium.server.facades.status import headers_of, sentence, status_of

NO_IMAGE = "image_url is required"
"""What the clients look for, to the letter."""


class Question(BaseModel):
    """What the classic clients send; further fields are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    image_url: str
    """An http(s) URL, or a data URL."""
    prompt: str = Field(min_length=1, max_length=1_000_000)
    detail: Literal["auto", "low", "high"] = "auto"
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 1024
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """What an answer needs to know of its question."""

    prefix: str
    """What its id begins with."""


def parse(message: Message) -> Plan:
    """Raises InvalidRequest, to the letter when there is no picture."""
    if not message.fields.get("image_url"):
        raise InvalidRequest(NO_IMAGE)
    question = checked(Question, message.fields, "a picture's analysis")
    return plan_of(question, Source.from_wire(question.image_url), "img")


def plan_of(question: Question, picture: Source, prefix: str) -> Plan:
    """The question about a picture as a request."""
    asked = AskRequest(image=picture, prompt=question.prompt, detail=question.detail, max_tokens=question.max_tokens)
    return Plan((asked,), Context(prefix), stream=question.stream)


def render(outcomes: Sequence[Outcome], context: Context) -> Reply:
    """The answer with an id of its own."""
    (outcome,) = outcomes
    if isinstance(outcome, SensoriumError):
        return refuse(outcome, "")
    told = {"id": f"{context.prefix}-{secrets.token_hex(4)}", "result": cast("Answer", outcome).text}
    return Reply(200, to_json(told))


def refuse(error: SensoriumError, trace: str) -> Reply:  # noqa: ARG001 - the classic answer has no trace
    """An error as the classic clients know it."""
    return Reply(status_of(type(error)), _failure(error), headers_of([error]))


class Pieces:
    """A streamed answer."""

    def __init__(self, context: Context) -> None:  # noqa: ARG002 - nothing of it is told
        self._said = False

    def start(self) -> bytes:
        return b""

    def event(self, event: Event) -> bytes:
        if not isinstance(event, Delta):
            return b""
        self._said = True
        return b'data: {"content":%b}\n\n' % to_json(event.text)

    def beat(self) -> bytes:
        return BEAT

    def end(self, result: Result) -> bytes:
        words = b"" if self._said else self.event(Delta(cast("Answer", result).text))
        return words + b"data: [DONE]\n\n"

    def error(self, error: SensoriumError) -> bytes:
        return b"data: %b\n\n" % _failure(error)


def _failure(error: SensoriumError) -> bytes:
    return to_json({"error": NO_IMAGE if error.what == NO_IMAGE else sentence(error)})


def operation() -> dict[str, Any]:
    """The route's page in the OpenAPI document."""
    asked = {"image_url": "https://example.com/cat.jpg", "prompt": "What is this?"}
    return page_of(
        "analyze_image",
        "Ask about a picture by its URL, as the classic service did",
        {"application/json": {"schema": Question.model_json_schema(), "example": asked}},
        "img-1f3a9c02",
    )


def page_of(name: str, summary: str, bodies: dict[str, Any], identity: str) -> dict[str, Any]:
    """The page of a route with this answer."""
    told = {"id": {"type": "string"}, "result": {"type": "string"}}
    answer = {"type": "object", "required": list(told), "properties": told}
    failure = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["compatible"],
        "requestBody": {"required": True, "content": bodies},
        "responses": {
            "200": {
                "description": "The answer; with `stream`, its pieces, then `[DONE]`",
                "content": {
                    "application/json": {"schema": answer, "example": {"id": identity, "result": "A cat."}},
                    "text/event-stream": {},
                },
            },
            "default": {
                "description": "Why there is no answer",
                "content": {"application/json": {"schema": failure, "example": {"error": NO_IMAGE}}},
            },
        },
    }


FACADE = Facade(
    path="/v1/analyze/image",
    parse=parse,
    render=render,
    refuse=refuse,
    operation=operation,
    encoder=Pieces,
)
