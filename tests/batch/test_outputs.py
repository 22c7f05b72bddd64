"""JSON, CSV and Parquet, made of the lines of a journal."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sensorium.batch import outputs
from sensorium.errors import InvalidConfiguration, MissingDependency, OutputFailed

LINES: list[dict[str, Any]] = [
    {
        "image": "照片/a.jpg",
        "result": {"text": "=1+1", "score": 1, "ok": True, "labels": [{"name": "猫", "score": 0.5}]},
    },
    {"image": "b.jpg", "error": {"code": "corrupt_media", "message": "It is cut short, and damaged."}},
    {"image": "\udcff.jpg", "result": {"text": "two\nlines", "score": 0.25, "image": {"width": 7}, "labels": []}},
]


def written(tmp_path: Path, format: str, lines: list[dict[str, Any]]) -> Path:  # noqa: A002
    output = tmp_path / "there" / f"out.{format}"
    output.parent.mkdir()
    encoded = [json.dumps(one).encode() + b"\n" for one in lines]
    outputs.write(output, format, lambda: encoded, tmp_path / "part")
    assert not (tmp_path / "part").exists()
    return output


@pytest.mark.parametrize("lines", [LINES, LINES[:1], []])
def test_json_is_one_array_of_what_the_lines_say(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    assert json.loads(written(tmp_path, "json", lines).read_bytes()) == lines


def test_csv_has_a_column_for_each_value_and_starts_no_formula(tmp_path: Path) -> None:
    with written(tmp_path, "csv", LINES).open(encoding="utf-8-sig", newline="") as file:
        first, second, third = csv.DictReader(file)
    assert first == {
        "image": "照片/a.jpg",
        "error": "",
        "message": "",
        "text": "'=1+1",
        "score": "1",
        "ok": "true",
        "labels": '[{"name":"猫","score":0.5}]',
        "labels.0.name": "猫",
        "labels.0.score": "0.5",
        "image.width": "",
    }
    assert (second["error"], second["message"]) == ("corrupt_media", "It is cut short, and damaged.")
    assert (third["text"], third["image.width"]) == ("two\nlines", "7")


def test_parquet_has_typed_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(written(tmp_path, "parquet", LINES))
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["image"] == "string"
    assert (kinds["score"], kinds["ok"], kinds["image.width"]) == ("double", "bool", "int64")
    rows = table.to_pylist()
    assert (rows[0]["text"], rows[0]["score"], rows[1]["error"], rows[2]["image.width"]) == (
        "=1+1",
        1.0,
        "corrupt_media",
        7,
    )


def test_values_of_several_kinds_and_numbers_beyond_all_bounds_become_text(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    lines = [{"image": "a", "result": {"v": 1, "n": 1 << 70}}, {"image": "b", "result": {"v": "x", "n": 2}}]
    rows = parquet.read_table(written(tmp_path, "parquet", lines)).to_pylist()
    assert [(row["v"], row["n"]) for row in rows] == [("1", str(1 << 70)), ("x", "2")]


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match=r"sensorium\[parquet\]"):
        outputs.format_of("out.parquet", None)


@pytest.mark.parametrize(
    ("output", "wanted", "found"),
    [("a.jsonl", None, "jsonl"), ("a.CSV", None, "csv"), ("a.txt", "json", "json"), ("-", None, "jsonl")],
)
def test_the_format_is_said_or_known_by_the_name(output: str, wanted: str | None, found: str) -> None:
    assert outputs.format_of(output, wanted) == found


@pytest.mark.parametrize(("output", "wanted"), [("a.txt", None), ("-", "csv"), ("folder", None)])
def test_a_format_that_is_not_known_is_refused(output: str, wanted: str | None) -> None:
    with pytest.raises(InvalidConfiguration):
        outputs.format_of(output, wanted)


def test_what_makes_no_table_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    lines = [{"image": "a", "result": {f"key {number}": 1 for number in range(outputs.MOST_COLUMNS)}}]
    with pytest.raises(InvalidConfiguration, match="--format jsonl"):
        written(tmp_path, "csv", lines)
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize("format", ["json", "csv", "parquet"])
def test_a_place_that_cannot_be_written_is_told_and_the_old_file_stays(tmp_path: Path, format: str) -> None:  # noqa: A002
    if format == "parquet":
        pytest.importorskip("pyarrow")
    place = tmp_path / "there"
    (place / "out").mkdir(parents=True)
    with pytest.raises(OutputFailed):
        outputs.write(place / "out", format, lambda: [b'{"image":"a","result":{}}\n'], place / "part")
    assert [path.name for path in place.iterdir()] == ["out"]
