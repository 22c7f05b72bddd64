"""A model file may hold everything it needs, and must not reach for anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sensorium.errors import InvalidModel
from sensorium.runtimes import onnx_file
from sensorium.runtimes.onnx import Session
from tests.runtimes.graphs import channel_means, lookup, model


def saved(tmp_path: Path, made: Any) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    return path


def elsewhere(name: str, location: str) -> Any:
    """A tensor that says its content lies in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_a_whole_model_is_let_through(tmp_path: Path) -> None:
    for made in (lookup(), channel_means()):
        onnx_file.check(saved(tmp_path, made))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "beside.bin"])
def test_a_tensor_that_lies_in_another_file_is_refused(tmp_path: Path, location: str) -> None:
    made = onnx.load_from_string(lookup())
    made.graph.initializer.append(elsewhere("other", location))
    with pytest.raises(InvalidModel, match="other files"):
        onnx_file.check(saved(tmp_path, made))


def test_a_field_number_that_a_reader_would_cut_short_is_refused(tmp_path: Path) -> None:
    # 13 is `external_data`; with bit 32 set protobuf still reads 13, and we would read another field.
    written = lookup() + bytes([0xEA, 0x80, 0x80, 0x80, 0x10, 0x00])
    with pytest.raises(InvalidModel, match=r"no ONNX model.* Get the whole file again"):
        onnx_file.check(saved(tmp_path, written))


def test_no_nook_of_a_model_hides_such_a_tensor(tmp_path: Path) -> None:
    hidden = elsewhere("other", "../secret")
    constant = helper.make_node("Constant", [], ["other"], value=hidden)
    inner = helper.make_graph([constant], "inner", [], [])
    sparse = onnx.SparseTensorProto(values=hidden, dims=[2])
    function = helper.make_function("own", "f", [], ["other"], [constant], [helper.make_opsetid("", 13)])
    sparse_value = onnx.AttributeProto(
        name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse
    )
    of_sparse = onnx.NodeProto(op_type="Constant", output=["other"], attribute=[sparse_value])
    nooks: dict[str, Callable[[Any], object]] = {
        "attribute": lambda made: made.graph.node.append(constant),
        "subgraph": lambda made: made.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=inner)),
        "sparse attribute": lambda made: made.graph.node.append(of_sparse),
        "sparse": lambda made: made.graph.sparse_initializer.append(sparse),
        "function": lambda made: made.functions.append(function),
        "training": lambda made: made.training_info.add().algorithm.initializer.append(hidden),
    }
    found = []
    for name, hide in nooks.items():
        made = onnx.load_from_string(lookup())
        hide(made)
        try:
            onnx_file.check(saved(tmp_path, made))
        except InvalidModel:
            found.append(name)
    assert found == list(nooks)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    whole = lookup()
    for content in (b"", b"GIF89a" + bytes(40), b"\xff" * 100, bytes(1000), whole[: len(whole) // 2], b"\x08\x08"):
        with pytest.raises(InvalidModel, match=r"model\.onnx"):
            onnx_file.check(saved(tmp_path, content))
    with pytest.raises(InvalidModel):
        onnx_file.check(tmp_path / "gone.onnx")


def test_a_session_refuses_it_before_loading(tmp_path: Path) -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"])], {"x": (TensorProto.FLOAT, [1, 2])}, {"y": [1, 2]})
    made.graph.initializer.append(elsewhere("other", "../secret"))
    with pytest.raises(InvalidModel, match="other files"):
        Session(saved(tmp_path, made), name="hostile")


def test_an_unknown_operator_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Own", ["x"], ["y"], domain="somebody")
    made = model([node], {"x": (TensorProto.FLOAT, [1, 2])}, {"y": [1, 2]}, unused=np.zeros(1, np.float32))
    with pytest.raises(InvalidModel, match="own cannot be loaded"):
        Session(saved(tmp_path, made), name="own")
