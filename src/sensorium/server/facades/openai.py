"""OpenAI's chat completions: `POST /v1/chat/completions` asks any model of the task `ask`, plain or streamed.

    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any")
    client.chat.completions.create(model="perception", messages=[{"role": "user", "content": "Hello"}])

What a message may hold: text, `image_url` with an http(s) or data URL and `detail`, and `file` with the `file_id` of an
uploaded picture. Fields that are not known here
are left alone, since there are more of them each month; what would be answered otherwise than asked is refused: several
choices, sound, files, tools that must be called. `privacy`, `max_cost`, `cache` and `timeout` are ours, and kept: who says
that a picture must not leave the house is not to be overheard.

A stream ends with `data: [DONE]`, or with `data: {"error": ...}` and no `[DONE]`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from pydantic_core import to_json

from sensorium import errors
from sensorium.errors import InvalidRequest, SensoriumError, UnknownModel
from sensorium.media.source import Source
from sensorium.schemas.ask import Answer, AskRequest, Picture, Role, Words
from sensorium.schemas.ask import Message as Said
from sensorium.schemas.base import Result, Usage, checked
from sensorium.schemas.events import Delta, Event
from sensorium.server.facades.base import BEAT, Facade, Message, Outcome, Plan, Reply
from sensorium.server.facades.native_page import Manner, manner_of
from sensorium.server.facades.openai_page import MANNER, operation
from sensorium.server.facades.status import headers_of, sentence, status_of

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

PASSED_ON = ("temperature", "top_p", "seed")
"""Fields that mean the same here."""

ANY_OBJECT = {"type": "object"}
"""The schema of `response_format: {"type": "json_object"}`."""

DONE = b"data: [DONE]\n\n"

CODES: dict[type[SensoriumError], tuple[str, str]] = {
    errors.SensoriumError: ("server_error", ""),
    errors.InvalidInput: ("invalid_request_error", ""),
    errors.UnknownModel: ("invalid_request_error", "model_not_found"),
    errors.UnknownTask: ("invalid_request_error", "model_not_found"),
    errors.InputTooLarge: ("invalid_request_error", "image_too_large"),
    errors.UnidentifiedMedia: ("invalid_request_error", "invalid_image_format"),
    errors.UnsupportedMedia: ("invalid_request_error", "invalid_image_format"),
    errors.CorruptMedia: ("invalid_request_error", "invalid_image_format"),
    errors.ForbiddenAddress: ("invalid_request_error", "invalid_image_url"),
    errors.FetchFailed: ("invalid_request_error", "invalid_image_url"),
    errors.ContextTooLong: ("invalid_request_error", "context_length_exceeded"),
    errors.ContentFiltered: ("invalid_request_error", "content_filter"),
    errors.Unauthenticated: ("authentication_error", "invalid_api_key"),
    errors.Forbidden: ("permission_error", ""),
    errors.Overloaded: ("rate_limit_error", ""),
    errors.RateLimited: ("rate_limit_error", "rate_limit_exceeded"),
    errors.ProviderLimited: ("rate_limit_error", "rate_limit_exceeded"),
    errors.BudgetSpent: ("insufficient_quota", "insufficient_quota"),
    errors.TooExpensive: ("insufficient_quota", ""),
}
"""OpenAI's type and code of an error; a class that is not named has those of the nearest one above it, and our code."""

STATUS = {errors.UnknownModel: 404, errors.UnsupportedMedia: 400, errors.UnidentifiedMedia: 400}
STATUS |= {errors.CorruptMedia: 400, errors.FetchFailed: 400}
"""Where OpenAI has another status than we: its clients know a bad picture as `BadRequestError`."""

WORTH_RETRYING = {errors.UploadIncomplete, errors.Overloaded, errors.RateLimited, errors.ServiceClosed}
"""What a client may try again. Whatever else its own rules would retry, was retried here, or will not change."""

_FIELD = re.compile(r"`([a-zA-Z][\w.\[\]]{0,60})`")


class Context(NamedTuple):
    """What an answer needs to know of its question."""

    id: str
    model: str
    usage: bool
    """Whether a stream tells what it took."""
    trace: str
    created: int


def parse(message: Message) -> Plan:
    """Raises InvalidRequest, naming the field that is wrong."""
    fields = message.fields
    if not message.typed:
        raise InvalidRequest("The body is not JSON", fix="Send it with `Content-Type: application/json`")
    stream = _flag(fields, "stream")
    options = fields.get("stream_options") or {}
    usage = stream and isinstance(options, dict) and bool(options.get("include_usage"))
    asked = _request(fields)
    model = asked.model or ""
    context = Context(f"chatcmpl-{message.trace}", model, usage, message.trace, int(time.time()))
    manner = _manner(fields)
    return Plan(
        (asked,),
        context,
        timeout=manner.timeout,
        cache=manner.cache,
        remote=manner.privacy == "any",
        max_cost=manner.max_cost,
        stream=stream,
    )


def render(outcomes: Sequence[Outcome], context: Context) -> Reply:
    """The whole answer as a `chat.completion`."""
    (outcome,) = outcomes
    if isinstance(outcome, SensoriumError):
        return refuse(outcome, context.trace)
    answer = cast("Answer", outcome)
    message = {"role": "assistant", "content": _content(answer), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.ending}
    body = {
        "id": context.id,
        "object": "chat.completion",
        "created": context.created,
        "model": _model(answer, context),
        "choices": [choice],
        "usage": usage_of(answer.meta.usage),
    }
    took = b"%d" % round(answer.meta.seconds * 1000)
    return Reply(200, to_json(body), ((b"openai-processing-ms", took),))


def refuse(error: SensoriumError, trace: str) -> Reply:
    """An error as OpenAI's clients know it."""
    return Reply(_status(error), to_json({"error": described(error, trace)}), tuple(_headers(error)))


def described(error: SensoriumError, trace: str) -> dict[str, Any]:
    """The error's fields. `retryable` and `trace` are ours, and no client minds them."""
    kind, code = next(CODES[above] for above in type(error).__mro__ if above in CODES)
    if isinstance(error, errors.ProviderLimited) and not error.retryable:
        kind, code = CODES[errors.BudgetSpent]
    message = sentence(error)
    named = _FIELD.search(message) if isinstance(error, InvalidRequest) else None
    param = "model" if isinstance(error, UnknownModel) else named[1] if named else None
    told = {"message": message, "type": kind, "param": param, "code": code or error.code}
    return {**told, "retryable": error.retryable, "trace": trace}


def usage_of(usage: Usage | None) -> dict[str, Any] | None:
    """What an answer took; None where nobody counted."""
    if usage is None:
        return None
    details: dict[str, int] = {"cached_tokens": usage.cached_tokens}
    if usage.image_tokens is not None:
        details["image_tokens"] = usage.image_tokens
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": details,
    }


class Chunks:
    """A streamed answer as `chat.completion.chunk`s. No event has an id: see `BEAT`."""

    def __init__(self, context: Context) -> None:
        self._context, self._said = context, False
        head = {
            "id": context.id,
            "object": "chat.completion.chunk",
            "created": context.created,
            "model": context.model,
        }
        # What is the same in all chunks is written once: this runs for each few letters of each answer.
        self._head = b"data: " + to_json(head)[:-1] + b',"choices":[{"index":0,"delta":'
        self._open = b"}]" + (b',"usage":null' if context.usage else b"") + b"}\n\n"
        self._before = self._head + b'{"content":'
        self._after = b'},"logprobs":null,"finish_reason":null' + self._open

    def start(self) -> bytes:
        return self._head + b'{"role":"assistant","content":""},"logprobs":null,"finish_reason":null' + self._open

    def event(self, event: Event) -> bytes:
        if not isinstance(event, Delta):
            return b""
        self._said = True
        return b"%b%b%b" % (self._before, to_json(event.text), self._after)

    def beat(self) -> bytes:
        return BEAT

    def end(self, result: Result) -> bytes:
        answer = cast("Answer", result)
        self._name_who_answered(answer)
        # Of a model that does not stream, or an answer that was remembered whole.
        words = b"" if self._said else self.event(Delta(_content(answer)))
        ending = b'{},"logprobs":null,"finish_reason":%b%b' % (to_json(answer.ending), self._open)
        return words + self._head + ending + self._usage(answer) + DONE

    def error(self, error: SensoriumError) -> bytes:
        return b"data: %b\n\n" % to_json({"error": described(error, self._context.trace)})

    def _name_who_answered(self, answer: Answer) -> None:
        """In the chunks that are left, where it was not the model that was asked for: before, nobody knew."""
        if answer.meta.skipped or not self._context.model:
            named = b'"model":%b'
            before, after = to_json(self._context.model), to_json(_model(answer, self._context))
            self._head = self._head.replace(named % before, named % after, 1)

    def _usage(self, answer: Answer) -> bytes:
        told = usage_of(answer.meta.usage)
        if not self._context.usage or told is None:
            return b""
        head = self._head.partition(b',"choices":')[0]
        return b'%b,"choices":[],"usage":%b}\n\n' % (head, to_json(told))


def _request(fields: Mapping[str, Any]) -> AskRequest:
    _refuse_unanswerable(fields)
    longest = fields.get("max_completion_tokens", None)
    longest = fields.get("max_tokens") if longest is None else longest
    stop = fields.get("stop")
    asked = {
        "model": fields.get("model") or None,
        "messages": tuple(_messages(fields.get("messages"))),
        "max_tokens": longest,
        "stop": (stop,) if isinstance(stop, str) else stop,
        "json_schema": _schema(fields.get("response_format")),
    }
    for name in PASSED_ON:
        asked[name] = fields.get(name)
    return checked(AskRequest, {name: value for name, value in asked.items() if value is not None}, "a chat completion")


def _manner(fields: Mapping[str, Any]) -> Manner:
    return manner_of({name: fields[name] for name in MANNER if fields.get(name) is not None}, "a chat completion")


def _refuse_unanswerable(fields: Mapping[str, Any]) -> None:
    if fields.get("n") not in (None, 1):
        raise InvalidRequest("`n` must be 1", why="one answer is given to each request", fix="Ask several times")
    if fields.get("modalities") not in (None, ["text"]):
        raise InvalidRequest("`modalities` must be text", why="answers are not spoken")
    choice = fields.get("tool_choice")
    if choice == "required" or isinstance(choice, dict):
        raise InvalidRequest(
            "`tool_choice` cannot be kept", why="tools are not called here", fix="Ask for JSON by `response_format`"
        )


def _messages(value: Any) -> Iterator[Said]:
    if not isinstance(value, list) or not value:
        raise InvalidRequest("`messages` is empty", fix='Send `[{"role": "user", "content": "..."}]`')
    for number, one in enumerate(value):
        place = f"messages[{number}]"
        if not isinstance(one, dict):
            raise InvalidRequest(f"`{place}` is no message", fix='Write it as `{"role": "user", "content": "..."}`')
        role, content = ROLES.get(str(one.get("role"))), one.get("content")
        if role is None:
            raise InvalidRequest(f"`{place}.role` is none that is known here", fix=f"Use one of: {', '.join(ROLES)}")
        if role != "user" and content in (None, "", []):
            continue  # as programs send that keep a history, or have no instructions
        yield Said.model_construct(role=role, parts=_parts(content, f"{place}.content"))


def _parts(content: Any, place: str) -> tuple[Words | Picture, ...]:
    if isinstance(content, str) and content:
        return (Words.model_construct(text=content),)
    written = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(written, list) or not all(isinstance(one, dict) for one in written):
        raise InvalidRequest(
            f"`{place}` is neither text nor a list of parts", fix='Send text, or `[{"type": "text", ...}]`'
        )
    parts = tuple([_part(one, f"{place}[{number}]") for number, one in enumerate(written)])
    if not any(isinstance(one, Picture) or one.text for one in parts):
        raise InvalidRequest(f"`{place}` is empty", why="a prompt has at least one sign", fix="Say what you ask")
    return parts


def _part(part: Mapping[str, Any], place: str) -> Words | Picture:
    kind = part.get("type")
    if kind in ("text", "refusal") and isinstance(part.get(kind), str):
        return Words.model_construct(text=part[kind])
    if kind == "image_url":
        return _picture(part.get("image_url"), f"{place}.image_url")
    if kind == "file":
        return _file(part.get("file"), f"{place}.file")
    if kind == "text":
        raise InvalidRequest(f"`{place}.text` is not text")
    raise InvalidRequest(
        f"`{place}` is of type {str(kind)[:40]!r}, which is not taken here",
        fix="Send parts of type text, image_url or file",
    )


def _picture(value: Any, place: str) -> Picture:
    url, detail = (value.get("url"), value.get("detail")) if isinstance(value, Mapping) else (value, None)
    if not isinstance(url, str):
        raise InvalidRequest(f"`{place}.url` is missing", fix="Give an http(s) URL or a data URL")
    if detail not in (None, "auto", "low", "high", "original"):
        raise InvalidRequest(f"`{place}.detail` is none that is known", fix="Use auto, low, high or original")
    return Picture.model_construct(image=Source.from_wire(url), detail=detail or "auto")


def _file(value: Any, place: str) -> Picture:
    """One that was uploaded before."""
    identity = value.get("file_id") if isinstance(value, Mapping) else None
    if not isinstance(identity, str):
        raise InvalidRequest(f"`{place}.file_id` is missing", fix="Name a file that was sent to `/v1/files` before")
    return Picture.model_construct(image=Source.uploaded(identity), detail="auto")


def _schema(wanted: Any) -> Mapping[str, Any] | None:
    """The JSON schema that an answer must keep."""
    if wanted is None:
        return None
    kind = wanted.get("type") if isinstance(wanted, dict) else wanted
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return ANY_OBJECT
    schema = wanted.get("json_schema") if isinstance(wanted, dict) and kind == "json_schema" else None
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        return cast("Mapping[str, Any]", schema["schema"])
    raise InvalidRequest(
        "`response_format` is none that is known here",
        fix='Use `{"type": "text"}`, `{"type": "json_object"}` or `{"type": "json_schema", "json_schema": {"schema": ...}}`',
    )


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value not in (None, True, False):
        raise InvalidRequest(f"`{name}` is neither true nor false")
    return bool(value)


def _model(answer: Answer, context: Context) -> str:
    """The model that was asked for, by the caller's name for it, as chunks tell it; of another that answered, its own."""
    asked_for = "" if answer.meta.skipped else context.model
    return asked_for or answer.answered_by or answer.meta.engine


def _content(answer: Answer) -> str:
    """The answer's words; where a schema was asked for, they are its value."""
    return answer.text if answer.data is None else to_json(answer.data).decode()


def _status(error: SensoriumError) -> int:
    return next((STATUS[above] for above in type(error).__mro__ if above in STATUS), status_of(type(error)))


def _is_retried(status: int) -> bool:
    """Whether OpenAI's clients would try again by themselves."""
    return status in (408, 409, 429) or status >= 500


def _headers(error: SensoriumError) -> Iterator[tuple[bytes, bytes]]:
    yield from headers_of([error])
    if isinstance(error, errors.Overloaded) and error.retryable:
        yield b"retry-after-ms", str(round(error.retry_after_seconds * 1000)).encode()
    if _is_retried(_status(error)) and type(error) not in WORTH_RETRYING:
        yield b"x-should-retry", b"false"


def allowance(limit: int, left: int, reset_seconds: float) -> tuple[tuple[bytes, bytes], ...]:
    """How a caller stands, as OpenAI's clients know it."""
    return (
        (b"x-ratelimit-limit-requests", str(limit).encode()),
        (b"x-ratelimit-remaining-requests", str(left).encode()),
        (b"x-ratelimit-reset-requests", f"{reset_seconds:.3f}s".encode()),
    )


FACADE = Facade(
    path="/v1/chat/completions",
    parse=parse,
    render=render,
    refuse=refuse,
    operation=operation,
    encoder=Chunks,
    allowance=allowance,
)
