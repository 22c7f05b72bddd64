"""HTTP/1.1 as uvicorn speaks it, with the limits that it leaves to a proxy: of connections, and of heads."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sensorium.server.crowd import Crowd
from sensorium.server.door import CLIENT, Client
from sensorium.telemetry import TELEMETRY

HEAD_SECONDS = 15.0
"""How long a head may take, from the connection or from its first byte."""

MOST_HEAD_BYTES = 65536
"""Of a request's first line and headers, as far as they come in pieces; more than 32 kB come in no fewer than two.
As much may come at once of what is neither head nor body: extensions of chunks, and trailers."""

MOST_PIPELINED = 16
"""Requests that wait on one connection for the answer to an earlier one; with more of them it ends after these."""

GOODBYE_SECONDS = 2.0
"""How long to wait for the rest of a body that is answered already, and for a goodbye in TLS."""

LEAVE_SECONDS = 1.0
"""How long a server that stops keeps idle connections: what is on its way on them is answered, and told that they end."""

NO_REQUEST = "(no request)"
"""What the counters call the route of those who never came to ask."""


class Connection(HttpToolsProtocol):
    """One connection. Who opens one and says nothing, or never comes to an end of a head, is let go."""

    def __init__(self, crowd: Crowd, **more: Any) -> None:
        super().__init__(**more)
        self._crowd = crowd
        self._loose_bytes = 0
        """That came since the last piece of a body, or of this head."""
        self._in_head, self._told = True, False
        """Whether a head is awaited or read; whether what came last began a head or brought some of a body."""
        self._deaf = self._framing = self._leaving = False
        """Whether nothing that comes matters any more; whether the parser is told a head that came already."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None
        """What is worked on, or was last; `cycle` is the one that came last."""
        self._client = Client()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        if self._crowd.enter(self):
            self._expect_head()
        else:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def idle(self) -> bool:
        return self._is_answered() and not self.transport.get_write_buffer_size()

    @property
    def stuck(self) -> bool:
        return self._is_answered() or (self._answering is not None and self._answering.more_body)

    def let_go(self) -> None:
        self._deaf = True
        self.transport.abort()

    def _is_answered(self) -> bool:
        return self._answering is None or (self._answering.response_complete and not self.pipeline)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._told = False
        try:
            self._parse(data)
        except HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        if self._in_head or not self._told:
            self._loose_bytes += len(data)
        if self._loose_bytes > MOST_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._in_head:
            if self._head_timer is None:
                self._expect_head()
        elif self.cycle.response_complete and not self.transport.is_closing():  # as after empty lines
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _parse(self, data: bytes) -> None:
        """Nobody here speaks another protocol: requests that ask for one are answered, and so are those that follow."""
        while data:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._stay()
            else:
                return

    def _stay(self) -> None:
        """Have the body of a request that asks for another protocol read, which the parser takes for that protocol.

        Else what a proxy takes for a body would be a request here.
        """
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if frame := self._frame():
            self._framing = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + frame + b"\r\n")
            self._framing = False

    def _frame(self) -> bytes:
        """The headers that say how long the body is; empty where there is none."""
        said = [pair for pair in self.scope["headers"] if pair[0] in (b"content-length", b"transfer-encoding")]
        return b"".join(b"%s: %s\r\n" % pair for pair in said)

    def on_message_begin(self) -> None:
        if self._framing:
            return
        if len(self.pipeline) >= MOST_PIPELINED:
            raise HttpParserError("too many requests at once")
        super().on_message_begin()
        self._in_head, self._told, self._loose_bytes = True, True, 0
        self.scope[CLIENT] = self._client  # type: ignore[literal-required] # ours

    def on_headers_complete(self) -> None:
        if self._framing:
            return
        self._in_head = False
        if self._head_timer is not None:
            self._expect_no_head()
        super().on_headers_complete()
        self.cycle.keep_alive &= not self._leaving
        self.headers = []  # what comes from here on are trailers, which must not pass for headers

    def on_body(self, body: bytes) -> None:
        self._told, self._loose_bytes = True, 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self._frame():
            return  # its body is yet to be read
        super().on_message_complete()
        self.cycle.more_body = False  # also when it was answered before
        if self._has_room():
            self.flow.resume_reading()  # who does not read, does not learn that the other side leaves

    def _has_room(self) -> bool:
        """Whether more may come, though requests wait."""
        if not self.pipeline:
            return True
        waiting = sum(len(cycle.body) for cycle, _ in self.pipeline)
        return len(self.pipeline) < MOST_PIPELINED // 2 and waiting < HIGH_WATER_LIMIT

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        cycle = self._answering
        super().on_response_complete()  # which begins the next
        if cycle is not None and cycle.more_body:
            self.loop.call_later(GOODBYE_SECONDS, self._close_unless_whole, cycle)
        self._let_go_when_closing()

    def shutdown(self) -> None:
        self._leaving = True
        if self._is_answered():
            self.loop.call_later(LEAVE_SECONDS, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        super().shutdown()
        self._let_go_when_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_no_head()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)
        self._client.left()
        self._crowd.leave(self)

    def _close_unless_whole(self, cycle: RequestResponseCycle) -> None:
        if cycle.more_body:
            self.transport.close()

    def _let_go_when_closing(self) -> None:
        if (
            self.scheme == "https" and self.transport.is_closing()
        ):  # it would wait for the other side's goodbye, for 30 s
            self.loop.call_later(GOODBYE_SECONDS, self.transport.abort)

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

    def _expect_no_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: HTTPStatus) -> None:
        """Hear no more, and end the connection: after the answers that are owed, for it would be taken for one of them."""
        self._deaf = True
        self._expect_no_head()
        owed = self._last_owed()
        if owed is not None:
            owed.keep_alive = False
        elif not self.transport.is_closing():
            if self._answering is None or not self._is_begun(self._answering):
                self._say(status)
            self.transport.close()

    def _last_owed(self) -> RequestResponseCycle | None:
        """The last request that came whole and is not answered yet; one behind it that did not is forgotten."""
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()
        last = self.pipeline[0][0] if self.pipeline else self._answering
        return None if last is None or last.response_complete or last.more_body else last

    def _is_begun(self, cycle: RequestResponseCycle) -> bool:
        return cycle.response_started and not cycle.response_complete

    def _say(self, status: HTTPStatus) -> None:
        TELEMETRY.http_requests[NO_REQUEST, str(status.value)].add()
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        self.transport.write(head.encode())
