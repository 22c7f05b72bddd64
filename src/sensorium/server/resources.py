"""What this process uses of the machine, under the names that Prometheus' own clients use."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import sensorium
from sensorium.telemetry import Telemetry

STATM, DESCRIPTORS = Path("/proc/self/statm"), Path("/proc/self/fd")
"""Where Linux tells memory and open files; elsewhere they are left out."""

STARTED = time.time()
"""The server is imported some tenths of a second after the process starts."""


def tell_of_this_process(telemetry: Telemetry, *, serves: bool = True) -> None:
    """From now on all of it is read whenever somebody looks."""
    telemetry.workers[()].watch(telemetry, lambda _: int(serves))
    telemetry.build[sensorium.__version__, platform.python_version()].watch(telemetry, lambda _: 1)
    telemetry.process_cpu[()].watch(telemetry, lambda _: time.process_time())
    telemetry.process_start[()].watch(telemetry, lambda _: STARTED)
    if STATM.exists():
        telemetry.process_memory[()].watch(telemetry, lambda _: _resident_bytes())
        telemetry.process_open_fds[()].watch(telemetry, lambda _: sum(1 for _ in DESCRIPTORS.iterdir()))
        telemetry.process_max_fds[()].watch(telemetry, lambda _: _most_descriptors())


def _resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _most_descriptors() -> int:
    import resource  # not on Windows

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
