"""Parts of a picture made so that what was there cannot be made out any more."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from sensorium.media.image import Pixels

Method = Literal["gaussian", "pixelate", "black"]
"""Smooth, in squares, or nothing at all."""

Region = tuple[float, float, float, float]
"""Left, top, right and bottom, in the picture's pixels."""

CELLS = 6
"""How many means across the longer side are all that is left. Those are what a picture of so many pixels holds: a blur alone,
of whatever strength, could be turned back in part, since it only weighs what it mixes."""

SMALLEST_CELL = 4
"""Pixels of a mean's side, at least: a small face has fewer means."""

DOTS = 8
"""Pixels for each mean while they are smoothed."""


def concealed(pixels: Pixels, regions: Iterable[Region], method: Method) -> Pixels:
    """A copy with the regions covered, edges that lie within a pixel included. uint8 (height, width, 3) in and out."""
    covered = pixels.copy()
    height, width = pixels.shape[:2]
    for left, top, right, bottom in regions:
        across = slice(max(0, math.floor(left)), min(width, math.ceil(right)))
        down = slice(max(0, math.floor(top)), min(height, math.ceil(bottom)))
        part = covered[down, across]
        if part.size:
            covered[down, across] = 0 if method == "black" else _means(part, method)
    return covered


def _means(part: Pixels, method: Method) -> Pixels:
    """The part as it looks when only some means of it are known."""
    import cv2

    height, width = part.shape[:2]
    cell = max(SMALLEST_CELL, math.ceil(max(height, width) / CELLS))
    few = cv2.resize(part, (math.ceil(width / cell), math.ceil(height / cell)), interpolation=cv2.INTER_AREA)
    if method == "pixelate":
        return cv2.resize(few, (width, height), interpolation=cv2.INTER_NEAREST)  # type: ignore[no-any-return]
    # Smoothed while it is small: over thousands of pixels a blur as wide takes minutes.
    smooth = cv2.resize(few, None, fx=DOTS, fy=DOTS, interpolation=cv2.INTER_LINEAR)
    smooth = cv2.GaussianBlur(smooth, (0, 0), DOTS / 2)
    return cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[no-any-return]
