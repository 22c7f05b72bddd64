"""What a question would take, told without asking anybody."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sensorium.config import Settings, load_settings
from sensorium.errors import InvalidConfiguration, InvalidRequest, UnidentifiedMedia, Unseeing
from sensorium.media.source import Source
from sensorium.pricing import words
from sensorium.schemas.tokens import TokenCount, TokensRequest
from sensorium.service import Sensorium
from sensorium.verbs import verb
from tests.pictures import JUNK, jpeg

CARD = """
name = "{name}"
kind = "fake"
tasks = ["ask"]
licence = "Apache-2.0"
{more}
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for name, more in {
        "shop": 'rule = "qwen/3-vl"',
        "front": 'remote = true\n[quirks]\nmodel = "gpt-4o-mini"',
        "gpt-4o-at-home": "",
        "blind": "vision = false",
        "odd": 'rule = "nobody/knows"',
    }.items():
        (folder / f"{name}.toml").write_text(CARD.format(name=name, more=more), encoding="utf-8")
    return folder


@pytest.fixture
async def service(models: Path, tmp_path: Path) -> AsyncIterator[Sensorium]:
    settings = Settings(models_dir=models, cache_dir=tmp_path / "cache", prices={"shop": {"input": 2, "output": 4}})
    async with Sensorium(settings) as service:
        yield service


async def counted(service: Sensorium, **fields: Any) -> TokenCount:
    if "image" in fields:
        fields["image"] = Source.of(fields["image"])
    result = await service.run(TokensRequest(**fields))
    assert isinstance(result, TokenCount)
    return result


async def test_pictures_words_and_money_are_told(service: Sensorium) -> None:
    told = await counted(
        service, image=jpeg(width=1920, height=1080), prompt="How much is this?", system="Be short.", model="gpt-4o"
    )
    (picture,) = told.pictures
    assert (picture.tokens, picture.width, picture.height) == (1105, 1920, 1080)
    assert (picture.used_width, picture.used_height) == (1365, 768)
    assert told.image_tokens == 1105
    assert words("How much is this?") + words("Be short.") <= told.text_tokens <= 25
    assert told.input_tokens == told.image_tokens + told.text_tokens
    assert told.input_cost == pytest.approx(told.input_tokens * 2.5e-6)
    assert told.most_cost == pytest.approx(told.input_tokens * 2.5e-6 + 1024 * 1e-5)
    assert (told.rule.partition("@")[0], told.confidence, told.meta.engine) == ("openai/gpt-4o", "exact", "tokens")


async def test_several_pictures_are_counted_each_and_low_detail_for_all(service: Sensorium) -> None:
    others = (Source.of(jpeg(width=600, height=600)), Source.of(jpeg()))
    told = await counted(service, image=jpeg(), images=others, model="openai/gpt-4o")
    assert [picture.tokens for picture in told.pictures] == [255, 85 + 4 * 170, 255]
    low = await counted(service, image=jpeg(), images=others, model="openai/gpt-4o", detail="low")
    assert low.image_tokens == 3 * 85


async def test_a_picture_is_counted_upright(service: Sensorium) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (400, 100)).save(file, "JPEG", exif=exif)
    (picture,) = (await counted(service, image=file.getvalue(), model="gpt-4o")).pictures
    assert (picture.width, picture.height) == (100, 400)


async def test_words_alone_are_counted_too(service: Sensorium) -> None:
    told = await counted(service, prompt="你好吗", model="gpt-4o")
    assert (told.pictures, told.image_tokens) == ((), 0)
    assert told.input_tokens >= 3


async def test_a_card_says_its_rule_and_the_settings_its_price(service: Sensorium) -> None:
    told = await counted(service, image=jpeg(width=640, height=480), model="shop", max_tokens=500)
    assert (told.image_tokens, told.rule.partition("@")[0]) == (302, "qwen/3-vl")
    assert told.input_cost == pytest.approx(told.input_tokens * 2e-6)
    assert told.most_cost == pytest.approx(told.input_tokens * 2e-6 + 500 * 4e-6)


async def test_a_card_is_also_known_by_what_its_provider_calls_the_model(service: Sensorium) -> None:
    told = await counted(service, image=jpeg(), model="front")
    assert (told.image_tokens, told.model) == (8500, "front")
    assert told.most_cost is not None
    assert told.most_cost > 0


async def test_a_local_model_costs_nothing_whatever_it_is_called(service: Sensorium) -> None:
    told = await counted(service, prompt="Hello", model="gpt-4o-at-home")
    assert (told.input_cost, told.most_cost) == (0.0, 0.0)


async def test_a_model_that_nobody_knows_is_a_guess_without_a_price(service: Sensorium) -> None:
    told = await counted(service, image=jpeg(), model="a-new-one")
    assert (told.confidence, told.input_cost, told.most_cost) == ("guess", None, None)
    assert told.rule.startswith("unknown")


async def test_a_model_that_takes_no_pictures_is_refused_them_but_not_words(service: Sensorium) -> None:
    with pytest.raises(Unseeing, match="blind"):
        await counted(service, image=jpeg(), model="blind")
    assert (await counted(service, prompt="hello", model="blind")).input_tokens > 0


async def test_without_a_model_it_is_the_one_that_would_be_asked(models: Path) -> None:
    async with Sensorium(Settings(models_dir=models, models={"ask": ["front", "shop"]})) as service:
        assert (await counted(service, image=jpeg())).model == "front"


async def test_without_any_model_it_says_how_to_name_one(service: Sensorium) -> None:
    for model in (None, ""):
        with pytest.raises(InvalidRequest, match=r"`models\.ask`"):
            await counted(service, image=jpeg(), model=model)


async def test_what_is_no_picture_is_refused(service: Sensorium) -> None:
    with pytest.raises(UnidentifiedMedia):
        await counted(service, image=JUNK, model="gpt-4o")


async def test_a_card_with_a_wrong_rule_says_which_rules_there_are(service: Sensorium) -> None:
    with pytest.raises(InvalidConfiguration, match="qwen/3-vl"):
        await counted(service, image=jpeg(), model="odd")


async def test_only_the_header_is_read(service: Sensorium) -> None:
    """A picture of far more pixels than are decoded, cut off after its header, is counted all the same."""
    file = io.BytesIO()
    Image.new("L", (9000, 9000)).save(file, "PNG")
    told = await counted(service, image=file.getvalue()[:200], model="claude-opus-4-7")
    assert "8,000" in told.pictures[0].refused


async def test_no_engine_is_loaded_for_it(service: Sensorium) -> None:
    await asyncio.gather(*(counted(service, image=jpeg(seed=seed), model="front") for seed in range(10)))
    assert not service.models.loaded


def test_it_is_a_verb() -> None:
    told = verb("tokens")(jpeg(width=512, height=512), model="gpt-4o", prompt="What is this?")
    assert told.pictures[0].tokens == 255


def test_a_wrong_price_in_the_settings_is_named() -> None:
    with pytest.raises(InvalidConfiguration, match=r"prices\.gpt-4o\.input"):
        load_settings(prices={"gpt-4o": {"input": -1}})
