"""Three times as many requests as can be answered, for a minute: what is taken is answered in time, the rest is told when to come back."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import classify
from benchmarks.serving import contestants, machine, models
from benchmarks.serving.client import Answer, Load, closed_loop, open_loop
from benchmarks.serving.measures import quantile

SECONDS = float(os.environ.get("OVERLOAD_SECONDS", "60"))
CAPACITY_SECONDS = 10.0
TIMES = 3
CONNECTIONS = 1024
P99_OVER_CAPACITY = 2.0
MEMORY_MIB_A_MINUTE = 10.0
RECOVERED = 0.9


class Watch:
    """Memory of a process and all below it, once a second, while it is entered."""

    def __init__(self, process: int) -> None:
        self._process, self._over = process, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.mib: list[float] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(1.0):
            self.mib.append(machine.rss_mib(self._process))

    def mib_a_minute(self) -> float:
        """How fast it grows, after the first third."""
        settled = self.mib[len(self.mib) // 3 :]
        return 60 * statistics.linear_regression(range(len(settled)), settled).slope if len(settled) > 1 else 0.0


def measured(server: contestants.Server) -> dict[str, Any]:
    def at_capacity() -> Load:
        return closed_loop(server.port, server.requests, clients=contestants.CLIENTS, seconds=CAPACITY_SECONDS)

    before = at_capacity()
    rate = len(before.answers) / CAPACITY_SECONDS
    with Watch(server.pid) as watch:
        over = open_loop(server.port, server.requests, rate=TIMES * rate, connections=CONNECTIONS, seconds=SECONDS)
    after = at_capacity()
    refused = [answer for answer in over.answers if answer.status == 429]
    return {
        "capacity_per_second": round(rate, 1),
        "capacity_p50_ms": milliseconds(accepted(before), 0.5),
        "capacity_p99_ms": milliseconds(accepted(before), 0.99),
        "asked_per_second": round(len(over.answers) / SECONDS, 1),
        "statuses": {str(status): count for status, count in sorted(over.statuses().items())},
        "accepted_per_second": round(len(accepted(over)) / SECONDS, 1),
        "accepted_p50_ms": milliseconds(accepted(over), 0.5),
        "accepted_p99_ms": milliseconds(accepted(over), 0.99),
        "refused_p50_ms": milliseconds(refused, 0.5),
        "refused_without_retry_after": sum(not answer.retry_after for answer in refused),
        "without_a_connection": over.late,
        "rss_mib": round(max(watch.mib, default=0.0)),
        "rss_mib_a_minute": round(watch.mib_a_minute(), 2),
        "recovered": round(len(after.answers) / len(before.answers), 3),
        "alive": server.alive,
    }


def accepted(load: Load) -> list[Answer]:
    return [answer for answer in load.answers if answer.status == 200]


def milliseconds(answers: Sequence[Answer], share: float) -> float | None:
    return round(1000 * quantile([answer.seconds for answer in answers], share), 1) if answers else None


def met(figures: dict[str, Any]) -> bool:
    return (
        set(figures["statuses"]) == {"200", "429"}
        and not figures["refused_without_retry_after"]
        and figures["accepted_p99_ms"] <= P99_OVER_CAPACITY * figures["capacity_p99_ms"]
        and figures["rss_mib_a_minute"] <= MEMORY_MIB_A_MINUTE
        and figures["recovered"] >= RECOVERED
        and figures["alive"]
    )


def main() -> int:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: contestants.CORES])
    with tempfile.TemporaryDirectory() as spare:
        contestants.at_home(Path(spare))
        pictures = classify.pictures(Path(spare))
        with closing(contestants.sensorium(models.fp32(), pictures)) as server:
            figures = measured(server)
    goals = {
        "statuses": ["200", "429"],
        "accepted_p99_ms": round(P99_OVER_CAPACITY * figures["capacity_p99_ms"], 1),
        "refused_without_retry_after": 0,
        "rss_mib_a_minute": MEMORY_MIB_A_MINUTE,
        "recovered": RECOVERED,
    }
    print(json.dumps({"bench": "overload", "figures": figures, "goals": goals, "met": met(figures)}))
    return 0 if met(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
