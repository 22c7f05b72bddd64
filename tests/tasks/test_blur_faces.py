"""Covering faces: all that are found and their margin, nothing else of the picture, and never in silence."""

from __future__ import annotations

import io
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from sensorium.config import Settings
from sensorium.errors import EngineFailed, InvalidRequest, OutputFailed, SensoriumError, Unavailable
from sensorium.media.source import Source
from sensorium.schemas.blur_faces import BlurFacesRequest, BlurredFaces
from sensorium.schemas.faces import FacesRequest
from sensorium.service import Sensorium
from tests.fakes import put_fake
from tests.pictures import encoded, jpeg, png, skimage_photograph

EYES = (slice(98, 112), slice(198, 252))
"""Rows and columns of the astronaut's eyes."""


@pytest.fixture
async def sensorium(tmp_path: Path) -> AsyncIterator[Sensorium]:
    put_fake(tmp_path / "models", "broken", 'fail = "engine_failed"')
    async with Sensorium(Settings(cache_dir=tmp_path / "cache", models_dir=tmp_path / "models")) as service:
        yield service


def astronaut(kind: str = "PNG", **options: object) -> bytes:
    with Image.open(skimage_photograph("astronaut.png")) as picture:
        return encoded(picture.convert("RGB"), kind, **options)


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


async def blurred(service: Sensorium, picture: bytes, **fields: object) -> BlurredFaces:
    answer = await service.run(BlurFacesRequest(image=Source.of(picture), **fields))
    assert isinstance(answer, BlurredFaces)
    return answer


@pytest.mark.parametrize("method", ["gaussian", "pixelate", "black"])
async def test_faces_and_their_margin_are_covered_and_the_rest_stays_as_it_was(
    sensorium: Sensorium, method: str
) -> None:
    before = pixels(astronaut())
    answer = await blurred(sensorium, astronaut(), method=method)
    after = pixels(answer.data)
    assert (answer.media_type, answer.width, answer.height) == ("image/png", 512, 512)
    assert answer.faces == len(answer.boxes) >= 1
    assert answer.detector == "haar_frontalface@1"
    covered = np.zeros(after.shape[:2], bool)
    for box in answer.boxes:
        covered[int(box.top) : int(box.bottom) + 1, int(box.left) : int(box.right) + 1] = True
    assert (after[~covered] == before[~covered]).all()
    assert np.abs(after[EYES].astype(int) - before[EYES]).mean() > 20
    found = await sensorium.run(FacesRequest(image=Source.of(astronaut())))
    face = max(found.faces, key=lambda one: one.box.area).box
    around = max(answer.boxes, key=lambda one: one.area)
    assert around.left == pytest.approx(face.left - 0.2 * face.width)
    assert around.bottom == pytest.approx(face.bottom + 0.2 * face.height)


async def test_where_no_face_is_found_the_answer_says_so(sensorium: Sensorium) -> None:
    answer = await blurred(sensorium, png(200, 100))
    assert (answer.faces, answer.boxes) == (0, ())
    assert (pixels(answer.data) == pixels(png(200, 100))).all()


async def test_where_nobody_could_look_for_faces_there_is_no_picture(sensorium: Sensorium) -> None:
    with pytest.raises(EngineFailed):
        await blurred(sensorium, astronaut(), model="broken")


async def test_where_a_weaker_model_would_stand_in_there_is_no_picture_until_it_is_named(
    sensorium: Sensorium, tmp_path: Path
) -> None:
    (tmp_path / "models" / "yunet.onnx").write_bytes(b"junk")
    async with Sensorium(Settings(cache_dir=tmp_path / "cache", models_dir=tmp_path / "models")) as service:
        with pytest.raises(Unavailable, match=r"yunet@1 could not look for faces: .*yunet.*`model`.*haar_frontalface"):
            await blurred(service, astronaut())
        assert (await blurred(service, astronaut(), model="haar_frontalface")).faces


async def test_boxes_are_in_pixels_of_the_picture_that_is_given_also_where_it_is_smaller(tmp_path: Path) -> None:
    sent = astronaut("JPEG", quality=95)
    async with Sensorium(Settings(cache_dir=tmp_path / "cache", max_pixels=512 * 512 - 1)) as service:
        answer = await blurred(service, sent, method="black", model="haar_frontalface")
    assert (answer.image.width, answer.width, answer.height) == (512, 256, 256)
    around = max(answer.boxes, key=lambda one: one.area)
    assert around.right < 200
    after = pixels(answer.data)
    middle = int((around.top + around.bottom) / 2), int((around.left + around.right) / 2)
    assert after[middle].max() < 20
    assert after[middle[0], int(around.right) + 8].max() > 20 or after[middle[0], int(around.left) - 8].max() > 20


async def test_the_picture_is_upright_and_holds_no_word_of_where_it_was_taken(sensorium: Sensorium) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "SECRETCAMERA"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.0), 29: "SECRETDAY"})
    with Image.open(skimage_photograph("astronaut.png")) as picture:
        turned = picture.convert("RGB").rotate(90, expand=True).crop((0, 0, 400, 512))
    sent = encoded(turned, "JPEG", exif=exif, comment=b"SECRETWORD", quality=95)
    assert b"SECRET" in sent
    answer = await blurred(sensorium, sent)
    assert answer.media_type == "image/jpeg"
    assert (answer.width, answer.height) == (512, 400)
    assert answer.faces
    with Image.open(io.BytesIO(answer.data)) as made:
        assert made.size == (512, 400)
        assert not made.getexif()
        assert "comment" not in made.info
        assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(made.info["icc_profile"])))
    assert b"SECRET" not in answer.data
    assert b"Exif" not in answer.data


async def test_colours_are_as_they_were_seen_also_in_another_colour_space(sensorium: Sensorium) -> None:
    """Pixels of a wide space are written as sRGB, with a profile that says so."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    picture = Image.new("LAB", (40, 30), (150, 160, 90))
    sent = encoded(picture, "TIFF", icc_profile=lab.tobytes())
    answer = await blurred(sensorium, sent)
    shown = (await Source.of(sent).image()).pixels
    assert answer.media_type == "image/png"
    assert (pixels(answer.data) == shown).all()


@pytest.mark.parametrize(("kind", "media_type"), [("JPEG", "jpeg"), ("WEBP", "webp"), ("GIF", "png"), ("BMP", "png")])
async def test_it_is_written_as_it_came_or_as_png(sensorium: Sensorium, kind: str, media_type: str) -> None:
    picture = encoded(Image.new("RGB", (40, 30), "red"), kind)
    answer = await blurred(sensorium, picture)
    assert answer.media_type == f"image/{media_type}"
    assert (await blurred(sensorium, picture, format="webp")).media_type == "image/webp"
    with Image.open(io.BytesIO(answer.data)) as made:
        assert made.format == media_type.upper()


async def test_a_format_that_holds_no_picture_as_long_is_refused(sensorium: Sensorium) -> None:
    long = encoded(Image.new("RGB", (20_000, 2)), "PNG")
    with pytest.raises(InvalidRequest, match="webp"):
        await blurred(sensorium, long, format="webp")
    assert (await blurred(sensorium, long)).media_type == "image/png"


async def test_equal_pictures_give_equal_bytes_and_the_answer_survives_json(sensorium: Sensorium) -> None:
    one, other = await blurred(sensorium, astronaut("JPEG")), await blurred(sensorium, astronaut("JPEG"))
    assert one.data == other.data
    again = BlurredFaces.model_validate_json(one.model_dump_json())
    assert again == one
    assert "-" not in one.model_dump(mode="json")["data"]
    assert "_" not in one.model_dump(mode="json")["data"]


async def test_the_picture_is_saved_and_shown_in_notebooks_as_it_is(sensorium: Sensorium, tmp_path: Path) -> None:
    answer = await blurred(sensorium, astronaut())
    answer.attach(Source.of(astronaut()))
    answer.save(tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == answer.data
    assert answer.model_dump(mode="json")["data"] in (answer._repr_html_() or "").replace("&#x2F;", "/")
    with pytest.raises(OutputFailed):
        answer.save(tmp_path / "none" / "out.png")


@pytest.mark.parametrize(
    ("name", "kind"), [("x.png", "PNG"), ("x.JPG", "JPEG"), ("x.jpeg", "JPEG"), ("x.webp", "WEBP")]
)
async def test_it_is_saved_as_the_files_name_says(sensorium: Sensorium, tmp_path: Path, name: str, kind: str) -> None:
    answer = await blurred(sensorium, astronaut("JPEG"))
    answer.save(tmp_path / name)
    with Image.open(tmp_path / name) as saved:
        assert (saved.format, saved.size, bool(saved.info["icc_profile"])) == (kind, (512, 512), True)
    if kind == "JPEG":
        assert (tmp_path / name).read_bytes() == answer.data, "not encoded twice"


@pytest.mark.parametrize("name", ["x.gif", "x", "x.txt"])
async def test_a_name_that_it_cannot_be_written_by_is_refused(sensorium: Sensorium, tmp_path: Path, name: str) -> None:
    answer = await blurred(sensorium, astronaut())
    with pytest.raises(InvalidRequest, match=r"\.jpg, \.jpeg, \.png, \.webp"):
        answer.save(tmp_path / name)
    assert not (tmp_path / name).exists()


async def test_printed_it_says_how_large_it_is_and_not_all_its_bytes(sensorium: Sensorium) -> None:
    answer = await blurred(sensorium, astronaut())
    assert len(repr(answer)) < 3000
    assert f"data=<{len(answer.data):,} bytes>" in repr(answer)
    assert "detector='haar_frontalface@1'" in str(answer)


async def test_odd_pictures_are_answered_or_refused_as_any_other(sensorium: Sensorium) -> None:
    for picture in (encoded(Image.new("RGBA", (1, 1)), "PNG"), encoded(Image.new("L", (3, 900)), "PNG"), jpeg()):
        assert (await blurred(sensorium, picture, margin=2)).faces == 0
    with pytest.raises(SensoriumError):
        await blurred(sensorium, b"\xff\xd8\xff")


async def test_small_faces_in_a_real_group_are_covered(sensorium: Sensorium, tmp_path: Path, shared_data: Path) -> None:
    (weights,) = (shared_data / "weights" / "yunet").glob("*.onnx")
    shutil.copyfile(weights, tmp_path / "models" / "yunet.onnx")
    group = (shared_data / "faces" / "compreface" / "015_6.jpg").read_bytes()
    async with Sensorium(Settings(cache_dir=tmp_path / "cache", models_dir=tmp_path / "models")) as service:
        for method in ("gaussian", "pixelate", "black"):
            answer = await blurred(service, group, method=method)
            assert answer.faces == 6
            after, before = pixels(answer.data).astype(int), pixels(group)
            for x, y in ((161, 229), (267, 266), (350, 281), (450, 271), (555, 264), (635, 250)):  # their noses
                assert (
                    np.abs(after[y - 12 : y + 6, x - 10 : x + 10] - before[y - 12 : y + 6, x - 10 : x + 10]).mean() > 8
                )
