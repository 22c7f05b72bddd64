"""`sensorium models add` and `quantize`, with real ONNX files."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.conftest import Sensorium, lines
from tests.pictures import JUNK, jpeg, png
from tests.runtimes.graphs import channel_means, convolutional


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
    assert card["input"] == {"size": 8, "std": 255, "layout": "NCHW", "dtype": "float32"}
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


def test_versions_stand_side_by_side_and_the_name_alone_means_the_highest(
    sensorium: Sensorium, home: Path, tmp_path: Path, tiny: list[str | Path]
) -> None:
    assert sensorium(*tiny).exit_code == 0
    added = sensorium(*tiny, "--version", "2")
    assert added.exit_code == 0, added.output
    assert "Added tiny@2" in added.stdout
    (home / "x.png").write_bytes(png())
    for name, meant in (("tiny", "tiny@2"), ("tiny@1", "tiny@1")):
        (answer,) = lines(sensorium("classify", "x.png", "--model", name, "--json"))
        assert answer["result"]["meta"]["engine"] == meant
    assert sensorium(*tiny, "--version", "2").exit_code == 2
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"tiny", "tiny-2"}


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
    assert "--input-mean" in told.stderr


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


# What the file says itself


@pytest.mark.parametrize(
    ("layout", "side", "said"),
    [("NCHW", 8, "layout NCHW, dtype float32, size 8"), ("NHWC", 12, "layout NHWC, dtype float32, size 12")],
)
def test_size_and_layout_are_read_from_the_file_and_told(
    layout: str, side: int, said: str, sensorium: Sensorium, home: Path, tmp_path: Path
) -> None:
    (home / "names.txt").write_text("red\ngreen\nblue\n", encoding="utf-8")
    classifier(home / "tiny.onnx", layout=layout, side=side)
    told = sensorium("models", "add", "tiny", "tiny.onnx", "--labels", "names.txt", "--input-std", "255")
    assert told.exit_code == 0, told.output
    assert f"Read from tiny.onnx: {said}." in told.stdout
    card = tomllib.loads((tmp_path / "models" / "tiny" / "card.toml").read_text(encoding="utf-8"))
    assert card["input"] == {"size": side, "layout": layout, "dtype": "float32", "std": 255}


def test_what_is_told_goes_before_what_the_file_says(sensorium: Sensorium, home: Path, tiny: list[str | Path]) -> None:
    told = sensorium(*tiny, "--input-layout", "NCHW")
    assert "Read from tiny.onnx: dtype float32." in told.stdout
    assert sensorium(*tiny, "--input-layout", "NHWC", "--force").exit_code == 2


def test_a_graph_that_takes_bytes_needs_no_more_than_labels(sensorium: Sensorium, home: Path) -> None:
    (home / "names.txt").write_text("red\ngreen\nblue\n", encoding="utf-8")
    (home / "bytes.onnx").write_bytes(channel_means(kind=TensorProto.UINT8))
    told = sensorium("models", "add", "bytes", "bytes.onnx", "--labels", "names.txt")
    assert told.exit_code == 0, told.output
    assert "dtype uint8" in told.stdout


def test_labels_of_another_number_than_the_files_classes_are_refused(
    sensorium: Sensorium, home: Path, tiny: list[str | Path]
) -> None:
    (home / "颜色.txt").write_text("红\n绿\n", encoding="utf-8")
    told = sensorium(*tiny)
    assert told.exit_code == 2
    assert "there are 2 of them, the model's output is (1, 3)" in told.stderr


# INT8 twins


@pytest.fixture
def mynet(sensorium: Sensorium, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pictures, and a model of five classes that has been added."""
    monkeypatch.setattr("sensorium.runtimes.quantize.SECONDS", 0.0)
    (home / "names.txt").write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    (home / "mynet.onnx").write_bytes(convolutional())
    words = ["--labels", "names.txt", "--input-mean", "127.5", "--input-std", "127.5", "--input-output", "logits"]
    assert sensorium("models", "add", "mynet", "mynet.onnx", *words).exit_code == 0
    folder = home / "照片"
    folder.mkdir()
    for seed in range(20):
        (folder / f"{seed:02}.jpg").write_bytes(jpeg(seed=seed))
    return folder


def test_a_twin_is_made_told_of_and_used(sensorium: Sensorium, mynet: Path) -> None:
    (mynet / "bad.jpg").write_bytes(JUNK)
    told = sensorium("models", "quantize", "mynet", "--pictures", mynet)
    assert told.exit_code == 0, told.output
    for said in ("mynet_int8@1", "times as fast", "same best name", "10 other pictures", "Calibrated on 10 pictures"):
        assert said in told.stdout, said
    assert "bad.jpg was left out" in told.stderr
    (answer,) = lines(sensorium("classify", mynet / "03.jpg", "--model", "mynet_int8", "--json"))
    assert answer["result"]["meta"]["engine"] == "mynet_int8@1"


def test_the_report_is_one_object_for_programs(sensorium: Sensorium, mynet: Path, tmp_path: Path) -> None:
    words = ["--name", "quick", "--limit", "16", "--method", "percentile", "--json"]
    (report,) = lines(sensorium("models", "quantize", "mynet", "--pictures", mynet, *words))
    assert (report["made"], report["method"], report["compared_on"]) == ("quick@1", "percentile", 8)
    assert (tmp_path / "models" / "quick" / "card.toml").is_file()
    assert {"same_best", "top_5_overlap", "mean_change", "seconds_before", "bytes_after"} <= report.keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mynot"], "There is no model 'mynot'"),
        (["mynet", "--pictures", "gone"], "too few pictures"),
        (["mynet", "--method", "luck"], "luck"),
    ],
)
def test_what_stops_a_twin_is_told(words: list[str], said: str, sensorium: Sensorium, mynet: Path) -> None:
    told = sensorium("models", "quantize", *words, *([] if "--pictures" in words else ["--pictures", str(mynet)]))
    assert told.exit_code == 2
    assert said in told.stderr
    assert "Traceback" not in told.output
