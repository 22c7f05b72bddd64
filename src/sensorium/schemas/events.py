"""What an engine says on the way to its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Delta:
    """Words that continue what was said before."""

    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """A finished part of the answer."""

    index: int
    value: Any


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the work has come; not part of the answer."""

    done: float
    total: float
    message: str = ""


Event = Delta | Item | Progress
