"""Places in a picture, in pixels of the upright picture as sent: x to the right, y down."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Point = tuple[float, float]
"""x and y, in pixels. May lie slightly outside the picture."""

Polygon = Annotated[tuple[Point, ...], Field(min_length=3)]
"""Corners in order around the shape; for a line of text the first is where reading starts, then clockwise."""
