"""How questions are written to a connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from sensorium.runtimes.post import Pieces

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSED = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
SMALL_BUFFER = 4096
LARGE = 2**20

Ask = Callable[..., Awaitable[tuple[int, bytes]]]
Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def asking(answer: Server) -> AsyncIterator[Ask]:
    """A way to post pieces to a server that does as `answer` says with each connection; sockets hold little."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    server = await asyncio.start_server(answer, sock=listening)

    def small(_: object) -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        return made

    connector = aiohttp.TCPConnector(socket_factory=small)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask(*pieces: bytes) -> tuple[int, bytes]:
            async with session.post(url, data=Pieces(pieces)) as response:
                return response.status, await response.read()

        yield ask
    server.close()
    await server.wait_closed()


async def body_of(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"post / http/1.1\r\n")
    return await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))


async def test_bodies_of_any_size_come_whole_and_in_order_on_one_connection() -> None:
    bodies: list[bytes] = []
    connections = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        for _ in sizes:
            bodies.append(await body_of(reader))
            writer.write(OK)
        writer.close()

    sizes = (1, LARGE - 2, 3 * LARGE, 7)
    async with asking(answer) as ask:
        for size in sizes:
            assert await ask(b"[", b"x" * size, b"]") == (200, b"ok")
    assert bodies == [b"[" + b"x" * size + b"]" for size in sizes]
    assert len(connections) == 1


@pytest.mark.parametrize("size", [LARGE // 2, 3 * LARGE])
async def test_a_refusal_is_heard_though_the_body_is_not_read(size: int) -> None:
    heard = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(REFUSED)
        await heard.wait()
        writer.transport.abort()

    async with asking(answer) as ask:
        assert (await ask(b"x" * size))[0] == 413
        heard.set()
