"""How models count that cut a picture into a grid of squares: InternVL and the LLaVA family.

Source: transformers, `models/got_ocr2/image_processing_got_ocr2.py`, `models/internvl/processing_internvl.py`,
`models/llava_next/processing_llava_next.py` and `models/llava_onevision/processing_llava_onevision.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from sensorium.pricing.pictures import Counted, Detail, shrunk

MORE = 1.1
"""How many times longer than `most_squares` allow a grid's side may be before it is made smaller."""


@dataclass(frozen=True)
class InternVL:
    """`tile` tokens for each square of the grid whose shape comes nearest, for one small picture of it all, and two marks."""

    tile: int = 256
    side: int = 448
    most_squares: int = 12

    MARKS = 2

    @cached_property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Columns and rows, the fewest squares first."""
        sides = range(1, self.most_squares + 1)
        grids = ((across, down) for across in sides for down in sides if across * down <= self.most_squares)
        return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))

    def count(self, width: int, height: int, detail: Detail) -> Counted:  # noqa: ARG002 - a Counting
        across, down = self.grid(width, height)
        used = shrunk(width, height, max(across * self.side / width, down * self.side / height))
        return Counted(self._tokens(across * down), *used)

    def most(self, detail: Detail) -> int:  # noqa: ARG002 - a Counting
        return self._tokens(self.most_squares)

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows. Of equally near shapes the larger, if the picture would fill more than half of it."""
        best, nearest = (1, 1), math.inf
        for across, down in self.grids:
            far = abs(width / height - across / down)
            fills = width * height > 0.5 * self.side**2 * across * down
            if far < nearest or (far == nearest and fills):
                best, nearest = (across, down), far
        return best

    def _tokens(self, squares: int) -> int:
        return self.tile * (squares + (squares > 1)) + self.MARKS


@dataclass(frozen=True)
class Square:
    """The same number for every picture, whose shorter side becomes `side` pixels."""

    tokens: int
    side: int

    def count(self, width: int, height: int, detail: Detail) -> Counted:  # noqa: ARG002 - a Counting
        return Counted(self.tokens, *shrunk(width, height, self.side / min(width, height)))

    def most(self, detail: Detail) -> int:  # noqa: ARG002 - a Counting
        return self.tokens


@dataclass(frozen=True)
class AnyResolution:
    """A small picture of it all, and the picture on the best of some grids of squares, its padding left out.

    Each square is `side` pixels and `patches` tokens along a side. Above `most_squares`, and a fifth more, the grid is made
    smaller.
    """

    side: int
    patches: int
    grids: tuple[tuple[int, int], ...]
    """Columns and rows of each."""
    most_squares: int | None = None

    def count(self, width: int, height: int, detail: Detail) -> Counted:  # noqa: ARG002 - a Counting
        across, down = self.grid(width, height)
        tokens = self.patches**2 + self._unpadded(width, height, across * self.patches, down * self.patches)
        return Counted(tokens, *shrunk(width, height, min(across * self.side / width, down * self.side / height)))

    def most(self, detail: Detail) -> int:  # noqa: ARG002 - a Counting
        rows = max(down for _, down in self.grids) * self.patches
        squares: float = max(across * down for across, down in self.grids)
        if self.most_squares is not None:
            squares = min(squares, self.most_squares * MORE**2)
        return self.patches**2 + int(squares * self.patches**2) + rows

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of the grid that keeps most of the picture's pixels, and wastes least on padding."""

        def worth(grid: tuple[int, int]) -> tuple[int, int]:
            across, down = (count * self.side for count in grid)
            scale = min(across / width, down / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            return kept, kept - across * down

        return max(self.grids, key=worth)

    def _unpadded(self, width: int, height: int, across: int, down: int) -> int:
        if width / height > across / down:
            down -= (down - int(round(height * across / width, 7))) // 2 * 2
        else:
            across -= (across - int(round(width * down / height, 7))) // 2 * 2
        return self._fitted(across, down)

    def _fitted(self, across: int, down: int) -> int:
        """The tokens, with one at the end of each row."""
        if self.most_squares is not None:
            ratio = math.sqrt(across * down / (self.most_squares * self.patches**2))
            if ratio > MORE:
                across, down = int(across // ratio), int(down // ratio)
        return down * (across + 1)
