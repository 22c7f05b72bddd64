"""From encoded bytes to an upright RGB picture. The header first; what is too large is refused before it costs."""

from __future__ import annotations

import functools
import importlib
import io
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from sensorium.errors import CorruptMedia, InputTooLarge, SensoriumError, UnsupportedMedia
from sensorium.media import avif, colour, jpeg, webp
from sensorium.media.damage import refuse_damaged, silence_libtiff
from sensorium.media.exif import ORIENTATION, orientation_in, turned_upright
from sensorium.media.identify import Kind, picture_kind
from sensorium.media.image import Image, Pixels
from sensorium.media.limits import Limits
from sensorium.telemetry import TELEMETRY

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


# What Pillow warns of ("Invalid APNG", odd tags) is either decoded all the same, or refused by an error of ours.
warnings.filterwarnings("ignore", module=r"PIL\.")

_DECODED = TELEMETRY.decode_seconds[()]

TILE_WIDTH, TILE_LENGTH = 322, 323
"""Tags of a TIFF."""

LONGEST_SIDE = 1_000_000
"""Pixels across or down: Pillow keeps eight bytes a row, and each strip of a TIFF is a place of its own."""

AVIF_BYTES_A_PIXEL = 3.5
"""Of the decoder's own samples, times `max_pixels`; the answer takes twice as much again. Ten bits, or full colour, or
transparency fit for any picture within the limit; all of them together for fewer pixels."""

LARGEST_RLE = 4_000_000
"""Bytes of a run-length BMP: Pillow decodes it in Python, 18 MB in over five seconds (measured)."""


def look(data: bytes, name: str, limits: Limits) -> Opened:
    """The picture with its header read and found acceptable; nothing decoded.

    Raises UnidentifiedMedia, UnsupportedMedia, CorruptMedia, or InputTooLarge.
    """
    opened = describe(data, name)
    opened.check(limits)
    return opened


def describe(data: bytes, name: str) -> Opened:
    """As `look`, however large the picture is: only its header is to be told."""
    kind = picture_kind(data, name)
    with _as_ours(name, kind):
        return _OPENED.get(kind.format, OpenedByPillow)(data, name, kind)


class Told(NamedTuple):
    """What a header tells that decoding needs not know."""

    mode: str
    alpha: bool
    icc: bytes | None
    frames: int


class Opened(ABC):
    """A picture of which only the header is read."""

    width: int
    """Pixels across, as stored."""
    height: int
    orientation: int
    one_way: bool
    """Whether the fast and the exact way are the same."""

    def __init__(self, data: bytes, name: str, kind: Kind) -> None:
        self.data, self.name, self.kind = data, name, kind

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height, as a person sees it."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)

    @abstractmethod
    def check(self, limits: Limits) -> None:
        """Raise InputTooLarge when it has too many pixels, at any scale."""

    @abstractmethod
    def scale_for(self, at_least: int | None, limits: Limits) -> float:
        """The smallest scale whose shorter side has so many pixels, if that is within the limits; else the largest."""

    @abstractmethod
    def pixels(self, scale: float, exact: bool) -> Pixels:
        """RGB as stored: uint8 (height, width, 3). May raise anything."""

    def told(self) -> Told:
        """What its header tells."""
        with _as_ours(self.name, self.kind):
            picture: Any = getattr(self, "picture", None) or _opened_by_pillow(self.data, self.kind.format)
            frames = getattr(picture, "n_frames", 1) if self.kind.format in ("png", "webp", "avif") else 1
            return Told(picture.mode, colour.has_alpha(picture), picture.info.get("icc_profile"), frames)

    def pixels_at(self, scale: float) -> int:
        """How many pixels it has when decoded at this scale."""
        return jpeg.size_at(self.width, scale) * jpeg.size_at(self.height, scale)

    def decode(self, scale: float, exact: bool) -> Image:
        """The picture. Raises CorruptMedia, or InputTooLarge when memory does not suffice."""
        start = time.perf_counter()
        with TELEMETRY.span("decode"), _as_ours(self.name, self.kind):
            pixels = turned_upright(self.pixels(scale, exact), self.orientation)
        _DECODED.observe(time.perf_counter() - start)
        pixels.flags.writeable = False
        width, height = self.upright_size
        return Image(pixels, width, height, self.kind.format, scale)

    def _refuse_size(self, limits: Limits, why: str = "") -> InputTooLarge:
        return InputTooLarge(
            f"{self.name} is too large",
            why=why or f"{self.width:,} x {self.height:,} pixels, and {limits.max_pixels:,} are allowed (`max_pixels`)",
            fix="Send it smaller",
        )


class OpenedJpeg(Opened):
    """A JPEG: simplejpeg for what is grey or YCbCr, Pillow for the rest, for what is damaged, and when asked."""

    one_way = False

    def __init__(self, data: bytes, name: str, kind: Kind) -> None:
        super().__init__(data, name, kind)
        self.header = header = jpeg.read_header(data, name)
        self.width, self.height, self.orientation = header.width, header.height, header.orientation
        jpeg.refuse_another_size(data, header, name)
        if header.precision != 8:
            raise UnsupportedMedia(f"{name} cannot be decoded", why=f"it is a JPEG of {header.precision} bits a sample")

    def check(self, limits: Limits) -> None:
        if self.pixels_at(jpeg.SCALES[-1]) > limits.max_pixels:
            raise self._refuse_size(limits)
        # Two bytes of memory a sample, so eight a pixel of the limit.
        if self.header.buffered and self.header.samples > 4 * limits.max_pixels:
            raise self._refuse_size(limits, "a progressive JPEG of so many pixels takes too much memory")
        # Of another the decoder reads one scan, and looking through the file for more takes longer than its header.
        scans = jpeg.scans_in(self.data) if self.header.buffered else 1
        if scans > jpeg.MOST_SCANS or scans * self.header.samples > jpeg.MOST_SAMPLES_SCANNED:
            raise CorruptMedia(f"{self.name} cannot be decoded", why=f"it has {scans:,} scans", fix="Encode it anew")

    def scale_for(self, at_least: int | None, limits: Limits) -> float:
        allowed = [scale for scale in jpeg.SCALES if self.pixels_at(scale) <= limits.max_pixels]
        if at_least is None:
            return allowed[0]
        shorter = min(self.width, self.height)
        return min((scale for scale in allowed if jpeg.size_at(shorter, scale) >= at_least), default=allowed[0])

    def pixels(self, scale: float, exact: bool) -> Pixels:
        if not exact and self.header.is_plain:
            pixels = jpeg.decode_fast(self.data, self.header, scale)
            if pixels is not None:
                return colour.to_srgb(pixels, self.header.icc)
        return self._pixels_by_pillow(scale)

    def _pixels_by_pillow(self, scale: float) -> Pixels:
        picture: Any = _opened_by_pillow(self.data, "jpeg")
        picture.info["icc_profile"] = self.header.icc
        if scale < 1:
            picture.draft(None, (jpeg.size_at(self.width, scale), jpeg.size_at(self.height, scale)))
        picture.load()
        return colour.as_rgb(picture)


class OpenedByPillow(Opened):
    """Any other picture: one plugin of Pillow, chosen by what the content is."""

    one_way = True

    def __init__(self, data: bytes, name: str, kind: Kind) -> None:
        super().__init__(data, name, kind)
        refuse_damaged(data, kind.format, name)
        self.picture = _opened_by_pillow(data, kind.format)
        self.width, self.height = self.picture.size
        self.orientation = _orientation_of(self.picture)

    def check(self, limits: Limits) -> None:
        if self.width * self.height > limits.max_pixels:
            raise self._refuse_size(limits)
        if max(self.width, self.height) > LONGEST_SIDE:
            raise self._refuse_size(limits, f"a side of more than {LONGEST_SIDE:,} pixels is not decoded")
        if self._tile_pixels() > limits.max_pixels:
            raise self._refuse_size(limits, "its tiles have too many pixels")
        tiles = getattr(self.picture, "tile", ())
        if tiles and tiles[0][0] == "bmp_rle" and len(self.data) > LARGEST_RLE:
            raise self._refuse_size(limits, "a run-length BMP of so many bytes takes too long to decode")

    def _tile_pixels(self) -> int:
        """Of one tile of a TIFF, which is decoded whole though the picture may be smaller."""
        tags = getattr(self.picture, "tag_v2", {})
        sides = tags.get(TILE_WIDTH, 0), tags.get(TILE_LENGTH, 0)
        return math.prod(side for side in sides if isinstance(side, int))

    def pixels_at(self, scale: float) -> int:
        return max(super().pixels_at(scale), self._tile_pixels())

    def scale_for(self, at_least: int | None, limits: Limits) -> float:  # noqa: ARG002  # full size is all there is
        return 1.0

    def pixels(self, scale: float, exact: bool) -> Pixels:  # noqa: ARG002  # as above
        self.picture.load()
        # A PNG may tell its orientation after its pixels; a TIFF is turned by Pillow as it loads.
        self.width, self.height = self.picture.size
        self.orientation = _orientation_of(self.picture)
        return colour.as_rgb(self.picture)


class OpenedWebp(OpenedByPillow):
    """A WebP: its header by Pillow, its pixels without."""

    def pixels(self, scale: float, exact: bool) -> Pixels:  # noqa: ARG002  # there is one way, at full size
        samples = webp.first_frame(self.data, self.picture.size, self.name)
        return colour.flattened(samples, self.picture.info.get("icc_profile"))


class OpenedAvif(OpenedByPillow):
    """An AVIF, held to its limits by what is coded in it."""

    def __init__(self, data: bytes, name: str, kind: Kind) -> None:
        super().__init__(data, name, kind)
        self.structure = found = avif.structure(data)
        sizes = {(it.width, it.height) for it in found.of_items + found.of_tracks}
        if not sizes or not (found.in_grid or (self.width, self.height) in sizes):
            raise CorruptMedia(
                f"{name} cannot be decoded", why="it says another size than it has", fix="Encode it anew"
            )

    def check(self, limits: Limits) -> None:
        super().check(limits)
        for coded in (self.structure.of_items, self.structure.of_tracks):
            if any(it.width * it.height > limits.max_pixels for it in coded):
                raise self._refuse_size(limits, "what is coded in it has too many pixels")
            # Of colour and of transparency; the tiles of a grid come one after another.
            if sum(sorted(it.most_bytes for it in coded)[-2:]) > AVIF_BYTES_A_PIXEL * limits.max_pixels:
                raise self._refuse_size(limits, "an AVIF of so many pixels and bits takes too much memory")

    def pixels(self, scale: float, exact: bool) -> Pixels:  # noqa: ARG002  # there is one way, at full size
        import numpy as np

        # Taken from here, as the decoder keeps its own samples as long as it lives.
        picture: Any = self.__dict__.pop("picture", None) or _opened_by_pillow(self.data, "avif")
        info, shape = picture.info, (self.height, self.width, len(picture.mode))
        samples = np.frombuffer(picture._decoder.get_frame(0)[0], np.uint8).reshape(shape)
        del picture
        return colour.flattened(samples, info.get("icc_profile"))


_OPENED: dict[str, type[OpenedJpeg | OpenedByPillow]] = {"jpeg": OpenedJpeg, "webp": OpenedWebp, "avif": OpenedAvif}

_PLUGINS = {
    "jpeg": ("JpegImagePlugin", "JpegImageFile"),
    "png": ("PngImagePlugin", "PngImageFile"),
    "gif": ("GifImagePlugin", "GifImageFile"),
    "bmp": ("BmpImagePlugin", "BmpImageFile"),
    "webp": ("WebPImagePlugin", "WebPImageFile"),
    "tiff": ("TiffImagePlugin", "TiffImageFile"),
    "avif": ("AvifImagePlugin", "AvifImageFile"),
}


def _opened_by_pillow(data: bytes, format_: str) -> ImageFile:
    """The picture with its header read, by the plugin of that format and no other.

    Not `PIL.Image.open`: it would hold the size against a limit of the whole process, and warn; ours is looked at next.
    """
    plugin: ImageFile = _plugin(format_)(io.BytesIO(data))
    return plugin


@functools.cache
def _plugin(format_: str) -> Any:
    if format_ == "tiff":
        silence_libtiff()
    module, name = _PLUGINS[format_]
    return getattr(importlib.import_module(f"PIL.{module}"), name)


def _orientation_of(picture: ImageFile) -> int:
    if picture.format == "TIFF":
        found = getattr(picture, "tag_v2", {}).get(ORIENTATION, 1)
        return found if isinstance(found, int) and 1 <= found <= 8 else 1
    exif, xmp = picture.info.get("exif"), picture.info.get("xmp")
    return orientation_in(exif if isinstance(exif, bytes) else None, xmp if isinstance(xmp, bytes) else None)


@contextmanager
def _as_ours(name: str, kind: Kind) -> Iterator[None]:
    """Whatever a decoder raises, as CorruptMedia; out of memory as InputTooLarge."""
    try:
        yield
    except SensoriumError:
        raise
    except MemoryError as error:
        raise InputTooLarge(
            f"{name} is too large", why="decoding it takes more memory than there is", fix="Send it smaller"
        ) from error
    except Exception as error:
        if type(error).__name__ == "DecompressionBombError":  # what a GIF's first frame may come to
            raise InputTooLarge(
                f"{name} is too large", why="it unfolds to too many pixels", fix="Send it smaller"
            ) from error
        raise CorruptMedia(
            f"{name} cannot be decoded",
            why=f"it is {kind.called}, but damaged, cut short, or of a rare variety",
            fix="Open it in a viewer and save it anew, or get it again",
        ) from error
