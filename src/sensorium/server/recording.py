"""Answers that are kept while they are told: when a connection breaks the work goes on for a while, and readers come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing

from sensorium.engine import Listener
from sensorium.errors import ReaderStalled, SensoriumError, ServiceClosed, StreamGone
from sensorium.schemas.base import Result
from sensorium.schemas.events import Event
from sensorium.server.events import Talk
from sensorium.server.facades.base import Encoder, Outcome
from sensorium.stores.events import EventLog, Reader, Stream

Work = Callable[[Listener], Awaitable[Sequence[Outcome]]]

LOOK_SECONDS = 0.5
"""How often it is looked whether another process has readers, once there are none here."""

EVENT_END = b"\n\n"


class Recording:
    """One answer: the work writes it into the log, in a task of its own, and readers tell it from there.

    To its first reader's `Talk` it is the encoder.
    """

    def __init__(self, log: EventLog, stream: Stream, encoder: Encoder, grace: float) -> None:
        self._log, self._stream, self._encoder, self._grace = log, stream, encoder, grace
        self._identity = stream.id.encode()
        self._reader = stream.reader(0)
        self._begun = False
        self._watch: asyncio.Task[None] | None = None
        self._seen = 0.0
        self._given_up: SensoriumError | None = None
        """Why, where it was."""
        stream.left, stream.stop = self._left, self._stop

    def work(self, work: Work) -> asyncio.Task[Sequence[Outcome]]:
        """Begin. The task returns the one outcome, also when it is cancelled."""
        self._work = asyncio.create_task(self._record(work))
        # Also where it is cancelled before its first step.
        self._work.add_done_callback(lambda _: self._close())
        return self._work

    async def tell(self, talk: Talk) -> Sequence[Outcome]:
        """Tell all of it; the outcomes instead, where there is none and nothing has been told yet."""
        await tell(self._reader, talk)
        return () if self._begun else await self._work

    def start(self) -> bytes:
        self._begin()
        return b""

    def event(self, event: Event) -> bytes:
        return self._encoder.event(event)

    def beat(self) -> bytes:
        return self._encoder.beat()

    def end(self, result: Result) -> bytes:
        return self._encoder.end(result)

    def error(self, error: SensoriumError) -> bytes:
        return self._encoder.error(error)

    async def _record(self, work: Work) -> Sequence[Outcome]:
        try:
            outcomes = await work(self._hear)
        except asyncio.CancelledError:
            outcomes = (self._given_up or ServiceClosed("The server stops", fix="Send it again"),)
        (outcome,) = outcomes
        if not isinstance(outcome, SensoriumError):
            self._begin()
            self._add(self._encoder.end(outcome))
        elif self._begun:
            self._add(self._encoder.error(outcome))
        self._close()
        return outcomes

    def _close(self) -> None:
        if self._stream.ended:
            return
        if self._begun:
            self._stream.end()
        else:
            self._stream.discard()

    async def _hear(self, event: Event) -> None:
        if data := self._encoder.event(event):
            self._begin()
            self._add(data)
            if self._stream.full:
                await self._stream.room()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._add(self._encoder.start())

    def _add(self, data: bytes) -> None:
        """Whole events, each with its id."""
        stream = self._stream
        if data.find(EVENT_END) == len(data) - len(EVENT_END):
            stream.add(b"id: %b:%d\n%b" % (self._identity, stream.last + 1, data))
        else:
            for event in data.split(EVENT_END)[:-1]:
                stream.add(b"id: %b:%d\n%b\n\n" % (self._identity, stream.last + 1, event))

    def _left(self) -> None:
        """The last reader here has left."""
        if self._work.done():
            return
        self._seen = asyncio.get_running_loop().time()
        if not self._begun or not self._grace:  # nobody else can know of it, or is waited for
            self._give_up(self._unread())
        elif self._watch is None:
            self._watch = asyncio.create_task(self._wait_for_readers())

    async def _wait_for_readers(self) -> None:
        """Until one has come back, or the time for that is over."""
        loop = asyncio.get_running_loop()
        while (left := self._seen + self._grace - loop.time()) > 0:
            await asyncio.wait([self._work], timeout=min(left, LOOK_SECONDS))
            if self._work.done() or self._stream.readers:
                break
            if (position := await self._log.read_elsewhere(self._stream.id)) is not None:
                self._seen = loop.time()
                self._stream.came_to(position)
        else:
            self._give_up(self._unread())
        self._watch = None

    def _stop(self) -> None:
        """Its owner wants none of it any more."""
        self._give_up(StreamGone("The stream was deleted", why="its owner wanted no more of it", fix="Ask again"))

    def _give_up(self, why: SensoriumError) -> None:
        self._given_up = why
        self._work.cancel()

    def _unread(self) -> SensoriumError:
        why = f"for {self._grace:g} s (`resume_grace_seconds`)"
        return ReaderStalled("Nobody read the stream, so the work was given up", why=why, fix="Ask again")


class Recordings:
    """All that are under way in this process."""

    def __init__(self, log: EventLog, grace: float) -> None:
        self.log, self._grace = log, grace
        self._under_way: set[asyncio.Task[Sequence[Outcome]]] = set()

    def begin(self, owner: str, encoder: Callable[[str], Encoder], work: Work, at_end: Callable[[], None]) -> Recording:
        """Have the work done, and keep what it says; `at_end` is called when it is over."""
        stream = self.log.open(owner)
        recording = Recording(self.log, stream, encoder(stream.id), self._grace)
        task = recording.work(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(lambda _: at_end())
        return recording

    def cut(self) -> None:
        """Give up what is under way: its readers are told so."""
        for task in self._under_way:
            task.cancel()

    async def close(self) -> None:
        while self._under_way:
            self.cut()
            await asyncio.wait(self._under_way)
        await self.log.close()


async def tell(reader: Reader, talk: Talk) -> bool:
    """Tell a client what is read, to the end; whether there was anything."""
    whole = False
    with talk, closing(reader):
        while not whole and (data := await reader.read()):
            whole = reader.over
            await talk.tell(data, more=not whole)
        if talk.started and not whole:
            await talk.tell(b"", more=False)
    return talk.started
