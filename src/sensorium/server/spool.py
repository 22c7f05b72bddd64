"""Where large uploads lie while their request is worked on: named by content, never by their sender."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sensorium.errors import Unavailable
from sensorium.server.ownfolder import OwnFolder
from sensorium.stores.files import Part

T = TypeVar("T")

PREFIX = "sensorium-spool-"


class Spool:
    """A folder that only this process's user may read, gone when it is closed.

    Equal uploads at the same time share one file, so that an answer being worked out for both
    does not lose it when one of the senders leaves. All is done in one thread: nothing needs a lock,
    and no disk holds up the event loop.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self._own = OwnFolder(PREFIX, parent)
        self.folder = self._own.path
        self._holders: Counter[str] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sensorium-spool")

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        self._thread.shutdown()
        self._own.close()

    def file(self) -> SpoolFile:
        """A new file, to be written."""
        return SpoolFile(self)

    async def in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def afterwards(self, work: Callable[..., object], *args: object) -> None:
        """Have it done when all that was asked before is done; nobody waits."""
        with contextlib.suppress(RuntimeError):  # closed: the folder is gone with all in it
            self._thread.submit(work, *args)

    def take(self, part: Part) -> tuple[Path, str]:
        """Give a finished file its name."""
        path, sha256 = part.keep(replace=lambda path: not self._holders[path.name])
        self._holders[sha256] += 1
        return path, sha256

    def leave(self, sha256: str) -> None:
        """Remove a file when its last holder leaves."""
        self._holders[sha256] -= 1
        if not self._holders[sha256]:
            del self._holders[sha256]
            # On Windows a file that a thread still reads cannot go; it goes with the folder.
            with contextlib.suppress(OSError):
                (self.folder / sha256).unlink()


class SpoolFile:
    """One upload on its way to the disk."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._part: Part | None = None
        self._kept: str | None = None

    async def write(self, data: bytes) -> None:
        """Raises Unavailable when the disk does not take it."""
        await self._spool.in_thread(_ours, self._write, data)

    async def keep(self) -> tuple[Path, str]:
        """The path of the whole file, and its sha256. The file stays until `discard`."""
        return await self._spool.in_thread(_ours, self._keep)

    def discard(self) -> None:
        """Let go of the file, finished or not; it is removed soon."""
        self._spool.afterwards(self._discard)

    def _write(self, data: bytes) -> None:
        self._opened().write(data)

    def _keep(self) -> tuple[Path, str]:
        path, self._kept = self._spool.take(self._opened())
        self._part = None
        return path, self._kept

    def _opened(self) -> Part:
        if self._part is None:
            self._part = Part(self._spool.folder)
        return self._part

    def _discard(self) -> None:
        if self._kept is not None:
            self._spool.leave(self._kept)
            self._kept = None
        elif self._part is not None:
            self._part.discard()
            self._part = None


def _ours(work: Callable[..., T], *args: object) -> T:
    try:
        return work(*args)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Unavailable("The upload cannot be put aside", why=why, fix="Tell the operator of this server") from error
