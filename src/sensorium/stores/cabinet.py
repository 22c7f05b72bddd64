"""Files that callers send ahead of the requests which name them: whose they are, how large, and until when they are kept.

    kept = await cabinet.put("shop", "cat.jpg", "vision", open_it, expires=moment)
    path = cabinet.path(await cabinet.find(kept.id, "shop"))

A large one comes in parts: each is on the disk before it is answered for, so that an upload which broke off, or whose
server was started again, goes on with the part that is missing. The index is SQLite; the bytes lie in `files.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Concatenate, Literal, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from sensorium.errors import (
    FilesFull,
    InputTooLarge,
    InvalidConfiguration,
    InvalidRequest,
    StorageFailed,
    UnknownFile,
)
from sensorium.stores.files import LEAST_CHARGED, Files, storage_failed
from sensorium.stores.sqlite import Database

FILE = "files.sqlite"
FOLDER = "files"
"""In `data_dir`."""

FILE_ID = re.compile(r"file-[0-9a-f]{32}")
UPLOAD_ID = re.compile(r"upload_[0-9a-f]{32}")

UPLOAD_SECONDS = 86400.0
"""How long an upload in parts may take."""

MOST_PARTS = 10_000
"""Of one upload."""

MOST_FILES = 100_000
"""Of one owner."""

MOST_UPLOADS = 1000
"""Of one owner, under way; and as many that are over are remembered."""

ABANDONED_SECONDS = 3600.0
"""Bytes of this age that belong to nothing were left by a process that was killed."""

MOST_SWEPT = 200
"""Files that are swept at once."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, name TEXT NOT NULL, purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, created REAL NOT NULL, expires REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS files_by_owner ON files (owner, place);
CREATE INDEX IF NOT EXISTS files_by_size ON files (owner, expires, bytes);
CREATE INDEX IF NOT EXISTS files_by_expiry ON files (expires);
CREATE TABLE IF NOT EXISTS uploads (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, purpose TEXT NOT NULL, bytes INTEGER NOT NULL,
    created REAL NOT NULL, expires REAL NOT NULL, kept_seconds REAL NOT NULL, state TEXT NOT NULL, file TEXT
);
CREATE INDEX IF NOT EXISTS uploads_by_owner ON uploads (owner);
CREATE INDEX IF NOT EXISTS uploads_by_expiry ON uploads (expires);
CREATE TABLE IF NOT EXISTS parts (
    place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, upload TEXT NOT NULL, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL,
    created REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS parts_by_upload ON parts (upload);
"""

P = ParamSpec("P")
T = TypeVar("T")

UploadState = Literal["pending", "completed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Kept:
    """A file as it is kept. Times are in seconds since 1970."""

    id: str
    owner: str
    name: str
    """What its sender calls it; for people only."""
    purpose: str
    bytes: int
    sha256: str
    created: float
    expires: float


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an upload."""

    id: str
    bytes: int
    sha256: str
    created: float


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that comes in parts."""

    id: str
    owner: str
    name: str
    purpose: str
    bytes: int
    """As many as the whole will have."""
    created: float
    expires: float
    kept_seconds: float
    """How long the file is kept once it is whole."""
    state: UploadState
    file: str | None = None
    """Its id, once it is whole."""


COLUMNS = ", ".join(one.name for one in fields(Kept))
UPLOAD_COLUMNS = ", ".join(one.name for one in fields(Upload))
PART_COLUMNS = ", ".join(one.name for one in fields(Part))


class Cabinet:
    """Keeps at most `quota` bytes for each owner, what uploads in parts have announced included."""

    def __init__(self, folder: Path, quota: int, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(folder / FILE, SCHEMA, "data_dir")
        self._files = Files(folder / "bytes")
        self._quota, self._clock = quota, clock
        self._completing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def put(
        self, owner: str, name: str, purpose: str, content: Callable[[], IO[bytes]], kept_seconds: float
    ) -> Kept:
        """Keep what is read. Raises FilesFull, and StorageFailed; then nothing is left of it."""
        await self._do(self._check_room, owner, 0)
        shelf = secrets.token_hex(16)
        try:
            sha256, size = await asyncio.to_thread(self._laid_down, shelf, content)
            now = self._clock()
            kept = Kept(f"file-{shelf}", owner, name, purpose, size, sha256, now, now + kept_seconds)
            await self._do(self._add, kept)
        except BaseException:
            await asyncio.to_thread(self._files.remove, shelf)
            raise
        return kept

    async def find(self, identity: str, owner: str) -> Kept:
        """Raises UnknownFile when this owner has none of that id, any more."""
        return await self._look(_found, identity, owner, self._clock())

    async def listed(
        self, owner: str, purpose: str | None, after: str | None, most: int, *, oldest_first: bool = False
    ) -> list[Kept]:
        """The owner's files, by default the newest first; of those that follow that one."""
        return await self._look(_listed, owner, purpose, after, most, oldest_first, self._clock())

    async def remove(self, identity: str, owner: str) -> None:
        """Raises as `find`."""
        await self._do(_removed, identity, owner, self._clock())
        await asyncio.to_thread(self._files.remove, _shelf(identity))

    def path(self, kept: Kept) -> Path:
        """Where its bytes are."""
        return self._files.path(_shelf(kept.id), kept.sha256)

    async def begin(self, owner: str, name: str, purpose: str, size: int, kept_seconds: float) -> Upload:
        """An upload of so many bytes, which are held from now on. Raises FilesFull."""
        now = self._clock()
        identity = f"upload_{secrets.token_hex(16)}"
        upload = Upload(identity, owner, name, purpose, size, now, now + UPLOAD_SECONDS, kept_seconds, "pending")
        await self._do(self._begin, upload)
        return upload

    async def upload(self, identity: str, owner: str) -> tuple[Upload, list[Part]]:
        """How far it is, its parts in the order in which they came. Raises UnknownFile."""
        return await self._look(_upload, identity, owner, self._clock())

    async def add(self, identity: str, owner: str, content: Callable[[], IO[bytes]]) -> Part:
        """Keep one part. Raises UnknownFile, InvalidRequest when the upload is over, InputTooLarge when all parts are
        more than it was to have, and StorageFailed."""
        await self._do(self._pending, identity, owner)
        sha256, size = await asyncio.to_thread(self._laid_down, _shelf(identity), content)
        part = Part(f"part_{secrets.token_hex(16)}", size, sha256, self._clock())
        try:
            await self._do(self._add_part, identity, owner, part)
        except BaseException:
            await self._forget_part(identity, sha256)
            raise
        return part

    async def complete(
        self, identity: str, owner: str, order: Sequence[str], md5: str | None = None
    ) -> tuple[Upload, Kept]:
        """Make the parts, in this order, a file. Once more it is answered by the same file.

        Raises UnknownFile, InvalidRequest when they are not the whole, and StorageFailed.
        """
        async with self._completing.setdefault(identity, asyncio.Lock()):  # each takes as much disk as the file
            upload, parts = await self.upload(identity, owner)
            if upload.state == "pending":
                upload = await self._completed_by_somebody(upload, _in_order(upload, parts, order), md5)
                await asyncio.to_thread(self._files.remove, _shelf(identity))
        if upload.file is None:
            raise _over(upload)
        return upload, await self.find(upload.file, owner)

    async def cancel(self, identity: str, owner: str) -> Upload:
        """Let go of its parts. Raises UnknownFile, and InvalidRequest for one that is complete."""
        upload = await self._do(self._cancelled, identity, owner)
        await asyncio.to_thread(self._files.remove, _shelf(identity))
        return upload

    async def sweep(self) -> None:
        """Remove what has expired, and bytes that belong to nothing."""
        if not await asyncio.to_thread(self._database.path.exists):  # nobody has sent anything yet
            return
        while gone := await self._do(_expired, self._clock()):
            for shelf in gone:
                await asyncio.to_thread(self._files.remove, shelf)
        for shelf in await asyncio.to_thread(lambda: list(self._files.shelves(ABANDONED_SECONDS))):
            if not await self._do(_is_known, shelf):
                await asyncio.to_thread(self._files.remove, shelf)

    async def close(self) -> None:
        await self._database.close()

    async def _do(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **more: P.kwargs) -> T:
        """What the work returns, once what it wrote is kept."""

        def together(connection: sqlite3.Connection) -> T:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                return work(connection, *args, **more)

        return await self._look(together)

    async def _look(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **more: P.kwargs) -> T:
        try:
            return await self._database.do(work, *args, **more)
        except (sqlite3.Error, InvalidConfiguration) as error:
            raise storage_failed("Files cannot be looked up", error) from error

    def _laid_down(self, shelf: str, content: Callable[[], IO[bytes]]) -> tuple[str, int]:
        with content() as opened:
            path, sha256 = self._files.put(shelf, opened)
        return sha256, path.stat().st_size

    def _check_room(self, connection: sqlite3.Connection, owner: str, size: int) -> None:
        now = self._clock()
        wanted = "SELECT count(*), ifnull(sum(max(bytes, ?)), 0) FROM files WHERE owner = ? AND expires > ?"
        count, files = connection.execute(wanted, (LEAST_CHARGED, owner, now)).fetchone()
        wanted = (
            "SELECT count(*), ifnull(sum(max(bytes, ?)), 0) FROM uploads "
            "WHERE owner = ? AND state = 'pending' AND expires > ?"
        )
        pending, coming = connection.execute(wanted, (LEAST_CHARGED, owner, now)).fetchone()
        if count >= MOST_FILES or pending >= MOST_UPLOADS:
            raise FilesFull(
                "There is no room for another file",
                why=f"you have {count:,} files and {pending:,} uploads; {MOST_FILES:,} and {MOST_UPLOADS:,} are allowed",
                fix="Delete files that you no longer need, and cancel uploads; each goes when it expires",
            )
        if files + coming + max(size, LEAST_CHARGED) > self._quota:
            raise FilesFull(
                "There is no room for this file",
                why=f"your files have {files + coming:,} bytes, and {self._quota:,} are allowed (`file_quota_bytes`)",
                fix="Delete files that you no longer need; each goes when it expires",
            )

    def _add(self, connection: sqlite3.Connection, kept: Kept) -> None:
        self._check_room(connection, kept.owner, kept.bytes)
        _insert(connection, kept)

    def _begin(self, connection: sqlite3.Connection, upload: Upload) -> None:
        self._check_room(connection, upload.owner, upload.bytes)
        _forget_ended(connection, upload.owner)
        row = tuple(getattr(upload, one.name) for one in fields(Upload))
        connection.execute(f"INSERT INTO uploads ({UPLOAD_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - ours

    def _pending(self, connection: sqlite3.Connection, identity: str, owner: str) -> tuple[Upload, list[Part]]:
        upload, parts = _upload(connection, identity, owner, self._clock())
        if upload.state != "pending":
            raise _over(upload)
        return upload, parts

    def _add_part(self, connection: sqlite3.Connection, identity: str, owner: str, part: Part) -> None:
        upload, parts = self._pending(connection, identity, owner)
        there = {one.sha256: one.bytes for one in (*parts, part)}
        if sum(there.values()) > upload.bytes or len(parts) == MOST_PARTS:
            raise InputTooLarge(
                "The upload takes no more",
                why=f"it was to have {upload.bytes:,} bytes, and at most {MOST_PARTS:,} parts",
                fix="Complete it, or begin another",
            )
        if not self._files.path(_shelf(identity), part.sha256).exists():  # an equal one that was refused took it along
            raise StorageFailed("The part was lost", fix="Send it again")
        row = (part.id, identity, part.bytes, part.sha256, part.created)
        connection.execute("INSERT INTO parts (id, upload, bytes, sha256, created) VALUES (?, ?, ?, ?, ?)", row)

    async def _forget_part(self, identity: str, sha256: str) -> None:
        """Remove bytes that no part has; in one step, for an equal part may come in at the same time."""

        def forget(connection: sqlite3.Connection) -> None:
            if not _has_part(connection, identity, sha256):
                self._files.discard(_shelf(identity), sha256)

        await self._do(forget)

    async def _completed_by_somebody(self, upload: Upload, parts: Sequence[Part], md5: str | None) -> Upload:
        try:
            return await self._joined(upload, parts, md5)
        except StorageFailed:  # as when who was quicker has removed the parts
            now, _ = await self.upload(upload.id, upload.owner)
            if now.state == "pending":
                raise
            return now

    async def _joined(self, upload: Upload, parts: Sequence[Part], md5: str | None) -> Upload:
        shelf = secrets.token_hex(16)
        try:
            sha256 = await asyncio.to_thread(self._join, upload, parts, shelf, md5)
            now = self._clock()
            expires = now + upload.kept_seconds
            kept = Kept(f"file-{shelf}", upload.owner, upload.name, upload.purpose, upload.bytes, sha256, now, expires)
            done = await self._do(self._completed, upload, kept)
        except BaseException:
            await asyncio.to_thread(self._files.remove, shelf)
            raise
        if done.file != kept.id:  # somebody else was quicker
            await asyncio.to_thread(self._files.remove, shelf)
        return done

    def _join(self, upload: Upload, parts: Sequence[Part], shelf: str, md5: str | None) -> str:
        source = _Joined(self._files.path(_shelf(upload.id), part.sha256) for part in parts)
        _, sha256 = self._files.put(shelf, source)  # type: ignore[arg-type] # as much of a file as is used
        if md5 is not None and source.md5.hexdigest() != md5.lower():
            why = f"its parts have {source.md5.hexdigest()}"
            raise InvalidRequest(
                "`md5` is not that of the upload", why=why, fix="Send the parts again, in a new upload"
            )
        return sha256

    def _completed(self, connection: sqlite3.Connection, upload: Upload, kept: Kept) -> Upload:
        now, _ = _upload(connection, upload.id, upload.owner, self._clock())
        if now.state == "pending":
            _insert(connection, kept)
            told = "UPDATE uploads SET state = 'completed', file = ? WHERE id = ?"
            connection.execute(told, (kept.id, upload.id))
            connection.execute("DELETE FROM parts WHERE upload = ?", (upload.id,))
        return _upload(connection, upload.id, upload.owner, self._clock())[0]

    def _cancelled(self, connection: sqlite3.Connection, identity: str, owner: str) -> Upload:
        upload, _ = _upload(connection, identity, owner, self._clock())
        if upload.state == "completed":
            raise _over(upload)
        connection.execute("UPDATE uploads SET state = 'cancelled' WHERE id = ?", (identity,))
        connection.execute("DELETE FROM parts WHERE upload = ?", (identity,))
        return _upload(connection, identity, owner, self._clock())[0]


class _Joined:
    """Files one after the other, read as one."""

    def __init__(self, paths: Iterator[Path]) -> None:
        self._paths = paths
        self._file: IO[bytes] | None = None
        self.md5 = hashlib.md5(usedforsecurity=False)

    def read(self, count: int) -> bytes:
        while True:
            data = self._file.read(count) if self._file else b""
            if data:
                self.md5.update(data)
                return data
            if self._file:
                self._file.close()
            path = next(self._paths, None)
            if path is None:
                return b""
            self._file = path.open("rb")


def _shelf(identity: str) -> str:
    return identity[-32:]


def _insert(connection: sqlite3.Connection, kept: Kept) -> None:
    row = tuple(getattr(kept, one.name) for one in fields(Kept))
    connection.execute(f"INSERT INTO files ({COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - ours


def _forget_ended(connection: sqlite3.Connection, owner: str) -> None:
    """Of uploads that are over the latest are remembered: who begins and cancels all day must not fill the index."""
    ended = "SELECT id FROM uploads WHERE owner = ? AND state != 'pending' ORDER BY created DESC LIMIT -1 OFFSET ?"
    connection.execute(f"DELETE FROM uploads WHERE id IN ({ended})", (owner, MOST_UPLOADS))  # noqa: S608 - ours


def _found(connection: sqlite3.Connection, identity: str, owner: str, now: float) -> Kept:
    wanted = f"SELECT {COLUMNS} FROM files WHERE id = ? AND owner = ? AND expires > ?"  # noqa: S608 - ours
    row = connection.execute(wanted, (identity, owner, now)).fetchone()
    if row is None:
        raise unknown("file")
    return Kept(*row)


def _listed(
    connection: sqlite3.Connection,
    owner: str,
    purpose: str | None,
    after: str | None,
    most: int,
    oldest_first: bool,
    now: float,
) -> list[Kept]:
    sign, order = (">", "ASC") if oldest_first else ("<", "DESC")
    wanted = f"""
        SELECT {COLUMNS} FROM files WHERE owner = ? AND (? IS NULL OR purpose = ?) AND expires > ?
        AND (? IS NULL OR place {sign} (SELECT place FROM files WHERE id = ? AND owner = ?)) ORDER BY place {order} LIMIT ?
    """  # noqa: S608 - ours
    rows = connection.execute(wanted, (owner, purpose, purpose, now, after, after, owner, most))
    return [Kept(*row) for row in rows]


def _removed(connection: sqlite3.Connection, identity: str, owner: str, now: float) -> None:
    _found(connection, identity, owner, now)
    connection.execute("DELETE FROM files WHERE id = ?", (identity,))


def _upload(connection: sqlite3.Connection, identity: str, owner: str, now: float) -> tuple[Upload, list[Part]]:
    wanted = f"SELECT {UPLOAD_COLUMNS} FROM uploads WHERE id = ? AND owner = ? AND expires > ?"  # noqa: S608 - ours
    row = connection.execute(wanted, (identity, owner, now)).fetchone()
    if row is None:
        raise unknown("upload")
    parts = connection.execute(f"SELECT {PART_COLUMNS} FROM parts WHERE upload = ? ORDER BY place", (identity,))  # noqa: S608 - ours
    return Upload(*row), [Part(*part) for part in parts]


def _has_part(connection: sqlite3.Connection, upload: str, sha256: str) -> bool:
    wanted = "SELECT 1 FROM parts WHERE upload = ? AND sha256 = ?"
    return connection.execute(wanted, (upload, sha256)).fetchone() is not None


def _expired(connection: sqlite3.Connection, now: float) -> list[str]:
    """Forget what has expired; the shelves on which it lay."""
    gone: list[str] = []
    for table in ("files", "uploads"):
        wanted = f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE expires <= ? LIMIT ?) RETURNING id"  # noqa: S608 - ours
        gone += [identity for (identity,) in connection.execute(wanted, (now, MOST_SWEPT)).fetchall()]
    connection.executemany("DELETE FROM parts WHERE upload = ?", [(identity,) for identity in gone])
    return [_shelf(identity) for identity in gone]


def _is_known(connection: sqlite3.Connection, shelf: str) -> bool:
    wanted = "SELECT 1 FROM files WHERE id = ? UNION ALL SELECT 1 FROM uploads WHERE id = ? AND state = 'pending'"
    return connection.execute(wanted, (f"file-{shelf}", f"upload_{shelf}")).fetchone() is not None


def _in_order(upload: Upload, parts: Sequence[Part], order: Sequence[str]) -> list[Part]:
    by_id = {part.id: part for part in parts}
    for identity in order:
        if identity not in by_id:
            why, fix = (
                f"there is no part {identity[:60]!r}",
                f"`GET /v1/uploads/{upload.id}` tells the parts that there are",
            )
            raise InvalidRequest("`part_ids` names a part that is not here", why=why, fix=fix)
    whole = [by_id[identity] for identity in order]
    size = sum(part.bytes for part in whole)
    if size != upload.bytes:
        why = f"these parts have {size:,} bytes, and it was to have {upload.bytes:,}"
        raise InvalidRequest("The upload is not whole", why=why, fix="Send what is missing, then complete it")
    return whole


def _over(upload: Upload) -> InvalidRequest:
    return InvalidRequest(f"The upload is {upload.state}", fix="Begin another with `POST /v1/uploads`")


def unknown(what: str) -> UnknownFile:
    why, fix = "it expired, was deleted, or is another key's", "Send it again, and use the new id"
    return UnknownFile(f"There is no such {what}", why=why, fix=fix)
