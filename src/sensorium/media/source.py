"""Where a picture is: a path, a URL, bytes at hand, a spooled upload, or a file that a server keeps. Read, fetched and decoded when asked, once."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, overload
from urllib.parse import unquote_to_bytes, urlsplit

from sensorium.errors import (
    FileMissing,
    ForbiddenAddress,
    InputTooLarge,
    InvalidBase64,
    InvalidRequest,
    UnknownFile,
)
from sensorium.media.flight import DESK, Flight, NoRoom, Remembered
from sensorium.media.limits import Limits, current
from sensorium.media.pool import BUDGET, Lease, in_thread

if TYPE_CHECKING:
    from sensorium.media.decode import Opened
    from sensorium.media.image import Image

T = TypeVar("T")
Kind = Literal["path", "url", "data", "spool", "file"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):", re.ASCII)  # two letters at least: `C:` is a drive
_DATA_URL = re.compile(r"data:[^,]{0,200}?(;base64)?,", re.ASCII | re.IGNORECASE)
_FILE = re.compile(r"file-[0-9a-f]{32}", re.ASCII)
_LONGEST_NAME = 120
LONGEST_PERCENT_ENCODED = 1_000_000
"""Characters of a data URL without base64: decoding takes a hundred times as much memory (measured)."""


class Source:
    """Where a picture is. A value: equal when it leads to the same place or holds the same bytes."""

    __slots__ = ("__weakref__", "_data", "_flights", "_images", "_place", "_sha256", "kind", "name")

    kind: Kind
    name: str
    """What to call it in messages: a file name, a URL without query and credentials, or `data (12 kB)`."""

    def __init__(self, kind: Kind, place: str, data: bytes | None, name: str, sha256: str | None = None) -> None:
        self.kind, self.name = kind, _presentable(name)
        self._place, self._data, self._sha256 = place, data, sha256
        self._images: dict[bool, Remembered] = {}
        self._flights: dict[bool | str, Flight] = {}

    @classmethod
    def of(cls, value: SourceLike) -> Source:
        """The source that a Python caller means: a str is a path, an http(s) URL or a data URL.

        An open file is read now, from where it stands; pixels (a NumPy array, RGB; a Pillow image) are kept as a PNG.
        Raises InvalidRequest for anything else.
        """
        if isinstance(value, Source):
            return value
        if isinstance(value, str):
            return _from_text(value)
        if isinstance(value, os.PathLike):
            return _from_path(os.fspath(value))
        if isinstance(value, (bytes, bytearray, memoryview)):
            return cls.held(bytes(value))
        if hasattr(value, "__array_interface__"):
            return _from_pixels(value)
        if hasattr(value, "read"):
            return _from_file(value)
        raise InvalidRequest(
            f"Cannot take a picture from a {type(value).__name__}",
            fix="Give a path, a URL, bytes, an open binary file, an array of pixels, or `Source.base64(text)`",
        )

    @classmethod
    def held(cls, data: bytes, name: str = "") -> Source:
        """A source of bytes at hand; `name` is for messages only."""
        return cls("data", "", data, name or f"data ({_size(len(data))})")

    @classmethod
    def base64(cls, text: str | bytes) -> Source:
        """The bytes that base64 text stands for: standard or URL-safe alphabet, padded or not, line breaks allowed.

        Raises InvalidBase64, or InputTooLarge before decoding.
        """
        return cls.held(decode_base64(text))

    @classmethod
    def from_wire(cls, text: str) -> Source:
        """The source that a remote caller means: an http(s) URL, a data URL or an uploaded file's id, never a path. Else InvalidRequest."""
        text = text.strip()
        if _FILE.fullmatch(text):
            return cls.uploaded(text)
        scheme = _scheme(text)
        if scheme == "data":
            return _from_data_url(text)
        if scheme in ("http", "https"):
            return _from_url(text)
        if scheme is not None and "://" in text[:64]:
            raise _wrong_scheme(scheme)
        raise InvalidRequest(
            "Cannot take a picture from this text",
            why="it is neither an http(s) URL nor a data URL, nor an uploaded file's id",
            fix="Write bytes as `data:image/jpeg;base64,...`, or upload the file",
        )

    @classmethod
    def uploaded(cls, identity: str) -> Source:
        """A file that was sent to a server before, by the id that the server gave it: only that server knows its bytes.

        Raises InvalidRequest for what is no such id.
        """
        if not _FILE.fullmatch(identity):
            raise InvalidRequest(
                f"{identity[:60]!r} is no id of an uploaded file", fix="Use the `id` that sending it told"
            )
        return cls("file", identity, None, identity)

    @classmethod
    def spooled(cls, path: Path, sha256: str, name: str) -> Source:
        """An upload that the server has put aside; `name` is what the sender called it."""
        return cls("spool", os.fspath(path), None, re.split(r"[/\\]", name)[-1] or "upload", sha256)

    @property
    def path(self) -> Path | None:
        """The file on this machine, if it is one."""
        return Path(self._place) if self.kind in ("path", "spool") else None

    @property
    def url(self) -> str | None:
        """The address of a picture that is elsewhere, unfetched."""
        return self._place if self.kind == "url" and self._data is None else None

    @property
    def reference(self) -> str | None:
        """What a server knows the picture by, without its bytes: a URL, or an uploaded file's id."""
        return self._place if self.kind == "file" else self.url

    @property
    def _shown(self) -> str:
        """What messages call the file: where a server keeps what was sent is none of its sender's business."""
        return self.name if self.kind == "spool" else self._place

    @property
    def upload(self) -> tuple[Path, str] | None:
        """Where a file lies that was sent to this machine, and its sha256; None for everything else."""
        return (Path(self._place), self._sha256) if self.kind == "spool" and self._sha256 else None

    def open(self) -> IO[bytes]:
        """The encoded bytes as a stream, to pass them on: a file is opened, not read, whatever its size.

        Raises FileMissing. A URL must have been fetched before; else InvalidRequest.
        """
        if self._data is not None or self.kind in ("url", "file"):
            return io.BytesIO(self.read_now())  # which shares the bytes
        with _unreadable_is_missing(self._shown):
            _regular_size(self._place, self._shown)
            return Path(self._place).open("rb")

    async def read(self) -> bytes:
        """All encoded bytes, within the limits; fetched or read once.

        Raises FileMissing, InputTooLarge, ForbiddenAddress or FetchFailed.
        """
        limits = current()
        if self._data is None and self.kind == "url":
            return await self._fetched(limits)
        if self._data is None:
            return await in_thread(self.read_now, limits)
        return self.read_now(limits)

    def read_now(self, limits: Limits | None = None) -> bytes:
        """As `read`, in this thread. A URL must have been fetched before; else InvalidRequest."""
        limits = limits or current()
        data = self._data
        if data is None:
            if self.kind == "url":
                raise InvalidRequest(f"Cannot read {self.name} now", why="it has not been fetched yet")
            if self.kind == "file":
                raise UnknownFile(f"Cannot read {self.name} here", why="only the server that it was sent to has it")
            data = _read_file(self._place, self._shown, self.name, limits)
            _SHELF.keep(self, data)
        if len(data) > limits.max_bytes:
            raise too_many_bytes(self.name, len(data), limits)
        return data

    async def digest(self) -> str:
        """sha256 of the encoded bytes, in hex; worked out once."""
        if self._sha256 is None:
            if self.kind == "url":
                await self.read()
            self._sha256 = await in_thread(self._digest_now, current())
        return self._sha256

    def _digest_now(self, limits: Limits) -> str:
        return hashlib.sha256(self.read_now(limits)).hexdigest()

    @overload
    async def image(self, at_least: int | None = None, *, exact: bool = False, then: None = None) -> Image: ...
    @overload
    async def image(self, at_least: int | None = None, *, exact: bool = False, then: Callable[[Image], T]) -> T: ...
    async def image(
        self, at_least: int | None = None, *, exact: bool = False, then: Callable[[Image], T] | None = None
    ) -> Image | T:
        """The decoded picture, at the smallest scale whose shorter side has `at_least` pixels; None: full size.

        Decoded in a pool thread, once while anybody holds the picture, within the process's budget of pixels.
        `then` runs in the same thread right after, and what it returns is returned instead.
        `exact` asks for Pillow's full-size decoding, the reference; else a JPEG is decoded by the faster way.
        Raises as `read`, and UnidentifiedMedia, UnsupportedMedia, CorruptMedia, or Overloaded.
        """
        wanted = None if exact else at_least
        while True:
            image, flight = self._recall_or_join(exact, wanted)
            if flight is not None:
                if flight.claim():
                    return await self._lead(flight, exact, then)
                image = await flight.landed()
            if image is not None:
                return image if then is None else await in_thread(then, image)

    def _recall_or_join(self, exact: bool, at_least: int | None) -> tuple[Image | None, Flight | None]:
        """The picture if someone holds it; else the flight that brings it."""
        with DESK:
            remembered = self._images.get(exact)
            image = remembered.recall(at_least) if remembered else None
            if image is not None:
                return image, None
            flight = self._flights.get(exact)
            if flight is None or not flight.serves(at_least):
                flight = self._flights[exact] = Flight(self._flights, exact, at_least)
            return None, flight

    async def _lead(self, flight: Flight, exact: bool, then: Callable[[Image], T] | None) -> Image | T:
        limits = current()
        try:
            if self.kind == "url" and self._data is None:
                await self._fetched(limits)
            answer = await in_thread(self._fly, flight, exact, then, limits)
            if isinstance(answer, NoRoom):
                lease = await BUDGET.take(answer.pixels, limits.pixel_budget, limits.budget_seconds)
                answer = await in_thread(self._fly, flight, exact, then, limits, (answer.opened, lease))
        except Exception as error:
            flight.crash(error)
            raise
        else:
            return answer  # type: ignore[return-value]  # with a lease there is room
        finally:
            flight.leave()

    def _fly(
        self,
        flight: Flight,
        exact: bool,
        then: Callable[[Image], T] | None,
        limits: Limits,
        boarded: tuple[Opened, Lease] | None = None,
    ) -> Image | T | NoRoom | None:
        """Read, look, decode and go on with `then`, all in the calling thread. NoRoom when the budget is full."""
        if not flight.take_off():
            return None  # nobody waits for it
        try:
            image = self._decoded(exact, flight.at_least, limits, boarded)
        except BaseException as error:
            flight.crash(error)
            raise
        if isinstance(image, NoRoom):
            flight.pause()
            return image
        flight.land(image)
        return image if then is None else then(image)

    def _decoded(
        self, exact: bool, at_least: int | None, limits: Limits, boarded: tuple[Opened, Lease] | None
    ) -> Image | NoRoom:
        from sensorium.media.decode import look

        opened = boarded[0] if boarded else look(self.read_now(limits), self.name, limits)
        scale = opened.scale_for(at_least, limits)
        pixels = opened.pixels_at(scale)
        lease = boarded[1] if boarded else BUDGET.try_take(pixels, limits.pixel_budget)
        if lease is None:
            return NoRoom(pixels, opened)
        try:
            image = opened.decode(scale, exact)
        except BaseException:
            lease.close()
            raise
        lease.until_gone(image.pixels)
        for key in (True, False) if opened.one_way else (exact,):
            # At the largest scale that the limits allow there is no larger one to ask for.
            self._images[key] = Remembered(image, None if scale == opened.scale_for(None, limits) else at_least)
        return image

    def image_now(self, at_least: int | None = None) -> Image:
        """As `image`, in this thread and beside the budget of pixels. A URL must have been fetched before."""
        from sensorium.media.decode import look

        limits = current()
        opened = look(self.read_now(limits), self.name, limits)
        return opened.decode(opened.scale_for(at_least, limits), False)

    async def _fetched(self, limits: Limits) -> bytes:
        from sensorium.media.fetch import fetch

        while self._data is None:
            with DESK:
                flight = self._flights.get("fetch") or Flight(self._flights, "fetch", None)
                self._flights["fetch"] = flight
            if not flight.claim():
                await flight.landed()
                continue
            try:
                self._data = await fetch(self._place, limits)
            except Exception as error:
                flight.crash(error)
                raise
            finally:
                flight.leave()
        return self.read_now(limits)

    def as_json(self) -> dict[str, str]:
        """The source as JSON-ready fields; a worker in the same trust makes it a Source again."""
        if self.kind == "url":
            return {"url": self._place}
        if self.kind == "path":
            return {"path": self._place}
        if self.kind == "file":
            return {"file_id": self._place}
        if self.kind == "spool":
            return {"spool": self._sha256 or "", "path": self._place, "name": self.name}
        import pybase64

        return {"data": pybase64.b64encode(self._data or b"").decode("ascii")}

    @classmethod
    def from_json(cls, value: Any, *, trusted: bool = False) -> Source:
        """The source that JSON names. Paths, and so spooled uploads, only when it comes from ourselves."""
        match value:
            case str():
                return cls.of(value) if trusted else cls.from_wire(value)
            case {"url": str(url), **rest} if not rest:
                return cls.from_wire(url)
            case {"data": str(text), **rest} if not rest:
                return cls.base64(text)
            case {"file_id": str(identity), **rest} if not rest:
                return cls.uploaded(identity)
            case {"spool": str(sha256), "path": str(path), **rest} if trusted:
                return cls.spooled(Path(path), sha256, str(rest.get("name", "upload")))
            case {"path": str(path), **rest} if trusted and not rest:
                return _from_path(path)
            case {"path": _}:
                raise InvalidRequest("Cannot take a picture from a path here", fix="Upload the file, or send a URL")
        raise InvalidRequest("Cannot take a picture from this value", fix="Give an http(s) URL or a data URL")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Source):
            return NotImplemented
        return self is other or self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[str, str, bytes | None]:
        # A fetched URL keeps its bytes, and stays equal to itself unfetched.
        return (self.kind, self._place, self._data if self.kind == "data" else None)

    def __repr__(self) -> str:
        return f"Source({self.kind}: {self.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        data = self._data if self.kind == "data" else None
        return (Source, (self.kind, self._place, data, self.name, self._sha256))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.with_info_plain_validator_function(
            _validated, serialization=core_schema.plain_serializer_function_ser_schema(Source.as_json, when_used="json")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {
            "type": "string",
            "title": "Source",
            "description": "A picture: an http(s) URL, a data URL such as `data:image/jpeg;base64,...`, or an uploaded file's id",
            "examples": ["https://example.com/cat.jpg", "data:image/png;base64,iVBORw0KGgo="],
        }


class HasPixels(Protocol):
    """A NumPy array or a Pillow image."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


SourceLike: TypeAlias = Source | str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | HasPixels
"""What `Source.of` takes."""


def decode_base64(text: str | bytes) -> bytes:
    """The bytes that base64 text stands for; see `Source.base64`."""
    import pybase64

    limit = current().max_bytes
    if len(text) > limit * 4 // 3 + limit // 16 + 1024:  # a line break every 76 characters makes a 38th more
        raise InputTooLarge(
            "The base64 text is too long",
            why=f"it stands for about {len(text) * 3 // 4:,} bytes, and {limit:,} are allowed (`max_bytes`)",
            fix="Send a smaller picture",
        )
    try:
        raw = text.encode("ascii") if isinstance(text, str) else bytes(text)
        with suppress(ValueError):  # as most write it: in a twentieth of the time (measured)
            return pybase64.b64decode(raw, validate=True)
        raw = raw.translate(_STANDARD_ALPHABET, b" \t\r\n").rstrip(b"=")
        return pybase64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except (ValueError, TypeError) as error:
        raise InvalidBase64(
            "The text is not base64", why=str(error), fix="Encode the file's bytes again, without a prefix"
        ) from error


def too_many_bytes(name: str, size: int | None, limits: Limits) -> InputTooLarge:
    """The error for an input of so many bytes; None: more than allowed."""
    has = f"it has {size:,} bytes" if size is not None else "it has more bytes than are allowed"
    return InputTooLarge(
        f"{name} is too large",
        why=f"{has}, and {limits.max_bytes:,} are allowed (`max_bytes`)",
        fix="Send a smaller file",
    )


def public_url(url: str) -> str:
    """A URL as it may be shown: without credentials, query and fragment."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        return "the URL"


class _Shelf:
    """Sources that keep the bytes of their file, so that digest and decoding see the same, read once.

    Bounded as a whole: ten thousand sources in a list must not keep ten thousand files in memory. The oldest lose
    theirs, and will read them again.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity, self._size, self._lock = capacity, 0, threading.Lock()
        self._held: deque[tuple[weakref.ref[Source], int]] = deque()

    def keep(self, source: Source, data: bytes) -> None:
        source._data = data
        with self._lock:
            self._held.append((weakref.ref(source), len(data)))
            self._size += len(data)
            while self._size > self._capacity and len(self._held) > 1:
                oldest, size = self._held.popleft()
                self._size -= size
                if (known := oldest()) is not None:
                    known._data = None


_SHELF = _Shelf(64_000_000)

_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")


def _from_text(text: str) -> Source:
    scheme = _scheme(text)
    if scheme == "data" and _DATA_URL.match(text):
        return _from_data_url(text)
    if scheme in ("http", "https"):
        return _from_url(text)
    if scheme is not None and text[len(scheme) + 1 :].startswith("//"):
        raise _wrong_scheme(scheme)
    return _from_path(text)


def _scheme(text: str) -> str | None:
    found = _SCHEME.match(text)
    return found[1].lower() if found else None


def _wrong_scheme(scheme: str) -> ForbiddenAddress:
    fix = "Give the path itself" if scheme == "file" else "Use an http or https URL"
    return ForbiddenAddress(f"Cannot fetch from a {scheme}: URL", why="only http and https are fetched", fix=fix)


def _from_url(url: str) -> Source:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host or any(ord(sign) < 33 or ord(sign) == 127 for sign in url):
        raise InvalidRequest(f"{public_url(url)!r} is not a URL that can be fetched", fix="Correct the URL")
    return Source("url", url, None, public_url(url))


def _from_data_url(text: str) -> Source:
    prefix = _DATA_URL.match(text)
    if prefix is None:
        raise InvalidRequest("The data URL has no data", fix="Write it as `data:image/jpeg;base64,...`")
    if prefix[1]:
        return Source.base64(text[prefix.end() :])
    if len(text) - prefix.end() > LONGEST_PERCENT_ENCODED:
        raise InputTooLarge(
            "The data URL is too long for percent-encoding",
            why=f"{LONGEST_PERCENT_ENCODED:,} characters are allowed",
            fix="Encode it as base64: `data:image/jpeg;base64,...`",
        )
    return Source.held(unquote_to_bytes(text[prefix.end() :]))


def _from_path(path: str | bytes) -> Source:
    place = os.fsdecode(path)
    if not place:
        raise InvalidRequest("The path is empty", fix="Give the path of a picture")
    return Source("path", place, None, os.path.basename(place) or place)  # noqa: PTH119 - a tenth of what Path costs


def _from_pixels(value: HasPixels) -> Source:
    from sensorium.media.pixels import encoded

    return Source.held(encoded(value), "the pixels")


def _from_file(file: IO[bytes]) -> Source:
    limits = current()
    data = file.read(limits.max_bytes + 1)
    name = Path(str(getattr(file, "name", "") or "")).name
    if not isinstance(data, bytes):
        raise InvalidRequest("The file is open as text", fix="Open it with mode 'rb'")
    if len(data) > limits.max_bytes:
        raise too_many_bytes(name or "The open file", None, limits)
    return Source.held(data, name)


def _read_file(place: str, shown: str, name: str, limits: Limits) -> bytes:
    """The bytes of a regular file; its size is looked at first."""
    with _unreadable_is_missing(shown):
        size = _regular_size(place, shown)
        if size > limits.max_bytes:
            raise too_many_bytes(name, size, limits)
        with Path(place).open("rb", buffering=0) as file:
            data = _read_up_to(file, size, limits.max_bytes)
    if len(data) > limits.max_bytes:
        raise too_many_bytes(name, None, limits)
    return data


def _regular_size(place: str, shown: str) -> int:
    """How many bytes the file has. Raises FileMissing for what is no regular file: opening a pipe would wait for ever."""
    status = Path(place).stat()
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
    raise FileMissing(f"Cannot read {_presentable(shown)!r}", why=f"it is {kind}", fix="Give a file's path")


@contextmanager
def _unreadable_is_missing(shown: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        why = getattr(error, "strerror", None) or str(error)
        raise FileMissing(f"Cannot read {_presentable(shown)!r}", why=why, fix="Check the path") from error


def _read_up_to(file: io.FileIO, expected: int, most: int) -> bytes:
    """All of the file, or one byte more than allowed if it grew meanwhile or its size was not told."""
    data = file.read(min(expected, most) + 1)
    if data is None or len(data) == expected:
        return data or b""
    parts = [data]
    while data and sum(map(len, parts)) <= most:
        data = file.read(1 << 20) or b""
        parts.append(data)
    return b"".join(parts)


def _validated(value: Any, info: Any) -> Source:
    trusted = bool((info.context or {}).get("trusted"))
    if isinstance(value, (str, dict)):
        return Source.from_json(value, trusted=trusted)
    return Source.of(value)


def _presentable(name: str) -> str:
    """A name fit for one line of a message, whatever the sender called the file."""
    shown = name if name.isprintable() else "".join(sign if sign.isprintable() else "�" for sign in name)
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[:60]}…{shown[-50:]}"


def _size(count: int) -> str:
    for unit, bytes_each in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= bytes_each:
            return f"{count / bytes_each:.0f} {unit}"
    return f"{count} bytes"
