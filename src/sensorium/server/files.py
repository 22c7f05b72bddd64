"""`/v1/files` and `/v1/uploads`: files sent ahead, named by their ids wherever a picture can stand; whole, or in parts.

    POST   /v1/files                    a form with `file`, or the file itself -> {"id": "file-...", ...}
    GET    /v1/files                    the caller's own, the newest first
    GET    /v1/files/<id>               one of them
    GET    /v1/files/<id>/content       its bytes
    DELETE /v1/files/<id>
    POST   /v1/uploads                  {"bytes": 800000000, "filename": "scan.tif"} -> {"id": "upload_...", ...}
    POST   /v1/uploads/<id>/parts       a form with `data`, or the bytes themselves -> {"id": "part_...", ...}
    GET    /v1/uploads/<id>             how far it is: after a broken connection, or a new start of the server
    POST   /v1/uploads/<id>/complete    {"part_ids": ["part_...", ...]} -> the upload with its `file`
    POST   /v1/uploads/<id>/cancel

Routes and shapes are OpenAI's, whose clients send files here unchanged; `GET /v1/uploads/<id>` is ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_core import to_json
from starlette.requests import Request as WebRequest
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from sensorium.engine import Caller
from sensorium.errors import InputTooLarge, InvalidRequest, SensoriumError, StorageFailed
from sensorium.media.source import Source
from sensorium.schemas.base import Frozen, checked
from sensorium.server import files_page
from sensorium.server.body import BodyLimits
from sensorium.server.door import CALLER, TRACE, Door, House, head_of
from sensorium.server.events import Talk
from sensorium.server.facades import native
from sensorium.server.facades.base import Facade, Message, Plan, Reply, key_of
from sensorium.service import Sensorium
from sensorium.stores.cabinet import FILE_ID, UPLOAD_ID, Kept, Part, Upload, unknown

FILES, FILE, CONTENT = "/v1/files", "/v1/files/{file}", "/v1/files/{file}/content"
UPLOADS, UPLOAD = "/v1/uploads", "/v1/uploads/{upload}"
PARTS, COMPLETE, CANCEL = f"{UPLOAD}/parts", f"{UPLOAD}/complete", f"{UPLOAD}/cancel"

USUAL_PURPOSE = "vision"

LONGEST_TEXT = 2**20
"""Bytes of a body that are no file; ten thousand ids of parts are half of it."""

USUAL_PAGE, LARGEST_PAGE = 1000, 10_000
"""Files that are told at once."""

SWEEP_SECONDS = 60.0
"""Between two sweeps for files whose time is over."""

Work = Callable[[Message, Caller], Awaitable[Reply]]


class Lasting(Frozen):
    """How long to keep a file."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(ge=1)
    """No longer than `file_kept_seconds` says."""


class Announced(Frozen):
    """A file that will come in parts."""

    bytes: int = Field(ge=1, examples=[800_000_000])
    """How many it will have."""
    filename: str = Field(default="upload", max_length=500, examples=["scan.tif"])
    """What to call it."""
    purpose: str = Field(default=USUAL_PURPOSE, max_length=64)
    """Kept with the file, and no more."""
    mime_type: str = Field(default="", max_length=200)
    """Not looked at: what a file is, its bytes say."""
    expires_after: Lasting | None = None
    """How long to keep the file, once it is whole."""


class Completed(Frozen):
    """What an upload is made of."""

    part_ids: tuple[Annotated[str, Field(max_length=100)], ...] = Field(min_length=1, max_length=10_000)
    """The ids of the parts, in the order of the file."""
    md5: str | None = Field(default=None, pattern="^[0-9a-fA-F]{32}$")
    """Of the whole file, to see that it is what was sent."""


class Filing:
    """All that the routes of files need while the server runs."""

    def __init__(self, house: House) -> None:
        self._house, self._settings = house, house.settings
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """In the loop that serves."""
        self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        if self._sweeping:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    def routes(self) -> list[Route]:
        """Those that take a body, and the one that gives bytes."""
        most = self._settings.max_upload_bytes
        large = BodyLimits(most, most, self._settings.upload_seconds, LONGEST_TEXT)
        small = BodyLimits(LONGEST_TEXT, LONGEST_TEXT, self._settings.upload_seconds, LONGEST_TEXT)
        works: dict[str, tuple[Work, BodyLimits]] = {
            FILES: (self._put, large),
            UPLOADS: (self._begin, small),
            PARTS: (self._add, large),
            COMPLETE: (self._complete, small),
        }
        doors = [
            Route(path, _Taking(path, self._house, work, limits), methods=["POST"])
            for path, (work, limits) in works.items()
        ]
        return [*doors, Route(CONTENT, self._content, methods=["GET"])]

    async def listed(self, request: WebRequest) -> Reply:
        query = head_of(request.scope).query
        limit = query.get("limit", str(USUAL_PAGE))
        if not (
            isinstance(limit, str) and limit.isascii() and limit.isdecimal() and 0 < int(limit[:9]) <= LARGEST_PAGE
        ):
            raise InvalidRequest("`limit` is wrong", fix=f"Send a number from 1 to {LARGEST_PAGE:,}")
        order, after = query.get("order", "desc"), query.get("after") or None
        if order not in ("asc", "desc"):
            raise InvalidRequest("`order` is neither asc nor desc")
        if after is not None:
            _checked_id(after, "file")
        purpose, most = query.get("purpose") or None, int(limit)
        if not isinstance(purpose, str | None):
            raise InvalidRequest("`purpose` stands there more than once")
        owner = _caller(request).name
        kept = await self._house.cabinet.listed(owner, purpose, after, most + 1, oldest_first=order == "asc")
        data = [told(one) for one in kept[:most]]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return Reply(200, to_json({"object": "list", "data": data, "has_more": len(kept) > most, **ends}))

    async def one(self, request: WebRequest) -> Reply:
        return Reply(200, to_json(told(await self._found(request, _caller(request)))))

    async def deleted(self, request: WebRequest) -> Reply:
        identity = _checked_id(request.path_params["file"], "file")
        await self._house.cabinet.remove(identity, _caller(request).name)
        return Reply(200, to_json({"id": identity, "object": "file", "deleted": True}))

    async def upload(self, request: WebRequest) -> Reply:
        """How far an upload is."""
        identity = _checked_id(request.path_params["upload"], "upload")
        upload, parts = await self._house.cabinet.upload(identity, _caller(request).name)
        coming = {
            "parts": [_part(part, identity) for part in parts],
            "bytes_received": sum(part.bytes for part in parts),
        }
        kept = await self._house.cabinet.find(upload.file, upload.owner) if upload.file else None
        return Reply(200, to_json({**_upload(upload, kept), **coming}))

    async def _content(self, request: WebRequest) -> Response:
        try:
            caller = await self._house.caller(key_of(head_of(request.scope)))
            kept = await self._found(request, caller)
            if not await asyncio.to_thread(self._house.cabinet.path(kept).exists):
                raise unknown("file")
        except SensoriumError as error:
            reply = native.refuse(error, request.scope[TRACE])
            return Response(reply.body, reply.status, dict(_texts(reply)), media_type="application/json")
        # Never a type that a browser would show: whoever sent it chose its bytes.
        return FileResponse(
            self._house.cabinet.path(kept),
            media_type="application/octet-stream",
            filename=kept.name,
            headers={"X-Content-Type-Options": "nosniff"},
        )

    async def _found(self, request: WebRequest, caller: Caller) -> Kept:
        return await self._house.cabinet.find(_checked_id(request.path_params["file"], "file"), caller.name)

    async def _put(self, message: Message, caller: Caller) -> Reply:
        name, source = _sent(message, "file")
        fields = {**_texts_of(message.query), **_texts_of(message.fields)}
        purpose = fields.get("purpose") or USUAL_PURPOSE
        if len(purpose) > 64:
            raise InvalidRequest("`purpose` is too long", fix="Send at most 64 signs")
        self._check_size(await asyncio.to_thread(_size, source))
        lasting = _lasting(fields)
        kept = await self._house.cabinet.put(
            caller.name, name or fields.get("filename") or "upload", purpose, source.open, self._seconds(lasting)
        )
        return Reply(200, to_json(told(kept)), ((b"location", f"{FILES}/{kept.id}".encode()),))

    async def _begin(self, message: Message, caller: Caller) -> Reply:
        asked = checked(Announced, message.fields, "an upload")
        self._check_size(asked.bytes)
        seconds = self._seconds(asked.expires_after)
        upload = await self._house.cabinet.begin(caller.name, asked.filename, asked.purpose, asked.bytes, seconds)
        return Reply(200, to_json(_upload(upload, None)), ((b"location", f"{UPLOADS}/{upload.id}".encode()),))

    async def _add(self, message: Message, caller: Caller) -> Reply:
        identity = _upload_id(message)
        _, source = _sent(message, "data")
        return Reply(200, to_json(_part(await self._house.cabinet.add(identity, caller.name, source.open), identity)))

    async def _complete(self, message: Message, caller: Caller) -> Reply:
        asked = checked(Completed, message.fields, "the end of an upload")
        done = await self._house.cabinet.complete(_upload_id(message), caller.name, asked.part_ids, asked.md5)
        return Reply(200, to_json(_upload(*done)))

    async def cancelled(self, request: WebRequest) -> Reply:
        """Whatever the body says: clients send none, and call that JSON."""
        identity = _checked_id(request.path_params["upload"], "upload")
        return Reply(200, to_json(_upload(await self._house.cabinet.cancel(identity, _caller(request).name), None)))

    def _check_size(self, size: int) -> None:
        most = self._settings.file_bytes
        if size > most:
            why = f"it has {size:,} bytes, and {most:,} are allowed (`file_bytes`)"
            raise InputTooLarge("The file is too large", why=why, fix="Send a smaller file")

    def _seconds(self, asked: Lasting | None) -> float:
        longest = self._settings.file_kept_seconds
        return min(asked.seconds, longest) if asked else longest

    async def _sweep(self) -> None:
        while True:
            with contextlib.suppress(StorageFailed):  # who uses files next hears of it
                await self._house.cabinet.sweep()
            await asyncio.sleep(SWEEP_SECONDS)


def operations() -> dict[str, Any]:
    """The routes, as OpenAPI describes them."""
    paths = (FILES, FILE, CONTENT, UPLOADS, UPLOAD, PARTS, COMPLETE, CANCEL)
    return files_page.operations(paths, Announced, Completed, LARGEST_PAGE)


class _Taking(Door):
    """A route whose body is taken through the same door as a task's."""

    def __init__(self, path: str, house: House, work: Work, limits: BodyLimits) -> None:
        super().__init__(Facade(path, _as_it_is, _never, native.refuse, lambda: operations()[path]["post"]), house)
        self._work, self._body_limits = work, limits

    async def _answered(
        self,
        plan: Plan,
        talk: Talk | None,  # noqa: ARG002 - nothing is told as it comes
        service: Sensorium,  # noqa: ARG002 - nobody works on it
        trace: str,  # noqa: ARG002
        caller: Caller,
    ) -> Reply | None:
        return await self._work(plan.context, caller)


def told(kept: Kept) -> dict[str, Any]:
    """A file as OpenAI's clients know it."""
    return {
        "id": kept.id,
        "object": "file",
        "bytes": kept.bytes,
        "created_at": int(kept.created),
        "expires_at": int(kept.expires),
        "filename": kept.name,
        "purpose": kept.purpose,
        "status": "processed",
    }


def _upload(upload: Upload, kept: Kept | None) -> dict[str, Any]:
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": int(upload.created),
        "expires_at": int(upload.expires),
        "filename": upload.name,
        "purpose": upload.purpose,
        "status": upload.state,
        "file": told(kept) if kept else None,
    }


def _part(part: Part, upload: str) -> dict[str, Any]:
    return {
        "id": part.id,
        "object": "upload.part",
        "created_at": int(part.created),
        "upload_id": upload,
        "bytes": part.bytes,
        "sha256": part.sha256,
    }


def _as_it_is(message: Message) -> Plan:
    return Plan((), message)


def _never(*ignored: Any) -> Reply:
    raise NotImplementedError


def _caller(request: WebRequest) -> Caller:
    caller: Caller = request.scope[CALLER]
    return caller


def _checked_id(identity: Any, what: str) -> str:
    """Raises UnknownFile for what is none of our ids."""
    if not (isinstance(identity, str) and {"file": FILE_ID, "upload": UPLOAD_ID}[what].fullmatch(identity)):
        raise unknown(what)
    return identity


def _upload_id(message: Message) -> str:
    return _checked_id(message.path.split("/")[-2], "upload")


def _sent(message: Message, field: str) -> tuple[str, Source]:
    """The one file of a body, and what its sender calls it."""
    files = [file for file in message.files if file.field in (field, "")]
    if len(files) != 1 or len(message.files) != 1:
        fix = f"Send it in a form as `{field}`, or alone with `Content-Type: application/octet-stream`"
        raise InvalidRequest("Send one file" if message.files else "No file was sent", fix=fix)
    (file,) = files
    if isinstance(file.source, SensoriumError):
        raise file.source
    return file.filename[:500], file.source


def _size(source: Source) -> int:
    with source.open() as content:
        return content.seek(0, os.SEEK_END)


def _texts_of(fields: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if isinstance(value, str)}


def _lasting(fields: Mapping[str, str]) -> Lasting | None:
    """As forms write it: `expires_after[seconds]`."""
    given = {
        name: fields[f"expires_after[{name}]"] for name in Lasting.model_fields if f"expires_after[{name}]" in fields
    }
    return checked(Lasting, given, "a file") if given else None


def _texts(reply: Reply) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in reply.headers]
