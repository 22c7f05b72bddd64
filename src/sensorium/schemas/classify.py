"""What is in a picture, as one of a fixed list of names."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sensorium.schemas.base import Frozen, ImageRequest, ImageResult, Result, Score


class Label(Frozen):
    """One name that may fit the picture."""

    name: str = Field(examples=["golden retriever"])
    score: Score = Field(examples=[0.93])
    index: int = Field(ge=0, examples=[207])
    """The class's place in the model's list, from 0."""
    id: str | None = Field(default=None, examples=["n02099601"])
    """The class's WordNet id, where its list has them."""


class Classification(ImageResult):
    """The likeliest names for a picture, best first."""

    labels: tuple[Label, ...] = Field(min_length=1)

    @property
    def best(self) -> Label:
        """The likeliest name."""
        return self.labels[0]


class ClassifyRequest(ImageRequest):
    """Name what a picture shows."""

    task: ClassVar[str] = "classify"
    answer: ClassVar[type[Result]] = Classification

    top_k: int = Field(default=5, ge=1, le=1000)
    """How many names to give, at most."""
    exact: bool = False
    """Prepare the picture exactly as the model's makers did, a little slower, rather than in the fast way."""
