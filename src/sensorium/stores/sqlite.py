"""Files of SQLite, used off the event loop, and a store in one, which outlives the process and is shared by all of this machine."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from sensorium.errors import InvalidConfiguration

P = ParamSpec("P")
T = TypeVar("T")

PRAGMAS = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
"""

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_by_expiry ON answers (expires);
"""

SWEEP_EVERY = 256
"""Writes between two sweeps for values whose time is over, and for those over the limit."""

BUSY_SECONDS = 5.0
"""How long to wait for another process's write; two writers took 79 ms at worst."""


class Database:
    """A file that only its owner may read; opened when it is first needed, and anew when another takes its place.

    SQLite runs in a thread of its own: a write that waits for another process must not hold the event loop.
    Work that fails raises `sqlite3.Error`; a file that cannot be opened, InvalidConfiguration naming `setting`.
    """

    def __init__(self, path: Path, schema: str, setting: str) -> None:
        self.path, self._schema, self._setting = path, schema, setting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sensorium-sqlite")
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self.openings = 0
        """How often the file was opened: what one connection knows, another does not."""

    async def do(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **more: P.kwargs) -> T:
        """What the work returns, given the connection."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: work(self._opened(), *args, **more)
        )

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None or _identity(self.path) != self._file:
            self._close()
            self._connection = _open(self.path, self._schema, self._setting)
            self._file = _identity(self.path)
            self.openings += 1
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class SqliteStore:
    """Keeps at most `max_entries` values."""

    def __init__(self, path: Path, max_entries: int = 100_000, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(path, SCHEMA, "cache_dir")
        self._max_entries, self._clock = max_entries, clock
        self._writes = 0

    async def get(self, key: str) -> bytes | None:
        return await self._database.do(self._get, key)

    async def put(self, key: str, value: bytes, seconds: float) -> None:
        await self._database.do(self._put, key, value, self._clock() + seconds)

    async def delete(self, key: str) -> None:
        await self._database.do(self._delete, key)

    async def close(self) -> None:
        await self._database.close()

    def _get(self, connection: sqlite3.Connection, key: str) -> bytes | None:
        wanted = "SELECT value FROM answers WHERE key = ? AND expires > ?"
        row = connection.execute(wanted, (key, self._clock())).fetchone()
        return bytes(row[0]) if row else None

    def _put(self, connection: sqlite3.Connection, key: str, value: bytes, expires: float) -> None:
        with connection:
            connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, value, expires))
            if self._writes % SWEEP_EVERY == 0:
                self._sweep(connection)
        self._writes += 1

    def _sweep(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM answers WHERE expires <= ?", (self._clock(),))
        soonest_gone = "SELECT key FROM answers ORDER BY expires DESC LIMIT -1 OFFSET ?"
        connection.execute(f"DELETE FROM answers WHERE key IN ({soonest_gone})", (self._max_entries,))  # noqa: S608 - no outside text

    def _delete(self, connection: sqlite3.Connection, key: str) -> None:
        with connection:
            connection.execute("DELETE FROM answers WHERE key = ?", (key,))


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has the name now."""
    try:
        found = os.stat(path)  # noqa: PTH116 - at every use: a Path costs more than the call
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open(path: Path, schema: str, setting: str) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
        _set_up(connection, PRAGMAS + schema)
    except (OSError, sqlite3.Error) as error:
        raise InvalidConfiguration(
            f"Cannot open the store {path}", why=str(error), fix=f"Choose another `{setting}`"
        ) from error
    return connection


def _set_up(connection: sqlite3.Connection, script: str) -> None:
    """While others change a new file to WAL, SQLite says at once that it is locked, however long it was told to wait."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.executescript(script)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return
