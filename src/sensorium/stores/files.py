"""Bytes that lie aside: inputs of jobs, and uploads. The one place in which such files are written and removed.

    part = Part(folder)           # in a thread: all here blocks
    part.write(b"...")
    path, sha256 = part.keep()

A file is streamed, never whole in memory, and named by its content, never by its sender; only this process's user may
read it. Files that belong together lie on a shelf, which goes as a whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

from sensorium.errors import InvalidConfiguration, StorageFailed

log = logging.getLogger("sensorium.stores")

P = ParamSpec("P")
T = TypeVar("T")

FILE = re.compile(r"[0-9a-f]{64}")
SHELF = re.compile(r"[0-9a-f]{32}")

LEAST_CHARGED = 4096
"""Bytes that a file counts at least, where it is counted: even an empty one takes its place on the disk."""

CHUNK = 2**20
"""Bytes that are read at once."""


class Part:
    """One file on its way to the disk. Raises OSError where the disk does not take it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hash = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(dir=folder)  # mode 0600
        self._path, self._file = Path(name), os.fdopen(descriptor, "wb")

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)

    def keep(self, replace: Callable[[Path], bool] = lambda path: True) -> tuple[Path, str]:  # noqa: ARG005
        """Give the whole file its name: its path, and its sha256. Unless `replace` says so, one that is there stays."""
        self._file.close()
        sha256 = self._hash.hexdigest()
        path = self._folder / sha256
        if replace(path):
            self._path.replace(path)
        else:
            self._path.unlink()
        return path, sha256

    def discard(self) -> None:
        """Remove what there is of it."""
        with contextlib.suppress(OSError):  # closing writes what is left, which a full disk refuses
            self._file.close()
        self._path.unlink(missing_ok=True)


class Files:
    """A folder of shelves, each named by 32 hex digits. All of it blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, shelf: str, content: IO[bytes]) -> tuple[Path, str]:
        """Keep what is read: the path, and the sha256. Equal contents on a shelf are one file.

        Raises StorageFailed when the disk does not take it; nothing is left half written.
        """
        return _ours(self._put, self._folder / shelf, content)

    def adopt(self, shelf: str, path: Path, sha256: str) -> Path | None:
        """Have a file on a shelf too that is elsewhere and will not change, without copying it; None where that is not
        possible, as on another disk, or it is not there."""
        place = self._folder / shelf / sha256
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.hardlink_to(path)
        except FileExistsError:
            return place if place.is_file() else None
        except OSError:
            return None
        return place

    def path(self, shelf: str, sha256: str) -> Path:
        """Where a file is, or would be."""
        return self._folder / shelf / sha256

    def discard(self, shelf: str, sha256: str) -> None:
        """Remove one file from a shelf, if it is there."""
        self.path(shelf, sha256).unlink(missing_ok=True)

    def remove(self, shelf: str) -> None:
        """Remove a shelf with all that is on it, if there is one."""
        # On Windows a file that is being read cannot go; it goes with the next sweep.
        shutil.rmtree(self._folder / shelf, ignore_errors=True)

    def shelves(self, older_than: float) -> Iterator[str]:
        """The shelves on which nothing was put for so many seconds."""
        since = time.time() - older_than
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as found:
            yield from (one.name for one in found if SHELF.fullmatch(one.name) and one.stat().st_mtime < since)

    def _put(self, shelf: Path, content: IO[bytes]) -> tuple[Path, str]:
        shelf.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = Part(shelf)
        try:
            while data := content.read(CHUNK):
                part.write(data)
            return part.keep()
        except BaseException:
            part.discard()
            raise


def storage_failed(what: str, error: Exception, why: str = "") -> StorageFailed:
    """What a caller is told when something cannot be kept.

    With a `why` of its own: then the error's words, which may tell folders and addresses, go to the log alone.
    """
    if isinstance(error, InvalidConfiguration):
        why = "the place for it cannot be opened"
    if why:
        log.error("%s: %s", what, error)
    why = why or getattr(error, "strerror", None) or str(error) or type(error).__name__
    return StorageFailed(what, why=why, fix="Tell the operator of this server")


def _ours(work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    try:
        return work(*args, **more)
    except OSError as error:
        raise storage_failed("The file cannot be put aside", error) from error
