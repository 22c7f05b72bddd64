"""Every kind of pixel as RGB, as a person would expect to see it. Works in strips, so that little more than the
picture itself and its RGB are in memory at once."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sensorium.media.image import Pixels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as Picture

STRIP_PIXELS = 1 << 20
"""Pixels converted at a time; small enough for the cache of a core, large enough to hide Python."""

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of a TIFF

NEARLY_WHITE, VISIBLE = 235, 16
"""From this luminance on, content is lost on white; from this opacity on, it can be seen at all."""

LARGEST_KEPT = 65_536
"""Bytes of a colour profile whose transform is kept for the next picture. Cameras' and screens' have a few thousand."""


def as_rgb(picture: Picture | _Held) -> Pixels:
    """The loaded picture as uint8 (height, width, 3), RGB, sRGB, nothing transparent.

    - What is transparent shows white behind it; black where more than half of what can be seen would be lost on
      white (white text, a white logo).
    - Colour profiles are converted to sRGB; a broken one is ignored.
    - 16-bit samples are scaled, 65535 becoming 255. Integers of 32 bits and floats carry no range: see `_range_of`.
    """
    import numpy as np

    to_rgb = _converter(picture)
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    for top, strip in _strips(picture):
        pixels[top : top + strip.height] = to_rgb(strip)
    return pixels


def flattened(samples: NDArray[np.uint8], profile: bytes | None) -> Pixels:
    """As `as_rgb`, of samples that are no picture of Pillow's: uint8 (height, width, 3) RGB or (height, width, 4) RGBA."""
    if samples.shape[2] == 3:
        return to_srgb(samples, profile)
    return as_rgb(_Held(samples, {"icc_profile": profile}))


def to_srgb(pixels: Pixels, profile: bytes | None) -> Pixels:
    """RGB pixels of a colour profile as sRGB; unchanged when there is no profile, or a broken one."""
    if profile is None or is_srgb(profile):
        return pixels
    from PIL import Image as Pillow

    transform = _transform(profile, "RGB")
    if transform is None:
        return pixels
    import numpy as np

    out = np.empty_like(pixels)
    rows = _rows_in_strip(pixels.shape[1])
    for top in range(0, len(pixels), rows):
        out[top : top + rows] = np.asarray(transform.apply(Pillow.fromarray(pixels[top : top + rows])))
    return out


@functools.lru_cache(64)
def is_srgb(profile: bytes) -> bool:
    """Whether it is one of the many profiles that only say sRGB, so that converting would change nothing."""
    described = profile[:16384]
    return b"sRGB" in described or "sRGB".encode("utf-16-be") in described


def profile_name(profile: bytes | None) -> str | None:
    """What a colour profile calls itself; None when there is none, or a broken one."""
    from PIL import ImageCms

    if profile is None:
        return None
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    return name.strip() or None


def has_alpha(picture: Picture | _Held) -> bool:
    """Whether some pixels may be transparent."""
    return picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info


class _Held:
    """RGBA samples with as much of a picture's face as is needed here: Pillow would hold a copy of them."""

    mode = "RGBA"

    def __init__(self, samples: NDArray[np.uint8], info: dict[str, Any]) -> None:
        self.samples, self.info = samples, info
        self.height, self.width = samples.shape[:2]

    def crop(self, box: tuple[int, int, int, int]) -> Picture:
        from PIL import Image as Pillow

        left, top, right, bottom = box
        return Pillow.fromarray(self.samples[top:bottom, left:right])


def _strips(picture: Picture | _Held) -> Iterator[tuple[int, Picture]]:
    rows = _rows_in_strip(picture.width)
    for top in range(0, picture.height, rows):
        yield top, picture.crop((0, top, picture.width, min(top + rows, picture.height)))


def _rows_in_strip(width: int) -> int:
    return max(1, STRIP_PIXELS // max(width, 1))


def _converter(picture: Picture | _Held) -> Callable[[Picture], NDArray[Any]]:
    """How a strip of this picture becomes RGB."""
    if picture.mode.startswith(("I", "F")):
        return _from_numbers(picture)
    if has_alpha(picture):
        return _from_transparent(picture)
    return _from_opaque(picture)


def _from_opaque(picture: Picture | _Held) -> Callable[[Picture], NDArray[Any]]:
    import numpy as np

    profile = _profile_of(picture)
    mode = {"1": "L", "P": "RGB", "RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB"}.get(picture.mode, picture.mode)
    transform = _transform(profile, mode) if profile or mode == "LAB" else None
    if transform is None:
        return lambda strip: np.asarray(strip.convert("RGB"))

    def convert(strip: Picture) -> NDArray[Any]:
        converted: NDArray[Any] = np.asarray(transform.apply(strip.convert(mode) if strip.mode != mode else strip))
        return converted

    return convert


def _from_transparent(picture: Picture | _Held) -> Callable[[Picture], NDArray[Any]]:
    import numpy as np
    from PIL import Image as Pillow

    _take_high_byte_of_transparency(picture)
    profile = _profile_of(picture)
    transform = _transform(profile, "RGB") if profile else None
    behind = 0 if _is_lost_on_white(picture) else 255

    def flatten(strip: Picture) -> NDArray[Any]:
        layered = _with_alpha(strip)
        alpha, colours = layered.getchannel("A"), layered.convert("RGB")
        if transform:
            colours = transform.apply(colours)
        if alpha.getextrema()[0] == 255:
            return np.asarray(colours)
        flat = Pillow.new("RGB", strip.size, (behind,) * 3)
        flat.paste(colours, mask=alpha)
        return np.asarray(flat)

    return flatten


def _with_alpha(strip: Picture) -> Picture:
    # Premultiplied grey has no way to RGBA but through plain LA.
    return strip.convert("LA").convert("RGBA") if strip.mode == "La" else strip.convert("RGBA")


def _take_high_byte_of_transparency(picture: Picture | _Held) -> None:
    """A PNG of 16 bits names its transparent colour in 16 bits; Pillow has kept the high byte of its pixels."""
    colour = picture.info.get("transparency")
    if isinstance(colour, tuple) and max(colour) > 255:
        picture.info["transparency"] = tuple(value >> 8 for value in colour)


def _is_lost_on_white(picture: Picture | _Held) -> bool:
    import numpy as np

    lost = seen = 0
    for _, strip in _strips(picture):
        layered = _with_alpha(strip)
        alpha = np.asarray(layered.getchannel("A"))
        if alpha.min() >= VISIBLE:
            continue  # a strip without gaps says nothing of what lies on the background
        visible = alpha >= VISIBLE
        bright = np.asarray(layered.convert("L")) >= NEARLY_WHITE
        lost += int(np.count_nonzero(bright & visible))
        seen += int(np.count_nonzero(visible))
    return lost * 2 > seen


def _from_numbers(picture: Picture | _Held) -> Callable[[Picture], NDArray[Any]]:
    import numpy as np

    low, high = _range_of(picture)
    see_through = picture.info.get("transparency")
    # Pillow turns grey of 8 bits that counts from white, not that of 16.
    inverted = picture.mode.startswith("I;16") and _tiff_tag(picture, _PHOTOMETRIC) == 0

    def scale(strip: Picture) -> NDArray[Any]:
        numbers = np.asarray(strip)
        values = np.nan_to_num(numbers.astype(np.float32), nan=low, posinf=high, neginf=low)
        grey = np.clip((values - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)
        if inverted:
            grey = 255 - grey
        if isinstance(see_through, int):
            grey[numbers == see_through] = 255
        return np.repeat(grey[..., None], 3, axis=2)

    return scale


def _range_of(picture: Picture | _Held) -> tuple[float, float]:
    """Which numbers are black and white.

    16-bit: 0 to 65535, or to 4095 for a TIFF of 12 bits. Others, by the first of these that holds all finite values: 0 to 1 for floats, 0 to 255, 0 to
    65535; else what there is, from the least to the greatest.
    """
    import numpy as np

    if picture.mode.startswith("I;16"):
        return 0.0, 4095.0 if _tiff_tag(picture, _BITS_PER_SAMPLE) == (12,) else 65535.0
    least, greatest = np.inf, -np.inf
    for _, strip in _strips(picture):
        numbers = np.asarray(strip)
        numbers = numbers[np.isfinite(numbers)]
        if numbers.size:
            least, greatest = min(least, float(numbers.min())), max(greatest, float(numbers.max()))
    for top in (1.0, 255.0, 65535.0) if picture.mode == "F" else (255.0, 65535.0):
        if least >= 0 and greatest <= top:
            return 0.0, top
    return (least, greatest) if np.isfinite(least) and greatest > least else (0.0, 1.0)


def _tiff_tag(picture: Picture | _Held, tag: int) -> Any:
    return getattr(picture, "tag_v2", {}).get(tag)


def _profile_of(picture: Picture | _Held) -> bytes | None:
    profile = picture.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile and not is_srgb(profile) else None


def _transform(profile: bytes | None, mode: str) -> Any:
    """Pillow's transform from a profile (None: the standard Lab) to sRGB; None when it cannot be made of this one."""
    if profile is not None and len(profile) > LARGEST_KEPT:
        return _new_transform(profile, mode)
    return _kept_transform(profile, mode)


@functools.lru_cache(16)
def _kept_transform(profile: bytes | None, mode: str) -> Any:
    # Making one takes as long as decoding three photographs; lcms keeps nothing in it while it runs, so threads share.
    return _new_transform(profile, mode)


def _new_transform(profile: bytes | None, mode: str) -> Any:
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile) if profile else ImageCms.createProfile("LAB"))
        return ImageCms.ImageCmsTransform(source, _srgb(), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


@functools.cache
def _srgb() -> Any:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
