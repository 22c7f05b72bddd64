"""`/v1/streams/<id>`: a streamed answer told again from where its reader was, and on as it comes; or ended by who asked."""

from __future__ import annotations

import re
from typing import Any

from starlette.routing import Route

from sensorium.engine import Caller
from sensorium.errors import InvalidRequest
from sensorium.server.body import Arrival
from sensorium.server.door import TRACE, House, Receive, Scope, Send, Visit, answer, head_of, unless_gone
from sensorium.server.facades import native
from sensorium.server.facades.base import Message, Reply, key_of
from sensorium.server.facades.native_page import EVENTS
from sensorium.server.recording import tell
from sensorium.stores.events import EventLog, Reader, unknown

PATH = "/v1/streams/{stream}"

LAST = "last-event-id"

IDENTITY = re.compile(r"[0-9a-f]{32}")
PLACE = re.compile(r"([0-9a-f]{32}):([0-9]{1,12})")
"""An event's id: the stream's, and how many events there were with it."""

NOTHING_LEFT = Reply(204, b"")
"""Of a stream that was deleted, or has ended: browsers then do not come again."""


class _Again(native.Events):
    """Of an answer that has begun already."""

    def start(self) -> bytes:
        return b""


class Resuming:
    """The route, as an ASGI application."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = Arrival(receive)
        visit = Visit(scope, arrival, send)
        work = self._deleted(visit) if scope["method"] == "DELETE" else self._told(visit)
        reply = await self._house.reply(visit, work, native.refuse)
        if reply is NOTHING_LEFT:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        elif reply is not None:
            await answer(reply, scope, arrival, send)

    async def _told(self, visit: Visit) -> Reply | None:
        """The reply; None when all was told as a stream, or the client left."""
        head = head_of(visit.scope)
        log, caller = await self._entered(head)
        identity, after = place_of(visit.scope["path_params"]["stream"], head.headers.get(LAST, "").strip())
        return await self._retold(visit, await log.reader(identity, caller.name, after))

    async def _retold(self, visit: Visit, reader: Reader) -> Reply | None:
        visit.talk = self._house.talk(_Again(native.Context(visit.scope[TRACE], many=False), ""), visit.send)
        return NOTHING_LEFT if await unless_gone(visit, tell(reader, visit.talk)) is False else None

    async def _deleted(self, visit: Visit) -> Reply:
        log, caller = await self._entered(head_of(visit.scope))
        identity, _ = place_of(visit.scope["path_params"]["stream"], "")
        await log.drop(identity, caller.name)
        return NOTHING_LEFT

    async def _entered(self, head: Message) -> tuple[EventLog, Caller]:
        caller = await self._house.caller(key_of(head))
        self._house.inside  # noqa: B018 - raises where there is none
        assert self._house.recordings is not None  # noqa: S101 - there with the inside
        return self._house.recordings.log, caller


def place_of(stream: str, last: str) -> tuple[str, int]:
    """A stream's id, and after how many events to go on, of the path and `Last-Event-ID`.

    Raises UnknownStream and InvalidRequest for what no stream of ours has told.
    """
    if not IDENTITY.fullmatch(stream):
        raise unknown()
    if not last:
        return stream, 0
    found = PLACE.fullmatch(last)
    if found is None or found[1] != stream:
        fix = "Send the last id that you have read, or none to read from the beginning"
        raise InvalidRequest("`Last-Event-ID` is no id of this stream", fix=fix)
    return stream, int(found[2])


def route(house: House) -> Route:
    route = Route(PATH, Resuming(house))
    route.methods = {"GET", "DELETE"}  # a HEAD would wait for the end
    return route


def page() -> dict[str, Any]:
    """The route, as OpenAPI describes it."""
    identity = {"type": "string", "pattern": f"^{IDENTITY.pattern}$"}
    place = {"type": "string", "pattern": f"^({PLACE.pattern})?$"}
    last = "The last `id` that was read; what comes after it is told. Absent: from the beginning"
    stream = {"name": "stream", "in": "path", "required": True, "schema": identity, "description": "Its id"}
    return {
        PATH: {
            "get": {
                "operationId": "resume",
                "summary": "Go on with a streamed answer whose connection broke",
                "tags": ["tasks"],
                "parameters": [
                    stream,
                    {"name": "Last-Event-ID", "in": "header", "schema": place, "description": last},
                ],
                "responses": {
                    "200": {
                        "description": "What was missed, and what comes",
                        "content": {"text/event-stream": {"schema": {"description": EVENTS}}},
                    },
                    "204": {"description": "There is no more"},
                    **_refused(400, 401, 404, 410, 429, 503),
                },
            },
            "delete": {
                "operationId": "stop",
                "summary": "End a streamed answer, with the work, and keep nothing of it",
                "tags": ["tasks"],
                "parameters": [stream],
                "responses": {"204": {"description": "It is over"}, **_refused(400, 401, 404, 503)},
            },
        }
    }


def _refused(*statuses: int) -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/Refused{status}"} for status in statuses}
