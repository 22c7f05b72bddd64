"""What is made of any face detector's answer."""

from __future__ import annotations

from typing import Any

from sensorium.media.source import Source
from sensorium.schemas.base import ImageInfo
from sensorium.schemas.faces import Face, FaceAttributes, Faces, FacesRequest
from sensorium.schemas.geometry import Box
from sensorium.tasks.faces import tidy
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
