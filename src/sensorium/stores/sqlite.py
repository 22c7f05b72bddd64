"""A store in one SQLite file, which outlives the process and is shared by all of this machine."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sensorium.errors import InvalidConfiguration

T = TypeVar("T")

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_by_expiry ON answers (expires);
"""

SWEEP_EVERY = 256
"""Writes between two sweeps for values whose time is over, and for those over the limit."""

BUSY_SECONDS = 5.0
"""How long to wait for another process's write; two writers took 79 ms at worst."""


class SqliteStore:
    """Keeps at most `max_entries` values in a file that only its owner may read.

    SQLite runs in a thread of its own: a write that waits for another process must not hold the event loop.
    """

    def __init__(self, path: Path, max_entries: int = 100_000, clock: Callable[[], float] = time.time) -> None:
        self._path, self._max_entries, self._clock = path, max_entries, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sensorium-sqlite")
        self._connection: sqlite3.Connection | None = None
        self._writes = 0

    async def get(self, key: str) -> bytes | None:
        return await self._in_thread(self._get, key)

    async def put(self, key: str, value: bytes, seconds: float) -> None:
        await self._in_thread(self._put, key, value, self._clock() + seconds)

    async def delete(self, key: str) -> None:
        await self._in_thread(self._delete, key)

    async def close(self) -> None:
        await self._in_thread(self._close)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = _open(self._path)
        return self._connection

    def _get(self, key: str) -> bytes | None:
        wanted = "SELECT value FROM answers WHERE key = ? AND expires > ?"
        row = self._opened().execute(wanted, (key, self._clock())).fetchone()
        return bytes(row[0]) if row else None

    def _put(self, key: str, value: bytes, expires: float) -> None:
        with self._opened() as connection:
            connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, value, expires))
            if self._writes % SWEEP_EVERY == 0:
                self._sweep(connection)
        self._writes += 1

    def _sweep(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM answers WHERE expires <= ?", (self._clock(),))
        soonest_gone = "SELECT key FROM answers ORDER BY expires DESC LIMIT -1 OFFSET ?"
        connection.execute(f"DELETE FROM answers WHERE key IN ({soonest_gone})", (self._max_entries,))  # noqa: S608 - no outside text

    def _delete(self, key: str) -> None:
        with self._opened() as connection:
            connection.execute("DELETE FROM answers WHERE key = ?", (key,))

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
        connection.executescript(SCHEMA)
    except (OSError, sqlite3.Error) as error:
        raise InvalidConfiguration(
            f"Cannot open the store {path}", why=str(error), fix="Choose another `cache_dir`"
        ) from error
    return connection
