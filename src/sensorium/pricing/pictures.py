"""What every way of counting the tokens of a picture takes and gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

Detail = Literal["auto", "low", "high", "original"]
Confidence = Literal["exact", "documented", "guess"]
"""Whether published examples agree to the token; whether the provider documents the rule; or neither."""


@dataclass(frozen=True, slots=True)
class PictureTokens:
    """What one picture takes of a model."""

    tokens: int
    """Of a picture whose size is not known: the most that any picture can take."""
    rule_id: str
    confidence: Confidence
    width: int | None
    """Pixels across that the model really uses, after its own resizing; never more than were given."""
    height: int | None
    refused: str = ""
    """Why the model does not take the picture as it is; empty: it does. Tokens and size are then of the largest that it
    takes."""


class Counted(NamedTuple):
    """What a way of counting makes of one size."""

    tokens: int
    width: int
    """Pixels across that are used."""
    height: int
    refused: str = ""


class Counting(Protocol):
    """A family of rules, with the numbers of one model."""

    def count(self, width: int, height: int, detail: Detail) -> Counted:
        """Of an upright picture of that many pixels."""

    def most(self, detail: Detail) -> int:
        """The most tokens that any picture takes."""


def fit(width: int, height: int, longest: int) -> tuple[int, int]:
    """The size, made no longer than that on either side; never larger."""
    if max(width, height) <= longest:
        return width, height
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrunk(width: int, height: int, scale: float) -> tuple[int, int]:
    """The size times a scale of at most 1, to the nearest pixel and never to nothing."""
    scale = min(1.0, scale)
    return max(1, round(width * scale)), max(1, round(height * scale))


def cells(width: float, height: float, side: int) -> int:
    """How many squares of that side cover the size."""
    return math.ceil(width / side) * math.ceil(height / side)
