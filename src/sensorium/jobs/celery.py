"""The Celery engine: jobs in Redis, and workers on as many machines as there are.

A message is a turn: whoever gets it takes up to TURN_ITEMS items of one line of work from the store, has them done, and
settles them. Which items these are is known to the store alone, so that owners take turns, priorities count, and one-item
jobs go together; a message that is lost, doubled or late changes nothing but when work begins. What the store holds is
compared with the messages that wait, again and again, by every server and worker: what is missing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from sensorium.config import Settings
from sensorium.dependencies import need
from sensorium.errors import InvalidConfiguration, StorageFailed
from sensorium.jobs.crew import share
from sensorium.jobs.place import open_shared, queue_of
from sensorium.jobs.worker import end_soon, opened
from sensorium.server.logs import log_to_stderr
from sensorium.stores.jobs import Counts
from sensorium.stores.jobs_redis import Due, RedisJobs
from sensorium.telemetry import TELEMETRY

TURN = "sensorium.turn"
"""What a message asks for, by Celery's name."""

TURN_ITEMS = 16
"""Items that a message is good for: so many that messages cost little, so few that workers share a job evenly."""

SWEEP_SECONDS = 2.0
"""How often it is looked, on average, whether messages are missing for what waits."""

GATHER_SECONDS = 0.01
"""How long to wait after messages were sent, so that what comes meanwhile shares the next ones."""

MOST_AHEAD = 1000
"""Messages of one queue that wait: each is a promise of the same kind, and more are sent when they are taken."""

PATIENCE_SECONDS = 5.0
"""How long to wait for the broker."""

SHORTEST_VISIBILITY = 3600.0
"""After how many seconds, at least, Redis gives out a message again that was not acknowledged."""

STARTING_SECONDS = 60.0
"""How long a process of a worker may take to begin."""

log = logging.getLogger("sensorium.jobs")


def queues_of(settings: Settings, tasks: Sequence[str]) -> list[str]:
    """The queues of these tasks; those for graphics cards too where this machine is told to use one."""
    plain = [queue_of(task) for task in tasks]
    return plain + [queue_of(task, graphics=True) for task in tasks if settings.device.startswith("cuda")]


def app_of(settings: Settings) -> Any:
    """The Celery application. Raises InvalidConfiguration without a broker, and MissingDependency without Celery."""
    celery = need("celery", for_what="share jobs through Celery")
    broker = settings.celery_broker or settings.jobs_redis_url or settings.redis_url
    if broker is None:
        raise InvalidConfiguration("Celery has no broker", fix="Set `celery_broker`, or `redis_url`")
    url = broker.get_secret_value()
    app = celery.Celery("sensorium", broker=url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,  # outcomes are in the store
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_proc_alive_timeout=STARTING_SECONDS,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_timeout=PATIENCE_SECONDS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_redis_options(settings) if url.startswith(("redis", "sentinel")) else {},
    )
    return app


def _redis_options(settings: Settings) -> dict[str, Any]:
    return {
        "global_keyprefix": "sensorium:celery:",
        # Longer than a turn whose items are done one after the other and each take all their time: else Redis would give
        # it out once more meanwhile. That would only cost a look into the store; and nobody waits for it when a worker
        # dies, for what the worker held is missed by the sweep as soon as its lease is over.
        "visibility_timeout": max(SHORTEST_VISIBILITY, 2 * TURN_ITEMS * settings.timeout_seconds),
        "socket_timeout": PATIENCE_SECONDS,
        "socket_connect_timeout": PATIENCE_SECONDS,
        "socket_keepalive": True,
    }


class Dispatcher:
    """Sends messages for what waits in the store. Belongs to the event loop in which it is opened."""

    def __init__(self, settings: Settings, store: RedisJobs) -> None:
        self._sender = _Sender(app_of(settings))
        self._store = store
        self._news = asyncio.Event()
        self._failing, self._looked = False, False
        self._running: asyncio.Task[None] | None = None
        self._counts = Counts(0, 0, 0)
        TELEMETRY.jobs["waiting"].watch(self, lambda one: one._counts.waiting)
        TELEMETRY.jobs["running"].watch(self, lambda one: one._counts.running)
        TELEMETRY.job_items[()].watch(self, lambda one: one._counts.items)

    def open(self) -> None:
        self._running = asyncio.create_task(self._run())

    def wake(self, items: int) -> None:  # noqa: ARG002 - the store tells how many
        """There is something new in the store."""
        self._news.set()

    async def close(self) -> None:
        if self._running:
            self._running.cancel()
            await asyncio.wait([self._running])
        await asyncio.to_thread(self._sender.close)

    async def _run(self) -> None:
        while True:
            self._news.clear()
            await self._try_to_send()
            with contextlib.suppress(TimeoutError):
                # Not all at the same moment: each would find the same messages missing.
                async with asyncio.timeout(SWEEP_SECONDS * random.uniform(0.5, 1.5)):  # noqa: S311
                    await self._news.wait()
            await asyncio.sleep(GATHER_SECONDS)

    async def _try_to_send(self) -> None:
        try:
            if due := [one for one in await self._store.due() if one.fresh or one.suspects]:
                await asyncio.to_thread(self._sender.send, {one.line: turns_of(one) for one in due})
            self._counts = await self._store.counts()
            await self._look_at_policy()
        except Exception as error:  # noqa: BLE001 - a broker's library raises what it likes; what waits is sent later
            if not self._failing:
                told = (
                    str(error)
                    if isinstance(error, StorageFailed)
                    else f"The broker cannot be used ({type(error).__name__})"
                )
                log.error("%s: jobs wait until it can", told)  # noqa: TRY400 - a sentence
            self._failing = True
        else:
            if self._failing:
                log.info("Jobs are given out again")
            self._failing = False

    async def _look_at_policy(self) -> None:
        """Once: a cache is no place for jobs."""
        if not self._looked and (policy := await self._store.throws_out()):
            log.warning(
                "Redis will throw jobs out when its memory is full (%s): set `maxmemory-policy noeviction`", policy
            )
        self._looked = True


def turns_of(due: Due) -> int:
    """How many messages are needed for what can be begun."""
    return -(-due.fresh // TURN_ITEMS) + due.suspects


class _Sender:
    """A connection to the broker. All of it blocks; one thread at a time."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._connection: Any = None

    def send(self, wanted: Mapping[str, int]) -> None:
        """Send as many messages to each queue as are missing there."""
        try:
            if self._connection is None:
                self._connection = self._app.connection_for_write()
            for queue, turns in wanted.items():
                self._fill(queue, min(turns, MOST_AHEAD))
        except BaseException:
            self.close()
            raise

    def _fill(self, queue: str, turns: int) -> None:
        producer = self._app.amqp.Producer(self._connection)
        with producer:
            waiting = producer.channel.queue_declare(queue=queue, durable=True, auto_delete=False).message_count
            for _ in range(turns - waiting):
                self._app.send_task(TURN, [queue], queue=_queue(queue), producer=producer, retry=False)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.collect(socket_timeout=0.1)


def _queue(name: str) -> Any:
    """Reached without an exchange of its own: a broker that lost all it knew needs nothing but the queue."""
    from kombu import Exchange, Queue

    return Queue(name, Exchange(""), routing_key=name)


class Hand(threading.Thread):
    """What a process of a worker works with: its models, on an event loop that goes on from message to message."""

    def __init__(self, settings: Settings, told: int, leaving: Callable[[], None] = lambda: None) -> None:
        """It leaves when the file `told` ends, and calls `leaving` then."""
        super().__init__(name="sensorium-hand", daemon=True)
        self._settings, self._told, self._on_leaving = settings, told, leaving
        self._name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._ready: Future[None] = Future()
        self._gate = threading.Lock()
        self._leaving = False

    def run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            if self._ready.done():
                log.exception("What nobody foresaw: this process ends, and another begins")
                os._exit(1)
            self._ready.set_exception(error)  # which every turn tells

    def turn(self, line: str) -> None:
        """Work on items of that line, until they are settled."""
        self._ready.result()
        with self._gate:
            if self._leaving:
                return  # what waits is missed by the sweep of others
            turn = asyncio.run_coroutine_threadsafe(self._turn(line), self._loop)
        turn.result()

    async def _live(self) -> None:
        self._store, files = open_shared(self._settings)
        self._loop, self._turns = asyncio.get_running_loop(), asyncio.Lock()
        async with opened(self._settings, self._name, self._store, files) as self._worker:
            dispatcher = Dispatcher(self._settings, self._store)
            dispatcher.open()
            async with self._worker.at_work():
                self._loop.add_reader(self._told, self._leave)
                self._ready.set_result(None)
                await self._worker.left()
            await dispatcher.close()
            async with self._turns:
                pass  # the last one has settled, or given back

    def _leave(self) -> None:
        self._loop.remove_reader(self._told)
        with self._gate:
            self._leaving = True
        self._worker.leave()
        self._on_leaving()

    async def _turn(self, line: str) -> None:
        async with self._turns:
            try:
                items = await self._store.claim(
                    self._name, TURN_ITEMS, self._settings.job_lease_seconds, idle=True, line=line
                )
            except StorageFailed as error:
                log.error("%s", error)  # noqa: TRY400 - a sentence
                return
            await self._worker.do(items)


def work_on(settings: Settings, queues: Sequence[str], processes: int) -> int:
    """Be a worker of so many processes until SIGTERM, which lets what is under way end or go back; the exit code."""
    app = app_of(settings)
    open_shared(settings)  # which says what is wrong with the settings
    from celery import signals

    reads, writes = os.pipe()
    mine = share(settings, processes)
    # An item for each core: with more, two processes on two cores are in each other's way, at 0.78 of the bare loop in place of 0.93.
    mine = mine.model_copy(update={"running": mine.threads})
    hands: list[Hand] = []
    steps: set[str] = set()

    def begin(**_: Any) -> None:
        """In each new process. Threads stay behind in a fork, also the one that writes the log."""
        logging.getLogger("sensorium").handlers.clear()
        _log(settings)
        os.close(writes)
        hands.append(Hand(mine, reads, end_soon))
        hands[0].start()

    def stop(**_: Any) -> None:
        """The end of the pipe tells all processes, whatever they do."""
        if "stopping" not in steps:
            steps.add("stopping")
            os.close(writes)

    def ready(**_: Any) -> None:
        steps.add("ready")
        log.info("Working on %s with %d process%s", ", ".join(queues), processes, "" if processes == 1 else "es")

    def turn(line: str) -> None:
        hands[0].turn(line)

    app.task(turn, name=TURN)
    app.conf.task_queues = [_queue(name) for name in queues]
    kept = {"weak": False}
    signals.setup_logging.connect(lambda **_: _log(settings), **kept)
    signals.worker_process_init.connect(begin, **kept)
    signals.worker_shutting_down.connect(stop, **kept)
    signals.worker_ready.connect(ready, **kept)
    worker = app.Worker(
        pool="prefork",
        concurrency=processes,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    if steps == {"ready"}:
        # As when a process of the pool dies in the moment in which Celery comes back to a broker.
        log.error("Celery's worker ended by itself: it begins again")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves
    log.info("Stopped")
    return int(worker.exitcode or 0)


def _log(settings: Settings) -> None:
    """Celery's warnings go where our log does."""
    log_to_stderr(settings.log_format, settings.log_level)
    for name in ("celery", "kombu"):
        theirs = logging.getLogger(name)
        theirs.handlers[:] = logging.getLogger("sensorium").handlers
        theirs.setLevel(logging.WARNING)
        theirs.propagate = False
