"""What processes take of the machine, read from /proc: Linux only."""

from __future__ import annotations

import os
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
MIB = 1024


def tree(root: int) -> list[int]:
    """The process and all below it."""
    found = [root]
    for number in found:  # grows while it is read
        for tasks in Path(f"/proc/{number}/task").glob("*/children"):
            found += [int(child) for child in _read(tasks).split()]
    return found


def cpu_seconds(root: int) -> float:
    """Of the process and all below it that live."""
    return sum(_times(f"/proc/{number}/stat") for number in tree(root))


def busy_seconds() -> float:
    """Of all cores, whoever used them."""
    user, nice, system, _, _, irq, soft, *_ = map(int, _read(Path("/proc/stat")).splitlines()[0].split()[1:])
    return (user + nice + system + irq + soft) / TICK


def pss_mib(root: int) -> float:
    """Memory of the process and all below it; what several share is counted once."""
    return sum(_kib(f"/proc/{number}/smaps_rollup", "Pss:") for number in tree(root)) / MIB


def rss_mib(root: int) -> float:
    """Resident memory of the process and all below it."""
    return sum(_kib(f"/proc/{number}/status", "VmRSS:") for number in tree(root)) / MIB


def _times(path: str) -> float:
    fields = _read(Path(path)).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK if fields else 0.0


def _kib(path: str, name: str) -> int:
    return next((int(line.split()[1]) for line in _read(Path(path)).splitlines() if line.startswith(name)), 0)


def _read(path: Path) -> str:
    """Nothing of a process that has gone."""
    try:
        return path.read_text()
    except OSError:
        return ""
