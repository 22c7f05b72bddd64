"""The graph built from the checkpoint is the published network, number for number."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from sensorium.engines.local.onnx_classifier import CARDS, Preparation, read_input
from sensorium.errors import InvalidModel
from sensorium.media.source import Source
from sensorium.runtimes import efficientnet_lite, weights
from tests.runtimes.checkpoints import checkpoint, state, tensor

LITE0 = CARDS[0]


def opened(graph: bytes | str) -> Any:
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def built() -> bytes:
    return efficientnet_lite.build(weights.locate(LITE0), LITE0)


def test_logits_and_embedding_are_those_of_the_reference_graph(built: bytes, shared_data: Path) -> None:
    ours = opened(built)
    reference = opened(str(shared_data / "weights" / "efficientnet_lite0" / "efficientnet_lite0.onnx"))
    preparation = Preparation(read_input(LITE0))
    folder = shared_data / "images-imagenet"
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)][::15]
    assert len(names) == 20
    for name in names:
        prepared = preparation.exact(Source.of(folder / name).image_now().pixels)
        found, wanted = ours.run(None, {"input": prepared}), reference.run(None, {"x": prepared})
        assert np.abs(found[0] - wanted[0]).max() < 1e-3
        assert np.abs(found[1] - wanted[1]).max() < 1e-3


def test_a_batch_gives_what_its_pictures_give_alone(built: bytes) -> None:
    session = opened(built)
    pictures = np.random.default_rng(0).standard_normal((3, 3, 224, 224)).astype(np.float32)
    together = session.run(["logits"], {"input": pictures})[0]
    alone = [session.run(["logits"], {"input": picture[None]})[0][0] for picture in pictures]
    assert together.shape == (3, 1000)
    assert np.abs(together - alone).max() < 1e-4


def test_building_twice_gives_the_same_bytes(built: bytes) -> None:
    assert efficientnet_lite.build(weights.locate(LITE0), LITE0) == built


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"),
    [(224, 3, 2, 0, 1), (224, 3, 1, 1, 1), (56, 5, 2, 1, 2), (7, 5, 1, 2, 2), (65, 3, 2, 1, 1), (8, 1, 1, 0, 0)],
)
def test_padding_is_tensorflows(size: int, kernel: int, stride: int, before: int, after: int) -> None:
    assert efficientnet_lite.same_padding(size, kernel, stride) == (before, after)


def test_widths_and_depths_are_those_of_lite_2() -> None:
    scaling = efficientnet_lite.Scaling(width=1.1, depth=1.2, size=260)
    stages = list(scaling.stages())
    assert [stage.channels for stage in stages] == [16, 24, 48, 88, 120, 208, 352]
    assert [stage.repeats for stage in stages] == [1, 3, 3, 4, 4, 5, 1]


def test_a_card_with_the_wrong_scaling_is_told_the_tensor() -> None:
    card = LITE0.model_copy(update={"quirks": {"width": 1.1}})
    with pytest.raises(InvalidModel, match=r"_blocks\.\d+\._.*width"):
        efficientnet_lite.build(weights.locate(card), card)


def test_a_card_without_a_size_is_told_so() -> None:
    with pytest.raises(InvalidModel, match="`size` of its card"):
        efficientnet_lite.build(weights.locate(LITE0), LITE0.model_copy(update={"input": {}}))


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(checkpoint(state({"fc": tensor("1", 1, (1,), (1,))}), {"1": [1.0]}))
    with pytest.raises(InvalidModel, match=r"_conv_stem\.weight.*not there"):
        efficientnet_lite.build(path, LITE0)
