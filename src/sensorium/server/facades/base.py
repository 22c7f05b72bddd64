"""What a facade is, and what passes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from sensorium.errors import SensoriumError
from sensorium.media.source import Source
from sensorium.schemas.base import Request, Result
from sensorium.schemas.events import Event

Outcome = Result | SensoriumError

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""Where a message has no headers, query or fields."""

BEAT = b": keep-alive\n"
"""A sign of life in a stream of events: a comment, without the empty line that ends an event. With one, official clients
take it for an event without data once any event has had an `id`, and break."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that came in a body."""

    field: str
    """The name of its form field; empty when the file is the whole body."""
    filename: str
    """What the sender calls it; for messages only, and empty when it has no name."""
    source: Source | SensoriumError
    """Where its bytes are, or why they were not taken."""


# What comes and goes with each request is a NamedTuple: made in a third of the time of a frozen dataclass (measured).


class Message(NamedTuple):
    """One HTTP request, read and taken apart."""

    method: str
    path: str
    trace: str
    """The id that answers, errors and logs of this request share."""
    headers: Mapping[str, str] = NOTHING
    """By lower-case name."""
    query: Mapping[str, Any] = NOTHING
    """Text by name; a list of texts where a name is repeated."""
    fields: Mapping[str, Any] = NOTHING
    """The body's fields: values of JSON, or as `query` when `typed` is false."""
    files: tuple[Upload, ...] = ()
    typed: bool = False
    """Whether the fields came as JSON, with types, rather than as a form's text."""


def key_of(message: Message) -> str | None:
    """The key or token in `Authorization: Bearer`, or in `X-API-Key`."""
    scheme, _, credential = message.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credential.strip() or None
    return message.headers.get("x-api-key", "").strip() or None


class Plan(NamedTuple):
    """What a message asks for."""

    requests: tuple[Request | SensoriumError, ...]
    """In the order of the answers; an error stands where a part of the message was wrong."""
    context: Any = None
    """What `render` needs to know of the message."""
    timeout: float | None = None
    """Seconds that the caller allows; None: as the settings say."""
    cache: bool = True
    """Whether a remembered answer will do."""
    remote: bool = True
    """Whether pictures and words may leave the house."""
    max_cost: float | None = None
    """The most that each answer may cost, in US dollars."""
    stream: bool = False
    """Whether the answer is told as it comes. The plan then has one request, and the facade an encoder."""
    later: bool = False
    """Whether it becomes a job, which the caller is told of at once, and no answer is waited for."""


class Reply(NamedTuple):
    """What goes back over HTTP: JSON, unless a header says otherwise."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Encoder(Protocol):
    """One streamed answer as server-sent events. Each method gives bytes; where there is nothing to say, none.

    It is called in this order: `start`, then `event` and `beat` in any order, then `end` or `error`. What goes wrong
    before anything was sent is no event, but an answer with its own status, by `render` or `refuse`.
    """

    def start(self) -> bytes:
        """What comes first, before anything is known of the answer."""

    def event(self, event: Event) -> bytes:
        """A part of the answer, or how far the work has come."""

    def beat(self) -> bytes:
        """A sign of life."""

    def end(self, result: Result) -> bytes:
        """What is left to say of a whole answer, and its end."""

    def error(self, error: SensoriumError) -> bytes:
        """Why there will be no whole answer: never to be mistaken for its end."""


@dataclass(frozen=True, slots=True)
class Facade:
    """One route and its translation."""

    path: str
    parse: Callable[[Message], Plan]
    """Raises SensoriumError when nothing of the message can be answered."""
    render: Callable[[Sequence[Outcome], Any], Reply]
    """As many outcomes as the plan had requests, in their order, and the plan's context."""
    refuse: Callable[[SensoriumError, str], Reply]
    """An error that concerns the whole message, and the trace."""
    operation: Callable[[], dict[str, Any]]
    """The route's page for OpenAPI: an Operation Object. Schemas of tasks are referred to by name."""
    method: str = "POST"
    encoder: Callable[[Any], Encoder] | None = None
    """Of the plan's context: how a streamed answer is told; None: not here, or by `recorder`."""
    recorder: Callable[[Any, str], Encoder] | None = None
    """In place of `encoder`, of the plan's context and the stream's id: for answers that are kept while they are told, so
    that readers can come back. What it gives are whole events, without ids: those come from the log."""
    allowance: Callable[[int, int, float], tuple[tuple[bytes, bytes], ...]] | None = None
    """The headers that tell callers with a rate how they stand: requests a minute, how many are left, and the seconds until
    all are there again; None: it is not told here."""
    credential: Callable[[Message], str | None] = key_of
    """The key or token that a message carries, where its clients put it; called before the body is read, and without it."""
