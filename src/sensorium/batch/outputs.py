"""How results are written: JSON Lines as they come; JSON, CSV and Parquet from those lines, at the end, in one step.

In a table each plain value of a result is a column, `image.width` of `{"image": {"width": 640}}`. A list is JSON text in one
column, and its first part has columns of its own, such as `labels.0.name`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sensorium.batch.journal import write_whole, writing
from sensorium.dependencies import need
from sensorium.errors import InvalidConfiguration

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}

MOST_COLUMNS = 2000
"""Values that keep a caller's own schema may have any."""

ROWS = 2000
"""In memory at once."""

STEERING = ("=", "+", "-", "@", "\t", "\r")
"""Signs at the begin of a text by which spreadsheets take it for a formula."""

Lines = Callable[[], Iterable[bytes]]
"""All lines of a journal, as often as they are needed."""


def format_of(output: str, wanted: str | None) -> str:
    """The format, by its name or else by the suffix. Raises InvalidConfiguration for one that is not known, or not here."""
    if output == "-" and wanted not in (None, "jsonl"):
        raise InvalidConfiguration("Standard output takes JSON Lines only", fix="Name a file by -o")
    found = wanted or SUFFIXES.get(Path(output).suffix.lower(), None if output != "-" else "jsonl")
    if found is None:
        fix = f"Use one of {', '.join(SUFFIXES)}, or name the format by --format"
        raise InvalidConfiguration(f"The name {output!r} does not say which format is meant", fix=fix)
    if found == "parquet":
        need("pyarrow", for_what="write Parquet")
    return found


def write(output: Path, format: str, lines: Lines, part: Path) -> None:  # noqa: A002 - what it is called everywhere
    """Write all of it; `part` is where it grows. Raises OutputFailed, and then nothing has changed."""
    if format == "json":
        write_whole(output, _json(lines()), part)
    elif format == "csv":
        write_whole(output, _csv(lines), part)
    else:
        _write_parquet(output, lines, part)


def _json(lines: Iterable[bytes]) -> Iterator[bytes]:
    before = b"[\n"
    for line in lines:
        yield before + line.removesuffix(b"\n")
        before = b",\n"
    yield b"[]\n" if before == b"[\n" else b"\n]\n"


def _csv(lines: Lines) -> Iterator[bytes]:
    columns = list(_columns(lines()))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    yield b"\xef\xbb\xbf"  # by which Excel knows UTF-8
    for line in lines():
        row = _row(json.loads(line))
        writer.writerow([_cell(row.get(name)) for name in columns])
        yield out.getvalue().encode("utf-8", "backslashreplace")
        out.seek(0)
        out.truncate()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(STEERING):
        return f"'{value}"
    return str(value).lower() if isinstance(value, bool) else value


def _write_parquet(output: Path, lines: Lines, part: Path) -> None:
    arrow, parquet = (need(name, for_what="write Parquet") for name in ("pyarrow", "pyarrow.parquet"))
    columns = _columns(lines())
    kinds = {bool: arrow.bool_(), int: arrow.int64(), float: arrow.float64(), str: arrow.string()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    with writing(output):
        try:
            with parquet.ParquetWriter(part, schema) as writer:
                for rows in _batched(map(json.loads, lines()), ROWS):
                    told = [{name: _typed(row.get(name), kind) for name, kind in columns.items()} for row in rows]
                    writer.write_table(arrow.Table.from_pylist(told, schema=schema))
            part.replace(output)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _batched(told: Iterator[dict[str, Any]], count: int) -> Iterator[list[dict[str, Any]]]:
    while rows := [_row(one) for one in islice(told, count)]:
        yield rows


def _typed(value: Any, kind: type) -> Any:
    if value is None or isinstance(value, kind):
        return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
    return kind(value) if kind is float else json.dumps(value)


def _columns(lines: Iterable[bytes]) -> dict[str, type]:
    """Every column with what it holds, in the order in which they come; `image`, `error` and `message` first."""
    columns: dict[str, type] = {"image": str, "error": str, "message": str}
    for line in lines:
        for name, value in _row(json.loads(line)).items():
            columns[name] = _widened(columns.get(name), value)
        if len(columns) > MOST_COLUMNS:
            why = f"the results have more than {MOST_COLUMNS:,} kinds of values"
            raise InvalidConfiguration("They make no table", why=why, fix="Use --format jsonl with another output")
    return columns


def _widened(known: type | None, value: Any) -> type:
    """The narrowest of bool, int, float and str that holds both."""
    kind = type(value) if type(value) is not int or abs(value) < 1 << 63 else str
    if known is None or known is kind:
        return kind
    return float if {known, kind} == {int, float} else str


def _row(line: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"image": line["image"]}
    if "error" in line:
        return {**row, "error": line["error"].get("code"), "message": line["error"].get("message")}
    _flatten(line["result"], "", row)
    return row


def _flatten(value: Any, name: str, row: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            _flatten(part, f"{name}.{key}" if name else key, row)
    elif isinstance(value, list):
        row[name] = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if value and isinstance(value[0], dict):
            _flatten(value[0], f"{name}.0", row)
    elif value is not None:
        row[name] = value
