"""`sensorium batch` over ten thousand small pictures, one in a hundred of them bad, against the bare loop of `benchmarks.classify`.

The bare loop is two processes that read, decode, prepare, run and rank, and nothing else. It goes through half of the pictures
before the batch and half after it, so that a machine that drifts drifts for both. The batch is the whole command, from its start
to its end. Memory is that of the command and of all its processes together, at 1,000 and at the last line of the output.

BATCH_PICTURES=1000 makes it shorter.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from benchmarks.classify import CORES, bare_step, pictures

from sensorium.errors import SensoriumError

COUNT = int(os.environ.get("BATCH_PICTURES", "10000"))
SIDE = 256
"""Pixels of the longer side."""
EARLY = 1000
"""Lines of the output at which memory is first looked at."""
MOST_GROWTH = 50
"""MiB."""
LEAST_RATIO = 0.9


class Measured(NamedTuple):
    """What the batch took and left."""

    seconds: float
    growth_mib: float
    most_mib: float
    lines: int
    failed: int


def make(folder: Path, count: int) -> tuple[list[Path], set[str]]:
    """So many small JPEGs of real photographs, and the names of those among them that are cut short or no picture."""
    with tempfile.TemporaryDirectory() as spare:
        small = [_small(path) for path in pictures(Path(spare))]
    paths, bad = [], set()
    for number in range(count):
        path = folder / f"{number // 1000:02d}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = small[number % len(small)]
        if number % 100 == 50:
            data = data[:200] if number % 200 == 50 else b"no picture at all"
            bad.add(str(path))
        path.write_bytes(data)
        paths.append(path)
    return paths, bad


def _small(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as picture:
        picture.thumbnail((SIDE, SIDE))
        out = io.BytesIO()
        picture.convert("RGB").save(out, "JPEG", quality=90)
    return out.getvalue()


def bare(paths: Sequence[Path]) -> float:
    """Seconds that the bare loop takes, its processes being ready."""
    context = multiprocessing.get_context("spawn")
    orders = []
    for part in range(CORES):
        ours, theirs = context.Pipe()
        context.Process(target=_bare_process, args=(list(paths[part::CORES]), theirs), daemon=True).start()
        orders.append(ours)
    for each in orders:
        each.recv()
    start = time.perf_counter()
    for each in orders:
        each.send("go")
    for each in orders:
        each.recv()
    return time.perf_counter() - start


def _bare_process(paths: list[Path], orders: Connection) -> None:
    one = bare_step()
    _go_through(one, paths[:3])
    orders.send("ready")
    orders.recv()
    _go_through(one, paths)
    orders.send("done")


def _go_through(one: Callable[[Path], object], paths: Sequence[Path]) -> None:
    for path in paths:
        with suppress(SensoriumError):
            one(path)


def batch(folder: Path, output: Path) -> Measured:
    """The whole command. Its results stand in the output."""
    command = [
        sys.executable,
        "-m",
        "sensorium",
        "batch",
        str(folder),
        "--task",
        "classify",
        "-o",
        str(output),
        "--json",
    ]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        sizes: list[tuple[int, float]] = []
        looking = threading.Thread(target=_look, args=(process, output, sizes))
        looking.start()
        assert process.stdout
        summary = json.loads(process.stdout.read())
        process.wait()
    seconds = time.perf_counter() - start
    looking.join()
    early = next((size for lines, size in sizes if lines >= EARLY), sizes[0][1])
    most = max(size for _, size in sizes)
    late = max((size for lines, size in sizes if lines >= EARLY), default=early)
    failed = sum(summary["failed"].values())
    return Measured(seconds, late - early, most, summary["done"] + failed, failed)


def _look(process: subprocess.Popen[str], output: Path, sizes: list[tuple[int, float]]) -> None:
    """Note the memory of all processes, beside the number of lines, while the command runs."""
    lines = place = 0
    while process.poll() is None:
        if output.exists():
            with output.open("rb") as file:
                file.seek(place)
                read = file.read()
            lines, place = lines + read.count(b"\n"), place + len(read)
        sizes.append((lines, sum(map(_resident_mib, [process.pid, *_children(process.pid)]))))
        time.sleep(0.2)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _resident_mib(pid: int) -> float:
    try:
        told = Path(f"/proc/{pid}/statm").read_text()
    except OSError:
        return 0.0
    return int(told.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    os.environ |= {"SENSORIUM_THREADS": str(CORES)}
    with tempfile.TemporaryDirectory() as spare:
        folder = Path(spare) / "pictures"
        paths, bad = make(folder, COUNT)
        before = bare(paths[: COUNT // 2])
        told = batch(folder, Path(spare) / "out.jsonl")
        after = bare(paths[COUNT // 2 :])
        failures = (Path(spare) / "out.failures.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = {line["image"]: line["error"]["message"] for line in map(json.loads, failures)}
    figures = {
        "pictures": told.lines,
        "images_per_second": round(COUNT / told.seconds, 1),
        "bare_per_second": [round(len(paths) / 2 / seconds, 1) for seconds in (before, after)],
        "ratio": round((before + after) / told.seconds, 3),
        "growth_mib": round(told.growth_mib, 1),
        "most_mib": round(told.most_mib, 1),
        "failed": told.failed,
    }
    whole = told.lines == COUNT and set(reasons) == bad and all(reasons.values())
    met = whole and figures["ratio"] >= LEAST_RATIO and told.growth_mib <= MOST_GROWTH  # type: ignore[operator]
    goals = {"ratio": LEAST_RATIO, "growth_mib": MOST_GROWTH, "all bad ones among the failures": whole}
    print(json.dumps({"bench": "batch", "figures": figures, "goals": goals, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
