"""Inputs for an event loop, found by a thread: folders may be slow, and standard input may keep one waiting for ever."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import suppress

from sensorium.batch.inputs import Item

AHEAD = 8
"""Handfuls that are found before they are asked for."""


class Feeder:
    """Gives inputs to whoever asks, a few found ahead."""

    def __init__(self, items: Iterator[Item], handful: int) -> None:
        """`handful`: how many are handed over together, as soon as they are found."""
        self._items, self._handful = items, handful
        self._room = threading.Semaphore(AHEAD)
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[list[Item] | Exception | None] = asyncio.Queue()
        self._found: list[Item] = []
        self._ended = False
        threading.Thread(target=self._feed, daemon=True).start()

    async def more(self) -> bool:
        """Whether there is another one; waits until that is known. Raises what finding it did."""
        while not self._found and not self._ended:
            got = await self._queue.get()
            self._room.release()
            if isinstance(got, Exception):
                raise got
            self._found, self._ended = got or [], got is None
        return bool(self._found)

    async def take(self, most: int) -> list[Item]:
        """Up to so many, as soon as there is one; none: there are no more. One at a time may ask."""
        await self.more()
        taken, self._found = self._found[:most], self._found[most:]
        return taken

    def end(self) -> None:
        """Give no more, and have whoever waits for one told so."""
        self._found, self._ended, self._handful = [], True, 0
        self._queue.put_nowait(None)
        self._room.release()

    def _feed(self) -> None:
        """In the thread."""
        last: Exception | None = None
        try:
            while some := list(itertools.islice(self._items, self._handful)):
                self._tell(some)
        except Exception as error:  # noqa: BLE001 - whoever asks gets it
            last = error
        self._tell(last)

    def _tell(self, what: list[Item] | Exception | None) -> None:
        self._room.acquire()
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._queue.put_nowait, what)
