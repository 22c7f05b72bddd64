from __future__ import annotations

import time
from typing import Any

import pytest

from sensorium.engine import Card
from sensorium.media.source import Source
from sensorium.pricing import AROUND, Price, prices
from sensorium.schemas.ask import AskRequest, Message, Picture, Words
from sensorium.schemas.base import Usage
from sensorium.schemas.describe_pixels import DescribePixelsRequest
from sensorium.tariff import Tariff
from tests.pictures import png


def card(name: str, **fields: object) -> Card:
    return Card.model_validate({"name": name, "kind": "openai", "tasks": ("ask",), "licence": "none", **fields})


GPT = card("gpt-4o", remote=True)
TABLE = {"dear": Price(input=1.0, output=10.0)}


async def most(tariff: Tariff, **fields: Any) -> Usage:
    found = await tariff.most(AskRequest(**fields))
    assert found is not None
    return found


async def test_a_question_takes_its_words_its_pictures_and_the_longest_answer() -> None:
    taken = await most(Tariff(GPT), image=png(), prompt="What is this?", max_tokens=100)
    assert (taken.image_tokens, taken.output_tokens, taken.estimated) == (255, 100, True), "one tile: 85 and 170"
    words = await most(Tariff(GPT), prompt="What is this?")
    assert taken.input_tokens == words.input_tokens + 255
    assert 3 <= words.input_tokens - 2 * AROUND <= 8
    assert Tariff(GPT).cost(taken) == pytest.approx(taken.input_tokens * 2.5e-6 + 100 * 10e-6)


async def test_pictures_and_words_of_earlier_messages_count_too() -> None:
    said = Message(role="user", parts=(Words(text="one two three four five"), Picture(image=Source.of(png()))))
    short = await most(Tariff(GPT), prompt="a", messages=(said,))
    long = await most(Tariff(GPT), prompt="a", messages=(said,) * 3)
    assert long.input_tokens >= short.input_tokens + 2 * (5 + AROUND + 255)


async def test_a_picture_that_nobody_can_read_takes_the_most_that_any_can() -> None:
    pictures = ("https://example.com/a.png", b"no picture", png())
    unread, broken, read = [(await most(Tariff(GPT), image=one, prompt="a")).image_tokens or 0 for one in pictures]
    assert unread == broken > read


async def test_other_requests_take_no_tokens() -> None:
    assert await Tariff(GPT).most(DescribePixelsRequest(image=png())) is None


async def test_a_model_is_priced_by_its_own_name_its_providers_or_the_users_table() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=100_000)
    assert Tariff(GPT).cost(usage) == pytest.approx(3.5)
    assert Tariff(card("eyes", remote=True, quirks={"model": "gpt-4o"})).cost(usage) == pytest.approx(3.5)
    with prices.use(TABLE):
        assert Tariff(card("dear")).cost(usage) == pytest.approx(2.0)
        assert Tariff(card("eyes", remote=True, quirks={"model": "dear"})).cost(usage) == pytest.approx(2.0)


async def test_a_local_model_costs_nothing_and_a_remote_one_that_is_not_known_has_no_price() -> None:
    assert Tariff(card("own")).cost(Usage(input_tokens=5)) == 0.0
    assert Tariff(card("gpt-4o")).cost(Usage(input_tokens=5)) == 0.0
    assert Tariff(card("own", remote=True)).cost(Usage(input_tokens=5)) is None


async def test_prices_are_at_hand_once_they_were_prepared() -> None:
    tariff = Tariff(GPT)
    await tariff.prepare()
    start = time.thread_time()
    await tariff.prepare()
    tariff.cost(Usage(input_tokens=5))
    assert time.thread_time() - start < 0.1
