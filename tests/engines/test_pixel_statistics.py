"""Colours, light and sharpness: exact on pictures made to measure, sensible on photographs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from sensorium.engine import Call, Host
from sensorium.engines.local.pixel_statistics import BLURRED, CARDS, NAMES, Engine
from sensorium.errors import InvalidInput
from sensorium.media.source import Source
from sensorium.schemas.describe_pixels import DescribePixelsRequest, PixelDescription
from tests.pictures import encoded, skimage_photograph

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")


async def describe(picture: Any, **fields: Any) -> PixelDescription:
    engine = Engine(CARDS[0], Host(Path("unused")))
    engine.load()
    source = Source.of(encoded(picture, "PNG") if isinstance(picture, Image.Image) else picture)
    return await engine.run(DescribePixelsRequest(image=source, **fields), Call())


def striped(*colours: str | tuple[int, int, int], width: int = 300, height: int = 200) -> Image.Image:
    """Upright stripes of equal width."""
    picture = Image.new("RGB", (width, height))
    for number, colour in enumerate(colours):
        picture.paste(colour, (number * width // len(colours), 0, width, height))
    return picture


async def test_half_black_half_white_has_all_the_contrast_there_is() -> None:
    seen = await describe(striped("black", "white"))
    assert (seen.brightness, seen.contrast, seen.aspect, seen.megapixels) == (0.5, 0.5, 1.5, 0.06)
    assert {(colour.hex, colour.name) for colour in seen.colours} == {("#000000", "black"), ("#ffffff", "white")}
    assert [colour.share for colour in seen.colours] == pytest.approx([0.5, 0.5], abs=0.01)


async def test_a_picture_of_one_colour_has_one_colour_and_no_contrast() -> None:
    seen = await describe(Image.new("RGB", (640, 480), (200, 100, 50)))
    assert [(colour.hex, colour.share) for colour in seen.colours] == [("#c86432", 1.0)]
    assert (seen.contrast, seen.sharpness, seen.blurred) == (0, 0, True)


async def test_colours_come_by_share_and_no_more_than_asked_for() -> None:
    picture = Image.new("RGB", (100, 100), "red")
    picture.paste("blue", (0, 0, 100, 30))
    picture.paste("yellow", (0, 0, 100, 10))
    names = [(colour.name, colour.share) for colour in (await describe(picture)).colours]
    assert [name for name, _ in names] == ["red", "blue", "yellow"]
    assert [share for _, share in names] == pytest.approx([0.7, 0.2, 0.1], abs=0.02)
    assert [colour.name for colour in (await describe(picture, colours=1)).colours] == ["red"]


@pytest.mark.parametrize("name", NAMES)
async def test_each_basic_colour_has_its_name(name: str) -> None:
    common = {"grey": "gray", "green": "#00a000", "purple": "purple"}.get(name, name)
    (colour,) = (await describe(Image.new("RGB", (32, 32), common))).colours
    assert colour.name == name


async def test_shades_that_look_alike_are_one_colour() -> None:
    (colour,) = (await describe(striped((100, 100, 100), (108, 108, 108)))).colours
    assert colour.share == 1
    assert colour.hex == "#686868"


@pytest.mark.parametrize("name", PHOTOGRAPHS)
async def test_a_photograph_is_sharp_and_its_blurred_copy_is_not(name: str) -> None:
    with Image.open(skimage_photograph(name)) as opened:
        picture = opened.convert("RGB")
    blurred = picture.filter(ImageFilter.GaussianBlur(2 * max(picture.size) / 512))
    assert not (await describe(picture)).blurred
    assert (await describe(blurred)).blurred


async def test_sharp_photographs_are_rarely_called_blurred(shared_data: Path) -> None:
    files = sorted((shared_data / "images-imagenet").glob("*.JPEG"))[::10]
    seen = await asyncio.gather(*(describe(file) for file in files))
    assert len(seen) == 30
    assert sum(one.blurred for one in seen) <= 1
    assert all(one.blurred == (one.sharpness < BLURRED) for one in seen)


async def test_a_larger_copy_of_a_photograph_is_described_alike() -> None:
    with Image.open(skimage_photograph("coffee.png")) as opened:
        picture = opened.convert("RGB")
    small = await describe(encoded(picture, "JPEG", quality=95))
    large = await describe(encoded(picture.resize((4800, 3200), Image.Resampling.BICUBIC), "JPEG", quality=95))
    assert large.image.scale < 1
    assert (large.image.width, large.megapixels) == (4800, 15.36)
    assert (large.brightness, large.contrast) == pytest.approx((small.brightness, small.contrast), abs=0.01)
    assert large.sharpness == pytest.approx(small.sharpness, rel=0.25)
    assert [colour.name for colour in large.colours[:3]] == [colour.name for colour in small.colours[:3]]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (10000, 1), (3, 2)])
async def test_pictures_of_any_shape_are_described(size: tuple[int, int]) -> None:
    seen = await describe(Image.new("RGB", size, "navy"))
    assert seen.megapixels == pytest.approx(size[0] * size[1] / 1e6)
    assert seen.aspect == pytest.approx(size[0] / size[1], rel=1e-3)
    assert [(colour.name, colour.share) for colour in seen.colours] == [("blue", 1.0)]


async def test_noise_has_colours_too_and_always_the_same() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    seen = [await describe(noise, colours=16) for _ in range(2)]
    assert seen[0] == seen[1]
    assert 1 <= len(seen[0].colours) <= 16
    assert sum(colour.share for colour in seen[0].colours) <= 1.001


async def test_many_at_once_answer_as_one_by_one() -> None:
    files = [skimage_photograph(name) for name in PHOTOGRAPHS]
    alone = [await describe(file) for file in files]
    assert await asyncio.gather(*(describe(file) for file in files)) == alone


async def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(InvalidInput):
        await describe(b"no picture")
