"""What a connection may do before, and after, it has asked for something."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import uvicorn

from sensorium.server import http
from sensorium.server.http import Connection


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once, without waiting for a body."""
    body = scope["path"].encode()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


@pytest_asyncio.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(http, "GOODBYE_SECONDS", 0.3)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(echo, http=Connection, ws="none", lifespan="off", log_config=None, interface="asgi3")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    yield listening.getsockname()[1]
    server.should_exit = server.force_exit = True
    await serving


async def said(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that comes back until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause)
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


async def test_who_says_nothing_is_let_go(port: int) -> None:
    assert (await said(port)).startswith(b"HTTP/1.1 408 ")


async def test_a_head_that_never_ends_is_let_go(port: int) -> None:
    assert (await said(port, b"GET / HTTP/1.1\r\nHost: a\r\n")).startswith(b"HTTP/1.1 408 ")


async def test_a_second_head_that_never_ends_is_let_go(port: int) -> None:
    answers = await said(port, b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /two HTTP/1.1\r\n", pause=0.05)
    assert b"/one" in answers
    assert b"HTTP/1.1 408 " in answers


async def test_a_head_without_measure_is_refused(port: int) -> None:
    lines = [b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(66)]
    assert b"HTTP/1.1 431 " in await said(port, b"GET / HTTP/1.1\r\n", *lines, pause=0.001)


async def test_requests_follow_each_other_on_one_connection(port: int) -> None:
    ask = b"GET /%s HTTP/1.1\r\nHost: a\r\n%s\r\n"
    answers = await said(port, ask % (b"one", b""), ask % (b"two", b"Connection: close\r\n"), pause=0.5)
    assert answers.count(b"HTTP/1.1 200 ") == 2


async def test_connections_above_the_most_are_refused(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_CONNECTIONS", 0)
    assert (await said(port)).startswith(b"HTTP/1.1 503 ")


async def test_who_waits_to_be_told_to_send_a_body_is_answered_and_closed_at_once(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    answers = await said(port, head)
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b"100 Continue" not in answers


async def test_a_body_that_never_comes_ends_the_connection(port: int) -> None:
    assert (await said(port, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123")).startswith(
        b"HTTP/1.1 200 "
    )


async def test_a_body_that_comes_after_its_answer_does_not_end_it(port: int) -> None:
    first = b"POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123"
    second = b"GET /two HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answers = await said(port, first, b"456789", second, pause=0.2)
    assert answers.count(b"HTTP/1.1 200 ") == 2
