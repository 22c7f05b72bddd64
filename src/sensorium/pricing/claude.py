"""How Claude counts: patches of 28 pixels, after a resizing that keeps within an edge and a budget.

Source: Anthropic's guides "Vision" and "Vision coordinates".
"""

from __future__ import annotations

from dataclasses import dataclass

from sensorium.pricing.pictures import Counted, Detail, cells, fit

PATCH = 28
LARGEST = 8000
"""Pixels along either side, above which a picture is refused."""


@dataclass(frozen=True)
class Claude:
    """`edge` pixels on either side, counted in whole patches, and as many patches as `budget`. Detail changes nothing."""

    edge: int
    budget: int

    def count(self, width: int, height: int, detail: Detail) -> Counted:  # noqa: ARG002 - a Counting
        large = max(width, height) > LARGEST
        refused = f"it is {width:,} × {height:,} pixels, and {LARGEST:,} are taken along a side" if large else ""
        width, height = self._used(*fit(width, height, LARGEST))
        return Counted(cells(width, height, PATCH), width, height, refused)

    def most(self, detail: Detail) -> int:  # noqa: ARG002 - a Counting
        return self.budget

    def _used(self, width: int, height: int) -> tuple[int, int]:
        """The largest size of the same shape that fits, found by halving the longer side's range."""
        if self._fits(width, height):
            return width, height
        fits, too_long = 1, max(width, height)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self._fits(*fit(width, height, middle)):
                fits = middle
            else:
                too_long = middle
        return fit(width, height, fits)

    def _fits(self, width: int, height: int) -> bool:
        padded = -(-max(width, height) // PATCH) * PATCH
        return padded <= self.edge and cells(width, height, PATCH) <= self.budget
