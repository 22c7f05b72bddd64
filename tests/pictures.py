"""Pictures for tests, made here or carried by scikit-image."""

from __future__ import annotations

import functools
import importlib.util
import io
from pathlib import Path

import numpy as np
from PIL import Image


def skimage_photograph(name: str) -> Path:
    """One of the photographs in scikit-image's package, such as `coffee.png`."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / name


@functools.cache
def photograph() -> bytes:
    """A real photograph as a 600 x 400 JPEG: a cup of coffee."""
    with Image.open(skimage_photograph("coffee.png")) as picture:
        return encoded(picture.convert("RGB").resize((600, 400)), "JPEG")


def jpeg(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    """A small JPEG of soft noise; another seed, another picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return encoded(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), "JPEG")


def png(width: int = 64, height: int = 48, colour: tuple[int, int, int] = (200, 100, 50)) -> bytes:
    """A PNG of one colour."""
    return encoded(Image.new("RGB", (width, height), colour), "PNG")


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The picture's bytes in a format that Pillow writes."""
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


JUNK = bytes(range(128, 256))
"""Bytes of no kind."""
