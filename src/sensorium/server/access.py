"""Gives every HTTP request its id, and the log one line for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sensorium.server.door import ROUTE, TRACE, Receive, Scope, Send, send_reply, unexpected
from sensorium.server.facades.native import refuse
from sensorium.telemetry import TELEMETRY, new_trace

App = Callable[[Scope, Receive, Send], Awaitable[None]]

LEFT = 499
"""The status in logs of a request whose client left before the answer; nginx's custom."""

log = logging.getLogger("sensorium.access")


class Access:
    """Outermost of all: also answers for what failed in a way that nobody foresaw."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, _Answer(send, new_trace()))
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        scope[TRACE] = answer.trace
        start = time.perf_counter()
        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            failure = unexpected(error, answer.trace)
            if answer.status != LEFT:
                raise  # too late for another answer: the connection ends
            await send_reply(refuse(failure, answer.trace), answer)
        finally:
            _tell(scope, answer, answer.sent - start)


class _Answer:
    """Passes an answer on, with the request's id, and remembers its status."""

    def __init__(self, send: Send, trace: str) -> None:
        self._send, self.trace, self.status = send, trace, LEFT
        self._sent: float | None = None

    @property
    def sent(self) -> float:
        """When the last of it was handed over; what is done afterwards is not part of the answer."""
        return self._sent or time.perf_counter()

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.trace.encode())]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._sent = time.perf_counter()


def _tell(scope: Scope, answer: _Answer, seconds: float) -> None:
    # Only known routes: what a client makes up is kept out of the log and of the counters.
    route = scope.get(ROUTE, "(no such route)")
    TELEMETRY.count("http_requests", route=route, status=str(answer.status))
    log.info("%s %s %d %.1f ms trace=%s", scope["method"], route, answer.status, seconds * 1000, answer.trace)
