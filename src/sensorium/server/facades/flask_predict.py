"""The classic Flask service: `POST /predict` with a picture, answered by the three likeliest names.

    curl -F file=@dog.jpg -F model=efficientnet_lite0 http://127.0.0.1:8000/predict
    {"results": [{"class": "golden_retriever", "prob": 0.93}, ...]}

`file` is the picture. `model` ignores case, and stands in the form or in the query; absent or
empty, it means the default. Names are spelled as Keras does, with underscores. A failure is
`{"error": "..."}`: `No file uploaded` and `Invalid model` with status 400, anything else as a
sentence. A model that is known but not installed is answered with 400 too, and with the
command that brings it.

Several `file` fields are answered in their order, each with what it would have got alone:

    {"results": [{"results": [{"class": "golden_retriever", "prob": 0.93}, ...]}, {"error": "..."}]}

The status is 200 unless all of them failed.

With `?async=1` nothing is waited for: the answer is 202 and a job, whose `status_url` (and `Location`) tells how it stands
and its outcomes, as `/v1/jobs` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pydantic_core import to_json

from sensorium.errors import InvalidRequest, MissingDependency, ModelNotInstalled, SensoriumError, UnknownModel
from sensorium.media.source import Source
from sensorium.schemas.base import Request, Result, checked
from sensorium.schemas.classify import Classification, ClassifyRequest
from sensorium.server.facades.base import Facade, Message, Outcome, Plan, Reply
from sensorium.server.facades.status import headers_of, sentence, status_of

NO_FILE, INVALID_MODEL = "No file uploaded", "Invalid model"
"""What the clients look for, to the letter."""

TOP = 3

YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
"""How a query says whether."""


def parse(message: Message) -> Plan:
    """Raises InvalidRequest when no file was sent, or one without a name, as browsers send an empty field."""
    files = [upload.source for upload in message.files if upload.field == "file" and upload.filename]
    if not files:
        raise InvalidRequest(NO_FILE)
    model = message.fields.get("model") or message.query.get("model") or None
    later = _is_later(message.query.get("async", "0"))
    return Plan(tuple(_request(source, model) for source in files), context=len(files) > 1, later=later)


def render(outcomes: Sequence[Outcome], context: bool) -> Reply:
    """One answer, or the list of all."""
    bodies = [_failure(one) if isinstance(one, SensoriumError) else _answer(one) for one in outcomes]
    failures = [one for one in outcomes if isinstance(one, SensoriumError)]
    all_failed = len(failures) == len(outcomes)
    status = max(map(_status, failures)) if all_failed else 200
    body = {"results": bodies} if context else bodies[0]
    return Reply(status, to_json(body), headers_of(failures) if all_failed else ())


def refuse(error: SensoriumError, trace: str) -> Reply:  # noqa: ARG001 - the classic answer has no trace
    """An error as the classic clients know it."""
    return Reply(_status(error), to_json(_failure(error)), headers_of([error]))


def operation() -> dict[str, Any]:
    """The route's page in the OpenAPI document."""
    named = {"class": {"type": "string"}, "prob": {"type": "number", "minimum": 0, "maximum": 1}}
    results = {"type": "array", "items": {"type": "object", "required": ["class", "prob"], "properties": named}}
    answer = {"type": "object", "required": ["results"], "properties": {"results": results}}
    failure = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    list_of_all = {"results": {"type": "array", "items": {"oneOf": [answer, failure]}}}
    several = {"type": "object", "required": ["results"], "properties": list_of_all}
    failures = {**several, "properties": {"results": {"type": "array", "items": failure}}}
    example = {"results": [{"class": "golden_retriever", "prob": 0.93}]}
    fields = {
        "file": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1},
        "model": {"type": "string", "description": "Ignores case. Absent or empty: the default."},
    }
    form = {"type": "object", "required": ["file"], "properties": fields}
    text = {"type": "string"}
    job = {"type": "object", "required": ["id", "status_url"], "properties": {"id": text, "status_url": text}}
    return {
        "operationId": "predict",
        "summary": "Name what a picture shows, as the classic Flask service did",
        "description": "Several files are answered in their order, each with what it would have got alone.",
        "tags": ["compatible"],
        "parameters": [
            {
                "name": "async",
                "in": "query",
                "schema": {"type": "string", "enum": [*YES_OR_NO]},
                "description": "Whether to be told of a job at once, rather than to wait for the answer",
            }
        ],
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": {
            "200": {
                "description": "The three likeliest names; for several files, a list of what each would have got alone",
                "content": {"application/json": {"schema": {"oneOf": [answer, several]}, "example": example}},
            },
            "202": {
                "description": "With `async`: the job; `status_url` and `Location` say where it is looked up",
                "content": {"application/json": {"schema": job}},
            },
            "default": {
                "description": "Why there is no answer",
                "content": {
                    "application/json": {"schema": {"oneOf": [failure, failures]}, "example": {"error": NO_FILE}}
                },
            },
        },
    }


FACADE = Facade(path="/predict", parse=parse, render=render, refuse=refuse, operation=operation)


def _request(source: Source | SensoriumError, model: Any) -> Request | SensoriumError:
    if isinstance(source, SensoriumError):
        return source
    fields = {"image": source, "model": model if isinstance(model, str) else None, "top_k": TOP}
    try:
        return checked(ClassifyRequest, fields, ClassifyRequest.task)
    except InvalidRequest as error:  # only the name can be wrong: it is too long
        return UnknownModel("No model has such a name", why=error.why)


def _is_later(said: Any) -> bool:
    if str(said).lower() not in YES_OR_NO:
        raise InvalidRequest("`async` is neither 1 nor 0")
    return YES_OR_NO[str(said).lower()]


def _answer(result: Result) -> dict[str, Any]:
    labels = cast("Classification", result).labels[:TOP]
    return {"results": [{"class": label.name.replace(" ", "_"), "prob": label.score} for label in labels]}


def _failure(error: SensoriumError) -> dict[str, Any]:
    if isinstance(error, UnknownModel):
        return {"error": INVALID_MODEL}
    return {"error": NO_FILE if error.what == NO_FILE else sentence(error)}


def _status(error: SensoriumError) -> int:
    return 400 if isinstance(error, (MissingDependency, ModelNotInstalled)) else status_of(type(error))
