"""Jobs in Redis or Valkey, for workers on several machines. Each call is one script, so one step for all who look.

Which line of work an item stands in is said by the caller of this store, so that workers of one kind leave the others'
items alone. Redis keeps what it was given as long as its own settings say: `docs/jobs.md` says which.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic_core import to_json

from sensorium.errors import SensoriumError
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
from sensorium.stores.redis import client, reply_to
from sensorium.telemetry import TELEMETRY, Telemetry

PREFIX = "sensorium:jobs:"
"""Before every key, so that other programs' keys are left alone."""

PATIENCE_SECONDS = 5.0
"""How long to wait for a connection or a reply: work that is handed in or done is worth more of it than an answer that is remembered."""

MOST_FORGOTTEN = 200
"""Jobs that are forgotten in one step."""

MOMENTS = ("started", "ended", "expires", "attend_at")
"""The fields of a job that are times, and not always there."""

REFUSALS: dict[bytes, Callable[[], SensoriumError]] = {b"unknown": unknown, b"gone": gone, b"conflict": conflict}


class Due(NamedTuple):
    """How much of a line of work can be begun now."""

    line: str
    fresh: int
    """Items that may go together."""
    suspects: int
    """Items that each go alone."""


class RedisJobs:
    """Keeps a job for `kept_seconds` after its end; gives an item up after `attempts` deaths of its workers; takes no more
    from an owner of whose jobs `most_open` have not ended.

    `line_of` tells the line of an order; without a `clock` Redis's own is used, which all machines share.
    Raises InvalidConfiguration for an address that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        kept_seconds: float = 86400.0,
        attempts: int = 3,
        most_open: int = MOST_OPEN,
        quota: int = UNBOUNDED,
        line_of: Callable[[bytes], str] = lambda order: "",  # noqa: ARG005
        clock: Callable[[], float] | None = None,
        telemetry: Telemetry = TELEMETRY,
    ) -> None:
        self._redis = client(url, for_what="keep jobs in Redis", setting="jobs_redis_url", patience=PATIENCE_SECONDS)
        self._script = self._redis.register_script(_script())
        self._kept_seconds, self._attempts, self._line_of, self._clock = kept_seconds, attempts, line_of, clock
        self._quota, self._telemetry = quota, telemetry
        self._most_open = most_open
        self._refusals: dict[bytes, Callable[[], SensoriumError]] = {
            **REFUSALS,
            b"too many": partial(too_many, most_open),
            b"full": partial(full, quota),
        }
        self._claims: dict[str, str] = {}

    async def submit(self, submission: Submission) -> Job:
        new = submission
        about = (
            new.id,
            new.owner,
            new.task,
            new.priority,
            new.webhook or "",
            new.inputs,
            new.key or "",
            new.digest,
        )
        wrong = [part for place, outcome in new.outcomes.items() for part in (place, outcome)]
        orders = [part for order in new.orders for part in (self._line_of(order), order)]
        counted = (len(new.outcomes), *wrong, len(new.orders), *orders)
        told = (*about, self._kept_seconds, self._most_open, self._quota, *counted)
        return _job(await self._asked("submit", *told, failing="The job cannot be kept"))

    async def find(self, identity: str, owner: str) -> Job:
        return _job(await self._asked("find", identity, owner))

    async def listed(self, owner: str, state: JobState | None, before: str | None, most: int) -> list[Job]:
        return [_job(one) for one in await self._asked("listed", owner, state or "all", before or "", most)]

    async def outcomes(self, identity: str, after: int, most: int) -> list[Outcome]:
        return [_outcome(*one) for one in _by(2, await self._asked("outcomes", identity, after, most, LARGEST_PAGE))]

    async def cancel(self, identity: str, owner: str) -> Job:
        return _job(await self._asked("cancel", identity, owner, self._kept_seconds))

    async def claim(self, worker: str, most: int, seconds: float, *, idle: bool, line: str = "") -> list[Item]:
        """As every store's, of one line."""
        # The same name until there is a reply: what a lost one told is told again, and not leased for ever to nobody.
        name = self._claims.setdefault(worker, secrets.token_hex(8))
        chance = random.getrandbits(31)
        asked = (worker, line, most, seconds, LONGEST_REST, int(idle), name, chance)
        told = await self._asked("claim", *asked, *self._grave())
        del self._claims[worker]
        return [_item(*one) for one in _by(5, told)]

    async def renew(self, worker: str, seconds: float) -> set[tuple[str, int]]:
        told = await self._asked("renew", worker, seconds)
        return {(job.decode(), int(place)) for job, place in _by(2, told)}

    async def settle(self, worker: str, settled: Sequence[Settled]) -> None:
        told = [part for one in settled for part in (one.job, one.place, one.state or "", one.outcome, one.after)]
        await self._asked("settle", worker, self._kept_seconds, len(settled), *told, failing="Outcomes cannot be kept")

    async def give_back(self, worker: str) -> None:
        await self._asked("give_back", worker)

    async def lost(self, worker: str) -> None:
        await self._asked("lost", worker, *self._grave())

    async def unattended(self, most: int, seconds: float, without: Collection[str] = ()) -> list[Job]:
        asked = (most, seconds, LONGEST_SILENCE, len(without), *without)
        return [_job(one) for one in await self._asked("unattended", *asked)]

    async def attended(self, identity: str, called: Called | None = None, *, emptied: bool = False) -> None:
        fault, after = (called.fault, called.after) if called else ("", None)
        told = (int(called is not None), fault, "" if after is None else after, int(emptied))
        await self._asked("attended", identity, *told)

    async def forget_old(self) -> list[str]:
        return [one.decode() for one in await self._asked("forget_old", MOST_FORGOTTEN, REMEMBERED_SECONDS)]

    async def unknown(self, identities: Collection[str]) -> set[str]:
        return {one.decode() for one in await self._asked("unknown", len(identities), *identities)}

    async def counts(self) -> Counts:
        return Counts(*map(int, await self._asked("counts")))

    async def due(self) -> list[Due]:
        """What can be begun, by lines of work; what leases that ran out left behind is counted too."""
        told = await self._asked("due", *self._grave())
        return [Due(line.decode(), int(fresh), int(suspects)) for line, fresh, suspects in _by(3, told)]

    async def throws_out(self) -> str | None:
        """By which policy this Redis throws keys out when its memory is full; None where it does not."""
        from redis.exceptions import RedisError

        try:
            memory = await self._redis.info("memory")
        except (RedisError, OSError) as error:
            raise _storage_failed("The store of jobs cannot be used", error) from error
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        return policy if memory.get("maxmemory") and policy != "noeviction" else None

    async def close(self) -> None:
        await self._redis.aclose(close_connection_pool=True)

    async def _asked(self, what: str, *args: Any, failing: str = "The store of jobs cannot be used") -> Any:
        """What the script tells; asked again at once by the client when the connection broke, which changes nothing."""
        from redis.exceptions import RedisError

        now = "" if self._clock is None else self._clock()
        try:
            refused, ended, told = await reply_to(self._script(keys=[PREFIX], args=[what, now, *args]))
        except (RedisError, OSError) as error:
            raise _storage_failed(failing, error) from error
        for task, state, seconds in _by(3, ended):
            self._telemetry.jobs_finished[task.decode(), state.decode()].add()
            self._telemetry.job_seconds[task.decode()].observe(float(seconds))
        if refused:
            refusal = self._refusals[refused]
            raise refusal()
        return told

    def _grave(self) -> tuple[Any, ...]:
        """What becomes of items whose worker died, as the script reads it."""
        before, _, after = dead(b'{"trace":"\\u0000"}', self._attempts).partition(to_json("\0"))
        pauses = (pause_after(deaths) for deaths in range(1, self._attempts))
        return (self._attempts, *pauses, self._kept_seconds, before, after)


def _storage_failed(what: str, error: Exception) -> SensoriumError:
    """Without the address of a Redis that cannot be reached, or what it says of passwords."""
    from redis.exceptions import ConnectionError as Disconnected
    from redis.exceptions import TimeoutError as TimedOut

    hidden = isinstance(error, (Disconnected, TimedOut, OSError))  # a wrong password is a Disconnected too
    return storage_failed(what, error, "Redis cannot be reached" if hidden else "")


@cache
def _script() -> str:
    return Path(__file__).with_suffix(".lua").read_text(encoding="utf-8")


def _by(count: int, parts: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
    """So many at a time, all alike."""
    return zip(*[iter(parts)] * count, strict=True)


def _job(told: Sequence[bytes]) -> Job:
    fields = {name.decode(): value.decode() for name, value in _by(2, told)}
    moments = {name: float(fields[name]) if name in fields else None for name in MOMENTS}
    return Job(
        id=fields["id"],
        owner=fields["owner"],
        task=fields["task"],
        state=cast("JobState", fields["state"]),
        priority=int(fields["priority"]),
        total=int(fields["total"]),
        done=int(fields["done"]),
        failed=int(fields["failed"]),
        dead=int(fields["dead"]),
        number=int(fields["number"]),
        began=int(fields["began"]),
        created=float(fields["created"]),
        **moments,
        webhook=fields.get("webhook"),
        calls=int(fields.get("calls", 0)),
        fault=fields.get("fault", ""),
        inputs=int(fields["inputs"]),
    )


def _outcome(told: bytes, number: bytes) -> Outcome:
    place, state, outcome = told.split(b":", 2)
    return Outcome(int(place), int(number), cast("OutcomeState", state.decode()), outcome)


def _item(job: bytes, place: bytes, order: bytes, tries: bytes, deaths: bytes) -> Item:
    return Item(job.decode(), int(place), order, int(tries), int(deaths))
