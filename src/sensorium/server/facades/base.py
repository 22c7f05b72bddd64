"""What a facade is, and what passes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sensorium.errors import SensoriumError
from sensorium.media.source import Source
from sensorium.schemas.base import Request, Result

Outcome = Result | SensoriumError


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that came in a body."""

    field: str
    """The name of its form field; empty when the file is the whole body."""
    filename: str
    """What the sender calls it; for messages only, and empty when it has no name."""
    source: Source | SensoriumError
    """Where its bytes are, or why they were not taken."""


@dataclass(frozen=True, slots=True)
class Message:
    """One HTTP request, read and taken apart."""

    method: str
    path: str
    trace: str
    """The id that answers, errors and logs of this request share."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name."""
    query: Mapping[str, Any] = field(default_factory=dict)
    """Text by name; a list of texts where a name is repeated."""
    fields: Mapping[str, Any] = field(default_factory=dict)
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


@dataclass(frozen=True, slots=True)
class Plan:
    """What a message asks for."""

    requests: tuple[Request | SensoriumError, ...]
    """In the order of the answers; an error stands where a part of the message was wrong."""
    context: Any = None
    """What `render` needs to know of the message."""
    timeout: float | None = None
    """Seconds that the caller allows; None: as the settings say."""
    cache: bool = True
    """Whether a remembered answer will do."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back over HTTP: JSON, unless a header says otherwise."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


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
    credential: Callable[[Message], str | None] = key_of
    """The key or token that a message carries, where its clients put it; called before the body is read, and without it."""
