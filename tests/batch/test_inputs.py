"""What there is to do: every kind of word, one input at a time."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from sensorium.batch.inputs import Inputs, again, together, typed
from sensorium.errors import FileMissing, InvalidInput, InvalidRequest, SensoriumError
from tests.pictures import jpeg


def ids(*words: str | Path, **more: object) -> list[str]:
    return [item.id for item in Inputs(tuple(map(str, words)), **more)]  # type: ignore[arg-type]


def test_a_folder_gives_its_pictures_by_name_also_inside_folders(photos: Path) -> None:
    assert ids("照片") == ["照片/a.png", "照片/b 猫.jpg", "照片/broken.jpg", "照片/旅行/长城"]
    assert ids("照片/", recursive=False) == ["照片/a.png", "照片/b 猫.jpg", "照片/broken.jpg"]


def test_a_pattern_gives_what_matches_and_says_when_nothing_does(photos: Path) -> None:
    assert ids("照片/**/*") == ["照片/a.png", "照片/b 猫.jpg", "照片/broken.jpg", "照片/notes.txt", "照片/旅行/长城"]
    (nothing,) = Inputs(("照片/*.tif",))
    assert isinstance(nothing.source, FileMissing)


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(home: Path) -> None:
    (home / "a[1].jpg").write_bytes(jpeg())
    assert ids("a[1].jpg") == ["a[1].jpg"]


def test_a_list_names_paths_and_urls_a_line_each(home: Path) -> None:
    (home / "list.txt").write_text("a.jpg\n\nhttps://example.com/猫.jpg?k=1\r\nftp:x\n 空格 .jpg", encoding="utf-8-sig")
    found = list(Inputs(("@list.txt",)))
    assert [item.id for item in found] == ["a.jpg", "https://example.com/猫.jpg?k=1", "ftp:x", " 空格 .jpg"]
    assert found[0].source == {"path": "a.jpg"}
    assert found[1].source == {"url": "https://example.com/猫.jpg?k=1"}


def test_names_that_are_no_text_lead_to_their_files(home: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.jpg")
    (home / "list.txt").write_bytes(b"\xff\xfe.jpg\n")
    assert ids("@list.txt") == [name]


@pytest.mark.parametrize("word", ["-", "@list.txt"])
def test_standard_input_is_read_as_a_list_is(home: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    content = "a.jpg\n照片/b.jpg\n".encode()
    (home / "list.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert ids(word) == ["a.jpg", "照片/b.jpg"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.csv", '\ufeffid,图片\n1,a.jpg\n2,"b, c.jpg"\n3,\n'),
        ("data.TSV", "id\t图片\n1\ta.jpg\n2\tb, c.jpg\n3\t\n"),
        ("data.jsonl", '{"图片": "a.jpg"}\n\n{"图片": "b, c.jpg"}\n{"图片": 5}\n'),
    ],
)
def test_a_column_of_a_table_names_inputs_and_an_empty_cell_is_told(home: Path, name: str, content: str) -> None:
    (home / name).write_text(content, encoding="utf-8")
    found = list(Inputs((f"{name}:图片",)))
    assert [item.id for item in found] == ["a.jpg", "b, c.jpg", f"{name}:4"]
    assert isinstance(found[2].source, InvalidRequest)
    assert [item.id for item in Inputs((name,), column="图片")] == [item.id for item in found]


def test_a_column_that_is_not_there_is_told_with_those_that_are(home: Path) -> None:
    (home / "data.csv").write_text("id,photo\n1,a.jpg\n")
    for inputs in (Inputs(("data.csv:picture",)), Inputs(("data.csv",))):
        with pytest.raises(InvalidRequest, match="id, photo"):
            inputs.check()


def test_a_list_that_is_not_there_and_a_table_that_is_none_are_told(home: Path) -> None:
    (home / "data.csv").write_bytes(b'photo\n"a\x00' + b"b" * 10)
    for word in ("@nowhere.txt", "nowhere.csv:photo"):
        with pytest.raises(FileMissing, match="nowhere"):
            Inputs((word,)).check()


def test_a_broken_line_of_json_is_told_and_the_rest_goes_on(home: Path) -> None:
    (home / "data.jsonl").write_text('{"p": "a.jpg"}\n{"p": \n[1]\n{"p": "b.jpg"}\n')
    found = list(Inputs(("data.jsonl:p",)))
    assert [item.id for item in found] == ["a.jpg", "data.jsonl:2", "data.jsonl:3", "b.jpg"]
    assert [isinstance(item.source, InvalidInput) for item in found] == [False, True, True, False]


def test_a_data_url_is_called_by_its_content() -> None:
    (one,), (same,), (other,) = (
        list(Inputs((word,))) for word in ("data:;base64,AAAA", "data:;base64,AAAA", "data:;base64,BBBB")
    )
    assert one.id == same.id != other.id
    assert one.source == {"data": "AAAA"}
    (bad,) = Inputs(("data:;base64,?",))
    assert isinstance(bad.source, SensoriumError)


def test_a_folder_that_cannot_be_looked_into_is_an_input_that_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "open" / "closed").mkdir(parents=True)
    (home / "open" / "a.jpg").write_bytes(jpeg())
    scan = os.scandir

    def refusing(place: str) -> object:
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refusing)  # whoever runs the tests may look into every folder
    found = list(Inputs(("open",)))
    assert [item.id for item in found] == ["open/a.jpg", "open/closed"]
    assert "Permission denied" in str(found[1].source)


def test_folders_that_are_read_are_known_so_that_nothing_is_written_there(photos: Path) -> None:
    words = ("照片", "照片/*.jpg", "**/*.jpg", "照片/a.png", "-", "https://example.com/a.jpg")
    assert Inputs(words).folders() == [Path("照片"), Path("照片"), Path()]


def test_what_failed_is_found_again_by_its_name_unless_going_through_all_finds_it(photos: Path) -> None:
    names = ["照片/a.png", "gone.jpg", "https://example.com/a.jpg", "照片", "data.csv:7", "data:0123", "*.tif"]
    assert [item.id for item in again(names)] == ["照片/a.png", "gone.jpg", "https://example.com/a.jpg"]


def test_inputs_are_numbered_across_what_they_come_from() -> None:
    items = list(together(Inputs(("a.jpg", "b.jpg")), Inputs(("c.jpg",))))
    assert [(item.id, item.ordinal) for item in items] == [("a.jpg", 0), ("b.jpg", 1), ("c.jpg", 2)]


def test_a_slash_at_the_end_of_a_folder_makes_no_other_command(photos: Path) -> None:
    assert typed(("照片/", "a/", "https://example.com/")) == ("照片", "a/", "https://example.com/")


@pytest.mark.parametrize("line", ["[" * 200_000, '{"photo": ' + "[" * 200_000 + "]" * 200_000 + "}", "x" * 2000])
def test_a_line_too_deep_or_too_long_is_that_lines_error(
    home: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensorium.batch.inputs.LONGEST_LINE", 1000 if line[0] == "x" else 10**9)
    (home / "t.jsonl").write_text(f'{{"photo": "a.jpg"}}\n{line}\n{{"photo": "b.jpg"}}', encoding="utf-8")
    one, bad, other = Inputs(("t.jsonl:photo",))
    assert (one.id, bad.id, other.id) == ("a.jpg", "t.jsonl:2", "b.jpg")
    assert isinstance(bad.source, InvalidRequest)


def test_of_a_line_that_is_too_long_nothing_is_held(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorium.batch.inputs.LONGEST_LINE", 1000)
    (home / "list.txt").write_text("a.jpg\n" + "x" * 3_500_000 + "\nb.jpg\n" + "y" * 1000, encoding="utf-8")
    found = list(Inputs(("@list.txt",)))
    assert [item.id for item in found] == ["a.jpg", "line 2", "b.jpg", "line 4"]
    assert [isinstance(item.source, InvalidRequest) for item in found] == [False, True, False, True]
    (home / "t.csv").write_text("photo\n" + "x" * 2000, encoding="utf-8")
    with pytest.raises(InvalidInput, match="line 2 is too long"):
        list(Inputs(("t.csv:photo",)))
