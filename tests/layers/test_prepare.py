"""Pictures made fit before they leave the house."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sensorium.engine import Call, Card
from sensorium.errors import InvalidModel, UnidentifiedMedia
from sensorium.layers.prepare import Prepare
from sensorium.media.source import Source
from sensorium.schemas.base import ImageInfo, ImageRequest, Request, Result
from sensorium.schemas.detect import DetectedObject, Detections, DetectRequest
from sensorium.schemas.geometry import Box
from sensorium.schemas.read import Reading, ReadRequest, TextLine
from tests.layers.stand_ins import Ask, Talker
from tests.pictures import JUNK, encoded, photograph, skimage_photograph


class Seer:
    """Answers that a thing, or a line of text, fills the left half of what it is shown."""

    def __init__(self) -> None:
        self.shown: list[bytes] = []

    async def run(self, request: Request, call: Call) -> Result:
        assert isinstance(request, ImageRequest)
        self.shown.append(await request.image.read())
        width, height = self.picture.size
        image = ImageInfo(width=width, height=height, format="jpeg")
        box = Box(left=0, top=0, right=width / 2, bottom=height)
        if isinstance(request, ReadRequest):
            return Reading(image=image, lines=(TextLine(text="a", score=1, polygon=box.corners),))
        return Detections(image=image, objects=(DetectedObject(name="dog", score=1, box=box),))

    @property
    def picture(self) -> Image.Image:
        return Image.open(io.BytesIO(self.shown[-1]))


@pytest.fixture
def seer() -> Seer:
    return Seer()


def prepare(inner: Any, **given: Any) -> Prepare:
    card = Card(name="far", kind="far", tasks=("detect",), licence="x", remote=True, input=given)
    return Prepare(inner, card)


async def found(inner: Prepare, picture: bytes) -> Detections:
    answer = await inner.run(DetectRequest(image=Source.of(picture)), Call())
    assert isinstance(answer, Detections)
    return answer


def noisy(spread: float, name: str = "coffee.png") -> tuple[np.ndarray[Any, Any], bytes]:
    """A photograph, and the same with noise, as PNG."""
    with Image.open(skimage_photograph(name)) as picture:
        clean = np.asarray(picture.convert("RGB")).astype(float)
    pixels = clean + np.random.default_rng(0).normal(0, spread, clean.shape)
    return clean, encoded(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), "PNG")


async def test_a_picture_that_is_fit_goes_byte_for_byte(seer: Seer) -> None:
    answer = await found(prepare(seer, longest_side=600, denoise=True), photograph())
    assert seer.shown == [photograph()]
    assert answer.objects[0].box.right == 300


async def test_a_large_picture_is_made_smaller_and_its_boxes_larger_again(seer: Seer) -> None:
    answer = await found(prepare(seer, longest_side=300), photograph())
    assert seer.picture.size == (300, 200)
    assert answer.objects[0].box.model_dump() == {"left": 0, "top": 0, "right": 300, "bottom": 400}
    assert (answer.image.width, answer.image.height) == (600, 400)


async def test_lines_of_text_are_moved_too(seer: Seer) -> None:
    answer = await prepare(seer, longest_side=300).run(ReadRequest(image=Source.of(photograph())), Call())
    assert isinstance(answer, Reading)
    assert answer.lines[0].polygon == ((0, 0), (300, 0), (300, 400), (0, 400))


async def test_no_picture_is_made_larger(seer: Seer) -> None:
    await found(prepare(seer, longest_side=4000, formats=["png", "jpeg"]), encoded(Image.new("RGB", (9, 7)), "TIFF"))
    assert seer.picture.size == (9, 7)


async def test_a_format_that_is_not_taken_becomes_one_that_is(seer: Seer) -> None:
    with Image.open(io.BytesIO(photograph())) as picture:
        await found(prepare(seer, formats=["jpeg"]), encoded(picture, "WEBP"))
    assert seer.picture.format == "JPEG"


async def test_bytes_are_kept_to_what_is_taken(seer: Seer) -> None:
    await found(prepare(seer, max_bytes=20_000), photograph())
    assert len(seer.shown[0]) <= 20_000 < len(photograph())


@pytest.mark.parametrize("spread", [10, 25])
async def test_noise_is_taken_out(seer: Seer, spread: float) -> None:
    clean, picture = noisy(spread)
    await found(prepare(seer, denoise=True, quality=95), picture)
    shown = np.asarray(seer.picture.convert("RGB")).astype(float)
    assert np.square(shown - clean).mean() < 0.5 * spread**2


@pytest.mark.parametrize("name", ["coffee.png", "astronaut.png", "chelsea.png"])
async def test_texture_is_not_taken_for_noise(seer: Seer, name: str) -> None:
    picture = skimage_photograph(name).read_bytes()
    await found(prepare(seer, denoise=True), picture)
    assert seer.shown == [picture]


async def test_noise_stays_unless_the_card_wants_it_out(seer: Seer) -> None:
    _, picture = noisy(25)
    await found(prepare(seer), picture)
    assert seer.shown == [picture]


async def test_what_is_no_picture_does_not_leave_the_house(seer: Seer) -> None:
    with pytest.raises(UnidentifiedMedia):
        await found(prepare(seer), JUNK)
    assert not seer.shown


async def test_requests_about_no_picture_pass_unchanged() -> None:
    request = Ask(text="hello")
    assert (await prepare(Talker()).run(request, Call())).model_dump()["text"] == "hello"


async def test_a_card_that_asks_for_the_impossible_is_wrong(seer: Seer) -> None:
    with pytest.raises(InvalidModel, match="longest_side"):
        await found(prepare(seer, longest_side=0), photograph())
    with pytest.raises(InvalidModel, match="longest_sides"):
        await found(prepare(seer, longest_sides=800), photograph())
