"""What is in a picture, by name."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sensorium.schemas.base import Frozen, ImageRequest, ImageResult, Result, Score


class Label(Frozen):
    """One name that may fit the picture."""

    name: str = Field(examples=["golden retriever"])
    score: Score = Field(examples=[0.93])
    index: int | None = Field(default=None, ge=0, examples=[207])
    """The class's place in the model's list, from 0; absent where the model has no list, as remote ones."""
    id: str | None = Field(default=None, examples=["n02099601"])
    """The class's id in the vocabulary that its name comes from, where there is one: WordNet's for ImageNet, such as
    `n02099601`; of Google's Knowledge Graph, such as `/m/0bt9lr`."""
    categories: tuple[str, ...] = ()
    """What it belongs to, the widest first, where the model says."""


class Classification(ImageResult):
    """The likeliest names for a picture, best first. No labels: the model recognised nothing, which only remote ones say."""

    labels: tuple[Label, ...] = ()

    @property
    def best(self) -> Label:
        """The likeliest name. Raises LookupError where nothing was recognised."""
        if not self.labels:
            raise LookupError("nothing was recognised: `labels` is empty")
        return self.labels[0]


class ClassifyRequest(ImageRequest):
    """Name what a picture shows."""

    task: ClassVar[str] = "classify"
    answer: ClassVar[type[Result]] = Classification

    top_k: int = Field(default=5, ge=1, le=1000)
    """How many names to give, at most."""
    exact: bool = False
    """Prepare the picture exactly as the model's makers did, a little slower, rather than in the fast way."""
