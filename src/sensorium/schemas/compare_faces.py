"""Whether two pictures show the same person."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator

from sensorium.media.source import Source
from sensorium.schemas.base import ImageInfo, Request, Result, Score
from sensorium.schemas.embed_faces import Rate
from sensorium.schemas.faces import Face


class ComparedFace(Face):
    """A face, and the picture that it is in."""

    image: ImageInfo
    faces_found: int = Field(default=1, ge=1, examples=[1])
    """How many faces were found in its picture: this is the largest of them."""


class FaceComparison(Result):
    """How alike the two faces are, and how often who goes by that is wrong. Never proof of who somebody is."""

    same: bool = Field(examples=[True])
    """Whether they are taken for one person's: `distance` is at most `threshold`."""
    distance: float = Field(ge=0, examples=[0.42])
    """Between the two faces' embeddings: 0 for the same picture, over 1 for very different faces."""
    score: Score = Field(examples=[0.91])
    """The same as a chance, for pairs of which half are of one person: 0.5 at the model's own threshold, and more the nearer; never
    surer than the measured pairs allow."""
    threshold: float = Field(gt=0, examples=[0.57])
    """The distance up to which faces are taken for one person's."""
    false_match_rate: Rate = Field(examples=[0.0])
    """Of measured pairs of different people, the part that is as near as this or nearer. 0 is "none seen", not "never"."""
    false_non_match_rate: Rate = Field(examples=[0.24])
    """Of measured pairs of one person, the part that is farther apart than this."""
    faces: tuple[ComparedFace, ComparedFace]
    """The face of each picture that was compared: its largest."""
    compared_by: str = Field(examples=["dlib_faces@1"])
    """The model whose embeddings were compared. Distances of two models do not mean the same."""


class CompareFacesRequest(Request):
    """Tell whether two pictures show the same person, by the largest face of each."""

    task: ClassVar[str] = "compare_faces"
    answer: ClassVar[type[Result]] = FaceComparison
    gathers: ClassVar[str | None] = "images"

    images: tuple[Source, ...] = Field(min_length=2, max_length=2)
    """Two pictures: over HTTP http(s) URLs or data URLs; in Python also paths, bytes or open files."""
    threshold: float | None = Field(default=None, gt=0, le=10)
    """The distance up to which faces are taken for one person's. Absent: the model's own, at which most pairs are told right."""

    @field_validator("images", mode="before")
    @classmethod
    def _two(cls, images: Any) -> Any:
        if isinstance(images, (list, tuple)) and len(images) != 2:
            raise ValueError(f"give two pictures; you gave {len(images)}")
        return images

    def patience(self) -> float:
        return 2.0
