"""Streams read as lightly as can be: when the first words come, and how many pieces."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

READ_AT_ONCE = 1 << 18
PIECE, DONE = b'"content"', b"data: [DONE]"


@dataclass(slots=True)
class Heard:
    """What came of a time of streams."""

    first_seconds: list[float] = field(default_factory=list)
    """From the question to the first words, of each stream."""
    pieces: int = 0
    whole: int = 0
    """Streams that came to their end."""
    broken: int = 0
    elapsed: float = 0.0


class Stream:
    """One question at a time on one connection."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port, self._request = port, request
        self.ask()

    def ask(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._asked, self._told, self._tail = time.perf_counter(), False, b""
        self.socket.sendall(self._request)

    def read(self, heard: Heard) -> bool:
        """Whether it is over."""
        try:
            data = self.socket.recv(READ_AT_ONCE)
        except OSError:
            data = b""
        text = self._tail + data
        found = text.count(PIECE)
        if found and not self._told:
            self._told = True
            heard.first_seconds.append(time.perf_counter() - self._asked)
        heard.pieces += found - self._tail.count(PIECE)
        over = DONE in text
        self._tail = text[-(len(DONE) - 1) :]
        heard.whole += over
        heard.broken += not data and not over
        return over or not data


def listen(port: int, requests: Sequence[bytes], *, seconds: float) -> Heard:
    """One client for each request, which it asks again and again; then the last streams are waited for."""
    heard, poll, start = Heard(), select.epoll(), time.perf_counter()
    streams: dict[int, Stream] = {}
    for request in requests:
        stream = Stream(port, request)
        streams[stream.socket.fileno()] = stream
        poll.register(stream.socket, select.EPOLLIN)
    while streams:
        for number, _ in poll.poll(1.0):
            stream = streams[number]
            if not stream.read(heard):
                continue
            poll.unregister(number)
            del streams[number]
            stream.socket.close()
            if time.perf_counter() < start + seconds:
                stream.ask()
                streams[stream.socket.fileno()] = stream
                poll.register(stream.socket, select.EPOLLIN)
    heard.elapsed = time.perf_counter() - start
    return heard
