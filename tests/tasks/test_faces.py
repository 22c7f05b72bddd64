"""What is made of any face detector's answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sensorium.config import Settings
from sensorium.engine import Call
from sensorium.errors import UnknownTask
from sensorium.media.source import Source
from sensorium.registry import Registry
from sensorium.schemas.base import ImageInfo, Meta, Request, Skipped
from sensorium.schemas.check_live import CheckLiveRequest, Liveness
from sensorium.schemas.embed_faces import EmbeddedFace, EmbedFacesRequest, FaceEmbeddings
from sensorium.schemas.faces import Face, FaceAttributes, Faces, FacesRequest
from sensorium.schemas.geometry import Box
from sensorium.service import Sensorium
from sensorium.tasks.faces import around, tidy
from tests.pictures import jpeg

IMAGE = ImageInfo(width=100, height=80, format="jpeg")


def face(score: float | None, left: float = 10, side: float = 20) -> Face:
    box = Box(left=left, top=0, right=left + side, bottom=side)
    return Face(box=box, score=score, attributes=FaceAttributes(age=30))


def tidied(*faces: Face, **asked: Any) -> tuple[Face, ...]:
    return tidy(FacesRequest(image=Source.of(jpeg()), **asked), Faces(image=IMAGE, faces=faces)).faces


def test_the_surest_come_first_and_the_unsure_not_at_all() -> None:
    assert [one.score for one in tidied(face(0.6), face(0.9), face(0.4))] == [0.9, 0.6]


def test_faces_of_a_model_that_does_not_say_how_sure_it_is_stay_the_largest_first() -> None:
    assert [one.box.width for one in tidied(face(None, side=10), face(None, side=30), limit=1)] == [30]


def test_a_face_outside_of_the_picture_is_gone_and_one_at_the_edge_is_cut() -> None:
    assert [one.box.right for one in tidied(face(0.9, left=90), face(0.8, left=200))] == [100]


def test_attributes_are_given_to_those_who_ask() -> None:
    assert tidied(face(0.9))[0].attributes is None
    assert tidied(face(0.9), attributes=True)[0].attributes == FaceAttributes(age=30)


def test_that_the_model_tells_no_attributes_is_said_to_who_asked() -> None:
    some, none = face(0.9), face(0.8).altered(attributes=None)
    for faces, asked, untold in (
        ((none,), True, ("attributes",)),
        ((some, none), True, ()),
        ((), True, ()),
        ((none,), False, ()),
    ):
        request = FacesRequest(image=Source.of(jpeg()), attributes=asked)
        assert tidy(request, Faces(image=IMAGE, faces=faces)).untold == untold


SKIPPED = Skipped(engine="first@1", code="engine_failed", message="It broke")


async def described(request: Request, call: Call) -> Any:
    if isinstance(request, CheckLiveRequest):
        return Liveness(image=IMAGE, scores=tuple(box.width / 100 for box in request.boxes), meta=Meta(engine="live@1"))
    assert isinstance(request, EmbedFacesRequest)
    faces = tuple(
        EmbeddedFace(embedding=(box.width,), crop="data:," if request.crops else None) for box in request.boxes
    )
    return FaceEmbeddings(
        image=IMAGE, faces=faces, meta=Meta(engine="embedder@1", skipped=(SKIPPED,), loading_seconds=1)
    )


async def asked(**fields: Any) -> tuple[Faces, list[FacesRequest]]:
    """What is answered, and what the model that finds faces was asked."""
    seen: list[FacesRequest] = []

    async def ask(request: FacesRequest) -> Faces:
        seen.append(request)
        return Faces(
            image=IMAGE, faces=(face(0.9, side=30), face(0.8, side=10)), meta=Meta(engine="finder@1", cached=True)
        )

    request = FacesRequest(image=Source.of(jpeg()), **fields)
    return await around(request, Call(runner=described), ask), seen


async def test_each_face_gets_its_own_numbers_and_scores() -> None:
    told, _ = await asked(embeddings=True, live=True)
    assert [(one.embedding, one.live, one.crop) for one in told.faces] == [((30,), 0.3, None), ((10,), 0.1, None)]
    assert told.embedded_by == "embedder@1"


async def test_cut_outs_come_without_numbers_unless_these_are_asked_for_too() -> None:
    told, _ = await asked(crops=True)
    assert [(one.embedding, one.crop) for one in told.faces] == [(None, "data:,")] * 2
    assert told.embedded_by == ""


async def test_who_finds_faces_is_asked_for_nothing_else() -> None:
    _, (plain,) = await asked(min_score=0.3, attributes=True)
    _, (bare,) = await asked(min_score=0.3, attributes=True, embeddings=True, crops=True, live=True)
    assert bare == plain


async def test_the_answer_tells_what_its_parts_passed_over_and_is_new_if_a_part_is() -> None:
    told, _ = await asked(embeddings=True)
    assert (told.meta.engine, told.meta.skipped, told.meta.cached) == ("finder@1", (SKIPPED,), False)
    assert told.meta.loading_seconds == 1
    assert (await asked())[0].meta.cached


def test_parts_are_no_tasks_that_doors_offer() -> None:
    registry = Registry()
    for part in ("embed_faces", "check_live"):
        assert registry.asked(part).name == part
        assert part not in [task.name for task in registry.tasks]
        with pytest.raises(UnknownTask):
            registry.task(part)


async def test_settings_name_the_models_of_parts(tmp_path: Path) -> None:
    chosen = {"faces": ["fake"], "embed_faces": ["fake"], "check_live": ["fake"]}
    async with Sensorium(Settings(cache_dir=tmp_path, models_dir=tmp_path / "none", models=chosen)) as service:
        told = await service.run(FacesRequest(image=Source.of(jpeg()), embeddings=True, live=True))
    assert told.embedded_by == "fake@1"
    assert told.faces[0].embedding is not None
