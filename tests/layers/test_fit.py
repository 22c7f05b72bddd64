"""Each picture of a question is sent as the model will use it, and everything else passes untouched."""

from __future__ import annotations

import asyncio
import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from sensorium.engine import Call, Card
from sensorium.engines.remote import anthropic
from sensorium.errors import CorruptMedia, FetchFailed, InputTooLarge, InvalidModel, SensoriumError
from sensorium.layers.fit import Fit, Sizes, size_for
from sensorium.media.pool import cores
from sensorium.media.source import Source
from sensorium.pricing import estimate
from sensorium.schemas.ask import Answer, AskRequest, Message, Picture, Words
from sensorium.schemas.base import Request
from sensorium.schemas.classify import ClassifyRequest
from tests.pictures import encoded, jpeg, photograph, png


class Listening:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.heard: list[Request] = []

    async def run(self, request: Request, call: Call) -> Answer:
        self.heard.append(request)
        return Answer(text="yes")


def card(name: str = "some-model", **fields: Any) -> Card:
    return Card(name=name, kind="openai", tasks=("ask",), licence="none", remote=True, **fields)


async def sent(request: Request, of: Card | None = None, sizes: Sizes | None = None) -> Any:
    inner = Listening()
    await Fit(inner, of or card(), sizes or Sizes()).run(request, Call())
    (heard,) = inner.heard
    return heard


def size(source: Source | None) -> tuple[int, int]:
    assert source is not None
    return Pillow.open(io.BytesIO(source.read_now())).size


def large(seed: int = 0) -> Source:
    return Source.held(jpeg(3000, 2000, seed), f"large{seed}.jpg")


async def test_a_picture_is_sent_at_most_1024_pixels_long() -> None:
    assert size((await sent(AskRequest(image=large(), prompt="What?"))).image) == (1024, 683)


async def test_several_are_sent_larger_each() -> None:
    asked = await sent(AskRequest(image=large(), images=(large(1), large(2)), prompt="Which?"))
    assert [size(one) for one in asked.sources()] == [(2048, 1365)] * 3


async def test_high_detail_is_larger_and_original_is_what_the_model_takes() -> None:
    async def of(detail: Any, of: Card) -> tuple[int, int]:
        return size((await sent(AskRequest(image=large(), prompt="What?", detail=detail), of)).image)

    assert await of("high", card()) == (2048, 1365)
    assert await of("original", card()) == (3000, 2000)
    assert await of("original", card(input={"longest_side": 1500})) == (1500, 1000)
    assert await of("high", card("gpt-4o")) == (1152, 768)
    assert await of("auto", card("gpt-4o")) == (1024, 683)


async def test_the_settings_hold() -> None:
    sizes = Sizes(longest_side=300, several_longest_side=600, quality=20)
    asked = await sent(AskRequest(image=large(), prompt="What?"), sizes=sizes)
    assert size(asked.image) == (300, 200)
    better = await sent(AskRequest(image=large(), prompt="What?"), sizes=Sizes(300, 600, 95))
    assert len(asked.image.read_now()) < len(better.image.read_now())


async def test_a_question_that_needs_no_change_passes_with_the_very_same_sources() -> None:
    request = AskRequest(image=Source.of(photograph()), images=(Source.of(png()),), prompt="What?")
    asked = await sent(request)
    assert asked.image is request.image
    assert asked.images[0] is request.images[0]
    assert asked == request


async def test_words_alone_and_other_requests_are_the_same_object() -> None:
    words = AskRequest(prompt="What is the time?")
    assert await sent(words) is words
    other = ClassifyRequest(image=large())
    assert await sent(other) is other


async def test_pictures_inside_messages_are_fitted_in_their_places() -> None:
    said = Message(
        role="user",
        parts=(Words(text="First"), Picture(image=large(1), detail="low"), Words(text="then"), Picture(image=large(2))),
    )
    before = Message(role="assistant", parts=(Words(text="Yes."),))
    asked = await sent(AskRequest(image=large(), prompt="And now?", messages=(said, before)))
    assert [size(one) for one in asked.sources()] == [(2048, 1365)] * 3
    assert [type(part) for part in asked.messages[0].parts] == [Words, Picture, Words, Picture]
    assert asked.messages[0].parts[1].detail == "low"
    assert asked.messages[1] is not None
    assert [one.name for one in asked.sources()] == ["large0.jpg", "large1.jpg", "large2.jpg"]


async def test_the_card_says_formats_and_bytes() -> None:
    bmp = AskRequest(image=Source.of(encoded(Pillow.open(io.BytesIO(photograph())), "BMP")), prompt="What?")
    assert Pillow.open(io.BytesIO((await sent(bmp)).image.read_now())).format == "JPEG"
    webp = AskRequest(image=Source.of(encoded(Pillow.open(io.BytesIO(photograph())), "WEBP")), prompt="What?")
    assert (await sent(webp)).image is webp.image
    only = await sent(webp, card(input={"formats": ["jpeg"]}))
    assert Pillow.open(io.BytesIO(only.image.read_now())).format == "JPEG"
    little = await sent(webp, card(input={"max_bytes": 9000}))
    assert len(little.image.read_now()) <= 9000


async def test_very_many_pictures_can_have_a_limit_of_their_own() -> None:
    of = card(input={"longest_side_of_many": 300})
    few = await sent(AskRequest(images=tuple(Source.of(jpeg(400, 300)) for _ in range(20)), prompt="Which?"), of)
    many = await sent(AskRequest(images=tuple(Source.of(jpeg(400, 300)) for _ in range(21)), prompt="Which?"), of)
    assert {size(one) for one in few.sources()} == {(400, 300)}
    assert {size(one) for one in many.sources()} == {(300, 225)}


async def test_claude_gets_many_pictures_no_larger_than_it_takes_many() -> None:
    (claude,) = (one for one in anthropic.CARDS if one.name == "claude-opus-4-8")
    long = Source.of(png(2040, 30))
    few = await sent(AskRequest(images=(long,) * 2, prompt="Which?"), claude)
    many = await sent(AskRequest(images=(long,) * 21, prompt="Which?"), claude)
    assert {size(one) for one in few.sources()} == {(2040, 30)}
    assert {size(one) for one in many.sources()} == {(2000, 29)}


async def test_a_url_passes_unfetched_where_the_provider_fetches_it() -> None:
    request = AskRequest(image=Source.of("http://127.0.0.1:9/cat.jpg"), prompt="What?")
    asked = await sent(request, card(quirks={"takes_urls": True}))
    assert asked.image is request.image
    with pytest.raises(SensoriumError) as refused:
        await sent(request)
    assert refused.value.code in ("forbidden_address", FetchFailed.code)


async def test_a_bad_picture_among_several_is_named() -> None:
    broken = Source.held(photograph()[:300])
    with pytest.raises(CorruptMedia, match=r"^Picture 2 of 3: data \(300 bytes\) cannot be decoded") as failed:
        await sent(AskRequest(image=large(), images=(broken, large(1)), prompt="Which?"))
    assert failed.value.what.startswith("Picture 2 of 3: ")
    with pytest.raises(CorruptMedia, match=r"^data \(300 bytes\) cannot be decoded"):
        await sent(AskRequest(image=broken, prompt="What?"))


async def test_bytes_that_cannot_be_kept_are_told_before_the_provider_is_asked() -> None:
    inner = Listening()
    noise = Source.of(encoded(Pillow.effect_noise((32, 32), 90), "BMP"))
    with pytest.raises(InputTooLarge, match="1,024 bytes"):
        await Fit(inner, card(input={"max_bytes": 1024, "formats": ["png"]})).run(
            AskRequest(image=noise, prompt="What?"), Call()
        )
    assert not inner.heard


@pytest.mark.parametrize("wrong", [{"longest_sides": 3}, {"formats": ["tiff"]}, {"formats": []}, {"longest_side": 0}])
async def test_a_card_with_a_wrong_input_is_refused_by_name(wrong: dict[str, Any]) -> None:
    """When it is asked, so that other models of a task still answer."""
    with pytest.raises(InvalidModel, match=r"some-model@1 .*`input`"):
        await sent(AskRequest(image=large(), prompt="What?"), card(input=wrong))


@pytest.mark.parametrize(
    ("rule", "detail", "given", "sent"),
    [
        ("openai/gpt-4o", "high", (3840, 2160), (1365, 768)),
        ("openai/gpt-4o", "high", (2048, 4096), (768, 1536)),
        ("anthropic/standard", "original", (1920, 1080), (1456, 819)),
        ("anthropic/standard", "original", (200, 200), (200, 200)),
        ("qwen/3-vl", "original", (640, 480), (640, 480)),
        (None, "original", (5000, 5000), (5000, 5000)),
    ],
)
def test_the_size_is_what_the_model_uses(rule: Any, detail: Any, given: tuple[int, int], sent: tuple[int, int]) -> None:
    assert size_for(rule, detail, None, *given) == sent


@pytest.mark.parametrize(
    "rule", ["openai/gpt-4o", "openai/gpt-5.4", "anthropic/standard", "qwen/3-vl", "llava/next", None]
)
@pytest.mark.parametrize("given", [(4000, 3000), (1920, 1080), (333, 1777), (8000, 60), (1, 1)])
def test_fitting_keeps_the_shape_and_costs_no_more(rule: Any, given: tuple[int, int]) -> None:
    width, height = given
    across, down = size_for(rule, "high", 2048, width, height)
    assert 1 <= across <= width
    assert 1 <= down <= height
    assert max(across, down) <= 2048
    assert abs(across - down * width / height) <= max(1.5, 1.5 * width / height)
    assert estimate(rule, across, down, "high").tokens <= estimate(rule, width, height, "high").tokens


def test_what_the_page_says_of_tokens_is_so() -> None:
    page = (Path(__file__).parents[2] / "docs" / "pictures-for-models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) × (\d+)[^|]*\|(.*)\|$", page, re.MULTILINE)
    assert len(rows) == 5
    for across, down, cells in rows:
        given = int(across), int(down)
        told = [tuple(map(int, cell.split("→"))) for cell in cells.split("|")]
        assert told == [
            (estimate(rule, *given).tokens, estimate(rule, *size_for(rule, "auto", 1024, *given)).tokens)
            for rule in ("openai/gpt-4o", "openai/gpt-5.4", "anthropic/standard", "qwen/3-vl")
        ]


async def test_of_many_who_ask_the_first_go_out_while_the_others_are_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way = most = 0

    async def preparing(source: Source, terms: Any) -> Source:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return source

    monkeypatch.setattr("sensorium.layers.fit.fitted", preparing)
    inner = Listening()
    layer = Fit(inner, card())
    asked = [AskRequest(image=Source.held(jpeg()), prompt=str(number)) for number in range(30)]
    await asyncio.gather(*(layer.run(request, Call()) for request in asked))
    assert most == cores() + 1
    assert [one.prompt for one in inner.heard if isinstance(one, AskRequest)] == [str(number) for number in range(30)]


async def test_who_waits_for_a_picture_from_elsewhere_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = asyncio.Event()

    async def read(self: Source) -> bytes:
        if self.url is not None:
            await arrived.wait()
        return jpeg()

    monkeypatch.setattr(Source, "read", read)
    layer = Fit(Listening(), card())
    far = [AskRequest(image=Source.of(f"https://example.com/{number}"), prompt="?") for number in range(20)]
    waiting = [asyncio.create_task(layer.run(request, Call())) for request in far]
    await asyncio.sleep(0)
    await asyncio.wait_for(layer.run(AskRequest(image=Source.held(jpeg()), prompt="?"), Call()), 30)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
