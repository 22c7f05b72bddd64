"""Where pictures may be, and that each is read, fetched and decoded once."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from pydantic import BaseModel, TypeAdapter

from sensorium.errors import (
    FileMissing,
    ForbiddenAddress,
    InputTooLarge,
    InvalidBase64,
    InvalidRequest,
    SensoriumError,
)
from sensorium.media import decode, limits
from sensorium.media.image import Image
from sensorium.media.limits import Limits
from sensorium.media.source import Source
from tests.pictures import jpeg, png


class Asked(BaseModel):
    image: Source


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "猫 in the 花园.jpg"
    path.write_bytes(jpeg(64, 48))
    return path


async def test_every_way_to_hand_in_a_picture_gives_the_same_bytes(file: Path) -> None:
    data = file.read_bytes()  # noqa: ASYNC240
    encoded = base64.b64encode(data).decode()
    with file.open("rb") as opened:
        ways = [
            Source.of(file),
            Source.of(str(file)),
            Source.of(data),
            Source.of(bytearray(data)),
            Source.of(memoryview(data)),
            Source.of(opened),
            Source.of(io.BytesIO(data)),
            Source.of(f"data:image/jpeg;base64,{encoded}"),
            Source.from_wire(f"DATA:;BASE64,{encoded}"),
            Source.base64(encoded),
            Source.base64(base64.urlsafe_b64encode(data).rstrip(b"=").decode()),
            Source.base64(base64.encodebytes(data)),
        ]
    assert [await source.read() for source in ways] == [data] * len(ways)
    assert len({await source.digest() for source in ways}) == 1


def test_a_percent_encoded_data_url_is_read() -> None:
    assert Source.of("data:,%89PNG%0D%0A").read_now() == b"\x89PNG\r\n"


@pytest.mark.parametrize("text", ["é", "a", "abc!", "====x", "ab\x00c", "中文"])
def test_what_is_not_base64_is_said_to_be_so(text: str) -> None:
    with pytest.raises(InvalidBase64, match="not base64"):
        Source.base64(text)


@pytest.mark.parametrize("text", ["cat.jpg", "/etc/passwd", "C:\\cat.jpg", "\\\\host\\cat.jpg", "", "data:nothing"])
def test_from_the_wire_no_text_is_a_path(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Source.from_wire(text)


@pytest.mark.parametrize("text", ["file:///etc/passwd", "ftp://example.com/a", "gopher://x/", "FILE://x"])
@pytest.mark.parametrize("read", [Source.of, Source.from_wire])
def test_other_schemes_are_refused(text: str, read: type) -> None:
    with pytest.raises(ForbiddenAddress, match="only http and https"):
        read(text)


@pytest.mark.parametrize("url", ["http://", "http:///x", "http://[::1", "http://a b/", "https://a\nb/"])
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(SensoriumError):
        Source.of(url)


def test_a_url_is_named_without_credentials_and_query() -> None:
    source = Source.of("https://me:secret@example.com/cat.jpg?token=secret#secret")
    assert source.name == "https://example.com/cat.jpg"
    assert "secret" not in repr(source)


def test_a_name_from_outside_cannot_break_a_message() -> None:
    source = Source.spooled(Path("x"), "0" * 64, "../../a\x1b[31m\n" + "b" * 500)
    assert source.name.isprintable()
    assert len(source.name) < 130
    assert "/" not in source.name


@pytest.mark.parametrize("value", [None, 3, ["a"], object()])
def test_what_is_no_source_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest):
        Source.of(value)  # type: ignore[arg-type]


def test_a_file_open_as_text_is_refused(file: Path) -> None:
    with pytest.raises(InvalidRequest, match="'rb'"):
        Source.of(io.StringIO("words"))  # type: ignore[arg-type]


async def test_a_path_that_leads_nowhere_says_so(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jpg", tmp_path, "a\0b", ""):
        with pytest.raises((FileMissing, InvalidRequest)):
            await Source.of(path).read()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in its file system")
async def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileMissing, match="not a regular file"):
        await Source.of(tmp_path / "pipe").read()


async def test_too_many_bytes_are_refused_however_they_come(file: Path) -> None:
    data = file.read_bytes()  # noqa: ASYNC240
    with limits.use(Limits(max_bytes=len(data) - 1)):
        for source in (Source.of(file), Source.of(data), Source.spooled(file, "0" * 64, "a.jpg")):
            with pytest.raises(InputTooLarge, match="max_bytes"):
                await source.image()
        with pytest.raises(InputTooLarge):
            Source.of(io.BytesIO(data))
        with pytest.raises(InputTooLarge):
            Source.base64("A" * 10_000)
    with limits.use(Limits(max_bytes=len(data))):
        assert await Source.of(file).read() == data


def test_a_request_takes_no_path_from_json() -> None:
    for value in ('"cat.jpg"', '{"path": "cat.jpg"}', '{"spool": "ab", "path": "cat.jpg"}', "3", '{"url": 3}'):
        with pytest.raises(InvalidRequest):
            Asked.model_validate_json('{"image": ' + value + "}")


def test_a_request_takes_no_text_path_in_python_either() -> None:
    with pytest.raises(InvalidRequest):
        Asked(image="cat.jpg")
    assert Asked(image=Path("cat.jpg")).image.kind == "path"
    assert Asked.model_validate({"image": "cat.jpg"}, context={"trusted": True}).image.kind == "path"


def test_a_request_travels_as_json_and_comes_back_equal(file: Path) -> None:
    for source in (
        Source.of(file),
        Source.of("https://example.com/cat.jpg?size=3"),
        Source.of(b"\0\xff"),
        Source.spooled(file, "ab" * 32, "cat.jpg"),
    ):
        text = Asked(image=source).model_dump_json()
        back = Asked.model_validate_json(text, context={"trusted": True}).image
        assert (back, back.kind, hash(back)) == (source, source.kind, hash(source))
        assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301


def test_the_schema_of_a_source_is_a_string() -> None:
    assert TypeAdapter(Asked).json_schema()["properties"]["image"]["type"] == "string"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, bool]]:
    """The scale and exactness of each decoding, as they happen."""
    seen: list[tuple[float, bool]] = []
    original = decode.OpenedJpeg.decode

    def counted(self: decode.OpenedJpeg, scale: float, exact: bool) -> Image:
        seen.append((scale, exact))
        return original(self, scale, exact)

    monkeypatch.setattr(decode.OpenedJpeg, "decode", counted)
    return seen


async def test_two_who_ask_at_once_get_one_decoding(file: Path, decoded: list[tuple[float, bool]]) -> None:
    source = Source.of(file)
    first, second = await asyncio.gather(source.image(), source.image())
    assert first is second
    assert await source.image(16) is first
    assert len(decoded) == 1


async def test_a_picture_nobody_holds_is_forgotten(file: Path, decoded: list[tuple[float, bool]]) -> None:
    source = Source.of(file)
    deadline = time.monotonic() + 10
    while (
        len(decoded) < 2 and time.monotonic() < deadline
    ):  # the thread that decoded it may let go of it a little later
        await source.image(then=lambda image: image.width)
    assert len(decoded) == 2


async def test_a_smaller_picture_does_not_serve_for_a_larger(decoded: list[tuple[float, bool]]) -> None:
    source = Source.of(jpeg(800, 640))
    small = await source.image(100)
    assert (small.scale, small.pixels.shape, small.width) == (0.25, (160, 200, 3), 800)
    large = await source.image()
    assert large.scale == 1
    assert await source.image(100) is large
    await source.image(100, exact=True)
    assert decoded == [(0.25, False), (1.0, False), (1.0, True)]


async def test_then_runs_in_the_thread_that_decoded(file: Path) -> None:
    threads: list[str] = []

    def note(_: Image) -> int:
        threads.append(threading.current_thread().name)
        return 7

    answer = await Source.of(file).image(then=note)
    assert answer == 7
    assert threads[0].startswith("sensorium")


async def test_what_then_raises_reaches_the_caller_alone(file: Path) -> None:
    source = Source.of(file)

    def fail(_: Image) -> None:
        raise KeyError("mine")

    failed, fine = await asyncio.gather(source.image(then=fail), source.image(), return_exceptions=True)
    assert isinstance(failed, KeyError)
    assert isinstance(fine, Image)


async def test_an_error_reaches_all_who_wait() -> None:
    source = Source.of(jpeg()[:300])
    errors = await asyncio.gather(*(source.image() for _ in range(3)), return_exceptions=True)
    assert [type(error).__name__ for error in errors] == ["CorruptMedia"] * 3


async def test_when_the_first_to_ask_goes_away_the_second_is_still_served(file: Path) -> None:
    for _ in range(20):
        source = Source.of(file)
        first = asyncio.create_task(source.image())
        second = asyncio.create_task(source.image())
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).width == 64


async def test_a_source_serves_several_event_loops(file: Path) -> None:
    source = Source.of(file)
    widths = await asyncio.gather(*(asyncio.to_thread(lambda: asyncio.run(source.image()).width) for _ in range(8)))
    assert set(widths) == {64}


async def test_digest_and_picture_are_of_the_same_bytes_though_the_file_changes(file: Path) -> None:
    source = Source.of(file)
    before = await source.digest()
    file.write_bytes(png(7, 5))  # noqa: ASYNC240
    assert (await source.image()).width == 64
    assert before == await Source.of(await source.read()).digest()


async def test_files_in_a_long_list_are_not_all_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorium.media.source._SHELF._capacity", 50_000)
    sources = []
    for number in range(20):
        path = tmp_path / f"{number}"
        path.write_bytes(bytes(10_000))
        sources.append(Source.of(path))
        await sources[-1].read()
    assert sum(len(source._data or b"") for source in sources) <= 50_000
    assert len(await sources[0].read()) == 10_000


async def test_the_limits_of_the_caller_hold_in_the_thread() -> None:
    with limits.use(Limits(max_pixels=100)), pytest.raises(InputTooLarge, match="max_pixels"):
        await Source.of(png(20, 20)).image()
    assert (await Source.of(png(20, 20)).image()).width == 20


def test_a_long_data_url_must_be_base64() -> None:
    with pytest.raises(InputTooLarge, match="base64"):
        Source.from_wire("data:," + "%41" * 400_000)


async def test_a_picture_at_the_largest_scale_allowed_serves_all_who_ask_for_more() -> None:
    with limits.use(Limits(max_pixels=3_000)):
        source = Source.of(jpeg(200, 20))
        held = await source.image(at_least=512)
        assert await source.image(at_least=512) is held


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
async def test_an_array_of_pixels_is_a_picture(shape: tuple[int, ...]) -> None:
    pixels = np.full(shape, 255, np.uint8)
    pixels[1, 2] = 100 if len(shape) == 2 else (10, 20, 30, 255)[: shape[2]]
    image = await Source.of(pixels).image()
    expected = (100,) * 3 if len(shape) == 2 else (10, 20, 30)
    assert (image.width, image.height) == (7, 5)
    assert tuple(image.pixels[1, 2]) == expected


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "F", "I;16"])
async def test_a_pillow_image_is_a_picture(mode: str) -> None:
    given = Pillow.new(mode, (7, 5)) if mode in ("I;16", "F") else Pillow.new("RGB", (7, 5), "white").convert(mode)
    image = await Source.of(given).image()
    assert (image.width, image.height) == (7, 5)


@pytest.mark.parametrize(
    "array", [np.zeros((5, 7, 3)), np.zeros((5, 7, 2), np.uint8), np.zeros((0, 7, 3), np.uint8), np.zeros(9, np.uint8)]
)
def test_an_array_of_anything_else_is_refused(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(InvalidRequest, match="uint8"):
        Source.of(array)
