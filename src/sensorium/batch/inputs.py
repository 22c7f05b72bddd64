"""What there is to do: every input that the words of a command stand for, one at a time, never all at once."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sensorium.errors import FileMissing, InvalidInput, InvalidRequest, SensoriumError
from sensorium.media.folders import files_in
from sensorium.media.source import Source

STDIN = "-"

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
"""Files that are read by rows, of which one column names the inputs."""

LONGEST_FIELD = 100_000_000
"""Characters of one cell: a picture as a data URL."""

LONGEST_LINE = LONGEST_FIELD + 1_000_000
"""Characters of a line of a list or a table: of a longer one nothing is held."""

_WITH_COLUMN = re.compile(r"(?P<file>.+\.(?:csv|tsv|jsonl|ndjson)):(?P<column>[^/\\]+)", re.IGNORECASE)
_ROW = re.compile(r".+\.(?:csv|tsv|jsonl|ndjson):\d+", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://|data:", re.IGNORECASE)
_WILD = re.compile(r"[*?\[]")


@dataclass(slots=True)
class Item:
    """One input."""

    id: str
    """What it is called in the output, and known by when the work goes on: a path or URL as given; of a row that names none, file:row."""
    source: dict[str, str] | SensoriumError
    """Where it is, as `Source.as_json` says it; or why there is nothing."""
    ordinal: int = 0
    """Its place among all inputs."""
    deaths: int = 0
    """How many processes ended while they worked on it."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The words of a command. Going through them again finds the same inputs in the same order, but for standard input."""

    words: tuple[str, ...]
    column: str | None = None
    """Of tables whose word does not name it."""
    recursive: bool = True

    @property
    def is_live(self) -> bool:
        """Whether some of it is told as it comes, and can be read once only."""
        return STDIN in self.words

    def __iter__(self) -> Iterator[Item]:
        for word in self.words:
            yield from self._found(word)

    def folders(self) -> list[Path]:
        """Where inputs are looked for, and so nothing may be written."""
        plain = [word for word in self.words if word != STDIN and not _ADDRESS.match(word)]
        bases = [Path(_base(word)) if _is_pattern(word) else Path(word) for word in plain]
        return [base for base in bases if base.is_dir()]

    def check(self) -> None:
        """Raises FileMissing for a list, a table or a folder that is not there, and where nothing is there at all;
        InvalidRequest for a column that a table does not have."""
        for word in self.words:
            if self._is_read(word):
                next(self._found(word), None)
            elif _is_folder(word) and not Path(word).is_dir():
                raise FileMissing(f"There is no folder {word}", fix="Check the path")
        if not any(map(self._is_something, self.words)):
            words = ", ".join(self.words)
            raise FileMissing("There is nothing to do", why=f"nothing is called {words}", fix="Check the path")

    def _is_read(self, word: str) -> bool:
        return word != STDIN and not _ADDRESS.match(word) and (word.startswith("@") or self._as_table(word) is not None)

    def _is_something(self, word: str) -> bool:
        if word == STDIN or _ADDRESS.match(word) or self._is_read(word):
            return True
        if _is_pattern(word):
            return next(glob.iglob(word, recursive=True), None) is not None  # noqa: PTH207 - as where it is gone through
        return Path(word).exists()

    def _found(self, word: str) -> Iterator[Item]:
        if word == STDIN:
            return _listed(_standard_input())
        if _ADDRESS.match(word):
            return iter([named(word)])
        if word.startswith("@") and not Path(word).exists():
            return _of_file(Path(word[1:]), _listed)
        if (table := self._as_table(word)) is not None:
            return table
        if Path(word).is_dir():
            return self._in_folder(Path(word))
        return self._matching(word) if _is_pattern(word) else iter([_file(word)])

    def _as_table(self, word: str) -> Iterator[Item] | None:
        found = None if Path(word).exists() else _WITH_COLUMN.fullmatch(word)
        path, column = (Path(found["file"]), found["column"]) if found else (Path(word), self.column)
        if path.suffix.lower() not in TABLES:
            return None
        read = _csv_rows if path.suffix.lower() in (".csv", ".tsv") else _json_rows
        return _of_file(path, lambda file: _cells(path, read(path, file), column))

    def _in_folder(self, folder: Path) -> Iterator[Item]:
        for one in files_in(folder, recursive=self.recursive):
            yield _file(str(one)) if isinstance(one, Path) else Item(str(one[0]), one[1])

    def _matching(self, pattern: str) -> Iterator[Item]:
        """By name; what matches is tried, whatever its name."""
        found = False
        for path in sorted(glob.iglob(pattern, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute pattern
            if not Path(path).is_dir():
                found = True
                yield _file(path)
        if not found:
            yield Item(pattern, FileMissing(f"No file matches {pattern}", fix="Check the pattern"))


def named(text: str) -> Item:
    """The input that a path or an address stands for; one that holds the picture itself is called by its content."""
    if not _ADDRESS.match(text):
        return _file(text)
    name = f"data:{hashlib.sha256(text.encode()).hexdigest()[:32]}" if text[:5].lower() == "data:" else text
    try:
        return Item(name, Source.of(text).as_json())
    except SensoriumError as error:
        return Item(name, error)


def _file(path: str) -> Item:
    return Item(path, {"path": path})


def _is_folder(word: str) -> bool:
    """Whether it is meant as a folder, there or not."""
    return word.endswith(("/", os.sep)) and not _ADDRESS.match(word)


def _is_pattern(word: str) -> bool:
    return _WILD.search(word) is not None and not Path(word).exists()


def _base(pattern: str) -> str:
    """The folder before the first wildcard."""
    before = pattern[: _WILD.search(pattern).start()]  # type: ignore[union-attr] # asked of patterns only
    return os.path.dirname(before) or "."  # noqa: PTH120 - a pattern is no path


def _standard_input() -> IO[str]:
    if sys.stdin is None:
        raise InvalidRequest("There is no standard input to read")
    return io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", errors="surrogateescape")


def _of_file(path: Path, read: Callable[[IO[str]], Iterator[Item]]) -> Iterator[Item]:
    with _unreadable_is_ours(path), path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield from read(file)


@contextmanager
def _unreadable_is_ours(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileMissing(f"Cannot read {path}", why=error.strerror or str(error), fix="Check the path") from error
    except csv.Error as error:
        raise InvalidInput(
            f"{path} cannot be read as a table", why=str(error), fix="Save it as CSV, in UTF-8"
        ) from error


def _lines(file: IO[str]) -> Iterator[tuple[int, str | None]]:
    """Numbered; None for one that is too long."""
    for number in itertools.count(1):
        line = file.readline(LONGEST_LINE)
        if not line:
            return
        whole = len(line) < LONGEST_LINE or line.endswith("\n")
        yield number, line if whole else None
        while not whole:
            rest = file.readline(1_000_000)
            whole = not rest or rest.endswith("\n")


def _listed(file: IO[str]) -> Iterator[Item]:
    for number, line in _lines(file):
        if line is None:
            yield Item(
                f"line {number}", InvalidRequest(f"Line {number} of the list is too long", fix="Correct the list")
            )
        elif text := line.strip("\r\n"):
            yield named(text)


Row = dict[str, Any]


def _csv_rows(path: Path, file: IO[str]) -> Iterator[tuple[int, Row | None]]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.DictReader(_csv_lines(file), dialect="excel-tab" if path.suffix.lower() == ".tsv" else "excel")
    for row in reader:
        yield reader.line_num, row


def _csv_lines(file: IO[str]) -> Iterator[str]:
    for number, line in _lines(file):
        if line is None:
            raise csv.Error(f"line {number} is too long")
        yield line


def _json_rows(path: Path, file: IO[str]) -> Iterator[tuple[int, Row | None]]:  # noqa: ARG001 - as its sibling
    for number, line in _lines(file):
        if line is None or line.strip():
            try:
                row = json.loads(line or "")
            except (ValueError, RecursionError):
                row = None
            yield number, row if isinstance(row, dict) else None


def _cells(path: Path, rows: Iterator[tuple[int, Row | None]], column: str | None) -> Iterator[Item]:
    known = False
    for number, row in rows:
        place = f"{path}:{number}"
        if row is None:
            yield Item(place, InvalidRequest(f"{place} is no JSON object", fix="Correct the line"))
            continue
        if not known and column not in row:
            raise _no_column(path, column, row)
        known = True
        value = row.get(column) if column else None
        if isinstance(value, str) and value.strip():
            yield named(value.strip())
        else:
            yield Item(place, InvalidRequest(f"{place} names no picture", why=f"`{column}` is empty or no text"))


def _no_column(path: Path, column: str | None, row: Row) -> InvalidRequest:
    there = ", ".join(str(name) for name in row)[:200]
    what = f"{path} has no column {column!r}" if column else f"{path} is a table, and no column is named"
    return InvalidRequest(what, fix=f"Write `{path}:COLUMN`, or --column COLUMN; there are: {there}")


def again(ids: Iterable[str]) -> Iterator[Item]:
    """Inputs of an earlier run by what they were called. What is no file's name is found by going through all."""
    for name in ids:
        place = name.startswith("data:") or _ROW.fullmatch(name) or _is_pattern(name) or Path(name).is_dir()
        if not place:
            yield named(name)


def together(*parts: Iterable[Item]) -> Iterator[Item]:
    """One after the other, numbered."""
    for number, item in enumerate(item for part in parts for item in part):
        item.ordinal = number
        yield item


def typed(words: Sequence[str]) -> tuple[str, ...]:
    """The words as a command is known by: a folder with or without a slash at its end is the same."""
    return tuple(word if _ADDRESS.match(word) or not Path(word).is_dir() else str(Path(word)) for word in words)
