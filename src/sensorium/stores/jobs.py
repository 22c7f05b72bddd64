"""Jobs: work that outlives who asked for it and the process that took it.

    job = await store.submit(Submission(...))                 # once, however often it is sent with the same key
    for item in await store.claim("worker 1", most=16, ...):  # leased: the worker says again and again that it lives
        ...
    await store.settle("worker 1", [Settled(item.job, item.place, "done", outcome)])

Work is done at least once, and its outcome kept exactly once: the first one counts. Orders and outcomes are bytes that a
store passes on as they are. Every change of a job has a number, so that a reader goes on where it was: what is told of a
job is read from here, in any process and after any restart. `jobs_sqlite.py` keeps jobs in a file, `jobs_redis.py` in
Redis.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pydantic_core import from_json, to_json

from sensorium.errors import FilesFull, IdempotencyConflict, JobGone, JobsFull, UnknownJob, WorkerDied
from sensorium.schemas.jobs import ENDED, JobState, OutcomeState

REMEMBERED_SECONDS = 30 * 86400.0
"""For how long it is known of a job that it was there."""

MOST_OPEN = 10_000
"""Jobs of one owner that have not ended, unless a store is told otherwise."""

FULL_SECONDS = 5.0
"""After which it is worth trying again to submit."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Before an item is tried for the second time, in seconds; doubled each time."""


UNBOUNDED = 2**62
"""Bytes: as many as there is room for."""

LONGEST_REST, LONGEST_SILENCE = 600.0, 43_200.0
"""Seconds that no item rests before it is tried again, and that no call waits before it is made again. What seems to was
put off before the clock was set back, and is due."""

LARGEST_PAGE = 8 * 2**20
"""Bytes of outcomes that are told at once, unless one alone has more."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job as it comes in."""

    id: str
    """32 hex digits."""
    owner: str
    """The caller's name: nobody else finds the job."""
    task: str
    orders: tuple[bytes, ...]
    """What is to be done, an item each."""
    outcomes: Mapping[int, bytes] = field(default_factory=dict)
    """By place, the errors of those orders that could not even be read."""
    priority: int = 0
    """Higher goes first among the jobs of one owner."""
    key: str | None = None
    """By which the owner's same submission is known again."""
    digest: str = ""
    """By which it is seen that a submission with the same key is the same."""
    webhook: str | None = None
    inputs: int = 0
    """Bytes of files of its own that lie aside for it, by its id; 0 where there are none."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands. Times are in seconds since 1970."""

    id: str
    owner: str
    task: str
    state: JobState
    priority: int
    total: int
    done: int
    failed: int
    dead: int
    number: int
    """Of its latest change; that of an ended job is its end."""
    began: int
    """The number of the change to `running`; 0: none yet."""
    created: float
    started: float | None = None
    ended: float | None = None
    expires: float | None = None
    """When it will be forgotten; None while it has not ended."""
    webhook: str | None = None
    calls: int = 0
    """How often its webhook was called."""
    fault: str = ""
    """Why the last of these calls failed; empty when it did not, or there was none."""
    attend_at: float | None = None
    """When there is something to be seen to, once it has ended; None: never more."""
    inputs: int = 0

    @property
    def over(self) -> bool:
        return self.state in ENDED

    @property
    def settled(self) -> int:
        """Items that have an outcome."""
        return self.done + self.failed + self.dead


class Outcome(NamedTuple):
    """What became of one item."""

    place: int
    """Which item it is, from 0."""
    number: int
    """Of the change of its job."""
    state: OutcomeState
    outcome: bytes


class Item(NamedTuple):
    """One item that a worker holds."""

    job: str
    place: int
    order: bytes
    tries: int
    """How often it was tried before, and failed in a way that may pass."""
    deaths: int
    """How often its worker died with it. Such an item is tried alone."""


class Settled(NamedTuple):
    """What a worker says of an item."""

    job: str
    place: int
    state: OutcomeState | None
    """None: it is to be tried again, after so many seconds."""
    outcome: bytes = b""
    after: float = 0.0


class Called(NamedTuple):
    """What became of a call of a job's webhook."""

    fault: str = ""
    """Why it failed; empty when it did not."""
    after: float | None = None
    """In how many seconds to call again; None: never."""


class Counts(NamedTuple):
    """How much there is to do."""

    waiting: int
    """Jobs of which nobody has begun an item."""
    running: int
    items: int
    """Items without an outcome."""


class JobStore(Protocol):
    """Belongs to the event loop that it is first used in. What is submitted or settled is kept before the call returns.

    Every method raises StorageFailed when the store cannot be reached, or cannot keep what it is given.
    """

    async def submit(self, submission: Submission) -> Job:
        """Take a job in; the one that is there, when its owner sent it before with the same key.

        Raises IdempotencyConflict when it was another job that came with this key, JobsFull while as many jobs of the owner
        as are allowed have not ended, and FilesFull when the owner's jobs have too many bytes aside.
        """

    async def find(self, identity: str, owner: str) -> Job:
        """Raises UnknownJob when this owner has none of that id; JobGone when it has expired."""

    async def listed(self, owner: str, state: JobState | None, before: str | None, most: int) -> list[Job]:
        """The owner's jobs, the newest first; of those that were submitted before that one."""

    async def outcomes(self, identity: str, after: int, most: int) -> list[Outcome]:
        """Outcomes whose numbers follow that one, in the order of their numbers: so many at most, fewer where they are
        large, and none only where there are no more."""

    async def cancel(self, identity: str, owner: str) -> Job:
        """End a job: what has no outcome gets none. One that has ended stays as it is. Raises as `find`."""

    async def claim(self, worker: str, most: int, seconds: float, *, idle: bool) -> list[Item]:
        """Lease items for so many seconds, evenly among the owners who wait.

        An item that died with a worker is given alone, and only to one that is `idle`; while such a one waits, others
        get none. What leases that ran out left behind is handed out again; one that runs longer than `seconds`, because the
        clock was set back, is cut.
        """

    async def renew(self, worker: str, seconds: float) -> set[tuple[str, int]]:
        """Lease for so many seconds from now on all that the worker holds: by job and place. What is missing is not its own any more."""

    async def settle(self, worker: str, settled: Sequence[Settled]) -> None:
        """Keep outcomes. One of an item that has an outcome already, or whose job has ended, changes nothing."""

    async def give_back(self, worker: str) -> None:
        """All that the worker holds waits again, as if nobody had taken it."""

    async def lost(self, worker: str) -> None:
        """As `give_back`, for a worker that died: its items are tried again, each alone, after a pause; or are dead, after too many deaths."""

    async def unattended(self, most: int, seconds: float, without: Collection[str] = ()) -> list[Job]:
        """Jobs that have ended and have files or a webhook to be seen to, those that waited longest first; none of the
        owners who are named.

        For so many seconds nobody else is given them.
        """

    async def attended(self, identity: str, called: Called | None = None, *, emptied: bool = False) -> None:
        """All has been seen to that was to be done when the job had ended; unless a call is to be made again.

        `emptied`: its files are gone.
        """

    async def forget_old(self) -> list[str]:
        """Forget jobs whose time is over, but for that they were there; their ids."""

    async def unknown(self, identities: Collection[str]) -> set[str]:
        """Those of the ids under which there is no job."""

    async def counts(self) -> Counts:
        """How much there is to do, of all owners."""

    async def close(self) -> None:
        """Give files and threads back."""


def pause_after(failures: int) -> float:
    """Seconds until an item that failed so often is tried again."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16))


def dead(order: bytes, deaths: int) -> bytes:
    """The outcome of an item that ended its worker so often."""
    error = WorkerDied(
        "The item was given up",
        why=f"each time that it was tried, {deaths} times, the process that worked on it died",
        fix="Leave it out; its operator finds more in the server's log",
    )
    return to_json({"error": {**error.as_dict(), "trace": from_json(order).get("trace", "")}})


def unknown() -> UnknownJob:
    return UnknownJob(
        "There is no such job", why="it is unknown, or another key's", fix="Use the id of one of your own"
    )


def gone() -> JobGone:
    return JobGone("The job is gone", why="it ended long ago, and its time was over", fix="Submit it again")


def full(quota: int) -> FilesFull:
    why = f"your jobs would have more than {quota:,} bytes aside (`job_quota_bytes`)"
    return FilesFull("There is no room for the job's files", why=why, fix="Wait for jobs to end, or send fewer")


def conflict() -> IdempotencyConflict:
    why, fix = "another job was submitted with it", "Use a new key for each job"
    return IdempotencyConflict("The idempotency key is taken", why=why, fix=fix)


def too_many(most: int) -> JobsFull:
    why = f"{most:,} of your own wait or are worked on, which is as many as may"
    return JobsFull("The job is not taken in", why=why, retry_after_seconds=FULL_SECONDS)
