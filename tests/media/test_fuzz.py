"""Whatever the bytes are, the outcome is a picture or one of our errors, in time. More of it: `make fuzz`."""

from __future__ import annotations

import functools
import os
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageCms

from sensorium.errors import SensoriumError
from sensorium.media.decode import describe, look
from sensorium.media.limits import Limits
from tests.pictures import encoded

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
LIMITS = Limits(max_pixels=4_000_000)
SECONDS = 5
"""Of the processor, for one picture. The slowest of these takes a tenth."""

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 8192, 65_500)

# For each format, where lengths, sizes and kinds stand.
_NAMES = {
    "jpeg": (b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xda", b"\xff\xdb", b"\xff\xe1", b"\xff\xe2", b"Exif"),
    "png": (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"IEND"),
    "gif": (b"GIF8", b"\x21\xf9\x04", b"\x21\xff", b"\x21\xfe", b"\x2c\x00\x00\x00\x00"),
    "bmp": (b"BM", b"\x28\x00\x00\x00", b"\x7c\x00\x00\x00"),
    "webp": (b"RIFF", b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF"),
    "tiff": (b"II*\0", b"\x00\x01\x04\x00", b"\x01\x01\x04\x00", b"\x02\x01\x03\x00", b"\x03\x01\x03\x00", b"\x11\x01\x04\x00"),
    "avif": (b"ftyp", b"meta", b"iloc", b"iinf", b"infe", b"ipco", b"ispe", b"av1C", b"pixi", b"ipma", b"mdat", b"moov", b"stsz", b"stco", b"\x0a\x0b"),
}  # fmt: skip


@functools.cache
def _seeds() -> dict[str, list[bytes]]:
    """Small whole pictures, of each variety that takes another way."""
    rgb = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (17, 29, 3), np.uint8))
    rgba, grey = rgb.convert("RGBA"), rgb.convert("L")
    rgba.putalpha(grey)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    told = {"exif": exif, "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()}
    frames = {"save_all": True, "append_images": [rgb.rotate(90)]}
    numbers = Pillow.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return {
        "jpeg": [
            encoded(rgb, "JPEG", **told),
            encoded(rgb, "JPEG", progressive=True),
            encoded(grey, "JPEG"),
            encoded(rgb.convert("CMYK"), "JPEG"),
        ],
        "png": [
            encoded(rgba, "PNG", **told),
            encoded(rgb.quantize(16), "PNG", transparency=3),
            encoded(numbers, "PNG"),
            encoded(rgb, "PNG", **frames),
        ],
        "gif": [encoded(rgb.quantize(16), "GIF", transparency=3, comment=b"hello"), encoded(rgb, "GIF", **frames)],
        "bmp": [encoded(picture, "BMP") for picture in (rgb, rgba, grey, grey.convert("1"))],
        "webp": [
            encoded(rgba, "WEBP", **told),
            encoded(rgb, "WEBP"),
            encoded(rgba, "WEBP", lossless=True),
            encoded(rgba, "WEBP", **frames),
        ],
        "tiff": [
            *(encoded(rgb, "TIFF", compression=way, **told) for way in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg")),
            *(encoded(grey.convert("1"), "TIFF", compression=way) for way in ("group3", "group4", "packbits")),
            encoded(numbers, "TIFF"),
            encoded(Pillow.fromarray(np.asarray(grey).astype(np.float32)), "TIFF"),
        ],
        "avif": [
            encoded(rgba, "AVIF", speed=10, **told),
            encoded(rgb, "AVIF", speed=10),
            encoded(rgb, "AVIF", speed=10, **frames),
        ],
    }  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, format_: str) -> bytes:
    """A picture of this format after up to eight changes."""
    data = bytearray(draw(st.sampled_from(_seeds()[format_])))
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(("flip", "flip", "lie", "lie", "cut", "splice", "repeat")))
        if kind == "cut":
            del data[draw(st.integers(0, len(data))) :]
        elif kind == "flip":
            _overwrite(data, draw(st.integers(0, len(data))), draw(st.binary(min_size=1, max_size=2)))
        elif kind == "lie":
            at = data.find(draw(st.sampled_from(_NAMES[format_]))) + draw(st.integers(-8, 32))
            layout = draw(st.sampled_from((">I", "<I", ">H", "<H", "B")))
            number = draw(st.sampled_from(_NUMBERS)) & (1 << 8 * struct.calcsize(layout)) - 1
            _overwrite(data, max(at, 0), struct.pack(layout, number))
        else:
            other = data if kind == "repeat" else draw(st.sampled_from(_seeds()[format_]))
            start, length = draw(st.integers(0, len(other))), draw(st.integers(0, 300))
            at = draw(st.integers(0, len(data)))
            data[at:at] = other[start : start + length] * (draw(st.integers(1, 50)) if kind == "repeat" else 1)
    return _with_right_checksums(data) if format_ == "png" and draw(st.booleans()) else bytes(data)


def _overwrite(data: bytearray, at: int, piece: bytes) -> None:
    data[at : at + len(piece)] = piece[: max(len(data) - at, 0)]


def _with_right_checksums(data: bytearray) -> bytes:
    """So that damage in a PNG is met by more than the check of its sums."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack_from(">I", data, at)[0]
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


@pytest.mark.timeout(0 if EXAMPLES > 1000 else 60)
@pytest.mark.parametrize("format_", list(_NAMES))
def test_a_damaged_picture_gives_a_picture_or_an_error_of_ours_in_time(format_: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=EXAMPLES <= 1000,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(format_), st.sampled_from((None, 1, 20)), st.booleans())
    def holds(data: bytes, at_least: int | None, exact: bool) -> None:
        start = time.process_time()
        _assert_picture_or_error(data, at_least, exact)
        assert time.process_time() - start < SECONDS

    holds()


def _assert_picture_or_error(data: bytes, at_least: int | None, exact: bool) -> None:
    try:
        describe(data, "test").told()
        opened = look(data, "test", LIMITS)
        scale = opened.scale_for(at_least, LIMITS)
        image = opened.decode(scale, exact)
    except SensoriumError:
        return
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.c_contiguous
    assert image.pixels.ndim == 3
    assert image.pixels.shape[2] == 3
    assert 0 < image.pixels.size <= 3 * LIMITS.max_pixels
    if image.scale == 1:
        assert image.pixels.shape[:2] == (image.height, image.width)
