"""What every peer shares: the same ONNX file, one intra-op thread, and the preparation that its makers used, by Pillow."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

SIDE, RESIZED = 224, 256
TOP = 5


def session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])


def prepared(picture: Image.Image) -> np.ndarray:
    """float32 (3, 224, 224), as EfficientNet-Lite takes it."""
    picture = picture.convert("RGB")
    short = min(picture.size)
    size = (picture.width * RESIZED // short, picture.height * RESIZED // short)
    left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    small = picture.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + SIDE, top + SIDE))
    return ((np.asarray(small, np.float32) - 127) / 128).transpose(2, 0, 1)


def ranked(logits: np.ndarray) -> list[dict[str, Any]]:
    """The likeliest classes of one picture, highest first."""
    powers = np.exp(logits - logits.max())
    scores = powers / powers.sum()
    return [{"index": int(place), "score": float(scores[place])} for place in scores.argsort()[: -TOP - 1 : -1]]
