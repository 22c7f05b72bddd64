"""A light load: one process, many connections, requests made beforehand, and answers read by their length only.

It takes about 0.1 ms of a core for each request, so that servers that share the cores with it can be compared.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

READ_AT_ONCE = 1 << 18
BOUNDARY = b"5f2c1d9e"
LOST = 0
"""Stands for the status of a request whose connection ended without an answer."""


def upload(path: str, picture: bytes, *, key: str = "") -> bytes:
    """One POST of a picture as the form field `image`."""
    body = (
        b'--%b\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        % BOUNDARY
    )
    body += picture + b"\r\n--%b--\r\n" % BOUNDARY
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        *([f"Authorization: Bearer {key}"] if key else []),
        f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(slots=True)
class Answer:
    """One answered request; times are of `time.perf_counter`."""

    status: int
    started: float
    ended: float
    retry_after: bool = False

    @property
    def seconds(self) -> float:
        return self.ended - self.started


@dataclass(slots=True)
class Load:
    """What came of a time of load."""

    answers: list[Answer] = field(default_factory=list)
    cpu_seconds: float = 0.0
    """Of the client itself."""
    late: int = 0
    """Requests of an open loop for which no connection was free in time."""

    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers)

    def within(self, start: float, end: float) -> list[Answer]:
        return [answer for answer in self.answers if start <= answer.ended < end]


class Connection:
    """One keep-alive connection, made anew when the server closes it."""

    def __init__(self, port: int, poll: select.epoll, by_number: dict[int, Connection]) -> None:
        self._port, self._poll, self._by_number = port, poll, by_number
        self._socket: socket.socket | None = None
        self._out, self._in = memoryview(b""), bytearray()
        self._head, self._length = b"", -1
        self._writing = self._asked = False
        self._started = 0.0

    def send(self, request: bytes) -> None:
        self._started, self._asked = time.perf_counter(), True
        self._in.clear()
        self._length, self._out = -1, memoryview(request)
        if self._socket is None:
            self._connect()
        self.write()

    def write(self) -> None:
        """Send what is left to be sent."""
        assert self._socket is not None
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            sent = 0
        except OSError:  # the server has gone; reading says so
            sent = len(self._out)
        self._out = self._out[sent:]
        if bool(self._out) != self._writing:
            self._writing = bool(self._out)
            self._poll.modify(self._socket, select.EPOLLIN | (select.EPOLLOUT if self._writing else 0))

    def read(self) -> Answer | None:
        """The answer once it is whole."""
        assert self._socket is not None
        try:
            data = self._socket.recv(READ_AT_ONCE)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            return self._ended()
        self._in += data
        if self._length < 0 and (end := self._in.find(b"\r\n\r\n")) >= 0:
            self._head = bytes(self._in[:end]).lower()
            self._length = end + 4 + int(self._value(b"content-length") or 0)
        if self._length < 0 or len(self._in) < self._length:
            return None
        return self._whole()

    @property
    def body(self) -> bytes:
        """Of the last answer."""
        return bytes(self._in).partition(b"\r\n\r\n")[2]

    def close(self) -> None:
        if self._socket is not None:
            del self._by_number[self._socket.fileno()]
            self._socket.close()
            self._socket, self._writing = None, False

    def _connect(self) -> None:
        # On loopback a connection is there at once, or stands in the server's backlog.
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._poll.register(self._socket, select.EPOLLIN)
        self._by_number[self._socket.fileno()] = self

    def _whole(self) -> Answer:
        status, self._asked = int(self._head[9:12]), False
        if self._out or self._value(b"connection") == b"close":  # refused before it had read all
            self.close()
        return Answer(status, self._started, time.perf_counter(), b"\r\nretry-after:" in self._head)

    def _ended(self) -> Answer | None:
        """The server may close a connection on which nothing was asked."""
        self.close()
        asked, self._asked = self._asked, False
        return None if not asked else Answer(LOST, self._started, time.perf_counter())

    def _value(self, name: bytes) -> bytes:
        _, found, rest = self._head.partition(b"\r\n" + name + b":")
        return rest.partition(b"\r\n")[0].strip() if found else b""


def closed_loop(port: int, requests: Sequence[bytes], *, clients: int, seconds: float) -> Load:
    """So many clients, each with one request under way at any time; then the last answers are waited for."""
    with _Crowd(port, clients) as crowd:
        coming = cycle(requests)
        end = time.perf_counter() + seconds
        for connection in crowd.take(clients):
            connection.send(next(coming))
        while crowd.busy:
            for _ in crowd.answers(0.5):
                if time.perf_counter() < end:
                    crowd.take_one().send(next(coming))
    return crowd.load


def open_loop(port: int, requests: Sequence[bytes], *, rate: float, connections: int, seconds: float) -> Load:
    """Requests at a steady rate, whatever becomes of them; then the last answers are waited for."""
    with _Crowd(port, connections) as crowd:
        coming = cycle(requests)
        due = time.perf_counter()
        end = due + seconds
        while due < end or crowd.busy:
            now = time.perf_counter()
            while due <= now and due < end:
                if crowd.idle:
                    crowd.take_one().send(next(coming))
                else:
                    crowd.load.late += 1
                due += 1 / rate
            for _ in crowd.answers(max(due - time.perf_counter(), 0.0) if due < end else 0.5):
                pass
    return crowd.load


def ask_each(port: int, requests: Sequence[bytes]) -> list[tuple[Answer, bytes]]:
    """Each request by itself, with the body of its answer."""
    with _Crowd(port, 1) as crowd:
        told = []
        for request in requests:
            connection = crowd.take_one()
            connection.send(request)
            while not (answers := list(crowd.answers(0.5))):
                pass
            told.append((answers[0], connection.body))
        return told


class _Crowd:
    """Connections, and which of them are free."""

    def __init__(self, port: int, size: int) -> None:
        self._poll, self._by_number = select.epoll(), dict[int, Connection]()
        self.idle = [Connection(port, self._poll, self._by_number) for _ in range(size)]
        self._all = list(self.idle)
        self.load = Load()
        self._cpu = time.process_time()

    def __enter__(self) -> _Crowd:
        return self

    def __exit__(self, *error: object) -> None:
        self.load.cpu_seconds = time.process_time() - self._cpu
        for connection in self._all:
            connection.close()
        self._poll.close()

    @property
    def busy(self) -> int:
        """How many requests are under way."""
        return len(self._all) - len(self.idle)

    def take_one(self) -> Connection:
        return self.idle.pop()

    def take(self, count: int) -> list[Connection]:
        return [self.idle.pop() for _ in range(count)]

    def answers(self, seconds: float) -> Iterator[Answer]:
        """Those that come within so many seconds, or at once when some are there."""
        for number, event in self._poll.poll(seconds):
            connection = self._by_number[number]
            if event & select.EPOLLOUT:
                connection.write()
            if event & ~select.EPOLLOUT and (answer := connection.read()):
                self.idle.append(connection)
                self.load.answers.append(answer)
                yield answer
