"""`sensorium models add`, with real ONNX files."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.conftest import Sensorium, lines
from tests.pictures import png


def classifier(path: Path, classes: int = 3, layout: str = "NCHW", side: int = 8, *, softmax: bool = False) -> Path:
    """An ONNX file that names a picture by its mean channels: the first class is the most like red."""
    shape = [1, 3, side, side] if layout == "NCHW" else [1, side, side, 3]
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    weights = np.zeros((3, classes), np.float32)
    weights[:3, :3] = np.eye(3, dtype=np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["picture", "axes"], ["channels"], keepdims=0),
        helper.make_node("MatMul", ["channels", "weights"], ["logits"]),
        *([helper.make_node("Softmax", ["logits"], ["scores"])] if softmax else []),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores" if softmax else "logits", TensorProto.FLOAT, [1, classes])],
        [numpy_helper.from_array(np.array(axes, np.int64), "axes"), numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture
def tiny(home: Path) -> list[str | Path]:
    """The words that add a model of three classes."""
    (home / "颜色.txt").write_text("红\n绿\n蓝\n", encoding="utf-8")
    classifier(home / "tiny.onnx")
    return ["models", "add", "Tiny", "tiny.onnx", "--labels", "颜色.txt", "--input-size", "8", "--input-std", "255"]


def test_a_model_of_your_own_answers_at_once(sensorium: Sensorium, home: Path, tiny: list[str | Path]) -> None:
    told = sensorium(*tiny, "--licence", "MIT")
    assert told.exit_code == 0, told.output
    (home / "red.png").write_bytes(png(colour=(250, 10, 10)))
    (answer,) = lines(sensorium("classify", "red.png", "--model", "tiny", "--json"))
    assert answer["result"]["labels"][0]["name"] == "红"
    (model,) = [line for line in lines(sensorium("engines", "--json")) if line["model"] == "tiny@1"]
    assert (model["state"], model["licence"]) == ("ready", "MIT")


def test_the_card_says_what_was_told_with_the_checksum(
    sensorium: Sensorium, home: Path, tmp_path: Path, tiny: list[str | Path]
) -> None:
    sensorium(*tiny)
    card = tomllib.loads((tmp_path / "models" / "tiny" / "card.toml").read_text(encoding="utf-8"))
    assert card["weights"]["sha256"] == hashlib.sha256((home / "tiny.onnx").read_bytes()).hexdigest()
    assert card["input"] == {"size": 8, "std": 255}
    assert card["licence"] == "NOASSERTION"


def test_a_known_model_needs_no_more_than_its_file(sensorium: Sensorium, home: Path, tmp_path: Path) -> None:
    classifier(home / "mine.onnx", 1000, "NHWC", 224, softmax=True)
    told = sensorium("models", "add", "ResNet50", "mine.onnx")
    assert told.exit_code == 0, told.output
    card = tomllib.loads((tmp_path / "models" / "resnet50" / "card.toml").read_text(encoding="utf-8"))
    assert (card["labels"], card["input"]["order"], card["licence"]) == ("imagenet", "BGR", "MIT")
    assert "install" not in card
    (home / "x.png").write_bytes(png())
    (answer,) = lines(sensorium("classify", "x.png", "--model", "resnet50", "--json"))
    assert answer["result"]["meta"]["engine"] == "resnet50@1"


def test_a_model_is_not_replaced_unless_forced(
    sensorium: Sensorium, home: Path, tmp_path: Path, tiny: list[str | Path]
) -> None:
    sensorium(*tiny)
    again = sensorium(*tiny)
    assert again.exit_code == 2
    assert "--force" in again.stderr
    (home / "颜色.txt").write_text("red\ngreen\nblue\n", encoding="utf-8")
    assert sensorium(*tiny, "--force").exit_code == 0
    assert len(list((tmp_path / "models" / "tiny").iterdir())) == 3, "card, weights and labels; the old labels are gone"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--sha256", "0" * 64], "not the file that was meant"),
        (["--input-size", "9"], "size"),
        (["--input-layout", "NHWC"], "layout"),
        (["--input-activation", "none", "--input-std", "1"], "no probability"),
        (["--input-std", "0"], "std"),
        (["--labels", "imagenet"], "1000"),
        (["--labels", "gone.txt"], "Cannot read gone.txt"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_what_does_not_fit_is_told_and_leaves_nothing_behind(
    change: list[str], said: str, sensorium: Sensorium, tmp_path: Path, tiny: list[str | Path]
) -> None:
    told = sensorium(*tiny, *change)
    assert told.exit_code == 2
    assert said in told.stderr
    assert "Traceback" not in told.output
    assert not (tmp_path / "models" / "tiny").exists()


@pytest.mark.parametrize("content", [b"", b"no model", png()])
def test_a_file_that_is_no_model_is_told(content: bytes, sensorium: Sensorium, home: Path, tmp_path: Path) -> None:
    (home / "x.onnx").write_bytes(content)
    told = sensorium("models", "add", "resnet50", "x.onnx")
    assert told.exit_code == 2
    assert not (tmp_path / "models" / "resnet50").exists()


def test_a_failed_replacement_leaves_the_old_model_as_it_was(
    sensorium: Sensorium, home: Path, tmp_path: Path, tiny: list[str | Path]
) -> None:
    sensorium(*tiny)
    folder = tmp_path / "models" / "tiny"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    classifier(home / "tiny.onnx", classes=5)
    assert sensorium(*tiny, "--force").exit_code == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_unknown_model_of_which_nothing_is_told_is_refused_with_the_way_out(
    sensorium: Sensorium, home: Path
) -> None:
    classifier(home / "x.onnx")
    told = sensorium("models", "add", "mystery", "x.onnx")
    assert told.exit_code == 2
    assert "--input-size" in told.stderr


def test_a_card_of_your_own_says_the_rest(sensorium: Sensorium, home: Path, tiny: list[str | Path]) -> None:
    card = (
        'name = "any"\nkind = "onnx_classifier"\ntasks = ["classify"]\nlicence = "MIT"\n[input]\nsize = 8\nstd = 255\n'
    )
    (home / "卡.toml").write_text(card, encoding="utf-8")
    told = sensorium("models", "add", "mine", "tiny.onnx", "--labels", "颜色.txt", "--card", "卡.toml")
    assert told.exit_code == 0, told.output
    (home / "坏.toml").write_text("name =", encoding="utf-8")
    assert sensorium("models", "add", "mine", "tiny.onnx", "--card", "坏.toml").exit_code == 2
    assert sensorium("models", "add", "我的", "tiny.onnx", "--card", "卡.toml").exit_code == 2
