"""Our own wire format: one `POST /v1/<task>` for each task, derived from its schema.

A message names the request's fields: as a JSON object, as a form, or in the query beside a
body that is the picture itself. `image` is a URL or a data URL; in a form also a file part
named `image` or `file`. One picture is answered by the result itself. A list of pictures in
JSON, or several in a form, is answered by

    {"results": [{"result": {...}}, {"error": {...}}]}

in their order, with status 200 unless all of them failed. An empty text in a form is a field
that was left out.

A task whose answer is a picture gives the picture itself, with `as=image` or `Accept: image/*`, when one was sent;
what else there is to say of it then stands in headers: `X-Sensorium-Faces: 2`.

With `stream`, or `Accept: text/event-stream`, one picture is answered by server-sent events:

    id: 9f86d081884c7d659a2feaa0c55ad015:2
    event: delta
    data: {"text":"A "}

The first is `stream`, which tells the stream's id. `delta` are words, `item` a finished part,
`progress` how far the work has come. Then comes `result`, the whole answer, or `error`, and
last `end`. Without `end` it was cut off, and `server/resume.py` tells the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from sensorium.errors import InvalidRequest, SensoriumError
from sensorium.media.source import Source
from sensorium.schemas.base import Request, Result, checked
from sensorium.schemas.events import Delta, Event, Item
from sensorium.schemas.picture import Picture
from sensorium.server.facades.base import BEAT, Facade, Message, Outcome, Plan, Reply, Upload
from sensorium.server.facades.native_page import AS, FORMS, IMAGE_TYPES, MANNERS, Manner, manner_of, page_of
from sensorium.server.facades.status import described, headers_of, status_of, status_of_all

Decoder = Callable[[Any], Any]

FILE = "file"
"""The form field that stands for a task's first picture, whatever that is called."""

FILE_ID = "file_id"
"""What names an uploaded file, in an object in a picture's place."""

MOST_FIELDS = 100
"""Beside files; no task has as many."""

MOST_PICTURES = 1000
"""In one message; each costs a task, and its answer's memory."""


@dataclass(frozen=True)
class Shape:
    """What the wire needs to know of a request's schema."""

    request: type[Request]

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The fields that hold a picture."""
        return self.request.source_fields()

    @cached_property
    def lists(self) -> tuple[str, ...]:
        """The fields that hold any number of pictures."""
        return self.request.source_lists()

    @cached_property
    def first(self) -> str:
        """The field that a file is for, whatever it was sent as; empty where no files are taken."""
        return next(iter((*self.sources, *self.lists)), "")

    @cached_property
    def decoders(self) -> Mapping[str, Decoder]:
        """For each other field, how the text of a form or query becomes its value."""
        properties = {**_properties(self.request), **_properties(Manner)}
        others = {name: _decoder(schema) for name, schema in properties.items() if name not in self.sources}
        return {**others, **dict.fromkeys(self.lists, _addresses)}

    def from_text(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in fields.items() if value != ""}
        return {name: self.decoders.get(name, _as_it_is)(value) for name, value in given.items()}


@dataclass(frozen=True, slots=True)
class Context:
    """How the outcomes are to be told."""

    trace: str
    many: bool
    as_image: bool = False
    """Whether the answer is the picture itself, and not JSON about it."""


def facade_for(request: type[Request]) -> Facade:
    """The route of a task."""
    return Facade(
        path=f"/v1/{request.task}",
        parse=partial(parse, Shape(request)),
        render=render,
        refuse=refuse,
        operation=partial(page_of, request),
        recorder=Events,
    )


def parse(shape: Shape, message: Message) -> Plan:
    """Raises InvalidRequest when there is no picture, or the manner of serving is wrong."""
    body = dict(message.fields) if message.typed else shape.from_text(message.fields)
    fields = {**shape.from_text(message.query), **body}
    if len(fields) > MOST_FIELDS:
        raise InvalidRequest("The request has too many fields", why=f"{len(fields):,} were sent")
    manner = manner_of({name: fields.pop(name) for name in MANNERS & fields.keys()}, "a task")
    form = _form_of_answer(shape, message, fields)
    asked, many = _asked(shape, message.files, fields)
    stream = _wants_events(message) if manner.stream is None else manner.stream
    if stream and many:
        raise InvalidRequest("A stream answers one request", fix="Send one picture, or ask without `stream`")
    if form == "image" and (stream or many):
        raise InvalidRequest("Only one answer can be the picture itself", fix="Send one picture, and no `stream`")
    requests = tuple(_attempt(shape, {**fields, **pictures}) for pictures in asked)
    return Plan(
        requests,
        Context(message.trace, many, form == "image"),
        timeout=manner.timeout,
        cache=manner.cache,
        remote=manner.privacy == "any",
        max_cost=manner.max_cost,
        stream=stream,
    )


def render(outcomes: Sequence[Outcome], context: Context) -> Reply:
    """The result itself for one picture; a list of results and errors for many."""
    if context.many:
        return _render_many(outcomes, context.trace)
    (outcome,) = outcomes
    if isinstance(outcome, SensoriumError):
        return refuse(outcome, context.trace)
    if context.as_image and isinstance(outcome, Picture):
        return Reply(200, outcome.data, ((b"content-type", outcome.media_type.encode()), *_told_beside(outcome)))
    return Reply(200, _json(outcome))


def _told_beside(picture: Picture) -> Iterator[tuple[bytes, bytes]]:
    """What an answer says beside its picture, in a word or a number each, as headers."""
    for name in type(picture).model_fields.keys() - Picture.model_fields.keys():
        if isinstance(value := getattr(picture, name), (str, int)):
            yield f"x-sensorium-{name.replace('_', '-')}".encode(), str(value).encode("ascii", "replace")


def refuse(error: SensoriumError, trace: str) -> Reply:
    """An error with its status."""
    return Reply(status_of(type(error)), to_json({"error": described(error, trace)}), headers_of([error]))


class Events:
    """A streamed answer."""

    def __init__(self, context: Context, stream: str) -> None:
        self._trace, self._stream = context.trace, stream

    def start(self) -> bytes:
        return _event(b"stream", b'{"id":"%b"}' % self._stream.encode())

    def event(self, event: Event) -> bytes:
        if isinstance(event, Delta):
            return _event(b"delta", b'{"text":%b}' % to_json(event.text))
        if isinstance(event, Item):
            return _event(b"item", to_json({"index": event.index, "value": event.value}))
        return _event(b"progress", to_json({"done": event.done, "total": event.total, "message": event.message}))

    def beat(self) -> bytes:
        return BEAT

    def end(self, result: Result) -> bytes:
        return _event(b"result", _json(result)) + _event(b"end", b'{"whole":true}')

    def error(self, error: SensoriumError) -> bytes:
        return failure(error, self._trace)


def failure(error: SensoriumError, trace: str) -> bytes:
    """The last events of a stream that fails."""
    told = to_json({"error": described(error, trace)})
    return _event(b"error", told) + _event(b"end", b'{"whole":false}')


def _event(kind: bytes, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind, data)


def _form_of_answer(shape: Shape, message: Message, fields: dict[str, Any]) -> str:
    """How a picture that is the answer goes back: `json`, or `image`, as the bytes that it is. What says so is taken out."""
    if not issubclass(shape.request.answer, Picture):
        return "json"
    accepted = message.headers.get("accept", "").lower()
    wanted = fields.pop(AS, None) or ("image" if "image/" in accepted and "json" not in accepted else "json")
    if wanted not in FORMS:
        raise InvalidRequest(f"`{AS}` is {str(wanted)[:60]!r}", fix=f"It is {' or '.join(FORMS)}")
    if wanted == "image" and "format" in shape.request.model_fields and (preferred := _preferred(accepted)):
        fields.setdefault("format", preferred)
    return str(wanted)


def _preferred(accepted: str) -> str | None:
    """The format of pictures that `Accept` likes best, of those that can be written; None where any will do as well."""
    weighed = sorted(
        ((_weight(part), part.partition(";")[0].strip()) for part in accepted.split(",")), key=lambda one: -one[0]
    )
    for weight, kind in weighed:
        alike = [other for other_weight, other in weighed if other_weight == weight]
        if weight == 0 or "image/*" in alike or "*/*" in alike:
            return None
        if kind in IMAGE_TYPES:
            return kind.removeprefix("image/")
    return None


def _weight(part: str) -> float:
    """The `q` of one part of `Accept`, 0 to 1."""
    for parameter in part.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            with suppress(ValueError):
                return max(0.0, min(1.0, float(value)))
    return 1.0


def _wants_events(message: Message) -> bool:
    accepted = message.headers.get("accept", "").lower()
    return "text/event-stream" in accepted and "application/json" not in accepted


def _render_many(outcomes: Sequence[Outcome], trace: str) -> Reply:
    body = b'{"results":[%b]}' % b",".join(item(outcome, trace) for outcome in outcomes)
    failures = [outcome for outcome in outcomes if isinstance(outcome, SensoriumError)]
    if len(failures) < len(outcomes):
        return Reply(200, body)
    return Reply(status_of_all(failures), body, headers_of(failures))


def item(outcome: Outcome, trace: str) -> bytes:
    """What became of one of many: `{"result": ...}` or `{"error": ...}`."""
    if isinstance(outcome, SensoriumError):
        return to_json({"error": described(outcome, trace)})
    return b'{"result":%b}' % _json(outcome)


def _json(result: BaseModel) -> bytes:
    return result.__pydantic_serializer__.to_json(result)


def _asked(shape: Shape, files: Sequence[Upload], fields: dict[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """The pictures of each request, taken out of files and fields; and whether they were sent as a list."""
    _refuse_strange_files(shape, files)
    lists = {name: _several(shape, name, files, fields) for name in shape.lists}
    if not shape.sources:
        return [lists], False
    first, *others = shape.sources
    named = [] if (given := fields.pop(first, None)) is None else given
    pictures = [*_sent(files, first, FILE, ""), *(named if isinstance(named, list) else [named])]
    beside = {**lists, **{name: sent for name in others for sent in _sent(files, name)}}
    if not (pictures or shape.request.needs_source()):
        return [beside], False
    if not pictures:
        raise InvalidRequest("No picture was sent", fix=f"Send a file in a form, or a URL or data URL as `{first}`")
    if len(pictures) > MOST_PICTURES:
        raise InvalidRequest("Too many pictures", why=f"{len(pictures)} were sent", fix=f"Send at most {MOST_PICTURES}")
    many = len(pictures) > 1 or (isinstance(named, list) and not files)
    return [{**beside, first: picture} for picture in pictures], many


def _several(shape: Shape, name: str, files: Sequence[Upload], fields: dict[str, Any]) -> list[Any]:
    """The pictures that one request asks about together."""
    named = [] if (given := fields.pop(name, None)) is None else given
    if not isinstance(named, list):
        raise InvalidRequest(f"`{name}` is not a list", fix="Send a list of URLs and data URLs")
    pictures = [*_sent(files, *((name, FILE, "") if name == shape.first else (name,))), *named]
    if len(pictures) > MOST_PICTURES:
        raise InvalidRequest("Too many pictures", why=f"{len(pictures)} were sent", fix=f"Send at most {MOST_PICTURES}")
    return pictures


def _refuse_strange_files(shape: Shape, files: Sequence[Upload]) -> None:
    known = {*shape.sources, *shape.lists, FILE, ""} if shape.first else set()
    for file in files:
        if file.field not in known:
            takes = " or ".join(f"`{name}`" for name in (*shape.sources, *shape.lists, FILE)) if known else "no files"
            raise InvalidRequest(f"A file was sent as {file.field[:60]!r}", fix=f"{shape.request.task} takes {takes}")


def _sent(files: Sequence[Upload], *fields: str) -> Iterator[Source | SensoriumError]:
    return (file.source for file in files if file.field in fields)


def _attempt(shape: Shape, fields: dict[str, Any]) -> Request | SensoriumError:
    try:
        pictures: dict[str, Any] = {name: _source(name, fields[name]) for name in shape.sources if name in fields}
        pictures |= {name: [_source(name, one) for one in fields[name]] for name in shape.lists if fields.get(name)}
        return checked(shape.request, {**fields, **pictures}, shape.request.task)
    except SensoriumError as error:
        return error


def _source(name: str, value: Any) -> Source:
    if isinstance(value, Source):
        return value
    if isinstance(value, SensoriumError):
        raise value
    if isinstance(value, str):
        return Source.from_wire(value)
    if isinstance(value, Mapping) and [*value] == [FILE_ID] and isinstance(value[FILE_ID], str):
        return Source.uploaded(value[FILE_ID])
    raise InvalidRequest(f"`{name}` is not a picture", fix="Send a URL, a data URL or an uploaded file's id, as text")


def _properties(model: type[BaseModel]) -> dict[str, Any]:
    return dict(model.model_json_schema()["properties"])


def _decoder(schema: Mapping[str, Any]) -> Decoder:
    kinds = {part.get("type") for part in (schema, *schema.get("anyOf", ()))}
    if "string" in kinds:
        return _as_it_is
    return _listed if "array" in kinds else _json_or_text


def _as_it_is(value: Any) -> Any:
    return value


def _listed(value: Any) -> Any:
    """Several texts, one with commas, or a JSON list of them."""
    if isinstance(value, str):
        return _json_or_text(value) if value.startswith("[") else [part.strip() for part in value.split(",")]
    return value


def _addresses(value: Any) -> Any:
    """As `_listed`, of data URLs too: a comma does not part them."""
    if isinstance(value, str):
        return _json_or_text(value) if value.startswith("[") else [value]
    return value


def _json_or_text(value: Any) -> Any:
    """What is not JSON is left to the schema, which says what it wants instead."""
    try:
        return from_json(value)
    except (ValueError, TypeError):
        return value
