"""Perception: what the local tasks see, in sentences, and what it is honest about."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sensorium.config import Settings
from sensorium.engine import Delta, Event, Options
from sensorium.errors import CorruptMedia, UnstructuredAnswer
from sensorium.media.source import Source
from sensorium.schemas.ask import Answer, AskRequest
from sensorium.service import Sensorium
from tests.fakes import put_fake
from tests.pictures import jpeg, photograph, png, skimage_photograph

PHOTO, RED = Source.of(photograph()), Source.of(png(60, 40, colour=(220, 20, 30)))


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sensorium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sensorium]:
    """One for all: its models are loaded once."""
    folder = tmp_path_factory.mktemp("perception")
    async with Sensorium(Settings(cache_dir=folder, models_dir=folder / "none")) as service:
        yield service


async def ask(sensorium: Sensorium, prompt: str = "What is this?", **fields: Any) -> Answer:
    answer = await sensorium.run(AskRequest(prompt=prompt, **fields))
    assert isinstance(answer, Answer)
    return answer


async def test_it_answers_by_default_with_labels_text_colours_and_quality(sensorium: Sensorium) -> None:
    answer = await ask(sensorium, image=PHOTO)
    assert answer.meta.engine == answer.answered_by == "perception@1"
    for said in ("not a language model", "espresso", "600 × 400", "brown", "sharp"):
        assert said in answer.text
    assert answer.meta.usage is None


async def test_it_answers_in_the_language_of_the_question(sensorium: Sensorium) -> None:
    answer = await ask(sensorium, "这个多少钱？", image=RED)
    assert "我不是语言模型" in answer.text
    assert "红色" in answer.text


async def test_of_several_pictures_each_has_a_paragraph(sensorium: Sensorium) -> None:
    answer = await ask(sensorium, image=PHOTO, images=(RED,))
    first, second = answer.text.split("\n\n")[1:3]
    assert first.startswith("Picture 1 has 600 × 400")
    assert second.startswith("Picture 2 has 60 × 40")
    assert "red" in second


async def test_to_words_alone_it_says_that_it_cannot_answer(sensorium: Sensorium) -> None:
    answer = await ask(sensorium, "What is the capital of France?")
    assert "not a language model" in answer.text
    assert "no picture" in answer.text


async def test_its_words_come_one_by_one_and_make_up_the_answer(sensorium: Sensorium) -> None:
    stream = sensorium.stream(AskRequest(image=RED, prompt="红色的吗？"))
    words = [event.text async for event in stream if isinstance(event, Delta)]
    assert len(words) > 20
    assert "".join(words) == stream.result.text


async def test_it_keeps_to_the_number_of_words_allowed(sensorium: Sensorium) -> None:
    answer = await ask(sensorium, image=RED, max_tokens=5)
    assert answer.ending == "length"
    assert answer.text == "I am not a language "


async def test_a_bad_picture_fails_before_the_first_word(sensorium: Sensorium) -> None:
    heard: list[Event] = []

    async def listen(event: Event) -> None:
        heard.append(event)

    asked = AskRequest(image=Source.of(jpeg()[:300]), prompt="What is this?")
    with pytest.raises(CorruptMedia):
        await sensorium.run(asked, listener=listen)
    assert heard == []


async def test_a_part_that_fails_is_said_and_not_remembered(tmp_path: Path) -> None:
    models = tmp_path / "models"
    put_fake(models, "flaky", 'fail = "engine_failed"\nfail_times = 1')
    settings = Settings(cache_dir=tmp_path, models_dir=models, models={"read": ["flaky"]})
    async with Sensorium(settings) as service:
        assert "could not be found out (read)" in (await ask(service, image=RED)).text
        assert "could not" not in (await ask(service, image=RED)).text


async def test_it_fills_the_fields_that_it_knows_and_leaves_the_others_open(sensorium: Sensorium) -> None:
    schema = {
        "type": "object",
        "properties": {
            "label": {"type": "string"},
            "colors": {"type": "array", "items": {"type": "string"}},
            "blurred": {"type": "boolean"},
            "text": {"type": "integer"},
            "price": {"type": ["number", "null"]},
        },
        "required": ["label", "price"],
    }
    answer = await ask(sensorium, image=PHOTO, json_schema=schema)
    assert answer.data["label"] == "espresso"
    assert "brown" in answer.data["colors"]
    assert answer.data["blurred"] is False
    assert answer.data["price"] is None
    assert "text" not in answer.data


async def test_what_it_cannot_fill_it_refuses_by_name(sensorium: Sensorium) -> None:
    schema = {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]}
    with pytest.raises(UnstructuredAnswer, match=r"`price`.*not a language model") as caught:
        await ask(sensorium, image=PHOTO, json_schema=schema)
    assert "espresso" in caught.value.text
    with pytest.raises(UnstructuredAnswer):
        await ask(sensorium, json_schema=schema)


async def test_any_object_is_filled_with_all_that_is_known(sensorium: Sensorium) -> None:
    answer = await ask(sensorium, image=PHOTO, json_schema={"type": "object"})
    assert answer.data["width"] == 600
    assert answer.data["label"] == "espresso"


async def test_it_stays_in_the_house(sensorium: Sensorium) -> None:
    answer = await sensorium.run(AskRequest(image=RED, prompt="?"), options=Options(remote=False))
    assert answer.meta.engine == "perception@1"


async def test_it_says_how_many_faces_there_are_and_where(sensorium: Sensorium) -> None:
    """The astronaut's face lies in the upper middle."""
    portrait = Source.of(skimage_photograph("astronaut.png"))
    said = (await ask(sensorium, image=portrait)).text
    assert re.search(r"(One face is|[2-9] faces are) found in it: [^.]*\btop\b", said)
    assert re.search(r"发现 \d 张脸：[^。]*上方", (await ask(sensorium, "这是什么？", image=portrait)).text)
    assert "No faces are found" in (await ask(sensorium, image=RED)).text
    schema = {"type": "object", "properties": {"face_count": {"type": "integer"}, "faces": {"type": "array"}}}
    filled = await ask(sensorium, image=portrait, json_schema=schema)
    assert filled.data["face_count"] == len(filled.data["faces"]) >= 1
