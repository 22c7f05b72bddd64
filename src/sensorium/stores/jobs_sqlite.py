"""Jobs in a file that all processes of a server share.

What is waiting or leased is a row of `items`, which goes when its outcome comes: looking for work costs the same however
much was done. All who write at the same time share a transaction, so that hundreds of jobs a second are few writes.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from sensorium.errors import InvalidConfiguration, SensoriumError
from sensorium.schemas.jobs import JobState, OutcomeState
from sensorium.stores.files import storage_failed
from sensorium.stores.jobs import (
    LARGEST_PAGE,
    LONGEST_REST,
    LONGEST_SILENCE,
    MOST_OPEN,
    REMEMBERED_SECONDS,
    UNBOUNDED,
    Called,
    Counts,
    Item,
    Job,
    Outcome,
    Settled,
    Submission,
    conflict,
    dead,
    full,
    gone,
    pause_after,
    too_many,
    unknown,
)
from sensorium.stores.sqlite import Database
from sensorium.telemetry import TELEMETRY, Telemetry

FILE = "jobs.sqlite"

MOST_AT_ONCE = 256
"""Writes that share a transaction: others wait for it."""

MOST_FORGOTTEN = 50
"""Jobs that are forgotten in one transaction."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, task TEXT NOT NULL, state TEXT NOT NULL,
    priority INTEGER NOT NULL, total INTEGER NOT NULL, done INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0, dead INTEGER NOT NULL DEFAULT 0, number INTEGER NOT NULL DEFAULT 1,
    began INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL, started REAL, ended REAL, expires REAL, webhook TEXT,
    calls INTEGER NOT NULL DEFAULT 0, fault TEXT NOT NULL DEFAULT '', attend_at REAL,
    inputs INTEGER NOT NULL, key TEXT, digest TEXT NOT NULL, gone INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_key ON jobs (owner, key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, place) WHERE NOT gone;
CREATE INDEX IF NOT EXISTS jobs_open ON jobs (owner, ended) WHERE ended IS NULL;
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state) WHERE state IN ('waiting', 'running');
CREATE INDEX IF NOT EXISTS jobs_unattended ON jobs (attend_at) WHERE ended IS NOT NULL AND attend_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_by_expiry ON jobs (gone, expires) WHERE expires IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_with_inputs ON jobs (owner, inputs) WHERE inputs > 0;
CREATE TABLE IF NOT EXISTS items (
    job INTEGER NOT NULL, place INTEGER NOT NULL, owner TEXT NOT NULL, priority INTEGER NOT NULL, request BLOB NOT NULL,
    due REAL NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, deaths INTEGER NOT NULL DEFAULT 0,
    worker TEXT, until REAL, PRIMARY KEY (job, place)
);
CREATE INDEX IF NOT EXISTS items_in_line ON items (owner, priority DESC, job, place) WHERE worker IS NULL AND deaths = 0;
CREATE INDEX IF NOT EXISTS items_suspect ON items (due) WHERE worker IS NULL AND deaths > 0;
CREATE INDEX IF NOT EXISTS items_leased ON items (until) WHERE worker IS NOT NULL;
CREATE INDEX IF NOT EXISTS items_by_worker ON items (worker) WHERE worker IS NOT NULL;
CREATE TABLE IF NOT EXISTS outcomes (
    job INTEGER NOT NULL, place INTEGER NOT NULL, number INTEGER NOT NULL, state TEXT NOT NULL, outcome BLOB NOT NULL,
    PRIMARY KEY (job, place)
);
CREATE UNIQUE INDEX IF NOT EXISTS outcomes_by_number ON outcomes (job, number);
"""

FIELDS = tuple(one.name for one in fields(Job))
COLUMNS = ", ".join(FIELDS)
ITEM = "jobs.id, items.place, items.request, items.tries, items.deaths, items.job"
ITEMS = f"SELECT {ITEM} FROM items JOIN jobs ON jobs.place = items.job"  # noqa: S608 - no outside text
DUE = "(due <= ? OR due > ?)"
CUT = "UPDATE items SET until = ? WHERE worker IS NOT NULL AND until > ?"
AGAIN = """
UPDATE items SET worker = NULL, until = NULL, tries = tries + 1, due = ? WHERE worker = ? AND job = ? AND place = ?
"""

P = ParamSpec("P")
T = TypeVar("T")


class _Asked(NamedTuple):
    """A write that somebody waits for."""

    work: Callable[[sqlite3.Connection], Any]
    answer: asyncio.Future[Any]


class SqliteJobs:
    """Keeps a job for `kept_seconds` after its end; gives an item up after `attempts` deaths of its workers; takes no more
    from an owner of whose jobs `most_open` have not ended."""

    def __init__(
        self,
        path: Path,
        *,
        kept_seconds: float = 86400.0,
        attempts: int = 3,
        most_open: int = MOST_OPEN,
        quota: int = UNBOUNDED,
        clock: Callable[[], float] = time.time,
        telemetry: Telemetry = TELEMETRY,
    ) -> None:
        self._database = Database(path, SCHEMA, "data_dir")
        self._kept_seconds, self._attempts, self._clock = kept_seconds, attempts, clock
        self._most_open, self._quota, self._telemetry = most_open, quota, telemetry
        self._asked: list[_Asked] = []
        self._writing: asyncio.Task[None] | None = None
        self._ended: list[tuple[str, JobState, float]] = []

    async def submit(self, submission: Submission) -> Job:
        return await self._write(self._submit, submission)

    async def find(self, identity: str, owner: str) -> Job:
        return await self._read(_found, identity, owner, self._clock())

    async def listed(self, owner: str, state: JobState | None, before: str | None, most: int) -> list[Job]:
        return await self._read(_listed, owner, state, before, most, self._clock())

    async def outcomes(self, identity: str, after: int, most: int) -> list[Outcome]:
        return await self._read(_outcomes, identity, after, most)

    async def cancel(self, identity: str, owner: str) -> Job:
        return await self._write(self._cancel, identity, owner)

    async def claim(self, worker: str, most: int, seconds: float, *, idle: bool) -> list[Item]:
        return await self._write(self._claim, worker, most, seconds, idle)

    async def renew(self, worker: str, seconds: float) -> set[tuple[str, int]]:
        return await self._write(self._renew, worker, seconds)

    async def settle(self, worker: str, settled: Sequence[Settled]) -> None:
        await self._write(self._settle, worker, settled)

    async def give_back(self, worker: str) -> None:
        await self._write(_give_back, worker)

    async def lost(self, worker: str) -> None:
        await self._write(self._lost, worker)

    async def unattended(self, most: int, seconds: float, without: Collection[str] = ()) -> list[Job]:
        # Mostly there is none, which costs no write to see.
        if not await self._read(_unattended, 1, self._clock(), without):
            return []
        return await self._write(self._unattended, most, seconds, without)

    async def attended(self, identity: str, called: Called | None = None, *, emptied: bool = False) -> None:
        await self._write(self._attended, identity, called, emptied)

    async def forget_old(self) -> list[str]:
        return await self._write(self._forget_old)

    async def unknown(self, identities: Collection[str]) -> set[str]:
        return await self._read(_unknown, identities)

    async def counts(self) -> Counts:
        return await self._read(_counts)

    async def close(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._database.close()

    async def _read(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **more: P.kwargs) -> T:
        try:
            return await self._database.do(work, *args, **more)
        except (sqlite3.Error, InvalidConfiguration) as error:
            raise storage_failed("Jobs cannot be read", error) from error

    async def _write(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **more: P.kwargs) -> T:
        """What the work returns, once it is kept."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asked.append(_Asked(lambda connection: work(connection, *args, **more), answer))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        return await answer

    async def _write_all(self) -> None:
        while self._asked:
            now, self._asked = self._asked[:MOST_AT_ONCE], self._asked[MOST_AT_ONCE:]
            answers = await self._written([one.work for one in now])
            for one, answer in zip(now, answers, strict=True):
                if one.answer.done():  # who asked has left
                    continue
                if isinstance(answer, Exception):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)
        self._writing = None

    async def _written(self, works: Sequence[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
        """What each returned, or raised."""
        try:
            return await self._database.do(self._together, works)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            known = isinstance(error, (sqlite3.Error, InvalidConfiguration, OSError))
            told = storage_failed("The job cannot be kept", error) if known else error
            return [told] * len(works)

    def _together(
        self, connection: sqlite3.Connection, works: Sequence[Callable[[sqlite3.Connection], Any]]
    ) -> list[Any]:
        self._ended.clear()
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            answers = [_attempt(work, connection) for work in works]
        for task, state, seconds in self._ended:
            self._telemetry.jobs_finished[task, state].add()
            self._telemetry.job_seconds[task].observe(seconds)
        return answers

    def _submit(self, connection: sqlite3.Connection, new: Submission) -> Job:
        if new.key is not None and (known := _by_key(connection, new)) is not None:
            return known
        if _open(connection, new.owner) >= self._most_open:
            raise too_many(self._most_open)
        if new.inputs and _aside(connection, new.owner) + new.inputs > self._quota:
            raise full(self._quota)
        attend_at = 0.0 if new.inputs or new.webhook else None
        cursor = connection.execute(
            "INSERT INTO jobs (id, owner, task, state, priority, total, created, webhook, inputs, key, digest, attend_at) "
            "VALUES (?, ?, ?, 'waiting', ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(new.id, new.owner, new.task, new.priority, len(new.orders), self._clock()),
                *(new.webhook, new.inputs, new.key, new.digest, attend_at),
            ),
        )
        job = cursor.lastrowid
        connection.executemany(
            "INSERT INTO items (job, place, owner, priority, request) VALUES (?, ?, ?, ?, ?)",
            ((job, place, new.owner, new.priority, order) for place, order in enumerate(new.orders)),
        )
        for place, outcome in new.outcomes.items():
            self._keep(connection, int(job or 0), place, "failed", outcome)
        return _job(connection, new.id)

    def _cancel(self, connection: sqlite3.Connection, identity: str, owner: str) -> Job:
        job = _found(connection, identity, owner, self._clock())
        if not job.over:
            self._end(connection, _place(connection, identity), "cancelled")
        return _job(connection, identity)

    def _claim(self, connection: sqlite3.Connection, worker: str, most: int, seconds: float, idle: bool) -> list[Item]:
        now = self._clock()
        connection.execute(CUT, (now + seconds, now + seconds))
        self._collect(connection, "until <= ?", now)
        suspect = connection.execute(
            f"{ITEMS} WHERE worker IS NULL AND deaths > 0 AND {DUE} ORDER BY due LIMIT 1", (now, now + LONGEST_REST)
        ).fetchone()
        if suspect:
            return self._leased(connection, [suspect] if idle else [], worker, now + seconds)
        return self._leased(connection, _in_line(connection, most, now), worker, now + seconds)

    def _leased(
        self, connection: sqlite3.Connection, rows: Collection[tuple[Any, ...]], worker: str, until: float
    ) -> list[Item]:
        connection.executemany(
            "UPDATE items SET worker = ?, until = ? WHERE job = ? AND place = ?",
            [(worker, until, job, place) for _, place, *_, job in rows],
        )
        for job in {row[-1] for row in rows}:
            connection.execute(
                "UPDATE jobs SET state = 'running', started = ?, number = number + 1, began = number + 1 "
                "WHERE place = ? AND state = 'waiting'",
                (self._clock(), job),
            )
        return [Item(*row[:-1]) for row in rows]

    def _renew(self, connection: sqlite3.Connection, worker: str, seconds: float) -> set[tuple[str, int]]:
        connection.execute("UPDATE items SET until = ? WHERE worker = ?", (self._clock() + seconds, worker))
        held = "SELECT jobs.id, items.place FROM items JOIN jobs ON jobs.place = items.job WHERE worker = ?"
        return set(connection.execute(held, (worker,)))

    def _settle(self, connection: sqlite3.Connection, worker: str, settled: Iterable[Settled]) -> None:
        for one in settled:
            job = _place(connection, one.job)
            if one.state is not None:  # the first outcome counts, whoever brings it
                self._keep(connection, job, one.place, one.state, one.outcome)
            else:
                connection.execute(AGAIN, (self._clock() + one.after, worker, job, one.place))

    def _keep(self, connection: sqlite3.Connection, job: int, place: int, state: OutcomeState, outcome: bytes) -> None:
        """The first outcome of an item counts; one without a row has an outcome, or its job has ended."""
        if not connection.execute("DELETE FROM items WHERE job = ? AND place = ?", (job, place)).rowcount:
            return
        (number, left) = connection.execute(
            f"UPDATE jobs SET number = number + 1, {state} = {state} + 1 WHERE place = ? "  # noqa: S608 - one of three
            "RETURNING number, total - done - failed - dead",
            (job,),
        ).fetchone()
        connection.execute(
            "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", (job, place, number, state, outcome)
        )
        if not left:
            (done,) = connection.execute("SELECT done FROM jobs WHERE place = ?", (job,)).fetchone()
            self._end(connection, job, "done" if done else "failed")

    def _end(self, connection: sqlite3.Connection, job: int, state: JobState) -> None:
        now = self._clock()
        connection.execute("DELETE FROM items WHERE job = ?", (job,))
        (task, created) = connection.execute(
            "UPDATE jobs SET state = ?, ended = ?, expires = ?, number = number + 1 WHERE place = ? "
            "RETURNING task, created",
            (state, now, now + self._kept_seconds, job),
        ).fetchone()
        self._ended.append((task, state, now - created))

    def _unattended(
        self, connection: sqlite3.Connection, most: int, seconds: float, without: Collection[str]
    ) -> list[Job]:
        jobs = _unattended(connection, most, self._clock(), without)
        until = self._clock() + seconds
        connection.executemany("UPDATE jobs SET attend_at = ? WHERE id = ?", [(until, job.id) for job in jobs])
        return jobs

    def _attended(self, connection: sqlite3.Connection, identity: str, called: Called | None, emptied: bool) -> None:
        after = called.after if called else None
        attend_at = None if after is None else self._clock() + after
        connection.execute("UPDATE jobs SET attend_at = ? WHERE id = ?", (attend_at, identity))
        if emptied:
            connection.execute("UPDATE jobs SET inputs = 0 WHERE id = ?", (identity,))
        if called:
            told = "UPDATE jobs SET calls = calls + 1, fault = ? WHERE id = ?"
            connection.execute(told, (called.fault, identity))

    def _lost(self, connection: sqlite3.Connection, worker: str) -> None:
        self._collect(connection, "worker = ?", worker)

    def _collect(self, connection: sqlite3.Connection, which: str, value: object) -> None:
        """Take leased items back whose worker died with them."""
        wanted = f"SELECT job, place, deaths + 1, request FROM items WHERE worker IS NOT NULL AND {which}"  # noqa: S608 - ours
        for job, place, deaths, order in connection.execute(wanted, (value,)).fetchall():
            if deaths >= self._attempts:
                self._keep(connection, job, place, "dead", dead(order, deaths))
            else:
                connection.execute(
                    "UPDATE items SET worker = NULL, until = NULL, deaths = ?, due = ? WHERE job = ? AND place = ?",
                    (deaths, self._clock() + pause_after(deaths), job, place),
                )

    def _forget_old(self, connection: sqlite3.Connection) -> list[str]:
        now = self._clock()
        old = "SELECT place, id FROM jobs WHERE gone = 0 AND expires <= ? LIMIT ?"
        going = connection.execute(old, (now, MOST_FORGOTTEN)).fetchall()
        connection.executemany("DELETE FROM outcomes WHERE job = ?", [(place,) for place, _ in going])
        connection.executemany(
            "UPDATE jobs SET gone = 1, attend_at = NULL, key = NULL, webhook = NULL, inputs = 0 WHERE place = ?",
            [(place,) for place, _ in going],
        )
        connection.execute("DELETE FROM jobs WHERE gone = 1 AND expires <= ?", (now - REMEMBERED_SECONDS,))
        return [identity for _, identity in going]


def _attempt(work: Callable[[sqlite3.Connection], Any], connection: sqlite3.Connection) -> Any:
    """One of several in a transaction: what is refused before anything was written spoils none of the others."""
    try:
        return work(connection)
    except SensoriumError as error:
        return error


def _by_key(connection: sqlite3.Connection, new: Submission) -> Job | None:
    row = connection.execute("SELECT id, digest FROM jobs WHERE owner = ? AND key = ?", (new.owner, new.key)).fetchone()
    if row is None:
        return None
    if row[1] != new.digest:
        raise conflict()
    return _job(connection, row[0])


def _open(connection: sqlite3.Connection, owner: str) -> int:
    """How many of the owner's jobs have not ended; read from the index alone."""
    wanted = "SELECT count(*) FROM jobs WHERE owner = ? AND ended IS NULL"
    (count,) = connection.execute(wanted, (owner,)).fetchone()
    return int(count)


def _in_line(connection: sqlite3.Connection, most: int, now: float) -> list[tuple[Any, ...]]:
    """The next items, an equal part of each owner who waits: who sends a thousand delays another by few."""
    owners = _waiting_owners(connection)
    random.shuffle(owners)
    lines = [_line(connection, owner, most, now) for owner in owners[:most]]
    taken: list[tuple[Any, ...]] = []
    for turn in range(most):
        taken += [line[turn] for line in lines if turn < len(line)]
    return taken[:most]


def _line(connection: sqlite3.Connection, owner: str, most: int, now: float) -> list[tuple[Any, ...]]:
    wanted = f"""
        {ITEMS} WHERE items.worker IS NULL AND items.deaths = 0 AND items.owner = ? AND {DUE}
        ORDER BY items.priority DESC, items.job, items.place LIMIT ?
    """
    return connection.execute(wanted, (owner, now, now + LONGEST_REST, most)).fetchall()


def _waiting_owners(connection: sqlite3.Connection) -> list[str]:
    """From one name in the index to the next: a scan would look at every item."""
    step = "SELECT min(owner) FROM items WHERE worker IS NULL AND deaths = 0 AND owner > ?"
    owners, last = [], ""
    while (last := connection.execute(step, (last,)).fetchone()[0]) is not None:
        owners.append(last)
    return owners


def _give_back(connection: sqlite3.Connection, worker: str) -> None:
    connection.execute("UPDATE items SET worker = NULL, until = NULL WHERE worker = ?", (worker,))


def _place(connection: sqlite3.Connection, identity: str) -> int:
    row = connection.execute("SELECT place FROM jobs WHERE id = ?", (identity,)).fetchone()
    return int(row[0]) if row else 0


def _job(connection: sqlite3.Connection, identity: str) -> Job:
    return _read_job(connection.execute(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (identity,)).fetchone())  # noqa: S608 - ours


def _read_job(row: tuple[Any, ...]) -> Job:
    return Job(**dict(zip(FIELDS, row, strict=True)))


def _found(connection: sqlite3.Connection, identity: str, owner: str, now: float) -> Job:
    row = connection.execute("SELECT owner, expires FROM jobs WHERE id = ?", (identity,)).fetchone()
    if row is None or row[0] != owner:
        raise unknown()
    if row[1] is not None and row[1] <= now:
        raise gone()
    return _job(connection, identity)


def _listed(
    connection: sqlite3.Connection, owner: str, state: JobState | None, before: str | None, most: int, now: float
) -> list[Job]:
    wanted = f"""
        SELECT {COLUMNS} FROM jobs WHERE owner = ? AND NOT gone AND (? IS NULL OR state = ?)
        AND (expires IS NULL OR expires > ?)
        AND (? IS NULL OR place < (SELECT place FROM jobs WHERE id = ? AND owner = ?)) ORDER BY place DESC LIMIT ?
    """  # noqa: S608 - ours
    rows = connection.execute(wanted, (owner, state, state, now, before, before, owner, most))
    return [_read_job(row) for row in rows]


def _outcomes(connection: sqlite3.Connection, identity: str, after: int, most: int) -> list[Outcome]:
    wanted = """
        SELECT place, number, state, outcome FROM outcomes WHERE job = (SELECT place FROM jobs WHERE id = ?)
        AND number > ? ORDER BY number LIMIT ?
    """
    told, size = [], 0
    for row in connection.execute(wanted, (identity, after, most)):
        told.append(Outcome(*row))
        if (size := size + len(row[-1])) > LARGEST_PAGE:
            break
    return told


def _unattended(connection: sqlite3.Connection, most: int, now: float, without: Collection[str]) -> list[Job]:
    wanted = f"""
        SELECT {COLUMNS} FROM jobs WHERE ended IS NOT NULL AND (attend_at <= ? OR attend_at > ?)
        AND owner NOT IN ({", ".join("?" * len(without))}) ORDER BY attend_at LIMIT ?
    """  # noqa: S608 - ours
    return [_read_job(row) for row in connection.execute(wanted, (now, now + LONGEST_SILENCE, *without, most))]


def _aside(connection: sqlite3.Connection, owner: str) -> int:
    """Bytes that the owner's jobs have aside."""
    wanted = "SELECT ifnull(sum(inputs), 0) FROM jobs WHERE owner = ? AND inputs > 0"
    return int(connection.execute(wanted, (owner,)).fetchone()[0])


def _unknown(connection: sqlite3.Connection, identities: Collection[str]) -> set[str]:
    return {one for one in identities if not _place(connection, one)}


def _counts(connection: sqlite3.Connection) -> Counts:
    states = "SELECT count(*) FILTER (WHERE state = 'waiting'), count(*) FILTER (WHERE state = 'running') FROM jobs WHERE state IN ('waiting', 'running')"
    (waiting, running) = connection.execute(states).fetchone()
    (items,) = connection.execute("SELECT count(*) FROM items").fetchone()
    return Counts(waiting, running, items)
