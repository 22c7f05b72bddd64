"""Tiles cover a picture, overlap, end at its border, and none is inside another."""

from __future__ import annotations

import io
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from sensorium.errors import InvalidRequest
from sensorium.media import limits
from sensorium.media.limits import Limits
from sensorium.media.source import Source
from sensorium.media.tiles import Tile, cut, places
from tests.pictures import encoded, photograph

lengths = st.integers(1, 400)
sides = st.integers(48, 300).flatmap(lambda side: st.tuples(st.just(side), st.integers(0, side // 2)))


def inside(one: Tile, other: Tile) -> bool:
    return other.left <= one.left and other.top <= one.top and one.right <= other.right and one.bottom <= other.bottom


@given(lengths, lengths, sides)
def test_every_pixel_is_in_a_tile(width: int, height: int, how: tuple[int, int]) -> None:
    seen = np.zeros((height, width), bool)
    for tile in places(width, height, *how):
        seen[tile.top : tile.bottom, tile.left : tile.right] = True
    assert seen.all()


@given(lengths, lengths, sides)
def test_no_tile_is_inside_another_and_none_leaves_the_picture(width: int, height: int, how: tuple[int, int]) -> None:
    tiles = places(width, height, *how)
    assert not any(inside(one, other) or inside(other, one) for one, other in combinations(tiles, 2))
    assert all(inside(tile, Tile(0, 0, width, height)) for tile in tiles)
    assert max(tile.right for tile in tiles) == width
    assert max(tile.bottom for tile in tiles) == height


@given(lengths, lengths, sides)
def test_all_tiles_have_one_size_and_neighbours_share_the_overlap(
    width: int, height: int, how: tuple[int, int]
) -> None:
    side, overlap = how
    tiles = places(width, height, side, overlap)
    assert {(tile.right - tile.left, tile.bottom - tile.top) for tile in tiles} == {
        (min(side, width), min(side, height))
    }
    lefts = sorted({tile.left for tile in tiles})
    assert all(left + side - right >= overlap for left, right in pairwise(lefts))


@given(st.integers(1, 200), st.integers(1, 50).flatmap(lambda side: st.tuples(st.just(side), st.integers(0, side - 1))))
def test_any_overlap_that_is_less_than_a_side_will_do(width: int, how: tuple[int, int]) -> None:
    tiles = places(width, 1, *how)
    starts = [tile.left for tile in tiles]
    assert starts == sorted(set(starts))
    assert {x for tile in tiles for x in range(tile.left, tile.right)} == set(range(width))


def test_the_defaults_are_those_that_the_pages_name() -> None:
    tiles = places(1000, 512)
    assert tiles == (Tile(0, 0, 512, 512), Tile(448, 0, 960, 512), Tile(488, 0, 1000, 512))


async def test_tiles_show_what_is_there() -> None:
    whole = np.asarray(Pillow.open(io.BytesIO(photograph())), int)
    parts = await cut(Source.of(photograph()), 256, 32)
    assert (parts.width, parts.height) == (600, 400)
    for tile, source in parts.tiles:
        part = np.asarray(Pillow.open(io.BytesIO(source.read_now())), int)
        there = whole[tile.top : tile.bottom, tile.left : tile.right]
        assert part.shape == there.shape
        assert np.abs(part - there).mean() < 5


async def test_places_are_pixels_of_the_picture_as_sent_though_it_was_decoded_smaller() -> None:
    with limits.use(Limits(max_pixels=100_000)):
        parts = await cut(Source.of(photograph()), 256, 32)
    assert (parts.width, parts.height) == (600, 400)
    assert [tile for tile, _ in parts.tiles] == [Tile(0, 0, 512, 400), Tile(88, 0, 600, 400)]


async def test_more_parts_than_allowed_are_refused_before_any_is_encoded() -> None:
    with pytest.raises(InvalidRequest, match=r"cut into 4 parts: it has 300 x 300 pixels, `tile` is 200, and 3 parts"):
        await cut(Source.of(encoded(Pillow.new("L", (300, 300)), "PNG")), 200, most=3)
