"""How Gemini counts: up to 2.5 by tiles cut out of the picture, from 3 on by the resolution that is asked for.

Source: the guides "Tokens" and "Media resolution" of the Gemini API.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sensorium.pricing.pictures import Counted, Detail, cells, shrunk

SMALL, TILE = 384, 768
"""Pixels: a picture with no longer side is one tile; and a tile's side when the model sees it."""


@dataclass(frozen=True)
class Crops:
    """`tile` tokens for each square of two thirds of the shorter side; of a small picture, and with low detail, one number."""

    tile: int = 258
    low: int = 64

    MOST_TILES = 16
    """What pictures up to ten times as long as wide take. For longer ones the documented formula goes on growing."""

    def count(self, width: int, height: int, detail: Detail) -> Counted:
        if detail == "low":
            return Counted(self.low, width, height)
        if max(width, height) <= SMALL:
            return Counted(self.tile, width, height)
        crop = max(1, math.floor(min(width, height) / 1.5))
        tiles = min(cells(width, height, crop), self.MOST_TILES)
        return Counted(self.tile * tiles, *shrunk(width, height, TILE / crop))

    def most(self, detail: Detail) -> int:
        return self.low if detail == "low" else self.tile * self.MOST_TILES


@dataclass(frozen=True)
class Resolutions:
    """As many tokens as the detail allows, whatever the picture's size."""

    details: Mapping[Detail, int]

    def count(self, width: int, height: int, detail: Detail) -> Counted:
        return Counted(self.details[detail], width, height)

    def most(self, detail: Detail) -> int:
        return self.details[detail]
