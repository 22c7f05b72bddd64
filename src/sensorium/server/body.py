"""Reads what a client sends, within limits of size, number and time, and takes it apart into fields and files."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header
from pydantic_core import from_json

from sensorium.deadline import at_most
from sensorium.errors import (
    InputTooLarge,
    InvalidRequest,
    Overloaded,
    SensoriumError,
    UnsupportedMedia,
    UploadIncomplete,
)
from sensorium.media.source import Source
from sensorium.server.facades.base import Upload
from sensorium.server.spool import Spool, SpoolFile
from sensorium.telemetry import TELEMETRY

Receive = Callable[[], Any]

_UPLOADED = TELEMETRY.upload_bytes[()]

JSON = "application/json"

FILE_IN_MEMORY = 2**20
"""Larger files go to the spool."""
FILES_IN_MEMORY = 8 * 2**20
"""Bytes of small files that one body holds in memory; further ones go to the spool too."""
MOST_PARTS = 2000
"""Fields and files in one form."""
LONGEST_URL_ENCODED = 1_000_000
"""Bytes of a form without parts; pictures have better ways."""
MOST_VALUES = 100_000
"""In one JSON body: parsing holds up all others."""
FEW_VALUES = 1000
"""Of each sign that comes before a value; a message with pictures in it has fewer."""
MOST_HEADER_BYTES = 2048
"""Of one part of a form."""
SMALL_BODY = 2**20
"""Bytes that cost less to read to their end than a new connection does; photographs are seldom larger."""
FORGET_SECONDS, FORGET_BYTES = 2.0, 32 * 2**20
"""How long, and of how many bytes, to read the rest of a body that is answered already."""


class Arrival:
    """Passes on what arrives, and knows whether the body has come to its end."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self.whole = receive, False

    async def __call__(self) -> MutableMapping[str, Any]:
        event: MutableMapping[str, Any] = await self._receive()
        self.whole = self.whole or (event["type"] == "http.request" and not event.get("more_body", False))
        return event

    async def forget_rest(self) -> None:
        """Read what comes after the answer: where it is left, its sender may see a broken connection and no answer."""
        count = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FORGET_SECONDS):
                while not self.whole and count < FORGET_BYTES:
                    event = await self()
                    if event["type"] == "http.disconnect":
                        break
                    count += len(event.get("body", b""))


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How much a client may send."""

    body_bytes: int
    file_bytes: int
    seconds: float
    most_text: int | None = None
    """How much of it may be no file, where files never come as text."""

    @property
    def text_bytes(self) -> int:
        """All that is not a file: room for one file of the largest size in base64, and for some words."""
        if self.most_text is not None:
            return self.most_text
        return self.file_bytes * 4 // 3 + self.file_bytes // 16 + 65536


class Body(NamedTuple):
    """A body taken apart."""

    fields: Mapping[str, Any]
    files: tuple[Upload, ...] = ()
    typed: bool = False
    """Whether the fields came with types, rather than as text."""


class UploadBudget:
    """The bytes of all bodies that a process holds: those being read, and those being worked on."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0

    def refuse_when_full(self, count: int, own: int = 0) -> None:
        """Raises Overloaded when so much more would be too much. A body that is alone always fits."""
        if self._held + count > self._most and self._held > own:
            raise Overloaded(
                "Too many uploads are under way",
                why=f"{self._most:,} bytes are held at once (`upload_budget`)",
                fix="Try again in a moment",
            )

    def take(self, count: int, own: int) -> None:
        """Of a body that holds `own` bytes already. Raises Overloaded."""
        self.refuse_when_full(count, own)
        self._held += count

    def give_back(self, count: int) -> None:
        self._held -= count


class Uploads:
    """The files of one request: in memory while they are small, in the spool when they are large."""

    def __init__(self, spool: Spool, budget: UploadBudget) -> None:
        self._spool, self._budget = spool, budget
        self._spooled: list[SpoolFile] = []
        self._held = 0
        self.in_memory = 0

    def take(self, count: int) -> None:
        """Count bytes that came in. Raises Overloaded when all clients together send too much."""
        self._budget.take(count, self._held)
        self._held += count

    def spool_file(self) -> SpoolFile:
        self._spooled.append(self._spool.file())
        return self._spooled[-1]

    def discard(self) -> None:
        """Let go of all of them; the spool forgets them soon."""
        self._budget.give_back(self._held)
        self._held = 0
        for file in self._spooled:
            file.discard()


class _Sink(Protocol):
    """What a body is poured into."""

    async def feed(self, data: bytes) -> None: ...
    async def end(self) -> Body: ...


async def read_body(headers: Mapping[str, str], receive: Receive, limits: BodyLimits, uploads: Uploads) -> Body:
    """The whole body, taken apart.

    Raises InputTooLarge, before reading when the sender tells the length; Overloaded when all senders
    together send too much; UploadIncomplete when the sender leaves or is too slow; UnsupportedMedia for
    a body of another type than JSON, a form or a picture; InvalidRequest for one that is malformed.
    """
    declared = _declared_length(headers)
    if declared > limits.body_bytes:
        raise _too_large(limits.body_bytes, f"{declared:,}")
    sink = _sink(headers, declared, limits, uploads)
    with at_most(limits.seconds, _too_slow):
        await _pour(receive, sink, limits.body_bytes, uploads)
        return await sink.end()


def refuse_when_full(headers: Mapping[str, str], budget: UploadBudget) -> None:
    """Raises Overloaded when there is no room for a body that tells its length."""
    budget.refuse_when_full(_declared_length(headers))


def is_soon_over(headers: Mapping[str, str]) -> bool:
    """Whether what is left of a body is little, and comes unasked."""
    told = "expect" not in headers and "transfer-encoding" not in headers
    return told and _declared_length(headers) <= SMALL_BODY


async def _pour(receive: Receive, sink: _Sink, most: int, uploads: Uploads) -> None:
    total = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise UploadIncomplete("The upload ended early", why="the sender closed the connection")
        data = event.get("body", b"")
        total += len(data)
        _UPLOADED.add(len(data))
        if total > most:
            raise _too_large(most, f"at least {total:,}")
        if data:
            uploads.take(len(data))
            await sink.feed(data)
        if not event.get("more_body", False):
            return


def _declared_length(headers: Mapping[str, str]) -> int:
    """0 when the sender does not tell."""
    length = headers.get("content-length", "0")
    return int(length[:20]) if length.isdecimal() else 0


def _too_slow(seconds: float) -> UploadIncomplete:
    why = f"{seconds:g} s are allowed (`upload_seconds`)"
    return UploadIncomplete("The upload took too long", why=why, fix="Send it again")


def _too_large(most: int, size: str) -> InputTooLarge:
    why = f"it has {size} bytes, and {most:,} are allowed (`max_upload_bytes`)"
    return InputTooLarge("The body is too large", why=why, fix="Send less at once")


def _sink(headers: Mapping[str, str], declared: int, limits: BodyLimits, uploads: Uploads) -> _Sink:
    if headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMedia("The body is compressed", why="only plain bodies are read", fix="Send it as it is")
    told = headers.get("content-type", "")
    kind, options = (told, {}) if told == JSON else parse_options_header(told)
    if kind == JSON:
        most = limits.text_bytes
        if declared > most:
            raise _text_too_long(most, limits.file_bytes, declared)
        return _Json(most, limits.file_bytes)
    if kind == "multipart/form-data":
        return _Form(options.get("boundary", ""), limits, uploads)
    if kind in ("", "application/x-www-form-urlencoded"):
        return _UrlEncoded(min(limits.text_bytes, LONGEST_URL_ENCODED), limits.file_bytes)
    if kind == "application/octet-stream" or kind.startswith("image/"):
        return _Whole(limits, uploads, declared)
    raise UnsupportedMedia(
        f"A body of type {kind[:60]!r} is not read",
        fix="Send JSON, multipart/form-data, or the picture itself as image/jpeg, image/png or application/octet-stream",
    )


class _Text:
    """A body that is read whole before it is understood."""

    def __init__(self, most: int, file: int) -> None:
        """`file` is how many bytes one file may have."""
        self._most, self._file, self._data = most, file, bytearray()

    async def feed(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > self._most:
            raise _text_too_long(self._most, self._file)


def _text_too_long(most: int, file: int, size: int | None = None) -> InputTooLarge:
    has = f"it has over {most:,} bytes" if size is None else f"it has {size:,} bytes"
    why = f"{has}, and {most:,} are allowed: a file may have {file:,} (`max_bytes`)"
    return InputTooLarge(
        "The text of the body is too long", why=why, fix="Send smaller files, or upload them in a form"
    )


class _Json(_Text):
    async def end(self) -> Body:
        if _has_too_many_values(self._data):
            raise InvalidRequest("The body has too many values", fix=f"Send at most {MOST_VALUES:,}")
        try:
            fields = from_json(self._data, allow_inf_nan=False)
        except ValueError as error:
            raise InvalidRequest("The body is not JSON", why=str(error)[:200]) from error
        if not isinstance(fields, dict):
            raise InvalidRequest("The body is no JSON object", fix='Send `{"image": "https://..."}`')
        return Body(fields, typed=True)


def _has_too_many_values(data: bytearray) -> bool:
    """Whether there may be more than `MOST_VALUES` values: each follows one of three signs, of which base64 has none."""
    if len(data) <= MOST_VALUES or all(_is_rare(sign, data) for sign in b"{[,"):
        return False
    return sum(map(data.count, b"{[,")) > MOST_VALUES


def _is_rare(sign: int, data: bytearray) -> bool:
    """Whether a sign stands there a few times only: seen in a thirtieth of the time that counting takes (measured)."""
    place = -1
    for _ in range(FEW_VALUES):
        place = data.find(sign, place + 1)
        if place < 0:
            return True
    return False


class _UrlEncoded(_Text):
    async def end(self) -> Body:
        if self._data.lstrip()[:1] == b"{":
            why, fix = "its Content-Type does not say so", "Send it with `Content-Type: application/json`"
            raise InvalidRequest("The body looks like JSON", why=why, fix=fix)
        try:
            text = self._data.decode("ascii")
            return Body(grouped(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MOST_PARTS)))
        except ValueError as error:  # also what is not ASCII or UTF-8
            fix = "Name the type of a picture: `Content-Type: image/jpeg`"
            raise InvalidRequest("The body is no form", why="it cannot be decoded", fix=fix) from error


class _Whole:
    """A body that is one file."""

    def __init__(self, limits: BodyLimits, uploads: Uploads, declared: int) -> None:
        self._file = _File("", "", limits.file_bytes, uploads)
        if declared > limits.file_bytes:
            raise self._file.refusal(declared)

    async def feed(self, data: bytes) -> None:
        self._file.take(data)
        await self._file.settle()
        if self._file.too_large:  # nothing else could come of reading on
            raise self._file.refusal()

    async def end(self) -> Body:
        return Body({}, (await self._file.upload(),) if self._file.size else ())


class _File:
    """One file, as its bytes come in."""

    def __init__(self, field: str, filename: str, most: int, uploads: Uploads) -> None:
        self.field, self.filename, self.size = field, filename, 0
        self._most, self._uploads = most, uploads
        self._chunks: list[bytes] = []
        self._spooled: SpoolFile | None = None

    def take(self, data: bytes) -> None:
        self.size += len(data)
        if self.size <= self._most:
            self._chunks.append(data)
            self._uploads.in_memory += len(data)

    @property
    def too_large(self) -> bool:
        return self.size > self._most

    async def settle(self) -> None:
        """Move to the spool what memory should not hold; let go of a file that is too large."""
        if self.too_large:
            self._take_chunks()
            if self._spooled:
                self._spooled.discard()
        elif self._chunks and (self._spooled or self._is_large):
            self._spooled = self._spooled or self._uploads.spool_file()
            await self._spooled.write(self._take_chunks())

    async def upload(self) -> Upload:
        return Upload(self.field, self.filename, self.refusal(self.size) if self.too_large else await self._source())

    @property
    def _is_large(self) -> bool:
        return self.size > FILE_IN_MEMORY or self._uploads.in_memory > FILES_IN_MEMORY

    def _take_chunks(self) -> bytes:
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._uploads.in_memory -= len(data)
        return data

    async def _source(self) -> Source:
        if self._spooled:
            return Source.spooled(*await self._spooled.keep(), self._name)
        return Source.held(b"".join(self._chunks), self._name)

    @property
    def _name(self) -> str:
        return self.filename or "the upload"

    def refusal(self, size: int | None = None) -> InputTooLarge:
        """Of a file of so many bytes; None: of at least those that came."""
        has = f"at least {self.size:,}" if size is None else f"{size:,}"
        why = f"it has {has} bytes, and {self._most:,} are allowed (`max_bytes`)"
        return InputTooLarge(f"{self._name[:60]} is too large", why=why, fix="Send a smaller file")


class _Form:
    """A multipart form."""

    def __init__(self, boundary: str, limits: BodyLimits, uploads: Uploads) -> None:
        self._limits, self._uploads = limits, uploads
        self._fields: list[tuple[str, str]] = []
        self._files: list[_File] = []
        self._unsettled: set[_File] = set()
        self._parts = self._text_bytes = 0
        self._part: _File | _Field | None = None
        self._parser = _parser(boundary)

    async def feed(self, data: bytes) -> None:
        try:
            for event in self._parser.parse(data):
                self._take(event)
        except MultipartError as error:
            raise _malformed(error) from error
        for file in self._unsettled:
            await file.settle()
        self._unsettled = {self._part} if isinstance(self._part, _File) else set()

    async def end(self) -> Body:
        try:
            self._parser.close()
        except MultipartError as error:
            raise InvalidRequest("The form cannot be read", why="it ends before its closing boundary") from error
        chosen = [file for file in self._files if file.filename or file.size]  # else a field left empty
        return Body(grouped(self._fields), tuple([await file.upload() for file in chosen]))

    def _take(self, event: MultipartSegment | bytes | None) -> None:
        """What the parser found: the head of a part, bytes of its content, or its end."""
        if isinstance(event, MultipartSegment):
            self._parts += 1
            if self._parts > MOST_PARTS:
                raise InvalidRequest("The form has too many parts", fix=f"Send at most {MOST_PARTS}")
            self._part = _part(event, self._limits.file_bytes, self._uploads)
            if isinstance(self._part, _File):
                self._files.append(self._part)
        elif event is None:
            if isinstance(self._part, _Field):
                self._fields.append((self._part.name, self._part.text()))
            self._part = None
        elif isinstance(self._part, _File):
            self._part.take(event)
            self._unsettled.add(self._part)
        elif self._part:
            self._part.take(event)
            self._count_text(len(event))

    def _count_text(self, count: int) -> None:
        self._text_bytes += count
        if self._text_bytes > self._limits.text_bytes:
            why = f"it has at least {self._text_bytes:,} bytes, and {self._limits.text_bytes:,} are allowed"
            raise InputTooLarge("The text of the form is too long", why=why, fix="Send files as file parts")


def _parser(boundary: str) -> PushMultipartParser:
    if not boundary:
        raise InvalidRequest("The form cannot be read", why="its Content-Type names no boundary")
    try:
        # Heads as Latin-1, which no byte is foreign to: what names are in, `_part` decides.
        return PushMultipartParser(boundary, max_header_size=MOST_HEADER_BYTES, header_charset="iso8859-1")
    except MultipartError as error:
        raise _malformed(error) from error


class _Field:
    """One field of a form, as its text comes in."""

    def __init__(self, name: str) -> None:
        self.name, self._data = name, bytearray()

    def take(self, data: bytes) -> None:
        self._data += data

    def text(self) -> str:
        return _utf8(self._data, f"The field {self.name[:60]!r}")


def _part(head: MultipartSegment, most: int, uploads: Uploads) -> _File | _Field:
    """A file, when it has a file name or a type that is not text; else a field."""
    if not head.name:
        raise InvalidRequest("The form cannot be read", why="a part has no name")
    name = _utf8(head.name.encode("latin-1"), "The name of a part")
    media = head.content_type or "text/plain"
    # A name in another alphabet; that there is one is enough.
    extended = head.filename is None and "filename*=" in head.header("Content-Disposition", "").lower()
    if head.filename is None and not extended and (media.startswith("text/") or media == "application/json"):
        return _Field(name)
    filename = (
        "upload" if head.filename is None else head.filename.encode("latin-1", "replace").decode("utf-8", "replace")
    )
    return _File(name, filename, most, uploads)


def _utf8(data: bytes | bytearray, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{what} is not UTF-8", fix="Encode it as UTF-8") from error


def _malformed(error: MultipartError) -> SensoriumError:
    return InvalidRequest("The form cannot be read", why=str(error)[:200])


def grouped(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Text by name; a list of texts where a name is repeated."""
    fields: dict[str, Any] = {}
    for name, text in pairs:
        if name in fields:
            known = fields[name]
            fields[name] = [*known, text] if isinstance(known, list) else [known, text]
        else:
            fields[name] = text
    return fields
