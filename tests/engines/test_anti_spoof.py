"""Telling live faces from replayed ones: what the networks are shown, and what they say of known pictures."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sensorium.config import Settings
from sensorium.engines.local.anti_spoof import CARDS, SCALES, around
from sensorium.errors import InvalidModel, ModelNotInstalled
from sensorium.media.source import Source
from sensorium.schemas.check_live import CheckLiveRequest
from sensorium.schemas.faces import FacesRequest
from sensorium.schemas.geometry import Box
from sensorium.service import Sensorium
from tests.fakes import put_fake
from tests.pictures import png

FILES = ("MiniFASNetV2_2.7_80x80.onnx", "MiniFASNetV1SE_4.0_80x80.onnx")


@pytest.fixture(scope="session")
def networks(shared_data: Path) -> Path:
    return shared_data / "weights" / "anti_spoof"


@pytest.fixture
async def sensorium(tmp_path: Path, networks: Path) -> AsyncIterator[Sensorium]:
    models = tmp_path / "models"
    put_fake(models, "finder")
    for name in FILES:
        shutil.copyfile(networks / name, models / name)
    chosen = {"faces": ["haar_frontalface"]}
    async with Sensorium(Settings(cache_dir=tmp_path, models_dir=models, models=chosen)) as service:
        yield service


def box(left: float, top: float, right: float, bottom: float) -> Box:
    return Box(left=left, top=top, right=right, bottom=bottom)


def test_each_network_sees_as_much_as_its_file_is_named_for() -> None:
    named = {"closer": FILES[0], "wider": CARDS[0].input["wider"]["file"]}
    assert {part: f"_{scale}_" in named[part] for part, scale in SCALES.items()} == {"closer": True, "wider": True}


def test_a_network_sees_so_many_times_the_face_around_its_middle() -> None:
    assert around(box(400, 400, 500, 600), 2.0, 1000, 1000) == (350, 300, 550, 700)


def test_what_would_lie_outside_is_moved_into_the_picture() -> None:
    assert around(box(0, 0, 100, 100), 2.0, 1000, 1000) == (0, 0, 200, 200)
    assert around(box(900, 900, 1000, 1000), 2.0, 1000, 1000) == (799, 799, 999, 999)


def test_a_face_that_fills_the_picture_is_seen_with_what_there_is() -> None:
    left, top, right, bottom = around(box(0, 0, 90, 90), 4.0, 100, 100)
    assert (left, top, right, bottom) == (0, 0, 99, 99)


@pytest.mark.parametrize(("name", "live"), [("image_T1.jpg", True), ("image_F1.jpg", False)])
async def test_a_replayed_face_is_told_from_a_live_one(
    sensorium: Sensorium, shared_data: Path, name: str, live: bool
) -> None:
    picture = Source.of(shared_data / "faces" / "anti_spoof" / name)
    found = await sensorium.run(FacesRequest(image=picture, live=True))
    face = max(found.faces, key=lambda face: face.box.area)
    assert face.live is not None
    assert (face.live > 0.9) if live else (face.live < 0.3)
    assert found.meta.engine == "haar_frontalface@1"


async def test_a_picture_without_faces_has_no_scores(sensorium: Sensorium) -> None:
    assert (await sensorium.run(CheckLiveRequest(image=Source.of(png())))).scores == ()
    assert (await sensorium.run(FacesRequest(image=Source.of(png()), live=True))).faces == ()


@pytest.mark.parametrize("there", [(), FILES[:1]])
async def test_missing_files_are_named_with_their_folder_before_anything_is_asked(
    tmp_path: Path, networks: Path, there: tuple[str, ...]
) -> None:
    models = tmp_path / "models"
    put_fake(models, "broken", 'fail = "provider_failed"')
    for name in there:
        shutil.copyfile(networks / name, models / name)
    settings = Settings(cache_dir=tmp_path, models_dir=models, models={"faces": ["broken"]})
    async with Sensorium(settings) as service:
        with pytest.raises(ModelNotInstalled) as refused:
            await service.run(FacesRequest(image=Source.of(png()), live=True))
    assert FILES[len(there)] in str(refused.value)
    assert str(models) in str(refused.value)


async def test_another_network_in_its_place_is_refused(tmp_path: Path, networks: Path, shared_data: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    shutil.copyfile(networks / FILES[0], models / FILES[0])
    shutil.copyfile(shared_data / "weights" / "fsrcnn" / "FSRCNN_x2.onnx", models / FILES[1])
    request = CheckLiveRequest(image=Source.of(png()), boxes=(box(1, 1, 40, 40),))
    async with Sensorium(Settings(cache_dir=tmp_path, models_dir=models)) as service:
        with pytest.raises(InvalidModel, match="anti_spoof"):
            await service.run(request)


def test_its_card_says_what_it_does_not_know() -> None:
    assert "not masks" in CARDS[0].origin
