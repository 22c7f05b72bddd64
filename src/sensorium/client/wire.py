"""How requests are written for a server, and its answers read."""

from __future__ import annotations

import email.utils
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import IO, Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from sensorium import errors
from sensorium.engine import Options
from sensorium.errors import (
    InvalidAnswer,
    NoFace,
    Overloaded,
    SensoriumError,
    ServerUnreachable,
    StreamBroken,
    UnstructuredAnswer,
)
from sensorium.media.pool import in_thread
from sensorium.media.source import Source
from sensorium.runtimes.sse import Events
from sensorium.schemas.base import Request, Result, wrong_fields
from sensorium.schemas.events import Delta, Event, Item, Progress

LONGEST_MESSAGE = 2000
"""Characters of an error that are kept."""

SENT_UNASKED = 2**20
"""Bytes. Before a larger file the server is asked whether it wants it: one that refuses it would close the connection in
the middle, and the reason could be lost."""

NEAREST: dict[int, type[SensoriumError]] = {
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.InvalidRequest,
    408: errors.UploadIncomplete,
    413: errors.InputTooLarge,
    415: errors.UnsupportedMedia,
    429: Overloaded,
    501: errors.Unavailable,
    502: ServerUnreachable,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
}
"""What a status means where its code is not known here."""

PROXY_SAYS: dict[int, tuple[type[SensoriumError], str]] = {
    401: (errors.Unauthenticated, "Give the key that it asks for"),
    403: (errors.Forbidden, "Ask its operator for access"),
    413: (errors.InputTooLarge, "Send a smaller file, or let the operator raise the limit of the proxy"),
    429: (Overloaded, ""),
    502: (ServerUnreachable, "The proxy cannot reach the server; see whether it runs"),
    503: (ServerUnreachable, "The proxy cannot reach the server; see whether it runs"),
    504: (ServerUnreachable, "The server is too slow for the proxy; raise the proxy's time limit"),
}
"""What an answer that is not ours means: a proxy's own page."""


@asynccontextmanager
async def body_of(request: Request, manner: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The arguments of aiohttp's `post` that carry a request: JSON where all pictures are elsewhere, else a form.

    Files are streamed from the disk; those inside of messages are part of the JSON. Raises FileMissing for one that
    cannot be read.
    """
    named = set(request.source_fields())
    one = {name: [source] for name in named if (source := getattr(request, name)) is not None}
    several = {name: getattr(request, name) for name in request.source_lists() if getattr(request, name)}
    given = request.model_dump(exclude={*named, *request.source_lists()}, exclude_unset=True, exclude_none=True)
    fields = {**await _plain(given), **manner}
    sources = {**one, **several}
    if all(source.reference is not None for parts in sources.values() for source in parts):
        addresses = {name: [source.reference for source in parts] for name, parts in several.items()}
        yield {"json": {**fields, **{name: source.reference for name, (source,) in one.items()}, **addresses}}
        return
    with ExitStack() as opened:
        form, large = _form(fields), False
        for name, source in [(name, source) for name, parts in sources.items() for source in parts]:
            if source.reference is not None:
                form.add_field(name, source.reference)
            else:
                file = opened.enter_context(await in_thread(_nameless, source))
                form.add_field(name, file, filename=_filename(source), content_type="application/octet-stream")
                large = large or _size(file) > SENT_UNASKED
        yield {"data": form, "expect100": large}


@asynccontextmanager
async def form_of(fields: Mapping[str, Any], name: str, sources: Sequence[Source]) -> AsyncIterator[dict[str, Any]]:
    """The arguments of aiohttp that carry a form with files, streamed from the disk. Raises FileMissing."""
    with ExitStack() as opened:
        form = _form(await _plain(fields))
        for source in sources:
            file = opened.enter_context(await in_thread(_nameless, source))
            form.add_field(name, file, filename=_filename(source), content_type="application/octet-stream")
        yield {"data": form, "expect100": True}


@asynccontextmanager
async def file_of(source: Source) -> AsyncIterator[dict[str, Any]]:
    """The arguments of aiohttp that carry one file, streamed from the disk. Raises FileMissing."""
    with await in_thread(_nameless, source) as file:
        yield {"data": file, "headers": {"Content-Type": "application/octet-stream"}}


async def fields_of(request: Request) -> dict[str, Any]:
    """What a request asks, as JSON has it; pictures as their URLs or ids, else as data URLs."""
    fields: dict[str, Any] = await _plain(request.model_dump(exclude_unset=True, exclude_none=True))
    return fields


def manner_of(options: Options, timeout: float | None = None) -> dict[str, Any]:
    """How a request is to be served, as far as it differs from what a server does anyway."""
    given = {
        "cache": options.cache,
        "privacy": "any" if options.remote else "local",
        "max_cost": options.max_cost,
        "timeout": timeout,
    }
    usual = {"cache": True, "privacy": "any", "max_cost": None, "timeout": None}
    return {name: value for name, value in given.items() if value != usual[name]}


async def _plain(value: Any) -> Any:
    """The value as JSON has it; a picture as its URL, its id, or as a data URL."""
    if isinstance(value, Source):
        return value.reference or await in_thread(_data_url, await value.read())
    if isinstance(value, Mapping):
        return {name: await _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [await _plain(part) for part in value]
    return value


def _nameless(source: Source) -> IO[bytes]:
    """The open source; aiohttp would write the name of a file into a header, also one that is no text."""
    file = source.open()
    if not isinstance(getattr(file, "name", None), str):
        return file
    with file:
        return open(os.dup(file.fileno()), "rb")  # noqa: PTH123 - by its number


def _filename(source: Source) -> str:
    """What the server calls it; bytes of a name that are no text become question marks in a diamond."""
    return os.fsencode(source.name).decode(errors="replace")


def _data_url(data: bytes) -> str:
    import pybase64

    return f"data:application/octet-stream;base64,{pybase64.b64encode(data).decode('ascii')}"


def _size(file: IO[bytes]) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _form(fields: Mapping[str, Any]) -> Any:
    import aiohttp

    form = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
    for name, value in fields.items():
        form.add_field(name, value if isinstance(value, str) else to_json(value).decode())
    return form


def result_of(answer: type[Result], body: bytes, origin: str) -> Result:
    """The result that a server sent; fields that a newer one has besides are left out. Else InvalidAnswer."""
    try:
        return answer.model_validate_json(body, extra="ignore")
    except ValidationError as error:
        raise InvalidAnswer(
            f"The answer of {origin} cannot be used",
            why=f"it is no {answer.__name__} ({wrong_fields(error, answer)})",
            fix="Check the address; use the same version of sensorium on both sides",
        ) from error


class Telling:
    """A streamed answer, understood from its bytes. What a newer server tells besides is passed over."""

    def __init__(self, answer: type[Result], origin: str, longest: int) -> None:
        self._answer, self._origin, self._events = answer, origin, Events(longest)
        self.result: Result | None = None
        self.stream = ""
        """What the server calls it; empty where it has not said."""
        self.over = False
        """Whether the answer's end has come."""

    def feed(self, read: bytes) -> Iterator[Event]:
        """The events that this completes, up to the end.

        Raises, after those that came before, the error that the server tells, and StreamBroken for what is no event.
        """
        told = self._events.feed(read)
        for kind, data in zip(self._events.kinds, told, strict=True):
            event = self._understood(kind, data)
            if event is not None:
                yield event
            if self.over:
                return

    def _understood(self, kind: bytes, data: bytes) -> Event | None:
        try:
            match kind:
                case b"delta":
                    return Delta(**_named(data, "text"))
                case b"item":
                    return Item(**_named(data, "index", "value"))
                case b"progress":
                    return Progress(**_named(data, "done", "total", "message"))
                case b"stream":
                    self.stream = _identity(_named(data, "id")["id"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise broken(self._origin, "it is not in the format of sensorium") from error
        if kind == b"error":
            self.over = True
            raise error_of(200, {}, data, self._origin)
        if kind == b"result":
            self.result = result_of(self._answer, data, self._origin)
        self.over = self.over or kind == b"end"
        return None


def _identity(told: str) -> str:
    """A stream's id, which becomes part of an address; empty where it could lead elsewhere."""
    return told if told.isascii() and told.isalnum() else ""


def _named(data: bytes, *names: str) -> dict[str, Any]:
    told = from_json(data)
    return {name: told[name] for name in names}


def broken(origin: str, why: str) -> StreamBroken:
    """What a stream ends with that was cut off."""
    return StreamBroken(f"The answer of {origin} broke off", why=why)


def error_of(status: int, headers: Mapping[str, str], body: bytes, origin: str) -> SensoriumError:
    """The error that a server, or a proxy before it, answered with."""
    told = _told(body)
    if told is None:
        return _not_ours(status, headers, origin)
    code = str(told["code"])[:100]
    kind = next((kind for kind in errors.every_error() if kind.code == code), None) or _nearest(status)
    wait = told.get("retry_after_seconds")
    error = _made(kind, str(told["message"])[:LONGEST_MESSAGE], wait if isinstance(wait, (int, float)) else headers)
    if isinstance(error, UnstructuredAnswer):
        error.text = str(told.get("text", ""))
    if isinstance(error, NoFace) and isinstance(which := told.get("picture"), int):
        error.picture = which
    # A code that is not known here is kept all the same: programs may rely on it.
    vars(error).update(code=code, retryable=bool(told.get("retryable", kind.retryable)))
    return error


def _told(body: bytes) -> dict[str, Any] | None:
    """What our own servers say of an error; None when this is something else."""
    try:
        match from_json(body):
            case {"error": {"code": str(), "message": str()} as told}:
                return told  # type: ignore[no-any-return]
    except ValueError:
        pass
    return None


def _nearest(status: int) -> type[SensoriumError]:
    if status in NEAREST:
        return NEAREST[status]
    return errors.InvalidRequest if 400 <= status < 500 else errors.EngineFailed


def _not_ours(status: int, headers: Mapping[str, str], origin: str) -> SensoriumError:
    what = f"{origin} answered with status {status}, not as sensorium does"
    if status in PROXY_SAYS:
        kind, fix = PROXY_SAYS[status]
        return _made(kind, what, headers, fix=fix)
    if 300 <= status < 400:
        return InvalidAnswer(what, why="it redirects to another address", fix="Connect to that address itself")
    return InvalidAnswer(what, fix="Check the address: something else may listen there")


def _made(kind: type[SensoriumError], what: str, wait: float | Mapping[str, str], *, fix: str = "") -> SensoriumError:
    if not issubclass(kind, Overloaded):
        return kind(what, fix=fix)
    seconds = wait if isinstance(wait, (int, float)) else _seconds(wait.get("Retry-After", ""))
    return kind(what, fix=fix, retry_after_seconds=max(0.0, seconds))


def _seconds(text: str) -> float:
    """What `Retry-After` says: seconds, or a date. Anything else: 1."""
    if text.isdecimal():
        return float(text[:9])
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return 1.0
