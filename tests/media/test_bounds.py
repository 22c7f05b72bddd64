"""Files made to fill the memory or to take for ever: refused by their structure, before any decoder walks them."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL.TiffImagePlugin import TiffImageFile

from sensorium.errors import CorruptMedia, InputTooLarge
from sensorium.media import avif
from sensorium.media.decode import look
from sensorium.media.image import Image
from sensorium.media.limits import Limits
from tests.pictures import encoded

SMALL = Pillow.new("RGB", (64, 48), (200, 100, 50))
ROOM = 19_000_000
"""Bytes of junk that fit into an input of the default `max_bytes`."""


def decoded(data: bytes, limits: Limits | None = None) -> Image:
    opened = look(data, "test", limits or Limits())
    return opened.decode(1.0, False)


def chunk(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_chunks(junk: bytes) -> bytes:
    """A PNG with chunks before its pixels."""
    data = encoded(SMALL, "PNG")
    at = data.index(b"IDAT") - 4
    return data[:at] + junk + data[at:]


def with_blocks(junk: bytes) -> bytes:
    """A GIF with blocks before its frame."""
    data = encoded(SMALL.quantize(4), "GIF")
    at = 13 + (3 << (data[10] & 7) + 1)
    return data[:at] + junk + data[at:]


def with_segments(junk: bytes) -> bytes:
    data = encoded(SMALL.convert("CMYK"), "JPEG")
    return data[:2] + junk + data[2:]


def with_riff(junk: bytes) -> bytes:
    data = encoded(SMALL, "WEBP", exif=b"Exif\0\0II*\0")
    return data[:4] + struct.pack("<I", len(data) - 8 + len(junk)) + data[8:] + junk


def filling(piece: bytes) -> bytes:
    return piece * (ROOM // len(piece))


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_chunks(filling(chunk(b"prVt"))),
        lambda: with_chunks(filling(chunk(b"tEXt", b"k\0v"))),
        lambda: with_chunks(filling(chunk(b"IDAT"))),
        lambda: with_blocks(b"!\xfe" + filling(b"\1x") + b"\0"),
        lambda: with_blocks(filling(b"!\xfe\1x\0")),
        lambda: with_blocks(filling(b"!\xf9\4\1\0\0\0\0")),
        lambda: with_blocks(bytes(ROOM)),
        lambda: with_riff(filling(b"junk\0\0\0\0")),
        lambda: with_segments(filling(b"\xff\xe5\0\2")),
        lambda: with_segments(filling(b"\xff")),
    ],
    ids=["private", "text", "IDAT", "comment", "comments", "control", "stray", "riff", "segments", "fill"],
)
def test_a_file_of_very_many_pieces_is_refused_at_once(make: Callable[[], bytes]) -> None:
    data = make()
    start = time.process_time()
    with pytest.raises((InputTooLarge, CorruptMedia)):
        look(data, "test", Limits())
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "data",
    [
        with_chunks(chunk(b"tEXt", b"k\0v") * 1000),
        with_blocks(b"!\xfe" + (b"\xff" + bytes(255)) * 1000 + b"\0" + b"!\xf9\4\1\0\0\0\0" * 10),
        with_riff(b"junk\0\0\0\0" * 1000),
        with_segments(b"\xff\xe5\0\2" * 1000),
    ],
)
def test_a_file_of_many_pieces_is_decoded(data: bytes) -> None:
    assert decoded(data).width == 64


def test_what_follows_the_first_frame_of_a_gif_is_not_walked() -> None:
    data = encoded(SMALL.quantize(4), "GIF")
    assert decoded(data[:-1] + b"!\xfe\1x\0" * 200_000 + b";").width == 64


def test_a_picture_of_endless_length_is_refused() -> None:
    data = encoded(Pillow.new("1", (1, 1_000_001)), "PNG")
    with pytest.raises(InputTooLarge, match="side"):
        decoded(data)


def test_a_tiff_whose_entries_all_name_one_place_is_refused() -> None:
    entries = b"".join(struct.pack("<HHII", 40_000 + number, 1, 900_000, 8) for number in range(400))
    data = b"II*\0" + struct.pack("<I", 1_000_000) + bytes(999_992) + struct.pack("<H", 400) + entries + bytes(4)
    with pytest.raises(CorruptMedia, match="directory"):
        decoded(data)


def claiming(data: bytes, width: int, height: int) -> bytes:
    """The AVIF with another size in its container, and the same picture coded in it."""
    pieces = data.split(b"ispe\0\0\0\0")
    return pieces[0] + b"".join(b"ispe\0\0\0\0" + struct.pack(">II", width, height) + piece[8:] for piece in pieces[1:])


@pytest.mark.parametrize("size", [(16, 16), (640, 480), (63, 48)])
def test_an_avif_that_lies_about_its_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(CorruptMedia, match="another size"):
        decoded(claiming(encoded(SMALL, "AVIF"), *size))


def test_an_avif_is_held_to_its_limits_by_what_is_coded_in_it() -> None:
    huge = encoded(SMALL.resize((640, 480)), "AVIF", speed=10)
    item, _, _ = avif.structure(huge)
    assert [(it.width, it.height, it.most_pixels, it.bytes_a_pixel) for it in item] == [(640, 480, 640 * 480, 1.5)]
    with pytest.raises(InputTooLarge):
        decoded(huge, Limits(max_pixels=300_000))


@pytest.mark.parametrize(
    ("mode", "subsampling", "bytes_a_pixel"),
    [("RGB", "4:4:4", [3]), ("RGB", "4:2:0", [1.5]), ("L", "4:0:0", [1]), ("RGBA", "4:4:4", [1, 3])],
)
def test_the_memory_of_an_avif_is_read_from_its_header(mode: str, subsampling: str, bytes_a_pixel: list[float]) -> None:
    picture = SMALL.convert(mode)
    if mode == "RGBA":
        picture.putalpha(128)
    found = avif.structure(encoded(picture, "AVIF", subsampling=subsampling))
    assert sorted(it.bytes_a_pixel for it in found.of_items) == bytes_a_pixel


def test_an_animated_avif_is_measured_by_its_first_frame_and_by_what_frames_may_claim() -> None:
    data = encoded(SMALL, "AVIF", save_all=True, append_images=[SMALL.rotate(180)])
    found = avif.structure(data)
    assert [(it.width, it.height, it.most_pixels) for it in found.of_tracks] == [(64, 48, 64 * 64)]
    assert decoded(data).width == 64


def test_an_avif_that_cannot_be_measured_is_refused() -> None:
    data = encoded(SMALL, "AVIF")
    for name in (b"iloc", b"iinf"):
        with pytest.raises(CorruptMedia):
            decoded(data.replace(name, b"free"))


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


@pytest.mark.parametrize(
    "hostile",
    [
        box(b"meta", bytes(4) + box(b"iloc", b"\1" + bytes(5) + b"\xff\xff" + b"\0\0\0\0\0\0\xff\xff" * 65_535)),
        box(b"meta", bytes(4) + box(b"free", b"") * 2_000_000),
        box(
            b"meta",
            bytes(4)
            + box(b"iinf", bytes(4) + b"\0\1" + box(b"infe", b"\2" + bytes(3) + b"\0\1\0\0av01"))
            + box(b"iloc", b"\0\0\0\0\x44\0\0\1\0\1\0\0\0\1" + bytes(8)),
        ),
        box(b"free", b"") * 2_000_000,
    ],
    ids=["extents", "boxes", "whole", "top"],
)
def test_an_avif_of_endless_tables_is_given_up_at_once(hostile: bytes) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=r"many|longer"):
        avif.structure(hostile)
    assert time.process_time() - start < 1


def test_an_avif_of_endless_units_is_given_up_at_once() -> None:
    item = box(b"infe", b"\2" + bytes(3) + b"\0\1\0\0av01")
    units = b"\x12\0" * 1_000_000
    place = b"\1" + bytes(3) + b"\x44\0\0\1" + b"\0\1\0\1\0\0\0\1" + struct.pack(">II", 0, len(units))
    meta = bytes(4) + box(b"iinf", bytes(4) + b"\0\1" + item) + box(b"iloc", place) + box(b"idat", units)
    start = time.process_time()
    with pytest.raises(ValueError, match="many"):
        avif.structure(box(b"meta", meta))
    assert time.process_time() - start < 1


def test_an_avif_of_very_many_tracks_over_the_same_bytes_is_measured_at_once() -> None:
    table = box(b"stsz", struct.pack(">IIII", 0, 0, 1, ROOM)) + box(b"stco", struct.pack(">III", 0, 1, 0))
    track = box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", table))))
    start = time.process_time()
    avif.structure(box(b"moov", track * 15_000) + bytes(ROOM // 2))
    assert time.process_time() - start < 2


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_webp_is_decoded_as_pillow_would(mode: str, lossless: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (41, 57, len(mode)), np.uint8)
    noise[..., 3:] = 255
    data = encoded(Pillow.fromarray(noise), "WEBP", lossless=lossless)
    with Pillow.open(io.BytesIO(data)) as reference:
        np.testing.assert_array_equal(decoded(data).pixels, np.asarray(reference.convert("RGB")))


def test_a_first_frame_smaller_than_its_canvas_lies_on_white() -> None:
    still = encoded(Pillow.new("RGB", (16, 8), (200, 0, 0)), "WEBP", lossless=True)[12:]
    frame = b"".join(value.to_bytes(3, "little") for value in (2, 5, 15, 7, 100)) + b"\0" + still
    canvas = b"\x12\0\0\0" + (39).to_bytes(3, "little") + (29).to_bytes(3, "little")
    chunks = ((b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", frame))
    body = b"WEBP" + b"".join(struct.pack("<4sI", name, len(content)) + content for name, content in chunks)
    data = b"RIFF" + struct.pack("<I", len(body)) + body
    pixels = decoded(data).pixels
    with Pillow.open(io.BytesIO(data)) as reference:
        expected = Pillow.new("RGB", (40, 30), (255, 255, 255))
        expected.paste(reference, mask=reference.convert("RGBA").getchannel("A"))
    np.testing.assert_array_equal(pixels, np.asarray(expected))
    assert pixels[10, 4].tolist() == [200, 0, 0]


@pytest.mark.skipif(sys.platform == "win32", reason="Pillow holds libtiff whole there")
def test_a_broken_tiff_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    noise = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    data = bytearray(encoded(noise, "TIFF", compression="tiff_lzw"))
    start = TiffImageFile(io.BytesIO(data)).tag_v2[273][0]
    data[start + 1000 : start + 1100] = bytes(100)
    with pytest.raises(CorruptMedia):
        decoded(bytes(data))
    assert capfd.readouterr().err == ""


_MAKE = """
import sys
import numpy as np
from PIL import Image
place, kind, mode = sys.argv[1:]
wave = (np.arange(5000, dtype=np.uint16)[None] + np.arange(4000, dtype=np.uint16)[:, None]).astype(np.uint8)
options = {"lossless": True, "quality": 0} if kind == "WEBP-lossless" else {"quality": 10}
Image.fromarray(np.dstack([wave] * len(mode))).save(
    place, kind.partition("-")[0], method=0, speed=10, compress_level=1, **options
)
"""
_DECODE = """
import re, sys
from pathlib import Path
from sensorium.media.source import Source
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
Source.of(Path(sys.argv[1])).read_now()
before = peak()
image = Source.of(Path(sys.argv[1])).image_now()
print((peak() - before) / (image.width * image.height))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell the peak of a process's memory so")
@pytest.mark.parametrize(
    ("kind", "mode", "most"),
    [
        ("WEBP", "RGB", 9),
        ("WEBP", "RGBA", 11),
        ("WEBP-lossless", "RGBA", 11),
        ("AVIF", "RGB", 10),
        ("AVIF", "RGBA", 13),
        ("PNG", "RGBA", 10),
    ],
)
def test_decoding_takes_few_bytes_for_each_pixel(tmp_path: Path, kind: str, mode: str, most: float) -> None:
    place = str(tmp_path / "large")
    subprocess.run([sys.executable, "-c", _MAKE, place, kind, mode], check=True)
    child = subprocess.run([sys.executable, "-c", _DECODE, place], capture_output=True, text=True, check=True)
    assert float(child.stdout) < most
