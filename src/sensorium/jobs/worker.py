"""A process that works on jobs: takes items, has them done, and settles what became of them, again and again.

Run as a module it is a worker of a server's crew: its name and the pipe that wakes it are its arguments, the settings come
as a line on standard input, and it ends when that input does, for then nobody looks after it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence

from pydantic_core import from_json

from sensorium.config import Settings, exactly
from sensorium.errors import SensoriumError, StorageFailed, WorkerDied
from sensorium.jobs.attendant import Attendant
from sensorium.jobs.place import open_jobs
from sensorium.jobs.webhooks import Webhooks
from sensorium.jobs.work import work
from sensorium.media.pool import abandoned
from sensorium.runtimes.memory import keep_little
from sensorium.server.logs import log_to_stderr
from sensorium.server.resources import tell_of_this_process
from sensorium.server.run_folder import run_folder
from sensorium.service import Sensorium
from sensorium.stores import usage
from sensorium.stores.files import Files
from sensorium.stores.jobs import Counts, Item, JobStore, Settled, pause_after
from sensorium.stores.usage import UsageBook
from sensorium.telemetry import TELEMETRY

NICENESS = 10
"""So that answers which somebody waits for come first."""

AT_ONCE = 32
"""Items that a worker holds."""

LOOK_SECONDS = 1.0
"""How often a worker looks for work that nobody woke it for: what is tried again, or was left by another that is gone."""

BEAT_SECONDS = 1.0
"""How often it says that it lives, and looks which jobs were cancelled; for short leases more often."""

LEAVE_SECONDS = 3.0
"""How long it goes on with what is under way when it is told to end."""

END_SECONDS = LEAVE_SECONDS + 4.0
"""After how long its process ends, whatever hangs in it."""

STUCK_SECONDS = 30.0
"""How long a thread may go on with what nobody waits for. Then the process ends: another has all its threads."""

LONGEST_WAIT = 300.0
"""An error that can only pass later than that is an outcome at once."""

SWEEP_SECONDS = 60.0
"""Between two sweeps for jobs whose time is over."""

ABANDONED_SECONDS = 3600.0
"""Inputs of this age that belong to no job were left by a submission that broke off."""

log = logging.getLogger("sensorium.jobs")


class Worker:
    """Takes up to AT_ONCE items at once from a store."""

    def __init__(self, name: str, service: Sensorium, store: JobStore, files: Files) -> None:
        self._name, self._service, self._store, self._files = name, service, store, files
        settings = service.settings
        self._lease, self._attempts = settings.job_lease_seconds, settings.job_attempts
        self._attendant = Attendant(
            store, files, Webhooks(settings), keeps_inputs=settings.job_inputs == "until_expiry"
        )
        self._under_way: dict[tuple[str, int], asyncio.Task[bytes]] = {}
        self._hands: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._leaving = self._alone = False
        self._broken: BaseException | None = None
        self._abandoned: dict[float, float] = {}
        self._swept = 0.0
        self._counts = Counts(0, 0, 0)
        TELEMETRY.jobs["waiting"].watch(self, lambda worker: worker._counts.waiting)
        TELEMETRY.jobs["running"].watch(self, lambda worker: worker._counts.running)
        TELEMETRY.job_items[()].watch(self, lambda worker: worker._counts.items)

    def wake(self) -> None:
        """There may be something new to do."""
        self._news.set()

    def leave(self) -> None:
        """Take nothing more, and end soon."""
        self._leaving = True
        self._news.set()

    async def run(self) -> None:
        """Until it is told to leave. Raises what nobody foresaw: then what it holds is lost, and not held for ever."""
        async with self.at_work():
            while not self._leaving:
                self._news.clear()
                if not await self._take():
                    await self._rest()

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Keep leases, and see to jobs that end. What is under way at the end has LEAVE_SECONDS, and is given back then.

        Raises what nobody foresaw, as `run`, and WorkerDied where a thread hangs.
        """
        await self._patiently(lambda: self._store.lost(self._name))
        beating, attending = asyncio.create_task(self._beat()), asyncio.create_task(self._attendant.run())
        for one in (beating, attending):
            one.add_done_callback(self._look_at)
        try:
            yield
        finally:
            if self._hands:
                await asyncio.wait(self._hands, timeout=LEAVE_SECONDS)
            for one in (beating, attending, *self._hands):
                one.cancel()
            await asyncio.gather(beating, attending, *self._hands, return_exceptions=True)
        if self._broken is not None:
            raise self._broken
        with contextlib.suppress(StorageFailed):  # then the lease runs out
            await self._store.give_back(self._name)
        if self._is_stuck:
            why = f"a thread has worked for more than {STUCK_SECONDS:g} s on what nobody waits for"
            raise WorkerDied("The process that works on jobs ends, and another begins", why=why)

    async def left(self) -> None:
        """Until it is told to leave, or must."""
        while not self._leaving:
            self._news.clear()
            await self._news.wait()

    async def _take(self) -> bool:
        """Whether there was anything to do, and room for it."""
        room = AT_ONCE - len(self._hands)
        if self._alone or room < AT_ONCE // 2:
            return False
        try:
            items = await self._store.claim(self._name, room, self._lease, idle=not self._hands)
        except StorageFailed as error:
            log.error("%s", error)  # noqa: TRY400 - a sentence
            return False
        self._begin(items)
        return bool(items)

    async def do(self, items: Sequence[Item]) -> None:
        """Work on what was claimed by this worker's name, until it is settled, or given back when it is to leave."""
        if self._leaving:
            await self._store.give_back(self._name)
        elif items:
            await asyncio.wait(self._begin(items))

    def _begin(self, items: Sequence[Item]) -> list[asyncio.Task[None]]:
        hands = [asyncio.create_task(self._do(item)) for item in items]
        for hand in hands:
            self._hands.add(hand)
            hand.add_done_callback(self._done)
        self._alone = any(item.deaths for item in items)
        return hands

    def _done(self, hand: asyncio.Task[None]) -> None:
        self._hands.discard(hand)
        self._alone = False
        self._news.set()
        self._look_at(hand)

    def _look_at(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = error
            self.leave()

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self._news.wait()

    async def _do(self, item: Item) -> None:
        key = item.job, item.place
        doing = asyncio.create_task(self._outcome(item))
        self._under_way[key] = doing
        try:
            await asyncio.wait([doing])
        finally:
            doing.cancel()
            del self._under_way[key]
        if not doing.cancelled():  # as by `_beat`, of an item that is not ours any more
            settled = self._settled(item, doing.result())
            await self._patiently(lambda: self._store.settle(self._name, [settled]))

    async def _outcome(self, item: Item) -> bytes:
        (outcome,) = await work(self._service, [item.order])
        return outcome

    def _settled(self, item: Item, outcome: bytes) -> Settled:
        if not outcome.startswith(b'{"error"'):
            return Settled(item.job, item.place, "done", outcome)
        error = from_json(outcome)["error"]
        after = max(pause_after(item.tries + 1), error.get("retry_after_seconds") or 0.0)
        if error["retryable"] and item.tries + 1 < self._attempts and after <= LONGEST_WAIT:
            return Settled(item.job, item.place, None, after=after)
        return Settled(item.job, item.place, "failed", outcome)

    async def _patiently(self, write: Callable[[], object]) -> None:
        """Again and again while the disk is full: what was worked out is not thrown away."""
        while True:
            try:
                await write()  # type: ignore[misc]
            except StorageFailed as error:
                log.error("%s", error)  # noqa: TRY400 - a sentence
                await asyncio.sleep(LOOK_SECONDS)
            else:
                return

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(min(BEAT_SECONDS, self._lease / 3))
            if self._is_stuck:
                self.leave()
            try:
                await self._keep_leases()
                await self._sweep()
                self._counts = await self._store.counts()
            except StorageFailed as error:
                log.error("%s", error)  # noqa: TRY400 - a sentence

    @property
    def _is_stuck(self) -> bool:
        """Whether a thread hangs, as in a decoder: it cannot be stopped, and with all of them nothing is done any more."""
        now = time.monotonic()
        self._abandoned = {began: self._abandoned.get(began, now) for began in abandoned()}
        return any(now - since > STUCK_SECONDS for since in self._abandoned.values())

    async def _keep_leases(self) -> None:
        before = dict(self._under_way)
        held = await self._store.renew(self._name, self._lease) if before else set()
        for key, doing in before.items():
            if key not in held:
                doing.cancel()

    async def _sweep(self) -> None:
        if time.monotonic() - self._swept < SWEEP_SECONDS and self._swept:
            return
        self._swept = time.monotonic()
        while gone := await self._store.forget_old():
            for job in gone:
                await asyncio.to_thread(self._files.remove, job)
        old = await asyncio.to_thread(lambda: list(self._files.shelves(ABANDONED_SECONDS)))
        for job in await self._store.unknown(old):
            await asyncio.to_thread(self._files.remove, job)


@contextlib.asynccontextmanager
async def opened(settings: Settings, name: str, store: JobStore, files: Files) -> AsyncIterator[Worker]:
    """A worker with all that it needs; the store is closed with it."""
    book = UsageBook(settings.data_dir / usage.FILE)
    service = Sensorium(settings, book=book)
    service.start()
    try:
        yield Worker(name, service, store, files)
    finally:
        await service.aclose()
        await book.close()
        await store.close()


async def serve(settings: Settings, name: str, waker: int) -> None:
    """Work until standard input ends."""
    loop = asyncio.get_running_loop()
    async with opened(settings, name, *open_jobs(settings)) as worker:
        loop.add_reader(waker, _woken, waker, worker)
        threading.Thread(target=_hear, args=(loop, worker), daemon=True).start()
        loop.add_signal_handler(signal.SIGTERM, worker.leave)
        try:
            await worker.run()
        finally:
            end_soon()


def _woken(waker: int, worker: Worker) -> None:
    with contextlib.suppress(BlockingIOError):  # another was quicker
        os.read(waker, 1)
        worker.wake()


def _hear(loop: asyncio.AbstractEventLoop, worker: Worker) -> None:
    """Nothing is said on standard input but its end. In a thread: it is heard also while the loop is held up."""
    while os.read(0, 1024):
        pass
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(worker.leave)
    end_soon()


def end_soon() -> None:
    """End this process, with whatever hangs in it; unless it ends by itself before."""
    ending = threading.Timer(END_SECONDS, os._exit, (1,))
    ending.daemon = True
    ending.start()


def main() -> None:
    """What a worker does."""
    keep_little()
    os.dup2(2, 1)
    name, waker = sys.argv[1], int(sys.argv[2])
    settings = exactly(from_json(_line()))
    log_to_stderr(settings.log_format, settings.log_level)
    os.nice(NICENESS)
    tell_of_this_process(TELEMETRY, serves=False)
    numbers = run_folder(TELEMETRY)
    try:
        asyncio.run(serve(settings, name, waker))
    except SensoriumError as error:
        log.error("%s", error)  # noqa: TRY400 - a sentence, not a traceback
        sys.exit(1)
    finally:
        if numbers:
            numbers.close()


def _line() -> bytes:
    """Read no further than the end of the line."""
    with open(0, "rb", buffering=0, closefd=False) as file:
        return file.readline()


if __name__ == "__main__":
    main()
