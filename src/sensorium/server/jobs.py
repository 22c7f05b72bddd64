"""`/v1/jobs`: work that goes on without its client, handed in, watched, fetched and called off.

POST   /v1/jobs               {"task": "classify", "requests": [{"image": "https://..."}, ...]} -> 202 and the job
GET    /v1/jobs               the caller's own, the newest first
GET    /v1/jobs/<id>          how it stands, and the outcomes that follow `after`
GET    /v1/jobs/<id>/events   the same as it comes, as server-sent events
DELETE /v1/jobs/<id>          ends it; what has an outcome keeps it
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import AfterValidator, Field
from pydantic_core import to_json
from starlette.requests import Request as WebRequest
from starlette.routing import Route

from sensorium.config import Settings
from sensorium.engine import Caller, Options
from sensorium.errors import InvalidRequest, SensoriumError, ServiceClosed
from sensorium.jobs.crew import WAKER, Crew, has_crew, wake
from sensorium.jobs.desk import Desk, Wanted
from sensorium.jobs.place import open_jobs, open_shared
from sensorium.jobs.revoked import Revocations
from sensorium.jobs.telling import about, progress
from sensorium.jobs.webhooks import Webhooks
from sensorium.registry import Registry, Task
from sensorium.schemas.base import Frozen, Request, checked
from sensorium.schemas.jobs import MOST_ITEMS, JobState
from sensorium.server import pages
from sensorium.server.auth import asks_for_keys
from sensorium.server.door import CALLER, Door, House, Visit, head_of
from sensorium.server.events import Talk
from sensorium.server.facades import native
from sensorium.server.facades.base import Facade, Message, Plan, Reply, key_of
from sensorium.server.facades.native_page import EXAMPLE_URL
from sensorium.server.pages import answer, parameter
from sensorium.server.resume import IDENTITY, LAST, PLACE, Resuming
from sensorium.server.run_folder import VARIABLE
from sensorium.service import Sensorium
from sensorium.stores import keys
from sensorium.stores.jobs import Job, JobStore, Outcome, unknown
from sensorium.stores.keys import SqliteKeys

if TYPE_CHECKING:
    from sensorium.jobs.celery import Dispatcher

LIST = "/v1/jobs"
ONE = "/v1/jobs/{job}"
EVENTS = "/v1/jobs/{job}/events"
SIGNING = "/v1/webhooks/secret"

USUAL_PAGE, LARGEST_PAGE = 100, 1000
"""Outcomes or jobs that are told at once."""

LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.1, 1.0
"""How often it is looked what is new of a job that is watched: seldomer while nothing is."""

AT_ONCE = 256
"""Events that are read in one go."""

KEY = "idempotency-key"

operation = partial(pages.operation, tag="jobs")


def _whole_url(text: str) -> str:
    if not text.lower().startswith(("http://", "https://")):
        raise ValueError("write a whole URL, such as https://example.com/hook")
    return text


class Asked(Frozen):
    """A job as it is handed in."""

    task: str = Field(max_length=200, examples=["classify"])
    """The task of all its requests."""
    requests: tuple[dict[str, Any], ...] = Field(default=(), max_length=MOST_ITEMS)
    """The requests, each as `POST /v1/<task>` takes it."""
    request: dict[str, Any] | None = None
    """In place of `requests`: a single one."""
    priority: int = Field(default=0, ge=-100, le=100)
    """Higher goes first among your own jobs."""
    idempotency_key: str | None = Field(default=None, min_length=1, max_length=200)
    """By which the same submission, sent again, is known: it is answered by the job that there is. Or the header `Idempotency-Key`."""
    webhook: Annotated[str, Field(max_length=2000), AfterValidator(_whole_url)] | None = None
    """The URL to call when the job has ended."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What a message hands in."""

    asked: Asked
    wanted: tuple[Wanted, ...]


class Jobs:
    """All that `/v1/jobs` needs while the server runs."""

    def __init__(self, house: House, tasks: Sequence[Task]) -> None:
        self._house = house
        self._shapes = {task.name: native.Shape(task.request) for task in tasks}
        self.webhooks = Webhooks(house.settings)
        self._crew: Crew | None = None
        self._dispatcher: Dispatcher | None = None
        self._desk: Desk | None = None
        self._revoking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """In the loop that serves."""
        await self._open()
        settings = self._house.settings
        if asks_for_keys(settings):
            self._keys = SqliteKeys(settings.data_dir / keys.FILE)
            self._revoking = asyncio.create_task(Revocations(self._keys, self.desk.store).run())

    async def _open(self) -> None:
        settings = self._house.settings
        if settings.jobs == "celery":
            await self._open_celery(settings)
            return
        waker = int(os.environ.get(WAKER, "-1"))
        if waker < 0 and has_crew(settings):
            self._crew = Crew(settings, self._environment)
            self._crew.open()
            waker = self._crew.waker
        self._desk = Desk(*open_jobs(settings), lambda items: wake(waker, min(items, settings.job_workers)))

    async def _open_celery(self, settings: Settings) -> None:
        from sensorium.jobs.celery import Dispatcher

        store, files = open_shared(settings)
        self._dispatcher = Dispatcher(settings, store)
        self._dispatcher.open()
        self._desk = Desk(store, files, self._dispatcher.wake)

    async def close(self) -> None:
        if self._revoking:
            self._revoking.cancel()
            await asyncio.wait([self._revoking])
            await self._keys.close()
        if self._crew:
            await asyncio.to_thread(self._crew.close)
        if self._dispatcher:
            await self._dispatcher.close()
        if self._desk:
            await self._desk.store.close()

    @property
    def desk(self) -> Desk:
        """Raises ServiceClosed before the server has started."""
        if self._desk is None:
            raise ServiceClosed("The server is not running", fix="Try again in a moment")
        return self._desk

    def door_of(self, facade: Facade) -> Route:
        """A facade's route, where what is asked may become a job."""
        return Route(facade.path, Postponing(facade, self._house, self), methods=[facade.method])

    def door(self) -> Route:
        """Where jobs are handed in."""
        facade = Facade(LIST, self._parse, _taken, native.refuse, lambda: operations()[LIST]["post"])
        return Route(LIST, Handing(facade, self._house, self), methods=["POST"])

    def events(self) -> Route:
        """Where they are watched."""
        route = Route(EVENTS, Watching(self._house, self), methods=["GET"])
        route.methods = {"GET"}  # a HEAD would wait for the end
        return route

    async def listed(self, request: WebRequest) -> Reply:
        query = head_of(request.scope).query
        state, limit = query.get("state") or None, _number(query, "limit", USUAL_PAGE, LARGEST_PAGE)
        if state is not None and state not in get_args(JobState):
            raise InvalidRequest("`state` is none of a job's", fix=f"There are: {', '.join(get_args(JobState))}")
        before = query.get("before") or None
        if before is not None and not (isinstance(before, str) and IDENTITY.fullmatch(before)):
            raise InvalidRequest("`before` is no id of a job", fix="Send `next` of the page before")
        caller: Caller = request.scope[CALLER]
        jobs = await self.desk.store.listed(caller.name, state, before, limit)
        more = jobs[-1].id if jobs and len(jobs) == limit else None
        return Reply(200, to_json({"jobs": [about(job) for job in jobs], "next": more}))

    async def one(self, request: WebRequest) -> Reply:
        query = head_of(request.scope).query
        after, limit = _number(query, "after", 0), _number(query, "limit", USUAL_PAGE, LARGEST_PAGE)
        job = await self._found(request)
        outcomes = await self.desk.store.outcomes(job.id, after, limit)
        return Reply(200, await self._page(job, outcomes, after))

    async def cancelled(self, request: WebRequest) -> Reply:
        job = await self._found(request)
        return Reply(200, to_json(about(await self.desk.cancel(job.id, request.scope[CALLER]))))

    async def secret(self, request: WebRequest) -> Reply:
        """By which the caller checks who calls its webhooks."""
        caller: Caller = request.scope[CALLER]
        return Reply(200, to_json({"secret": await self.webhooks.secret(caller.name)}))

    async def _found(self, request: WebRequest) -> Job:
        identity: str = request.path_params["job"]
        if not IDENTITY.fullmatch(identity):
            raise unknown()
        return await self.desk.store.find(identity, request.scope[CALLER].name)

    async def _page(self, job: Job, outcomes: Sequence[Outcome], after: int) -> bytes:
        """The job, why it failed, and the outcomes as they were written."""
        error = b"null"
        if job.state == "failed":
            (first,) = await self.desk.store.outcomes(job.id, 0, 1)
            error = first.outcome.removeprefix(b'{"error":')[:-1]
        told = b",".join(_outcome(one) for one in outcomes)
        page = to_json({**about(job), "next": outcomes[-1].number if outcomes else after})
        return b'%b,"error":%b,"outcomes":[%b]}' % (page[:-1], error, told)

    def _parse(self, message: Message) -> Plan:
        fields = {**message.fields} if message.typed else _nested({**message.query, **message.fields})
        if (key := message.headers.get(KEY)) is not None:
            fields.setdefault("idempotency_key", key)
        asked = checked(Asked, fields, "a job")
        shape = self._shapes.get(asked.task)
        if shape is None:
            Registry().task(asked.task)  # which says what there is
            raise InvalidRequest(f"{asked.task} came after the server had started", fix="Start it again")
        if (asked.request is None) == (not asked.requests):
            raise InvalidRequest("A job needs requests", fix='Send `"requests": [{...}]`, or `"request": {...}`')
        requests = asked.requests or (asked.request or {},)
        wanted: list[Wanted] = []
        for one in requests:
            wanted += _wanted(shape, message, one)
            if len(wanted) > MOST_ITEMS:  # at once: reading the rest would hold up everybody
                raise InvalidRequest(
                    "Too many items", why="lists count by their pictures", fix=f"Send at most {MOST_ITEMS:,} in a job"
                )
        return Plan((), Handed(asked, tuple(wanted)))

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, VARIABLE: str(self._house.numbers_folder())}


class Handing(Door):
    """`POST /v1/jobs`: through the same door as what is answered at once."""

    def __init__(self, facade: Facade, house: House, jobs: Jobs) -> None:
        super().__init__(facade, house)
        self._jobs = jobs

    async def _with_files(self, plan: Plan, caller: Caller) -> Plan:
        handed: Handed = plan.context
        wanted = [replace(one, request=await self._house.in_place(one.request, caller)) for one in handed.wanted]
        return plan._replace(context=replace(handed, wanted=tuple(wanted)))

    async def _answered(
        self,
        plan: Plan,
        talk: Talk | None,  # noqa: ARG002 - nothing is told as it comes
        service: Sensorium,
        trace: str,
        caller: Caller,
    ) -> Reply | None:
        asked = plan.context.asked
        await service.admit(asked.task, caller)
        if asked.webhook:
            await self._jobs.webhooks.check(asked.webhook)
        job: Any = await self._jobs.desk.submit(
            plan.context.wanted,
            caller,
            task=asked.task,
            trace=trace,
            priority=asked.priority,
            key=asked.idempotency_key,
            webhook=asked.webhook,
        )
        return self._facade.render([job], plan.context)


class Postponing(Door):
    """A facade's route, where what is asked may become a job."""

    def __init__(self, facade: Facade, house: House, jobs: Jobs) -> None:
        super().__init__(facade, house)
        self._jobs = jobs

    def _answered(
        self, plan: Plan, talk: Talk | None, service: Sensorium, trace: str, caller: Caller
    ) -> Coroutine[Any, Any, Reply | None]:
        task = next((asked.task for asked in plan.requests if isinstance(asked, Request)), None) if plan.later else None
        if task is None:
            return super()._answered(plan, talk, service, trace, caller)
        return self._postponed(plan, task, service, trace, caller)

    async def _postponed(self, plan: Plan, task: str, service: Sensorium, trace: str, caller: Caller) -> Reply:
        await service.admit(task, caller)
        options = Options(cache=plan.cache, remote=plan.remote, max_cost=plan.max_cost)
        wanted = [Wanted(asked, options, plan.timeout) for asked in plan.requests]
        job = await self._jobs.desk.submit(wanted, caller, task=task, trace=trace)
        return _taken([job], None)


class Watching(Resuming):
    """`GET /v1/jobs/<id>/events`."""

    def __init__(self, house: House, jobs: Jobs) -> None:
        super().__init__(house)
        self._jobs = jobs

    async def _told(self, visit: Visit) -> Reply | None:
        head = head_of(visit.scope)
        caller = await self._house.caller(key_of(head))
        identity, after = _place_of(visit.scope["path_params"]["job"], head.headers.get(LAST, "").strip())
        store = self._jobs.desk.store
        job = await store.find(identity, caller.name)
        if after > job.number:
            why = f"the job has told {job.number} events"
            raise InvalidRequest("`Last-Event-ID` is too high", why=why, fix="Send the last id that you have read")
        return await self._retold(visit, _Reader(self._house, store, job, after))


class _Reader:
    """Tells a job's changes from the store, in the order of their numbers."""

    def __init__(self, house: House, store: JobStore, job: Job, after: int) -> None:
        self._house, self._store, self._job, self._at = house, store, job, after
        self.over = False

    async def read(self) -> bytes:
        pause = LOOK_SECONDS
        while not self.over:
            if events := await self._new():
                return b"".join(events)
            if self._house.leaving:
                raise ServiceClosed("The server stops", fix="Come back with the last id that you have read")
            if not self.over:
                await asyncio.sleep(pause)
                pause = min(LONGEST_LOOK_SECONDS, pause * 1.5)
        return b""

    def close(self) -> None:
        """Nothing is held."""

    async def _new(self) -> list[bytes]:
        job = self._job = await self._store.find(self._job.id, self._job.owner)
        found = await self._store.outcomes(job.id, self._at, AT_ONCE)
        outcomes = [
            one for one in found if one.number <= job.number
        ]  # what came since is told with what came beside it
        events = [
            *self._states(job, outcomes),
            *((one.number, self._event(one.number, "item", _outcome(one))) for one in outcomes),
        ]
        told = [event for _, event in sorted(events)]
        if outcomes:
            told.append(b"event: progress\ndata: %b\n\n" % to_json(progress(job)))
        if events:
            self._at = max(number for number, _ in events)
        if job.over and not outcomes:
            if self._at < job.number:
                told.append(self._event(job.number, "end", to_json(about(job))))
            self._at, self.over = job.number, True
        return told

    def _states(self, job: Job, outcomes: Sequence[Outcome]) -> list[tuple[int, bytes]]:
        """The states that it went through since, as far as the outcomes go."""
        upto = outcomes[-1].number if outcomes else job.number
        entered = {1: b"waiting", **({job.began: b"running"} if job.began else {})}
        return [
            (number, self._event(number, "state", b'{"state":"%b"}' % state))
            for number, state in entered.items()
            if self._at < number <= upto
        ]

    def _event(self, number: int, kind: str, data: bytes) -> bytes:
        return b"id: %b:%d\nevent: %b\ndata: %b\n\n" % (self._job.id.encode(), number, kind.encode(), data)


def _outcome(one: Outcome) -> bytes:
    """As it was written, with which item it is of."""
    return b'{"index":%d,"state":"%b",%b' % (one.place, one.state.encode(), one.outcome.removeprefix(b"{"))


def _wanted(shape: native.Shape, message: Message, fields: Mapping[str, Any]) -> list[Wanted]:
    """The items of one request: several where it has a list of pictures."""
    one = message._replace(fields=fields, query={}, headers={})
    try:
        plan = native.parse(shape, one)
    except SensoriumError as error:
        return [Wanted(error)]
    options = Options(cache=plan.cache, remote=plan.remote, max_cost=plan.max_cost)
    return [Wanted(asked, options, plan.timeout) for asked in plan.requests]


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A form's fields: those that are not the job's own are its request's."""
    own = {name: value for name, value in fields.items() if name in Asked.model_fields and value != ""}
    if re.fullmatch(r"-?[0-9]{1,9}", str(own.get("priority"))):
        own["priority"] = int(own["priority"])
    return {**own, "request": {name: value for name, value in fields.items() if name not in Asked.model_fields}}


def _place_of(job: str, last: str) -> tuple[str, int]:
    """A job's id, and after which of its changes to go on."""
    if not IDENTITY.fullmatch(job):
        raise unknown()
    if not last:
        return job, 0
    found = PLACE.fullmatch(last)
    if found is None or found[1] != job:
        fix = "Send the last id that you have read, or none to read from the beginning"
        raise InvalidRequest("`Last-Event-ID` is no id of this job", fix=fix)
    return job, int(found[2])


def _number(query: Mapping[str, Any], name: str, usual: int, most: int | None = None) -> int:
    given = query.get(name, str(usual))
    if not (isinstance(given, str) and given.isascii() and given.isdecimal() and len(given) <= 12):
        raise InvalidRequest(f"`{name}` is no number", fix="Send digits")
    return int(given) if most is None else max(0, min(int(given), most))


def _taken(jobs: Sequence[Any], context: Any) -> Reply:  # noqa: ARG001 - as facades render
    """The answer to who handed a job in."""
    (job,) = jobs
    place = f"{LIST}/{job.id}"
    return Reply(202, to_json({**about(job), "status_url": place}), ((b"location", place.encode()),))


def operations() -> dict[str, Any]:
    """The routes, as OpenAPI describes them."""
    schema = Asked.model_json_schema()
    example = {"task": "classify", "requests": [{"image": EXAMPLE_URL}, {"image": EXAMPLE_URL, "top_k": 3}]}
    body = {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}
    form = {**schema, "properties": {**schema["properties"], "image": {"type": "string", "format": "binary"}}}
    body["content"]["multipart/form-data"] = {"schema": form}  # type: ignore[index] # a dictionary
    key = parameter("Idempotency-Key", "header", {"type": "string"}, "As `idempotency_key`")
    job = parameter("job", "path", {"type": "string", "pattern": f"^{IDENTITY.pattern}$"}, "Its id", required=True)
    state = parameter("state", "query", {"type": "string", "enum": ["", *get_args(JobState)]}, "Only those")
    before = parameter("before", "query", {"type": "string", "pattern": f"^({IDENTITY.pattern})?$"}, "Only older ones")
    limit = parameter("limit", "query", {"type": "integer", "minimum": 0, "maximum": LARGEST_PAGE}, "How many at most")
    after = parameter("after", "query", {"type": "integer", "minimum": 0}, "`next` of the page before")
    last = parameter(
        "Last-Event-ID", "header", {"type": "string", "pattern": f"^({PLACE.pattern})?$"}, "The last `id` that was read"
    )
    text = {"type": "object", "required": ["secret"], "properties": {"secret": {"type": "string"}}}
    secret = {"description": "`whsec_` and base64", "content": {"application/json": {"schema": text}}}
    stream = {
        "200": {
            "description": "What was missed, and what comes",
            "content": {"text/event-stream": {"schema": {"description": TOLD}}},
        }
    }
    return {
        LIST: {
            "post": operation(
                "submit_job", "Hand in work that goes on without you", [key], {"202": answer(_TAKEN, "The job")}, body
            ),
            "get": operation(
                "jobs", "Your own jobs, the newest first", [state, before, limit], {"200": answer(_JOBS, "The jobs")}
            ),
        },
        ONE: {
            "get": operation(
                "job",
                "How a job stands, and its outcomes",
                [job, after, limit],
                {"200": answer(_PAGE, "The job, with outcomes")},
            ),
            "delete": operation(
                "cancel_job", "End a job; what has an outcome keeps it", [job], {"200": answer(_JOB, "The job")}
            ),
        },
        EVENTS: {
            "get": operation(
                "job_events",
                "A job as it goes on",
                [job, last],
                {**stream, "204": {"description": "There is no more"}},
            )
        },
        SIGNING: {"get": operation("webhook_secret", "By which you check calls of your webhooks", [], {"200": secret})},
    }


TOLD = (
    "`state` (`waiting`, `running`), `item` (an outcome, as in the list), `progress` after items, and last `end` (the job). All but "
    "`progress` have an `id`; send the last one as `Last-Event-ID` after a broken connection. Lines that begin with a colon are signs of life."
)

_WHEN = {"type": ["string", "null"], "format": "date-time"}
_PROGRESS = {
    "type": "object",
    "properties": {name: {"type": "integer"} for name in ("total", "settled", "done", "failed", "dead")},
}
_FIELDS: dict[str, Any] = {
    "id": {"type": "string"},
    "task": {"type": "string"},
    "state": {"type": "string", "enum": [*get_args(JobState)]},
    "priority": {"type": "integer"},
    "progress": _PROGRESS,
    **dict.fromkeys(("created", "started", "ended", "expires"), _WHEN),
    "webhook": {"type": ["string", "null"]},
    "webhook_call": {
        "type": ["object", "null"],
        "description": "Whether the webhook has been told; `error` says why the last call failed",
        "required": ["state", "calls", "error"],
        "properties": {
            "state": {"type": "string", "enum": ["waiting", "delivered", "failed"]},
            "calls": {"type": "integer"},
            "error": {"type": ["string", "null"]},
        },
    },
}
_JOB = {"type": "object", "required": [*_FIELDS], "properties": _FIELDS}
_TAKEN = {
    "type": "object",
    "required": [*_FIELDS, "status_url"],
    "properties": {**_FIELDS, "status_url": {"type": "string"}},
}
_JOBS = {
    "type": "object",
    "required": ["jobs", "next"],
    "properties": {"jobs": {"type": "array", "items": _JOB}, "next": {"type": ["string", "null"]}},
}
_PAGE = {
    "type": "object",
    "required": [*_FIELDS, "next", "error", "outcomes"],
    "properties": {
        **_FIELDS,
        "next": {"type": "integer", "description": "Send it as `after` for what comes next"},
        "error": {"description": "Of a job that failed: the error of its first item"},
        "outcomes": {
            "type": "array",
            "description": "In the order in which they came: `index`, `state`, and `result` or `error`",
            "items": {"type": "object", "required": ["index", "state"]},
        },
    },
}
