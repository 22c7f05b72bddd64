"""Faces in this process: by Haar's cascade, which is always there, and by YuNet, where its file is."""

from __future__ import annotations

import asyncio
import csv
import json
import math
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sensorium.config import Settings
from sensorium.engine import Host
from sensorium.engines.local import yunet as yunet_engine
from sensorium.errors import InvalidModel, ModelNotInstalled
from sensorium.media.image import Image as Decoded
from sensorium.media.image import Pixels
from sensorium.media.source import Source
from sensorium.registry import Registry, read_card
from sensorium.runtimes.lending import Lending
from sensorium.schemas.faces import Faces, FacesRequest
from sensorium.service import Sensorium
from tests.pictures import encoded, jpeg, png, skimage_photograph

NOSE = (221, 122)
"""Where the astronaut's nose is in her photograph, by eye."""


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[Sensorium]:
    chosen = {"cache_dir": folder / "cache", "models_dir": folder / "models", "cache": "off", **settings}
    async with Sensorium(Settings(**chosen)) as service:
        yield service


async def faces_in(service: Sensorium, picture: bytes | Path, **fields: Any) -> Faces:
    found = await service.run(FacesRequest(image=Source.of(picture), **fields))
    assert isinstance(found, Faces)
    return found


def astronaut(width: int = 512, height: int = 512, at: tuple[int, int] = (0, 0), size: int = 512) -> bytes:
    """Her photograph at a size, somewhere on a grey sheet."""
    sheet = Image.new("RGB", (width, height), (128, 128, 128))
    with Image.open(skimage_photograph("astronaut.png")) as picture:
        sheet.paste(picture.convert("RGB").resize((size, size)), at)
    return encoded(sheet, "JPEG", quality=92)


@pytest.fixture
def yunet(tmp_path: Path, shared_data: Path) -> Path:
    """The models folder with YuNet's file in it."""
    (weights,) = (shared_data / "weights" / "yunet").glob("*.onnx")
    (tmp_path / "models").mkdir()
    shutil.copyfile(weights, tmp_path / "models" / "yunet.onnx")
    return tmp_path


def holds(found: Faces, point: tuple[float, float]) -> bool:
    return any(
        face.box.left < point[0] < face.box.right and face.box.top < point[1] < face.box.bottom for face in found.faces
    )


async def test_faces_are_found_by_haars_cascade_where_nothing_is_configured(tmp_path: Path) -> None:
    async with opened(tmp_path) as service:
        found = await faces_in(service, skimage_photograph("astronaut.png"))
        assert found.meta.engine == "haar_frontalface@1"
        assert not found.meta.skipped
        assert holds(found, NOSE)
        assert [face.score for face in found.faces] == [None] * len(found.faces)
        assert not (await faces_in(service, png(300, 300))).faces


async def test_yunets_file_in_the_models_folder_is_the_model_that_is_asked_first(yunet: Path) -> None:
    async with opened(yunet) as service:
        found = await faces_in(service, skimage_photograph("astronaut.png"))
        assert found.meta.engine == "yunet@1"
        assert not found.meta.skipped
        (face,) = found.faces
        assert face.score is not None
        assert face.score > 0.8
        eye, other, nose = (face.landmarks[name] for name in ("left_eye", "right_eye", "nose_tip"))
        assert eye[0] < nose[0] < other[0]
        assert abs(nose[0] - NOSE[0]) < 12
        assert abs(nose[1] - NOSE[1]) < 12
        assert (await faces_in(service, jpeg(), model="haar")).meta.engine == "haar_frontalface@1"


async def test_the_settings_go_before_what_is_at_hand(yunet: Path) -> None:
    async with opened(yunet, models={"faces": ["haar_frontalface"]}) as service:
        assert (await faces_in(service, jpeg())).meta.engine == "haar_frontalface@1"


async def test_a_running_service_takes_yunets_file_and_does_without_it_again(yunet: Path) -> None:
    file = yunet / "models" / "yunet.onnx"
    file.rename(yunet / "aside")
    async with opened(yunet) as service:
        assert (await faces_in(service, jpeg())).meta.engine == "haar_frontalface@1"
        shutil.copyfile(yunet / "aside", file)
        await service.models.reload("yunet")
        assert (await faces_in(service, jpeg())).meta.engine == "yunet@1"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["haar_frontalface", "yunet"])
async def test_boxes_are_in_pixels_of_a_large_picture_as_it_was_sent(yunet: Path, model: str) -> None:
    """A photograph of 4000 pixels is decoded and searched smaller; her face is 250 pixels high in it, and 1/16 as wide."""
    large = astronaut(4000, 3000, at=(2000, 1000), size=1024)
    async with opened(yunet) as service:
        found = await faces_in(service, large, model=model)
    assert found.image.scale < 1
    assert holds(found, (2000 + 2 * NOSE[0], 1000 + 2 * NOSE[1]))
    (largest,) = sorted(found.faces, key=lambda face: face.box.area)[-1:]
    assert 180 < largest.box.width < 420


async def test_yunet_finds_a_face_that_fills_a_large_picture_once(yunet: Path) -> None:
    """The network alone finds no face beyond some 300 pixels."""
    with Image.open(skimage_photograph("astronaut.png")) as picture:
        close = picture.convert("RGB").crop((130, 20, 310, 230)).resize((1800, 2100), Image.Resampling.BICUBIC)
    async with opened(yunet) as service:
        (face,) = (await faces_in(service, encoded(close, "JPEG"), model="yunet")).faces
    assert face.box.width > 700


async def test_a_picture_on_its_side_is_searched_as_it_is_seen(tmp_path: Path) -> None:
    with Image.open(skimage_photograph("astronaut.png")) as picture:
        turned = picture.convert("RGB").rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    async with opened(tmp_path) as service:
        assert holds(await faces_in(service, encoded(turned, "JPEG", exif=exif)), NOSE)


STRANGE = {
    "one pixel": encoded(Image.new("RGB", (1, 1)), "PNG"),
    "one row": encoded(Image.new("RGB", (9000, 1)), "PNG"),
    "one column": encoded(Image.new("L", (1, 9000)), "PNG"),
    "grey": encoded(Image.new("L", (200, 100), 90), "PNG"),
    "transparent": encoded(Image.new("RGBA", (31, 33)), "PNG"),
}


@pytest.mark.parametrize("picture", STRANGE.values(), ids=STRANGE)
async def test_a_strange_picture_has_no_faces_and_breaks_nothing(yunet: Path, picture: bytes) -> None:
    async with opened(yunet) as service:
        for model in ("haar_frontalface", "yunet"):
            assert (await faces_in(service, picture, model=model)).faces == ()


@pytest.mark.parametrize("size", [(1, 1_000_000), (1_000_000, 1), (5, 200_000), (4000, 3000)])
def test_no_shape_of_a_picture_makes_yunet_search_more_than_its_card_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: tuple[int, int]
) -> None:
    searched: list[int] = []

    def seen(detector: object, pixels: Pixels, image: Decoded) -> list[object]:
        filled = [math.ceil(side / 32) * 32 for side in pixels.shape[:2]]  # as OpenCV fills them
        searched.append(filled[0] * filled[1])
        return []

    monkeypatch.setattr(yunet_engine, "_seen", seen)
    (card,) = yunet_engine.CARDS
    engine = yunet_engine.Engine(card, Host(tmp_path))
    engine._input = yunet_engine.Input()
    engine._detectors = Lending(lambda: None)  # type: ignore[arg-type, return-value]
    engine._found(Decoded(np.zeros((*size, 3), np.uint8), width=size[1], height=size[0], format="png"))
    assert max(searched) <= 1.05 * engine._input.pixels


@pytest.mark.slow
async def test_many_at_once_get_the_answers_that_each_gets_alone(yunet: Path) -> None:
    pictures = [astronaut(700, 600, at=(10 * place, 5 * place), size=400) for place in range(8)]
    async with opened(yunet, threads=4) as service:
        for model in ("haar_frontalface", "yunet"):
            alone = [await faces_in(service, picture, model=model) for picture in pictures]
            together = await asyncio.gather(*(faces_in(service, picture, model=model) for picture in pictures * 3))
            assert [one.faces for one in together] == [one.faces for one in alone] * 3
            assert all(one.faces for one in alone)


BROKEN = {"nothing": b"", "junk": b"\x08\x07junk" * 50, "text": b"<opencv_storage></opencv_storage>"}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
async def test_a_broken_file_of_yunet_is_told_and_haar_answers_in_its_place(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "yunet.onnx").write_bytes(content)
    async with opened(tmp_path) as service:
        with pytest.raises(InvalidModel, match=r"yunet"):
            await faces_in(service, jpeg(), model="yunet")
        found = await faces_in(service, jpeg())
    assert found.meta.engine == "haar_frontalface@1"
    assert [(one.engine, one.code) for one in found.meta.skipped] == [("yunet@1", "invalid_model")]


@pytest.mark.slow
def test_a_damaged_file_of_yunet_is_refused_when_it_is_loaded(yunet: Path) -> None:
    whole = (yunet / "models" / "yunet.onnx").read_bytes()
    other = whole.replace(b"kps_16", b"kps_17")
    for content in (whole[: len(whole) // 2], whole[:-100], other):
        (yunet / "models" / "yunet.onnx").write_bytes(content)
        registry = Registry(yunet / "models")
        engine = registry.engine(registry.card("yunet", "faces"), Host(yunet / "cache"))
        with pytest.raises(InvalidModel, match=r"yunet"):
            engine.load()


async def test_without_its_file_yunet_says_what_brings_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as service:
        with pytest.raises(ModelNotInstalled, match="sensorium models add yunet"):
            await faces_in(service, jpeg(), model="yunet")


@pytest.mark.parametrize(
    "content", ["", "<opencv_storage>", "<opencv_storage><cascade/></opencv_storage>", "%YAML:1.0\n---\na: 1\n"]
)
async def test_a_file_that_is_no_cascade_is_refused_when_it_is_loaded(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.xml").write_text(content)
    card = 'name = "mine"\nkind = "haar"\ntasks = ["faces"]\nlicence = "MIT"\n[weights]\nfile = "mine.xml"\n'
    (tmp_path / "mine.toml").write_text(card)
    engine = Registry(tmp_path).engine(read_card(tmp_path / "mine.toml"), Host(tmp_path / "cache"))
    with pytest.raises(InvalidModel, match="mine@1"):
        engine.load()


@pytest.mark.parametrize("kind", ["haar", "yunet"])
def test_a_card_with_a_wrong_input_is_refused(tmp_path: Path, kind: str) -> None:
    card = f'name = "mine"\nkind = "{kind}"\ntasks = ["faces"]\nlicence = "MIT"\n[input]\npixels = 1\n[weights]\nfile = "x"\n'
    (tmp_path / "mine.toml").write_text(card)
    engine = Registry(tmp_path).engine(read_card(tmp_path / "mine.toml"), Host(tmp_path / "cache"))
    with pytest.raises(InvalidModel, match="`pixels`"):
        engine.load()


@pytest.mark.slow
@pytest.mark.parametrize(("model", "right"), [("yunet", 8), ("haar_frontalface", 7)])
async def test_faces_are_counted_in_real_photographs(yunet: Path, shared_data: Path, model: str, right: int) -> None:
    """Of eight photographs with no face to six; YuNet's are where the noses are."""
    with (shared_data / "faces" / "compreface_faces.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    async with opened(yunet) as service:
        found = [await faces_in(service, shared_data / "faces" / row["file"], model=model) for row in rows]
    counted = sum(len(one.faces) == int(row["face_count"]) for one, row in zip(found, rows, strict=True))
    assert counted >= right
    if model == "yunet":
        for one, row in zip(found, rows, strict=True):
            assert all(holds(one, (x, y)) for x, y in json.loads(row["nose_points_xy"]))


async def test_the_same_face_is_found_in_every_format(yunet: Path, shared_data: Path) -> None:
    async with opened(yunet) as service:
        for suffix in ("jpeg", "webp", "gif", "bmp"):
            picture = shared_data / "faces" / "compreface" / f"einstein.{suffix}"
            assert len((await faces_in(service, picture)).faces) == 1
