"""The files that all contestants run: EfficientNet-Lite0 at fp32, and at INT8 by static quantisation."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.config import load_settings
from sensorium.engines.local import onnx_classifier as classifier
from sensorium.media import limits
from sensorium.media.decode import describe
from sensorium.modelfolder import toml_of
from sensorium.runtimes import weights

CARD = classifier.CARDS[0]
CALIBRATED_ON = 64
"""Pictures."""


@dataclass(frozen=True, slots=True)
class Model:
    """One file, and what `sensorium` calls it."""

    precision: str
    name: str
    file: Path


def fp32() -> Model:
    return Model("fp32", CARD.name, weights.onnx_file(CARD, load_settings().cache_dir))


def int8(pictures: Sequence[Path], folder: Path) -> Model:
    """Made in the folder, and put into the models folder that SENSORIUM_MODELS_DIR names."""
    name, file = f"{CARD.name}_int8", folder / "int8.onnx"
    quantise(fp32().file, file, pictures[:CALIBRATED_ON])
    card = folder / "int8.toml"
    made = CARD.model_copy(update={"name": name, "weights": None, "quirks": {}, "aliases": ()})
    card.write_text(toml_of(made), encoding="utf-8")
    command = [sys.executable, "-m", "sensorium", "models", "add", name, str(file), "--card", str(card)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
    return Model("int8", name, file)


def quantise(source: Path, target: Path, pictures: Sequence[Path]) -> None:
    """Static, per channel, activations U8 and weights S8 between their least and most: the fastest on CPUs with VNNI."""
    from onnxruntime import quantization as onnx_quantization

    onnx_quantization.quantize_static(
        str(source),
        str(target),
        _Calibration(pictures),
        quant_format=onnx_quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=onnx_quantization.QuantType.QUInt8,
        weight_type=onnx_quantization.QuantType.QInt8,
        calibrate_method=onnx_quantization.CalibrationMethod.MinMax,
    )


class _Calibration:
    """The pictures, as the quantiser reads them: one after another, then None."""

    def __init__(self, pictures: Sequence[Path]) -> None:
        self._coming = self._tensors(pictures)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._coming, None)

    def _tensors(self, pictures: Sequence[Path]) -> Iterator[dict[str, Any]]:
        preparation = classifier.Preparation(classifier.read_input(CARD))
        for path in pictures:
            opened = describe(path.read_bytes(), path.name)
            picture = opened.decode(opened.scale_for(preparation.at_least, limits.current()), False)
            yield {"input": preparation.fast(picture.pixels)}
