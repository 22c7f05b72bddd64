"""`--server URL`: the same work as jobs of a server, which may have workers on many machines.

Inputs go out some at a time, each time as one job, so that the server's other callers are not held up, and its outcomes are
told as they come. Of a job that fails to be taken in because of one input, the others are handed in without it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import to_json

from sensorium.batch.hands import CHUNK, Chunk, Settle, Take, error_outcome
from sensorium.batch.inputs import Item
from sensorium.client import Remote, Server
from sensorium.client.jobs import RemoteJobs
from sensorium.errors import (
    BudgetSpent,
    DeadlineExceeded,
    InvalidAnswer,
    InvalidInput,
    JobGone,
    Overloaded,
    SensoriumError,
    ServerUnreachable,
    StorageFailed,
    Unavailable,
    UnknownJob,
)
from sensorium.schemas.base import Request

T = TypeVar("T")

ITEMS = 64
"""Of a job, at most: so long an interruption may wait, and so many are uploaded before the first is begun."""

AT_ONCE = 4 * ITEMS
"""Inputs under way, unless it is said otherwise: enough for the workers of several machines."""

UPLOADED_BYTES = 32_000_000
"""Of the files that come with a job; a larger one comes alone."""

UPLOADING_SECONDS = 300.0
"""How long that may take."""

PATIENCE_SECONDS = 120.0
"""How long a server that answered before may be away, or unable to keep what it is given."""

PAUSE_SECONDS = 1.0
"""Between two tries, at least."""

FAREWELL_SECONDS = 5.0
"""How long it may take to call off what is under way."""

MOST_LOST = 3
"""How often a server may forget a job before it is left."""


class ServerHands:
    """Stands in for `Hands`. Must be closed."""

    def __init__(
        self,
        server: Server,
        request: Callable[[Item], Request],
        take: Take,
        settle: Settle,
        at_once: int | None,
        manner: Mapping[str, Any],
    ) -> None:
        """`request` makes that of an input; `manner`: how each is to be served, as `manner_of` says it."""
        most = at_once or AT_ONCE
        self._lanes = -(-most // ITEMS)
        self._most = -(-most // self._lanes)
        wide = server.model_copy(update={"timeout": UPLOADING_SECONDS, "connections": 2 * self._lanes})
        self._remote = Remote(wide)
        self._jobs = RemoteJobs(self._remote)
        self._request, self._take, self._settle, self._manner = request, take, settle, manner
        self._open: set[str] = set()
        self._reached = False
        self.stopping = False
        """Whether what is not under way is left."""

    async def work(self) -> None:
        """Until there is nothing to take. Raises ServerUnreachable, and what every further input would meet."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._lanes):
                    group.create_task(self._lane())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from failed.exceptions[0].__cause__

    async def close(self) -> None:
        """Call off what is under way, and close the connections."""
        with suppress(SensoriumError, TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await asyncio.gather(*map(self._jobs.cancel, self._open), return_exceptions=True)
        await self._remote.aclose()

    async def _lane(self) -> None:
        """One job after the other."""
        while not self.stopping and (items := await self._some()):
            for part in await asyncio.to_thread(_parts, items):
                if not self.stopping:
                    await self._do(part)

    async def _some(self) -> Chunk:
        """As many as a job may have; fewer where they come slowly."""
        items: Chunk = []
        while room := self._most - len(items):
            found = await self._take(min(room, CHUNK))
            items += found
            if len(found) < min(room, CHUNK):
                break
        return items

    async def _do(self, items: Chunk) -> None:
        """Have each settled, by halves where one of them keeps the others from being taken in."""
        try:
            for _ in range(MOST_LOST):
                items = await self._told(await self._handed_in(items), items)
                if not items:
                    return
        except (InvalidInput, DeadlineExceeded) as error:
            if len(items) == 1:
                await self._settle(items, [error_outcome(error)])
                return
            half = len(items) // 2
            await self._do(items[:half])
            await self._do(items[half:])
        else:
            raise Unavailable("The server forgot a job that was under way", why=f"{MOST_LOST} times in a row")

    async def _handed_in(self, items: Chunk) -> str:
        """The job's id."""
        requests, key = [self._request(item) for item in items], secrets.token_hex(16)
        job = await self._patiently(partial(self._jobs.hand_in, requests, self._manner, idempotency_key=key))
        self._reached = True
        self._open.add(job.id)
        return job.id

    async def _told(self, job: str, items: Chunk) -> Chunk:
        """Settle items as their outcomes come; those that the server has forgotten."""
        left, after = dict(enumerate(items)), 0
        while left:
            try:
                page = await self._patiently(partial(self._jobs.told, job, after))
            except (UnknownJob, JobGone):
                break
            told = [(int(one.get("index", -1)), self._outcome(one)) for one in page.outcomes]
            new = {index: outcome for index, outcome in told if index in left}
            await self._settle([left.pop(index) for index in new], list(new.values()))
            if left and page.job.over and not told:
                raise Unavailable(f"Job {job} has ended before its time", why=f"at the server it is {page.job.state}")
            after = page.next
        self._open.discard(job)
        return list(left.values())

    def _outcome(self, told: Mapping[str, Any]) -> bytes:
        match told:
            case {"result": dict(result)}:
                return to_json({"result": result})
            case {"error": {"code": str(), "message": str()} as error}:
                return to_json({"error": error})
        raise InvalidAnswer(f"The answer of {self._remote.server.origin} cannot be used", why="an item has no outcome")

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What it returns, also when a server that has answered before is full, or away for a while."""
        away = 0.0
        while True:
            try:
                return await ask()
            except BudgetSpent:
                raise  # which may last for a month
            except Overloaded as error:
                pause, away = max(PAUSE_SECONDS, error.retry_after_seconds), 0.0
            except (ServerUnreachable, StorageFailed):
                pause, away = PAUSE_SECONDS, away + PAUSE_SECONDS
                if not self._reached or away > PATIENCE_SECONDS:
                    raise
            await asyncio.sleep(pause)


def _parts(items: Chunk) -> list[Chunk]:
    """Items that go well together: files and addresses apart, not too many bytes, and one that is not there alone."""
    parts: list[Chunk] = []
    addresses: Chunk = []
    room = -1
    for item in items:
        size = _size(item)
        if size is None:
            addresses.append(item)
            continue
        if size > room:
            parts.append([])
            room = UPLOADED_BYTES
        parts[-1].append(item)
        room -= size
    return [*parts, addresses] if addresses else parts


def _size(item: Item) -> int | None:
    """The bytes of a file; all that there may be where it cannot be read. None: there is none to be sent."""
    match item.source:
        case {"path": place}:
            try:
                return Path(place).stat().st_size
            except (OSError, ValueError):
                return UPLOADED_BYTES
        case {"data": data}:
            return len(data)
    return None
