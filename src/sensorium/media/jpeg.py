"""JPEG: its header read without decoding, and the fast way to its pixels (simplejpeg, which is libjpeg-turbo)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sensorium.errors import CorruptMedia
from sensorium.media.exif import orientation_in
from sensorium.media.image import Pixels

SCALES = (1.0, 0.5, 0.25, 0.125)
"""What libjpeg decodes at about no cost. It knows other eighths too, but slower than full size: no SIMD."""

MOST_SCANS, MOST_SAMPLES_SCANNED = 200, 8_000_000_000
"""Each scan walks over the whole picture: two seconds at most for progressive ones (measured). Encoders write about ten."""

MOST_SEGMENTS = 20_000
"""Before the first scan, fill bytes with them: Pillow takes some microseconds for each, and keeps it. Cameras write ten."""

_STANDALONE = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))
_FRAMES = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What a JPEG says of itself before its first scan."""

    width: int
    """Pixels across, as stored: perhaps not upright."""
    height: int
    precision: int
    """Bits a sample."""
    components: int
    samples: int
    """Of all components together; more than pixels, unless it is grey."""
    orientation: int
    icc: bytes | None
    buffered: bool
    """Whether all coefficients must be kept in memory while decoding: two bytes a sample, at any scale."""
    progressive: bool

    @property
    def is_plain(self) -> bool:
        """Whether it is colour, or grey without a profile, as nearly all are."""
        return self.components == 3 or (self.components == 1 and self.icc is None)


def read_header(data: bytes, name: str) -> JpegHeader:
    """The header of a JPEG. Raises CorruptMedia when there is none.

    Source: ITU-T T.81, annex B. A plain photograph takes some ten microseconds.
    """
    frame: tuple[int, int, int, int, int, bytes] | None = None
    exif = xmp = None
    profile: dict[int, bytes] = {}
    at, end = 2, len(data)
    for _ in range(MOST_SEGMENTS):
        if at + 4 > end:
            break
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)  # bytes between segments are skipped, as libjpeg does
            if at < 0:
                break
            continue
        marker = data[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        length = data[at + 2] << 8 | data[at + 3]
        body = at + 4
        if marker in _FRAMES and frame is None and body + 6 <= end:
            precision, height, width, components = struct.unpack_from(">BHHB", data, body)
            frame = (marker, precision, height, width, components, data[body + 6 : body + 6 + 3 * components])
        elif marker == 0xE1 and exif is None and data.startswith(b"Exif\0", body):
            exif = data[body : at + 2 + length]
        elif marker == 0xE1 and xmp is None and data.startswith(b"http://ns.adobe.com/xap/1.0/\0", body):
            xmp = data[body : at + 2 + length]
        elif marker == 0xE2 and data.startswith(b"ICC_PROFILE\0", body) and body + 14 <= end:
            profile[data[body + 12]] = data[body + 14 : at + 2 + length]
        elif marker == 0xDA:
            if frame is not None and body < end:
                return _header(frame, data[body], orientation_in(exif, xmp), profile, name)
            break
        elif marker == 0xD9:
            break
        at += 2 + length
    raise CorruptMedia(
        f"{name} cannot be decoded",
        why="it is a JPEG that is cut short or damaged before its first pixel",
        fix="Get the file again from where it came",
    )


def _header(
    frame: tuple[int, int, int, int, int, bytes],
    in_first_scan: int,
    orientation: int,
    profile: dict[int, bytes],
    name: str,
) -> JpegHeader:
    marker, precision, height, width, components, table = frame
    if not (width and height and components) or len(table) < 3 * components:
        raise CorruptMedia(f"{name} cannot be decoded", why="its header gives it no size")
    return JpegHeader(
        width=width,
        height=height,
        precision=precision,
        components=components,
        samples=_samples(width, height, [table[at] for at in range(1, 3 * components, 3)]),
        orientation=orientation,
        icc=b"".join(part for _, part in sorted(profile.items())) or None,
        buffered=marker in _PROGRESSIVE or in_first_scan < components,
        progressive=marker in _PROGRESSIVE,
    )


def _samples(width: int, height: int, factors: list[int]) -> int:
    across, down = max(max(f >> 4 for f in factors), 1), max(max(f & 15 for f in factors), 1)
    return sum(-(-width * (f >> 4) // across) * -(-height * (f & 15) // down) for f in factors)


def refuse_another_size(data: bytes, header: JpegHeader, name: str) -> None:
    """Raise CorruptMedia when libjpeg reads another size than we do: then ours cannot be held against any limit."""
    import simplejpeg

    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, RuntimeError):
        return  # it will not decode it either
    if (width, height) != (header.width, header.height):
        raise CorruptMedia(f"{name} cannot be decoded", why="it has two headers that differ", fix="Encode it anew")


def scans_in(data: bytes) -> int:
    """How many scans the file has, at most: in coded data the marker cannot stand, in a thumbnail it may."""
    return data.count(b"\xff\xda")


def size_at(length: int, scale: float) -> int:
    """How many pixels a side has when decoded at a scale: rounded up, as libjpeg does."""
    return -(-length // round(1 / scale))


def decode_fast(data: bytes, header: JpegHeader, scale: float) -> Pixels | None:
    """RGB pixels as stored, not yet upright: uint8 (height, width, 3).

    None when the decoder has anything to complain of: the careful way tells the harmless from the broken.
    """
    import simplejpeg

    height, width = size_at(header.height, scale), size_at(header.width, scale)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, "RGB", fastdct=True, fastupsample=True, min_height=height, min_width=width
        )
    except (ValueError, RuntimeError, MemoryError):
        return None
    return pixels if pixels.shape == (height, width, 3) else None
