"""Where the processes of one server tell each other their numbers, so that any of them can answer for all.

Each has a file, written anew every second, and locks another while it lives. What the dead leave is added to one file of
sums, so that counters never go back, and removed: there are as many files as processes, and a few more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic_core import from_json, to_json

from sensorium.telemetry import Gauges, Snapshot, Telemetry

PREFIX = "sensorium-run-"
"""Of folders that go with the process that made them."""
VARIABLE = "SENSORIUM_RUN_DIR"
"""Names the folder, in the environment of each process of one server."""
SECONDS = 1.0
"""Between two writings: so much of what a killed process counted may be lost."""
LARGEST = 16 * 2**20
"""Bytes of one file that are read."""

log = logging.getLogger("sensorium.server")


class RunFolder:
    """This process's part in the folder, until it is closed."""

    def __init__(self, folder: Path, telemetry: Telemetry) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder, self._telemetry = folder, telemetry
        self._writing = threading.Lock()
        self._name = uuid.uuid4().hex
        self._alive = _locked(folder / f"{self._name}.new")
        self._tell()
        # Locked before it has its name: nobody takes it for one of the dead.
        (folder / f"{self._name}.new").replace(folder / f"{self._name}.lock")
        with self._alone() as sums:
            _bury_the_dead(folder, sums, telemetry)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell_again_and_again, name="sensorium-numbers", daemon=True)
        self._thread.start()

    def snapshot(self) -> Snapshot:
        """The numbers of all processes as one: counts of the dead too, and what there is now of the living."""
        # Told to the others first: what one scrape has said, the next, of another process, must not go back on.
        own = self._tell()
        with self._alone() as sums:
            dead = _bury_the_dead(self.folder, sums, self._telemetry)
            names = [path.stem for path in self.folder.glob("*.lock") if path.stem != self._name]
        living = [_read(self.folder / f"{name}.json", self._telemetry) for name in names]
        return _as_one([own, *living, dead], self._telemetry)

    def close(self) -> None:
        """Leave the last numbers to the others."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # the folder may be gone already
            self._tell()
        self._alive.close()

    def _tell_again_and_again(self) -> None:
        while not self._over.wait(SECONDS):
            try:
                self._tell()
            except OSError as error:  # a full disk: the next second may be better
                log.warning("The numbers of this process cannot be written: %s", error.strerror)

    def _tell(self) -> Snapshot:
        with self._writing:
            snapshot = self._telemetry.snapshot()
            _write(self.folder / f"{self._name}.json", _as_json(snapshot))
        return snapshot

    @contextmanager
    def _alone(self) -> Iterator[Path]:
        """The file of sums, while no other process is at it."""
        with _locked(self.folder / "sums"):
            yield self.folder / "sums.json"


def _bury_the_dead(folder: Path, sums: Path, telemetry: Telemetry) -> Snapshot:
    """Add what dead processes left to the sums, which are returned."""
    buried = set(_content(sums).get("buried", ()))
    dead = [path for path in folder.glob("*.lock") if _is_free(path)]
    left = [_counts(_read(path.with_suffix(".json"), telemetry), telemetry) for path in dead if path.stem not in buried]
    told = _as_one([_read(sums, telemetry), *left], telemetry)
    if dead:
        # Named in the same write as they are added: one that dies before it has removed them adds none twice.
        _write(sums, {**_as_json(told), "buried": [path.stem for path in dead]})
        for path in dead:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
    return told


def _counts(snapshot: Snapshot, telemetry: Telemetry) -> Snapshot:
    """What outlives a process: what it has done, not what it had."""
    families = telemetry.families()
    return {name: told for name, told in snapshot.items() if not isinstance(families[name], Gauges)}


def _as_one(snapshots: Iterable[Snapshot], telemetry: Telemetry) -> Snapshot:
    snapshots = list(snapshots)
    merged: Snapshot = {}
    for name, family in telemetry.families().items():
        told = [snapshot.get(name, {}) for snapshot in snapshots]
        labels = dict.fromkeys(key for one in told for key in one)
        merged[name] = {key: family.combined([one[key] for one in told if key in one]) for key in labels}
    return merged


def _as_json(snapshot: Snapshot) -> dict[str, Any]:
    return {"numbers": {name: [*told.items()] for name, told in snapshot.items() if told}}


def _read(path: Path, telemetry: Telemetry) -> Snapshot:
    """What a file tells; of what cannot be understood, nothing."""
    families = telemetry.families()
    numbers = _content(path).get("numbers", {})
    return {
        name: {
            tuple(labels): told
            for labels, told in series
            if len(labels) == len(families[name].labels) and len(told) == families[name].width
        }
        for name, series in numbers.items()
        if name in families
    }


def _content(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = from_json(file.read(LARGEST))
    except (OSError, ValueError):  # not there yet, or of a process that died of a full disk
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_bytes(to_json(content))
    part.replace(path)


if sys.platform == "win32":  # where a server is one process

    def _locked(path: Path) -> IO[bytes]:
        return path.open("wb")

    def _is_free(path: Path) -> bool:  # noqa: ARG001
        return False

else:
    import fcntl

    def _locked(path: Path) -> IO[bytes]:
        """The open file, locked until it is closed or this process dies; waits for another's turn to end."""
        file = path.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def _is_free(path: Path) -> bool:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True


def run_folder(telemetry: Telemetry) -> RunFolder | None:
    """The folder that the environment names; None where this process serves alone."""
    folder = shared_folder()
    return RunFolder(folder, telemetry) if folder else None


def shared_folder() -> Path | None:
    """The same, for what else the processes of this server share while it runs."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None
