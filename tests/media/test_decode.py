"""Every kind of picture becomes upright RGB, as a person would expect to see it."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageCms, ImageOps

from sensorium.errors import CorruptMedia, InputTooLarge, SensoriumError, UnsupportedMedia
from sensorium.media import colour, limits
from sensorium.media import jpeg as jpeg_file
from sensorium.media.decode import look
from sensorium.media.image import Image, Pixels
from sensorium.media.limits import Limits
from sensorium.media.source import Source
from tests.pictures import encoded, jpeg, photograph, png

SAVED = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF")


def decoded(data: bytes, at_least: int | None = None, exact: bool = False) -> Image:
    opened = look(data, "test", limits.current())
    return opened.decode(opened.scale_for(at_least, limits.current()), exact)


def quarters(width: int = 64, height: int = 48) -> Pillow.Image:
    """Red top left, green top right, blue bottom left, yellow bottom right: any turn shows."""
    picture = Pillow.new("RGB", (width, height))
    for number, hue in enumerate(((250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0))):
        left, top = number % 2 * width // 2, number // 2 * height // 2
        picture.paste(hue, (left, top, left + width // 2, top + height // 2))
    return picture


def assert_near(pixels: Pixels, expected: Any, tolerance: float = 12) -> None:
    expected = np.asarray(expected)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < tolerance


@pytest.mark.parametrize("kind", SAVED)
def test_every_accepted_format_is_decoded(kind: str) -> None:
    image = decoded(encoded(quarters(), kind))
    assert (image.width, image.height, image.format, image.scale) == (64, 48, kind.lower(), 1)
    assert_near(image.pixels, quarters())


@pytest.mark.parametrize("kind", SAVED)
def test_pixels_are_contiguous_and_cannot_be_written(kind: str) -> None:
    pixels = decoded(encoded(quarters(), kind)).pixels
    assert pixels.flags.c_contiguous
    assert pixels.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0] = 0


def _turned(orientation: int) -> Pillow.Image:
    """The stored picture that is upright when turned as this orientation says."""
    turn = {
        2: Pillow.Transpose.FLIP_LEFT_RIGHT,
        3: Pillow.Transpose.ROTATE_180,
        4: Pillow.Transpose.FLIP_TOP_BOTTOM,
        5: Pillow.Transpose.TRANSPOSE,
        6: Pillow.Transpose.ROTATE_90,
        7: Pillow.Transpose.TRANSVERSE,
        8: Pillow.Transpose.ROTATE_270,
    }.get(orientation)
    return quarters().transpose(turn) if turn is not None else quarters()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_turned_picture_is_decoded_upright(kind: str, orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = encoded(_turned(orientation), kind, exif=exif)
    for exact in (False, True):
        image = decoded(data, exact=exact)
        assert (image.width, image.height) == (64, 48)
        assert_near(image.pixels, quarters())


def test_a_scaled_picture_is_upright_too_and_tells_its_full_size() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    stored = quarters(640, 480).transpose(Pillow.Transpose.ROTATE_90)
    image = decoded(encoded(stored, "JPEG", exif=exif), at_least=100)
    assert (image.width, image.height, image.scale, image.pixels.shape) == (640, 480, 0.25, (120, 160, 3))


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x05"])
def test_damaged_exif_is_ignored(exif: bytes) -> None:
    assert decoded(encoded(quarters(), "JPEG", exif=exif or b"x")).width == 64


@pytest.mark.parametrize(("at_least", "scale"), [(None, 1), (400, 1), (201, 1), (200, 0.5), (100, 0.25), (1, 0.125)])
def test_a_jpeg_is_decoded_at_the_smallest_sufficient_scale(at_least: int | None, scale: float) -> None:
    image = decoded(photograph(), at_least)
    assert (image.scale, min(image.pixels.shape[:2])) == (scale, 400 * scale)


def test_the_fast_way_is_near_the_exact_one() -> None:
    exact, fast = decoded(photograph(), exact=True), decoded(photograph())
    with Pillow.open(io.BytesIO(photograph())) as reference:
        np.testing.assert_array_equal(exact.pixels, np.asarray(reference.convert("RGB")))
    assert_near(fast.pixels, exact.pixels, 3)


def test_a_jpeg_of_too_many_pixels_is_decoded_smaller_and_says_so() -> None:
    with limits.use(Limits(max_pixels=70_000)):
        for exact in (False, True):
            image = decoded(photograph(), exact=exact)
            assert (image.scale, image.pixels.shape, image.width) == (0.5, (200, 300, 3), 600)
    with limits.use(Limits(max_pixels=3_000)), pytest.raises(InputTooLarge, match="max_pixels"):
        decoded(photograph())


def test_other_formats_of_too_many_pixels_are_refused_before_decoding() -> None:
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", b"")
    )
    with pytest.raises(InputTooLarge, match="60,000 x 60,000"):
        decoded(bomb)


def test_a_jpeg_whose_true_size_hides_behind_a_small_one_is_refused_or_held_to_the_limit() -> None:
    # What our reader and libjpeg made of `FF 00` differed: it was a segment to us, and nothing to libjpeg.
    data = encoded(quarters(), "JPEG")
    at = data.index(b"\xff\xc0")
    frame = data[at : data.index(b"\xff\xc4")]
    huge = frame[:5] + struct.pack(">HH", 20000, 20000) + frame[9:]
    hidden = b"\xff\x00" + struct.pack(">H", 2 + len(huge)) + huge
    with pytest.raises((InputTooLarge, CorruptMedia)):
        decoded(data[:at] + hidden + data[at:])


@pytest.mark.parametrize(("progressive", "why"), [(True, "scans"), (False, "damaged")])
def test_a_jpeg_of_very_many_scans_is_refused_whatever_its_kind(progressive: bool, why: str) -> None:
    data = encoded(quarters(), "JPEG", progressive=progressive)
    at = data.index(b"\xff\xda")
    length = struct.unpack_from(">H", data, at + 2)[0]
    with pytest.raises(CorruptMedia, match=why):
        decoded(data[:at] + data[at : at + 2 + length] * 500 + data[at:])


def test_pictures_of_one_colour_profile_share_its_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    monkeypatch.setattr(colour, "_new_transform", lambda profile, mode: made.append(profile))
    colour._kept_transform.cache_clear()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    for _ in range(3):
        colour._transform(profile, "RGB")
        colour._transform(profile + bytes(colour.LARGEST_KEPT), "RGB")
    assert made.count(profile) == 1
    assert len(made) == 4, "large profiles are not kept"


def test_a_tiff_of_one_huge_tile_is_refused() -> None:
    tags = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(322, 4, 1, 20000), (323, 4, 1, 20000), (324, 4, 1, 0), (325, 4, 1, 8)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    with pytest.raises(InputTooLarge, match="tile"):
        decoded(b"II*\0" + struct.pack("<I", 8) + directory + bytes(64))


def test_a_tiff_of_very_many_strips_is_refused() -> None:
    directory = struct.pack("<H", 1) + struct.pack("<HHII", 273, 4, 200_000, 26) + bytes(4)
    with pytest.raises(InputTooLarge, match="strips"):
        decoded(b"II*\0" + struct.pack("<I", 8) + directory + bytes(4 * 200_000 + 64))


def test_a_bigtiff_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedMedia, match="BigTIFF"):
        decoded(b"II+\0\x08\0\0\0" + bytes(64))


def test_a_progressive_jpeg_that_would_fill_the_memory_is_refused() -> None:
    data = encoded(quarters(), "JPEG", progressive=True)
    at = data.index(b"\xff\xc2") + 5
    with pytest.raises(InputTooLarge, match="progressive"):
        decoded(data[:at] + struct.pack(">HH", 20000, 20000) + data[at + 4 :])


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = encoded(quarters(), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(CorruptMedia, match="scans"):
        decoded(data[:-2] + scan * 300 + b"\xff\xd9")


def test_transparent_pixels_show_white_behind_them() -> None:
    picture = Pillow.new("RGBA", (20, 10), (200, 0, 0, 0))
    picture.paste((0, 0, 200, 128), (0, 0, 10, 10))
    pixels = decoded(encoded(picture, "PNG")).pixels
    assert pixels[5, 15].tolist() == [255, 255, 255]
    assert pixels[5, 5].tolist() == [127, 127, 227]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_white_on_nothing_is_shown_on_black(kind: str) -> None:
    picture = Pillow.new("RGBA", (40, 20), (255, 255, 255, 0))
    picture.paste((255, 255, 255, 255), (10, 5, 30, 15))
    pixels = decoded(encoded(picture, kind)).pixels
    assert pixels[10, 20].min() > 250
    assert pixels[1, 1].max() < 5


def test_a_white_picture_without_gaps_stays_white() -> None:
    assert decoded(encoded(Pillow.new("RGBA", (9, 9), (255,) * 4), "PNG")).pixels.min() == 255


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F", "La", "RGBa", "HSV", "RGBX"],
)
def test_every_mode_of_pillow_gives_what_a_person_sees(mode: str) -> None:
    from sensorium.media.colour import as_rgb

    grey = Pillow.linear_gradient("L")  # black at the top, white at the bottom
    picture = {
        "I": lambda: Pillow.fromarray(np.asarray(grey).astype(np.int32) * 257),
        "I;16": lambda: Pillow.fromarray(np.asarray(grey).astype(np.uint16) * 257),
        "F": lambda: Pillow.fromarray(np.asarray(grey).astype(np.float32) / 255),
        "P": lambda: grey.convert("P"),
        "La": lambda: grey.convert("LA").convert("La"),
        "RGBa": lambda: grey.convert("RGBA").convert("RGBa"),
        "PA": lambda: grey.convert("P").convert("PA"),
        "LAB": lambda: _in_lab(grey.convert("RGB")),
    }.get(mode, lambda: grey.convert("RGB").convert(mode))()
    assert picture.mode == mode
    assert_near(as_rgb(picture), (picture if mode == "1" else grey).convert("RGB"), 3)


def _in_lab(picture: Pillow.Image) -> Pillow.Image:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.applyTransform(picture, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    assert converted is not None
    return converted


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    numbers = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    expected = np.repeat((numbers / 257)[..., None], 3, 2)
    for kind in ("PNG", "TIFF"):
        assert_near(decoded(encoded(Pillow.fromarray(numbers), kind)).pixels, expected, 1)


def test_a_tiff_of_sixteen_bits_that_counts_from_white_is_turned() -> None:
    numbers = np.linspace(0, 65535, 64 * 48).astype("<u2").reshape(48, 64)
    data = encoded(Pillow.fromarray(numbers), "TIFF")
    photometric = struct.pack("<HHII", 262, 3, 1, 1)
    assert data.count(photometric) == 1
    white_is_zero = data.replace(photometric, struct.pack("<HHII", 262, 3, 1, 0))
    expected = np.repeat(255 - (numbers / 257)[..., None], 3, 2)
    assert_near(decoded(white_is_zero).pixels, expected, 1)


def test_floats_beyond_all_ranges_are_stretched_and_holes_are_black() -> None:
    numbers = np.linspace(-3, 7, 64 * 48).astype(np.float32).reshape(48, 64)
    numbers[0, 1] = np.nan
    pixels = decoded(encoded(Pillow.fromarray(numbers), "TIFF")).pixels
    assert (pixels[0, 0, 0], pixels[0, 1, 0], pixels[-1, -1, 0]) == (0, 0, 255)


def test_a_transparent_colour_of_sixteen_bits_is_found() -> None:
    pixels = np.zeros((4, 4, 3), ">u2")
    pixels[:2] = (40000, 30000, 20000)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
        + _chunk(b"tRNS", struct.pack(">HHH", 40000, 30000, 20000))
        + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )
    seen = decoded(data).pixels
    assert seen[0, 0].tolist() == [255, 255, 255]
    assert seen[3, 3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("exact", [False, True])
def test_cmyk_as_adobe_writes_it_is_not_inverted(exact: bool) -> None:
    data = encoded(quarters().convert("CMYK"), "JPEG", quality=95)  # Pillow writes it inverted, as Adobe does
    assert_near(decoded(data, exact=exact).pixels, quarters())


@pytest.mark.parametrize("exact", [False, True])
def test_a_grey_jpeg_has_three_equal_channels(exact: bool) -> None:
    pixels = decoded(encoded(quarters().convert("L"), "JPEG"), exact=exact).pixels
    assert pixels.shape == (48, 64, 3)
    assert np.ptp(pixels, axis=2).max() == 0


def _swapping_profile() -> bytes:
    """A profile whose red is sRGB's green and the other way round: converting shows."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be")).replace(b"sRGB", b"mine")
    return profile.replace(b"rXYZ", b"tmpZ").replace(b"gXYZ", b"rXYZ").replace(b"tmpZ", b"gXYZ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("exact", [False, True])
def test_a_colour_profile_is_converted_to_srgb(kind: str, exact: bool) -> None:
    data = encoded(Pillow.new("RGB", (32, 32), (255, 0, 0)), kind, icc_profile=_swapping_profile(), quality=95)
    red, green, _ = decoded(data, exact=exact).pixels[16, 16].tolist()
    assert red < 60
    assert green > 200


@pytest.mark.parametrize("profile", [b"junk", _swapping_profile()[:200], b"\0" * 128])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_broken_colour_profile_is_ignored(kind: str, profile: bytes) -> None:
    assert_near(decoded(encoded(quarters(), kind, icc_profile=profile)).pixels, quarters())


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Pillow.new("RGB", (20, 20), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        pixels = decoded(encoded(frames[0], kind, save_all=True, append_images=frames[1:])).pixels
        assert pixels[10, 10].tolist()[0] > 200


@pytest.mark.parametrize("kind", SAVED)
def test_half_a_picture_is_refused(kind: str) -> None:
    noise = Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8))
    data = encoded(noise, kind)
    for exact in (False, True):
        with pytest.raises(CorruptMedia):
            decoded(data[: len(data) // 2], exact=exact)


def test_a_harmless_oddity_of_a_jpeg_is_accepted() -> None:
    data = jpeg()
    odd = data[:2] + b"\xff\xff" + data[3:] + b"bytes behind the end"
    np.testing.assert_array_equal(decoded(odd).pixels, decoded(data).pixels)


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(png())
    at = data.index(b"IDAT")
    data[at + 4 + struct.unpack_from(">I", data, at - 4)[0]] ^= 1
    with pytest.raises(CorruptMedia, match="checksum"):
        decoded(bytes(data))


def test_a_jpeg_of_twelve_bits_is_named_as_such() -> None:
    data = bytearray(jpeg())
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(UnsupportedMedia, match="12 bits"):
        decoded(bytes(data))


def test_nothing_is_left_for_pillow_to_warn_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        big = encoded(Pillow.new("1", (9500, 9500)), "PNG")  # beyond PIL.Image.MAX_IMAGE_PIXELS
        with limits.use(Limits(max_pixels=100_000_000)):
            assert decoded(big).width == 9500


def test_reading_the_header_agrees_with_the_decoder() -> None:
    for data in (photograph(), jpeg(), encoded(quarters(), "JPEG", progressive=True, subsampling=0)):
        header = jpeg_file.read_header(data, "test")
        assert simplejpeg.decode_jpeg_header(data)[:2] == (header.height, header.width)


def test_without_alpha_and_profile_the_exact_way_is_pillows(shared_data: Path) -> None:
    for path in sorted((shared_data / "bad" / "exif-orientation").glob("*.jpg"))[:3]:
        with Pillow.open(path) as reference:
            upright = np.asarray(ImageOps.exif_transpose(reference).convert("RGB"))
        np.testing.assert_array_equal(decoded(path.read_bytes(), exact=True).pixels, upright)


_SEEDS = [encoded(quarters(24, 16), kind) for kind in SAVED] + [encoded(quarters(24, 16), "JPEG", progressive=True)]


@settings(
    max_examples=400, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    seed=st.sampled_from(_SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.none() | st.floats(0, 1),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_give_a_picture_or_one_clear_error(
    seed: bytes, changes: list[tuple[float, int]], cut: float | None
) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[int(place * len(data))] = value
    if cut is not None:
        data = data[: int(cut * len(data))]
    try:
        image = Source.of(bytes(data)).image_now()
    except SensoriumError:
        return
    assert image.pixels.shape == (image.height, image.width, 3)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
