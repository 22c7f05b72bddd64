"""Several processes that serve on one socket: each that dies is followed by another."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import FrameType

from sensorium.config import Settings
from sensorium.errors import ServiceClosed
from sensorium.server import children, run_folder
from sensorium.server.ownfolder import OwnFolder

GRACE_SECONDS = 10.0
"""How much longer than `drain_seconds` a worker may take to end."""

Environment = Mapping[str, str]
Company = Callable[[Settings, Environment], AbstractContextManager[tuple[Environment, tuple[int, ...]]]]
"""Of settings and environment: what works beside all processes that serve, while the block runs; gives what these need to
know of it, as variables and open files."""

log = logging.getLogger("sensorium.server")


def supervise(settings: Settings, listening: socket.socket, listens: Callable[[], None], company: Company) -> None:
    """Keep `workers` processes serving until SIGINT or SIGTERM; then let them finish. A second signal ends all at once.

    Takes the socket over; calls `listens` once one of them serves. Raises ServiceClosed when none can start.
    """
    folder, shared = OwnFolder(run_folder.PREFIX), share(settings)
    environment = {**os.environ, run_folder.VARIABLE: str(folder.path)}
    try:
        with company(shared.model_copy(update={"threads": settings.threads}), environment) as (more, passed):
            _Crew(shared, listening, listens, {**environment, **more}, passed).work()
    finally:
        folder.close()


def share(settings: Settings) -> Settings:
    """What each worker is told, where nothing else is set: its part of the cores, and to remember and count where all find it."""
    threads = max(1, settings.threads // settings.workers)
    usual = {
        "threads": threads,
        "running": 2 * threads + 2,
        "cache": "sqlite",
        "rates": "sqlite",
        "streams": "sqlite",
    }
    chosen = settings.model_fields_set
    return settings.model_copy(update={name: value for name, value in usual.items() if name not in chosen})


class _Crew:
    """A thread for each worker starts it, waits for its end, and starts another."""

    def __init__(
        self,
        settings: Settings,
        listening: socket.socket,
        listens: Callable[[], None],
        environment: Environment,
        passed: tuple[int, ...],
    ) -> None:
        self._settings, self._listening, self._listens = settings, listening, listens
        self._environment, self._passed = environment, passed
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._served = self._failed = False
        self._stopping = threading.Event()
        self._wakes, self._waker = os.pipe()

    def work(self) -> None:
        self._stop_on_signals()
        numbers = range(1, self._settings.workers + 1)
        threads = [threading.Thread(target=self._keep, args=(number,), daemon=True) for number in numbers]
        for thread in threads:
            thread.start()
        os.read(self._wakes, 1)
        self._stop()
        self._wait_for(threads)
        if self._failed:
            raise ServiceClosed("No worker could start", fix="Read what the log says above")

    def _stop_on_signals(self) -> None:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            for known, handler in before.items():
                signal.signal(known, handler)
            os.write(self._waker, b".")  # all else could wait for a lock that the interrupted code holds

        for number in before:
            signal.signal(number, stop)

    def _stop(self) -> None:
        self._listening.close()
        with self._lock:
            self._stopping.set()
            for process in self._processes:
                process.terminate()

    def _wait_for(self, threads: list[threading.Thread]) -> None:
        end = time.monotonic() + self._settings.drain_seconds + GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        with self._lock:
            for process in self._processes:
                process.kill()

    def _keep(self, number: int) -> None:
        quick_deaths = 0
        while not self._stopping.is_set():
            born = time.monotonic()
            code = self._live(number)
            if self._stopping.is_set():
                return
            if code > 0 and not self._served:  # a signal is no fault of its own
                self._failed = True
                os.write(self._waker, b".")
                return
            quick_deaths = quick_deaths + 1 if time.monotonic() - born < children.STEADY_SECONDS else 0
            pause = children.pause_after(quick_deaths)
            log.error("Worker %d %s; another starts%s", number, children.end(code), f" in {pause:g} s" if pause else "")
            self._stopping.wait(pause)

    def _live(self, number: int) -> int:
        """A worker's life, from start to end: its exit code, or minus the signal that killed it."""
        with self._lock:
            if self._stopping.is_set():
                return 0
            process = self._started()
            self._processes.add(process)
        try:
            if process.stdout and process.stdout.readline():
                log.info("Worker %d serves, pid %d", number, process.pid)
                self._tell_once()
            return process.wait()
        finally:
            with self._lock:
                self._processes.discard(process)
            children.close(process)

    def _started(self) -> subprocess.Popen[bytes]:
        descriptor = self._listening.fileno()
        command = ["sensorium.server.process", str(descriptor)]
        return children.start(command, self._settings, (descriptor, *self._passed), self._environment)

    def _tell_once(self) -> None:
        with self._lock:
            first, self._served = not self._served, True
        if first:
            self._listens()
