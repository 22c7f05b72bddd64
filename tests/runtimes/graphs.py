"""Small ONNX models for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

Shape = list[int | str]


def model(
    nodes: list[Any], inputs: dict[str, tuple[int, Shape]], outputs: dict[str, Shape], **values: Any
) -> ModelProto:
    """A model of these nodes; `values` are its constants."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def lookup() -> bytes:
    """Gives table[place] / 3; fails on a place outside of the table of ten."""
    table = (np.arange(10) / 3).astype(np.float32)
    node = helper.make_node("Gather", ["table", "place"], ["value"])
    made = model([node], {"place": (TensorProto.INT64, ["n", "m"])}, {"value": ["n", "m"]}, table=table)
    return bytes(made.SerializeToString())


def total() -> bytes:
    """Sums everything over the batch axis, so that one answer comes of any batch."""
    node = helper.make_node("ReduceSum", ["input", "axis"], ["sum"], keepdims=1)
    made = model([node], {"input": (TensorProto.FLOAT, ["n", 2])}, {"sum": ["k", 2]}, axis=np.array([0]))
    return bytes(made.SerializeToString())


def channel_means(*, nhwc: bool = False, side: int | str = 8, kind: int = TensorProto.FLOAT) -> bytes:
    """A classifier of three classes: how much there is of each channel."""
    shape: Shape = ["n", side, side, 3] if nhwc else ["n", 3, side, side]
    nodes = [
        helper.make_node("Cast", ["input"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2] if nhwc else [2, 3], keepdims=0),
    ]
    return bytes(model(nodes, {"input": (kind, shape)}, {"means": ["n", 3]}).SerializeToString())
