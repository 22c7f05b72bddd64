"""What faces look like, as numbers that can be compared; what `faces` and `compare_faces` ask of a model."""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field, model_validator

from sensorium.schemas.base import Frozen, ImageRequest, ImageResult, Result
from sensorium.schemas.geometry import Box

MOST_FACES = 1000
"""In one request."""

Embedding = Annotated[tuple[float, ...], Field(min_length=1, max_length=4096)]
Rate = Annotated[float, Field(ge=0, le=1)]


class RatePoint(NamedTuple):
    """What became of pairs of pictures, had those up to this distance been taken for one person's."""

    distance: float
    false_match: Rate
    """The part of pairs of different people that are this near."""
    false_non_match: Rate
    """The part of pairs of one person that are not."""


class Verification(Frozen):
    """What distances between a model's embeddings mean, as measured."""

    threshold: float = Field(gt=0)
    """Up to this distance two faces are taken for one person's."""
    slope: float = Field(gt=0)
    """Of the logistic function that makes a score of a distance; at the threshold it is a half."""
    pairs: int = Field(ge=1, examples=[600])
    """How many pairs were measured, as many of one person as of two."""
    people: int = Field(ge=2, examples=[10])
    """Of how many people."""
    rates: tuple[RatePoint, ...] = Field(min_length=2, examples=[((0.4, 0.0, 0.5), (0.8, 0.5, 0.0))])
    """By growing distance. Between two points a straight line holds, before them one from distance 0, where nothing is
    taken for the same, and beyond them the last point."""

    @model_validator(mode="after")
    def _rises(self) -> Verification:
        for before, after in zip(self.rates, self.rates[1:], strict=False):
            if not (
                before.distance < after.distance
                and before.false_match <= after.false_match
                and before.false_non_match >= after.false_non_match
            ):
                raise ValueError("`rates` must go by distance: false matches grow with it, false non-matches shrink")
        return self


class EmbeddedFace(Frozen):
    """One face."""

    embedding: Embedding
    """Near to that of another picture of the same person, by Euclidean distance."""
    crop: str | None = None
    """The face, turned upright and cut out, as a data URL of a JPEG; absent unless asked for."""


class FaceEmbeddings(ImageResult):
    """The faces, in the order of the boxes."""

    faces: tuple[EmbeddedFace, ...] = ()
    verification: Verification | None = None
    """Absent where the model's card does not say."""


class EmbedFacesRequest(ImageRequest):
    """Describe faces by numbers."""

    task: ClassVar[str] = "embed_faces"
    answer: ClassVar[type[Result]] = FaceEmbeddings

    boxes: tuple[Box, ...] = Field(default=(), max_length=MOST_FACES)
    """Where the faces are, from brow to chin."""
    crops: bool = False
    """Also give each face cut out."""
