"""A log of events in a file that several processes share: each writes its own streams, and reads those of all.

A stream is first kept in the memory of the process that writes it, where its readers find it. What is new is written to
the file for the others some times a second, all streams in one transaction. Where that fails, it goes on in memory.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate
from pathlib import Path
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from sensorium.errors import InvalidConfiguration, StreamGone, Unavailable
from sensorium.stores.events import (
    ASK_AGAIN,
    AT_ONCE,
    KEPT_SECONDS,
    MOST_BYTES,
    MOST_BYTES_OF_ONE,
    MOST_READERS,
    MemoryLog,
    Reader,
    Stream,
    expired,
    never_told,
    too_many,
    trimmed,
    unknown,
)
from sensorium.stores.sqlite import Database
from sensorium.telemetry import TELEMETRY

P = ParamSpec("P")
T = TypeVar("T")

FILE = "events.sqlite"

WRITE_SECONDS = 0.05
"""How old an event may be before it is written."""

LOOK_SECONDS = 0.1
"""How often a reader looks whether another process has written more."""

LAG_SECONDS = 1.0
"""How long a reader from another process waits for what its client has seen to appear in the file."""

SIGN_SECONDS = 1.0
"""How often writers and readers give a sign of life."""

LOST_SECONDS = 10.0
"""A writer that gave none for so long is dead, and its streams are lost."""

HERE_SECONDS = 3.0
"""A reader that gave none for so long has left."""

SWEEP_SECONDS = 5.0
"""Between two sweeps for what is old."""

REMEMBERED_SECONDS = 3600.0
"""For how long it is known of a stream that it was there."""

MOST_BYTES_OF_FILE = 256 * 2**20
"""Of all events in the file."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS streams (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, writer TEXT NOT NULL, last INTEGER NOT NULL, bytes INTEGER NOT NULL,
    ended REAL, lost INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS streams_by_end ON streams (ended);
CREATE TABLE IF NOT EXISTS pieces (
    stream TEXT NOT NULL, last INTEGER NOT NULL, first INTEGER NOT NULL, ends BLOB NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (stream, last)
);
CREATE TABLE IF NOT EXISTS writers (id TEXT PRIMARY KEY, seen REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dropped (stream TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS readers (
    stream TEXT NOT NULL, id TEXT NOT NULL, position INTEGER NOT NULL, seen REAL NOT NULL, PRIMARY KEY (stream, id)
) WITHOUT ROWID;
"""

log = logging.getLogger("sensorium.events")


class Piece(NamedTuple):
    """What a stream has told since it was last written."""

    stream: str
    owner: str
    first: int
    last: int
    ends: bytes
    """Where each event ends in the data: unsigned integers of 32 bits."""
    data: bytes
    oldest: int
    """The oldest event that is still kept."""
    size: int
    ended: bool
    dropped: bool


class Found(NamedTuple):
    """What the file has for a reader."""

    owner: str
    last: int
    over: bool
    """Whether there will be no more."""
    lost: bool
    """Whether that is so because its writer died."""
    first: int
    """The number of the first event in the data; 0: there is none."""
    data: bytes
    at: int
    """The number of the last event in the data."""


class SqliteLog:
    """Streams of all processes that share the file."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MOST_BYTES,
        stream_bytes: int = MOST_BYTES_OF_ONE,
        kept_seconds: float = KEPT_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = Database(path, SCHEMA, "cache_dir")
        self._here = MemoryLog(
            max_bytes=max_bytes, stream_bytes=stream_bytes, kept_seconds=kept_seconds, changed=self._note
        )
        self._kept_seconds, self._clock = kept_seconds, clock
        self._name = secrets.token_hex(8)
        self._changed: dict[str, Stream] = {}
        self._written: dict[str, int] = {}
        self._signs: dict[tuple[str, str], int] = {}
        self._readers: Counter[str] = Counter()
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False
        self._swept = 0.0

    def open(self, owner: str) -> Stream:
        return self._here.open(owner)

    async def reader(self, identity: str, owner: str, after: int) -> Reader:
        if self._here.find(identity) is not None:
            return await self._here.reader(identity, owner, after)
        found = await self._found(identity, owner, after)
        if after > found.last:
            raise never_told(found.last)
        _refuse_gap(found, after)
        if self._readers[identity] >= MOST_READERS:
            raise too_many()
        self._readers[identity] += 1
        return _There(self, identity, after, found.over and after == found.last and not found.lost)

    async def drop(self, identity: str, owner: str) -> None:
        if (stream := self._here.find(identity)) is not None:
            await self._here.drop(identity, owner)
            if not stream.ended:  # what becomes of it will be written
                return
        else:
            await self._found(identity, owner, 0)
        await self._kept_by(_drop, identity, self._clock())

    async def _found(self, identity: str, owner: str, after: int) -> Found:
        """What the file has for its owner, who may know of events that are yet to be written. Raises UnknownStream."""
        end = time.monotonic() + LAG_SECONDS
        while True:
            found = await self.look(identity, after)
            behind = found is None or after > found.last
            if not behind or (found is not None and found.over) or time.monotonic() >= end:
                break
            await asyncio.sleep(LOOK_SECONDS)
        if found is None or found.owner != owner:
            raise unknown()
        return found

    async def read_elsewhere(self, identity: str) -> int | None:
        try:
            position: int | None = await self._database.do(_position, identity, self._clock() - HERE_SECONDS)
        except (sqlite3.Error, InvalidConfiguration):
            return None  # it is told of where it is written
        return position

    async def close(self) -> None:
        """Write what is left, and give file and thread back."""
        for _ in range(2):  # with the write that is under way, or the next
            if self._writing is None and self._changed:
                self._write_soon()
            if self._writing is not None:
                await asyncio.wait([self._writing])
        if self._timer is not None:
            self._timer.cancel()
        await self._here.close()
        await self._database.close()

    async def look(self, identity: str, after: int) -> Found | None:
        """What the file has of a stream after an event; None: there is no such stream. Raises Unavailable."""
        return await self._kept_by(_find, identity, after, self._clock() - LOST_SECONDS)

    async def _kept_by(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **more: P.kwargs
    ) -> T:
        """What the work returns, given the file. Raises Unavailable."""
        try:
            return await self._database.do(work, *args, **more)
        except (sqlite3.Error, InvalidConfiguration) as error:
            log.error("Events cannot be read from %s: %s", self._database.path, error)  # noqa: TRY400 - a sentence
            raise Unavailable("The stream cannot be read", fix="Tell the operator of this server") from error

    def left(self, identity: str) -> None:
        """A reader has left; the writer takes its silence for it."""
        self._readers[identity] -= 1
        if self._readers[identity] <= 0:
            del self._readers[identity]

    def sign(self, identity: str, reader: str, position: int) -> None:
        """Have a stream's writer know that it is read here."""
        self._signs[identity, reader] = position
        self._write_later(WRITE_SECONDS)

    def _note(self, stream: Stream) -> None:
        self._changed[stream.id] = stream
        if self._timer is None:
            self._write_later(WRITE_SECONDS)

    def _write_later(self, seconds: float) -> None:
        if self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._write_soon)

    def _write_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        changed, self._changed = self._changed, {}
        signs, self._signs = self._signs, {}
        pieces = [self._piece(stream) for stream in changed.values()]
        try:
            unwanted = await self._database.do(self._commit, pieces, signs)
        except (sqlite3.Error, InvalidConfiguration, OSError) as error:
            self._changed = {**changed, **self._changed}
            self._fail(error)
        else:
            self._failing = False
            self._take_as_written(pieces)
            for stream in filter(None, map(self._here.find, unwanted)):
                self._here.let_go(stream)
        finally:
            self._writing = None
            if self._changed or self._signs:
                self._write_later(SIGN_SECONDS if self._failing else WRITE_SECONDS)
            elif self._here.live:
                self._write_later(SIGN_SECONDS)

    def _piece(self, stream: Stream) -> Piece:
        events = stream.after(self._written.get(stream.id, 0))
        ends = array("I", accumulate(map(len, events))).tobytes()
        first = stream.last - len(events) + 1
        size = stream.size
        data, ended, dropped = b"".join(events), stream.ended, stream.dropped
        return Piece(stream.id, stream.owner, first, stream.last, ends, data, stream.first, size, ended, dropped)

    def _take_as_written(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            if piece.ended:
                self._written.pop(piece.stream, None)
                self._here.forget(piece.stream)
            else:
                self._written[piece.stream] = piece.last

    def _fail(self, error: Exception) -> None:
        TELEMETRY.stream_errors[()].add()
        if not self._failing:
            log.error("Events cannot be written to %s: %s", self._database.path, error)
        self._failing = True

    def _commit(
        self, connection: sqlite3.Connection, pieces: list[Piece], signs: dict[tuple[str, str], int]
    ) -> list[str]:
        """Which of the streams that are told here were dropped elsewhere."""
        now = self._clock()
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT OR REPLACE INTO writers VALUES (?, ?)", (self._name, now))
            connection.executemany(
                _UPSERT,
                [(one.stream, one.owner, self._name, one.last, one.size, now if one.ended else None) for one in pieces],
            )
            connection.executemany(
                "INSERT INTO pieces VALUES (?, ?, ?, ?, ?)",
                [(one.stream, one.last, one.first, one.ends, one.data) for one in pieces if one.data],
            )
            connection.executemany(
                "DELETE FROM pieces WHERE stream = ? AND last < ?",
                [(one.stream, one.oldest) for one in pieces if one.oldest > 1],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO readers VALUES (?, ?, ?, ?)",
                [(stream, reader, position, now) for (stream, reader), position in signs.items()],
            )
            _empty(connection, [one.stream for one in pieces if one.ended and one.dropped])
            if abs(now - self._swept) >= SWEEP_SECONDS:
                self._swept = now
                _sweep(connection, now, self._kept_seconds)
            return [stream for (stream,) in connection.execute(_UNWANTED, (self._name,))]


_UNWANTED = "SELECT id FROM dropped JOIN streams ON id = stream WHERE writer = ? AND ended IS NULL"


_UPSERT = """
INSERT INTO streams (id, owner, writer, last, bytes, ended) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET last = excluded.last, bytes = excluded.bytes, ended = excluded.ended, lost = 0
"""


class _There:
    """Reads what another process writes, or has written."""

    def __init__(self, shared: SqliteLog, identity: str, after: int, over: bool) -> None:
        self._shared, self._identity, self._at, self._over = shared, identity, after, over
        self._name = secrets.token_hex(8)
        self._signed = 0.0
        self._closed = False

    @property
    def over(self) -> bool:
        return self._over

    async def read(self) -> bytes:
        while not self._over:
            self._sign()
            found = await self._shared.look(self._identity, self._at)
            if found is None:
                raise expired()
            _refuse_gap(found, self._at)
            if found.data:
                self._at = found.at
                self._over = found.over and not found.lost and found.at == found.last
                return found.data
            if found.lost:
                why = "the process that told it has ended"
                raise StreamGone("The stream was cut off", why=why, fix=ASK_AGAIN)
            self._over = found.over
            if not self._over:
                await asyncio.sleep(LOOK_SECONDS)
        return b""

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._shared.left(self._identity)

    def _sign(self) -> None:
        now = time.monotonic()
        if now - self._signed >= SIGN_SECONDS:
            self._signed = now
            self._shared.sign(self._identity, self._name, self._at)


def _refuse_gap(found: Found, after: int) -> None:
    if found.last > after and found.first != after + 1:
        raise trimmed() if found.first else expired()


def _find(connection: sqlite3.Connection, identity: str, after: int, alive_since: float) -> Found | None:
    wanted = """
        SELECT owner, last, ended, lost, coalesce(seen, 0) FROM streams LEFT JOIN writers ON writers.id = writer
        WHERE streams.id = ?
    """
    row = connection.execute(wanted, (identity,)).fetchone()
    if row is None:
        return None
    owner, last, ended, lost, seen = row
    lost = bool(lost) or (ended is None and seen <= alive_since)
    first, data, at = _events(connection, identity, after)
    return Found(owner, last, ended is not None or lost, lost, first, data, at)


def _events(connection: sqlite3.Connection, identity: str, after: int) -> tuple[int, bytes, int]:
    """Numbers of the first and last event after that one, and all of them, joined."""
    wanted = "SELECT first, last, ends, data FROM pieces WHERE stream = ? AND last > ? ORDER BY last LIMIT ?"
    first = at = 0
    told = []
    for start, last, ends, data in connection.execute(wanted, (identity, after, AT_ONCE)):
        if not first:
            known = max(0, after + 1 - start)
            first = start + known
            data = data[array("I", ends)[known - 1] :] if known else data
        elif start != at + 1:
            break
        told.append(data)
        at = last
    return first, b"".join(told), at


def _drop(connection: sqlite3.Connection, identity: str, now: float) -> None:
    """Empty an ended stream; of another, have its writer know."""
    with connection:
        connection.execute("INSERT OR IGNORE INTO dropped VALUES (?, ?)", (identity, now))
        ended = "SELECT id FROM streams WHERE id = ? AND ended IS NOT NULL"
        _empty(connection, [one for (one,) in connection.execute(ended, (identity,)).fetchall()])


def _position(connection: sqlite3.Connection, identity: str, since: float) -> int | None:
    wanted = "SELECT max(position) FROM readers WHERE stream = ? AND seen > ?"
    position: int | None = connection.execute(wanted, (identity, since)).fetchone()[0]
    return position


def _sweep(connection: sqlite3.Connection, now: float, kept_seconds: float) -> None:
    lost = "UPDATE streams SET ended = ?, lost = 1 WHERE ended IS NULL AND writer NOT IN (SELECT id FROM writers WHERE seen > ?)"
    connection.execute(lost, (now, now - LOST_SECONDS))
    old = "SELECT id FROM streams WHERE ended <= ? AND bytes > 0"
    _empty(connection, [identity for (identity,) in connection.execute(old, (now - kept_seconds,))])
    _empty(connection, _too_many(connection))
    connection.execute("DELETE FROM streams WHERE ended <= ?", (now - kept_seconds - REMEMBERED_SECONDS,))
    connection.execute("DELETE FROM dropped WHERE at <= ?", (now - REMEMBERED_SECONDS,))
    connection.execute("DELETE FROM writers WHERE seen <= ?", (now - REMEMBERED_SECONDS,))
    connection.execute("DELETE FROM readers WHERE seen <= ?", (now - HERE_SECONDS,))


def _too_many(connection: sqlite3.Connection) -> list[str]:
    """Streams for which there is no room: those that ended first."""
    (total,) = connection.execute("SELECT total(bytes) FROM streams").fetchone()
    going = []
    if total > MOST_BYTES_OF_FILE:
        for identity, size in connection.execute(
            "SELECT id, bytes FROM streams WHERE bytes > 0 AND ended > 0 ORDER BY ended"
        ):
            going.append(identity)
            total -= size
            if total <= MOST_BYTES_OF_FILE:
                break
    return going


def _empty(connection: sqlite3.Connection, streams: list[str]) -> None:
    """Only that they were there is remembered."""
    connection.executemany("DELETE FROM pieces WHERE stream = ?", [(identity,) for identity in streams])
    connection.executemany("UPDATE streams SET bytes = 0 WHERE id = ?", [(identity,) for identity in streams])
