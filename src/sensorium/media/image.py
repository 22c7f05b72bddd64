"""A decoded picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
else:
    Pixels = Any


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Image:
    """A picture as a person sees it: upright, nothing transparent."""

    pixels: Pixels
    """uint8 (height, width, 3), RGB, upright, C-contiguous, read-only; at `scale` of the picture's size."""
    width: int
    """Pixels across, of the upright picture as sent."""
    height: int
    """Pixels down, of the upright picture as sent."""
    format: str
    """What its content says it is: jpeg, png, gif, bmp, webp, tiff or avif."""
    scale: float = 1.0
    """How large it was decoded: 1, 1/2, 1/4 or 1/8."""
