"""EfficientNet-Lite as an ONNX graph, built from a torch checkpoint with lukemelas-style tensor names.

Every padding is TensorFlow's SAME, worked out for the card's input size and written into the graph as constants: the
weights were trained so, symmetric padding takes the same shapes and is silently wrong, and padding computed at run time
costs a quarter of the speed. Batch norms are folded into the convolutions before them.
Source: tensorflow/tpu, models/official/efficientnet/lite/efficientnet_lite_builder.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from sensorium.engine import Card
from sensorium.errors import InvalidModel
from sensorium.runtimes import torch_checkpoint
from sensorium.schemas.base import Frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

BUILDER_VERSION = "1"
"""Part of the name under which built graphs are kept; changes whenever `build` would give another graph."""

EPSILON = 1e-3
"""TensorFlow's batch norm epsilon in these models; torch's default of 1e-5 is silently wrong."""
OPSET = 13
IR_VERSION = 8


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one kind in a row; only the first has the stride."""

    repeats: int
    kernel: int
    stride: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 16),
    Stage(2, 3, 2, 24),
    Stage(2, 5, 2, 40),
    Stage(3, 3, 2, 80),
    Stage(3, 5, 1, 112),
    Stage(4, 5, 2, 192),
    Stage(1, 3, 1, 320),
)
"""EfficientNet-B0's. Lite models scale them, but neither the stem, the head, nor the repeats of the first and last."""


class Scaling(Frozen):
    """What sets one EfficientNet-Lite apart from another: its card's quirks, and the input size."""

    width: float = Field(default=1.0, gt=0, le=4)
    depth: float = Field(default=1.0, gt=0, le=4)
    size: int = Field(ge=32, le=1024)

    def channels(self, channels: int) -> int:
        """A channel count scaled by the width: a multiple of 8, at most a tenth below the exact product."""
        exact = channels * self.width
        rounded = max(8, int(exact + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * exact else rounded + 8

    def stages(self) -> Iterator[Stage]:
        """The stages, scaled."""
        for stage in STAGES:
            fixed = stage in (STAGES[0], STAGES[-1])
            repeats = stage.repeats if fixed else math.ceil(stage.repeats * self.depth)
            yield Stage(repeats, stage.kernel, stage.stride, self.channels(stage.channels))


def build(path: Path, card: Card) -> bytes:
    """The graph as a serialised ONNX model: input [n, 3, size, size] to logits [n, classes] and embedding [n, 1280].

    The card's `input.size` says how large pictures are, its quirks `width` and `depth` how the network is scaled.
    Raises InvalidModel when card and checkpoint do not fit together.
    """
    quirks = {name: card.quirks[name] for name in ("width", "depth") if name in card.quirks}
    try:
        scaling = Scaling.model_validate({"size": card.input.get("size"), **quirks})
    except ValidationError as error:
        found = error.errors()[0]
        raise InvalidModel(f"Cannot build {card.id}", why=f"`{found['loc'][0]}` of its card: {found['msg']}") from error
    graph = _Graph(torch_checkpoint.read(path), card.id, scaling.size)
    _network(graph, scaling)
    return graph.serialised()


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels that TensorFlow's SAME adds before and after an axis of that size; the odd one comes after."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _network(graph: _Graph, scaling: Scaling) -> None:
    stem = graph.conv("input", "_conv_stem", "_bn0", channels=32, kernel=3, stride=2)
    flow, number = graph.relu6(stem), 0
    for stage in scaling.stages():
        for repeat in range(stage.repeats):
            flow = _block(graph, flow, number, stage, stage.stride if repeat == 0 else 1)
            number += 1
    features = graph.relu6(graph.conv(flow, "_conv_head", "_bn1", channels=1280, kernel=1))
    graph.add("Flatten", [graph.add("GlobalAveragePool", [features])], output="embedding")
    graph.linear("embedding", "_fc", output="logits")


def _block(graph: _Graph, entry: str, number: int, stage: Stage, stride: int) -> str:
    """One inverted residual: expand sixfold (not in block 0), filter each channel, project; add the entry if equal."""
    prefix, entering = f"_blocks.{number}.", graph.channels[entry]
    inside, flow = entering * (6 if number else 1), entry
    if number:
        flow = graph.relu6(graph.conv(flow, prefix + "_expand_conv", prefix + "_bn0", channels=inside, kernel=1))
    flow = graph.depthwise(flow, prefix + "_depthwise_conv", prefix + "_bn1", kernel=stage.kernel, stride=stride)
    flow = graph.relu6(flow)
    flow = graph.conv(flow, prefix + "_project_conv", prefix + "_bn2", channels=stage.channels, kernel=1)
    return graph.sum(entry, flow) if stride == 1 and entering == stage.channels else flow


@dataclass
class _Graph:
    """A graph under construction, and the shape of everything that flows through it."""

    tensors: Mapping[str, NDArray[np.generic]]
    model: str
    size: int
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=lambda: {"input": 3})
    classes: int = 0

    def __post_init__(self) -> None:
        import numpy as np

        self.sizes = {"input": self.size}
        self.bounds = [self.constant("zero", np.zeros((), "f4")), self.constant("six", np.full((), 6, "f4"))]

    def conv(self, entry: str, weight: str, norm: str, *, channels: int, kernel: int, stride: int = 1) -> str:
        """A convolution with its batch norm folded in."""
        kernels = self.tensor(weight + ".weight", (channels, self.channels[entry], kernel, kernel))
        return self._folded(entry, weight, norm, kernels, stride, group=1)

    def depthwise(self, entry: str, weight: str, norm: str, *, kernel: int, stride: int) -> str:
        """The same, of each channel by itself."""
        channels = self.channels[entry]
        kernels = self.tensor(weight + ".weight", (channels, 1, kernel, kernel))
        return self._folded(entry, weight, norm, kernels, stride, group=channels)

    def relu6(self, entry: str) -> str:
        return self._alike(entry, self.add("Clip", [entry, *self.bounds]))

    def sum(self, one: str, other: str) -> str:
        return self._alike(one, self.add("Add", [one, other]))

    def linear(self, entry: str, weight: str, *, output: str) -> None:
        """A fully connected layer; the checkpoint says how many classes there are."""
        bias = self.tensor(weight + ".bias", None)
        self.classes = bias.size
        matrix = self.tensor(weight + ".weight", (self.classes, 1280))
        inputs = [entry, self.constant(weight + ".weight", matrix), self.constant(weight + ".bias", bias)]
        self.add("Gemm", inputs, output=output, transB=1)

    def add(self, operator: str, inputs: list[str], *, output: str = "", **attributes: Any) -> str:
        """A node; gives the name of what it puts out."""
        from onnx import helper

        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: Array) -> str:
        import numpy as np
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype="<f4"), name))
        return name

    def tensor(self, name: str, shape: tuple[int, ...] | None) -> Array:
        """A tensor of the checkpoint, checked against the shape that the network needs."""
        import numpy as np

        found = self.tensors.get(name)
        if found is None or found.dtype.kind != "f" or (found.shape != shape if shape else found.ndim != 1):
            seen = "not there" if found is None else f"{found.dtype} {found.shape}"
            raise InvalidModel(
                f"Cannot build {self.model}",
                why=f"tensor {name!r} of its checkpoint is {seen}, where float32 {shape or '(classes,)'} is needed",
                fix="Correct `width` and `depth` of its card, or install the model again",
            )
        return found.astype(np.float32)

    def serialised(self) -> bytes:
        from onnx import TensorProto, helper

        shapes = {"input": (3, self.size, self.size), "logits": (self.classes,), "embedding": (1280,)}
        ends = {
            name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])
            for name, shape in shapes.items()
        }
        graph = helper.make_graph(
            self.nodes, self.model, [ends["input"]], [ends["logits"], ends["embedding"]], self.constants
        )
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, producer_name="sensorium", opset_imports=opset, ir_version=IR_VERSION)
        return bytes(model.SerializeToString(deterministic=True))

    def _folded(self, entry: str, weight: str, norm: str, kernels: Array, stride: int, *, group: int) -> str:
        channels, kernel = kernels.shape[0], kernels.shape[2]
        scale, shift = self._norm(norm, channels)
        inputs = [
            entry,
            self.constant(weight + ".weight", kernels * scale[:, None, None, None]),
            self.constant(weight + ".bias", shift),
        ]
        before, after = same_padding(self.sizes[entry], kernel, stride)
        places = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [before, before, after, after]}
        made = self.add("Conv", inputs, output=weight, group=group, **places)
        self.channels[made], self.sizes[made] = channels, math.ceil(self.sizes[entry] / stride)
        return made

    def _norm(self, norm: str, channels: int) -> tuple[Array, Array]:
        """What a batch norm multiplies by and then adds, for each channel."""
        import numpy as np

        parts = ("weight", "bias", "running_mean", "running_var")
        gamma, beta, mean, variance = (self.tensor(f"{norm}.{part}", (channels,)) for part in parts)
        scale = gamma / np.sqrt(variance + np.float32(EPSILON))
        return scale, beta - mean * scale

    def _alike(self, entry: str, made: str) -> str:
        self.channels[made], self.sizes[made] = self.channels[entry], self.sizes[entry]
        return made
