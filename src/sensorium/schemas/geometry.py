"""Places in a picture, in pixels of the upright picture as sent: x to the right, y down."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sensorium.schemas.base import Frozen

Point = tuple[float, float]
"""x and y, in pixels. May lie slightly outside the picture."""

Polygon = Annotated[tuple[Point, ...], Field(min_length=3)]
"""Corners in order around the shape; for a line of text the first is where reading starts, then clockwise."""


class Box(Frozen):
    """An upright rectangle, by its four edges, in pixels."""

    left: float = Field(examples=[40.0])
    top: float = Field(examples=[30.0])
    right: float = Field(examples=[200.0])
    bottom: float = Field(examples=[180.0])

    @model_validator(mode="after")
    def _has_its_edges_in_order(self) -> Box:
        # Written so that what is no number fails too.
        if not (self.left <= self.right and self.top <= self.bottom):
            edges = (self.left, self.top, self.right, self.bottom)
            raise ValueError(f"a box needs left <= right and top <= bottom; got {edges}")
        return self

    @classmethod
    def around(cls, points: tuple[Point, ...]) -> Box:
        """The smallest box that holds all the points, of which there is one at least."""
        xs, ys = zip(*points, strict=True)
        return cls(left=min(xs), top=min(ys), right=max(xs), bottom=max(ys))

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def area(self) -> float:
        return self.width * self.height

    @property
    def corners(self) -> Polygon:
        """From top left, clockwise."""
        return (self.left, self.top), (self.right, self.top), (self.right, self.bottom), (self.left, self.bottom)

    def scaled(self, across: float, down: float) -> Box:
        """The same place in a picture that is so many times as wide and as high."""
        return Box(left=self.left * across, top=self.top * down, right=self.right * across, bottom=self.bottom * down)

    def within(self, width: float, height: float) -> Box | None:
        """What of it lies in a picture of this size; None when nothing does."""
        left, right = max(self.left, 0.0), min(self.right, float(width))
        top, bottom = max(self.top, 0.0), min(self.bottom, float(height))
        return Box(left=left, top=top, right=right, bottom=bottom) if left < right and top < bottom else None


def scaled(points: tuple[Point, ...], across: float, down: float) -> tuple[Point, ...]:
    """The same places in a picture that is so many times as wide and as high."""
    return tuple((x * across, y * down) for x, y in points)
