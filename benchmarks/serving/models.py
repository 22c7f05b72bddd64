"""The files that all contestants run: EfficientNet-Lite0 at fp32, and the INT8 twin that `sensorium models quantize` makes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import classify

from sensorium.engines.local import onnx_classifier as classifier

CARD = classifier.CARDS[0]
TAKEN = 128
"""Pictures, of which half calibrate the twin."""


@dataclass(frozen=True, slots=True)
class Model:
    """One file, and what `sensorium` calls it."""

    precision: str
    name: str
    file: Path


def fp32() -> Model:
    return Model("fp32", CARD.name, classify.kept_graph())


def int8(pictures: Sequence[Path]) -> Model:
    """Made anew, in the models folder that the settings name."""
    quantize = [sys.executable, "-m", "sensorium", "models", "quantize", CARD.name, "--json", "--limit", str(TAKEN)]
    done = subprocess.run([*quantize, "--pictures", str(pictures[0].parent)], check=True, stdout=subprocess.PIPE)
    report = json.loads(done.stdout)
    (file,) = Path(report["folder"]).glob("*.onnx")
    return Model("int8", report["made"].partition("@")[0], file)
