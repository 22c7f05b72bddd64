"""A store that forgets everything when the process ends."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable


class MemoryStore:
    """Holds at most `max_bytes` of values; those unused for longest go first."""

    def __init__(self, max_bytes: int = 64 * 2**20, clock: Callable[[], float] = time.monotonic) -> None:
        self._values: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._room, self._max_bytes, self._clock = max_bytes, max_bytes, clock

    async def get(self, key: str) -> bytes | None:
        expires, value = self._values.get(key, (0.0, b""))
        if expires > self._clock():
            self._values.move_to_end(key)
            return value
        await self.delete(key)
        return None

    async def put(self, key: str, value: bytes, seconds: float) -> None:
        await self.delete(key)
        if _size(key, value) > self._max_bytes:
            return
        self._values[key] = (self._clock() + seconds, value)
        self._room -= _size(key, value)
        while self._room < 0:
            await self.delete(next(iter(self._values)))

    async def delete(self, key: str) -> None:
        if found := self._values.pop(key, None):
            self._room += _size(key, found[1])

    async def close(self) -> None:
        self._values.clear()
        self._room = self._max_bytes


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value)
