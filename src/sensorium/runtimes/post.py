"""How aiohttp writes a question. Imported with the first of them, since aiohttp is heavy."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import payload
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection

AT_ONCE = 1 << 20
"""Bytes of a body that a connection takes without being asked whether it is full: more than all questions but large pictures."""


class Post(aiohttp.ClientRequest):
    """A request whose body is at hand, in pieces.

    A small one is written together with the head, where aiohttp would start a task for it. A large one has its task: who
    refuses it may answer before all of it is read.
    """

    _pieces: tuple[bytes, ...] = ()

    def update_body_from_data(self, body: tuple[bytes, ...], _stacklevel: int = 3) -> None:
        size = sum(map(len, body))
        if size > AT_ONCE:
            super().update_body_from_data(_Pieces(body, size), _stacklevel + 1)
        else:
            self._pieces = body
            self.headers["Content-Length"] = str(size)

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        protocol = conn.protocol
        if not self._pieces or protocol is None:
            return await super().send(conn)
        transport = protocol.transport
        both = _HeadAndBody(transport, self._pieces)
        protocol.transport = both
        try:
            response = await super().send(conn)  # which writes the head
        finally:
            protocol.transport = transport
        if both.body:  # the connection is still full of another question, and the head has a task
            await self.close()
            both.write(b"")
        return response


class _HeadAndBody(asyncio.Transport):
    """Stands for a transport while the head is written, and writes the body with it: one packet, one call of the system."""

    def __init__(self, transport: asyncio.Transport | None, body: tuple[bytes, ...]) -> None:
        self._transport, self.body = transport, body

    def is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._transport is not None:
            self._transport.writelines((data, *self.body))
        self.body = ()


class _Pieces(payload.Payload):
    """A body that is written piece by piece."""

    _value: tuple[bytes, ...]

    def __init__(self, value: tuple[bytes, ...], size: int) -> None:
        super().__init__(value)
        self._size = size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for piece in self._value:
            await writer.write(piece)
