"""Large pictures in overlapping parts, so that small things stay large enough to be seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from sensorium.errors import InvalidRequest
from sensorium.media.encode import as_jpeg
from sensorium.media.image import Image
from sensorium.media.source import Source

SIDE, OVERLAP, QUALITY = 512, 64, 90
"""Pixels of a tile's side, and of what neighbours share: about the height of a line of text, or of a face in a crowd."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a picture, in pixels from its top left corner."""

    left: int
    top: int
    right: int
    bottom: int


def places(width: int, height: int, side: int = SIDE, overlap: int = OVERLAP) -> tuple[Tile, ...]:
    """The tiles that cover a picture, row by row; all of one size, none inside another, the last ones at the border.

    A picture no longer than `side` is not cut in that direction. `overlap` must be less than `side`.
    """
    across, down = _spans(width, side, overlap), _spans(height, side, overlap)
    return tuple(Tile(left, top, right, bottom) for (top, bottom), (left, right) in product(down, across))


def _spans(length: int, side: int, overlap: int) -> list[tuple[int, int]]:
    if length <= side:
        return [(0, length)]
    starts = [*range(0, length - side, side - overlap), length - side]
    return [(start, start + side) for start in starts]


@dataclass(frozen=True, slots=True)
class Cut:
    """A picture in parts."""

    width: int
    """Pixels across, of the upright picture as sent; `Tile`s are in these pixels too."""
    height: int
    tiles: tuple[tuple[Tile, Source], ...]


async def cut(
    source: Source, side: int = SIDE, overlap: int = OVERLAP, quality: int = QUALITY, most: int | None = None
) -> Cut:
    """The picture in tiles, each a JPEG. Decoded once, in a pool thread, and cut there.

    Raises InvalidRequest when there would be more than `most`, and as `Source.image`.
    """

    def parts(image: Image) -> Cut:
        height, width = image.pixels.shape[:2]
        tiles = places(width, height, side, overlap)
        if most is not None and len(tiles) > most:
            raise _too_many(image, len(tiles), side, most)
        return Cut(image.width, image.height, tuple(_encoded(image, tiles, quality, source.name)))

    return await source.image(then=parts)


def _encoded(image: Image, tiles: Sequence[Tile], quality: int, name: str) -> Iterator[tuple[Tile, Source]]:
    for number, tile in enumerate(tiles, 1):
        part = image.pixels[tile.top : tile.bottom, tile.left : tile.right]
        yield _as_sent(tile, image), Source.held(as_jpeg(part, quality, image.format), f"part {number} of {name}")


def _as_sent(tile: Tile, image: Image) -> Tile:
    """A JPEG of more pixels than the limit is decoded smaller."""
    if image.scale == 1:
        return tile
    many = round(1 / image.scale)
    return Tile(
        tile.left * many,
        tile.top * many,
        min(tile.right * many, image.width),
        min(tile.bottom * many, image.height),
    )


def _too_many(image: Image, tiles: int, side: int, most: int) -> InvalidRequest:
    return InvalidRequest(
        f"The picture would be cut into {tiles} parts",
        why=f"it has {image.width} x {image.height} pixels, `tile` is {side}, and {most} parts are allowed",
        fix="Give a larger `tile`",
    )
