"""WebP: its first frame alone, by OpenCV. Pillow's way to it keeps three more pictures of the size of the canvas.

Source: WebP container specification (RFC 9649).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sensorium.errors import CorruptMedia

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.uint8]
else:
    Samples = Any

_ALPHA = 0x10
"""The flag in `VP8X` that says that there is transparency."""


def first_frame(data: bytes, size: tuple[int, int], name: str) -> Samples:
    """The first frame on its canvas of (width, height): uint8 (height, width, 3) RGB or (height, width, 4) RGBA.

    Raises CorruptMedia.
    """
    frame = next((body for kind, body in _chunks(memoryview(data)[12:]) if kind == b"ANMF"), None)
    if frame is None:
        pixels, left, top = _decoded(data), 0, 0
    else:
        left, top = (2 * int.from_bytes(frame[at : at + 3], "little") for at in (0, 3))
        pixels = _decoded(_still(frame))
    if pixels is None or (frame is None and pixels.shape[1::-1] != size):
        raise CorruptMedia(
            f"{name} cannot be decoded", why="it is a WebP that is damaged or cut short", fix="Get the file again"
        )
    return pixels if pixels.shape[1::-1] == size else _on_canvas(pixels, left, top, size)


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at = 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _still(frame: memoryview) -> bytes:
    """A file of its own made of a frame of an animation."""
    parts = [(kind, body) for kind, body in _chunks(frame[16:]) if kind in (b"ALPH", b"VP8 ", b"VP8L")]
    if any(kind == b"ALPH" for kind, _ in parts):
        parts.insert(0, (b"VP8X", memoryview(bytes((_ALPHA, 0, 0, 0)) + frame[6:12])))
    content = b"".join(struct.pack("<4sI", kind, len(body)) + body + bytes(len(body) % 2) for kind, body in parts)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(content), b"WEBP") + content


def _decoded(data: bytes) -> Samples | None:
    import cv2
    import numpy as np

    try:
        pixels: Samples | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None:
        return None
    # In place: a copy more would be felt.
    code = cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(pixels, code, dst=pixels)  # type: ignore[no-any-return]


def _on_canvas(pixels: Samples, left: int, top: int, size: tuple[int, int]) -> Samples:
    """What the frame does not cover is transparent."""
    import numpy as np

    canvas = np.zeros((size[1], size[0], 4), np.uint8)
    place = canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]]
    shown = pixels[: place.shape[0], : place.shape[1]]
    place[..., 3] = 255
    place[..., : pixels.shape[2]] = shown
    return canvas
