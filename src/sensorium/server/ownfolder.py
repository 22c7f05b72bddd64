"""A temporary folder that belongs to one process, and goes with it even when that process is killed."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import IO

LOCK = "lock"
"""Held by the process that the folder belongs to; free when that process is dead."""


class OwnFolder:
    """Only this process's user may read it; gone when it is closed.

    Making one removes those with the same prefix whose process was killed.
    """

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        _remove_abandoned(parent, prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._lock = _locked(self.path)

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_abandoned(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # someone else's, or gone meanwhile
            if _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


if sys.platform == "win32":

    def _locked(folder: Path) -> IO[bytes]:
        return (folder / LOCK).open("wb")

    def _is_abandoned(folder: Path) -> bool:
        (folder / LOCK).unlink()  # refused while the process has it open
        return True

else:
    import fcntl

    def _locked(folder: Path) -> IO[bytes]:
        # Locked before it has its name: nobody finds it free.
        file = (folder / f"{LOCK}.new").open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        Path(file.name).replace(folder / LOCK)
        return file

    def _is_abandoned(folder: Path) -> bool:
        with (folder / LOCK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True
