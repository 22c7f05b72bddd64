"""Pictures become what a model takes: no larger than it uses, upright, opaque, sRGB; and stay as they are if they may."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageCms, ImageDraw

from sensorium.errors import CorruptMedia, InputTooLarge, UnidentifiedMedia
from sensorium.media import limits
from sensorium.media.encode import LONGEST_JPEG_SIDE, Terms, fitted, scaled, within
from sensorium.media.limits import Limits
from sensorium.media.pool import BUDGET
from sensorium.media.source import Source
from tests.pictures import encoded, jpeg, photograph, png, skimage_photograph

WHOLE = Terms(size=lambda width, height: (width, height))
SMALL = Terms(size=within(100))


async def opened(data: bytes, terms: Terms) -> Pillow.Image:
    """What a viewer makes of the fitted picture, without turning it."""
    return _viewed(await fitted(Source.of(data), terms))


def _viewed(source: Source) -> Pillow.Image:
    return Pillow.open(io.BytesIO(source.read_now()))


def page(width: int = 800, height: int = 500) -> Pillow.Image:
    """A screenshot: one colour, with words on it."""
    picture = Pillow.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for top in range(10, height, 20):
        draw.text((10, top), f"{top} The quick brown fox jumps over the lazy dog", fill=(200, 0, 0))
    return picture


async def test_a_large_picture_is_sent_no_larger_than_asked_for() -> None:
    picture = await opened(jpeg(640, 480), SMALL)
    assert (picture.format, picture.size) == ("JPEG", (100, 75))
    before = Pillow.open(io.BytesIO(jpeg(640, 480))).resize((100, 75), Pillow.Resampling.BOX)
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(before)).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
async def test_a_picture_that_needs_no_change_is_the_same_source_and_is_not_decoded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source.of(encoded(page(90, 60), kind))
    for way in ("OpenedJpeg", "OpenedByPillow", "OpenedWebp"):
        monkeypatch.setattr(f"sensorium.media.decode.{way}.pixels", None)
    assert await fitted(source, SMALL) is source


async def test_a_picture_is_never_made_larger() -> None:
    source = Source.of(jpeg(64, 48))
    assert await fitted(source, Terms(size=within(1000))) is source
    assert (await opened(encoded(page(64, 48), "BMP"), Terms(size=within(1000)))).size == (64, 48)


def test_a_size_is_never_nothing_and_never_more() -> None:
    assert within(100)(10_000, 1) == (100, 1)
    assert within(100)(50, 20) == (50, 20)
    assert scaled(3, 5, 7.0) == (3, 5)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 3000))
def test_a_size_within_a_side_keeps_the_shape(width: int, height: int, side: int) -> None:
    across, down = within(side)(width, height)
    assert 1 <= across <= min(width, max(side, 1))
    assert 1 <= down <= min(height, max(side, 1))
    by = min(1, side / max(width, height))
    assert abs(across - width * by) <= 1
    assert abs(down - height * by) <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
async def test_what_is_transparent_shows_white(mode: str) -> None:
    picture = Pillow.new("RGBA", (40, 40), (0, 0, 0, 0))
    picture.paste((200, 0, 0, 255), (0, 0, 20, 40))
    data = encoded(picture.convert(mode), "PNG", **({"transparency": 0} if mode == "P" else {}))
    if mode == "P":
        assert "transparency" in Pillow.open(io.BytesIO(data)).info
    fit = await opened(data, WHOLE)
    assert fit.mode == "RGB"
    assert min(np.asarray(fit)[20, 35]) > 250
    assert np.asarray(fit)[20, 5, 1] < 90


async def test_half_transparent_pixels_are_mixed_with_white() -> None:
    fit = await opened(encoded(Pillow.new("RGBA", (16, 16), (255, 0, 0, 128)), "PNG"), WHOLE)
    assert np.abs(np.asarray(fit)[8, 8].astype(int) - (255, 127, 127)).max() < 4


@pytest.mark.parametrize("orientation", range(2, 9))
async def test_a_turned_photograph_is_sent_upright(orientation: int) -> None:
    turned = Pillow.new("RGB", (60, 30), "blue")
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    fit = await opened(encoded(turned, "JPEG", exif=exif), WHOLE)
    assert fit.size == ((30, 60) if orientation >= 5 else (60, 30))
    assert fit.getexif().get(0x0112, 1) == 1


async def test_an_upright_photograph_with_exif_passes() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 1
    source = Source.of(encoded(page(90, 60), "JPEG", exif=exif))
    assert await fitted(source, SMALL) is source


async def test_real_turned_photographs_all_become_the_same(shared_data: Path) -> None:
    found = [
        np.asarray(_viewed(await fitted(Source.of(path), SMALL)), int)
        for path in sorted((shared_data / "bad" / "exif-orientation").glob("*.jpg"))
    ]
    assert len(found) == 9
    assert all(one.shape == (67, 100, 3) for one in found)
    assert all(np.abs(one - found[0]).mean() < 12 for one in found)


async def test_sixteen_bits_become_eight() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(8, axis=0)
    fit = await opened(encoded(Pillow.fromarray(ramp), "PNG"), WHOLE)
    assert fit.mode in ("RGB", "L")
    levels = np.asarray(fit.convert("L"))[4]
    assert levels[0] < 6
    assert abs(int(levels[32]) - 129) < 6
    assert levels[-1] > 249


async def test_sixteen_bits_of_colour_become_eight() -> None:
    import cv2

    deep = np.full((20, 20, 3), (10_000, 30_000, 60_000), np.uint16)
    _, data = cv2.imencode(".png", deep)
    source = Source.of(bytes(data))
    fit = await fitted(source, WHOLE)
    assert fit is not source
    assert np.abs(np.asarray(_viewed(fit).convert("RGB"))[10, 10].astype(int) - (234, 117, 39)).max() < 6


async def test_inks_become_colours() -> None:
    fit = await opened(encoded(Pillow.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG"), WHOLE)
    assert fit.mode == "RGB"
    red, green, blue = np.asarray(fit)[16, 16].astype(int)
    assert red > 200
    assert max(green, blue) < 60


async def test_another_colour_profile_becomes_srgb() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    plain = encoded(page(90, 60), "JPEG")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    said_srgb = Source.of(encoded(page(90, 60), "JPEG", icc_profile=srgb))
    other = Source.of(encoded(page(90, 60), "JPEG", icc_profile=lab))
    assert await fitted(said_srgb, WHOLE) is said_srgb
    fit = await fitted(other, WHOLE)
    assert fit is not other
    assert "icc_profile" not in _viewed(fit).info
    assert len(plain) < len(said_srgb.read_now())


async def test_the_first_frame_of_an_animation_is_sent() -> None:
    frames = [Pillow.new("RGB", (30, 20), hue) for hue in ("red", "lime")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        fit = await opened(data, WHOLE)
        assert getattr(fit, "n_frames", 1) == 1
        assert fit.format in ("JPEG", "PNG")
        assert np.asarray(fit.convert("RGB"))[10, 10, 0] > 230


async def test_lines_of_single_pixels_are_sent() -> None:
    assert (await opened(encoded(Pillow.new("L", (10_000, 1)), "PNG"), SMALL)).size == (100, 1)
    assert (await opened(encoded(Pillow.new("RGB", (1, 3000)), "BMP"), SMALL)).size == (1, 100)
    assert (await opened(encoded(Pillow.new("RGB", (1, 1)), "GIF"), SMALL)).size == (1, 1)


async def test_a_side_longer_than_a_jpeg_can_have_is_made_shorter() -> None:
    fit = await opened(encoded(Pillow.new("RGB", (70_000, 4)), "PNG"), WHOLE)
    assert fit.size == (LONGEST_JPEG_SIDE, 4)


async def test_damaged_and_foreign_bytes_are_refused_by_name() -> None:
    with pytest.raises(CorruptMedia):
        await fitted(Source.held(photograph()[:300], "half.jpg"), SMALL)
    with pytest.raises(CorruptMedia, match=r"half\.jpg"):
        await fitted(Source.held(photograph()[:5000], "half.jpg"), SMALL)
    with pytest.raises(UnidentifiedMedia):
        await fitted(Source.held(b"", "empty"), SMALL)


async def test_a_picture_beyond_the_limit_is_refused_from_its_header() -> None:
    with limits.use(Limits(max_pixels=1000)), pytest.raises(InputTooLarge, match="max_pixels"):
        await fitted(Source.of(png(64, 48)), SMALL)


async def test_a_jpeg_beyond_the_limit_is_decoded_smaller_and_not_made_larger_again() -> None:
    with limits.use(Limits(max_pixels=2000)):
        assert (await opened(jpeg(64, 48), WHOLE)).size == (64, 48), "it needs no decoding"
        turned = Terms(size=lambda width, height: (width - 1, height - 1))
        assert (await opened(jpeg(64, 48), turned)).size == (32, 24)


async def test_a_screenshot_stays_sharp_where_that_is_smaller() -> None:
    data = encoded(page(), "BMP")
    fit = await opened(data, WHOLE)
    assert fit.format == "PNG"
    assert np.array_equal(np.asarray(fit), np.asarray(page()))
    only_jpeg = await opened(data, Terms(size=WHOLE.size, takes=("jpeg",)))
    assert only_jpeg.format == "JPEG"


async def test_a_photograph_without_loss_becomes_a_jpeg() -> None:
    data = encoded(Pillow.open(skimage_photograph("coffee.png")), "BMP")
    fit = await fitted(Source.of(data), WHOLE)
    assert _viewed(fit).format == "JPEG"
    assert len(fit.read_now()) < len(data) / 5


async def test_a_model_that_takes_no_jpeg_gets_a_png() -> None:
    terms = Terms(size=within(100), takes=("png",))
    assert (await opened(photograph(), terms)).format == "PNG"
    assert (await opened(png(64, 48), terms)).format == "PNG"


def noise(width: int, height: int) -> Pillow.Image:
    return Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("takes", [("jpeg", "png"), ("png",)])
@pytest.mark.parametrize("most", [60_000, 20_000, 5_000])
async def test_the_providers_bytes_are_kept(most: int, takes: Any) -> None:
    terms = Terms(size=within(300), takes=takes, max_bytes=most)
    fit = await fitted(Source.of(encoded(noise(400, 300), "PNG")), terms)
    assert 0 < len(fit.read_now()) <= most
    across, down = _viewed(fit).size
    assert abs(across / down - 4 / 3) < 0.06


async def test_quality_is_lowered_before_size() -> None:
    data = encoded(noise(300, 225), "BMP")
    free = await fitted(Source.of(data), Terms(size=within(300)))
    assert _viewed(free).format == "JPEG"
    tight = await fitted(Source.of(data), Terms(size=within(300), max_bytes=len(free.read_now()) - 1))
    assert _viewed(tight).size == (300, 225)


async def test_bytes_that_cannot_be_kept_are_an_error_with_limit_and_size() -> None:
    with pytest.raises(InputTooLarge, match=r"noise\.png cannot be made small enough: .* 200 bytes .* still has \d+"):
        await fitted(Source.held(encoded(noise(400, 300), "PNG"), "noise.png"), Terms(size=within(300), max_bytes=200))


async def test_the_pixels_are_given_back() -> None:
    before = BUDGET.used
    await fitted(Source.of(jpeg(640, 480)), SMALL)
    assert before == BUDGET.used


async def test_real_pictures_become_fit_whatever_they_are(shared_data: Path) -> None:
    for path in sorted((shared_data / "images-imagenet").glob("*.JPEG"))[:12]:
        fit = await fitted(Source.of(path), Terms(size=within(256)))
        picture = _viewed(fit)
        picture.load()
        assert max(picture.size) <= 256
        assert picture.mode in ("RGB", "L")


@settings(max_examples=40)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    st.integers(1, 100),
)
async def test_any_kind_of_pixels_becomes_what_a_model_takes(width: int, height: int, mode: str, side: int) -> None:
    picture = Pillow.new("RGB", (width, height), (10, 200, 90)).convert("L" if mode == "I;16" else mode)
    data = encoded(picture.convert("I;16") if mode == "I;16" else picture, "PNG")
    fit = await opened(data, Terms(size=within(side)))
    assert fit.mode in ("RGB", "L", "P", "1")
    assert max(fit.size) <= max(side, 1)
