"""Several questions about one picture at once."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from sensorium.media.draw import Mark
from sensorium.schemas.base import Frozen, ImageRequest, ImageResult, Result
from sensorium.schemas.classify import Classification
from sensorium.schemas.describe_pixels import PixelDescription
from sensorium.schemas.faces import Faces
from sensorium.schemas.read import Reading

Part = Literal["classify", "read", "faces", "describe_pixels"]


class Failure(Frozen):
    """Why one part has no answer."""

    code: str = Field(examples=["engine_failed"])
    message: str
    retryable: bool = False


class Analysis(ImageResult):
    """What each engine said of one picture; each part's `meta` says which engine, and how long it took."""

    classify: Classification | None = None
    read: Reading | None = None
    faces: Faces | None = None
    describe_pixels: PixelDescription | None = None
    failures: dict[Part, Failure] = {}
    """The parts that were asked for and have no answer, and why."""

    def marks(self) -> tuple[Mark, ...]:
        return tuple(mark for part in (self.read, self.faces) if part for mark in part.marks())


class AnalyzeRequest(ImageRequest):
    """Say all that can be said of a picture: labels, text, faces, colours and quality."""

    task: ClassVar[str] = "analyze"
    answer: ClassVar[type[Result]] = Analysis

    parts: tuple[Part, ...] = Field(
        default=("classify", "read", "faces", "describe_pixels"), min_length=1, max_length=8
    )
    """Which tasks to run, at once."""
    top_k: int = Field(default=5, ge=1, le=1000)
    """How many names `classify` gives, at most."""
