"""Jobs of a server: work that goes on there without its client.

with sensorium.connect("http://host:8000") as server:
    job = server.jobs.submit("classify", ["a.jpg", "b.jpg"], top_k=3)
    for index, outcome in server.jobs.outcomes(job):     # as they come, errors too
        ...
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from sensorium.client.remote import Remote
from sensorium.client.wire import error_of, fields_of, file_of, form_of, manner_of, result_of
from sensorium.deadline import checked_seconds
from sensorium.errors import DeadlineExceeded, InvalidAnswer, ServerUnreachable
from sensorium.media.source import Source
from sensorium.registry import Registry
from sensorium.schemas.base import Request, wrong_fields
from sensorium.schemas.jobs import JobInfo, JobState
from sensorium.verbs import Asked, awaited, waited_for

T = TypeVar("T")

FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.05, 1.0
"""How often it is looked whether there is something new: seldomer while there is nothing."""

PATIENCE_SECONDS = 60.0
"""How long a server may be away while its job is waited for: the job goes on when it starts again."""

PAGE = 100
"""Outcomes or jobs that are fetched at once."""


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What became of one item of a job; `index, outcome = ...` takes it apart."""

    index: int
    """Which one, from 0."""
    outcome: Any
    """The task's result, or the SensoriumError."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.index, self.outcome))


class JobPage(NamedTuple):
    """How a job stands, and outcomes that came since."""

    job: JobInfo
    outcomes: list[JobOutcome]
    next: int
    """Send it as `after` for those that come next."""


class ToldPage(NamedTuple):
    """As `JobPage`."""

    job: JobInfo
    outcomes: Sequence[Mapping[str, Any]]
    """Each with its `index`, and a `result` or an `error`."""
    next: int


class RemoteJobs:
    """The jobs of a server, in the loop of its Remote."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    async def submit(
        self,
        task: str,
        given: Sequence[Any],
        fields: Mapping[str, Any],
        *,
        priority: int = 0,
        idempotency_key: str | None = None,
        webhook: str | None = None,
    ) -> JobInfo:
        """Hand in what a verb would be called with; the first of `given` may be a list, of an item each."""
        asked = Asked.of(task, dict(fields))
        manner = manner_of(asked.how["options"], asked.how["timeout"])
        own = {"priority": priority, **({"webhook": webhook} if webhook else {})}
        return await self.hand_in(_requests(asked, given), manner, idempotency_key=idempotency_key, **own)

    async def hand_in(
        self, requests: Sequence[Request], manner: Mapping[str, Any], *, idempotency_key: str | None = None, **own: Any
    ) -> JobInfo:
        """As `submit`, what is made already: requests of one task, how each is to be served, and what is the job's own."""
        key = idempotency_key or secrets.token_hex(16)
        return await self._handed_in(requests, manner, {"task": requests[0].task, "idempotency_key": key, **own})

    async def get(self, job: str | JobInfo) -> JobInfo:
        return self._understood(await self._remote.call("GET", f"/v1/jobs/{_id(job)}", params={"limit": "0"}))

    async def cancel(self, job: str | JobInfo) -> JobInfo:
        return self._understood(await self._remote.call("DELETE", f"/v1/jobs/{_id(job)}"))

    async def listed(self, state: JobState | None = None, limit: int | None = None) -> list[JobInfo]:
        """The caller's own, the newest first."""
        found: list[JobInfo] = []
        before = ""
        while limit is None or len(found) < limit:
            most = PAGE if limit is None else min(PAGE, limit - len(found))
            params = {"state": state or "", "before": before, "limit": str(most)}
            page = self._json(await self._remote.call("GET", "/v1/jobs", params=params))
            found += [self._understood(to_json(one)) for one in page.get("jobs", ())]
            before = page.get("next") or ""
            if not before:
                break
        return found

    async def wait(
        self,
        job: str | JobInfo,
        timeout: float | None = None,  # noqa: ASYNC109 - ends in our error
        tell: Callable[[JobInfo], None] = lambda job: None,  # noqa: ARG005
    ) -> JobInfo:
        """The job once it has ended; `tell` hears how far it is meanwhile."""
        end = None if timeout is None else time.monotonic() + checked_seconds(timeout)
        pause = FIRST_LOOK_SECONDS
        while True:
            found = await self._patiently(partial(self.get, job))
            tell(found)
            if found.over:
                return found
            if end is not None and time.monotonic() + pause > end:
                raise DeadlineExceeded(
                    f"Job {found.id} has not ended", why=f"{timeout:g} s were allowed", fix="It goes on; wait again"
                )
            await asyncio.sleep(pause)
            pause = min(LONGEST_LOOK_SECONDS, pause * 1.5)

    async def more(self, job: str | JobInfo, after: int = 0) -> JobPage:
        """Outcomes that follow that one, once there are any or the job has ended."""
        told = await self.told(job, after)
        return JobPage(told.job, [self._outcome(told.job.task, one) for one in told.outcomes], told.next)

    async def told(self, job: str | JobInfo, after: int = 0) -> ToldPage:
        """As `more`, the outcomes as the server tells them."""
        pause = FIRST_LOOK_SECONDS
        while True:
            page = await self._patiently(partial(self._page, job, after))
            if page.outcomes or page.job.over:
                return page
            await asyncio.sleep(pause)
            pause = min(LONGEST_LOOK_SECONDS, pause * 1.5)

    async def secret(self) -> str:
        """By which calls of this caller's webhooks are checked."""
        return str(self._json(await self._remote.call("GET", "/v1/webhooks/secret")).get("secret", ""))

    async def _page(self, job: str | JobInfo, after: int) -> ToldPage:
        params = {"after": str(after), "limit": str(PAGE)}
        told = await self._remote.call("GET", f"/v1/jobs/{_id(job)}", params=params)
        page = self._json(told)
        return ToldPage(self._understood(told), page.get("outcomes", ()), int(page.get("next", after)))

    def _outcome(self, task: str, told: Mapping[str, Any]) -> JobOutcome:
        origin = self._remote.server.origin
        if "result" in told:
            answer = Registry().task(task).request.answer
            return JobOutcome(int(told["index"]), result_of(answer, to_json(told["result"]), origin))
        return JobOutcome(int(told["index"]), error_of(500, {}, to_json({"error": told.get("error")}), origin))

    async def _handed_in(
        self, requests: Sequence[Request], manner: Mapping[str, Any], own: Mapping[str, Any]
    ) -> JobInfo:
        await self._fetch_urls(requests)
        field = _common_field(requests)
        if field:
            fields = {**await fields_of(requests[0].altered(**{field: Source.held(b"")})), **manner, **own}
            del fields[field]
            sources = [getattr(request, field) for request in requests]
            return self._understood(
                await self._remote.call("POST", "/v1/jobs", partial(form_of, fields, field, sources))
            )
        async with self._sent_ahead(requests) as known:
            moved = [request.moved(lambda source: known.get(source, source)) for request in requests]
            body = {**own, "requests": [{**await fields_of(request), **manner} for request in moved]}
            return self._understood(await self._remote.call("POST", "/v1/jobs", partial(_as_json, body)))

    async def _fetch_urls(self, requests: Sequence[Request]) -> None:
        if not self._remote.server.pass_urls:
            for source in (source for request in requests for source in request.sources()):
                if source.url is not None:
                    await source.read()

    @asynccontextmanager
    async def _sent_ahead(self, requests: Sequence[Request]) -> AsyncIterator[dict[Source, Source]]:
        """Files of this machine as the server then knows them; deleted at the end, for jobs keep what they need."""
        known: dict[Source, Source] = {}
        try:
            for source in (source for request in requests for source in request.sources()):
                if source.reference is None and source not in known:
                    told = await self._remote.call("POST", "/v1/files", partial(file_of, source))
                    known[source] = Source.uploaded(str(self._json(told).get("id")))
            yield known
        finally:
            for kept in known.values():
                await self._remote.call("DELETE", f"/v1/files/{kept.reference}")

    async def _patiently(self, look: Callable[[], Awaitable[T]]) -> T:
        """What it returns, also when the server is away for a while."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await look()
            except ServerUnreachable:
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(LONGEST_LOOK_SECONDS)

    def _json(self, told: bytes) -> Mapping[str, Any]:
        try:
            page = from_json(told)
        except ValueError:
            page = None
        if not isinstance(page, dict):
            raise InvalidAnswer(
                f"The answer of {self._remote.server.origin} cannot be used", why="it is no JSON object"
            )
        return page

    def _understood(self, told: bytes) -> JobInfo:
        try:
            return JobInfo.model_validate_json(told, extra="ignore")
        except ValidationError as error:
            why = f"it is no job ({wrong_fields(error, JobInfo)})"
            raise InvalidAnswer(f"The answer of {self._remote.server.origin} cannot be used", why=why) from error


@dataclass(frozen=True, slots=True)
class Jobs:
    """A server's jobs, from plain code: each method waits for the server's answer."""

    _answerer: Callable[[], Remote]

    def submit(
        self,
        task: str,
        *given: Any,
        priority: int = 0,
        idempotency_key: str | None = None,
        webhook: str | None = None,
        **fields: Any,
    ) -> JobInfo:
        """Hand in what the verb of that name would be called with: one picture, or a list of up to 1,000.

        Sent again with the same `idempotency_key`, it is the job that there is. Raises as the verb, and IdempotencyConflict.
        """
        how: dict[str, Any] = {"priority": priority, "idempotency_key": idempotency_key, "webhook": webhook}
        return waited_for(self._there.submit(task, given, fields, **how))

    def get(self, job: str | JobInfo) -> JobInfo:
        """How it stands. Raises UnknownJob and JobGone."""
        return waited_for(self._there.get(job))

    def wait(self, job: str | JobInfo, timeout: float | None = None) -> JobInfo:
        """The job once it has ended. Raises DeadlineExceeded after so many seconds; the job goes on."""
        return waited_for(self._there.wait(job, timeout))

    def cancel(self, job: str | JobInfo) -> JobInfo:
        """End it; what has an outcome keeps it."""
        return waited_for(self._there.cancel(job))

    def list(self, state: JobState | None = None, limit: int | None = None) -> Sequence[JobInfo]:
        """Your own jobs, the newest first."""
        return waited_for(self._there.listed(state, limit))

    def outcomes(self, job: str | JobInfo) -> Iterator[JobOutcome]:
        """Each item's result or error as it comes, until the job has ended."""
        after = 0
        while True:
            page = waited_for(self._there.more(job, after))
            yield from page.outcomes
            if page.job.over and not page.outcomes:
                return
            after = page.next

    @property
    def _there(self) -> RemoteJobs:
        return RemoteJobs(self._answerer())


@dataclass(frozen=True, slots=True)
class AsyncJobs:
    """A server's jobs, for `await` in any event loop; as `Jobs`."""

    _answerer: Callable[[], Remote]

    async def submit(
        self,
        task: str,
        *given: Any,
        priority: int = 0,
        idempotency_key: str | None = None,
        webhook: str | None = None,
        **fields: Any,
    ) -> JobInfo:
        """Hand in what the verb of that name would be called with: one picture, or a list of up to 1,000."""
        how: dict[str, Any] = {"priority": priority, "idempotency_key": idempotency_key, "webhook": webhook}
        return await awaited(self._there.submit(task, given, fields, **how))

    async def get(self, job: str | JobInfo) -> JobInfo:
        """How it stands. Raises UnknownJob and JobGone."""
        return await awaited(self._there.get(job))

    async def wait(self, job: str | JobInfo, timeout: float | None = None) -> JobInfo:  # noqa: ASYNC109
        """The job once it has ended. Raises DeadlineExceeded after so many seconds; the job goes on."""
        return await awaited(self._there.wait(job, timeout))

    async def cancel(self, job: str | JobInfo) -> JobInfo:
        """End it; what has an outcome keeps it."""
        return await awaited(self._there.cancel(job))

    async def list(self, state: JobState | None = None, limit: int | None = None) -> Sequence[JobInfo]:
        """Your own jobs, the newest first."""
        return await awaited(self._there.listed(state, limit))

    async def outcomes(self, job: str | JobInfo) -> AsyncIterator[JobOutcome]:
        """Each item's result or error as it comes, until the job has ended."""
        after = 0
        while True:
            page = await awaited(self._there.more(job, after))
            for outcome in page.outcomes:
                yield outcome
            if page.job.over and not page.outcomes:
                return
            after = page.next

    @property
    def _there(self) -> RemoteJobs:
        return RemoteJobs(self._answerer())


def _requests(asked: Asked, given: Sequence[Any]) -> list[Request]:
    """Raises what is wrong with any of them: unlike a verb, a job is not begun then."""
    if not given or not isinstance(given[0], (list, tuple)):
        return [asked.request(given)]
    asked.check_list(given[0])
    several = asked.kind.gathers is not None
    return [
        asked.request([*(one if several and isinstance(one, (list, tuple)) else [one]), *given[1:]]) for one in given[0]
    ]


def _common_field(requests: Sequence[Request]) -> str:
    """The field that holds the one picture of each request, all of which are files here: then a form carries them."""
    names = requests[0].source_fields()
    alone = all(len(list(one.sources())) == 1 and getattr(one, names[0], None) is not None for one in requests if names)
    here = all(source.reference is None for one in requests for source in one.sources())
    return names[0] if names and alone and here else ""


@asynccontextmanager
async def _as_json(body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield {"json": body}


def _id(job: str | JobInfo) -> str:
    """Made safe for a path: whoever typed it may have typed anything."""
    text = job.id if isinstance(job, JobInfo) else job
    return text if text.isalnum() else "none"
