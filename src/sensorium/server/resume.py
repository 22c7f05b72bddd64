"""`GET /v1/streams/<id>`: a streamed answer told again from where its reader was, and on as it comes."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

from starlette.routing import Route

from sensorium.errors import InvalidRequest, SensoriumError, ServiceClosed
from sensorium.server.body import Arrival
from sensorium.server.door import TRACE, House, Receive, Scope, Send, Visit, answer, head_of, unexpected, unless_gone
from sensorium.server.events import Talk
from sensorium.server.facades import native
from sensorium.server.facades.base import Reply, key_of
from sensorium.server.facades.native_page import EVENTS
from sensorium.server.recording import tell
from sensorium.stores.events import unknown

PATH = "/v1/streams/{stream}"

LAST = "last-event-id"

IDENTITY = re.compile(r"[0-9a-f]{32}")
PLACE = re.compile(r"([0-9a-f]{32}):([0-9]{1,12})")
"""An event's id: the stream's, and how many events there were with it."""

NOTHING_LEFT = Reply(204, b"")
"""Of a stream that has ended: browsers then do not come again."""

log = logging.getLogger("sensorium.server")


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
        talk = self._house.talk(_Again(native.Context(scope[TRACE], many=False), ""), send)
        visit = Visit(scope, arrival, send, talk)
        me: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment] # a coroutine runs in a task
        self._house.at_work.add(me)
        try:
            reply = await self._told(visit, talk)
        except asyncio.CancelledError:
            if talk.stalled:
                me.uncancel()
                log.warning("A client was let go: it left its stream unread for `unread_seconds`")
                return
            if not self._house.cut_off:
                raise
            me.uncancel()
            reply = await _failed(talk, ServiceClosed("The server stops", fix="Send it again"), scope[TRACE])
        except SensoriumError as error:
            reply = await _failed(talk, error, scope[TRACE])
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer of our kind
            reply = await _failed(talk, unexpected(error), scope[TRACE])
        finally:
            self._house.at_work.discard(me)
        if reply is NOTHING_LEFT:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        elif reply is not None:
            await answer(reply, scope, arrival, send)

    async def _told(self, visit: Visit, talk: Talk) -> Reply | None:
        """The reply; None when all was told as a stream, or the client left."""
        head = head_of(visit.scope)
        caller = await self._house.caller(key_of(head))
        self._house.inside  # noqa: B018 - raises where there is none
        assert self._house.recordings is not None  # noqa: S101 - there with the inside
        identity, after = place_of(visit.scope["path_params"]["stream"], head.headers.get(LAST, "").strip())
        reader = await self._house.recordings.log.reader(identity, caller.name, after)
        return NOTHING_LEFT if await unless_gone(visit, tell(reader, talk)) is False else None


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


async def _failed(talk: Talk, error: SensoriumError, trace: str) -> Reply | None:
    if not talk.started:
        return native.refuse(error, trace)
    await talk.fail(error)
    return None


def route(house: House) -> Route:
    route = Route(PATH, Resuming(house), methods=["GET"])
    route.methods = {"GET"}  # a HEAD would wait for the end
    return route


def page() -> dict[str, Any]:
    """The route, as OpenAPI describes it."""
    refused = {
        str(status): {"$ref": f"#/components/responses/Refused{status}"} for status in (400, 401, 404, 410, 429, 503)
    }
    identity = {"type": "string", "pattern": f"^{IDENTITY.pattern}$"}
    place = {"type": "string", "pattern": f"^({PLACE.pattern})?$"}
    last = "The last `id` that was read; what comes after it is told. Absent: from the beginning"
    return {
        PATH: {
            "get": {
                "operationId": "resume",
                "summary": "Go on with a streamed answer whose connection broke",
                "tags": ["tasks"],
                "parameters": [
                    {"name": "stream", "in": "path", "required": True, "schema": identity, "description": "Its id"},
                    {"name": "Last-Event-ID", "in": "header", "schema": place, "description": last},
                ],
                "responses": {
                    "200": {
                        "description": "What was missed, and what comes",
                        "content": {"text/event-stream": {"schema": {"description": EVENTS}}},
                    },
                    "204": {"description": "There is no more"},
                    **refused,
                },
            }
        }
    }
