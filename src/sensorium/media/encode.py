"""Pictures made fit for a model: no larger than it uses, upright, opaque, sRGB, in a format that it takes."""

from __future__ import annotations

import functools
import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from sensorium.errors import InputTooLarge, InvalidRequest
from sensorium.media.image import Image, Pixels
from sensorium.media.limits import Limits, current
from sensorium.media.pool import in_thread
from sensorium.media.source import Source

if TYPE_CHECKING:
    from sensorium.media.decode import Opened

Format = Literal["jpeg", "png", "webp"]
FORMATS: dict[str, Format] = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
"""What a picture is written as, by how its file is called."""
Size = Callable[[int, int], tuple[int, int]]
"""Of a picture's width and height, those that it should have at most: never more, the shape kept."""

QUALITY = 85
LOWER_QUALITIES = (70, 55)
"""Tried before a picture is made smaller to keep `max_bytes`; below, blocks show round the strokes of letters."""
KEEPING_QUALITY = 95
"""Of a picture that is to stay as it is but for what was changed in it."""
LONGEST_JPEG_SIDE = 65_500
"""Pixels. Source: libjpeg, JPEG_MAX_DIMENSION."""
LONGEST_SIDES = {"jpeg": LONGEST_JPEG_SIDE, "webp": 16_383, "png": 1_000_000}
"""Pixels that a format holds; of PNG as much as is decoded here."""
PROFILE_DATE, PROFILE_DAY = slice(24, 36), struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
"""Where a colour profile says when it was made, and what ours says. Source: ICC.1, 7.2.8."""
SMALLEST_SIDE = 32
"""Pixels of the longer side, below which a picture is not made smaller to keep `max_bytes`."""
FLAT = 0.5
"""Of a picture's pixels, how many have their left neighbour's colour. Screenshots and drawings have 0.5 to 0.9 and may
be smaller as PNG; photographs and scans have 0 to 0.4, and are three to ten times as large (measured)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a model takes."""

    size: Size
    quality: int = QUALITY
    """Of a JPEG, 1 to 100."""
    takes: tuple[Format, ...] = ("jpeg", "png", "webp")
    """Formats; a picture that is encoded anew becomes a JPEG or a PNG, so one of them must be here."""
    max_bytes: int | None = None
    """Encoded bytes of a picture."""


def within(side: int) -> Size:
    """The size whose longer side has at most so many pixels."""
    return lambda width, height: scaled(width, height, side / max(width, height))


def scaled(width: int, height: int, by: float) -> tuple[int, int]:
    """The size multiplied; at least 1 x 1, and never larger."""
    return max(1, min(width, round(width * by))), max(1, min(height, round(height * by)))


async def fitted(source: Source, terms: Terms) -> Source:
    """The picture as the model takes it; the very same source when it is so already, of which only the header is read.

    All work is done in a pool thread, decoding within the process's budget of pixels and at the smallest scale that will
    do. Raises as `Source.image`, and InputTooLarge when `max_bytes` cannot be kept.
    """
    if source.url is not None:
        await source.read()
    size = await in_thread(_size_if_unfit, source, terms, current())
    if size is None:
        return source
    return await source.image(at_least=min(size), then=functools.partial(_made_fit, terms=terms, name=source.name))


def _size_if_unfit(source: Source, terms: Terms, limits: Limits) -> tuple[int, int] | None:
    """The size to be made; None when the picture is fit as it is."""
    from sensorium.media.decode import look

    opened = look(source.read_now(limits), source.name, limits)
    size = _size(terms, *opened.upright_size)
    return None if size == opened.upright_size and _is_fit(opened, terms) else size


def _size(terms: Terms, width: int, height: int) -> tuple[int, int]:
    across, down = terms.size(width, height)
    longest = max(across, down)
    return (across, down) if longest <= LONGEST_JPEG_SIDE else scaled(across, down, LONGEST_JPEG_SIDE / longest)


def _is_fit(opened: Opened, terms: Terms) -> bool:
    return (
        opened.kind.format in terms.takes
        and (terms.max_bytes is None or len(opened.data) <= terms.max_bytes)
        and opened.orientation == 1
        and _is_plain(opened)
    )


def _is_plain(opened: Opened) -> bool:
    """Whether any program shows it alike: 8 bits, opaque, one frame, RGB or grey, and sRGB."""
    from sensorium.media.colour import is_srgb
    from sensorium.media.decode import OpenedJpeg

    if isinstance(opened, OpenedJpeg):
        header = opened.header
        return header.components in (1, 3) and (header.icc is None or is_srgb(header.icc))
    told = opened.told()
    deep = opened.kind.format == "png" and opened.data[24] > 8  # the header's bit depth; Pillow tells 8 of 16
    profiled = told.icc is not None and not is_srgb(told.icc)
    return told.mode in ("RGB", "L", "P", "1") and not (told.alpha or deep or profiled) and told.frames == 1


def _made_fit(image: Image, *, terms: Terms, name: str) -> Source:
    """Runs in a pool thread, right after decoding."""
    size = _size(terms, image.width, image.height)
    return Source.held(_encoded(shrunk(image.pixels, size), image.format, terms, name), name)


def bounded(pixels: Pixels, most: int) -> Pixels:
    """The picture with at most so many pixels; the same array where it has no more. uint8 (height, width, 3)."""
    height, width = pixels.shape[:2]
    return shrunk(pixels, scaled(width, height, math.sqrt(most / (width * height))))


def shrunk(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """The picture at this width and height; the same array where it is no larger. uint8 (height, width, 3)."""
    import cv2

    height, width = pixels.shape[:2]
    size = min(width, size[0]), min(height, size[1])
    if size == (width, height):
        return pixels
    # Averaging: nothing thinner than a new pixel is lost or turned into a pattern.
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[no-any-return]


def _encoded(pixels: Pixels, origin: str, terms: Terms, name: str) -> bytes:
    """The bytes, within the terms: by less quality first, then by fewer pixels."""
    most = math.inf if terms.max_bytes is None else terms.max_bytes
    data = _smallest(pixels, origin, terms)
    qualities = (quality for quality in LOWER_QUALITIES if "jpeg" in terms.takes and quality < terms.quality)
    while len(data) > most and (quality := next(qualities, None)):
        data = as_jpeg(pixels, quality, origin)
    while len(data) > most and max(pixels.shape) > SMALLEST_SIDE:
        height, width = pixels.shape[:2]
        pixels = shrunk(pixels, scaled(width, height, min(0.9, math.sqrt(most / len(data)))))
        data = as_jpeg(pixels, LOWER_QUALITIES[-1], origin) if "jpeg" in terms.takes else _as_png(pixels)
    if len(data) > most:
        raise _too_many_bytes(name, pixels, len(data), int(most))
    return data


def _smallest(pixels: Pixels, origin: str, terms: Terms) -> bytes:
    """The JPEG, or a PNG where that is no larger: letters and lines are then as sharp as they were."""
    if "jpeg" not in terms.takes:
        return _as_png(pixels)
    data = as_jpeg(pixels, terms.quality, origin)
    if "png" in terms.takes and origin != "jpeg" and _is_flat(pixels):
        data = min(_as_png(pixels), data, key=len)
    return data


def as_jpeg(pixels: Pixels, quality: int, origin: str) -> bytes:
    """The pixels, uint8 (height, width, 3), RGB, as a JPEG. `origin` is the format that they were in.

    Colour is halved in a JPEG's JPEG only: in a screenshot, coloured letters would blur.
    """
    import numpy as np
    import simplejpeg

    sampling = "420" if origin == "jpeg" else "444"
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", sampling)
    return data


def writable(wanted: Literal["same", "jpeg", "png", "webp"], origin: str, width: int, height: int) -> Format:
    """The format to write a picture of this size in; `same` is the one that it came in, where that will do, else PNG.

    Raises InvalidRequest where the wanted one holds no picture as large.
    """
    longest = max(width, height)
    if wanted == "same":
        return cast("Format", origin) if longest <= LONGEST_SIDES.get(origin, 0) else "png"
    if longest > LONGEST_SIDES[wanted]:
        why = f"a {wanted} holds {LONGEST_SIDES[wanted]:,} pixels a side, and the picture has {longest:,}"
        raise InvalidRequest(f"The picture cannot be written as {wanted}", why=why, fix="Take png")
    return wanted


def as_file(pixels: Pixels, format_: Format) -> bytes:
    """The pixels, uint8 (height, width, 3), sRGB, as a file that says so, and holds nothing else but them."""
    from PIL import Image as Pillow

    out = io.BytesIO()
    how: dict[str, Any] = {"compress_level": 1} if format_ == "png" else {"quality": KEEPING_QUALITY}
    Pillow.fromarray(pixels).save(out, format_, icc_profile=_srgb_profile(), **how)
    return out.getvalue()


@functools.cache
def _srgb_profile() -> bytes:
    """sRGB as a colour profile: the same bytes at all times."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[: PROFILE_DATE.start] + PROFILE_DAY + profile[PROFILE_DATE.stop :]


def _as_png(pixels: Pixels) -> bytes:
    import cv2

    # The fastest level: the sixth takes twice as long for 15 % fewer bytes at best (measured).
    _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_PNG_COMPRESSION, 1))
    return bytes(data)


def _is_flat(pixels: Pixels) -> bool:
    import numpy as np

    rows = pixels[:: max(1, len(pixels) // 128)]  # as good as all of them
    return bool(np.mean((rows[:, 1:] == rows[:, :-1]).all(axis=2)) > FLAT) if rows.shape[1] > 1 else False


def _too_many_bytes(name: str, pixels: Pixels, size: int, most: int) -> InputTooLarge:
    height, width = pixels.shape[:2]
    return InputTooLarge(
        f"{name} cannot be made small enough",
        why=f"the model takes {most:,} bytes of a picture, and at {width} x {height} pixels it still has {size:,}",
        fix="Ask another model",
    )
