"""What a question's body is to aiohttp. Imported with the first of them, since aiohttp is heavy."""

from __future__ import annotations

from aiohttp import payload
from aiohttp.abc import AbstractStreamWriter


class Pieces(payload.Payload):
    """A body that is at hand, in pieces, and written piece by piece: joining them would hold large pictures twice."""

    _value: tuple[bytes, ...]

    def __init__(self, value: tuple[bytes, ...]) -> None:
        super().__init__(value)
        self._size = sum(map(len, value))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for piece in self._value:
            await writer.write(piece)
