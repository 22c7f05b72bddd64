"""Clients that send or read slowly, and those that come when there is no room: none of them holds up the others."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from sensorium.errors import Overloaded
from sensorium.server.body import UploadBudget
from tests.pictures import png
from tests.server.conftest import Server, eventually, running
from tests.server.wire import connected, head

PICTURE = "Content-Type: image/png"


def answer_on(connection: socket.socket) -> bytes:
    """One whole answer, and no byte more than has come with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    heading, _, body = data.partition(b"\r\n\r\n")
    length = int(heading.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return heading + b"\r\n\r\n" + body


@pytest.fixture
def full(strict: Server) -> Iterator[Server]:
    """A server whose only place is taken."""
    body = png(77, 77)
    with connected(strict.port) as connection:
        connection.sendall(head("/v1/classify?model=slow&timeout=60", PICTURE, f"Content-Length: {len(body)}") + body)
        assert eventually(lambda: status_of(strict) == 429)
        yield strict
    assert eventually(lambda: status_of(strict) == 200)


def status_of(server: Server) -> int:
    return send(server, png(6, 6)).status_code


def send(server: Server, body: bytes) -> requests.Response:
    return requests.post(f"{server.url}/v1/read", data=body, headers={"Content-Type": "image/png"}, timeout=10)


@contextlib.contextmanager
def slow_senders(server: Server, number: int = 50) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as senders:
        slow = [senders.enter_context(connected(server.port)) for _ in range(number)]
        for connection in slow:
            connection.sendall(head("/v1/classify", PICTURE, "Content-Length: 100000") + bytes(1000))
        yield slow


def test_fifty_slow_senders_hold_up_nobody(server: Server) -> None:
    with slow_senders(server) as slow:
        assert [status_of(server) for _ in range(10)] == [200] * 10
        assert not select.select(slow, [], [], 0)[0], "they are still at it"


def test_slow_senders_take_no_place_and_are_given_up(strict: Server) -> None:
    with slow_senders(strict) as slow:
        assert status_of(strict) == 200, "although only one is served at once"
        assert all(answer_on(connection).startswith(b"HTTP/1.1 408") for connection in slow)


def test_without_room_a_large_upload_is_refused_before_it_is_sent(full: Server) -> None:
    with connected(full.port) as connection:
        connection.sendall(head("/v1/classify", PICTURE, "Content-Length: 3000000"))
        answer = answer_on(connection)
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"retry-after: " in answer
        assert b"connection: close" in answer
        connection.sendall(bytes(3_000_000))  # as one does who does not listen while sending
        assert connection.recv(100) == b"", "and nothing of it is taken for another request"
    assert not full.spooled()[1:]


def test_without_room_whoever_waits_for_leave_to_send_does_not_get_it(full: Server) -> None:
    with connected(full.port) as connection:
        connection.sendall(head("/v1/classify", PICTURE, "Content-Length: 1000", "Expect: 100-continue"))
        assert answer_on(connection).startswith(b"HTTP/1.1 429")


@pytest.mark.parametrize("size", [1, 1000, 200_000])
def test_without_room_a_small_upload_keeps_its_connection_usable(full: Server, size: int) -> None:
    with connected(full.port) as connection:
        for _ in range(3):
            connection.sendall(head("/v1/classify", PICTURE, f"Content-Length: {size}") + bytes(size))
            assert answer_on(connection).startswith(b"HTTP/1.1 429")
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer_on(connection).endswith(b'{"status":"live"}')


@pytest.mark.slow  # it takes several seconds
def test_without_room_a_small_upload_that_does_not_come_is_answered_and_not_awaited_for_long(full: Server) -> None:
    with connected(full.port) as connection:
        connection.sendall(head("/v1/classify", PICTURE, "Content-Length: 1000") + bytes(10))
        assert answer_on(connection).startswith(b"HTTP/1.1 429")
        assert connection.recv(100) == b""


def test_uploads_share_a_budget_and_a_body_that_is_alone_fits() -> None:
    budget = UploadBudget(100)
    budget.take(150, 0)
    budget.take(10, 150)
    with pytest.raises(Overloaded, match="upload_budget"):
        budget.take(1, 0)
    budget.give_back(160)
    budget.take(60, 0)
    with pytest.raises(Overloaded):
        budget.refuse_when_full(41)
    budget.refuse_when_full(40)


def test_uploads_over_the_budget_are_refused_until_there_is_room(tmp_path: Path) -> None:
    with running(tmp_path, upload_budget=1_000_000) as server, connected(server.port) as first:
        first.sendall(head("/v1/classify", PICTURE, "Content-Length: 900001") + bytes(900_000))
        assert eventually(lambda: leave_to_send(server, 200_000).startswith(b"HTTP/1.1 429"))
        with connected(server.port) as chunked:
            chunked.sendall(head("/v1/classify", PICTURE, "Transfer-Encoding: chunked"))
            chunked.sendall(b"30d40\r\n" + bytes(200_000) + b"\r\n")
            answer = answer_on(chunked)
            assert answer.startswith(b"HTTP/1.1 429")
            assert b"upload_budget" in answer
        assert status_of(server) == 200, "what fits is served"
        first.sendall(b"x")
        assert answer_on(first).startswith(b"HTTP/1.1 415")
        assert leave_to_send(server, 200_000).startswith(b"HTTP/1.1 100"), "there is room again"


def leave_to_send(server: Server, size: int) -> bytes:
    """What is said to one who asks before it sends."""
    with connected(server.port) as connection:
        asking = head("/v1/classify", PICTURE, f"Content-Length: {size}", "Expect: 100-continue")
        connection.sendall(asking)
        return connection.recv(4096)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the time of unread answers")
def test_a_client_that_never_reads_its_answers_is_let_go_and_a_slow_one_is_not(tmp_path: Path) -> None:
    with running(tmp_path, unread_seconds=2) as server, asking_much(server) as never, asking_much(server) as slow:
        gone = time.monotonic() + 10
        while not is_gone(never):
            assert len(slow.recv(65536)), "a slow reader is served on"
            assert time.monotonic() < gone, "still there"
            time.sleep(0.1)  # this is how slowly it reads
        assert len(slow.recv(65536))
        assert not is_gone(slow)
        assert status_of(server) == 200


def asking_much(server: Server) -> socket.socket:
    """A connection on which more is asked for than the system holds for its client."""
    connection = connected(server.port)
    connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
    return connection


def is_gone(connection: socket.socket) -> bool:
    """Whether the other side has forgotten this connection; it says so only when it is spoken to."""
    try:
        connection.send(b"GET ")
    except OSError:
        return True
    return False
