"""Faces found and described by dlib, beside dlib's own way."""

from __future__ import annotations

import base64
import io
import math
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from sensorium.config import Settings
from sensorium.engine import Card
from sensorium.engines.local.dlib_faces import CARDS
from sensorium.errors import InvalidModel, NoFace, SensoriumError
from sensorium.media.source import Source
from sensorium.registry import Registry
from sensorium.runtimes import weights
from sensorium.schemas.compare_faces import CompareFacesRequest, FaceComparison
from sensorium.schemas.embed_faces import EmbedFacesRequest
from sensorium.schemas.faces import Face, Faces, FacesRequest
from sensorium.schemas.geometry import Box
from sensorium.service import Sensorium
from tests.cli.conftest import Sensorium as Command
from tests.cli.conftest import lines
from tests.pictures import encoded, jpeg, png
from tests.server.conftest import running

in_one_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sensorium]:
    folder = tmp_path_factory.mktemp("house")
    async with Sensorium(Settings(cache_dir=folder, models_dir=folder / "models", threads=2)) as one:
        yield one


@pytest.fixture(scope="session")
def blair(people: Path) -> tuple[Path, Path]:
    return people / "Tony_Blair" / "Tony_Blair_0001.jpg", people / "Tony_Blair" / "Tony_Blair_0002.jpg"


@pytest.fixture(scope="session")
def chavez(people: Path) -> Path:
    return people / "Hugo_Chavez" / "Hugo_Chavez_0001.jpg"


async def found(service: Sensorium, path: Path, **asked: object) -> Face:
    request = FacesRequest.model_validate({"image": Source.of(path), **asked})
    return largest(await service.run(request))


def largest(seen: Any) -> Face:
    assert isinstance(seen, Faces)
    return max(seen.faces, key=lambda face: face.box.area)


@in_one_loop
async def test_dlib_finds_a_face_with_landmarks_in_it(service: Sensorium, blair: tuple[Path, Path]) -> None:
    face = await found(service, blair[0], model="dlib")
    assert face.score is None
    left, right, nose = (face.landmarks[name] for name in ("left_eye", "right_eye", "nose_base"))
    assert face.box.left < left[0] < nose[0] < right[0] < face.box.right
    assert face.box.top < left[1] < nose[1] < face.box.bottom


@in_one_loop
async def test_boxes_and_points_are_told_in_pixels_of_the_picture_as_sent(
    service: Sensorium, blair: tuple[Path, Path], tmp_path: Path
) -> None:
    with Image.open(blair[0]) as picture:
        larger = picture.resize((picture.width * 6, picture.height * 6), Image.Resampling.BICUBIC)
    (tmp_path / "large.png").write_bytes(encoded(larger, "PNG"))
    small, large = (
        await found(service, blair[0], model="dlib"),
        await found(service, tmp_path / "large.png", model="dlib"),
    )
    assert large.box.left / 6 == pytest.approx(small.box.left, abs=8)
    assert large.landmarks["left_eye"][0] / 6 == pytest.approx(small.landmarks["left_eye"][0], abs=4)


@in_one_loop
async def test_the_numbers_are_dlibs_own_of_the_face_and_its_mirror_image(
    service: Sensorium, blair: tuple[Path, Path]
) -> None:
    import dlib

    card = CARDS[0]
    network = dlib.face_recognition_model_v1(str(weights.locate(card)))
    points = dlib.shape_predictor(str(weights.locate(card, card.input["landmarks"]["file"])))
    with Image.open(blair[0]) as opened:
        picture = np.array(opened.convert("RGB"))
    chip = dlib.get_face_chip(picture, points(picture, dlib.rectangle(70, 70, 180, 180)), 150, 0.25)
    both = [np.array(network.compute_face_descriptor(one)) for one in (chip, np.ascontiguousarray(chip[:, ::-1]))]
    box = Box(left=70, top=70, right=180, bottom=180)
    request = EmbedFacesRequest(image=Source.of(encoded(Image.fromarray(picture), "PNG")), boxes=(box,))
    (face,) = (await service.run(request)).faces
    assert len(face.embedding) == 128
    assert math.dist(face.embedding, tuple(np.mean(both, axis=0))) < 1e-4


@in_one_loop
async def test_faces_that_another_model_found_are_described_and_cut_out(
    service: Sensorium, blair: tuple[Path, Path]
) -> None:
    request = FacesRequest(image=Source.of(blair[0]), model="haar_frontalface", embeddings=True, crops=True)
    told = await service.run(request)
    assert (told.meta.engine, told.embedded_by) == ("haar_frontalface@1", "dlib_faces@1")
    assert all(face.embedding and len(face.embedding) == 128 and face.crop for face in told.faces)
    head, _, text = (told.faces[0].crop or "").partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(text))) as crop:
        assert (crop.format, crop.size) == ("JPEG", (150, 150))


@in_one_loop
async def test_what_is_not_asked_for_is_not_told(service: Sensorium, blair: tuple[Path, Path]) -> None:
    assert (await found(service, blair[0])).embedding is None
    cut = await found(service, blair[0], crops=True)
    assert (cut.embedding, cut.crop is not None) == (None, True)
    described = await found(service, blair[0], embeddings=True)
    assert (described.embedding is not None, described.crop) == (True, None)


@in_one_loop
async def test_the_same_picture_has_the_same_numbers_each_time(service: Sensorium, blair: tuple[Path, Path]) -> None:
    first, again = [await found(service, blair[0], embeddings=True) for _ in range(2)]
    assert first.embedding == again.embedding


@in_one_loop
async def test_one_person_is_told_from_another(service: Sensorium, blair: tuple[Path, Path], chavez: Path) -> None:
    same = await service.run(CompareFacesRequest(images=tuple(map(Source.of, blair))))
    other = await service.run(CompareFacesRequest(images=(Source.of(blair[0]), Source.of(chavez))))
    assert isinstance(same, FaceComparison)
    assert (same.same, other.same) == (True, False)
    assert same.distance < same.threshold < other.distance
    assert same.score > 0.5 > other.score
    assert same.false_match_rate <= other.false_match_rate
    assert same.false_non_match_rate >= other.false_non_match_rate
    assert same.compared_by == "dlib_faces@1"


@in_one_loop
async def test_a_picture_without_a_face_is_named(service: Sensorium, blair: tuple[Path, Path]) -> None:
    with pytest.raises(NoFace, match="picture 2"):
        await service.run(CompareFacesRequest(images=(Source.of(blair[0]), Source.of(png(200, 200)))))


@in_one_loop
async def test_boxes_at_the_edge_are_described_and_ones_outside_are_refused(service: Sensorium) -> None:
    picture = Source.of(jpeg(200, 150))
    edge = Box(left=-20, top=-20, right=60, bottom=60)
    (face,) = (await service.run(EmbedFacesRequest(image=picture, boxes=(edge,)))).faces
    assert all(map(math.isfinite, face.embedding))
    with pytest.raises(SensoriumError, match="outside"):
        await service.run(EmbedFacesRequest(image=picture, boxes=(Box(left=300, top=0, right=310, bottom=10),)))


@in_one_loop
async def test_many_at_once_are_answered_as_alone(service: Sensorium, people: Path) -> None:
    paths = sorted((people / "Tony_Blair").glob("*.jpg"))
    alone = [await found(service, path, embeddings=True) for path in paths]
    requests = [FacesRequest(image=Source.of(path), embeddings=True) for path in paths]
    together = [largest(one) for one in await service.run_all(requests)]
    assert [one.embedding for one in together] == [one.embedding for one in alone]


def whole() -> bytes:
    return weights.locate(CARDS[0]).read_bytes()


def longer_layer() -> bytes:
    return whole().replace(b"con_4\x01\x02\x02\x80\x12", b"con_4\x01\x02\x02\x81\x12", 1)


@in_one_loop
@pytest.mark.parametrize(
    "made",
    [lambda: b"", lambda: b"no network", lambda: whole()[:100_000], lambda: whole()[:380], longer_layer],
    ids=["empty", "other", "cut between layers", "cut within one", "of another shape"],
)
async def test_a_file_that_is_no_such_network_is_refused(tmp_path: Path, made: Callable[[], bytes]) -> None:
    card = CARDS[0]
    folder = tmp_path / "models" / "wrong"
    folder.mkdir(parents=True)
    (folder / "net.dat").write_bytes(made())
    os.utime(folder / "net.dat", (1e9, 1e9))  # long settled
    shutil.copyfile(weights.locate(card, card.input["landmarks"]["file"]), folder / "own.dat")
    (folder / "card.toml").write_text(
        'name = "wrong"\nkind = "dlib_faces"\ntasks = ["faces", "embed_faces"]\nlicence = "CC0-1.0"\n'
        '[weights]\nfile = "net.dat"\nbuilder = "dlib_resnet"\n[input.landmarks]\nfile = "own.dat"\n'
    )
    chosen = {"embed_faces": ["wrong"]}
    async with Sensorium(Settings(cache_dir=tmp_path, models_dir=tmp_path / "models", models=chosen)) as service:
        with pytest.raises(InvalidModel, match="not dlib's face recognition network"):
            await service.run(EmbedFacesRequest(image=Source.of(png())))


def test_the_model_of_68_points_is_never_touched() -> None:
    card: Card = Registry().card("dlib_faces", "faces")
    named = {Path(name).name for name in (card.weights.file if card.weights else "", *weights.part_files(card))}
    assert named == {"dlib_face_recognition_resnet_model_v1.dat", "shape_predictor_5_face_landmarks.dat"}


def test_the_command_line_compares(sensorium: Command, blair: tuple[Path, Path], chavez: Path) -> None:
    told = sensorium("compare-faces", *blair)
    assert told.exit_code == 0, told.output
    assert "the same person" in told.stdout
    (line,) = lines(sensorium("compare-faces", blair[0], chavez, "--json"))
    assert line["result"]["same"] is False
    none = sensorium("compare-faces", blair[0], "--json")
    assert none.exit_code == 2


def test_the_server_compares(tmp_path: Path, blair: tuple[Path, Path]) -> None:
    import requests

    with running(tmp_path, threads=1) as server:
        images = ["data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode() for path in blair]
        told = requests.post(f"{server.url}/v1/compare_faces", json={"images": images}, timeout=30)
        assert told.status_code == 200, told.text
        assert told.json()["same"] is True
        blank = "data:image/png;base64," + base64.b64encode(png(200, 200)).decode()
        refused = requests.post(f"{server.url}/v1/compare_faces", json={"images": [images[0], blank]}, timeout=30)
        assert refused.status_code == 422
        assert "no_face" in refused.text
