"""What a question would take and cost, before it is asked."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sensorium.media.source import Source
from sensorium.pricing import Confidence
from sensorium.schemas.ask import LONGEST_ANSWER, MOST_PICTURES, Detail
from sensorium.schemas.base import Frozen, Request, Result


class PictureTokens(Frozen):
    """What one picture takes."""

    tokens: int = Field(ge=0, examples=[1105])
    width: int = Field(ge=1, examples=[1920])
    """Pixels across, of the picture as sent, upright."""
    height: int = Field(ge=1, examples=[1080])
    used_width: int = Field(ge=1, examples=[1365])
    """Pixels across that the model really uses, after its own resizing."""
    used_height: int = Field(ge=1, examples=[768])
    refused: str = ""
    """Why the provider would not take the picture as it is; the tokens are then of the largest that it takes."""


class TokenCount(Result):
    """What a question would take and cost."""

    model: str = Field(examples=["gpt-4o"])
    pictures: tuple[PictureTokens, ...] = ()
    """In the order in which they were sent."""
    image_tokens: int = Field(ge=0, examples=[1105])
    """Of all pictures together."""
    text_tokens: int = Field(ge=0, examples=[12])
    """Of all words, and of what stands around each message: an estimate, rather too high than too low."""
    input_tokens: int = Field(ge=0, examples=[1117])
    most_output_tokens: int = Field(ge=1, examples=[1024])
    """The longest answer, which is `max_tokens`."""
    rule: str = Field(examples=["openai/gpt-4o@2023-11-06"])
    """How the pictures were counted: the provider's rule, and the day from which it holds; `unknown`: no rule is known."""
    confidence: Confidence = Field(examples=["exact"])
    """Of the rule: whether it agrees with published examples, is documented by the provider, or is a guess."""
    input_cost: float | None = Field(default=None, ge=0, examples=[0.0028])
    """In US dollars; absent where no price is known."""
    most_cost: float | None = Field(default=None, ge=0, examples=[0.013])
    """With the longest answer, in US dollars."""


class TokensRequest(Request):
    """Say what a question to a model would take and cost, without asking it."""

    task: ClassVar[str] = "tokens"
    answer: ClassVar[type[Result]] = TokenCount
    positional: ClassVar[tuple[str, ...]] = ("prompt",)

    model: str | None = Field(default=None, max_length=200, examples=["gpt-4o"])
    """The model that would be asked, by its name here or by its provider's, with or without `provider/` before it. Absent:
    the first that the setting `models.ask` names."""
    image: Source | None = None
    """The picture: over HTTP an http(s) URL or a data URL; in Python also a path, bytes or an open file. Absent: words alone."""
    images: tuple[Source, ...] = Field(default=(), max_length=MOST_PICTURES)
    """Further pictures of the same question, after the first."""
    prompt: str = Field(default="", max_length=1_000_000, examples=["How much is this?"])
    """The question."""
    system: str | None = Field(default=None, max_length=1_000_000)
    """How the model should behave."""
    detail: Detail = "auto"
    """How closely the model looks at the pictures."""
    max_tokens: int = Field(default=1024, ge=1, le=LONGEST_ANSWER)
    """The longest answer, in the model's tokens."""
