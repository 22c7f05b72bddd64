"""The text in a picture."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field

from sensorium.media.draw import Mark
from sensorium.schemas.base import Frozen, ImageInfo, ImageRequest, ImageResult, Result, Score
from sensorium.schemas.geometry import Polygon, scaled


class TextLine(Frozen):
    """One line of text and where it stands."""

    text: str = Field(min_length=1, examples=["中国 EXIT"])
    score: Score = Field(examples=[0.98])
    polygon: Polygon = Field(examples=[((10, 12), (210, 12), (210, 44), (10, 44))])
    """Its four corners, from where reading starts, clockwise."""


class Reading(ImageResult):
    """The lines of text in a picture, in reading order. No lines: no text was found."""

    lines: tuple[TextLine, ...] = ()

    @property
    def text(self) -> str:
        """All lines, one below the other."""
        return "\n".join(line.text for line in self.lines)

    def marks(self) -> tuple[Mark, ...]:
        return tuple(Mark(points=line.polygon, caption=line.text) for line in self.lines)

    def moved_to(self, image: ImageInfo) -> Self:
        across, down = self.image.times_to(image)
        moved = tuple(line.altered(polygon=scaled(line.polygon, across, down)) for line in self.lines)
        return self.altered(image=image, lines=moved)


class ReadRequest(ImageRequest):
    """Read the text in a picture: Chinese and English."""

    task: ClassVar[str] = "read"
    answer: ClassVar[type[Result]] = Reading

    min_score: Score = 0.5
    """Lines that the engine is less sure of are left out."""
