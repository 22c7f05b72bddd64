"""INT8 twins of whole models: made of a user's pictures, put where a server finds them, and as good as they report."""

from __future__ import annotations

import asyncio
import csv
import statistics
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from sensorium import modelfolder, quantization
from sensorium.config import Settings
from sensorium.engine import Card, Host
from sensorium.errors import InvalidModel, InvalidRequest, UnknownModel
from sensorium.media.source import Source
from sensorium.quantization import FEWEST, Report, quantize
from sensorium.registry import Registry
from sensorium.runtimes import quantize as mechanics
from sensorium.schemas.classify import ClassifyRequest
from sensorium.server.app import create_app
from sensorium.service import Sensorium
from tests.pictures import JUNK, jpeg
from tests.runtimes.graphs import convolutional, model
from tests.server.inside import asked

NAMES = "red\ngreen\nblue\ndark\nlight\n"


@pytest.fixture(autouse=True)
def short_races(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanics, "SECONDS", 0.0)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(cache_dir=tmp_path / "cache", device="cpu")


@pytest.fixture
def folder(tmp_path: Path, host: Host) -> Path:
    """A models folder with `mynet`, a small network of five classes."""
    return put(tmp_path, host, convolutional())


def put(tmp_path: Path, host: Host, content: bytes) -> Path:
    (tmp_path / "mynet.onnx").write_bytes(content)
    (tmp_path / "names.txt").write_text(NAMES, encoding="utf-8")
    folder = tmp_path / "models"
    told = {"size": 32, "mean": 127.5, "std": 127.5, "output": "logits"}
    card = Card(name="mynet", kind="onnx_classifier", tasks=("classify",), licence="MIT", aliases=("net",), input=told)
    added = modelfolder.add(Registry(folder), host, card, tmp_path / "mynet.onnx", labels=tmp_path / "names.txt")
    asyncio.run(added)
    return folder


def pictures(count: int, start: int = 0) -> list[Source]:
    return [Source.of(jpeg(seed=number)) for number in range(start, start + count)]


def made(folder: Path, host: Host, shown: list[Source] | None = None, **how: Any) -> Report:
    return asyncio.run(quantize(Registry(folder), host, "mynet", shown or pictures(2 * FEWEST), **how))


def opened(folder: Path, **settings: Any) -> Sensorium:
    return Sensorium(Settings(models_dir=folder, cache_dir=folder.parent / "cache", **settings))


async def compared(folder: Path, shown: list[Source]) -> Iterator[tuple[Any, Any]]:
    async with opened(folder) as sensorium:
        requests = [ClassifyRequest(image=one, model=name) for one in shown for name in ("mynet", "mynet_int8")]
        answers = await sensorium.run_all(requests)
    return zip(answers[::2], answers[1::2], strict=True)


def test_a_twin_answers_as_its_model_does(folder: Path, host: Host) -> None:
    report = made(folder, host, pictures(40))
    pairs = list(asyncio.run(compared(folder, pictures(60, start=100))))
    assert statistics.fmean(one.best.name == other.best.name for one, other in pairs) >= 0.9
    assert statistics.fmean(abs(one.best.score - other.best.score) for one, other in pairs) < 0.03
    assert report.same_best >= 0.9
    assert 0 < report.mean_change < 0.03
    assert {other.meta.engine for _, other in pairs} == {"mynet_int8@1"}


def test_the_report_tells_what_was_done(folder: Path, host: Host) -> None:
    told: list[None] = []
    report = made(folder, host, pictures(30), limit=20, advance=lambda: told.append(None))
    assert (report.model, report.made, report.method) == ("mynet@1", "mynet_int8@1", "minmax")
    assert (report.calibrated_on, report.compared_on, len(told)) == (10, 10, 20)
    assert report.bytes_after == next(Path(report.folder).glob("*.onnx")).stat().st_size
    assert report.speedup == report.seconds_before / report.seconds_after
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_both_outputs_are_kept(folder: Path, host: Host) -> None:
    report = made(folder, host)
    session = onnxruntime.InferenceSession(
        str(next(Path(report.folder).glob("*.onnx"))), providers=["CPUExecutionProvider"]
    )
    assert [output.name for output in session.get_outputs()] == ["logits", "embedding"]
    logits, embedding = session.run(None, {"input": np.zeros((3, 3, 32, 32), np.float32)})
    assert (logits.dtype, logits.shape, embedding.shape) == (np.float32, (3, 5), (3, 16))


def test_the_card_is_the_models_with_weights_of_its_own(folder: Path, host: Host) -> None:
    report = made(folder, host, name="Quick")
    card = tomllib.loads((folder / "quick" / "card.toml").read_text(encoding="utf-8"))
    before = tomllib.loads((folder / "mynet" / "card.toml").read_text(encoding="utf-8"))
    assert (card["name"], card["input"], card["licence"]) == ("quick", before["input"], "MIT")
    assert "aliases" not in card
    assert card["origin"].startswith("mynet@1, quantised to INT8")
    assert report.made == "quick@1"
    assert Registry(folder).card("quick", "classify").weights != Registry(folder).card("mynet", "classify").weights


def test_a_server_answers_by_the_twin_that_its_settings_name(folder: Path, host: Host) -> None:
    made(folder, host)
    settings = Settings(models_dir=folder, cache_dir=folder.parent / "cache", models={"classify": ["mynet_int8"]})
    (answer,) = asked(create_app(settings), ("POST", "/v1/classify", jpeg(seed=500)))
    assert answer["meta"]["engine"] == "mynet_int8@1"
    assert answer["labels"][0]["name"] in NAMES.split()


def test_pictures_that_cannot_be_read_are_left_out_and_told(folder: Path, host: Host, tmp_path: Path) -> None:
    bad = [Source.of(JUNK), Source.of(tmp_path / "gone.jpg"), Source.of(jpeg()[:200])]
    shown = pictures(2 * FEWEST + 4)
    for place, one in zip((0, 5, 8), bad, strict=True):
        shown.insert(place, one)
    report = made(folder, host, shown)
    assert sorted(one.code for one in report.unreadable) == ["corrupt_media", "file_missing", "unidentified_media"]
    assert report.calibrated_on + report.compared_on == len(shown) - 3


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(pictures(2 * FEWEST - 1), id="few"),
        pytest.param(pictures(FEWEST) + [Source.of(JUNK)] * 20, id="few that can be read"),
        pytest.param([Source.of(JUNK) if n % 2 else one for n, one in enumerate(pictures(20))], id="none to compare"),
    ],
)
def test_too_few_pictures_are_refused_and_leave_nothing_behind(folder: Path, host: Host, shown: list[Source]) -> None:
    with pytest.raises(InvalidRequest, match="too few pictures"):
        made(folder, host, shown)
    assert [path.name for path in folder.iterdir()] == ["mynet"]


def test_what_cannot_be_quantised_is_told(folder: Path, host: Host, tmp_path: Path) -> None:
    registry = Registry(folder)
    with pytest.raises(UnknownModel, match="mynt"):
        asyncio.run(quantize(registry, host, "mynt", pictures(2 * FEWEST)))
    with pytest.raises(UnknownModel, match="does not answer classify"):
        asyncio.run(quantize(registry, host, "ppocr_v6", pictures(2 * FEWEST)))
    with pytest.raises(InvalidRequest, match="fake"):
        asyncio.run(quantize(registry, host, "fake", pictures(2 * FEWEST)))
    made(folder, host)
    with pytest.raises(InvalidRequest, match="quantised already"):
        asyncio.run(quantize(Registry(folder), host, "mynet_int8", pictures(2 * FEWEST)))
    with pytest.raises(InvalidRequest, match=r"--force .* another --name"):
        made(folder, host)
    assert made(folder, host, force=True).made == "mynet_int8@1"
    for name in ("我的", "MyNet"):
        with pytest.raises(InvalidRequest, match="name"):
            made(folder, host, name=name, force=True)


def test_a_graph_without_anything_to_quantise_leaves_nothing_behind(host: Host, tmp_path: Path) -> None:
    node = onnx.helper.make_node("ReduceMean", ["input"], ["means"], axes=[2, 3], keepdims=0)
    ends = onnx.helper.make_node("Concat", ["means", "more"], ["logits"], axis=1)
    graph = model(
        [node, ends],
        {"input": (onnx.TensorProto.FLOAT, [1, 3, 32, 32])},
        {"logits": [1, 5]},
        more=np.zeros((1, 2), np.float32),
    )
    folder = put(tmp_path, host, graph.SerializeToString())
    with pytest.raises(InvalidModel, match="no convolution"):
        made(folder, host)
    assert [path.name for path in folder.iterdir()] == ["mynet"]


def test_a_failed_replacement_leaves_the_old_twin(folder: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    made(folder, host)
    before = {path.name: path.read_bytes() for path in (folder / "mynet_int8").iterdir()}

    def fails(*ignored: object) -> None:
        raise InvalidModel("no race today")

    monkeypatch.setattr(quantization, "race", fails)
    with pytest.raises(InvalidModel, match="no race"):
        made(folder, host, pictures(30, start=7), force=True)
    assert {path.name: path.read_bytes() for path in (folder / "mynet_int8").iterdir()} == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_efficientnet_lite0_stays_nearly_as_right_in_int8(host: Host, tmp_path: Path, shared_data: Path) -> None:
    with (shared_data / "images-imagenet" / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    shown = [Source.of(shared_data / "images-imagenet" / row["file"]) for row in rows]
    folder = tmp_path / "models"
    report = asyncio.run(quantize(Registry(folder), host, "efficientnet_lite0", shown[:150], limit=150))
    assert report.same_best >= 0.9
    assert report.speedup > 1.2
    assert report.bytes_after < 0.3 * report.bytes_before
    assert report.kept_in_float == ("_conv_stem", "_blocks.0._depthwise_conv", "_blocks.0._project_conv")
    card = Registry(folder).card("efficientnet_lite0_int8", "classify")
    assert card.weights is not None
    assert (card.weights.builder, card.weights.package, card.labels) == (None, None, "imagenet")

    async def right(name: str) -> float:
        async with opened(folder, timeout_seconds=600) as sensorium:
            answers = await sensorium.run_all([ClassifyRequest(image=one, model=name) for one in shown[150:]])
        found = [answer.best.id for answer in answers]  # type: ignore[union-attr]
        return statistics.fmean(one == row["wnid"] for one, row in zip(found, rows[150:], strict=True))

    exact, quick = asyncio.run(right("efficientnet_lite0")), asyncio.run(right("efficientnet_lite0_int8"))
    assert quick >= exact - 0.03
