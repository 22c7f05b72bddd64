"""HTTP/1.1 as uvicorn speaks it, with the limits that it leaves to a proxy: of connections, and of heads."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sensorium.server.door import CLIENT, Client
from sensorium.telemetry import TELEMETRY

MOST_CONNECTIONS = 4096
"""Connections at once, slow senders included; how many requests are worked on, `running` and `waiting` say."""

HEAD_SECONDS = 15.0
"""How long a head may take, from the connection or from its first byte."""

MOST_HEAD_BYTES = 65536
"""Of a request's first line and headers, as far as they come in pieces; more than 32 kB come in no fewer than two."""

GOODBYE_SECONDS = 2.0
"""How long to wait for the rest of a body that is answered already, and for a goodbye in TLS."""

NO_REQUEST = "(no request)"
"""What the counters call the route of those who never came to ask."""


class Connection(HttpToolsProtocol):
    """One connection. Who opens one and says nothing, or never comes to an end of a head, is let go."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._head_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._client = Client()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MOST_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._head_timer is None:
            self._expect_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self.scope[CLIENT] = self._client  # type: ignore[literal-required] # ours

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._expect_no_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.cycle.more_body = False  # also when it was answered before
        if not self.pipeline:
            self.flow.resume_reading()  # who does not read, does not learn that the other side leaves

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.waiting_for_100_continue:  # whether its body comes yet, nobody can know
            self.transport.close()
        elif self.cycle.more_body:
            self.loop.call_later(GOODBYE_SECONDS, self._close_unless_whole, self.cycle)
        self._let_go_when_closing()

    def shutdown(self) -> None:
        super().shutdown()
        self._let_go_when_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_no_head()
        super().connection_lost(exc)
        self._client.left()

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
        if not self.transport.is_closing():
            TELEMETRY.http_requests[NO_REQUEST, str(status.value)].add()
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            self.transport.write(head.encode())
            self.transport.close()
