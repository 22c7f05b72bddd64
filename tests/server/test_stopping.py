"""Nobody who asked in time goes unheard when a server stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn

from sensorium.server import http
from sensorium.server.crowd import Crowd
from sensorium.server.http import Connection
from sensorium.server.process import _Server
from tests.server.wire import connected, head

REQUEST = head("/", "Content-Length: 0")


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def started() -> AsyncIterator[tuple[_Server, socket.socket]]:
    """A server, and the socket on which it listens; it stops by `shutdown`."""
    listening = socket.create_server(("127.0.0.1", 0))
    told: dict[str, Any] = {"ws": "none", "lifespan": "off", "log_config": None, "interface": "asgi3"}
    config = uvicorn.Config(echo, http=partial(Connection, Crowd(4)), **told)  # type: ignore[arg-type]
    config.load()
    server = _Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listening])
    try:
        yield server, listening
    finally:
        server.force_exit = True


async def test_who_is_connected_but_not_yet_accepted_is_answered() -> None:
    async with started() as (server, listening), asyncio.timeout(20):
        with connected(listening.getsockname()[1]) as client:  # without a turn of the loop
            client.sendall(REQUEST)
            await server.shutdown([listening])
            answer = client.recv(1000)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer


async def test_what_is_on_its_way_on_an_idle_connection_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LEAVE_SECONDS", 60.0)
    async with started() as (server, listening), asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(REQUEST)
        assert b"connection: close" not in await reader.readuntil(b"ok")
        stopping = asyncio.create_task(server.shutdown([listening]))
        await asyncio.sleep(0)
        writer.write(REQUEST)
        answer = await reader.read()
        await stopping  # which waits for no one else
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer


async def test_an_idle_connection_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LEAVE_SECONDS", 0.05)
    async with started() as (server, listening), asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(REQUEST)
        await reader.readuntil(b"ok")
        await server.shutdown([listening])
        assert await reader.read() == b""
        writer.close()
