"""Noise measured and taken out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sensorium.media.denoise import NOISY, denoised, noise_of
from sensorium.media.image import Pixels
from tests.pictures import skimage_photograph


def photo(spread: float = 0.0) -> Pixels:
    with Image.open(skimage_photograph("astronaut.png")) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(float)
    grey = np.random.default_rng(1).normal(0, spread, (*pixels.shape[:2], 1)) if spread else 0.0
    return np.clip(pixels + grey, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("spread", [5.0, 10.0, 20.0])
def test_noise_is_measured(spread: float) -> None:
    assert noise_of(photo(spread)) == pytest.approx(spread, rel=0.2)


def test_a_clean_photograph_is_not_noisy() -> None:
    assert noise_of(photo()) < NOISY / 2


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 50, 3), (50, 2, 3), (3, 3, 3)])
def test_tiny_pictures_have_no_noise(shape: tuple[int, ...]) -> None:
    assert noise_of(np.full(shape, 7, np.uint8)) == 0


def test_edges_stay_where_noise_goes() -> None:
    half = np.zeros((64, 64, 3), np.uint8)
    half[:, 32:] = 200
    noisy = np.clip(half + np.random.default_rng(0).normal(0, 10, half.shape), 0, 255).astype(np.uint8)
    quiet = denoised(noisy, 10).astype(float)
    assert quiet[:, 8:24].std() < 0.5 * noisy[:, 8:24].std()
    assert quiet[:, 33].mean() - quiet[:, 30].mean() > 180
