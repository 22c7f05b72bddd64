"""The people in a picture: where they are. Not who they are."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field

from sensorium.media.draw import Mark
from sensorium.schemas.base import Frozen, ImageInfo, ImageRequest, ImageResult, Result, Score
from sensorium.schemas.geometry import Box


class Person(Frozen):
    """One person."""

    box: Box
    """Around the person; within the picture."""
    score: Score = Field(examples=[0.81])
    """How sure the model is; what the number means, its card says."""


class People(ImageResult):
    """The people in a picture, the surest first. Nobody: none was found."""

    people: tuple[Person, ...] = ()

    def marks(self) -> tuple[Mark, ...]:
        return tuple(Mark(one.box.corners, f"{one.score:.0%}") for one in self.people)

    def moved_to(self, image: ImageInfo) -> Self:
        across, down = self.image.times_to(image)
        moved = tuple(one.altered(box=one.box.scaled(across, down)) for one in self.people)
        return self.altered(image=image, people=moved)


class PeopleRequest(ImageRequest):
    """Find the people in a picture."""

    task: ClassVar[str] = "people"
    answer: ClassVar[type[Result]] = People

    min_score: Score = 0.5
    """People that the model is less sure of are left out."""
    limit: int | None = Field(default=None, ge=1, le=1000)
    """How many people to give, at most: the surest. Absent: all that the model finds."""
