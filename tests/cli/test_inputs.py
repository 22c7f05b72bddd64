"""What the words on a command line stand for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sensorium.cli.inputs import expand
from sensorium.errors import FileMissing, SensoriumError
from tests.pictures import jpeg, png

MOST = 1_000_000


def names(*words: str | Path, every_file: bool = False) -> list[str]:
    return [Path(found.name).as_posix() for found in expand([str(word) for word in words], MOST, every_file=every_file)]


def test_a_folder_gives_its_pictures_sorted_and_no_hidden_ones(photos: Path) -> None:
    assert names("照片") == ["照片/a.png", "照片/b 猫.jpg", "照片/broken.jpg", "照片/旅行/长城"]


def test_a_folder_gives_every_file_to_who_wants_them(photos: Path) -> None:
    assert "照片/notes.txt" in names("照片", every_file=True)


def test_a_named_file_is_tried_whatever_its_name(photos: Path) -> None:
    assert names("照片/notes.txt", "照片/.hidden.jpg", "照片/gone") == [
        "照片/notes.txt",
        "照片/.hidden.jpg",
        "照片/gone",
    ]


def test_a_picture_of_another_name_is_found_by_its_content(home: Path) -> None:
    (home / "f").mkdir()
    (home / "f" / "scan.001").write_bytes(png())
    (home / "f" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (home / "f" / "table.csv").write_text("a,b", encoding="utf-8")
    assert names("f") == ["f/phone.heic", "f/scan.001"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_a_folder_is_passed_by(home: Path) -> None:
    (home / "f").mkdir()
    os.mkfifo(home / "f" / "pipe.jpg")
    (home / "f" / "a.jpg").write_bytes(jpeg())
    assert names("f") == ["f/a.jpg"]


def test_a_folder_that_holds_itself_is_walked_once(home: Path) -> None:
    (home / "f").mkdir()
    (home / "f" / "a.jpg").write_bytes(jpeg())
    try:
        (home / "f" / "again").symlink_to(home / "f", target_is_directory=True)
    except OSError:
        pytest.skip("this system lets not everyone make links")
    assert names("f") == ["f/a.jpg"]


def test_an_empty_folder_is_an_error_in_its_place(home: Path) -> None:
    (home / "empty").mkdir()
    (found,) = expand(["empty"], MOST)
    assert isinstance(found.what, FileMissing)


def test_secrets_of_addresses_and_bytes_of_data_urls_are_not_names() -> None:
    assert names("https://me:word@example.com/a/cat.jpg?key=1") == ["https:/example.com/a/cat.jpg"]
    (found,) = expand(["data:image/png;base64," + "A" * 4000], MOST)
    assert len(found.name) < 40
    (wrong,) = expand(["data:image/png;base64,!!!"], MOST)
    assert isinstance(wrong.what, SensoriumError)
