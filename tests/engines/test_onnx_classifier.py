"""Classifiers: how right they are, how pictures are fed to them, and what a wrong card is told."""

from __future__ import annotations

import asyncio
import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image as Pillow
from pydantic import ValidationError

from sensorium.engine import Call, Card, Host, Weights
from sensorium.engines.local.onnx_classifier import (
    CARDS,
    Engine,
    Input,
    Preparation,
    best,
    imagenet,
    read_input,
    scores_of,
)
from sensorium.errors import CorruptMedia, EngineFailed, InvalidModel, ModelNotInstalled
from sensorium.media.source import Source
from sensorium.schemas.classify import Classification, ClassifyRequest
from tests.pictures import encoded, png, skimage_photograph
from tests.runtimes.cards import Card as GraphicsCard
from tests.runtimes.graphs import channel_means

LITE0 = CARDS[0]
KERAS = {card.name: card for card in CARDS if card.weights and card.weights.package is None}


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(LITE0, Host(tmp_path_factory.mktemp("cache"), threads=2))
    engine.load()
    yield engine
    engine.close()


async def ask(engine: Engine, picture: Path | bytes, **fields: Any) -> Classification:
    return await engine.run(ClassifyRequest(image=Source.of(picture), **fields), Call())


# How right it is


@pytest.mark.slow  # they are many
@pytest.mark.parametrize(("exact", "least"), [(True, 0.88), (False, 0.87)])
async def test_top_1_on_300_imagenet_pictures(lite0: Engine, shared_data: Path, exact: bool, least: float) -> None:
    folder = shared_data / "images-imagenet"
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    room = asyncio.Semaphore(6)

    async def right(row: dict[str, str]) -> bool:
        async with room:
            found = (await ask(lite0, folder / row["file"], top_k=1, exact=exact)).best
        return found.index == int(row["class_index"]) and found.id == row["wnid"]

    assert sum(await asyncio.gather(*map(right, rows))) / len(rows) >= least


CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("photograph", "names"), [("coffee.png", {"espresso"}), ("chelsea.png", CATS), ("rocket.jpg", {"missile"})]
)
async def test_scikit_images_photographs_are_named(
    lite0: Engine, photograph: str, names: set[str], exact: bool
) -> None:
    found = await ask(lite0, skimage_photograph(photograph), exact=exact)
    assert found.best.name in names


async def test_the_answer_tells_the_picture_and_ranks_the_names(lite0: Engine) -> None:
    found = await ask(lite0, skimage_photograph("coffee.png"), top_k=7)
    assert (found.image.width, found.image.height, found.image.format, found.image.scale) == (600, 400, "png", 1.0)
    scores = [label.score for label in found.labels]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 7
    assert found.best.id == "n07920052"
    assert found.best.score == pytest.approx(0.95, abs=0.04)


async def test_all_thousand_scores_add_up_to_one(lite0: Engine) -> None:
    found = await ask(lite0, skimage_photograph("coffee.png"), top_k=1000)
    assert sum(label.score for label in found.labels) == pytest.approx(1, abs=1e-4)
    assert {label.index for label in found.labels} == set(range(1000))


async def test_a_large_jpeg_is_decoded_smaller_and_named_alike(lite0: Engine) -> None:
    with Pillow.open(skimage_photograph("coffee.png")) as picture:
        large = encoded(picture.resize((3000, 2000)), "JPEG")
    found = await ask(lite0, large)
    assert found.image.scale == 0.25
    assert (found.image.width, found.image.height) == (3000, 2000)
    assert found.best.name == "espresso"


async def test_a_damaged_picture_fails_alone(lite0: Engine) -> None:
    whole = skimage_photograph("rocket.jpg").read_bytes()
    outcomes = await asyncio.gather(
        ask(lite0, whole), ask(lite0, whole[:300]), ask(lite0, whole), return_exceptions=True
    )
    assert isinstance(outcomes[0], Classification)
    assert isinstance(outcomes[1], CorruptMedia)
    assert outcomes[2] == outcomes[0]


# Its classes


def test_imagenets_classes_are_in_order_and_spelled_as_keras_does() -> None:
    classes = imagenet()
    assert len(classes) == len({known.id for known in classes}) == 1000
    known = {
        0: "tench",
        151: "Chihuahua",
        207: "golden retriever",
        238: "Greater Swiss Mountain dog",
        607: "jack-o'-lantern",
    }
    assert {place: classes[place].name for place in known} == known
    assert classes[207].id == "n02099601"
    assert [known.id for known in classes if known.name == "crane"] == ["n02012849", "n03126707"]


def test_imagenets_classes_are_those_of_the_labelled_pictures(shared_data: Path) -> None:
    classes = imagenet()
    with (shared_data / "images-imagenet" / "labels.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            known = classes[int(row["class_index"])]
            assert (known.id, known.name) == (row["wnid"], row["name"].split(",")[0])


# How pictures are fed


def pixels(width: int = 500, height: int = 375) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Pillow.open(skimage_photograph("coffee.png")) as picture:
        return np.asarray(picture.resize((width, height)))


def test_the_exact_path_is_resizing_cropping_and_scaling() -> None:
    for width, height in ((500, 375), (333, 500), (100, 90), (224, 224), (4000, 260)):
        whole = Pillow.fromarray(pixels(width, height))
        short = min(width, height)
        resized = whole.resize((width * 256 // short, height * 256 // short), Pillow.Resampling.BICUBIC)
        left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
        cropped = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32)
        found = Preparation(read_input(LITE0)).exact(np.asarray(whole))
        assert found.dtype == np.float32
        assert found.shape == (1, 3, 224, 224)
        assert np.abs(found[0] - ((cropped - 127) / 128).transpose(2, 0, 1)).max() < (1e-6 if width < 4000 else 0.2)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (1000, 750), (300, 280), (3000, 2000)])
@pytest.mark.parametrize("card", [LITE0, KERAS["vgg16"], KERAS["inception_v3"]], ids=lambda card: card.name)
def test_the_fast_path_is_near_the_exact_one(card: Card, size: tuple[int, int]) -> None:
    preparation, picture = Preparation(read_input(card)), pixels(*size)
    fast, exact = (made(picture).astype(np.float32) for made in (preparation.fast, preparation.exact))
    levels = np.abs(fast - exact) * np.mean(read_input(card).std)
    assert levels.mean() < 2.5  # a shift by one pixel gives 6 and more


@pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (60_000, 1), (2, 3), (40_000, 300)])
def test_pictures_of_any_shape_can_be_prepared(size: tuple[int, int]) -> None:
    for card in (LITE0, KERAS["vgg16"]):
        preparation, picture = Preparation(read_input(card)), np.full((size[1], size[0], 3), 200, np.uint8)
        for prepared in (preparation.fast(picture), preparation.exact(picture)):
            assert np.ptp(prepared.reshape(3, -1) if card is LITE0 else prepared.reshape(-1, 3).T, axis=1).max() < 1e-6


def test_keras_models_are_fed_as_keras_feeds_them() -> None:
    colour = np.tile(np.array([10, 100, 250], np.uint8), (300, 300, 1))
    wanted = {
        "vgg16": [250 - 103.939, 100 - 116.779, 10 - 123.68],
        "vgg19": [250 - 103.939, 100 - 116.779, 10 - 123.68],
        "resnet50": [250 - 103.939, 100 - 116.779, 10 - 123.68],
        "inception_v3": [10 / 127.5 - 1, 100 / 127.5 - 1, 250 / 127.5 - 1],
        "mobilenet_v2": [10 / 127.5 - 1, 100 / 127.5 - 1, 250 / 127.5 - 1],
        "efficientnet_b0": [10, 100, 250],
    }
    assert wanted.keys() == KERAS.keys()
    for name, values in wanted.items():
        side = 299 if name == "inception_v3" else 224
        prepared = Preparation(read_input(KERAS[name])).fast(colour)
        assert prepared.shape == (1, side, side, 3)
        assert prepared[0, 100, 100] == pytest.approx(values, abs=1e-4)


def test_other_element_types_are_made() -> None:
    picture = pixels()
    raw = Preparation(Input(size=64, dtype="uint8")).fast(picture)
    half = Preparation(Input(size=64, dtype="float16", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.2, 0.2, 0.2)))
    assert raw.dtype == np.uint8
    assert half.fast(picture).dtype == np.float16
    wanted = (raw[0].astype(np.float32) / 255 - np.array([0.485, 0.456, 0.406])[:, None, None]) / 0.2
    assert np.abs(half.fast(picture)[0] - wanted).max() < 2e-3


# What its output means


def test_scores_are_made_of_outputs() -> None:
    logits = np.array([[1.0, 3.0, -200.0]], np.float32)
    assert scores_of(logits, "softmax") == pytest.approx([0.1192, 0.8808, 0], abs=1e-4)
    assert scores_of(logits, "sigmoid") == pytest.approx([0.7311, 0.9526, 0], abs=1e-4)
    assert scores_of(np.array([[0.25], [0.75]], np.float16), "none").tolist() == [0.25, 0.75]


@pytest.mark.parametrize("output", [[np.nan, 1.0], [np.inf, np.inf], [5.0, -3.0]])
def test_an_output_that_is_no_probability_is_refused(output: list[float]) -> None:
    activations = ("none",) if output[0] == 5 else ("softmax", "none")
    for activation in activations:
        with pytest.raises(EngineFailed, match=r"input\.activation"):
            scores_of(np.array([output], np.float32), activation)


def test_the_best_come_first_and_equal_ones_by_place() -> None:
    scores = np.array([0.1, 0.4, 0.0, 0.4, 0.1], np.float32)
    assert [place for place, _ in best(scores, 3)][:2] == [1, 3]
    assert [place for place, _ in best(scores, 99)] == [1, 3, 0, 4, 2]
    assert best(np.array([1.0001, -0.0001], np.float32), 2) == [(0, 1.0), (1, 0.0)]


# A user's own model


def own(folder: Path, model: bytes, names: str = "red\ngreen\nblue\n", **changes: Any) -> Card:
    """A card in a models folder: three classes, each as likely as the picture has its colour."""
    (folder / "own.onnx").write_bytes(model)
    (folder / "own.txt").write_text(names, encoding="utf-8")
    fields = {
        "name": "own",
        "kind": "onnx_classifier",
        "tasks": ("classify",),
        "licence": "MIT",
        "weights": Weights(file="own.onnx", sha256=hashlib.sha256(model).hexdigest()),
        "input": {"size": 8, "scale": 1 / 255, "activation": "none"},
        "labels": "own.txt",
        "folder": folder,
    }
    return Card.model_validate({**fields, **changes})


def loaded(card: Card) -> Engine:
    assert card.folder is not None
    engine = Engine(card, Host(card.folder))
    engine.load()
    return engine


@pytest.mark.parametrize(
    ("model", "fields", "first"),
    [
        pytest.param({}, {}, "red", id="as it is"),
        pytest.param({}, {"order": "BGR"}, "blue", id="BGR"),
        pytest.param({"nhwc": True}, {"layout": "NHWC"}, "red", id="NHWC"),
        pytest.param({"nhwc": True}, {"layout": "NHWC", "order": "BGR"}, "blue", id="NHWC and BGR"),
        pytest.param({"side": "side"}, {"size": (4, 6), "output": "means"}, "red", id="open sides"),
        pytest.param({"kind": TensorProto.FLOAT16}, {"dtype": "float16"}, "red", id="half floats"),
        pytest.param(
            {"kind": TensorProto.UINT8}, {"dtype": "uint8", "scale": 1.0, "activation": "softmax"}, "red", id="bytes"
        ),
    ],
)
async def test_an_own_model_is_fed_as_its_card_says(
    tmp_path: Path, model: dict[str, Any], fields: dict[str, Any], first: str
) -> None:
    card = own(tmp_path, channel_means(**model))
    engine = loaded(card.model_copy(update={"input": {**card.input, **fields}}))
    try:
        found = await ask(engine, png(colour=(230, 20, 5)))
        exact = await ask(engine, png(colour=(230, 20, 5)), exact=True)
    finally:
        engine.close()
    assert found.best.name == exact.best.name == first
    assert found.best.id is None
    assert [label.index for label in found.labels] == [label.index for label in exact.labels]


async def test_a_background_class_is_left_out(tmp_path: Path) -> None:
    engine = loaded(own(tmp_path, channel_means(), names="green\nblue", quirks={"background": True}))
    try:
        found = await ask(engine, png(colour=(255, 128, 0)))
    finally:
        engine.close()
    assert [(label.name, label.index) for label in found.labels] == [("green", 0), ("blue", 1)]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        pytest.param({"input": {}}, r"input\.size", id="no size"),
        pytest.param({"input": {"size": 8, "colour": "RGB"}}, r"input\.colour", id="unknown key"),
        pytest.param({"input": {"size": 8, "order": "GBR"}}, r"input\.order", id="wrong choice"),
        pytest.param({"input": {"size": 8, "std": 0}}, r"input\.std", id="division by nothing"),
        pytest.param({"input": {"size": 8, "resize": 4}}, "`resize` is smaller", id="crop out of a smaller picture"),
        pytest.param({"input": {"size": 8, "resize": 9, "crop": 0.9}}, "give one", id="the same twice"),
        pytest.param({"input": {"size": 8, "fit": "stretch", "crop": 0.9}}, "stretch", id="cropped and stretched"),
        pytest.param({"input": {"size": 8, "dtype": "uint8", "mean": 1}}, "uint8", id="bytes with a mean"),
        pytest.param({"input": {"size": 9}}, r"`input`.*takes \('n', 3, 8, 8\)", id="another size than the graph's"),
        pytest.param({"input": {"size": 8, "layout": "NHWC"}}, "`layout`", id="another layout"),
        pytest.param({"input": {"size": 8, "dtype": "float16"}}, "`dtype`", id="another type"),
        pytest.param({"input": {"size": 8, "output": "logits"}}, "`output` is 'logits'", id="no such output"),
        pytest.param({"quirks": {"backgrounds": True}}, r"quirks\.backgrounds", id="unknown quirk"),
        pytest.param({"labels": None}, "`labels`", id="no labels"),
        pytest.param({"labels": "imagenet"}, "1000 of them", id="labels of another model"),
        pytest.param({"labels": "gone.txt"}, r"gone\.txt cannot be read", id="no label file"),
        pytest.param({"labels": "../own.txt"}, "leads out", id="labels elsewhere"),
        pytest.param({"weights": None}, "no weights", id="no weights"),
    ],
)
def test_a_wrong_card_is_told_the_key(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InvalidModel, match=key):
        loaded(own(tmp_path, channel_means(), **changes))


def test_wrong_label_files_are_refused(tmp_path: Path) -> None:
    for names in ("", "red\n\nblue\n"):
        with pytest.raises(InvalidModel, match="empty lines"):
            loaded(own(tmp_path, channel_means(), names=names))
    card = own(tmp_path, channel_means())
    (tmp_path / "own.txt").write_bytes(b"r\xf6t\n")
    with pytest.raises(InvalidModel, match="UTF-8"):
        loaded(card)


def test_a_keras_model_names_the_command_that_brings_it(tmp_path: Path) -> None:
    for card in KERAS.values():
        with pytest.raises(ModelNotInstalled, match=f"sensorium models add {card.name}"):
            Engine(card, Host(tmp_path)).load()


def test_every_card_has_an_input_that_is_right() -> None:
    for card in CARDS:
        assert read_input(card).short_side >= max(read_input(card).shape)
    with pytest.raises(ValidationError):
        Input(size=0)


async def test_an_engine_that_was_closed_says_so(tmp_path: Path) -> None:
    engine = loaded(own(tmp_path, channel_means()))
    engine.close()
    engine.close()
    with pytest.raises(EngineFailed, match="not loaded"):
        await ask(engine, png())


# On a graphics card


async def test_on_a_card_pictures_share_runs_and_are_answered_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = own(tmp_path, channel_means())
    shown = [png(colour=(10 * number, 255 - 10 * number, 7)) for number in range(24)]
    engine = loaded(card)
    try:
        alone = [(await ask(engine, one)).labels for one in shown]
    finally:
        engine.close()
    gpu = GraphicsCard(monkeypatch)
    engine = loaded(card)
    try:
        found = await asyncio.gather(*(ask(engine, one) for one in shown))
    finally:
        engine.close()
    assert [one.labels for one in found] == alone
    assert all(not one.meta.skipped for one in found)
    assert sum(gpu.batches) == 24
    assert len(gpu.batches) < 24


async def test_a_card_that_is_too_small_is_left_and_answers_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    GraphicsCard(monkeypatch, room=0)
    engine = loaded(own(tmp_path, channel_means()))
    try:
        found = [await ask(engine, png(colour=(200, 10, 10)), exact=exact) for exact in (False, True)]
    finally:
        engine.close()
    assert [one.best.name for one in found] == ["red", "red"]
    assert [one.meta.skipped[0].code for one in found] == ["out_of_device_memory"] * 2


async def test_a_damaged_picture_fails_alone_on_a_card_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    GraphicsCard(monkeypatch)
    engine = loaded(own(tmp_path, channel_means()))
    try:
        good, bad = await asyncio.gather(ask(engine, png()), ask(engine, png()[:60]), return_exceptions=True)
    finally:
        engine.close()
    assert isinstance(good, Classification)
    assert isinstance(bad, CorruptMedia)
