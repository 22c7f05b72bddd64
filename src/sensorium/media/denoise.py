"""Noise in pictures: how much there is, and less of it."""

from __future__ import annotations

from sensorium.media.image import Pixels

NOISY = 4.0
"""The standard deviation of grey noise, in steps of 255, from which taking it out gains more than it blurs: sharp
photographs without noise have 0.5 to 1.7, by `noise_of` (measured)."""

REACH = 7
"""Pixels across what is averaged; 5 gains 1 to 3 dB less, in a third of the time (measured)."""


def noise_of(pixels: Pixels) -> float:
    """How noisy a picture is: the standard deviation of its grey noise, in steps of 255.

    The kernel is blind to edges and slopes. Source: Immerkaer, Fast Noise Variance Estimation, 1996; with the median in
    place of the mean, which took fine texture for noise (4.7 in place of 1.7 for a clean photograph).
    """
    import cv2
    import numpy as np

    if min(pixels.shape[:2]) < 3:
        return 0.0
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    kernel = np.array(((1, -2, 1), (-2, 4, -2), (1, -2, 1)), np.float32)
    answers = np.abs(cv2.filter2D(grey, cv2.CV_32F, kernel))[1:-1:2, 1:-1:2]  # a quarter of them tells as much
    return float(np.median(answers)) / (0.6745 * 6)  # of the normal distribution; of the kernel


def denoised(pixels: Pixels, noise: float) -> Pixels:
    """The picture with noise of this standard deviation taken out; edges stay. uint8 (height, width, 3), RGB.

    Bilateral: on photographs with noise of 5 to 25 it comes 1 to 4 dB nearer to the clean picture than non-local means,
    in a thirtieth of the time: 17 ms a quarter megapixel (measured).
    """
    import cv2

    return cv2.bilateralFilter(pixels, REACH, 5 * noise, 3)  # type: ignore[no-any-return]
