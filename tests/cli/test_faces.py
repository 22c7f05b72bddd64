"""`sensorium faces`, `people` and `blur-faces`."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Sensorium, lines
from tests.pictures import skimage_photograph


@pytest.fixture
def portrait(home: Path) -> Path:
    with Image.open(skimage_photograph("astronaut.png")) as picture:
        picture.convert("RGB").save(home / "宇航员.jpg")
    return Path("宇航员.jpg")


def test_faces_are_told_drawn_and_given_as_json(sensorium: Sensorium, home: Path, portrait: Path) -> None:
    told = sensorium("faces", portrait, "--draw", "marked.png")
    assert told.exit_code == 0, told.output
    assert "haar_frontalface@1" in told.stdout
    assert "face" in told.stdout
    with Image.open(home / "marked.png") as drawn, Image.open(portrait) as before:
        assert drawn.convert("RGB").tobytes() != before.tobytes()
    (answer,) = lines(sensorium("faces", portrait, "--json"))
    assert answer["result"]["faces"][0]["box"]["left"] > 0


def test_people_are_a_command_too(sensorium: Sensorium, portrait: Path) -> None:
    told = sensorium("people", portrait)
    assert told.exit_code == 0, told.output
    assert "hog_people@1" in told.stdout


def test_a_picture_with_covered_faces_is_written_where_it_is_told(
    sensorium: Sensorium, home: Path, portrait: Path
) -> None:
    told = sensorium("blur-faces", portrait, "-o", "out.png", "--method", "black")
    assert told.exit_code == 0, told.output
    assert "covered, as found by haar_frontalface@1" in told.stdout
    assert "written to out.png" in told.stdout
    with Image.open(home / "out.png") as made:
        assert made.format == "PNG"
        assert made.convert("RGB").getpixel((221, 122)) == (0, 0, 0)


def test_that_no_face_was_found_is_said(sensorium: Sensorium, photos: Path) -> None:
    told = sensorium("blur-faces", photos / "a.png", "-o", "out.png")
    assert told.exit_code == 0, told.output
    assert "no faces found by haar_frontalface@1" in told.stdout


def test_many_pictures_go_into_a_folder_each_in_the_format_of_its_name(
    sensorium: Sensorium, photos: Path, home: Path
) -> None:
    told = sensorium("blur-faces", photos, "-o", "out", "--model", "fake")
    assert told.exit_code == 2, "one is broken"
    made = {path.relative_to(home / "out").as_posix(): path for path in (home / "out").rglob("*") if path.is_file()}
    assert set(made) == {"a.png", "b 猫.jpg", "旅行/长城.jpg"}
    for name, path in made.items():
        with Image.open(path) as picture:
            assert picture.format == ("PNG" if name.endswith("png") else "JPEG")


def test_without_a_place_for_the_picture_it_is_asked_for(sensorium: Sensorium, portrait: Path) -> None:
    told = sensorium("blur-faces", portrait)
    assert told.exit_code == 2
    assert "-o out.jpg" in told.stderr
    told = sensorium("blur-faces", portrait, "-o", "out.jpg", "--format", "png")
    assert told.exit_code == 2
    assert "its name says jpeg, and `--format` png" in told.stderr
    (answer,) = lines(sensorium("blur-faces", portrait, "--json"))
    with Image.open(io.BytesIO(base64.b64decode(answer["result"]["data"], validate=True))) as made:
        assert made.size == (512, 512)


def test_in_a_folder_pictures_are_named_by_what_they_are_written_as(sensorium: Sensorium, home: Path) -> None:
    (home / "in").mkdir()
    for name in ("anim.gif", "scan.v2.tiff", "old.jpe", "old.jpg", "a.webp"):
        Image.new("RGB", (40, 30), "red").save(home / "in" / name, "JPEG" if name == "old.jpe" else None)
    assert sensorium("blur-faces", "in", "-o", "out").exit_code == 0
    made = {path.name for path in (home / "out").iterdir()}
    assert made == {"anim.png", "scan.v2.png", "old.jpg", "old-2.jpg", "a.webp"}
    assert sensorium("blur-faces", "in", "-o", "as-png", "--format", "png").exit_code == 0
    made = {path.name for path in (home / "as-png").iterdir()}
    assert made == {"anim.png", "scan.v2.png", "old.png", "old-2.png", "a.png"}
    for path in (home / "as-png").iterdir():
        with Image.open(path) as picture:
            assert picture.format == "PNG"


@pytest.mark.parametrize("typed", ["new/", "new.jpg/"])
def test_what_ends_in_a_slash_is_a_folder(sensorium: Sensorium, home: Path, portrait: Path, typed: str) -> None:
    told = sensorium("blur-faces", portrait, "-o", typed)
    assert told.exit_code == 0, told.output
    assert (home / typed / portrait.name).is_file()


def test_a_picture_that_lies_in_a_file_is_not_told_once_more(sensorium: Sensorium, portrait: Path) -> None:
    (answer,) = lines(sensorium("blur-faces", portrait, "-o", "out.jpg", "--json"))
    assert answer["result"]["faces"] >= 1
    assert "data" not in answer["result"]


def test_a_picture_never_goes_over_an_input(sensorium: Sensorium, portrait: Path) -> None:
    before = portrait.read_bytes()
    told = sensorium("blur-faces", portrait, "-o", portrait)
    assert told.exit_code == 2
    assert "Will not write over" in told.stderr
    assert portrait.read_bytes() == before


def test_blurring_has_no_drawing_that_would_show_the_picture_as_it_was(sensorium: Sensorium, portrait: Path) -> None:
    assert sensorium("blur-faces", portrait, "--draw", "x.png").exit_code == 2
    assert "--draw" not in sensorium("blur-faces", "--help").stdout


def test_yunets_file_is_added_by_its_name(sensorium: Sensorium, portrait: Path, shared_data: Path) -> None:
    (weights,) = (shared_data / "weights" / "yunet").glob("*.onnx")
    told = sensorium("models", "add", "yunet", weights)
    assert told.exit_code == 0, told.output
    assert "sensorium faces photo.jpg --model yunet" in told.stdout
    assert "yunet@1" in sensorium("faces", portrait).stdout


def test_of_two_pictures_json_tells_both_names(sensorium: Sensorium, photos: Path) -> None:
    first, second = str(photos / "a.png"), str(photos / ("b" * 120 + ".png"))
    Path(second).write_bytes(Path(first).read_bytes())
    (answer,) = lines(sensorium("compare-faces", first, second, "--json"))
    assert answer["inputs"] == [first, second]
    assert "error" in answer, "no face in either, or no extra `faces`"
    assert "input" not in answer
    assert "{inputs, result}" in " ".join(sensorium("compare-faces", "--help").stdout.split())
    (alone,) = lines(sensorium("compare-faces", first, "--json"))
    assert "give two pictures; you gave 1" in alone["error"]["message"]


def test_a_batch_calls_the_format_of_its_pictures_by_their_task(sensorium: Sensorium) -> None:
    told = sensorium("batch", "--task", "blur_faces", "--help").stdout
    assert "--blur-faces-format" in told
    assert "--the-" not in told


def test_who_cannot_find_faces_is_told_who_can(sensorium: Sensorium, portrait: Path) -> None:
    told = sensorium("faces", portrait, "--model", "hog_people")
    assert "Model 'hog_people' does not answer faces. Those that do: " in told.stderr
    assert "haar_frontalface" in told.stderr
    assert "fake" not in told.stderr


def test_the_help_of_adding_models_knows_the_one_that_finds_faces(sensorium: Sensorium) -> None:
    assert "models add yunet" in sensorium("models", "add", "--help").stdout
