"""Pixels that a Python caller holds already, as the bytes of a file: a request holds those, never pixels."""

from __future__ import annotations

import io
from typing import Any

from sensorium.errors import InvalidRequest

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of Pillow that a PNG holds as they are."""


def encoded(value: Any) -> bytes:
    """A PNG of a NumPy array or a Pillow image, without loss.

    An array is uint8, (height, width) grey, (height, width, 3) RGB or (height, width, 4) RGBA; what OpenCV reads is
    BGR, and must be turned round before. Raises InvalidRequest for any other.
    """
    from PIL import Image

    picture = value if isinstance(value, Image.Image) else _from_array(value)
    out = io.BytesIO()
    kept = picture if picture.mode in PNG_MODES else picture.convert("RGB")
    kept.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _from_array(array: Any) -> Any:
    from PIL import Image

    shape, dtype = tuple(array.shape), str(array.dtype)
    if dtype != "uint8" or len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] not in (3, 4)):
        raise InvalidRequest(
            f"Cannot take a picture from an array of {dtype} {shape}",
            fix="Give uint8 pixels, 0 to 255, as (height, width), (height, width, 3) RGB or (height, width, 4) RGBA",
        )
    return Image.fromarray(array)
