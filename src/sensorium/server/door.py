"""The one way through which every facade is served: body in, plan, outcomes, reply out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from sensorium.config import Settings
from sensorium.engine import LOCAL, Caller, Delta, Listener, Options, ignore
from sensorium.errors import EngineFailed, InvalidRequest, SensoriumError, ServiceClosed
from sensorium.media import limits
from sensorium.media.source import Source
from sensorium.schemas.base import Request
from sensorium.server.auth import Guard, asks_for_keys
from sensorium.server.body import (
    MOST_PARTS,
    Arrival,
    BodyLimits,
    UploadBudget,
    Uploads,
    grouped,
    is_soon_over,
    read_body,
    refuse_when_full,
)
from sensorium.server.events import Talk
from sensorium.server.exposition import exposition
from sensorium.server.facades.base import Encoder, Facade, Message, Outcome, Plan, Reply
from sensorium.server.ownfolder import OwnFolder
from sensorium.server.recording import Recording, Recordings
from sensorium.server.resources import tell_of_this_process
from sensorium.server.run_folder import PREFIX as RUN_PREFIX
from sensorium.server.run_folder import RunFolder, run_folder, shared_folder
from sensorium.server.spool import Spool
from sensorium.server.traces import Traces
from sensorium.service import Sensorium
from sensorium.stores import cabinet, events_sqlite, usage
from sensorium.stores.cabinet import Cabinet
from sensorium.stores.events import EventLog, MemoryLog
from sensorium.stores.usage import UsageBook
from sensorium.telemetry import TELEMETRY

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON_TYPE = b"content-type", b"application/json"

TRACE, CALLER, CLIENT = "sensorium.trace", "sensorium.caller", "sensorium.client"
"""Where a scope holds the request's id, who asks, and its `Client`, where our own server runs."""


log = logging.getLogger("sensorium.server")


class House:
    """What all doors lead to; there while the server runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._guard: Guard | None = None
        self.book: UsageBook | None = None
        """What callers used; there while the server runs."""
        self.body_limits = BodyLimits(settings.max_upload_bytes, settings.max_bytes, settings.upload_seconds)
        self.source_limits = limits.Limits(max_bytes=settings.max_bytes)
        self.upload_budget = UploadBudget(settings.upload_budget)
        self._cabinet: Cabinet | None = None
        self.recordings: Recordings | None = None
        """Streamed answers that readers can come back to; there while the server runs."""
        self.opened = asyncio.Event()
        self.leaving = False
        """Whether the server has been told to stop; what is under way goes on."""
        self.at_work: set[asyncio.Task[Any]] = set()
        self.cut_off = False
        """Whether what was under way has been given up."""
        self._inside: tuple[Sensorium, Spool] | None = None
        self._numbers: RunFolder | None = None
        self._own_folder: OwnFolder | None = None
        self._traces = Traces(settings.traces_to) if settings.traces_to else None

    async def open(self) -> None:
        """In the loop that serves."""
        if asks_for_keys(self.settings):
            self._guard = Guard(self.settings)
            await self._guard.open()
        tell_of_this_process(TELEMETRY)
        self._numbers = await asyncio.to_thread(run_folder, TELEMETRY)
        if self._traces:
            self._traces.open(TELEMETRY)
        self.book = UsageBook(self.settings.data_dir / usage.FILE)
        self.recordings = Recordings(_event_log(self.settings), self.settings.resume_grace_seconds)
        self._cabinet = Cabinet(self.settings.data_dir / cabinet.FOLDER, self.settings.file_quota_bytes)
        service = Sensorium(self.settings, book=self.book)
        self._inside = service, await asyncio.to_thread(Spool)
        service.start()
        self.opened.set()

    async def close(self) -> None:
        (service, spool), self._inside = self.inside, None
        if self._guard:
            await self._guard.close()
        if self.recordings:
            await self.recordings.close()
        await service.aclose()
        if self.book:
            await self.book.close()
        if self._cabinet:
            await self._cabinet.close()
        await asyncio.to_thread(spool.close)
        for teller in (self._numbers, self._own_folder, self._traces):
            if teller:
                await asyncio.to_thread(teller.close)

    def numbers_folder(self) -> Path:
        """Where processes that work for this one tell their numbers; made when it is first asked for. Blocks."""
        if self._numbers is None:
            self._own_folder = OwnFolder(RUN_PREFIX)
            self._numbers = RunFolder(self._own_folder.path, TELEMETRY)
        return self._numbers.folder

    async def numbers(self) -> bytes:
        """What Prometheus reads: of all processes of this server."""
        told = await asyncio.to_thread((self._numbers or TELEMETRY).snapshot)
        return exposition(TELEMETRY.families(), told)

    def cut(self) -> None:
        """Give up what is under way: its clients are told so."""
        self.cut_off = True
        for task in self.at_work:
            task.cancel()
        if self.recordings:
            self.recordings.cut()

    async def reply(
        self, visit: Visit, work: Awaitable[Reply | None], refuse: Callable[[SensoriumError, str], Reply]
    ) -> Reply | None:
        """What a visit is answered with, whatever happens; None when the client left, or was told all as a stream."""
        me: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment] # a coroutine runs in a task
        self.at_work.add(me)
        try:
            return await work
        except asyncio.CancelledError:
            if visit.talk is not None and visit.talk.stalled:
                me.uncancel()
                log.warning("A client was let go: it left its stream unread for `unread_seconds`")
                return None  # without an end: the connection is closed
            if not self.cut_off:
                raise
            me.uncancel()
            failed: SensoriumError = ServiceClosed("The server stops", fix="Send it again")
        except SensoriumError as error:
            failed = error
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer of our kind
            failed = unexpected(error)
        finally:
            self.at_work.discard(me)
        if visit.talk is None or not visit.talk.started:
            return refuse(failed, visit.scope[TRACE])
        await visit.talk.fail(failed)
        return None

    def talk(self, encoder: Encoder, send: Send) -> Talk:
        """With a client that is told an answer as it comes."""
        return Talk(encoder, send, interval=self.settings.heartbeat_seconds, patience=self.settings.unread_seconds)

    @property
    def cabinet(self) -> Cabinet:
        """Files that callers sent before. Raises ServiceClosed as `inside`."""
        self.inside  # noqa: B018 - raises where there is none
        assert self._cabinet is not None  # noqa: S101 - there with the inside
        return self._cabinet

    @property
    def inside(self) -> tuple[Sensorium, Spool]:
        """Raises ServiceClosed before the server has started, and when it stops."""
        if self._inside is None:
            fix = "Try again in a moment. Where another application mounts it, enter `running(app)` in its lifespan"
            raise ServiceClosed("The server is not running", fix=fix)
        return self._inside

    async def in_place(self, asked: Request | SensoriumError, caller: Caller) -> Request | SensoriumError:
        """The same with the caller's uploaded files in the places of their ids; or why one is not there."""
        if not isinstance(asked, Request) or not _names_files(asked):
            return asked
        found: dict[Source, Source] = {}
        try:
            for source in asked.sources():
                if source.kind == "file":
                    kept = await self.cabinet.find(str(source.reference), caller.name)
                    found[source] = Source.spooled(self.cabinet.path(kept), kept.sha256, kept.name)
        except SensoriumError as error:
            return error
        return asked.moved(lambda source: found.get(source, source))

    async def caller(self, credential: str | None) -> Caller:
        """Who asks. Raises Unauthenticated when a key is asked for and this is none."""
        return LOCAL if self._guard is None else await self._guard.caller(credential)


class Door:
    """One facade's route, as an ASGI application."""

    def __init__(self, facade: Facade, house: House) -> None:
        self._facade, self._house, self._body_limits = facade, house, house.body_limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = Arrival(receive)
        visit = Visit(scope, arrival, send)
        reply = await self._house.reply(visit, self._visited(visit), self._facade.refuse)
        if reply is not None:
            await answer(reply, scope, arrival, visit.send)

    async def _visited(self, visit: Visit) -> Reply | None:
        """None when the client left, or was told all as a stream."""
        head = head_of(visit.scope)
        visit.scope[CALLER] = caller = await self._house.caller(self._facade.credential(head))
        if caller.requests_per_minute is not None and self._facade.allowance is not None:
            visit.send = self._telling(visit.send, caller, self._facade.allowance)
        return await self._served(visit, head, caller)

    def _telling(self, send: Send, caller: Caller, allowance: Callable[..., tuple[tuple[bytes, bytes], ...]]) -> Send:
        """Sends the same, and in the answer's head how the caller stands by then."""

        async def tell(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                with contextlib.suppress(ServiceClosed):
                    standing = await self._house.inside[0].standing(caller)
                    message["headers"] = [*message["headers"], *(allowance(*standing) if standing else ())]
            await send(message)

        return tell

    async def _served(self, visit: Visit, head: Message, caller: Caller) -> Reply | None:
        service, spool = self._house.inside
        # Before the body is read: reading what cannot be served would take time from what can.
        service.refuse_when_full()
        refuse_when_full(head.headers, self._house.upload_budget)
        uploads, recorded = Uploads(spool, self._house.upload_budget), False
        try:
            plan = await self._with_files(await self._planned(visit, head, uploads), caller)
            if plan.stream and self._facade.recorder is not None:
                recording, recorded = self._recording(plan, service, head.trace, caller, uploads.discard), True
                visit.talk = self._house.talk(recording, visit.send)
                return await unless_gone(visit, self._retold(plan, visit.talk, recording))
            if plan.stream and self._facade.encoder is not None:
                visit.talk = self._house.talk(self._facade.encoder(plan.context), visit.send)
            return await unless_gone(visit, self._answered(plan, visit.talk, service, head.trace, caller))
        finally:
            if not recorded:
                uploads.discard()

    async def _planned(self, visit: Visit, head: Message, uploads: Uploads) -> Plan:
        """What the message asks for; its body is gone when this ends, except for what the plan holds of it."""
        body = await read_body(head.headers, visit.receive, self._body_limits, uploads)
        message = head._replace(fields=body.fields, files=body.files, typed=body.typed)
        with limits.use(self._house.source_limits):
            return self._facade.parse(message)

    async def _with_files(self, plan: Plan, caller: Caller) -> Plan:
        """The plan, with uploaded files in the places of their ids."""
        if not any(map(_names_files, plan.requests)):
            return plan
        requests = tuple([await self._house.in_place(asked, caller) for asked in plan.requests])
        return plan._replace(requests=requests)

    def _recording(
        self, plan: Plan, service: Sensorium, trace: str, caller: Caller, at_end: Callable[[], None]
    ) -> Recording:
        """The answer, begun, which goes on for a while without its client."""
        assert self._facade.recorder is not None and self._house.recordings is not None  # noqa: S101, PT018 - by who calls

        async def work(listener: Listener) -> Sequence[Outcome]:
            try:
                return [await self._told(plan, service, trace, caller, listener)]
            except SensoriumError as error:
                return (error,)
            except Exception as error:  # noqa: BLE001 - as in `House.reply`
                return (unexpected(error),)

        return self._house.recordings.begin(caller.name, partial(self._facade.recorder, plan.context), work, at_end)

    async def _retold(self, plan: Plan, talk: Talk, recording: Recording) -> Reply | None:
        """The reply; None when all was told as a stream."""
        outcomes = await recording.tell(talk)
        return self._facade.render(outcomes, plan.context) if outcomes else None

    async def _answered(
        self, plan: Plan, talk: Talk | None, service: Sensorium, trace: str, caller: Caller
    ) -> Reply | None:
        """The reply; None when all was told as a stream."""
        if talk is None:
            return self._facade.render(await outcomes_of(plan, service, trace, caller), plan.context)
        with talk:
            outcome = await self._told(plan, service, trace, caller, talk.hear)
            if not isinstance(outcome, SensoriumError):
                await talk.end(outcome)
            elif talk.started:
                await talk.fail(outcome)
            else:
                return self._facade.render([outcome], plan.context)
        return None

    async def _told(self, plan: Plan, service: Sensorium, trace: str, caller: Caller, listener: Listener) -> Outcome:
        """What became of the one request of a stream; the listener hears its words as they come, or when all are known."""
        live = self._house.settings.streaming == "live"
        (outcome,) = await outcomes_of(plan, service, trace, caller, listener if live else ignore)
        if not (live or isinstance(outcome, SensoriumError)) and outcome.words:
            await listener(Delta(outcome.words))
        return outcome


class Client:
    """The other side of a connection."""

    def __init__(self) -> None:
        self._gone = False
        self._leave: list[Callable[[], None]] = []

    def tell(self, leave: Callable[[], None]) -> None:
        """Have `leave` called when the client leaves, or has left before."""
        if self._gone:
            leave()
        self._leave.append(leave)

    def tell_no_more(self, leave: Callable[[], None]) -> None:
        self._leave.remove(leave)

    def left(self) -> None:
        self._gone = True
        for leave in list(self._leave):
            leave()


@dataclass(slots=True)
class Visit:
    """One HTTP request, and how far its answer has come."""

    scope: Scope
    receive: Receive
    send: Send
    talk: Talk | None = None
    """Where the answer is a stream."""


def _names_files(asked: Request | SensoriumError) -> bool:
    """Whether any of its pictures is an uploaded file, named by its id."""
    return isinstance(asked, Request) and any(source.kind == "file" for source in asked.sources())


def head_of(scope: Scope) -> Message:
    """The message as far as it is known before the body is read. Raises InvalidRequest for a malformed query."""
    return Message(
        method=scope["method"],
        path=scope["path"],
        trace=scope[TRACE],
        headers=_headers(scope),
        query=_query(scope["query_string"]),
    )


async def outcomes_of(
    plan: Plan, service: Sensorium, trace: str, caller: Caller, listener: Listener = ignore
) -> Sequence[Outcome]:
    """What became of each request, in order; the listener hears of their parts."""
    options = Options(cache=plan.cache, remote=plan.remote, max_cost=plan.max_cost)
    asked = [request for request in plan.requests if isinstance(request, Request)]
    whole: Sequence[Outcome] = await service.run_all(
        asked, timeout=plan.timeout, options=options, trace=trace, caller=caller, listener=listener
    )
    if len(asked) < len(plan.requests):
        outcomes = iter(whole)
        whole = [next(outcomes) if isinstance(request, Request) else request for request in plan.requests]
    for outcome in whole:
        if isinstance(outcome, EngineFailed):
            log.error("%s", outcome, exc_info=outcome)
    return whole


async def unless_gone(visit: Visit, work: Awaitable[T]) -> T | None:
    """What the work returns; None when the client leaves before, and then the work is cancelled."""
    me: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment] # a coroutine runs in a task
    gone = False

    def leave() -> None:
        nonlocal gone
        gone = True
        me.cancel()

    client = visit.scope.get(CLIENT) or _Asked(visit.receive)
    client.tell(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if gone and not me.uncancel():
            return None
        raise
    finally:
        client.tell_no_more(leave)


class _Asked:
    """A client of another server than ours, which does not say by itself that it leaves: it has to be asked, by a task."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    def tell(self, leave: Callable[[], None]) -> None:
        self._watcher = asyncio.create_task(self._watch(leave))

    def tell_no_more(self, leave: Callable[[], None]) -> None:  # noqa: ARG002 - as of a `Client`
        self._watcher.cancel()

    async def _watch(self, leave: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        leave()


def _event_log(settings: Settings) -> EventLog:
    if settings.streams == "memory":
        return MemoryLog()
    return events_sqlite.SqliteLog((shared_folder() or settings.cache_dir) / events_sqlite.FILE)


def unexpected(error: Exception) -> EngineFailed:
    """What a client is told of a failure of our own; the log says what it was."""
    log.error("Unexpected failure", exc_info=error)
    failed = EngineFailed("The server failed")
    failed.__cause__ = error
    return failed


async def send_reply(reply: Reply, send: Send, *, more: bool = False, last: bool = False) -> None:
    """`more`: the end of the answer is yet to be sent. `last`: the connection ends with it."""
    headers = [(b"content-length", b"%d" % len(reply.body)), *reply.headers]
    if not reply.headers or b"content-type" not in dict(reply.headers):
        headers.insert(0, JSON_TYPE)
    if last:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": more})


async def answer(reply: Reply, scope: Scope, arrival: Arrival, send: Send) -> None:
    """Answer, and before the answer ends let what is still coming of the body pass by, within limits.

    Who closes a connection on which bytes wait to be read breaks it, and its other side may never see the answer.
    """
    if arrival.whole:
        await send_reply(reply, send)
        return
    headers = _headers(scope)
    await send_reply(reply, send, more=True, last=not is_soon_over(headers))
    if "expect" not in headers:
        await arrival.forget_rest()
    await send({"type": "http.response.body", "body": b""})


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _query(text: bytes) -> dict[str, Any]:
    if not text:
        return {}
    try:
        pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_PARTS)
    except ValueError as error:
        raise InvalidRequest("The query cannot be read", why="it is not UTF-8, or too long") from error
    return grouped(pairs)
