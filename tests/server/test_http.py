"""What a connection may do before, and after, it has asked for something."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
import uvicorn

from sensorium.server import http
from sensorium.server.crowd import Crowd
from sensorium.server.http import Connection

LEFT: list[asyncio.Event] = []
"""The last is set when the client of `/until-left` has left."""

TOLD: list[asyncio.Event] = []
"""Until the last is set `/until-told` is not answered."""

MOST = 4
"""Connections at once."""


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path, at once and without waiting for a body; but some paths ask for something else."""
    body = scope["path"].encode()
    if body == b"/wait":
        await asyncio.sleep(0.4)
    elif body == b"/until-told":
        await TOLD[-1].wait()
    elif body == b"/length":
        body = b"%d" % await length_of_body(receive)
    elif body == b"/until-left":
        while (await receive())["type"] != "http.disconnect":
            pass
        LEFT[-1].set()
    elif body == b"/headers":
        body = b" ".join(name for name, _ in scope["headers"])
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def length_of_body(receive: Any) -> int:
    length, more = 0, True
    while more:
        event = await receive()
        length, more = length + len(event.get("body", b"")), event.get("more_body", False)
    return length


@pytest_asyncio.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(http, "GOODBYE_SECONDS", 0.3)
    listening = socket.create_server(("127.0.0.1", 0))
    told: dict[str, Any] = {"ws": "none", "lifespan": "off", "log_config": None, "interface": "asgi3"}
    config = uvicorn.Config(echo, http=partial(Connection, Crowd(MOST)), timeout_keep_alive=1, **told)  # type: ignore[arg-type]
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
        async with asyncio.timeout(20):
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


Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def opened(room: AsyncExitStack, port: int, *, sends: bytes = b"", at: str = "127.0.0.1") -> Opened:
    """A connection that has been seen by the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(at, 0))
    room.callback(writer.close)
    writer.write(sends)
    return reader, writer


ONE = b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n"


async def is_ended(connection: Opened) -> bool:
    """Whether it ends without a word."""
    try:
        return await connection[0].read() == b""
    except ConnectionError:
        return True


async def test_without_room_whoever_has_most_connections_gives_up_the_oldest_that_is_idle(port: int) -> None:
    async with AsyncExitStack() as room:
        own = await opened(room, port, sends=ONE, at="127.0.0.2")
        assert b"/one" in await own[0].readuntil(b"/one")
        idle = [await opened(room, port, sends=ONE) for _ in range(MOST - 1)]
        for reader, _ in idle:
            await reader.readuntil(b"/one")
        newcomer = await opened(room, port, sends=ONE, at="127.0.0.3")
        assert b"HTTP/1.1 200 " in await newcomer[0].readuntil(b"/one")
        assert await is_ended(idle[0])
        for reader, writer in (own, *idle[1:]):
            writer.write(ONE)
            assert b"HTTP/1.1 200 " in await reader.readuntil(b"/one")


async def test_without_room_what_is_worked_on_stays_and_who_has_most_is_refused(port: int) -> None:
    TOLD.append(asyncio.Event())
    async with AsyncExitStack() as room:
        wait = b"GET /until-told HTTP/1.1\r\nHost: a\r\n\r\n"
        busy = [await opened(room, port, sends=wait) for _ in range(MOST)]
        assert (await said(port)).startswith(b"HTTP/1.1 503 ")
        TOLD[-1].set()
        for reader, _ in busy:
            assert b"HTTP/1.1 200 " in await reader.readuntil(b"/until-told")


async def test_without_room_slow_senders_of_one_address_make_room_for_others_but_not_for_their_own(port: int) -> None:
    async with AsyncExitStack() as room:
        slow = b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"
        senders = [await opened(room, port, sends=slow) for _ in range(MOST)]
        await asyncio.sleep(0.05)
        assert (await said(port)).startswith(b"HTTP/1.1 503 ")
        newcomer = await opened(room, port, sends=ONE, at="127.0.0.3")
        assert b"HTTP/1.1 200 " in await newcomer[0].readuntil(b"/one")
        assert await is_ended(senders[0])
        senders[1][1].write(b"defghi")
        assert b"HTTP/1.1 200 " in await senders[1][0].readuntil(b"\r\n\r\n9")


async def test_those_who_left_make_room(port: int) -> None:
    for _ in range(3 * MOST):
        assert b"/one" in await said(port, ONE.replace(b"Host", b"Connection: close\r\nHost"))


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
    answers = await said(port, first, b"456789", second, pause=0.05)
    assert answers.count(b"HTTP/1.1 200 ") == 2


ASK = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


def answers_in(data: bytes) -> list[bytes]:
    """The bodies of the answers, in their order; of those without, the status."""
    parts = [part.partition(b"\r\n\r\n") for part in data.split(b"HTTP/1.1 ")[1:]]
    return [body or heading[:3] for heading, _, body in parts]


async def test_requests_in_one_packet_are_answered_in_order(port: int) -> None:
    asked = [b"%d" % number for number in range(10)]
    answers = await said(port, b"".join(ASK % name for name in asked) + LAST)
    assert answers_in(answers) == [b"/" + name for name in (*asked, b"last")]


@pytest.mark.parametrize("waiting", [0, 1, 5])
async def test_who_leaves_while_requests_wait_is_noticed(port: int, waiting: int) -> None:
    LEFT.append(asyncio.Event())
    async with AsyncExitStack() as room:
        _, writer = await opened(room, port, sends=ONE.replace(b"/one", b"/until-left"))
        for _ in range(waiting):
            await asyncio.sleep(0.02)
            writer.write(b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        await asyncio.sleep(0.02)
    async with asyncio.timeout(20):
        await LEFT[-1].wait()


async def test_bodies_that_wait_behind_another_request_are_not_heaped_up(port: int) -> None:
    TOLD.append(asyncio.Event())
    async with AsyncExitStack() as room:
        reader, writer = await opened(room, port, sends=ONE.replace(b"/one", b"/until-told"))
        for _ in range(6):
            writer.write(b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n" + bytes(4_000_000))
        await asyncio.sleep(0.2)
        transport: Any = writer.transport
        assert transport.get_write_buffer_size() > 12_000_000, "the other side has stopped reading"
        TOLD[-1].set()
        answers = await reader.readuntil(b"4000000")
        for _ in range(5):
            answers += await reader.readuntil(b"4000000")
    assert answers.count(b"HTTP/1.1 200 ") == 7


async def test_no_more_requests_wait_on_one_connection_than_are_allowed(port: int) -> None:
    answers = await said(port, ASK % b"flood" * 10_000)
    assert answers_in(answers) == [b"/flood"] * (1 + http.MOST_PIPELINED), "and then it is closed"


@pytest.mark.parametrize("nonsense", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
async def test_nonsense_after_a_request_does_not_pass_for_its_answer(port: int, nonsense: bytes) -> None:
    assert answers_in(await said(port, ASK % b"wait" + nonsense)) == [b"/wait"]


async def test_a_head_that_never_ends_does_not_cut_off_the_answer_before_it(port: int) -> None:
    assert answers_in(await said(port, ASK % b"wait" + b"GET /")) == [b"/wait"]


async def test_a_body_behind_another_request_has_all_its_time(port: int) -> None:
    upload = b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
    answers = await said(port, ASK % b"one" + upload, b"ab", b"c", pause=0.4)
    assert answers_in(answers) == [b"/one", b"3"]


@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_a_request_that_offers_another_protocol_keeps_its_body(port: int, pause: float) -> None:
    hidden = ASK % b"hidden"
    framed = b"Content-Length: %d\r\n\r\n" % len(hidden), hidden
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(hidden), hidden + b"\r\n0\r\n\r\n"
    for head, body in (framed, chunked):
        start = b"POST /length HTTP/1.1\r\nHost: a\r\n" + UPGRADE
        answers = await said(port, start + head, body, LAST, pause=pause)
        assert answers_in(answers) == [b"%d" % len(hidden), b"/last"], "what it holds is no request"


async def test_what_follows_a_request_that_offers_another_protocol_is_answered(port: int) -> None:
    answers = await said(port, b"GET /one HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"\r\n" + LAST)
    assert answers_in(answers) == [b"/one", b"/last"]


CHUNKED = b"POST /headers HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"


async def test_trailers_do_not_pass_for_headers(port: int) -> None:
    answers = await said(port, CHUNKED + b"0\r\nX-API-Key: stolen\r\n\r\n")
    assert answers_in(answers) == [b"host connection transfer-encoding"]


@pytest.mark.parametrize(
    "without_end", [b"0\r\n" + b"a: b\r\n" * 12_000, b"0\r\na: " + b"b" * 70_000, b"1;" + b"a" * 70_000]
)
async def test_trailers_and_extensions_of_chunks_without_measure_are_refused(port: int, without_end: bytes) -> None:
    half = len(without_end) // 2
    pieces = CHUNKED.replace(b"/headers", b"/length"), without_end[:half], without_end[half:]
    answers = await said(port, *pieces, pause=0.02)
    assert answers_in(answers) == [b"431"]


async def test_an_empty_line_after_an_answer_does_not_keep_the_connection_for_ever(port: int) -> None:
    assert answers_in(await said(port, ASK % b"one", b"\r\n", pause=0.1)) == [b"/one"]


async def test_a_late_rest_of_a_body_does_not_keep_the_connection_for_ever(port: int) -> None:
    head = b"POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123"
    assert answers_in(await said(port, head, b"456789", pause=0.1)) == [b"/one"]
