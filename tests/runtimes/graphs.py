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
    """Sums everything over the batch axis, so that one answer comes of any batch; on the way it needs room for a copy."""
    nodes = [
        helper.make_node("Floor", ["input"], ["whole"]),
        helper.make_node("ReduceSum", ["whole", "axis"], ["sum"], keepdims=1),
    ]
    made = model(nodes, {"input": (TensorProto.FLOAT, ["n", 2])}, {"sum": ["k", 2]}, axis=np.array([0]))
    return bytes(made.SerializeToString())


def channel_means(*, nhwc: bool = False, side: int | str = 8, kind: int = TensorProto.FLOAT) -> bytes:
    """A classifier of three classes: how much there is of each channel."""
    shape: Shape = ["n", side, side, 3] if nhwc else ["n", 3, side, side]
    nodes = [
        helper.make_node("Cast", ["input"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2] if nhwc else [2, 3], keepdims=0),
    ]
    return bytes(model(nodes, {"input": (kind, shape)}, {"means": ["n", 3]}).SerializeToString())


def convolutional(*, opset: int = 13, softmax: bool = False, named: bool = True) -> bytes:
    """A small network as classifiers are built: 32 x 32 pixels to an embedding of 16 and logits of 5 classes."""
    random = np.random.default_rng(7)

    def weights(*shape: int) -> Any:
        return random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["c1"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["c2", "scale", "shift", "mean", "variance"], ["n2"]),
        helper.make_node("Relu", ["n2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
        helper.make_node("Gemm", ["embedding", "w3", "b3"], ["logits"], transB=1),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["scores"]))
    if named:
        for node in nodes:
            node.name = node.output[0]
    graph = helper.make_graph(
        nodes,
        "convolutional",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [
            helper.make_tensor_value_info("scores" if softmax else "logits", TensorProto.FLOAT, ["n", 5]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 16]),
        ],
        [
            numpy_helper.from_array(values, name)
            for name, values in {
                "w1": weights(8, 3, 3, 3),
                "b1": weights(8),
                "w2": weights(16, 8, 3, 3),
                "b2": weights(16),
                "w3": 30 * weights(5, 16),
                "b3": weights(5),
                "scale": np.ones(16, np.float32),
                "shift": np.zeros(16, np.float32),
                "mean": np.zeros(16, np.float32),
                "variance": np.ones(16, np.float32),
            }.items()
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(made.SerializeToString())


def always(place: int, *, side: int = 8, ballast: int = 0) -> bytes:
    """A classifier of three classes that is sure of one, whatever it sees; `ballast` MiB of weights change nothing."""
    sure = np.zeros((1, 3), np.float32)
    sure[0, place] = 9
    width = max(1, ballast * 2**20 // 24)
    random = np.random.default_rng(place).standard_normal
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "out"], ["wide"]),
        helper.make_node("MatMul", ["wide", "back"], ["narrow"]),
        helper.make_node("Mul", ["narrow", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "sure"], ["scores"]),
    ]
    constants = {
        "out": random((3, width), np.float32),
        "back": random((width, 3), np.float32),
        "nothing": np.zeros(1, np.float32),
        "sure": sure,
    }
    made = model(nodes, {"input": (TensorProto.FLOAT, ["n", 3, side, side])}, {"scores": ["n", 3]}, **constants)
    return bytes(made.SerializeToString())
