"""The one way through which every facade is served: body in, plan, outcomes, reply out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from sensorium.config import Settings
from sensorium.engine import LOCAL, Caller, Options
from sensorium.errors import EngineFailed, InvalidRequest, SensoriumError, ServiceClosed
from sensorium.media import limits
from sensorium.schemas.base import Request
from sensorium.server.auth import Guard, asks_for_keys
from sensorium.server.body import MOST_PARTS, BodyLimits, Uploads, grouped, read_body
from sensorium.server.facades.base import Facade, Message, Outcome, Plan, Reply
from sensorium.server.spool import Spool
from sensorium.service import Sensorium

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TRACE, ROUTE, CALLER = "sensorium.trace", "sensorium.route", "sensorium.caller"
"""Where a scope holds the request's id, the route that it took, and who asks."""

LET_PASS_BYTES, LET_PASS_SECONDS = 2**20, 2.0
"""How much of a body that nobody wants is let pass by, and for how long."""

log = logging.getLogger("sensorium.server")


class House:
    """What all doors lead to; there while the server runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._guard: Guard | None = None
        self.body_limits = BodyLimits(settings.max_upload_bytes, settings.max_bytes, settings.upload_seconds)
        self.source_limits = limits.Limits(max_bytes=settings.max_bytes)
        self._inside: tuple[Sensorium, Spool] | None = None

    async def open(self) -> None:
        """In the loop that serves."""
        if asks_for_keys(self.settings):
            self._guard = Guard(self.settings)
            await self._guard.open()
        service = Sensorium(self.settings)
        self._inside = service, await asyncio.to_thread(Spool)
        service.start()

    async def close(self) -> None:
        (service, spool), self._inside = self.inside, None
        if self._guard:
            await self._guard.close()
        await service.aclose()
        await asyncio.to_thread(spool.close)

    @property
    def inside(self) -> tuple[Sensorium, Spool]:
        """Raises ServiceClosed before the server has started, and when it stops."""
        if self._inside is None:
            fix = "Try again in a moment. Where another application mounts it, enter `running(app)` in its lifespan"
            raise ServiceClosed("The server is not running", fix=fix)
        return self._inside

    async def caller(self, credential: str | None) -> Caller:
        """Who asks. Raises Unauthenticated when a key is asked for and this is none."""
        return LOCAL if self._guard is None else await self._guard.caller(credential)


class Door:
    """One facade's route, as an ASGI application."""

    def __init__(self, facade: Facade, house: House) -> None:
        self._facade, self._house = facade, house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ROUTE] = self._facade.path
        try:
            head = head_of(scope)
            caller = scope[CALLER] = await self._house.caller(self._facade.credential(head))
        except SensoriumError as error:
            await send_refusal(self._facade.refuse(error, scope[TRACE]), receive, send)
            return
        reply = await self._reply(scope, receive, head, caller)
        if reply is not None:
            await send_reply(reply, send)

    async def _reply(self, scope: Scope, receive: Receive, head: Message, caller: Caller) -> Reply | None:
        """None when the client left."""
        try:
            return await self._served(receive, head, caller)
        except SensoriumError as error:
            return self._facade.refuse(error, scope[TRACE])
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer of our kind
            return self._facade.refuse(unexpected(error, scope[TRACE]), scope[TRACE])

    async def _served(self, receive: Receive, head: Message, caller: Caller) -> Reply | None:
        service, spool = self._house.inside
        uploads = Uploads(spool)
        try:
            body = await read_body(head.headers, receive, self._house.body_limits, uploads)
            message = replace(head, fields=body.fields, files=body.files, typed=body.typed)
            with limits.use(self._house.source_limits):
                plan = self._facade.parse(message)
            outcomes = await unless_gone(receive, outcomes_of(plan, service, message.trace, caller))
        finally:
            uploads.discard()
        return None if outcomes is None else self._facade.render(outcomes, plan.context)


def head_of(scope: Scope) -> Message:
    """The message as far as it is known before the body is read. Raises InvalidRequest for a malformed query."""
    return Message(
        method=scope["method"],
        path=scope["path"],
        trace=scope[TRACE],
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
        query=_query(scope["query_string"]),
    )


async def outcomes_of(plan: Plan, service: Sensorium, trace: str, caller: Caller) -> Sequence[Outcome]:
    """What became of each request, in order."""
    options = Options(cache=plan.cache)
    how: dict[str, Any] = {"timeout": plan.timeout, "options": options, "trace": trace, "caller": caller}
    asked = [request for request in plan.requests if isinstance(request, Request)]
    outcomes = iter(await service.run_all(asked, **how))
    whole = [next(outcomes) if isinstance(request, Request) else request for request in plan.requests]
    for outcome in whole:
        if isinstance(outcome, EngineFailed):
            log.error("%s trace=%s", outcome, trace, exc_info=outcome)
    return whole


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T | None:
    """What the work returns; None when the client leaves before, and then the work is cancelled."""
    me: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment] # a coroutine runs in a task
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        me.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and not me.uncancel():
            return None
        raise
    finally:
        watcher.cancel()


def unexpected(error: Exception, trace: str) -> EngineFailed:
    """What a client is told of a failure of our own; the log says what it was."""
    log.error("Unexpected failure, trace=%s", trace, exc_info=error)
    failed = EngineFailed("The server failed")
    failed.__cause__ = error
    return failed


async def send_reply(reply: Reply, send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(reply.body)).encode()),
        *reply.headers,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def send_refusal(reply: Reply, receive: Receive, send: Send) -> None:
    """Answer before the body was read, and then let a little of it pass by.

    A connection that is closed while its client still sends is reset, and the client may never see the answer; a small
    body that is read to its end leaves the connection good for the next request.
    """
    await send_reply(reply, send)
    passed = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LET_PASS_SECONDS):
            while passed < LET_PASS_BYTES:
                event = await receive()
                passed += len(event.get("body", b""))
                if not event.get("more_body", False):
                    return


def _query(text: bytes) -> dict[str, Any]:
    if not text:
        return {}
    try:
        pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_PARTS)
    except ValueError as error:
        raise InvalidRequest("The query cannot be read", why="it is not UTF-8, or too long") from error
    return grouped(pairs)
