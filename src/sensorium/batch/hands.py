"""Who does the work: child processes, each with a service of its own, so that an input that ends one ends nothing else.

What a process had in hand when it died is tried again by the next, one at a time: then it is known who is to blame. An input
that was there at three deaths gets an error; the rest goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic_core import from_json, to_json

from sensorium.batch.child import HEAD, LENGTH, READY, REFUSED, packed
from sensorium.batch.inputs import Item
from sensorium.config import WITH_SECRETS, Settings
from sensorium.errors import SensoriumError, WorkerDied, every_error
from sensorium.telemetry import new_trace

MOST_DEATHS = 3
"""Of processes, before the input that they had in hand is to blame: others may end a process too."""

MOST_IN_A_ROW = 5
"""Inputs with nothing done between them that end every process: then it is not the inputs."""

MOST_STARTS, PAUSE_SECONDS = 10, 0.2
"""How often a process is started that something kills before it is ready, and how long after each."""

CHUNK, CHUNK_SECONDS = 16, 0.5
"""Inputs that are handed over together, at most; fewer where they take longer than this together."""

SILENT_SECONDS = 60.0
"""How much longer than allowed a process may be silent, as while a model loads, before it is taken for dead."""

TAIL = 2000
"""Bytes of what a process said last, for the message when it cannot start."""

Chunk = list[Item]
Take = Callable[[int], Awaitable[Chunk]]
"""Up to so many inputs, as soon as there is one; none: there are no more."""
Settle = Callable[[Chunk, Sequence[bytes]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How many hands there are, and how much each is given."""

    processes: int
    chunks: int
    """That a process has in hand at once."""
    most: int
    """Inputs of a chunk."""
    settings: Settings
    """Of each process."""
    seconds: float
    """How long one input may take."""
    computes: bool
    """Whether the processes compute, so that an input that took too long may keep one of their threads for ever."""


class Died(Exception):
    """The process ended, or had to be ended, with work in hand."""


class KilledEarly(Exception):
    """Something killed the process before it was ready."""


class Child:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(READY + 1)
        self._waiting: dict[int, asyncio.Future[list[bytes]]] = {}
        self._ready: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[READY] = self._ready
        self._said = b""
        self._tasks = [asyncio.create_task(self._hear()), asyncio.create_task(self._listen())]

    @classmethod
    async def started(cls, settings: Settings) -> Child:
        """A process that is ready. Raises KilledEarly, WorkerDied when it does not come so far, else what it says is wrong."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sensorium.batch.child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is heard here only
        )
        child = cls(process)
        try:
            child._send(0, [settings.model_dump_json(context=WITH_SECRETS).encode()])
            async with asyncio.timeout(SILENT_SECONDS):
                await child._ready
        except (Died, TimeoutError) as error:
            await child.end()
            if isinstance(error, Died) and (process.returncode or 0) < 0:
                raise KilledEarly(_end(process.returncode or 0)) from error
            last = child._said.decode(errors="replace").strip().rpartition("\n")[2]
            raise WorkerDied("A process for the work cannot start", why=last or str(error)) from error
        except BaseException:
            await child.end()
            raise
        return child

    @property
    def is_dead(self) -> bool:
        return self._tasks[0].done() or self._process.returncode is not None

    async def do(self, orders: Sequence[bytes], seconds: float) -> list[bytes]:
        """As many outcomes. Raises Died, also when there was none after so long."""
        number = next(self._numbers)
        answer: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._send(number, orders)
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError as error:
            self.kill()
            raise Died(f"was silent for {seconds:.0f} s") from error
        finally:
            self._waiting.pop(number, None)

    async def end(self) -> None:
        """End the process, whatever it does."""
        self.kill()
        await self._process.wait()
        await asyncio.wait(self._tasks, timeout=1.0)  # whoever waits for an answer is told of the death
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._process._transport.close()  # type: ignore[attr-defined] # else it complains when it is collected

    def _send(self, number: int, parts: Sequence[bytes]) -> None:
        if self._process.stdin is None or self._process.stdin.is_closing():
            raise Died("its input is closed")
        self._process.stdin.write(packed(number, parts))

    def kill(self) -> None:
        """End it; whoever waits for an answer is told of its death."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _hear(self) -> None:
        """Take answers in until there are no more; whoever still waits then is told of the death."""
        pipe = cast("asyncio.StreamReader", self._process.stdout)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                number, count = HEAD.unpack(await pipe.readexactly(HEAD.size))
                self._answered(number, [await _part(pipe) for _ in range(count)])
        code = await self._process.wait()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Died(_end(code)))
                answer.exception()  # known, also where nobody waits any more

    def _answered(self, number: int, parts: list[bytes]) -> None:
        if number == REFUSED:
            self._ready.set_exception(as_error(from_json(parts[0])))
        elif (answer := self._waiting.get(number)) is not None and not answer.done():
            answer.set_result(parts)

    async def _listen(self) -> None:
        """Take in what it says to standard error, so that it never waits; the last of it is kept."""
        pipe = cast("asyncio.StreamReader", self._process.stderr)
        while said := await pipe.read(65536):
            self._said = (self._said + said)[-TAIL:]


class Hands:
    """Several processes, each with its own place. Must be closed."""

    def __init__(self, plan: Plan, order: Callable[[Item], bytes], take: Take, settle: Settle) -> None:
        self.order, self.take, self._settle = order, take, settle
        self._places = [_Place(self, plan) for _ in range(plan.processes)]
        self._dead_in_a_row = 0
        self.stopping = False
        """Whether what is not under way is left."""

    async def work(self) -> None:
        """Until there is nothing to take; may be called again. Raises WorkerDied when no process lives, whatever it is given."""
        try:
            async with asyncio.TaskGroup() as group:
                for place in self._places:
                    group.create_task(place.work())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from failed.exceptions[0].__cause__

    async def close(self) -> None:
        """End the processes, whatever they do."""
        await asyncio.gather(*(place.close() for place in self._places))

    async def done(self, items: Chunk, outcomes: Sequence[bytes]) -> None:
        self._dead_in_a_row = 0
        await self._settle(items, outcomes)

    async def blame(self, item: Item, how: str) -> None:
        """The item was alone when its process died, once too often."""
        self._dead_in_a_row += 1
        if self._dead_in_a_row >= MOST_IN_A_ROW:
            why = f"{MOST_IN_A_ROW} inputs in a row ended it; the last time it {how}"
            raise WorkerDied("The process that does the work ends again and again", why=why)
        why = f"it {how}, {item.deaths} times with this input in hand"
        await self._settle([item], [error_outcome(WorkerDied("The process that worked on it ended", why=why))])


class _Place:
    """One process after the other."""

    def __init__(self, hands: Hands, plan: Plan) -> None:
        self._hands, self._plan = hands, plan
        self._child: Child | None = None
        self._starting = asyncio.Lock()
        self._suspects: deque[Item] = deque()
        self._size = min(4, plan.most)
        self._empty = False

    async def work(self) -> None:
        self._empty = False
        while not self._hands.stopping and (self._suspects or not self._empty):
            if self._suspects:
                await self._try_alone(self._suspects.popleft())
            else:
                await self._work_on()

    async def close(self) -> None:
        child, self._child = self._child, None
        if child:
            await child.end()

    async def _work_on(self) -> None:
        """Keep the process busy until there is no more, or it dies."""
        lanes = [asyncio.create_task(self._lane()) for _ in range(self._plan.chunks)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _lane(self) -> None:
        """One chunk after the other."""
        while not self._suspects:
            chunk = await self._hands.take(self._size)
            if not chunk:
                self._empty = True
                return
            start = time.monotonic()
            try:
                outcomes = await self._outcomes(chunk)
            except Died:
                self._suspects.extend(chunk)
                for item in chunk:
                    item.deaths += 1
                return
            each = (time.monotonic() - start) / len(chunk)
            self._size = max(1, min(self._plan.most, int(CHUNK_SECONDS / each)))
            await self._hands.done(chunk, outcomes)
            if self._plan.computes and self._child and any(map(_is_late, outcomes)):
                self._child.kill()

    async def _try_alone(self, item: Item) -> None:
        try:
            outcomes = await self._outcomes([item])
        except Died as death:
            item.deaths += 1
            if item.deaths < MOST_DEATHS:
                self._suspects.append(item)
            else:
                await self._hands.blame(item, str(death))
        else:
            await self._hands.done([item], outcomes)

    async def _started(self) -> Child:
        """A process that is ready: another one where something killed it on the way. Raises as `Child.started`."""
        for _ in range(MOST_STARTS):
            try:
                return await Child.started(self._plan.settings)
            except KilledEarly as killed:
                how = killed
            await asyncio.sleep(PAUSE_SECONDS)
        raise WorkerDied("A process for the work cannot start", why=f"each of {MOST_STARTS} in a row {how}")

    async def _outcomes(self, chunk: Chunk) -> list[bytes]:
        async with self._starting:
            if self._child is not None and self._child.is_dead:
                await self._child.end()
                self._child = None
            child = self._child = self._child or await self._started()
        orders = [self._hands.order(item) for item in chunk]
        return await child.do(orders, self._plan.seconds * len(chunk) + SILENT_SECONDS)


def error_outcome(error: SensoriumError) -> bytes:
    """The outcome of an item that nobody worked on."""
    return to_json({"error": {**error.as_dict(), "trace": new_trace()}})


def _is_late(outcome: bytes) -> bool:
    return outcome.startswith(b'{"error":{"code":"deadline_exceeded"')


def as_error(fields: dict[str, Any]) -> SensoriumError:
    """An error as a process told it."""
    kind = next((kind for kind in every_error() if kind.code == fields.get("code")), SensoriumError)
    return kind(str(fields.get("message", "")))


def _end(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


async def _part(pipe: asyncio.StreamReader) -> bytes:
    return await pipe.readexactly(LENGTH.unpack(await pipe.readexactly(LENGTH.size))[0])
