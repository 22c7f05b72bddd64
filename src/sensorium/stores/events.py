"""Events of streams, numbered and kept for a while: a reader whose connection broke goes on where it was.

    stream = log.open("shop")
    stream.add(b"...")                          # event 1
    reader = await log.reader(stream.id, "shop", after=0)
    while events := await reader.read():
        ...

A stream is written in one process and belongs to who asked for it. Any number read it, each at its own speed: the
writer waits for the foremost, and who falls behind what is kept is told so. `MemoryLog` is of this process;
`events_sqlite.py` has the one that several processes share.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from sensorium.errors import InvalidRequest, Overloaded, StreamGone, UnknownStream
from sensorium.telemetry import TELEMETRY

MOST_BYTES = 32 * 2**20
"""Of all streams of a process together."""

MOST_BYTES_OF_ONE = 2**20
"""Of one stream: some 7,000 words with what is around them."""

FEWEST_BYTES_OF_ONE = 2**16
"""What a stream that is being written has in any case; all together take more than MOST_BYTES only by that."""

EVENT_BYTES, STREAM_BYTES = 64, 1024
"""What an event and a stream count beside their bytes, so that their number is bounded too."""

KEPT_SECONDS = 300.0
"""How long a stream that has ended can still be read."""

MOST_GONE = 10_000
"""Streams of which is remembered that they were there."""

MOST_READERS = 16
"""Of one stream at once."""

AT_ONCE = 256
"""Events that are read in one go."""


class Reader(Protocol):
    """One who reads a stream. Must be closed."""

    @property
    def over(self) -> bool:
        """Whether all has been read that there will be."""

    async def read(self) -> bytes:
        """The next event, or several joined; waits until there is one. Empty at the stream's end.

        Raises StreamGone when the next one is not kept any more, or will never come.
        """

    def close(self) -> None:
        """Read no more."""


class EventLog(Protocol):
    """Streams, by their ids. Belongs to the event loop that it is first used in."""

    def open(self, owner: str) -> Stream:
        """A new stream, written in this process."""

    async def reader(self, identity: str, owner: str, after: int) -> Reader:
        """One who reads what comes after that many events.

        Raises UnknownStream when this owner has none of that id, StreamGone when what comes next is not kept any more,
        InvalidRequest when so many events were never told, and Overloaded when too many read it.
        """

    async def drop(self, identity: str, owner: str) -> None:
        """End a stream, with the work that tells it, and keep nothing of it. Raises UnknownStream as `reader` does."""

    async def read_elsewhere(self, identity: str) -> int | None:
        """How far readers in other processes have come with a stream of this one; None: nobody is there."""

    async def close(self) -> None:
        """Give files and threads back."""


class Stream:
    """One stream, in the process that writes it."""

    __slots__ = (
        "_events",
        "_roomy",
        "_shelf",
        "dropped",
        "ended",
        "first",
        "id",
        "last",
        "left",
        "owner",
        "read",
        "readers",
        "size",
        "stop",
    )

    def __init__(self, identity: str, owner: str, shelf: MemoryLog) -> None:
        self.id, self.owner, self._shelf = identity, owner, shelf
        self._events: list[bytes] = []
        self._roomy: asyncio.Future[None] | None = None
        self.first, self.last = 1, 0
        """Numbers of the oldest event kept and of the newest."""
        self.read = 0
        """How far its foremost reader has come."""
        self.size = STREAM_BYTES
        """What it counts, in bytes."""
        self.ended = False
        self.readers: set[_Here] = set()
        self.left: Callable[[], None] = _nothing
        """Called when the last reader in this process has left."""
        self.stop: Callable[[], None] = _nothing
        """Called to have the work ended that tells it."""
        self.dropped = False
        """Whether its owner wants none of it any more."""

    def add(self, event: bytes) -> None:
        """Whoever adds waits for `room` where `full` says so; else what its readers have not seen grows without bound."""
        size = len(event) + EVENT_BYTES
        self._events.append(event)
        self.last += 1
        self.size += size
        self._shelf.grew(self, size)
        for reader in self.readers:
            reader.wake()

    def end(self) -> None:
        """After the last event."""
        self.ended = True
        self._shelf.put_away(self)
        self._over()

    def discard(self) -> None:
        """In place of an end, where nobody can know that it was there."""
        self.ended = True
        self._shelf.forget(self.id)
        self._over()

    def _over(self) -> None:
        self.left = self.stop = _nothing  # whoever listens holds this, and garbage is seldom looked for
        for reader in self.readers:
            reader.wake()

    @property
    def full(self) -> bool:
        """Whether more is kept than one stream may have, since nobody has read it."""
        return self.size > self._shelf.allowed

    async def room(self) -> None:
        """Wait until the foremost reader has come so far that older events can go."""
        while self.full:
            self._roomy = asyncio.get_running_loop().create_future()
            await self._roomy

    def came_to(self, number: int) -> None:
        """A reader has dealt with the events up to this one."""
        if number <= self.read:
            return
        self.read = number
        if self._roomy is not None and not self._roomy.done():
            self.trim()
            if not self.full:
                self._roomy.set_result(None)

    def trim(self) -> None:
        """Let go of the oldest events that have been read: an eighth more than must be, so that it is seldom done."""
        keep, count = self._shelf.allowed * 7 // 8, 0
        most = min(self.read, self.last) - self.first + 1
        freed = 0
        while count < most and self.size - freed > keep:
            freed += len(self._events[count]) + EVENT_BYTES
            count += 1
        del self._events[:count]
        self.first += count
        self.size -= freed
        self._shelf.shrank(freed)

    def after(self, number: int, most: int | None = None) -> list[bytes]:
        """The events that follow that one, as far as they are kept."""
        start = max(0, number + 1 - self.first)
        return self._events[start:] if most is None else self._events[start : start + most]

    def reader(self, after: int) -> Reader:
        """Raises StreamGone, InvalidRequest or Overloaded, as `EventLog.reader` does."""
        if after > self.last:
            raise never_told(self.last)
        if after + 1 < self.first:
            raise trimmed()
        if len(self.readers) >= MOST_READERS:
            raise too_many()
        return _Here(self, after)


class _Here:
    """Reads in the process that writes."""

    __slots__ = ("_at", "_stream", "_waiting")

    def __init__(self, stream: Stream, after: int) -> None:
        self._stream, self._at = stream, after
        self._waiting: asyncio.Future[None] | None = None
        stream.readers.add(self)

    @property
    def over(self) -> bool:
        return self._stream.ended and self._at == self._stream.last

    async def read(self) -> bytes:
        stream = self._stream
        stream.came_to(self._at)
        while self._at >= stream.last:
            if stream.ended:
                return b""
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        if self._at + 1 < stream.first:
            raise trimmed()
        events = stream.after(self._at, AT_ONCE)
        self._at += len(events)
        return events[0] if len(events) == 1 else b"".join(events)

    def wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def close(self) -> None:
        stream = self._stream
        if self in stream.readers:
            stream.readers.remove(self)
            if not stream.readers:
                stream.left()


class MemoryLog:
    """Streams of this process. Those that have ended go when their time is over, or earlier when room is needed."""

    def __init__(
        self,
        *,
        max_bytes: int = MOST_BYTES,
        stream_bytes: int = MOST_BYTES_OF_ONE,
        kept_seconds: float = KEPT_SECONDS,
        changed: Callable[[Stream], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`changed` hears of each event and each end."""
        self._max_bytes, self._stream_bytes, self._kept_seconds = max_bytes, stream_bytes, kept_seconds
        self._changed, self._clock = changed or _unheard, clock
        self._live: dict[str, Stream] = {}
        self._ended: dict[str, tuple[float, Stream]] = {}  # by the time of their end
        self._gone: dict[str, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.size = 0
        """What all streams count, in bytes."""
        TELEMETRY.stream_bytes[()].watch(self, lambda log: log.size)

    @property
    def live(self) -> Mapping[str, Stream]:
        """Streams that are being written."""
        return self._live

    @property
    def allowed(self) -> int:
        """Bytes that a stream which is being written may have now."""
        return self._stream_bytes if self.size <= self._max_bytes else FEWEST_BYTES_OF_ONE

    def open(self, owner: str) -> Stream:
        stream = Stream(secrets.token_hex(16), owner, self)
        self._live[stream.id] = stream
        self.size += STREAM_BYTES
        return stream

    def find(self, identity: str) -> Stream | None:
        """A stream that is kept here, whoever it belongs to."""
        if (stream := self._live.get(identity)) is not None:
            return stream
        self._forget_old()
        found = self._ended.get(identity)
        return found[1] if found else None

    async def reader(self, identity: str, owner: str, after: int) -> Reader:
        stream = self.find(identity)
        if stream is not None and stream.owner == owner:
            return stream.reader(after)
        if self._gone.get(identity) == owner:
            raise expired()
        raise unknown()

    async def drop(self, identity: str, owner: str) -> None:
        stream = self.find(identity)
        if stream is not None and stream.owner == owner:
            self.let_go(stream)
        elif self._gone.get(identity) != owner:
            raise unknown()

    def let_go(self, stream: Stream) -> None:
        """Keep nothing of it: now, or once its work has ended."""
        if stream.ended:
            self._lose(stream.id)
        elif not stream.dropped:
            stream.stop()
        stream.dropped = True

    async def read_elsewhere(self, identity: str) -> int | None:  # noqa: ARG002 - no other process sees it
        return None

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for kept in (self._live, self._ended, self._gone):
            kept.clear()
        self.size = 0

    def grew(self, stream: Stream, size: int) -> None:
        """Make room for what was added, and tell of it."""
        self.size += size
        if self.size > self._max_bytes:
            self._forget_for_room()
        if stream.size > self.allowed:
            stream.trim()
        self._changed(stream)

    def shrank(self, size: int) -> None:
        self.size -= size

    def put_away(self, stream: Stream) -> None:
        """Keep an ended stream while there is time and room."""
        if self._live.pop(stream.id, None) is None:
            return
        self._ended[stream.id] = self._clock() + self._kept_seconds, stream
        if stream.dropped:
            self._lose(stream.id)
        self._forget_for_room()
        self._changed(stream)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._kept_seconds, self._sweep)

    def forget(self, identity: str) -> None:
        """As if it had never been here."""
        stream = self._live.pop(identity, None) or self._ended.pop(identity, (0.0, None))[1]
        if stream is not None:
            self.size -= stream.size

    def _sweep(self) -> None:
        self._timer = None
        self._forget_old()
        if self._ended:
            wait = next(iter(self._ended.values()))[0] - self._clock()
            self._timer = asyncio.get_running_loop().call_later(max(wait, 1.0), self._sweep)

    def _forget_old(self) -> None:
        now = self._clock()
        while self._ended and next(iter(self._ended.values()))[0] <= now:
            self._lose(next(iter(self._ended)))

    def _forget_for_room(self) -> None:
        while self._ended and self.size > self._max_bytes:
            self._lose(next(iter(self._ended)))

    def _lose(self, identity: str) -> None:
        """An ended stream; that it was there is remembered."""
        _, stream = self._ended[identity]
        self.forget(identity)
        self._gone[identity] = stream.owner
        if len(self._gone) > MOST_GONE:
            del self._gone[next(iter(self._gone))]


def _nothing() -> None:
    """Nobody wants to know."""


def _unheard(stream: Stream) -> None:
    """Nobody wants to know."""


ASK_AGAIN = "Ask again from the beginning"


def unknown() -> UnknownStream:
    return UnknownStream("There is no such stream", why="or it is another key's", fix="Use the id of one of your own")


def expired() -> StreamGone:
    why = "it ended long ago or was deleted, or its room was needed"
    return StreamGone("The stream is gone", why=why, fix=ASK_AGAIN)


def trimmed() -> StreamGone:
    return StreamGone("The next events are gone", why="too many newer ones have been told since", fix=ASK_AGAIN)


def never_told(last: int) -> InvalidRequest:
    return InvalidRequest(
        "`Last-Event-ID` is too high",
        why=f"the stream has told {last} events",
        fix="Send the last id that you have read",
    )


def too_many() -> Overloaded:
    return Overloaded("Too many read this stream", why=f"{MOST_READERS} do", fix="Close some of the others")
