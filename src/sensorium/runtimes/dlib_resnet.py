"""dlib's face recognition network as an ONNX graph, read from the file that dlib writes.

In our own session it takes a tenth of the time that dlib does in its wheels, which are built for any processor, and gives the same
numbers (1e-6). Each affine layer is folded into the
convolution before it, and what is subtracted of the picture into the first.
Source: dlib, examples/dnn_face_recognition_ex.cpp (`anet_type`), dlib/dnn/layers.h, dlib/serialize.h.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensorium.engine import Card
from sensorium.errors import InvalidModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

BUILDER_VERSION = "1"
"""Part of the name under which built graphs are kept; changes whenever `build` would give another graph."""

SIDE, NUMBERS = 150, 128
"""Pixels of a face, and numbers that it becomes."""

MEAN, SCALE = (122.782, 117.001, 104.298), 256.0
"""Of red, green and blue. `input_rgb_image_sized`."""

LEVELS = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
"""From the picture on: channels, residual blocks, and whether the first of them halves the size. `alevel4` to `alevel0`."""

DIMENSIONS = 4
"""Of every tensor in the file: samples, channels, rows, columns."""

LARGEST = 1 << 26
"""Bytes of a file; the network has 22 million."""
OPSET, IR_VERSION = 13, 8


def build(path: Path, card: Card) -> bytes:
    """The graph as a serialised ONNX model: `input` [n, 3, 150, 150], RGB, 0 to 255, to `embedding` [n, 128].

    Raises InvalidModel when the file holds another network.
    """
    if path.stat().st_size > LARGEST:
        raise _wrong(card, "it is larger than that")
    graph = _Graph(_Weights(path.read_bytes(), card))
    flow = graph.pool("MaxPool", graph.relu(graph.conv(PICTURE, 32, kernel=7, stride=2)), kernel=3)
    for channels, blocks, halves in LEVELS:
        for number in range(blocks):
            flow = _block(graph, flow, channels, 2 if halves and number == 0 else 1)
    features = graph.add("Flatten", [graph.add("GlobalAveragePool", [flow.name])])
    matrix = graph.weights.next(b"fc_2", (256, NUMBERS))
    graph.add("MatMul", [features, graph.constant("matrix", matrix)], output="embedding")
    return graph.serialised(card.id)


def _block(graph: _Graph, entry: _Flow, channels: int, stride: int) -> _Flow:
    """Two convolutions, and what entered beside them: as it is, or halved."""
    inside = graph.relu(graph.conv(entry, channels, kernel=3, stride=stride))
    inside = graph.conv(inside, channels, kernel=3, stride=1)
    beside = entry if stride == 1 else graph.pool("AveragePool", entry, kernel=2)
    return graph.relu(graph.sum(inside, beside))


@dataclass(frozen=True, slots=True)
class _Flow:
    """What flows through the network at one place."""

    name: str
    channels: int
    side: int


PICTURE = _Flow("input", 3, SIDE)


class _Weights:
    """The tensors of a file, one after the other: they stand in the order in which a picture passes them."""

    def __init__(self, data: bytes, card: Card) -> None:
        self._data, self._card, self._place = data, card, 0

    def next(self, tag: bytes, shape: tuple[int, ...]) -> Array:
        """The tensor of the next layer of that kind. Raises InvalidModel when it has not as many numbers as the shape."""
        import numpy as np

        found = self._data.find(tag, self._place)
        if found < 0:
            raise _wrong(self._card, f"a layer {tag.decode()} is missing")
        self._place = found + len(tag)
        if tag.startswith(b"fc"):
            self._integers(2)  # how many numbers go out, and come in
        version, *sides = self._integers(1 + DIMENSIONS)
        count, wanted = int(np.prod(sides, dtype=object)), int(np.prod(shape))
        if version != 2 or count != wanted or self._place + 4 * count > len(self._data):
            raise _wrong(self._card, f"a layer {tag.decode()} has {count} numbers, and {wanted} are needed")
        values = np.frombuffer(self._data, "<f4", count, self._place)
        self._place += 4 * count
        return values.reshape(shape)

    def _integers(self, count: int) -> list[int]:
        return [self._integer() for _ in range(count)]

    def _integer(self) -> int:
        """As dlib packs them: a byte that says how many follow, the lowest first; its highest bit is the sign."""
        size = self._data[self._place] if self._place < len(self._data) else 0
        if not 1 <= size <= 8:
            raise _wrong(self._card, "a number in it is none of a layer's")
        value = int.from_bytes(self._data[self._place + 1 : self._place + 1 + size], "little")
        self._place += 1 + size
        return value


@dataclass
class _Graph:
    """A graph under construction."""

    weights: _Weights
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def conv(self, entry: _Flow, channels: int, *, kernel: int, stride: int) -> _Flow:
        """A convolution with its affine layer folded in. Only those that keep the size have a margin."""
        kernels, shift = self._folded(channels, entry, kernel)
        pad = 0 if stride > 1 else kernel // 2
        number = len(self.constants)
        inputs = [entry.name, self.constant(f"kernels_{number}", kernels), self.constant(f"shift_{number}", shift)]
        places: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        return _Flow(self.add("Conv", inputs, **places), channels, (entry.side + 2 * pad - kernel) // stride + 1)

    def pool(self, operator: str, entry: _Flow, *, kernel: int) -> _Flow:
        made = self.add(operator, [entry.name], kernel_shape=[kernel] * 2, strides=[2, 2])
        return _Flow(made, entry.channels, (entry.side - kernel) // 2 + 1)

    def relu(self, entry: _Flow) -> _Flow:
        return _Flow(self.add("Relu", [entry.name]), entry.channels, entry.side)

    def sum(self, one: _Flow, other: _Flow) -> _Flow:
        """Both added; what one has less of is taken for nought, after the rest. dlib's `add_prev`."""
        channels, side = max(one.channels, other.channels), max(one.side, other.side)
        parts = [self._filled(flow, channels, side) for flow in (one, other)]
        return _Flow(self.add("Add", parts), channels, side)

    def add(self, operator: str, inputs: list[str], *, output: str = "", **attributes: Any) -> str:
        """A node; gives the name of what it puts out."""
        from onnx import helper

        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def serialised(self, name: str) -> bytes:
        from onnx import TensorProto, helper

        ends = [
            helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", *shape])
            for end, shape in (("input", (3, SIDE, SIDE)), ("embedding", (NUMBERS,)))
        ]
        graph = helper.make_graph(self.nodes, name, ends[:1], ends[1:], self.constants)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, producer_name="sensorium", opset_imports=opset, ir_version=IR_VERSION)
        return bytes(model.SerializeToString(deterministic=True))

    def _folded(self, channels: int, entry: _Flow, kernel: int) -> tuple[Array, Array]:
        """Kernels and shift of a convolution and its affine layer together."""
        import numpy as np

        size = channels * entry.channels * kernel * kernel
        numbers = self.weights.next(b"con_4", (size + channels,))
        kernels, bias = numbers[:size].reshape(channels, entry.channels, kernel, kernel), numbers[size:]
        scale, shift = self.weights.next(b"affine_", (2, channels))
        kernels, bias = kernels * scale[:, None, None, None], bias * scale + shift
        if entry is PICTURE:
            kernels = kernels / np.float32(SCALE)
            bias = bias - np.einsum("ocyx,c->o", kernels, np.array(MEAN, np.float32))
        return np.ascontiguousarray(kernels, "<f4"), np.ascontiguousarray(bias, "<f4")

    def _filled(self, flow: _Flow, channels: int, side: int) -> str:
        import numpy as np

        more, larger = channels - flow.channels, side - flow.side
        if not more and not larger:
            return flow.name
        margins = np.array([0, 0, 0, 0, 0, more, larger, larger], "<i8")
        return self.add("Pad", [flow.name, self.constant(f"margins_{len(self.constants)}", margins)])


def _wrong(card: Card, why: str) -> InvalidModel:
    return InvalidModel(f"Cannot build {card.id}", why=f"its file is not dlib's face recognition network: {why}")
