"""Whether faces are alive or pictures of pictures; what `faces` asks of a model."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sensorium.schemas.base import ImageRequest, ImageResult, Result, Score
from sensorium.schemas.embed_faces import MOST_FACES
from sensorium.schemas.geometry import Box


class Liveness(ImageResult):
    """How surely each face was in front of the camera, in the order of the boxes."""

    scores: tuple[Score, ...] = ()


class CheckLiveRequest(ImageRequest):
    """Tell faces in front of the camera from those on paper or on a screen."""

    task: ClassVar[str] = "check_live"
    answer: ClassVar[type[Result]] = Liveness

    boxes: tuple[Box, ...] = Field(default=(), max_length=MOST_FACES)
    """Where the faces are, from brow to chin."""
