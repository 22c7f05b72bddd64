"""Gives every HTTP request its id, and the log one line for it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sensorium.server.door import TRACE, Receive, Scope, Send, send_reply, unexpected
from sensorium.server.facades.native import refuse
from sensorium.telemetry import TELEMETRY, new_trace
from sensorium.telemetry import TRACE as CURRENT

App = Callable[[Scope, Receive, Send], Awaitable[None]]

LEFT = 499
"""The status in logs of a request whose client left before the answer; nginx's custom."""

TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""As W3C Trace Context writes where a request comes from. What later versions may add at its end is not taken."""
REQUEST_ID = re.compile(rb"([A-Za-z0-9._\-]{1,64})")
"""What a client or proxy may call its request: words that are harmless in logs."""
CALLED = ((b"traceparent", TRACEPARENT), (b"x-request-id", REQUEST_ID))
"""Headers from which a request's id is taken, the first before the second."""

log = logging.getLogger("sensorium.access")


class Access:
    """Outermost of all: also answers for what failed in a way that nobody foresaw."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace, parent = trace_of(scope["headers"])
        token = CURRENT.set(trace)
        try:
            with TELEMETRY.span("request", parent) as span:
                answer = _Answer(send, trace)
                await self._http(scope, receive, answer)
                if span is not None:
                    _describe(span, scope, answer)
        finally:
            CURRENT.reset(token)

    async def _http(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        scope[TRACE] = answer.trace
        start = time.perf_counter()
        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            failure = unexpected(error)
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


def trace_of(headers: list[tuple[bytes, bytes]]) -> tuple[str, str | None]:
    """The id that a request brings, else a new one; and the whole `traceparent` when it was taken from there."""
    sent = dict(headers)
    for name, pattern in CALLED:
        if name in sent and (found := pattern.fullmatch(sent[name])):
            return found[1].decode(), sent[name].decode() if pattern is TRACEPARENT else None
    return new_trace(), None


def route_of(scope: Scope) -> str:
    """The path of the route that was taken, or that does not take the method.

    Only known routes: what a client makes up is kept out of the log and of the counters.
    """
    return getattr(scope.get("route"), "path", "(no such route)")


def _tell(scope: Scope, answer: _Answer, seconds: float) -> None:
    route, milliseconds = route_of(scope), seconds * 1000
    TELEMETRY.http_requests[route, str(answer.status)].add()
    TELEMETRY.http_request_seconds[route].observe(seconds)
    if log.isEnabledFor(logging.INFO):
        method = scope["method"][:20]
        fields = {"method": method, "route": route, "status": answer.status, "ms": round(milliseconds, 1)}
        log.info("%s %s %d %.1f ms", method, route, answer.status, milliseconds, extra={"fields": fields})


def _describe(span: Any, scope: Scope, answer: _Answer) -> None:
    """By OpenTelemetry's own names."""
    route = route_of(scope)
    span.update_name(f"{scope['method']} {route}")
    span.set_attribute("http.request.method", scope["method"])
    span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", answer.status)
