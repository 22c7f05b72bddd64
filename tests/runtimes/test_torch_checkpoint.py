"""Checkpoints are read as data: whatever a file says, nothing of it runs."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from sensorium.engine import Card
from sensorium.engines.local.onnx_classifier import CARDS
from sensorium.errors import InvalidModel
from sensorium.runtimes import torch_checkpoint, weights
from tests.runtimes.checkpoints import checkpoint, number, state, tensor, text

SIX = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
LITE0: Card = CARDS[0]


def read(tmp_path: Path, content: bytes) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    return torch_checkpoint.read(path)


def test_tensors_come_by_name_and_in_order(tmp_path: Path) -> None:
    built = state({"b": tensor("1", 6, (2, 3), (3, 1)), "a": tensor("2", 2, (), (), offset=1)})
    found = read(tmp_path, checkpoint(built, {"1": SIX, "2": [7.0, 8.0]}))
    assert list(found) == ["b", "a"]
    assert found["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["a"].tolist() == 8.0


def test_strides_and_offsets_are_honoured(tmp_path: Path) -> None:
    built = state({"turned": tensor("1", 6, (3, 2), (1, 3)), "part": tensor("1", 6, (2,), (2,), offset=1)})
    found = read(tmp_path, checkpoint(built, {"1": SIX}))
    assert found["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert found["part"].tolist() == [1, 3]


def test_the_default_model_has_tensors_that_are_not_contiguous() -> None:
    found = torch_checkpoint.read(weights.locate(LITE0))
    assert len(found) == 296
    assert sum(not array.flags.c_contiguous for array in found.values()) == 50


@pytest.mark.parametrize("call", ["os\nsystem", "os\nmkdir"])
def test_a_pickled_command_does_not_run(tmp_path: Path, call: str) -> None:
    marker = tmp_path / "marker"
    argument = f'echo x > "{marker}"' if "system" in call else str(marker)
    hostile = b"\x80\x02c" + call.encode() + b"\n(" + text(argument) + b"tR."
    pickle.loads(hostile)  # noqa: S301 - the control: Python's own reader runs it
    assert marker.exists()
    marker.rmdir() if marker.is_dir() else marker.unlink()
    for content in (checkpoint(hostile, {}), hostile, checkpoint(state({"a": hostile[2:-1]}), {})):
        with pytest.raises(InvalidModel):
            read(tmp_path, content)
    assert not marker.exists()


@pytest.mark.parametrize(
    "built",
    [
        pytest.param(b"\x80\x02cbuiltins\neval\n.", id="names something else"),
        pytest.param(b"\x80\x02" + text("a") + b".", id="is no dict"),
        pytest.param(state({"a": number(1)}), id="holds no tensor"),
        pytest.param(state({"a": tensor("1", 6, (2, 3), (3, 1), offset=1)}), id="reaches past the end"),
        pytest.param(state({"a": tensor("1", 6, (2, 3), (-3, 1))}), id="reaches backwards"),
        pytest.param(state({"a": tensor("1", 6, (1 << 30, 1 << 30), (0, 0))}), id="claims an exabyte"),
        pytest.param(state({"a": tensor("1", 6, (2, 3), (3,))}), id="has fewer strides than sides"),
        pytest.param(state({"a": tensor("1", 7, (6,), (1,))}), id="misstates its storage"),
        pytest.param(state({"a": tensor("2", 6, (6,), (1,))}), id="has no storage"),
        pytest.param(b"\x80\x02" + b"(" * 1_000_002 + b".", id="takes too many steps"),
        pytest.param(b"\x80\x02)R.", id="takes more than there is"),
        pytest.param(b"\x80\x02}(" + number(1) + number(2) + b"u.", id="names by number"),
    ],
)
def test_a_wrong_pickle_is_refused(tmp_path: Path, built: bytes) -> None:
    with pytest.raises(InvalidModel, match=r"weights\.pth"):
        read(tmp_path, checkpoint(built, {"1": SIX}))


def test_another_byte_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="little-endian"):
        read(tmp_path, checkpoint(state({}), {}, little_endian=False))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = checkpoint(state({"a": tensor("1", 6, (2, 3), (3, 1))}), {"1": SIX})
    for length in range(len(whole)):
        with pytest.raises(InvalidModel):
            read(tmp_path, whole[:length])


def test_a_damaged_file_is_read_or_refused_but_breaks_nothing(tmp_path: Path) -> None:
    whole = checkpoint(state({"a": tensor("1", 6, (2, 3), (3, 1))}), {"1": SIX})
    refused = 0
    for place in range(len(whole)):
        for flipped in (0x01, 0x80, 0xFF):
            try:
                read(tmp_path, whole[:place] + bytes([whole[place] ^ flipped]) + whole[place + 1 :])
            except InvalidModel:
                refused += 1
    assert refused > len(whole)


def test_a_missing_file_is_said_to_be_unreadable(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"Cannot read gone\.pth"):
        torch_checkpoint.read(tmp_path / "gone.pth")
