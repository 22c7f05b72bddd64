"""Reading text: how much of it is right, in which order, and what happens where there is none."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from sensorium.engine import Call, Card, Host, Weights
from sensorium.engines.local.rapidocr import CARDS, Engine
from sensorium.errors import InvalidModel, ModelNotInstalled
from sensorium.media.source import Source
from sensorium.schemas.read import Reading, ReadRequest
from tests.pictures import encoded, skimage_photograph

CARD = CARDS[0]
LINES = ("The quick brown fox jumps", "over the lazy dog", "Total: $1,284.50 today")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(CARD, Host(tmp_path_factory.mktemp("cache"), threads=2))
    engine.load()
    yield engine
    engine.close()


async def read(engine: Engine, source: Any, **fields: Any) -> Reading:
    return await engine.run(ReadRequest(image=Source.of(source), **fields), Call())


def texts(reading: Reading) -> list[str]:
    return [line.text for line in reading.lines]


@cache
def page(size: int = 28) -> Image.Image:
    """Three lines, of which the second is the shortest, in dark grey on white."""
    picture = Image.new("RGB", (size * 18, size * 8), "white")
    for number, line in enumerate(LINES):
        ImageDraw.Draw(picture).text((size, size * (1 + 2 * number)), line, (40, 40, 40), ImageFont.load_default(size))
    return picture


def png(picture: Image.Image) -> bytes:
    return encoded(picture, "PNG")


# How much is right


def bare(lines: list[str]) -> str:
    """What counts: characters in their usual width, without spaces."""
    return "".join(unicodedata.normalize("NFKC", "".join(lines)).split())


def mistakes(got: str, truth: str) -> int:
    """Characters to insert, remove or replace: Levenshtein's distance."""
    row = list(range(len(truth) + 1))
    for index, ours in enumerate(got, 1):
        diagonal, row[0] = row[0], index
        for place, theirs in enumerate(truth, 1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (ours != theirs))
    return row[-1]


def truths(shared_data: Path, folder: str) -> dict[str, list[str]]:
    entries = json.loads((shared_data / "ocr" / "truth.json").read_text(encoding="utf-8"))
    return {entry["file"]: entry["lines"] for entry in entries if entry["file"].startswith(folder) and entry["lines"]}


async def accuracy(engine: Engine, shared_data: Path, folder: str) -> tuple[float, dict[str, float]]:
    """The share of characters that are right, of a folder and of each file."""
    wrong, count, each = 0, 0, {}
    for file, lines in truths(shared_data, folder).items():
        truth = bare(lines)
        bad = mistakes(bare(texts(await read(engine, shared_data / "ocr" / file))), truth)
        wrong, count, each[file] = wrong + bad, count + len(truth), 1 - bad / len(truth)
    return 1 - wrong / count, each


@pytest.mark.slow  # they are many
async def test_rendered_pages_are_read_also_noisy_blurred_slanted_on_their_side_and_upside_down(
    engine: Engine, shared_data: Path
) -> None:
    whole, each = await accuracy(engine, shared_data, "rendered/")  # measured: every character
    assert whole >= 0.97, each
    assert min(each.values()) >= 0.9, each


@pytest.mark.parametrize(
    ("file", "wrong"),
    [
        ("text_rec.jpg", 0),
        ("text_cls.jpg", 0),  # upside down
        ("en_rec.jpg", 0),
        ("test_without_det.jpg", 0),
        ("short.png", 0),
        ("issue_170.png", 0),
        ("img_exif_orientation.jpg", 0),
        ("black_font_color_transparent.png", 0),
        ("white_font_color_transparent.png", 0),
        ("test_letterbox_like.jpg", 2),
        ("text_vertical_words.png", 1),  # columns, from right to left
    ],
)
async def test_pictures_that_ocr_programs_stumble_over_are_read(
    engine: Engine, shared_data: Path, file: str, wrong: int
) -> None:
    truth = bare(truths(shared_data, "rapidocr/")[f"rapidocr/{file}"])
    assert mistakes(bare(texts(await read(engine, shared_data / "ocr" / "rapidocr" / file))), truth) <= wrong


@pytest.mark.parametrize("size", [14, 28, 90])
async def test_text_is_read_small_and_large(engine: Engine, size: int) -> None:
    assert bare(texts(await read(engine, png(page(size))))) == bare(list(LINES))


@pytest.mark.parametrize(("file", "word"), [("1223729.jpg", "PACIFIC"), ("1210236.jpg", "Davidson")])
async def test_a_word_cut_out_without_margin_is_read(engine: Engine, shared_data: Path, file: str, word: str) -> None:
    assert texts(await read(engine, shared_data / "ocr" / "words" / file)) == [word]


async def test_a_scanned_page_of_a_book_is_read(engine: Engine) -> None:
    assert "region" in (await read(engine, skimage_photograph("page.png"))).text.lower()


# Where, and in which order


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
async def test_a_page_is_read_from_its_own_top_however_it_lies_and_its_polygons_start_where_reading_starts(
    engine: Engine, turned: int
) -> None:
    reading = await read(engine, png(page().rotate(turned, expand=True)))
    assert bare(texts(reading)) == bare(list(LINES))
    (x0, y0), (x1, y1) = reading.lines[0].polygon[:2]
    along = {0: (1, 0), 90: (0, -1), 180: (-1, 0), 270: (0, 1)}[turned]
    assert (x1 - x0) * along[0] + (y1 - y0) * along[1] > 300


async def test_columns_of_a_row_are_read_from_left_to_right_though_the_page_is_askew(engine: Engine) -> None:
    picture = Image.new("RGB", (800, 300), "white")
    for row, (left, right) in enumerate([("north", "100"), ("south", "200"), ("west", "300")]):
        for x, text in ((60, left), (600, right)):
            ImageDraw.Draw(picture).text((x, 60 + 60 * row), text, "black", ImageFont.load_default(32))
    slanted = picture.rotate(3, fillcolor="white", resample=Image.Resampling.BICUBIC)
    assert texts(await read(engine, png(slanted))) == ["north", "100", "south", "200", "west", "300"]


async def test_polygons_are_pixels_of_the_picture_as_sent_though_it_is_decoded_smaller(engine: Engine) -> None:
    picture = Image.new("RGB", (3600, 3300), "white")
    ImageDraw.Draw(picture).text((1500, 2000), "Departure", "black", ImageFont.load_default(150))
    reading = await read(engine, encoded(picture, "JPEG"))
    assert (reading.image.width, reading.image.height, reading.image.scale) == (3600, 3300, 0.5)
    left, top, right, bottom = ImageDraw.Draw(picture).textbbox((1500, 2000), "Departure", ImageFont.load_default(150))
    (line,) = reading.lines
    assert line.text == "Departure"
    xs, ys = zip(*line.polygon, strict=True)
    assert (min(xs), min(ys), max(xs), max(ys)) == pytest.approx((left, top, right, bottom), abs=60)


# Where there is nothing to read


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 3000), (10000, 1), (64, 64), (300, 10)])
async def test_pictures_of_any_shape_without_text_give_no_lines(engine: Engine, size: tuple[int, int]) -> None:
    assert (await read(engine, png(Image.new("RGB", size, (90, 120, 60))))).lines == ()


async def test_a_picture_without_text_gives_no_lines(engine: Engine, shared_data: Path) -> None:
    assert (await read(engine, shared_data / "ocr" / "rapidocr" / "empty_black.jpg")).lines == ()


async def test_small_cut_outs_of_photographs_are_not_taken_for_words(engine: Engine) -> None:
    with Image.open(skimage_photograph("coffee.png")) as picture:
        small = [picture.crop((x, y, x + 160, y + 48)) for x in (0, 200, 400) for y in (20, 180, 340)]
    assert [texts(await read(engine, png(one))) for one in small] == [[]] * 9


async def test_lines_under_the_score_asked_for_are_left_out(engine: Engine) -> None:
    every = (await read(engine, png(page()), min_score=0.0)).lines
    bar = (min(line.score for line in every) + max(line.score for line in every)) / 2
    kept = (await read(engine, png(page()), min_score=bar)).lines
    assert kept == tuple(line for line in every if line.score >= bar)
    assert 0 < len(kept) < len(every) == 3


# How it behaves


async def test_many_at_once_answer_as_one_by_one(engine: Engine) -> None:
    pages = [png(page().rotate(angle, expand=True, fillcolor="white")) for angle in (0, 91, 182, 268)]
    alone = [await read(engine, one) for one in pages]
    assert await asyncio.gather(*(read(engine, one) for one in pages)) == alone


async def test_a_cancelled_reading_leaves_the_engine_usable(engine: Engine) -> None:
    for rounds in (0, 3, 30):
        running = asyncio.create_task(read(engine, png(page())))
        for _ in range(rounds):
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
    assert len((await read(engine, png(page()))).lines) == 3


async def test_nothing_is_fetched_printed_or_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    handlers = list(logging.getLogger().handlers)
    engine = Engine(CARD, Host(tmp_path))
    engine.load()
    assert len((await read(engine, png(page()))).lines) == 3
    engine.close()
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers


def loaded(card: Card, cache_dir: Path) -> None:
    engine = Engine(card, Host(cache_dir))
    try:
        engine.load()
    finally:
        engine.close()


@pytest.mark.parametrize("part", ["detector", "turner"])
def test_each_of_its_files_must_be_the_right_one(tmp_path: Path, part: str) -> None:
    wrong = {**CARD.input, part: {**CARD.input[part], "sha256": "0" * 64}}
    with pytest.raises(InvalidModel, match="its card says 000000000000"):
        loaded(CARD.model_copy(update={"input": wrong}), tmp_path)
    absent = {**CARD.input, part: {"file": "models/none.onnx"}}
    with pytest.raises(ModelNotInstalled, match=r"none\.onnx"):
        loaded(CARD.model_copy(update={"input": absent}), tmp_path)
    with pytest.raises(InvalidModel, match=f"names no {part}"):
        loaded(CARD.model_copy(update={"input": {key: CARD.input[key] for key in CARD.input if key != part}}), tmp_path)


def test_a_reader_without_its_characters_is_refused(tmp_path: Path) -> None:
    detector = Weights(package="rapidocr", **CARD.input["detector"])
    with pytest.raises(InvalidModel, match="lacks `character`"):
        loaded(CARD.model_copy(update={"weights": detector}), tmp_path)
