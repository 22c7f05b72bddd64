"""INT8 twins of ONNX models: static quantisation (QDQ) by onnxruntime's own tools, calibrated on examples.

Measured with EfficientNet-Lite0 on 300 labelled ImageNet pictures, calibrated on one half and asked about the other, on
an x86 processor that saturates (see `saturates`); "same" is how often the best name stays:

    weights            in float          top-1   same   change of the best name's probability   speed
    float32            all               0.880   1      0                                       1
    8 bits             none              0.837   0.880  0.100                                   1.58
    7 bits             none              0.860   0.943  0.042                                   1.56
    7 bits             first 3 of 50     0.877   0.963  0.031                                   1.56
    8 bits             first 3 of 50     0.877   0.953  0.028                                   1.57
    8 bits, exact sums none              0.873   0.973  0.021
    8 bits, exact sums first 3 of 50     0.883   0.983  0.018                                   2.16 (with VNNI)

Percentiles (99.99 to 99.9999) gave the same within a picture or two; entropy (same 0.907, and minutes instead of
seconds), moving averages and one scale for each tensor gave less. Fewer kinds of nodes, float logits and onnxruntime's
graph optimisation beforehand changed nothing for this model.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sensorium.dependencies import need
from sensorium.errors import InvalidModel
from sensorium.runtimes import onnx_file
from sensorium.runtimes.onnx import Session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tensor = NDArray[np.generic]

Method = Literal["minmax", "percentile", "entropy"]

METHODS: dict[Method, tuple[str, dict[str, Any]]] = {
    "minmax": ("MinMax", {}),
    "percentile": ("Percentile", {"percentile": 99.999}),
    # The tool's own 128 bins for 128 steps leave nothing to choose: they give minmax.
    "entropy": ("Entropy", {"num_bins": 256, "num_quantized_bins": 128}),
}
"""onnxruntime's name of each method, and its options."""

OPSET = 13
"""From here on a scale may be given for each channel."""

KEPT_SHARE = 0.06
"""How much of a network's multiplications stays in float: those of its first convolutions. They see few channels of
large, uneven pictures, which eight bits hurt most, and are a small part of the work."""

WORK = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Kinds of nodes that eight bits make quicker."""

LEFT_IN_FLOAT = frozenset({"Softmax", "ArgMax"})
"""Kinds of nodes that are never quantised: probabilities in steps of 1/256 are of no use."""

ROUNDS, SECONDS = 15, 3.0
"""A comparison of speed takes at least so many rounds, and about so many seconds."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """How numbers are written in eight bits."""

    activations: Literal["uint8", "int8"]
    weight_bits: Literal[7, 8]


def suited_to_this_cpu() -> Numbers:
    """uint8 activations, of which x86 makes most (2.16 times the speed of float32, int8 1.26); int8 on ARM."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return Numbers("int8", 8)
    return Numbers("uint8", 7 if saturates() else 8)


@functools.cache
def saturates() -> bool:
    """Whether sums of two products of full bytes are cut to 16 bits, as on x86 before VNNI; asked, not looked up.

    There, weights of eight bits lose much (top-1 0.837 for 0.880, measured), and of seven nothing is cut.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    length = 64
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["pixels", "weights"], ["sums"])],
        "probe",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, length])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [1, 16])],
        [numpy_helper.from_array(np.full((length, 16), 127, np.int8), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    session = Session(model.SerializeToString(), name="probe")
    try:
        sums = session.run_here({"pixels": np.full((1, length), 255, np.uint8)})["sums"]
    finally:
        session.close()
    return bool((sums != 255 * 127 * length).any())


def is_quantised(model: Path) -> bool:
    """Whether some of the graph's nodes compute with integers already. Raises InvalidModel for what is no ONNX file."""
    return any(
        "QuantizeLinear" in node.op_type
        or node.op_type.startswith(("QLinear", "QGemm", "QAttention"))
        or node.op_type.endswith(("Integer", "NBits", "IntegerToFloat"))
        for node in _read(model).graph.node
    )


class Calibration:
    """Watches what values flow through a model, example by example, and then writes its twin.

    One example's values are in memory at a time, and beside them a range or a histogram for each tensor.
    """

    def __init__(self, model: Path, scratch: Path, method: Method = "minmax") -> None:
        """Blocks. `scratch` is a folder for files in between.

        Raises InvalidModel when the tools cannot work on the graph.
        """
        need("onnxruntime.quantization", for_what="quantise a model")
        self._model, self._scratch = model, scratch
        with self._told("its graph cannot be made ready"), _quiet():
            self._prepared = _prepared(model, scratch)
            self._watcher = _watcher(self._prepared, scratch, method)
        self._input = self._watcher.infer_session.get_inputs()[0].name

    def add(self, example: Tensor) -> None:
        """Take in what the example makes flow through the model."""
        with self._told("it fails on an example"), _quiet():
            self._watcher.collect_data(_One({self._input: example}))

    def write(self, numbers: Numbers) -> Quantised:
        """The twin, as a file in the scratch folder. Raises InvalidModel when nothing in it could be quantised."""
        with self._told("its graph has something that the tools cannot quantise"), _quiet():
            graph, kept = _quantised(self._prepared, self._watcher.compute_data(), numbers)
            path = self._scratch / "int8.onnx"
            graph.save_model_to_file(str(path))
        if not any(node.op_type in WORK and node.name not in kept for node in graph.model.graph.node):
            raise self._cannot("it has no convolution or matrix product")
        return Quantised(path, kept)

    @contextlib.contextmanager
    def _told(self, why: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise self._cannot(f"{why} ({first[:300]})") from error

    def _cannot(self, why: str) -> InvalidModel:
        return InvalidModel(
            f"{self._model.name} cannot be quantised", why=why, fix="Export it again in float32, with a newer opset"
        )


@dataclass(frozen=True, slots=True)
class Quantised:
    """A twin that was written."""

    path: Path
    kept: tuple[str, ...]
    """The names of convolutions that stayed in float."""


def race(before: Path, after: Path, example: Tensor) -> tuple[float, float]:
    """Median seconds of each model for the example, in turns on one thread: what disturbs one disturbs the other."""
    sessions = [Session(path, name=path.name) for path in (before, after)]
    took: list[list[float]] = [[], []]
    try:
        end = time.perf_counter() + SECONDS
        while len(took[0]) < ROUNDS or time.perf_counter() < end:
            for session, times in zip(sessions, took, strict=True):
                start = time.perf_counter()
                session.run_here({session.inputs[0].name: example})
                times.append(time.perf_counter() - start)
    finally:
        for session in sessions:
            session.close()
    # The first rounds warm up.
    first, second = (sorted(times[3:])[len(times[3:]) // 2] for times in took)
    return first, second


class _One:
    """The tools' way of being given examples: one, and then None."""

    def __init__(self, feed: dict[str, Tensor]) -> None:
        self._left = [feed]

    def get_next(self) -> dict[str, Tensor] | None:
        return self._left.pop() if self._left else None


def _read(model: Path) -> Any:
    onnx_file.check(model)
    import onnx

    try:
        return onnx.load(model, load_external_data=False)
    except Exception as error:
        raise InvalidModel(f"Cannot read {model.name} as an ONNX model", why=str(error)) from error


def _prepared(model: Path, scratch: Path) -> Path:
    """The model at an opset that will do, optimised (batch norms folded), with shapes, and a name for each node."""
    import onnx
    from onnxruntime.quantization import quant_pre_process

    read, path = _read(model), scratch / "prepared.onnx"
    opset = max((one.version for one in read.opset_import if one.domain in ("", "ai.onnx")), default=1)
    if opset < OPSET:
        read = onnx.version_converter.convert_version(read, OPSET)
    onnx.save(read, path)
    quant_pre_process(str(path), str(path), skip_symbolic_shape=True)
    read = onnx.load(path)
    for number, node in enumerate(read.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    onnx.save(read, path)
    return path


def _watcher(prepared: Path, scratch: Path, method: Method) -> Any:
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    name, options = METHODS[method]
    return create_calibrator(
        prepared,
        _kinds(),
        augmented_model_path=str(scratch / "watched.onnx"),
        calibrate_method=CalibrationMethod[name],
        extra_options=options,
    )


def _quantised(prepared: Path, ranges: Any, numbers: Numbers) -> tuple[Any, tuple[str, ...]]:
    import onnx
    from onnxruntime.quantization import QDQQuantizer, QuantType

    model = onnx.shape_inference.infer_shapes(onnx.load(prepared))
    kept = tuple(first_convolutions(model, KEPT_SHARE))
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=numbers.weight_bits == 7,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if numbers.activations == "int8" else QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=list(kept),
        op_types_to_quantize=_kinds(),
        # int8 activations are quick only around zero.
        extra_options={"ActivationSymmetric": numbers.activations == "int8"},
    )
    quantizer.quantize_model()
    return quantizer.model, kept


def _kinds() -> list[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QLinearOpsRegistry, *QDQRegistry} - LEFT_IN_FLOAT)


def first_convolutions(model: Any, share: float) -> Iterator[str]:
    """The names of the first convolutions that together do at most this share of the model's multiplications."""
    work = dict(_multiplications(model))
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv" and node.name in work]
    room = share * sum(work.values())
    for name in convolutions[:-1]:
        room -= work[name]
        if room < 0:
            return
        yield name


def _multiplications(model: Any) -> Iterator[tuple[str, int]]:
    """For each convolution and matrix product with fixed weights, how many multiplications a picture takes."""
    weights = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    shapes = {
        info.name: [side.dim_value for side in info.type.tensor_type.shape.dim]
        for info in (*model.graph.value_info, *model.graph.output)
    }
    for node in model.graph.node:
        size = next((weights[name] for name in node.input[1:2] if name in weights), 0)
        shape = shapes.get(node.output[0], [])
        if size and node.op_type == "Conv":
            yield node.name, size * math.prod(max(side, 1) for side in shape[2:])
        elif size and node.op_type in ("Gemm", "MatMul"):
            yield node.name, size * math.prod(max(side, 1) for side in shape[1:-1])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tools print, and warn by the root logger, of what is no concern of whoever calls."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
