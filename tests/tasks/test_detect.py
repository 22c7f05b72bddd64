"""What is made of any detector's answer."""

from __future__ import annotations

from typing import Any

from sensorium.media.source import Source
from sensorium.schemas.base import ImageInfo
from sensorium.schemas.detect import DetectedObject, Detections, DetectRequest
from sensorium.schemas.geometry import Box
from sensorium.tasks.detect import tidy
from tests.pictures import jpeg

IMAGE = ImageInfo(width=100, height=80, format="jpeg")


def thing(name: str, score: float, left: float = 10) -> DetectedObject:
    return DetectedObject(name=name, score=score, box=Box(left=left, top=10, right=left + 20, bottom=90))


def left_of(*things: DetectedObject, **asked: Any) -> list[str]:
    request = DetectRequest(image=Source.of(jpeg()), **asked)
    return [one.name for one in tidy(request, Detections(image=IMAGE, objects=things)).objects]


def test_the_surest_come_first_and_the_unsure_not_at_all() -> None:
    assert left_of(thing("cat", 0.5), thing("dog", 0.9), thing("cow", 0.2)) == ["dog", "cat"]
    assert left_of(thing("cat", 0.5), thing("cow", 0.2), min_score=0.1) == ["cat", "cow"]


def test_no_more_than_are_wanted() -> None:
    assert left_of(thing("cat", 0.5), thing("dog", 0.9), limit=1) == ["dog"]


def test_only_those_of_the_names_that_are_wanted() -> None:
    assert left_of(thing("Cat", 0.5), thing("dog", 0.9), names=("cat",), limit=1) == ["Cat"]


def test_boxes_lie_within_the_picture() -> None:
    found = tidy(
        DetectRequest(image=Source.of(jpeg())),
        Detections(image=IMAGE, objects=(thing("cut", 0.9, left=90), thing("outside", 0.8, left=100))),
    )
    (one,) = found.objects
    assert one.box.model_dump() == {"left": 90, "top": 10, "right": 100, "bottom": 80}
