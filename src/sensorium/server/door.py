"""The one way through which every facade is served: body in, plan, outcomes, reply out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from sensorium.config import Settings
from sensorium.engine import Options
from sensorium.errors import EngineFailed, InvalidRequest, SensoriumError, ServiceClosed
from sensorium.media import limits
from sensorium.schemas.base import Request
from sensorium.server.body import MOST_PARTS, BodyLimits, Uploads, grouped, read_body
from sensorium.server.facades.base import Facade, Message, Outcome, Plan, Reply
from sensorium.server.spool import Spool
from sensorium.service import Sensorium

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TRACE, ROUTE = "sensorium.trace", "sensorium.route"
"""Where a scope holds the request's id and the route that it took."""

log = logging.getLogger("sensorium.server")


class House:
    """What all doors lead to; there while the server runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.body_limits = BodyLimits(settings.max_upload_bytes, settings.max_bytes, settings.upload_seconds)
        self.source_limits = limits.Limits(max_bytes=settings.max_bytes)
        self._inside: tuple[Sensorium, Spool] | None = None

    async def open(self) -> None:
        """In the loop that serves."""
        self._inside = Sensorium(self.settings), await asyncio.to_thread(Spool)

    async def close(self) -> None:
        (service, spool), self._inside = self.inside, None
        await service.aclose()
        await asyncio.to_thread(spool.close)

    @property
    def inside(self) -> tuple[Sensorium, Spool]:
        """Raises ServiceClosed before the server has started, and when it stops."""
        if self._inside is None:
            fix = "Try again in a moment. Where another application mounts it, enter `running(app)` in its lifespan"
            raise ServiceClosed("The server is not running", fix=fix)
        return self._inside


class Door:
    """One facade's route, as an ASGI application."""

    def __init__(self, facade: Facade, house: House) -> None:
        self._facade, self._house = facade, house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ROUTE] = self._facade.path
        reply = await self._reply(scope, receive)
        if reply is not None:
            await send_reply(reply, send)

    async def _reply(self, scope: Scope, receive: Receive) -> Reply | None:
        """None when the client left."""
        try:
            return await self._served(scope, receive)
        except SensoriumError as error:
            return self._facade.refuse(error, scope[TRACE])
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer of our kind
            return self._facade.refuse(unexpected(error, scope[TRACE]), scope[TRACE])

    async def _served(self, scope: Scope, receive: Receive) -> Reply | None:
        service, spool = self._house.inside
        uploads = Uploads(spool)
        try:
            message = await self._message(scope, receive, uploads)
            with limits.use(self._house.source_limits):
                plan = self._facade.parse(message)
            outcomes = await unless_gone(receive, outcomes_of(plan, service, message.trace))
        finally:
            uploads.discard()
        return None if outcomes is None else self._facade.render(outcomes, plan.context)

    async def _message(self, scope: Scope, receive: Receive, uploads: Uploads) -> Message:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = await read_body(headers, receive, self._house.body_limits, uploads)
        return Message(
            method=scope["method"],
            path=scope["path"],
            trace=scope[TRACE],
            headers=headers,
            query=_query(scope["query_string"]),
            fields=body.fields,
            files=body.files,
            typed=body.typed,
        )


async def outcomes_of(plan: Plan, service: Sensorium, trace: str) -> Sequence[Outcome]:
    """What became of each request, in order."""
    how: dict[str, Any] = {"timeout": plan.timeout, "options": Options(cache=plan.cache), "trace": trace}
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


def _query(text: bytes) -> dict[str, Any]:
    if not text:
        return {}
    try:
        pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_PARTS)
    except ValueError as error:
        raise InvalidRequest("The query cannot be read", why="it is not UTF-8, or too long") from error
    return grouped(pairs)
