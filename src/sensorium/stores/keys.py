"""API keys: made by the operator, shown once, and kept so that nobody who reads the file can use them.

A key is written `sk-sensorium-<id>-<secret>`. The id finds it; of the secret, only the SHA-256 is kept: it has
256 random bits, so nothing slower is needed. A key that signs is kept sealed beside it (`sealing.py`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import string
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

from sensorium.engine import Budget, Caller
from sensorium.errors import InvalidRequest
from sensorium.stores.sqlite import Database

PREFIX = "sk-sensorium-"
"""So that people and scanners for leaked secrets know what it is."""

ID_SIGNS, ID_LENGTH = string.ascii_lowercase + string.digits, 12
SECRET_SIGNS, SECRET_LENGTH = string.ascii_letters + string.digits, 43
"""62 ** 43 is over 2 ** 256."""

LONGEST_NAME = 64

FILE = "keys.sqlite"

SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, digest BLOB NOT NULL, sealed BLOB, scopes TEXT NOT NULL,
    requests_per_minute INTEGER, created REAL NOT NULL, expires REAL, revoked REAL
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS keys_in_use ON keys (name) WHERE revoked IS NULL;
CREATE TABLE IF NOT EXISTS budgets (id TEXT PRIMARY KEY, per TEXT NOT NULL, usd REAL, tokens INTEGER) WITHOUT ROWID;
"""
# Budgets came later, and have a table of their own, which a file of an older version gains when it is opened.

Version = tuple[int, int]
"""Differs when anything was changed in between."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key. Times are seconds since 1970."""

    id: str
    name: str
    digest: bytes = field(repr=False)
    scopes: frozenset[str]
    created: float
    requests_per_minute: int | None = None
    expires: float | None = None
    sealed: bytes | None = field(default=None, repr=False)
    """The secret itself, sealed; None for a key that cannot sign."""
    revoked: float | None = None
    budget: Budget | None = None

    @property
    def caller(self) -> Caller:
        """Who sends it."""
        return Caller(self.name, self.scopes, self.requests_per_minute, self.budget)

    def has(self, secret: str) -> bool:
        """Whether it is this key's secret; takes as long when it is not."""
        return hmac.compare_digest(digest_of(secret), self.digest)

    def state(self, now: float) -> str:
        """`good`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "good" if self.expires is None or now < self.expires else "expired"


@dataclass(frozen=True, slots=True)
class Secret:
    """A key's id and secret, before the secret is forgotten."""

    id: str
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> Self:
        return cls(_random(ID_SIGNS, ID_LENGTH), _random(SECRET_SIGNS, SECRET_LENGTH))

    @property
    def text(self) -> str:
        """What the client sends."""
        return f"{PREFIX}{self.id}-{self.secret}"

    @property
    def digest(self) -> bytes:
        """What is kept."""
        return digest_of(self.secret)


class Keys(Protocol):
    """All keys that were ever made."""

    async def every(self) -> list[Key]:
        """All of them, oldest first."""

    async def news(self, since: Version | None) -> tuple[Version, list[Key]] | None:
        """All keys, and their version; None when nothing has changed since that one. Cheap when nothing has."""

    async def add(self, key: Key, *, only_first: bool = False) -> bool:
        """Keep a new key; with `only_first`, and if there is one already, do not, and tell False.

        Raises InvalidRequest when a key in use has the name.
        """

    async def revoke(self, named: str) -> Key:
        """Refuse a key from now on, by its name or id. Raises InvalidRequest when no key in use has it."""

    async def allow(self, named: str, budget: Budget | None) -> Key:
        """Give a key another budget, or none, by its name or id. Raises InvalidRequest when no key in use has it."""

    async def close(self) -> None:
        """Give files and threads back."""


class SqliteKeys:
    """Keys in a file that all processes of this machine share."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(path, SCHEMA, "data_dir")
        self._clock = clock

    async def every(self) -> list[Key]:
        return await self._database.do(_every)

    async def news(self, since: Version | None) -> tuple[Version, list[Key]] | None:
        return await self._database.do(self._news, since)

    async def add(self, key: Key, *, only_first: bool = False) -> bool:
        return await self._database.do(_add, key, only_first)

    async def revoke(self, named: str) -> Key:
        return await self._database.do(_revoke, named, self._clock())

    async def allow(self, named: str, budget: Budget | None) -> Key:
        return await self._database.do(_allow, named, budget)

    async def close(self) -> None:
        await self._database.close()

    def _news(self, connection: sqlite3.Connection, since: Version | None) -> tuple[Version, list[Key]] | None:
        # Asked first: what is written in between is read, and told as news once more.
        (changes,) = connection.execute("PRAGMA data_version").fetchone()
        version = self._database.openings, int(changes)
        return None if version == since else (version, _every(connection))


def parts_of(text: str) -> tuple[str, str]:
    """The id and the secret in what a client sent; empty where it is no key."""
    identity, _, secret = text.removeprefix(PREFIX).partition("-")
    return identity, secret


def digest_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def check_name(name: str) -> None:
    """Raises InvalidRequest for a name that logs, caches and tables could not hold."""
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable() or ":" in name:
        why = f"it must have 1 to {LONGEST_NAME} printable signs, and no colon"
        raise InvalidRequest(f"A key cannot be called {name[:LONGEST_NAME]!r}", why=why)


def _every(connection: sqlite3.Connection) -> list[Key]:
    wanted = (
        "SELECT keys.id, name, digest, scopes, created, requests_per_minute, expires, sealed, revoked, per, usd, tokens"
        " FROM keys LEFT JOIN budgets ON budgets.id = keys.id ORDER BY created, keys.id"
    )
    return [_key(*row) for row in connection.execute(wanted)]


def _key(identity: str, name: str, digest: bytes, scopes: str, *rest: Any) -> Key:
    *more, per, usd, tokens = rest  # in the order of their fields
    budget = Budget(per, usd, tokens) if per else None
    return replace(Key(identity, name, digest, frozenset(json.loads(scopes)), *more), budget=budget)


def _add(connection: sqlite3.Connection, key: Key, only_first: bool) -> bool:
    check_name(key.name)
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if only_first and connection.execute("SELECT 1 FROM keys LIMIT 1").fetchone():
            return False
        over = "UPDATE keys SET revoked = expires WHERE name = ? AND revoked IS NULL AND expires <= ?"
        connection.execute(over, (key.name, key.created))
        try:
            _insert(connection, key)
        except sqlite3.IntegrityError as error:
            fix = f"Choose another, or revoke that one first: `sensorium keys revoke {key.name}`"
            raise InvalidRequest(f"There is a key called {key.name!r} already", fix=fix) from error
    return True


def _insert(connection: sqlite3.Connection, key: Key) -> None:
    scopes = json.dumps(sorted(key.scopes))
    row = (key.id, key.name, key.digest, key.sealed, scopes, key.requests_per_minute, key.created, key.expires)
    connection.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)", row)
    _set_budget(connection, key.id, key.budget)


def _set_budget(connection: sqlite3.Connection, identity: str, budget: Budget | None) -> None:
    connection.execute("DELETE FROM budgets WHERE id = ?", (identity,))
    if budget is not None:
        connection.execute("INSERT INTO budgets VALUES (?, ?, ?, ?)", (identity, budget.per, budget.usd, budget.tokens))


def _revoke(connection: sqlite3.Connection, named: str, now: float) -> Key:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        key = _in_use(connection, named)
        connection.execute("UPDATE keys SET revoked = ? WHERE id = ?", (now, key.id))
    return replace(key, revoked=now)


def _allow(connection: sqlite3.Connection, named: str, budget: Budget | None) -> Key:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        key = _in_use(connection, named)
        _set_budget(connection, key.id, budget)
    return replace(key, budget=budget)


def _in_use(connection: sqlite3.Connection, named: str) -> Key:
    key = next((key for key in _every(connection) if named in (key.name, key.id) and key.revoked is None), None)
    if key is None:
        fix = "`sensorium keys list` shows all"
        raise InvalidRequest(f"No key in use has the name or id {named[:LONGEST_NAME]!r}", fix=fix)
    return key


def _random(signs: str, length: int) -> str:
    return "".join(secrets.choice(signs) for _ in range(length))
