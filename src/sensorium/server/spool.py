"""Where large uploads lie while their request is worked on: named by content, never by their sender."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

from sensorium.errors import Unavailable
from sensorium.server.ownfolder import OwnFolder

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

    def take(self, part: Path, sha256: str) -> Path:
        """Give a finished file its name."""
        path = self.folder / sha256
        if self._holders[sha256]:
            part.unlink()
        else:
            part.replace(path)
        self._holders[sha256] += 1
        return path

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
        self._hash = hashlib.sha256()
        self._part: tuple[Path, IO[bytes]] | None = None
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
        self._hash.update(data)
        self._opened()[1].write(data)

    def _keep(self) -> tuple[Path, str]:
        part, file = self._opened()
        file.close()
        self._kept, self._part = self._hash.hexdigest(), None
        return self._spool.take(part, self._kept), self._kept

    def _opened(self) -> tuple[Path, IO[bytes]]:
        if self._part is None:
            descriptor, name = tempfile.mkstemp(dir=self._spool.folder)  # mode 0600
            self._part = Path(name), os.fdopen(descriptor, "wb")
        return self._part

    def _discard(self) -> None:
        if self._kept is not None:
            self._spool.leave(self._kept)
            self._kept = None
        elif self._part is not None:
            part, file = self._part
            with contextlib.suppress(OSError):  # closing writes what is left, which a full disk refuses
                file.close()
            part.unlink(missing_ok=True)
            self._part = None


def _ours(work: Callable[..., T], *args: object) -> T:
    try:
        return work(*args)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Unavailable("The upload cannot be put aside", why=why, fix="Tell the operator of this server") from error
