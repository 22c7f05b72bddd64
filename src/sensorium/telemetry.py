"""Counters, timings and trace ids, kept in memory; exporting them is the server's business."""

from __future__ import annotations

import bisect
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram buckets: the customary ones of Prometheus, with two below and two above."""

Labels = tuple[tuple[str, str], ...]


@dataclass
class Histogram:
    """How often values fell under each bound, with their count and sum."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        self.buckets[bisect.bisect_left(SECONDS, value)] += 1
        self.count += 1
        self.total += value


class Telemetry:
    """What has happened since the start, by name and labels. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counters: dict[tuple[str, Labels], int] = {}
        self.timings: dict[tuple[str, Labels], Histogram] = {}

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self.counters[key] = self.counters.get(key, 0) + by

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self.timings.setdefault(key, Histogram()).add(seconds)

    @contextmanager
    def timed(self, name: str, **labels: str) -> Iterator[None]:
        """Observe how long the block took, whether it succeeded or not."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.observe(name, time.perf_counter() - start, **labels)

    def counted(self, name: str, **labels: str) -> int:
        """The sum of all counters of that name which carry these labels."""
        wanted = set(labels.items())
        with self._lock:
            return sum(n for (known, held), n in self.counters.items() if known == name and wanted <= set(held))


TELEMETRY = Telemetry()
"""The process's own; every part of sensorium reports here."""


def new_trace() -> str:
    """A fresh trace id: 32 hex digits, as W3C Trace Context writes them. Not secret: from no call to the system."""
    return f"{random.getrandbits(128):032x}"
