"""What callers used, by day, key, model and task: kept in a file that all processes of a server share.

What is noted is put together in memory and written once a second, off the event loop. Room in a budget is asked of the
file at once, since other processes take from it too; all who ask at the same time share one write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from operator import add
from pathlib import Path
from typing import Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

from sensorium.engine import Budget
from sensorium.errors import BudgetSpent, InvalidConfiguration, Unavailable, final
from sensorium.schemas.base import Usage
from sensorium.stores.sqlite import Database
from sensorium.telemetry import TELEMETRY, Telemetry

FILE = "usage.sqlite"

WRITE_SECONDS = 1.0
"""How old a number in memory may be before it is written."""

KEPT_DAYS = 400
"""A year, and the month that it is compared with."""

LONGEST_SECONDS = 3600.0
"""How long room is held for a call without a deadline."""

GRACE_SECONDS = 60.0
"""How long room is held beyond a call's deadline, for a process that was killed never gives it back."""

MOST_PLACES = 10_000
"""Of numbers in memory while the file cannot be written; those of further callers are then counted as nobody's."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    key TEXT NOT NULL, day TEXT NOT NULL, model TEXT NOT NULL, task TEXT NOT NULL,
    requests INTEGER NOT NULL, errors INTEGER NOT NULL, pictures INTEGER NOT NULL, seconds REAL NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost REAL NOT NULL, unpriced INTEGER NOT NULL,
    PRIMARY KEY (key, day, model, task)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held (
    key TEXT NOT NULL, id TEXT NOT NULL, tokens INTEGER NOT NULL, cost REAL NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (key, id)
) WITHOUT ROWID;
"""

P = ParamSpec("P")
T = TypeVar("T")

By = Literal["key", "model", "task", "day"]

log = logging.getLogger("sensorium.usage")


class Amounts(NamedTuple):
    """How much. Each number can be added to another's."""

    requests: int = 0
    """What callers asked for; the parts of composed tasks are in the other numbers."""
    errors: int = 0
    """Those of them that got no answer."""
    pictures: int = 0
    """What models looked at; remembered answers take none."""
    seconds: float = 0.0
    """How long models worked."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    """In US dollars, as far as prices are known."""
    unpriced: int = 0
    """Answers whose price is not known."""

    def plus(self, other: Amounts) -> Amounts:
        return tuple.__new__(Amounts, map(add, self, other))


COLUMNS = ", ".join(Amounts._fields)
SUMS = ", ".join(f"sum({name})" for name in Amounts._fields)


class Place(NamedTuple):
    """Whose numbers these are. `model` is empty where no model, or more than one, answered."""

    key: str
    day: str
    model: str
    task: str


class Line(NamedTuple):
    """What was used by one key or model, for one task, or on one day."""

    name: str
    amounts: Amounts


class Spent(NamedTuple):
    """Of a budget."""

    tokens: int
    cost: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Room in a budget, until it is known what was used of it."""

    id: str
    key: str
    budget: Budget
    tokens: int
    cost: float
    until: float
    granted: asyncio.Future[Spent | None] = field(compare=False, repr=False)
    """None: there was room; else what is spent and held."""


class UsageBook:
    """The numbers of one server. Belongs to the event loop that it is first used in."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time, telemetry: Telemetry = TELEMETRY) -> None:
        self._database = Database(path, SCHEMA, "data_dir")
        self._clock = clock
        self._errors, self._refusals = telemetry.usage_errors[()], telemetry.budget_refusals[()]
        self._noted: dict[Place, Amounts] = {}
        self._over: list[tuple[str, str]] = []
        self._asked: list[Hold] = []
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False
        self._swept = ""
        self._day = (-1, "")

    def note(self, key: str, model: str, task: str, amounts: Amounts) -> None:
        """Add to what the key has used today."""
        place = Place(key, self._today(), model, task)
        if place not in self._noted and len(self._noted) >= MOST_PLACES:
            place = Place("", place.day, "", task)
        before = self._noted.get(place)
        self._noted[place] = before.plus(amounts) if before else amounts
        if self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(WRITE_SECONDS, self._write_soon)

    def _today(self) -> str:
        number = int(self._clock() // 86400)
        if number != self._day[0]:
            self._day = number, day_of(number * 86400)
        return self._day[1]

    @contextlib.asynccontextmanager
    async def holding(self, key: str, budget: Budget, most: Usage, seconds: float | None = None) -> AsyncIterator[None]:
        """Hold room for `most` in the budget while the block runs, `seconds` at most; what was used, the block must note.

        Raises BudgetSpent when there is too little; Unavailable when the file cannot be used.
        """
        tokens, cost = most.input_tokens + most.output_tokens, most.cost or 0.0
        until = self._clock() + (LONGEST_SECONDS if seconds is None else seconds) + GRACE_SECONDS
        granted: asyncio.Future[Spent | None] = asyncio.get_running_loop().create_future()
        hold = Hold(secrets.token_hex(8), key, budget, tokens, cost, until, granted)
        self._asked.append(hold)
        self._write_soon()
        try:
            refused = await granted
            if refused is not None:
                self._refusals.add()
                raise _spent(hold, refused, self._clock())
            yield
        finally:
            if hold in self._asked:
                self._asked.remove(hold)
            self._over.append((key, hold.id))
            self._write_soon()

    async def lines(self, by: By, since: str = "", key: str | None = None) -> list[Line]:
        """What was used from that day on (`2026-11-30`) by everyone, or by one key."""
        return await self._read(_lines, by, since, key)

    async def spent(self, key: str, budget: Budget) -> Spent:
        """What of the budget is used up, in its time that runs."""
        return await self._read(_used, key, window(budget, self._clock())[0])

    async def close(self) -> None:
        """Write what is left, and give file and thread back."""
        await self._flush()
        if self._timer is not None:
            self._timer.cancel()
        await self._database.close()

    async def _read(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **more: P.kwargs) -> T:
        await self._flush()
        try:
            return await self._database.do(work, *args, **more)
        except (sqlite3.Error, InvalidConfiguration) as error:
            log.error("Usage cannot be read from %s: %s", self._database.path, error)  # noqa: TRY400 - a sentence
            raise Unavailable("What was used cannot be read", fix="Tell the operator of this server") from error

    async def _flush(self) -> None:
        """Write what was noted until now: with the write that is under way, or the next."""
        for _ in range(2):
            if self._writing is None and (self._noted or self._over):
                self._write_soon()
            if self._writing is not None:
                await asyncio.wait([self._writing])

    def _write_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        """Until nothing is left that somebody waits for."""
        try:
            while True:
                await self._write()
                if not (self._asked or (self._over and not self._failing)):
                    return
        finally:
            self._writing = None
            if (self._noted or self._over) and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(WRITE_SECONDS, self._write_soon)

    async def _write(self) -> None:
        noted, self._noted = self._noted, {}
        over, self._over = self._over, []
        asked, self._asked = self._asked, []
        try:
            answers = await self._database.do(self._commit, noted, over, asked)
        except (
            sqlite3.Error,
            InvalidConfiguration,
            OSError,
            OverflowError,
        ) as error:  # the last: of a number too large
            self._put_back(noted, over)
            self._fail(error, asked)
        else:
            if self._failing:
                log.info("Usage can be written again")
            self._failing = False
            for hold, answer in zip(asked, answers, strict=True):
                if not hold.granted.done():
                    hold.granted.set_result(answer)

    def _put_back(self, noted: dict[Place, Amounts], over: list[tuple[str, str]]) -> None:
        for place, amounts in self._noted.items():
            noted[place] = noted[place].plus(amounts) if place in noted else amounts
        self._noted, self._over = noted, over[-MOST_PLACES:] + self._over

    def _fail(self, error: Exception, asked: Iterable[Hold]) -> None:
        self._errors.add()
        if not self._failing:
            log.error("Usage cannot be written to %s: %s", self._database.path, error)
        self._failing = True
        for hold in asked:
            if not hold.granted.done():
                # With a budget that cannot be read, anybody could spend anything.
                fix = "Tell the operator of this server"
                hold.granted.set_exception(Unavailable("The key's budget cannot be read", fix=fix))

    def _commit(
        self,
        connection: sqlite3.Connection,
        noted: dict[Place, Amounts],
        over: list[tuple[str, str]],
        asked: list[Hold],
    ) -> list[Spent | None]:
        now = self._clock()
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # else two could take the same room
            connection.executemany(_UPSERT, [(*place, *amounts) for place, amounts in noted.items()])
            connection.executemany("DELETE FROM held WHERE key = ? AND id = ?", over)
            if self._swept != day_of(now):
                self._sweep(connection, now)
            return [_taken(connection, hold, now) for hold in asked]

    def _sweep(self, connection: sqlite3.Connection, now: float) -> None:
        self._swept = day_of(now)
        connection.execute("DELETE FROM usage WHERE day < ?", (day_of(now - KEPT_DAYS * 86400),))
        connection.execute("DELETE FROM held WHERE until <= ?", (now,))


_UPSERT = f"""
INSERT INTO usage (key, day, model, task, {COLUMNS}) VALUES (?, ?, ?, ?, {", ".join("?" * len(Amounts._fields))})
ON CONFLICT (key, day, model, task) DO UPDATE SET
{", ".join(f"{name} = {name} + excluded.{name}" for name in Amounts._fields)}
"""  # noqa: S608 - no outside text


def day_of(moment: float) -> str:
    """The day in UTC, as `2026-11-30`."""
    return datetime.fromtimestamp(moment, UTC).date().isoformat()


def window(budget: Budget, now: float) -> tuple[str, float]:
    """The first day of the budget's time that runs, in UTC, and the moment when it ends."""
    today = datetime.fromtimestamp(now, UTC).date()
    first = today if budget.per == "day" else today.replace(day=1)
    after = today + timedelta(days=1) if budget.per == "day" else (first + timedelta(days=31)).replace(day=1)
    return first.isoformat(), _midnight(after)


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _lines(connection: sqlite3.Connection, by: By, since: str, key: str | None) -> list[Line]:
    order = "day" if by == "day" else f"sum(cost) DESC, sum(requests) DESC, {by}"
    wanted = f"SELECT {by}, {SUMS} FROM usage WHERE day >= ? AND (? IS NULL OR key = ?) GROUP BY {by} ORDER BY {order}"  # noqa: S608 - `by` is one of four
    return [Line(name, Amounts(*sums)) for name, *sums in connection.execute(wanted, (since, key, key))]


def _used(connection: sqlite3.Connection, key: str, since: str) -> Spent:
    wanted = "SELECT total(input_tokens + output_tokens), total(cost) FROM usage WHERE key = ? AND day >= ?"
    tokens, cost = connection.execute(wanted, (key, since)).fetchone()
    return Spent(int(tokens), cost)


def _taken(connection: sqlite3.Connection, hold: Hold, now: float) -> Spent | None:
    """Take room; when there is none, what is spent and held."""
    used = _used(connection, hold.key, window(hold.budget, now)[0])
    wanted = "SELECT total(tokens), total(cost) FROM held WHERE key = ? AND until > ?"
    tokens, cost = connection.execute(wanted, (hold.key, now)).fetchone()
    spent = Spent(used.tokens + int(tokens), used.cost + cost)
    if _is_over(hold.tokens, spent.tokens, hold.budget.tokens) or _is_over(hold.cost, spent.cost, hold.budget.usd):
        return spent
    connection.execute(
        "INSERT INTO held VALUES (?, ?, ?, ?, ?)", (hold.key, hold.id, hold.tokens, hold.cost, hold.until)
    )
    return None


def _is_over(wanted: float, spent: float, allowed: float | None) -> bool:
    """What costs nothing is never too much. Sums of many small amounts are not exact: a billionth is let through."""
    return allowed is not None and wanted > 0 and spent + wanted > allowed * (1 + 1e-9)


def _spent(hold: Hold, spent: Spent, now: float) -> BudgetSpent:
    budget = hold.budget
    if _is_over(hold.cost, 0, budget.usd) or _is_over(hold.tokens, 0, budget.tokens):
        return _never(hold)
    money = _is_over(hold.cost, spent.cost, budget.usd)
    allowed, wanted = _allowed(budget, money), _wanted(hold, money)
    used = f"{spent.cost:.4g}" if money else f"{spent.tokens:,}"
    ends = window(budget, now)[1]
    until = f"{datetime.fromtimestamp(ends, UTC):%Y-%m-%d} 00:00 UTC"
    return BudgetSpent(
        f"The budget of {hold.key} has no room for this",
        why=f"{allowed} a {budget.per} are allowed, {used} are used or in use, and this may take {wanted}",
        fix=f"Wait until {until}, ask for less with `max_tokens`, or ask the operator for a larger budget",
        retry_after_seconds=round(ends - now, 1),
    )


def _never(hold: Hold) -> BudgetSpent:
    """For what is more than the whole budget: waiting does not help."""
    money = _is_over(hold.cost, 0, hold.budget.usd)
    return final(
        BudgetSpent(
            f"This is too large for the budget of {hold.key}",
            why=f"it may take {_wanted(hold, money)}, and only {_allowed(hold.budget, money)} a {hold.budget.per} are allowed",
            fix="Ask for less with `max_tokens`, or ask the operator for a larger budget; waiting does not help",
        )
    )


def _allowed(budget: Budget, money: bool) -> str:
    return f"{budget.usd:g} US dollars" if money else f"{budget.tokens:,} tokens"


def _wanted(hold: Hold, money: bool) -> str:
    return f"{hold.cost:.4g}" if money else f"{hold.tokens:,}"
