"""What is done, in a file of lines that any crash leaves whole, with an index beside it that can be made anew.

    {"image": "photos/a.jpg", "result": {...}}
    {"image": "photos/b.jpg", "error": {...}}

An item is done when its line is whole in the file. Lines are appended by one process, so that a crash can tear only the
last; it is cut off when the work goes on. The index (SQLite) knows the place of each line: nothing that grows with the
number of inputs is held in memory. Where it is behind the file, or lost, the lines say what it should hold.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from sensorium.errors import InvalidConfiguration, OutputFailed

SCHEMA = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
CREATE TABLE IF NOT EXISTS lines
    (key BLOB PRIMARY KEY, ordinal INTEGER, place INTEGER, length INTEGER, code TEXT, cost REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS known (file TEXT, size INTEGER);
"""

TOGETHER = 1000
"""Lines that are read, or looked up, in one step."""


BEHIND = 1 << 40
"""A place that no input has."""


class Line(NamedTuple):
    """The outcome of one item."""

    id: str
    outcome: bytes
    """`{"result": ...}` or `{"error": ...}`."""
    ordinal: int
    code: str | None
    """Of an error."""
    cost: float = 0.0
    """In US dollars."""


def name_of(id: str) -> bytes:  # noqa: A002 - what it is called everywhere here
    """An item's name as JSON. UTF-8 as it is; a name that is no text, with escapes."""
    told = json.dumps(id, ensure_ascii=False)
    with suppress(UnicodeEncodeError):
        return told.encode()
    return json.dumps(id).encode()


def encoded(line: Line) -> bytes:
    """The line as it stands in the file."""
    return b'{"image":%b,%b\n' % (name_of(line.id), line.outcome[1:])


def key_of(id: str) -> bytes:  # noqa: A002
    return hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Raises OutputFailed for whatever keeps a file from being written; a reader that has gone stays what it is."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise _failed(path, why) from error
    except sqlite3.Error as error:
        why = "the disk is full" if error.sqlite_errorcode == sqlite3.SQLITE_FULL else str(error)
        raise _failed(path, why) from error


def _failed(path: Path | str, why: str) -> OutputFailed:
    fix = "Mend that, then run the same command again: it goes on where it stopped"
    return OutputFailed(f"Cannot write {path}", why=why, fix=fix)


class Journal:
    """The lines of one batch, in a file; or on standard output, and then only this process knows what is done."""

    def __init__(self, path: Path | None, index: Path | None) -> None:
        """Raises InvalidConfiguration while another process writes there, OutputFailed when nothing can be written."""
        self.path = path
        with writing(path or "standard output"):
            self._index = _opened(index)
            self._end = 0
            try:
                self._file = None if path is None else self._recovered(path)
            except BaseException:
                self._index.close()
                raise

    def close(self) -> None:
        self._index.close()
        if self._file:
            self._file.close()

    def done(self, ids: Sequence[str]) -> set[str]:
        """Those of them that are done; a thousand at most."""
        keys = {key_of(one): one for one in ids}
        wanted = f"SELECT key FROM lines WHERE key IN ({','.join('?' * len(keys))})"  # noqa: S608 - no outside text
        return {keys[key] for (key,) in self._index.execute(wanted, list(keys))}

    def append(self, lines: Sequence[Line]) -> None:
        """Raises OutputFailed; the file then ends with the last line that is whole."""
        if not lines:
            return
        told = [encoded(line) for line in lines]
        if self._file is None:
            sys.stdout.buffer.write(b"".join(told))
            sys.stdout.flush()
        else:
            self._write(self._file, b"".join(told))
        rows = []
        for line, text in zip(lines, told, strict=True):
            rows.append((key_of(line.id), line.ordinal, self._end, len(text), line.code, line.cost))
            self._end += len(text)
        self._know(rows)

    def forget_places(self) -> None:
        """Have all lines stand behind those that are placed, or appended, from now on."""
        with writing(self.path or ""), self._index:
            self._index.execute("UPDATE lines SET ordinal = ordinal + ? WHERE ordinal < ?", (BEHIND, BEHIND))

    def place(self, items: Iterable[tuple[str, int]]) -> None:
        """Have items that are done stand at these places, by which lines are put in order; the first place counts."""
        with writing(self.path or ""), self._index:
            update = "UPDATE lines SET ordinal = ? WHERE key = ? AND ordinal > ?"
            self._index.executemany(update, [(ordinal, key_of(one), ordinal) for one, ordinal in items])

    def counts(self) -> dict[str | None, int]:
        """How many are done, by the code of their error; None: with a result."""
        return dict(self._index.execute("SELECT code, COUNT(*) FROM lines GROUP BY code"))

    @property
    def spent(self) -> float:
        """What all answers cost, in US dollars."""
        return float(self._index.execute("SELECT TOTAL(cost) FROM lines").fetchone()[0])

    @property
    def spent_on_failures(self) -> float:
        """As `spent`, of what failed."""
        return float(self._index.execute("SELECT TOTAL(cost) FROM lines WHERE code IS NOT NULL").fetchone()[0])

    @property
    def is_in_order(self) -> bool:
        """Whether lines stand in the order of their inputs."""
        last = -1
        for (ordinal,) in self._index.execute("SELECT ordinal FROM lines ORDER BY place"):
            if ordinal < last:
                return False
            last = ordinal
        return True

    def lines(self, *, in_order: bool = False) -> Iterator[bytes]:
        """Every line; as they came, or in the order of their inputs."""
        yield from self._picked("", "ordinal" if in_order else "place")

    def failures(self) -> Iterator[bytes]:
        """The lines of what failed, in the order of their inputs."""
        yield from self._picked("WHERE code IS NOT NULL", "ordinal")

    def results(self) -> Iterator[bytes]:
        """The other lines, as they came."""
        yield from self._picked("WHERE code IS NULL", "place")

    def keep(self, lines: Iterable[bytes]) -> None:
        """Have these lines be the whole file, in one step. Raises OutputFailed."""
        if self.path is None or self._file is None:
            return  # nothing can be taken back
        self._file.close()  # Windows replaces no file that is open
        try:
            write_whole(self.path, lines)
        finally:
            with writing(self.path):
                self._file = self._recovered(self.path)

    def _picked(self, which: str, order: str) -> Iterator[bytes]:
        if self.path is None:
            return
        with self.path.open("rb") as file:
            picked = f"SELECT place, length FROM lines {which} ORDER BY {order}"  # noqa: S608 - no outside text
            for place, length in self._index.execute(picked):
                file.seek(place)
                yield file.read(length)

    def _write(self, file: io.FileIO, data: bytes) -> None:
        with writing(self.path or ""):
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) or 0 :]
            except BaseException:
                with suppress(OSError):
                    file.truncate(self._end)
                raise

    def _know(self, rows: Sequence[tuple[bytes, int, int, int, str | None, float]]) -> None:
        with writing(self.path or "standard output"), self._index:
            self._index.executemany("INSERT OR IGNORE INTO lines VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._index.execute("UPDATE known SET size = ?", (self._end,))

    def _recovered(self, path: Path) -> io.FileIO:
        """The file, to be written to; what comes after its last whole line is cut off, and what the index lacks is read."""
        file = path.open("ab", buffering=0)
        status = os.fstat(file.fileno())
        identity = f"{status.st_dev}:{status.st_ino}"
        known = self._index.execute("SELECT file, size FROM known").fetchone()
        if known is None or known[0] != identity or known[1] > status.st_size:
            with self._index:
                self._index.execute("DELETE FROM lines")
                self._index.execute("DELETE FROM known")
                self._index.execute("INSERT INTO known VALUES (?, 0)", (identity,))
            known = (identity, 0)
        self._end = int(known[1])
        try:
            with path.open("rb") as lines:
                lines.seek(self._end)
                self._read(lines)
            if self._end < status.st_size:
                file.truncate(self._end)
        except BaseException:
            file.close()
            raise
        return file

    def _read(self, lines: IO[bytes]) -> None:
        (count,) = self._index.execute("SELECT COUNT(*) FROM lines").fetchone()
        rows = []
        for ordinal, text in enumerate(lines, count):
            if not text.endswith(b"\n"):
                break
            id, code, cost = _understood(text)  # noqa: A001
            rows.append((key_of(id), ordinal, self._end, len(text), code, cost))
            self._end += len(text)
            if len(rows) == TOGETHER:
                self._know(rows)
                rows.clear()
        self._know(rows)


def write_whole(path: Path, parts: Iterable[bytes], beside: Path | None = None) -> None:
    """Write a file in one step: whoever looks finds the old one or the new one. Raises OutputFailed."""
    part = beside or path.with_name(path.name + ".part")
    with writing(path):
        try:
            with part.open("wb") as file:
                file.writelines(parts)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def cost_of(outcome: bytes) -> float:
    """What an answer cost, in US dollars; one that was remembered cost nothing."""
    told = json.loads(outcome)
    about = told["result"].get("meta", {}) if "result" in told else told["error"]
    usage = about.get("usage") or {}
    return 0.0 if about.get("cached") else float(usage.get("cost") or 0.0)


def _understood(text: bytes) -> tuple[str, str | None, float]:
    try:
        told = json.loads(text)
        code = None if "result" in told else str(told["error"]["code"])
        return str(told["image"]), code, cost_of(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        fix = "Choose another output, or begin anew with --restart"
        raise InvalidConfiguration("The output holds a line that is none of a batch's", fix=fix) from error


def _opened(path: Path | None) -> sqlite3.Connection:
    """The index, for this process alone; a broken one is made anew. Without a path it is a file that has no name."""
    for last in (False, True):
        connection = sqlite3.connect(path or "", timeout=0.0, isolation_level="IMMEDIATE", check_same_thread=False)
        try:
            connection.executescript(SCHEMA)
            with connection:
                connection.execute("DELETE FROM known WHERE file IS NULL")  # whoever writes first keeps others out
        except sqlite3.DatabaseError as error:
            connection.close()
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                fix = "Wait for its end, or choose another output"
                raise InvalidConfiguration("Another batch is writing to this output", fix=fix) from error
            if last or path is None or isinstance(error, sqlite3.OperationalError):
                raise
            for name in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                name.unlink(missing_ok=True)
        else:
            return connection
    raise AssertionError("unreachable")
