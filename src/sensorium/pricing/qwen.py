"""How the Qwen-VL models count: the picture is made a multiple of a patch on both sides, between two bounds.

Source: `smart_resize` in transformers (`models/qwen2_vl/image_processing_qwen2_vl.py`) and qwen-vl-utils; for DashScope
Model Studio's page on billing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sensorium.pricing.pictures import Counted, Detail

LONGEST_SHAPE = 200
"""How many times as long as wide a picture may be."""
MARKS = 2
"""Tokens that say where a picture begins and ends."""


@dataclass(frozen=True)
class SmartResize:
    """One token for each patch of `factor` pixels squared, `least` to `most_patches` of them, and two marks.

    `original` is how many patches a picture may have that is asked for at its own size; else as with any detail.
    """

    factor: int
    most_patches: int
    original: int | None = None
    least: int = 4

    def count(self, width: int, height: int, detail: Detail) -> Counted:
        if _too_long(width, height):
            refused = f"it is {width:,} × {height:,} pixels: more than {LONGEST_SHAPE} times as long as wide"
            return Counted(self.most(detail), width, height, refused)
        across, down = self.resized(width, height, detail)
        return Counted(across * down // self.factor**2 + MARKS, *self._used(width, height, across, down))

    def _used(self, width: int, height: int, across: int, down: int) -> tuple[int, int]:
        """What is worth another encoding: not the few pixels to the next patch."""
        smaller = min(width, across), min(height, down)
        near = width - smaller[0] < self.factor and height - smaller[1] < self.factor
        return (width, height) if near or _too_long(*smaller) else smaller

    def most(self, detail: Detail) -> int:
        return self._most_patches(detail) + MARKS

    def resized(self, width: int, height: int, detail: Detail) -> tuple[int, int]:
        """The size that the model sees, in pixels."""
        most, least = (count * self.factor**2 for count in (self._most_patches(detail), self.least))
        # Python rounds halves to even, and so does the original.
        across, down = (max(self.factor, round(side / self.factor) * self.factor) for side in (width, height))
        if across * down > most:
            scale = math.sqrt(width * height / most)
            return self._whole(width / scale, math.floor), self._whole(height / scale, math.floor)
        if across * down < least:
            scale = math.sqrt(least / (width * height))
            return self._whole(width * scale, math.ceil), self._whole(height * scale, math.ceil)
        return across, down

    def _whole(self, side: float, to: Callable[[float], int]) -> int:
        return max(self.factor, to(side / self.factor) * self.factor)

    def _most_patches(self, detail: Detail) -> int:
        return self.original if detail == "original" and self.original else self.most_patches


def _too_long(width: int, height: int) -> bool:
    return max(width, height) > LONGEST_SHAPE * min(width, height)
