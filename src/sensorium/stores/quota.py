"""What a provider allows, kept by all who ask it: requests and tokens a minute, and requests at once.

    lease = await limiter.reserve("api.example.com#1f2e", limits, tokens=1800, patience=30)
    ...                                        # ask the provider
    limiter.settle(lease, used=1412)

Models that share a provider's allowance share a *quota domain*. What a domain has used stands in a ledger: of this
process, of this machine (SQLite), or of several machines (`quota_redis.py`). The `Limiter` is the line before it.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import math
import random
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from sensorium.engine import Card
from sensorium.errors import InvalidConfiguration, InvalidModel, ProviderLimited
from sensorium.schemas.base import Frozen, wrong_fields
from sensorium.stores.sqlite import Database
from sensorium.telemetry import TELEMETRY


class Span(NamedTuple):
    """A time over which is counted, cut into slots; what fell into a slot counts for `slots` more."""

    width: float
    """Seconds of a slot."""
    slots: int


MINUTE = Span(0.5, 121)
"""Counts for 60.5 to 61 s: half a second more than the provider's minute, since requests do not arrive as evenly as
they leave. Of the allowed rate, 0.98 remain."""
SECOND = Span(0.005, 202)
"""Counts for 1.01 to 1.015 s."""

AT_ONCE = 5
"""Requests that may start in the same second, however few a minute are allowed."""

PLACE_SECONDS = 0.05
"""How often the first in line looks whether another process gave its place back."""
LOOK_SECONDS = 0.5
"""How often it looks whether another process needed fewer tokens than it had reserved."""

MOST_LEASES = 256
"""Places that are held before those are sought out that were given up, where their number has no limit."""

SOON = 1e-5
"""Added to a wait, so that rounding does not wake anybody just before the time."""

SCHEMA = "CREATE TABLE IF NOT EXISTS quotas (domain TEXT PRIMARY KEY, account TEXT NOT NULL) WITHOUT ROWID;"

log = logging.getLogger("sensorium.quota")


class Limits(Frozen):
    """What a provider allows; None: no limit."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """In and out together."""
    concurrent: int | None = Field(default=None, ge=1)
    """Requests under way at once."""
    requests_per_second: int | None = Field(default=None, ge=1)
    """Requests that start in the same second. Absent: a sixtieth of a minute's, but at least 5; many providers enforce
    their minute second by second."""

    @functools.cached_property
    def starts(self) -> int | None:
        """Requests that may start in one second."""
        if self.requests_per_second or not self.requests_per_minute:
            return self.requests_per_second
        return max(AT_ONCE, math.ceil(self.requests_per_minute / 60))


def limits_of(card: Card, usual: Limits) -> Limits:
    """The limits on the card, and the usual ones where it is silent. 0 on a card: no limit.

    Raises InvalidModel when the card's are wrong.
    """
    told = {name: value or None for name, value in card.limits.items()}
    try:
        return Limits.model_validate({**usual.model_dump(), **told})
    except ValidationError as error:
        raise InvalidModel(f"The card of model {card.id} has wrong limits", why=wrong_fields(error, Limits)) from error


def domain_of(card: Card) -> str:
    """Whose allowance a model uses: the card's `quota`, else the address with a hash of the name of its key's variable."""
    if card.quota:
        return card.quota
    address = urlsplit(str(card.quirks.get("base_url", "")))
    # Without user and password, which an address may hold: this is shown in metrics.
    place = f"{address.hostname}{f':{address.port}' if address.port else ''}{address.path}" if address.hostname else ""
    key = hashlib.sha256(str(card.quirks.get("key", "")).encode()).hexdigest()[:8]
    return f"{place or card.kind}#{key}"


class Window:
    """How much of something was used in the last span of time. `used` is by slot, in the order of time."""

    __slots__ = ("_here", "_looked", "_slots", "_total", "_width", "used")

    def __init__(self, span: Span, used: Mapping[str, int] | None = None) -> None:
        self._width, self._slots = span
        self.used = {int(slot): amount for slot, amount in used.items()} if used else {}
        self._total = sum(self.used.values())
        self._looked = self._here = -1
        """The slot in which was last looked for what does not count any more, and what was found to be now."""

    def wait(self, now: float, limit: int | None, amount: int) -> float:
        """Seconds until there is room for the amount; 0: now. What is more than the limit waits for an empty window."""
        if limit is None:
            return 0.0
        self._forget(now)
        over = self._total + min(amount, limit) - limit
        if over <= 0:
            return 0.0
        oldest_first = iter(self.used.items())
        while over > 0:
            slot, used = next(oldest_first)
            over -= used
        return max((slot + self._slots + 1) * self._width - now, 0.0) + SOON

    def add(self, now: float, moment: float, amount: int) -> None:
        """Count an amount, or less than nothing, for a moment; it does not count when that is long past."""
        here = self._forget(now)
        slot = int(moment / self._width)
        if here - slot > self._slots:
            return
        if slot not in self.used:
            slot = here  # else the slots would not stay in order
        self.used[slot] = self.used.get(slot, 0) + amount
        self._total += amount

    def _forget(self, now: float) -> int:
        """Drop what does not count any more; the slot of now."""
        here = int(now / self._width)
        if here == self._looked:
            return self._here
        self._looked = here
        self._here = self._dropped(here)
        return self._here

    def _dropped(self, here: int) -> int:
        if not self.used:
            return here
        last = next(reversed(self.used))
        if last - here > self._slots:  # the clock was set back: nobody must wait until it is there again
            self.used = {here: self._total}
        here = max(here, next(reversed(self.used)))
        while self.used and here - (oldest := next(iter(self.used))) > self._slots:
            self._total -= self.used.pop(oldest)
        return here


class Account:
    """What one domain has used, and who is under way."""

    def __init__(self, told: Mapping[str, Any] | None = None) -> None:
        told = told or {}
        self.requests = Window(MINUTE, told.get("requests"))
        self.starts = Window(SECOND, told.get("starts"))
        self.tokens = Window(MINUTE, told.get("tokens"))
        self.leases: dict[str, float] = dict(told.get("leases", {}))
        """Until when each holds its place, should nobody give it back."""
        self.closed_until: float = told.get("closed_until", 0.0)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; what an Account is made from."""
        windows = {"requests": self.requests.used, "starts": self.starts.used, "tokens": self.tokens.used}
        return {**windows, "leases": self.leases, "closed_until": self.closed_until}

    def take(self, now: float, limits: Limits, lease: str, tokens: int, hold: float) -> float:
        """Take a request, its tokens and a place: 0 when there were all, else seconds after which to try again."""
        wait = max(
            self.closed_until - now,
            self.requests.wait(now, limits.requests_per_minute, 1),
            self.starts.wait(now, limits.starts, 1),
            self.tokens.wait(now, limits.tokens_per_minute, tokens),
        )
        if wait > 0:
            return wait
        most = limits.concurrent or math.inf
        if len(self.leases) >= min(most, MOST_LEASES) and self._under_way(now) >= most:
            return PLACE_SECONDS
        self._count(now, now, 1, tokens)
        self.leases[lease] = now + hold
        return 0.0

    def settle(self, now: float, lease: Lease, used: int | None) -> None:
        """Give the place back, and count the tokens used; None: it was never sent, and counts as nothing."""
        if self.leases.pop(lease.id, None) is None:
            return  # settled, or given up
        self._count(now, lease.moment, -1 if used is None else 0, (used or 0) - lease.tokens)

    def close_for(self, now: float, seconds: float) -> None:
        """Let nobody take anything for that long."""
        self.closed_until = max(self.closed_until, now + seconds)

    def _count(self, now: float, moment: float, requests: int, tokens: int) -> None:
        if requests:
            self.requests.add(now, moment, requests)
            self.starts.add(now, moment, requests)
        if tokens:
            self.tokens.add(now, moment, tokens)

    def _under_way(self, now: float) -> int:
        """How many hold a place, once those who gave it up are sought out."""
        self.leases = {lease: until for lease, until in self.leases.items() if until > now}
        return len(self.leases)


@dataclass(slots=True, eq=False)
class Lease:
    """What was reserved, until it is settled."""

    domain: str
    tokens: int
    moment: float
    """When, on the ledger's clock."""
    ledger: Ledger = field(repr=False)
    id: str = field(default_factory=lambda: f"{random.getrandbits(64):016x}")


class Ledger(Protocol):
    """What every domain has used. Each of these is done in one step, whoever else shares the ledger."""

    async def take(self, domain: str, limits: Limits, tokens: int, hold: float) -> Lease | float:
        """A lease, which is given up after `hold` seconds; or the seconds after which to try again."""

    async def settle(self, lease: Lease, used: int | None) -> None:
        """Give the place back, and count the tokens used; None: it was never sent, and counts as nothing."""

    async def close_for(self, domain: str, seconds: float) -> None:
        """Let nobody take anything from the domain for that long."""

    async def close(self) -> None:
        """Give files, threads and connections back."""


class MemoryLedger:
    """Of this process alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    async def take(self, domain: str, limits: Limits, tokens: int, hold: float) -> Lease | float:
        return self.take_now(domain, limits, tokens, hold)

    def take_now(self, domain: str, limits: Limits, tokens: int, hold: float) -> Lease | float:
        now = self._clock()
        lease = Lease(domain, tokens, now, self)
        return self._of(domain).take(now, limits, lease.id, tokens, hold) or lease

    async def settle(self, lease: Lease, used: int | None) -> None:
        self.settle_now(lease, used)

    def settle_now(self, lease: Lease, used: int | None) -> None:
        self._of(lease.domain).settle(self._clock(), lease, used)

    async def close_for(self, domain: str, seconds: float) -> None:
        self._of(domain).close_for(self._clock(), seconds)

    async def close(self) -> None:
        self._accounts.clear()

    def _of(self, domain: str) -> Account:
        found = self._accounts.get(domain)
        if found is None:
            found = self._accounts[domain] = Account()
        return found


class SqliteLedger:
    """Of all processes of this machine that share the file. Where it fails, each counts for itself."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(path, SCHEMA, "cache_dir")
        self._clock = clock
        self._alone = MemoryLedger()

    async def take(self, domain: str, limits: Limits, tokens: int, hold: float) -> Lease | float:
        try:
            return await self._database.do(self._take, domain, limits, tokens, hold)
        except (sqlite3.Error, InvalidConfiguration) as error:
            self._report(error)
            return await self._alone.take(domain, limits, tokens, hold)

    async def settle(self, lease: Lease, used: int | None) -> None:
        try:
            await self._database.do(self._settle, lease, used)
        except (sqlite3.Error, InvalidConfiguration) as error:
            self._report(error)

    async def close_for(self, domain: str, seconds: float) -> None:
        try:
            await self._database.do(self._close_for, domain, seconds)
        except (sqlite3.Error, InvalidConfiguration) as error:
            self._report(error)
            await self._alone.close_for(domain, seconds)

    async def close(self) -> None:
        await self._database.close()

    def _take(
        self, connection: sqlite3.Connection, domain: str, limits: Limits, tokens: int, hold: float
    ) -> Lease | float:
        with connection:
            account = _read(connection, domain)
            now = self._clock()
            lease = Lease(domain, tokens, now, self)
            wait = account.take(now, limits, lease.id, tokens, hold)
            if not wait:
                _write(connection, domain, account)
        return wait or lease

    def _settle(self, connection: sqlite3.Connection, lease: Lease, used: int | None) -> None:
        with connection:
            account = _read(connection, lease.domain)
            account.settle(self._clock(), lease, used)
            _write(connection, lease.domain, account)

    def _close_for(self, connection: sqlite3.Connection, domain: str, seconds: float) -> None:
        with connection:
            account = _read(connection, domain)
            account.close_for(self._clock(), seconds)
            _write(connection, domain, account)

    def _report(self, error: Exception) -> None:
        TELEMETRY.quota_errors["sqlite"].add()
        log.warning("%s cannot be used (%s): each process keeps limits alone", self._database.path, error)


class _Line:
    """Those who wait for one domain: the first asks the ledger, the others stand behind."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.stirred = asyncio.Event()
        """Set when something was given back."""
        self.length = 0
        self.ready = 0.0
        """When the first will be served, as far as is known, on the limiter's clock."""


class Limiter:
    """Lets requests through as fast as their domain allows, first come, first served.

    Within a process the order is exact; processes that share a ledger take turns as they find room.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger, self._clock = ledger, clock
        self._lines: dict[str, _Line] = {}
        self._settling: set[asyncio.Task[None]] = set()

    async def reserve(
        self, domain: str, limits: Limits, tokens: int, *, patience: float | None = None, hold: float = 600.0
    ) -> Lease:
        """Wait for a request, its tokens and a place, and take them; they are given up after `hold` seconds.

        Raises ProviderLimited, as soon as it is known, when that takes longer than `patience` seconds.
        """
        line = self._line(domain)
        if not line.length:
            taken = await self._take(domain, limits, tokens, hold)
            if isinstance(taken, Lease):
                return taken
        until = math.inf if patience is None else self._clock() + patience
        self._refuse_if_late(line, domain, limits, until)
        line.length += 1
        try:
            async with asyncio.timeout(patience), line.turn:
                return await self._served(line, domain, limits, tokens, hold, until)
        except TimeoutError as error:
            raise _late(domain, max(line.ready - self._clock(), 1.0)) from error
        finally:
            line.length -= 1

    def settle(self, lease: Lease, used: int) -> None:
        """Say what a request really took. Returns at once; the ledger is written meanwhile."""
        self._give_back(lease, used)

    def release(self, lease: Lease) -> None:
        """Give all back: the request was never sent. Returns at once."""
        self._give_back(lease, None)

    async def close_for(self, domain: str, seconds: float) -> None:
        """Send nothing to the domain for that long, as the provider asks."""
        await self._ledger.close_for(domain, seconds)

    async def close(self) -> None:
        """Write what is still to be written, and give the ledger back."""
        await asyncio.gather(*self._settling)
        await self._ledger.close()

    async def _served(self, line: _Line, domain: str, limits: Limits, tokens: int, hold: float, until: float) -> Lease:
        while True:
            line.stirred.clear()
            taken = await self._take(domain, limits, tokens, hold)
            if isinstance(taken, Lease):
                return taken
            line.ready = self._clock() + taken
            if line.ready > until:
                raise _late(domain, taken)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(taken, LOOK_SECONDS)):
                    await line.stirred.wait()

    async def _take(self, domain: str, limits: Limits, tokens: int, hold: float) -> Lease | float:
        """Whoever leaves while the ledger is being written gives back what was taken."""
        if isinstance(self._ledger, MemoryLedger):  # never waits, so nobody can leave meanwhile
            return self._ledger.take_now(domain, limits, tokens, hold)
        taking = asyncio.ensure_future(self._ledger.take(domain, limits, tokens, hold))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(self._untake)
            raise

    def _untake(self, taking: asyncio.Future[Lease | float]) -> None:
        if not taking.cancelled() and not taking.exception() and isinstance(taken := taking.result(), Lease):
            self.release(taken)

    def _give_back(self, lease: Lease, used: int | None) -> None:
        if isinstance(lease.ledger, MemoryLedger):
            lease.ledger.settle_now(lease, used)
            self._line(lease.domain).stirred.set()
            return
        settling = asyncio.ensure_future(self._settle(lease, used))
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)

    async def _settle(self, lease: Lease, used: int | None) -> None:
        await lease.ledger.settle(lease, used)
        self._line(lease.domain).stirred.set()

    def _refuse_if_late(self, line: _Line, domain: str, limits: Limits, until: float) -> None:
        """Those ahead tell when it cannot be before."""
        if not line.length:
            return
        minutes = line.length // limits.requests_per_minute if limits.requests_per_minute else 0
        ready = max(line.ready, self._clock()) + 60 * minutes
        if ready > until:
            raise _late(domain, ready - self._clock())

    def _line(self, domain: str) -> _Line:
        line = self._lines.get(domain)
        if line is None:
            line = self._lines[domain] = _Line()
            TELEMETRY.quota_waiting[domain].watch(line, lambda line: line.length)
        return line


def _late(domain: str, after: float) -> ProviderLimited:
    after = max(0.1, round(after, 1))
    return ProviderLimited(
        "The provider's limit is used up",
        why=f"{domain.partition('#')[0]} takes the next request in {after:g} s, which is too late for this one",
        fix=f"Try again in {after:g} s",
        retry_after_seconds=after,
    )


def _read(connection: sqlite3.Connection, domain: str) -> Account:
    connection.execute("BEGIN IMMEDIATE")  # else two could read the same account
    row = connection.execute("SELECT account FROM quotas WHERE domain = ?", (domain,)).fetchone()
    return Account(json.loads(row[0]) if row else None)


def _write(connection: sqlite3.Connection, domain: str, account: Account) -> None:
    connection.execute("INSERT OR REPLACE INTO quotas VALUES (?, ?)", (domain, json.dumps(account.as_dict())))
