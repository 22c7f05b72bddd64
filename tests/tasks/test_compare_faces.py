"""Comparing faces: which are compared, what the numbers mean, and what is said where none can be."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sensorium.config import Settings
from sensorium.engine import Call
from sensorium.errors import CorruptMedia, InvalidModel, MissingDependency, NoFace, SensoriumError, Unavailable
from sensorium.media.source import Source
from sensorium.schemas.base import ImageInfo, Meta, Request
from sensorium.schemas.compare_faces import CompareFacesRequest, FaceComparison
from sensorium.schemas.embed_faces import EmbeddedFace, EmbedFacesRequest, FaceEmbeddings, RatePoint, Verification
from sensorium.schemas.faces import Face, Faces, FacesRequest
from sensorium.schemas.geometry import Box
from sensorium.service import Sensorium
from sensorium.tasks.compare_faces import rates_at, run, score_of
from tests.fakes import put_fake
from tests.pictures import jpeg, png

MEANING = Verification(
    threshold=0.6,
    slope=10,
    pairs=600,
    people=10,
    rates=(RatePoint(0.4, 0.0, 0.5), RatePoint(0.6, 0.01, 0.1), RatePoint(0.8, 0.5, 0.0)),
)
IMAGE = ImageInfo(width=100, height=100, format="png")
RED, BLUE = Source.of(png(colour=(220, 20, 30))), Source.of(png(colour=(0, 70, 200)))


def face(side: float, score: float | None = None) -> Face:
    return Face(box=Box(left=0, top=0, right=side, bottom=side), score=score)


class Models:
    """Finds faces and describes them as a test says, picture by picture."""

    def __init__(self, faces: dict[Source, tuple[Face, ...]], embeddings: dict[Source, tuple[float, ...]]) -> None:
        self._faces, self._embeddings = faces, embeddings
        self.meaning: Verification | None = MEANING
        self.engines = {RED: "one@1", BLUE: "one@1"}
        self.described: list[float] = []

    async def __call__(self, request: Request, call: Call) -> Any:
        if isinstance(request, FacesRequest):
            return Faces(image=IMAGE, faces=self._faces[request.image], meta=Meta(engine="finder@1"))
        assert isinstance(request, EmbedFacesRequest)
        self.described += [box.width for box in request.boxes]
        faces = tuple(EmbeddedFace(embedding=self._embeddings[request.image]) for _ in request.boxes)
        meta = Meta(engine=self.engines[request.image])
        return FaceEmbeddings(image=IMAGE, faces=faces, verification=self.meaning, meta=meta)


def models(distance: float) -> Models:
    found = (face(20, 0.99), face(50, 0.6))
    return Models({RED: found, BLUE: (face(30),)}, {RED: (0.0, 0.0), BLUE: (0.0, distance)})


async def compared(models: Models, **asked: Any) -> FaceComparison:
    return await run(CompareFacesRequest(images=(RED, BLUE), **asked), Call(runner=models))


@pytest.mark.parametrize(
    ("distance", "rates"),
    [
        (0, (0.0, 1.0)),
        (0.1, (0.0, 0.875)),
        (0.4, (0.0, 0.5)),
        (0.5, (0.005, 0.3)),
        (0.7, (0.255, 0.05)),
        (0.8, (0.5, 0.0)),
        (3, (0.5, 0.0)),
    ],
)
def test_rates_lie_on_straight_lines_between_measured_points(distance: float, rates: tuple[float, float]) -> None:
    assert rates_at(MEANING, distance) == pytest.approx(rates)


def test_the_score_is_a_half_at_the_threshold_and_falls_as_the_distance_grows() -> None:
    assert score_of(MEANING, 0.6) == 0.5
    scores = [score_of(MEANING, distance / 10) for distance in range(20)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)


def test_the_score_claims_no_more_than_so_many_pairs_can_tell() -> None:
    assert score_of(MEANING, 1e6) == pytest.approx(1 / 302)
    assert 0.99 < score_of(MEANING, 0) < 1 - 1 / 302


async def test_near_faces_are_the_same_and_far_ones_are_not() -> None:
    near = await compared(models(0.5))
    assert (near.same, near.distance, near.threshold, near.compared_by) == (True, 0.5, 0.6, "one@1")
    assert near.score == pytest.approx(1 / (1 + math.exp(-1)), abs=0.005)
    assert (near.false_match_rate, near.false_non_match_rate) == pytest.approx((0.005, 0.3))
    assert not (await compared(models(0.61))).same


async def test_a_caller_may_be_stricter() -> None:
    strict = await compared(models(0.5), threshold=0.45)
    assert (strict.same, strict.threshold) == (False, 0.45)
    assert strict.score > 0.5, "the score does not depend on what the caller takes for the same"


async def test_the_largest_face_of_each_picture_is_compared_and_no_other_is_described() -> None:
    asked = models(0.5)
    told = await compared(asked)
    assert sorted(asked.described) == [30, 50]
    assert [one.box.width for one in told.faces] == [50, 30]
    assert [one.faces_found for one in told.faces] == [2, 1]
    assert [one.image for one in told.faces] == [IMAGE, IMAGE], "so that each can be drawn on its picture"


@pytest.mark.parametrize(("empty", "number"), [(RED, 1), (BLUE, 2)])
async def test_a_picture_without_a_face_is_named(empty: Source, number: int) -> None:
    found = {RED: (face(20),), BLUE: (face(20),), empty: ()}
    with pytest.raises(NoFace, match=f"picture {number}") as failed:
        await compared(Models(found, {RED: (0.0,), BLUE: (0.0,)}))
    assert failed.value.as_dict()["picture"] == number
    assert failed.value.as_dict()["code"] == "no_face"
    assert "Send one with a larger and sharper face" in str(failed.value)


async def test_numbers_of_two_models_are_not_compared() -> None:
    asked = models(0.1)
    asked.engines[BLUE] = "another@1"
    with pytest.raises(Unavailable, match="another@1 the other"):
        await compared(asked)


async def test_a_model_that_does_not_say_what_distances_mean_compares_nothing() -> None:
    asked = models(0.1)
    asked.meaning = None
    with pytest.raises(InvalidModel, match="what distances mean"):
        await compared(asked)


def test_two_pictures_are_compared_neither_one_nor_three() -> None:
    for images in ((RED,), (RED, BLUE, RED)):
        with pytest.raises(ValueError, match=f"give two pictures; you gave {len(images)}"):
            CompareFacesRequest(images=images)


@pytest.mark.parametrize("rates", [[(0.4, 0.1, 0.5), (0.3, 0.2, 0.4)], [(0.3, 0.2, 0.5), (0.4, 0.1, 0.4)]])
def test_a_table_out_of_order_is_refused(rates: list[tuple[float, float, float]]) -> None:
    with pytest.raises(ValueError, match="go by distance"):
        Verification.model_validate({"threshold": 0.6, "slope": 1, "pairs": 2, "people": 2, "rates": rates})


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Sensorium]:
    put_fake(tmp_path / "models", "broken", 'fail = "provider_failed"')
    chosen = {"faces": ["fake"], "embed_faces": ["fake"]}
    async with Sensorium(Settings(cache_dir=tmp_path, models_dir=tmp_path / "models", models=chosen)) as sensorium:
        yield sensorium


async def test_the_whole_house_compares(service: Sensorium) -> None:
    told = await service.run(CompareFacesRequest(images=(RED, BLUE)))
    assert isinstance(told, FaceComparison)
    assert (told.same, told.distance, told.compared_by) == (True, 0, "fake@1")


async def test_the_model_that_is_named_finds_the_faces(service: Sensorium) -> None:
    with pytest.raises(SensoriumError, match="broken"):
        await service.run(CompareFacesRequest(images=(RED, BLUE), model="broken"))


async def test_a_bad_picture_is_refused(service: Sensorium) -> None:
    with pytest.raises(CorruptMedia):
        await service.run(CompareFacesRequest(images=(RED, Source.of(jpeg()[:300]))))


async def test_without_the_extra_it_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensorium.registry.is_installed", lambda module: module != "dlib")
    put_fake(tmp_path / "models", "broken", 'fail = "provider_failed"')
    settings = Settings(cache_dir=tmp_path, models_dir=tmp_path / "models", models={"faces": ["broken"]})
    async with Sensorium(settings) as sensorium:
        for request in (CompareFacesRequest(images=(RED, BLUE)), FacesRequest(image=RED, embeddings=True)):
            with pytest.raises(MissingDependency, match=r"sensorium\[faces\]"):
                sensorium.check(request)
            with pytest.raises(MissingDependency, match=r"sensorium\[faces\]"):
                await sensorium.run(request)
