"""INT8 twins of graphs: what is quantised, what is not, and how close they stay."""

from __future__ import annotations

import logging
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from sensorium.errors import InvalidModel
from sensorium.runtimes import quantize
from sensorium.runtimes.quantize import (
    Calibration,
    Method,
    Numbers,
    first_convolutions,
    is_quantised,
    race,
    saturates,
    suited_to_this_cpu,
)
from tests.runtimes.graphs import convolutional, lookup, total

SEVEN = Numbers("uint8", 7)
"""The same on every processor: nothing saturates."""


def pictures(count: int, seed: int = 0) -> Any:
    """Soft noise, as much of it as photographs have: float32 (count, 1, 3, 32, 32), -1 to 1."""
    coarse = np.random.default_rng(seed).uniform(-1, 1, (count, 1, 3, 4, 4))
    return coarse.repeat(8, axis=3).repeat(8, axis=4).astype(np.float32)


def twin(
    folder: Path, model: bytes, method: Method = "minmax", numbers: Numbers = SEVEN, examples: Any = None
) -> tuple[Path, Path]:
    """The model's file, and its twin's."""
    path = folder / "model.onnx"
    path.write_bytes(model)
    calibration = Calibration(path, folder, method)
    for picture in pictures(12) if examples is None else examples:
        calibration.add(picture)
    return path, calibration.write(numbers).path


def outputs(path: Path, picture: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: picture}), strict=True))


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(("method", "off"), [("minmax", 0.04), ("percentile", 0.04), ("entropy", 0.15)])
def test_a_twin_answers_nearly_alike_on_examples_it_has_not_seen(tmp_path: Path, method: Method, off: float) -> None:
    path, quick = twin(tmp_path, convolutional(), method)
    for picture in pictures(20, seed=1):
        first, second = outputs(path, picture), outputs(quick, picture)
        assert first.keys() == second.keys() == {"logits", "embedding"}
        spread = np.ptp(first["logits"])
        assert np.abs(first["logits"] - second["logits"]).max() < 0.08 * spread
        assert 0 < np.abs(first["embedding"] - second["embedding"]).max() < off * np.ptp(first["embedding"])


def test_weights_are_written_in_bytes_with_a_scale_for_each_channel(tmp_path: Path) -> None:
    _, quick = twin(tmp_path, convolutional())
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(quick).graph.initializer}
    ((name, weights),) = [one for one in constants.items() if one[1].shape == (16, 8, 3, 3)]
    assert weights.dtype == np.int8
    assert np.abs(weights).max() <= 64, "seven bits"
    assert constants[name.replace("_quantized", "_scale")].shape == (16,)
    assert "BatchNormalization" not in kinds(quick), "folded into the convolution before it"


def test_activations_are_written_as_asked(tmp_path: Path) -> None:
    for kind, zero in (("uint8", np.uint8), ("int8", np.int8)):
        _, quick = twin(tmp_path, convolutional(), numbers=Numbers(kind, 8))  # type: ignore[arg-type]
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(quick).graph.initializer}
        points = [values for name, values in constants.items() if name.endswith("_zero_point") and values.ndim == 0]
        assert points
        assert {values.dtype.type for values in points} <= {zero, np.int32}
        if kind == "int8":
            assert not any(points), "around zero"


def test_older_graphs_and_nodes_without_names_will_do(tmp_path: Path) -> None:
    for model in (convolutional(opset=11), convolutional(named=False)):
        path, quick = twin(tmp_path, model)
        picture = pictures(1, seed=2)[0]
        assert np.argmax(outputs(path, picture)["logits"]) == np.argmax(outputs(quick, picture)["logits"])
        assert "QuantizeLinear" in kinds(quick)


def test_probabilities_are_not_rounded_to_steps(tmp_path: Path) -> None:
    _, quick = twin(tmp_path, convolutional(softmax=True))
    found = np.concatenate([outputs(quick, picture)["scores"] for picture in pictures(10, seed=3)])
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-5


def test_a_graph_without_anything_to_quantise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "total.onnx"
    path.write_bytes(total())
    calibration = Calibration(path, tmp_path)
    calibration.add(np.ones((1, 2), np.float32))
    with pytest.raises(InvalidModel, match="no convolution"):
        calibration.write(SEVEN)


def test_an_example_that_does_not_fit_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(convolutional())
    with pytest.raises(InvalidModel, match="fails on an example"):
        Calibration(path, tmp_path).add(np.ones((1, 3, 9, 9, 9), np.float32))


def test_what_the_tools_cannot_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(InvalidModel, match=r"model\.onnx"):
        Calibration(path, tmp_path)
    path.write_bytes(lookup()[:-20])
    with pytest.raises(InvalidModel, match=r"model\.onnx"):
        is_quantised(path)


def test_a_twin_is_known_as_one(tmp_path: Path) -> None:
    path, quick = twin(tmp_path, convolutional())
    assert (is_quantised(path), is_quantised(quick)) == (False, True)


def test_the_tools_say_nothing_and_leave_logging_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    twin(tmp_path, convolutional(), "percentile")
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == 0


def test_memory_does_not_grow_with_the_examples(tmp_path: Path) -> None:
    examples = pictures(60)

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            twin(tmp_path, convolutional(), "percentile", examples=examples[:count])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)  # what is loaded once
    values = 4 * (8 * 15 * 15 * 2 + 16 * 13 * 13 * 2)  # of one example, in bytes
    assert peak(60) - peak(10) < 20 * values


def test_the_first_convolutions_are_kept_up_to_a_share_of_the_work() -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(convolutional()))
    first, second, last = 8 * 3 * 9 * 15 * 15, 16 * 8 * 9 * 13 * 13, 5 * 16
    share = first / (first + second + last)
    assert list(first_convolutions(model, share * 1.01)) == ["c1"]
    assert list(first_convolutions(model, share * 0.99)) == []
    assert list(first_convolutions(model, 1.0)) == ["c1"], "never all of them"


def test_the_processor_is_asked_how_it_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    for cut, bits in ((True, 7), (False, 8)):
        monkeypatch.setattr(quantize, "saturates", lambda cut=cut: cut)
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        assert suited_to_this_cpu() == Numbers("uint8", bits)  # type: ignore[arg-type]
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        assert suited_to_this_cpu() == Numbers("int8", 8)


def test_whether_sums_are_cut_agrees_with_the_processors_flags() -> None:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        pytest.skip("the processor's flags are not told here")
    if "avx2" not in flags:
        pytest.skip("not an x86 processor with AVX2")
    assert saturates() is not ("avx_vnni" in flags or "avx512_vnni" in flags)


def test_a_race_gives_the_time_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "SECONDS", 0.0)
    path, quick = twin(tmp_path, convolutional(), examples=pictures(2))
    assert all(0 < seconds < 1 for seconds in race(path, quick, pictures(1)[0]))
