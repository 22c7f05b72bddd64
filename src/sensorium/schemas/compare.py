"""Several pictures beside each other."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator

from sensorium.media.source import Source
from sensorium.schemas.ask import LONGEST_ANSWER, MOST_PICTURES, Detail
from sensorium.schemas.base import Request, Result


class Comparison(Result):
    """What pictures have in common, what sets them apart, and what follows; each a list of sentences."""

    similarities: tuple[str, ...] = Field(default=(), examples=[("Both show a golden retriever.",)])
    differences: tuple[str, ...] = Field(default=(), examples=[("The second is taken indoors.",)])
    recommendation: tuple[str, ...] = Field(default=(), examples=[("Take the first: it is sharper.",)])
    answered_by: str = Field(default="", examples=["gpt-4o-2024-08-06"])
    """What the provider calls the model that answered."""


class CompareRequest(Request):
    """Compare pictures: what they have in common, what sets them apart, and which to take."""

    task: ClassVar[str] = "compare"
    answer: ClassVar[type[Result]] = Comparison
    gathers: ClassVar[str | None] = "images"

    images: tuple[Source, ...] = Field(min_length=2, max_length=MOST_PICTURES)
    """The pictures: over HTTP http(s) URLs or data URLs; in Python also paths, bytes or open files."""
    question: str = Field(default="", max_length=1_000_000, examples=["Which one fits a passport?"])
    """What to compare them for."""
    detail: Detail = "auto"
    """How closely the model looks at them."""
    max_tokens: int = Field(default=2048, ge=1, le=LONGEST_ANSWER)
    """The longest answer, in the model's tokens."""

    @field_validator("images", mode="before")
    @classmethod
    def _several(cls, images: Any) -> Any:
        if isinstance(images, (list, tuple)) and len(images) < 2:
            raise ValueError("two pictures or more are compared")
        return images

    def patience(self) -> float:
        return 2.0
