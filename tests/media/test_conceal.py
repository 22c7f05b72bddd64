"""What is covered cannot be made out, and the rest is untouched."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sensorium.media.conceal import CELLS, Method, concealed

RANDOM = np.random.default_rng(0)


def letters(side: int) -> np.ndarray:
    picture = np.full((side, side, 3), 255, np.uint8)
    cv2.putText(picture, "ABC", (0, side // 2), cv2.FONT_HERSHEY_SIMPLEX, side / 80, (0, 0, 0), max(1, side // 60))
    return picture


@pytest.mark.parametrize("method", ["gaussian", "pixelate", "black"])
def test_only_the_regions_change_and_the_picture_given_does_not(method: Method) -> None:
    pixels = RANDOM.integers(0, 256, (100, 120, 3), np.uint8)
    before = pixels.copy()
    covered = concealed(pixels, [(10.2, 20.9, 59.5, 70.1)], method)
    assert (pixels == before).all()
    outside = np.ones((100, 120), bool)
    outside[20:71, 10:60] = False
    assert (covered[outside] == pixels[outside]).all()
    assert (covered[20:71, 10:60] != pixels[20:71, 10:60]).any(axis=2).mean() > 0.95


@pytest.mark.parametrize("method", ["gaussian", "pixelate"])
@pytest.mark.parametrize("side", [24, 64, 300, 2000])
def test_what_is_left_depends_on_a_few_means_alone_whatever_the_size(method: Method, side: int) -> None:
    """Whatever differs within a mean's square leaves no trace: so nobody can have it back."""
    cells = min(CELLS, side // 4)
    cell = side // cells
    side = cell * cells
    noise = RANDOM.integers(-60, 61, (side, side, 3)).astype(np.float64)
    flat = noise.reshape(cells, cell, cells, cell, 3).mean(axis=(1, 3), keepdims=True)
    noise = (noise.reshape(cells, cell, cells, cell, 3) - flat).reshape(side, side, 3)
    one = np.full((side, side, 3), 128, np.uint8)
    other = np.clip(np.rint(128 + noise), 0, 255).astype(np.uint8)
    box = [(0.0, 0.0, float(side), float(side))]
    first, second = (concealed(pixels, box, method).astype(int) for pixels in (one, other))
    assert np.abs(first - second).max() <= 2


@pytest.mark.parametrize("side", [12, 40, 200, 1000])
def test_letters_cannot_be_read_afterwards_at_any_size(side: int) -> None:
    sharp = cv2.Laplacian(letters(side), cv2.CV_64F).var()
    for method in ("gaussian", "black"):
        left = cv2.Laplacian(concealed(letters(side), [(0, 0, side, side)], method), cv2.CV_64F).var()
        assert left < sharp / 50


@pytest.mark.parametrize(
    "region", [(-50, -50, 5, 5), (95, 95, 500, 500), (40, 40, 40, 40), (0, 0, 1e9, 1e9), (99.5, 0, 99.6, 1)]
)
def test_regions_at_the_edge_and_beyond_break_nothing(region: tuple[float, float, float, float]) -> None:
    pixels = RANDOM.integers(0, 256, (100, 100, 3), np.uint8)
    for method in ("gaussian", "pixelate", "black"):
        assert concealed(pixels, [region], method).shape == pixels.shape
