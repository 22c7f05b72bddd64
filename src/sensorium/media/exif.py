"""Which way up a picture is."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sensorium.media.image import Pixels

ORIENTATION = 0x0112
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])\b')


def orientation_in(exif: bytes | None, xmp: bytes | None = None) -> int:
    """1 to 8, as EXIF counts: 1 is upright. Where EXIF says nothing, XMP may; what is damaged says 1."""
    found = _orientation_in_tiff(exif.removeprefix(b"Exif\0\0")) if exif else None
    if found is None and xmp and (written := _XMP.search(xmp)):
        found = int(written[1])
    return found if found is not None and 1 <= found <= 8 else 1


def _orientation_in_tiff(tiff: bytes) -> int | None:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, at)
            if tag == ORIENTATION:
                value: int = struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, at + 8)[0]
                return value
    except struct.error:
        return None
    return None


def turned_upright(pixels: Pixels, orientation: int) -> Pixels:
    """The picture as a person held the camera. uint8 (height, width, 3) in and out, contiguous."""
    if orientation == 1:
        return pixels
    import cv2  # transposes three channels some ten times faster than numpy

    match orientation:
        case 2:
            return cv2.flip(pixels, 1)  # type: ignore[no-any-return]
        case 3:
            return cv2.rotate(pixels, cv2.ROTATE_180)  # type: ignore[no-any-return]
        case 4:
            return cv2.flip(pixels, 0)  # type: ignore[no-any-return]
        case 5:
            return cv2.transpose(pixels)  # type: ignore[no-any-return]
        case 6:
            return cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)  # type: ignore[no-any-return]
        case 7:
            return cv2.transpose(cv2.rotate(pixels, cv2.ROTATE_180))  # type: ignore[no-any-return]
        case _:
            return cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE)  # type: ignore[no-any-return]
