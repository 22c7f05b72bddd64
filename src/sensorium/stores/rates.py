"""Counts requests, so that no caller gets more in a minute than is allowed."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from sensorium.errors import InvalidConfiguration
from sensorium.stores.sqlite import Database

WINDOW_SECONDS = 60.0

TOLERANCE_SECONDS = 1e-6
"""Sums of many small numbers are not exact."""

MOST_NAMES = 10_000
"""Names whose counts are kept before those that stand at nothing are forgotten."""

SWEEP_EVERY = 1024
"""Requests between two such sweeps of the file."""

SCHEMA = "CREATE TABLE IF NOT EXISTS rates (name TEXT PRIMARY KEY, paid REAL NOT NULL) WITHOUT ROWID;"

log = logging.getLogger("sensorium.rates")


class Standing(NamedTuple):
    """How far a caller's minute is used up."""

    limit: int
    """Requests a minute."""
    left: int
    """Of them, those that may be sent at once."""
    reset_seconds: float
    """After how long without a request all may."""


class Rates(Protocol):
    """A bucket for each name: it holds a minute's requests, and fills again evenly."""

    async def take(self, name: str, per_minute: int) -> float:
        """Take one request: 0 when there was one, else the seconds until there will be."""

    async def standing(self, name: str, per_minute: int) -> Standing:
        """How much is left; takes nothing."""

    async def close(self) -> None:
        """Give files and threads back."""


class MemoryRates:
    """Counts of this process alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paid: dict[str, float] = {}

    async def take(self, name: str, per_minute: int) -> float:
        now = self._clock()
        paid, after = taken(self._paid.get(name, now), now, per_minute)
        self._paid[name] = paid
        if len(self._paid) > MOST_NAMES:
            self._paid = {known: until for known, until in self._paid.items() if until > now}
        return after

    async def standing(self, name: str, per_minute: int) -> Standing:
        now = self._clock()
        return left(self._paid.get(name, now), now, per_minute)

    async def close(self) -> None:
        self._paid.clear()


class SqliteRates:
    """Counts that all processes of this machine share. Where the file fails, each counts for itself."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(path, SCHEMA, "cache_dir")
        self._clock = clock
        self._alone = MemoryRates()
        self._takes = 0

    async def take(self, name: str, per_minute: int) -> float:
        try:
            return await self._database.do(self._take, name, per_minute)
        except (sqlite3.Error, InvalidConfiguration) as error:
            log.warning("%s cannot be used (%s): rates are counted by each process alone", self._database.path, error)
            return await self._alone.take(name, per_minute)

    async def standing(self, name: str, per_minute: int) -> Standing:
        try:
            return await self._database.do(self._standing, name, per_minute)
        except (sqlite3.Error, InvalidConfiguration):  # as `take` has said
            return await self._alone.standing(name, per_minute)

    async def close(self) -> None:
        await self._database.close()

    def _take(self, connection: sqlite3.Connection, name: str, per_minute: int) -> float:
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # else two could read the same count
            now = self._clock()
            row = connection.execute("SELECT paid FROM rates WHERE name = ?", (name,)).fetchone()
            paid, after = taken(row[0] if row else now, now, per_minute)
            if not after:
                connection.execute("INSERT OR REPLACE INTO rates VALUES (?, ?)", (name, paid))
            if self._takes % SWEEP_EVERY == 0:
                connection.execute("DELETE FROM rates WHERE paid < ?", (now,))
        self._takes += 1
        return after

    def _standing(self, connection: sqlite3.Connection, name: str, per_minute: int) -> Standing:
        now = self._clock()
        row = connection.execute("SELECT paid FROM rates WHERE name = ?", (name,)).fetchone()
        return left(row[0] if row else now, now, per_minute)


def taken(paid: float, now: float, per_minute: int) -> tuple[float, float]:
    """Until when requests are paid for, after one more; and how many seconds too early that one is, or 0.

    A bucket as one number: each request pays for its share of the minute, and nobody pays for more than a minute ahead.
    """
    begins = min(max(paid, now), now + WINDOW_SECONDS)  # a clock that was set back must lock nobody out for longer
    early = begins + WINDOW_SECONDS / per_minute - now - WINDOW_SECONDS
    return (begins, early) if early > TOLERANCE_SECONDS else (begins + WINDOW_SECONDS / per_minute, 0.0)


def left(paid: float, now: float, per_minute: int) -> Standing:
    """What is left of the bucket, of which is paid for until then."""
    ahead = min(max(paid - now, 0.0), WINDOW_SECONDS)
    share = WINDOW_SECONDS / per_minute
    return Standing(per_minute, int((WINDOW_SECONDS - ahead + TOLERANCE_SECONDS) / share), ahead)
