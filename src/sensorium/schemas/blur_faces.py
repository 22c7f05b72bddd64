"""Faces made unrecognisable."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from sensorium.media.conceal import Method
from sensorium.schemas.base import ImageRequest, Result, Score
from sensorium.schemas.geometry import Box
from sensorium.schemas.picture import Picture


class BlurredFaces(Picture):
    """A picture whose faces are covered, as far as they were found."""

    faces: int = Field(ge=0, examples=[2])
    """How many faces were found and covered. 0: none was found, and the picture still shows whatever it showed."""
    boxes: tuple[Box, ...] = ()
    """What is covered, margin included, in pixels of the picture that is given (`width` x `height`); a face that was overlooked is not."""
    detector: str = Field(default="", examples=["yunet@1"])
    """The model that looked for faces."""


class BlurFacesRequest(ImageRequest):
    """Cover the faces in a picture."""

    task: ClassVar[str] = "blur_faces"
    answer: ClassVar[type[Result]] = BlurredFaces

    method: Method = "gaussian"
    """How: `gaussian` smooths, `pixelate` leaves a few squares, `black` leaves nothing."""
    margin: float = Field(default=0.2, ge=0, le=2)
    """How much around each face is covered too, on every side, as a part of its width and height."""
    min_score: Score = 0.3
    """Faces that the model is less sure of are left as they are."""
    format: Literal["same", "jpeg", "png", "webp"] = "same"
    """What the picture is written as; `same`: what it came as, where that is one of these, else `png`."""
