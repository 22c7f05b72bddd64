"""How OpenAI's models count: the older by tiles of 512 pixels, the newer by patches of 32.

Source: the guide "Images and vision".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sensorium.pricing.pictures import Counted, Detail, cells, fit

TILE, PATCH = 512, 32
LONGEST = 2048
"""Pixels that a picture is first fitted into, by models that count tiles."""


@dataclass(frozen=True)
class Tiles:
    """`base` tokens, and `tile` more for each tile of the picture, whose shorter side is made `shortest` pixels at most."""

    base: int
    tile: int
    shortest: int = 768

    def count(self, width: int, height: int, detail: Detail) -> Counted:
        width, height = self._used(width, height)
        tiles = 0 if detail == "low" else cells(width, height, TILE)
        # With low detail the model sees the picture within one tile.
        return Counted(
            self.base + self.tile * tiles, *(fit(width, height, TILE) if detail == "low" else (width, height))
        )

    def most(self, detail: Detail) -> int:
        return self.base + self.tile * (0 if detail == "low" else cells(LONGEST, self.shortest, TILE))

    def _used(self, width: int, height: int) -> tuple[int, int]:
        width, height = fit(width, height, LONGEST)
        short = min(width, height)
        if short <= self.shortest:
            return width, height
        return width * self.shortest // short, height * self.shortest // short


@dataclass(frozen=True)
class Bounds:
    """What a picture is made fit for: pixels on its longer side, and patches in all (None: as many as it has)."""

    longest: int
    patches: int | None = None
    refused_above: int | None = None
    """Patches above which a picture is refused rather than made smaller."""

    @property
    def most(self) -> int:
        """The most patches that any picture has."""
        bounds = (self.patches, self.refused_above, math.ceil(self.longest / PATCH) ** 2)
        return min(bound for bound in bounds if bound is not None)


@dataclass(frozen=True)
class Patches:
    """A number of tokens for each patch; `details` says what each detail allows. A detail that is not there is as `auto`."""

    each: float
    details: Mapping[Detail, Bounds]

    def count(self, width: int, height: int, detail: Detail) -> Counted:
        bounds = self._bounds(detail)
        width, height = fit(width, height, bounds.longest)
        patches, refused = cells(width, height, PATCH), ""
        if bounds.refused_above and patches > bounds.refused_above:
            refused = f"it has {patches:,} patches of {PATCH} × {PATCH} pixels, and {bounds.refused_above:,} are taken"
        width, height = within(width, height, bounds.most)
        return Counted(self._tokens(cells(width, height, PATCH)), width, height, refused)

    def most(self, detail: Detail) -> int:
        return self._tokens(self._bounds(detail).most)

    def _bounds(self, detail: Detail) -> Bounds:
        return self.details.get(detail, self.details["auto"])

    def _tokens(self, patches: int) -> int:
        return math.ceil(round(patches * self.each, 6))  # 1000 × 1.2 is no more than 1200


def within(width: int, height: int, patches: int) -> tuple[int, int]:
    """The size, made small enough for so many patches, with whole patches along the side that decides."""
    if cells(width, height, PATCH) <= patches:
        return width, height
    scale = math.sqrt(PATCH * PATCH * patches / (width * height))
    scale *= min(math.floor(side * scale / PATCH) / (side * scale / PATCH) for side in (width, height))
    # A little more than nothing, lest 1056 be 1055.9999 and lose a pixel.
    across, down = (max(1, math.floor(side * scale + 1e-6)) for side in (width, height))
    return across, down
