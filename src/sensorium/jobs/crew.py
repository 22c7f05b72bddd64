"""The embedded engine: child processes of the server that work on its jobs, started with the first one.

They are woken by bytes in a pipe, which every process that serves can write to and any of them reads. Each that dies is
followed by another under the same name, which learns by it what its predecessor held.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from sensorium.config import Settings
from sensorium.jobs.place import place_of
from sensorium.jobs.worker import LEAVE_SECONDS
from sensorium.server import children
from sensorium.telemetry import TELEMETRY

WAKER = "SENSORIUM_JOBS_WAKER"
"""Names the pipe's open file, in the environment of processes that serve beside a crew."""

END_SECONDS = LEAVE_SECONDS + 5.0
"""How long workers may take to end."""

log = logging.getLogger("sensorium.jobs")


class Crew:
    """A thread for each worker starts it, waits for its end, and starts another."""

    def __init__(self, settings: Settings, environment: Callable[[], Mapping[str, str]]) -> None:
        """`environment` is asked for when the first worker starts."""
        self._workers = settings.job_workers
        self._settings = share(settings, settings.job_workers)
        self._environment = environment
        self._name = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._wakes, self.waker = os.pipe()
        os.set_blocking(self._wakes, False)
        os.set_blocking(self.waker, False)
        self._starter = threading.Thread(target=self._wait_for_work, name="sensorium-crew", daemon=True)

    def open(self) -> None:
        """Start when there is work, or may be left from before."""
        self._starter.start()
        if place_of(self._settings).database.exists():
            wake(self.waker, self._workers)

    def close(self) -> None:
        """Let the workers end; what they do not finish soon is done by others later."""
        with self._lock:
            self._stopping.set()
            processes = list(self._processes.values())
        wake(self.waker, 1)
        for process in processes:
            children.close(process)
        end = time.monotonic() + END_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        self._starter.join()
        os.close(self._wakes)
        os.close(self.waker)

    def _wait_for_work(self) -> None:
        select.select([self._wakes], [], [])
        if self._stopping.is_set():
            return
        environment = self._environment()
        for number in range(1, self._workers + 1):
            threading.Thread(target=self._keep, args=(number, environment), daemon=True).start()

    def _keep(self, number: int, environment: Mapping[str, str]) -> None:
        quick_deaths = 0
        while not self._stopping.is_set():
            born = time.monotonic()
            code = self._live(number, environment)
            if self._stopping.is_set():
                return
            TELEMETRY.job_worker_deaths[()].add()
            quick_deaths = quick_deaths + 1 if time.monotonic() - born < children.STEADY_SECONDS else 0
            pause = children.pause_after(quick_deaths)
            told = f" in {pause:g} s" if pause else ""
            log.error("Job worker %d %s; another starts%s", number, children.end(code), told)
            self._stopping.wait(pause)

    def _live(self, number: int, environment: Mapping[str, str]) -> int:
        command = ["sensorium.jobs.worker", f"{self._name}:{number}", str(self._wakes)]
        with self._lock:
            if self._stopping.is_set():
                return 0
            process = children.start(command, self._settings, (self._wakes,), environment)
            self._processes[number] = process
        log.info("Job worker %d starts, pid %d", number, process.pid)
        return process.wait()


def wake(waker: int, workers: int) -> None:
    """Wake so many workers."""
    # Full: there are more signs in it than workers. Closed: the crew is gone, and what is stored waits for the next.
    with contextlib.suppress(OSError):
        os.write(waker, b"." * workers)


@contextlib.contextmanager
def company(settings: Settings, environment: Mapping[str, str]) -> Iterator[tuple[Mapping[str, str], tuple[int, ...]]]:
    """A crew beside several processes that serve: the variables and open files that these need."""
    if not has_crew(settings):
        yield {}, ()
        return
    crew = Crew(settings, lambda: environment)
    crew.open()
    try:
        yield {WAKER: str(crew.waker)}, (crew.waker,)
    finally:
        crew.close()


def has_crew(settings: Settings) -> bool:
    """Whether the server works on jobs itself. Windows has no such pipes."""
    return settings.jobs == "embedded" and settings.job_workers > 0 and os.name == "posix"


def share(settings: Settings, workers: int) -> Settings:
    """What each of so many workers is told: its part of the cores, and to let in whatever it takes from the line itself."""
    threads = max(1, settings.threads // max(1, workers))
    changed = {"threads": threads, "running": 2 * threads + 2, "waiting": 10_000, "preload": []}
    return settings.model_copy(update=changed)
