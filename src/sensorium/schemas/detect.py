"""The things in a picture, and where they are."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field

from sensorium.media.draw import Mark
from sensorium.schemas.base import Frozen, ImageInfo, ImageRequest, ImageResult, Result, Score
from sensorium.schemas.geometry import Box


class DetectedObject(Frozen):
    """One thing in a picture."""

    name: str = Field(examples=["dog"])
    score: Score = Field(examples=[0.91])
    box: Box
    """Around what of it is seen; within the picture."""
    index: int | None = Field(default=None, ge=0, examples=[16])
    """The class's place in the model's list, from 0; absent where the model has no list."""
    id: str | None = Field(default=None, examples=["/m/0bt9lr"])
    """The class's id in the vocabulary that its name comes from, where there is one."""
    categories: tuple[str, ...] = Field(default=(), examples=[("animal",)])
    """What it belongs to, the widest first, where the model says."""


class Detections(ImageResult):
    """The things in a picture, the surest first. No objects: nothing was found."""

    objects: tuple[DetectedObject, ...] = ()

    def marks(self) -> tuple[Mark, ...]:
        return tuple(Mark(one.box.corners, f"{one.name} {one.score:.0%}") for one in self.objects)

    def moved_to(self, image: ImageInfo) -> Self:
        across, down = self.image.times_to(image)
        moved = tuple(one.altered(box=one.box.scaled(across, down)) for one in self.objects)
        return self.altered(image=image, objects=moved)


class DetectRequest(ImageRequest):
    """Find the things in a picture."""

    task: ClassVar[str] = "detect"
    answer: ClassVar[type[Result]] = Detections

    min_score: Score = 0.25
    """Things that the model is less sure of are left out."""
    limit: int | None = Field(default=None, ge=1, le=1000)
    """How many things to give, at most: the surest. Absent: all that the model finds."""
    names: tuple[str, ...] = Field(default=(), max_length=1000, examples=[("dog", "cat")])
    """Only things of these names; capitals do not matter. Empty: of any name that the model knows."""
