"""Models of one's own behind all layers, asked as callers ask."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sensorium.config import Settings
from sensorium.engine import Call, Delta, Options
from sensorium.engines.local import transformers as kind
from sensorium.errors import (
    CorruptMedia,
    DeadlineExceeded,
    InvalidModel,
    Overloaded,
    SensoriumError,
    ServiceClosed,
    UnstructuredAnswer,
    UnsupportedMedia,
)
from sensorium.media.source import Source
from sensorium.registry import Registry
from sensorium.runtimes.vision_language import Speaker
from sensorium.schemas.ask import Answer, AskRequest, Message, Picture, Words
from sensorium.schemas.tokens import TokensRequest
from sensorium.service import Sensorium
from tests.pictures import jpeg, png
from tests.torch.tiny import installed

FRESH = Options(cache=False)
LONG = 300
"""Tokens that the tiny model takes the better part of a second for."""


@pytest.fixture
async def service(tmp_path: Path, models: Path) -> AsyncIterator[Sensorium]:
    async with Sensorium(settings(tmp_path, models)) as made:
        yield made


def settings(folder: Path, models: Path, **others: Any) -> Settings:
    chosen = {"device": "cpu", "threads": 1, "running": 8, **others}
    return Settings(models_dir=models, cache_dir=folder / "cache", data_dir=folder / "data", **chosen)


def question(prompt: str = "What is this?", **fields: Any) -> AskRequest:
    told = {"model": "tiny", "image": Source.of(jpeg(96, 64)), "max_tokens": 10, "temperature": 0, **fields}
    return AskRequest(prompt=prompt, **told)


def speaker_of(service: Sensorium) -> Speaker:
    speaker: Speaker = service.models.loaded["tiny@1"]._engine._speaker  # type: ignore[union-attr] # of this kind
    return speaker


def steps(service: Sensorium) -> list[int]:
    """Grows by one with each run of the model."""
    ran: list[int] = []
    speaker_of(service)._model.register_forward_pre_hook(lambda *_: ran.append(1))
    return ran


async def test_an_answer_says_what_it_took_and_costs_nothing(service: Sensorium) -> None:
    answer = await service.run(question())
    assert answer.text.isalpha()
    assert (answer.ending, answer.answered_by, answer.meta.engine) == ("length", "tiny@1", "tiny@1")
    usage = answer.meta.usage
    assert (usage.output_tokens, usage.cost, usage.estimated) == (10, 0.0, False)
    assert 0 < usage.image_tokens < usage.input_tokens
    assert (await service.run(question(), options=FRESH)).text == answer.text
    brief = await service.run(question(stop=(answer.text[3:5],)))
    assert (brief.text, brief.ending) == (answer.text[:3], "stop")
    assert (await service.run(question(stop=(answer.text[3:5],)))).meta.cached


async def test_pictures_stand_where_the_conversation_has_them(service: Sensorium) -> None:
    red, blue = (Picture(image=Source.of(png(colour=colour))) for colour in ((250, 0, 0), (0, 0, 250)))

    async def said(first: Picture, second: Picture) -> Answer:
        talk = (
            Message(role="system", parts=(Words(text="Be brief"),)),
            Message(role="user", parts=(first, Words(text="This is one."))),
            Message(role="assistant", parts=(Words(text="I see"),)),
            Message(role="user", parts=(Words(text="And this?"), second)),
        )
        answer: Answer = await service.run(AskRequest(model="tiny", messages=talk, max_tokens=40, temperature=0))
        return answer

    forth, back = await said(red, blue), await said(blue, red)
    assert forth.meta.usage == back.meta.usage
    assert forth.text != back.text


async def test_closer_looks_show_more_of_a_picture_and_many_share_the_room(
    tmp_path: Path, qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[tuple[int, int]]] = []
    answer = Speaker.answer

    def seen(self: Speaker, conversation: Any, *rest: Any) -> Any:
        shown.append([part.size for _, parts in conversation for part in parts if not isinstance(part, str)])
        return answer(self, conversation, *rest)

    monkeypatch.setattr(Speaker, "answer", seen)
    monkeypatch.setattr(kind, "MOST_PIXELS", 1 << 18)
    large = Source.of(png(900, 600))
    models = installed(tmp_path / "models", "tiny", qwen3, tables=f"[input]\npixels = {1 << 16}")
    async with Sensorium(settings(tmp_path, models)) as service:
        for detail in ("low", "auto", "high", "original"):
            await service.run(question(image=large, detail=detail))
        await service.run(question(image=large, images=(large,) * 7, detail="high"))
        await service.run(question(image=Source.of(png(60, 40))))
    _, *alone, together, small = shown
    pixels = [width * height for ((width, height),) in alone]
    assert pixels == pytest.approx([1 << 14, 1 << 16, 1 << 18, 1 << 18], rel=0.02)
    assert together == [together[0]] * 8
    assert sum(width * height for width, height in together) == pytest.approx(1 << 18, rel=0.02)
    assert small == [(60, 40)]


async def test_a_bad_picture_is_named_among_several(service: Sensorium) -> None:
    good = Source.of(jpeg())
    with pytest.raises(UnsupportedMedia, match="Picture 2 of 3"):
        await service.run(question(image=good, images=(Source.of(b"no picture at all"), good)))
    with pytest.raises(CorruptMedia):
        await service.run(question(image=Source.of(jpeg()[:300])))


async def test_whoever_leaves_stops_the_model(service: Sensorium) -> None:
    await service.run(question())
    ran, begun = steps(service), asyncio.Event()

    async def listen(event: object) -> None:
        begun.set()

    asking = asyncio.create_task(service.run(question(max_tokens=LONG), listener=listen))
    await begun.wait()
    asking.cancel()
    await asyncio.wait([asking])
    after = len(ran)
    assert (await service.run(question("Another?"), options=FRESH)).text  # the next in line: the model is free
    assert len(ran) - after < LONG / 2, "the one that was left ran on"


async def test_the_deadline_stops_the_model(service: Sensorium) -> None:
    await service.run(question())
    ran = steps(service)
    with pytest.raises(DeadlineExceeded):
        await service.run(question(max_tokens=LONG), timeout=0.1)
    after = len(ran)
    assert 0 < after < LONG - 1
    await service.run(question("Another?"), options=FRESH)
    assert len(ran) - after < LONG / 2


async def test_a_listener_that_fails_stops_the_model(service: Sensorium) -> None:
    await service.run(question())
    ran = steps(service)

    async def listen(event: object) -> None:
        raise Overloaded("It listens no more")

    call = Call(listener=listen)
    with pytest.raises(Overloaded):
        await service.models.loaded["tiny@1"].run(question(max_tokens=LONG), call)
    await service.run(question("Another?"), options=FRESH)
    assert len(ran) < LONG / 2


async def test_words_come_while_the_model_speaks(service: Sensorium) -> None:
    await service.run(question())
    ran, told = steps(service), list[tuple[str, int]]()

    async def listen(event: object) -> None:
        if isinstance(event, Delta):
            told.append((event.text, len(ran)))

    answer = await service.run(question(max_tokens=LONG), listener=listen, options=FRESH)
    assert "".join(text for text, _ in told) == answer.text
    assert told[0][1] < LONG - 1, "the first word came before the model was done"


async def test_the_loop_is_free_while_the_model_speaks(service: Sensorium) -> None:
    await service.run(question())
    asking = asyncio.create_task(service.run(question(max_tokens=100), options=FRESH))
    turns = 0
    while not asking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100
    assert (await asking).meta.usage.output_tokens == 100


async def test_questions_wait_for_each_other_and_each_gets_its_own_answer(service: Sensorium) -> None:
    prompts = [f"Question {number}" for number in range(4)]
    alone = [(await service.run(question(prompt), options=FRESH)).text for prompt in prompts]
    threads = [thread.name for thread in threading.enumerate() if "tiny@1" in thread.name]
    together = await service.run_all([question(prompt) for prompt in prompts], options=FRESH)
    assert [answer.text for answer in together if isinstance(answer, Answer)] == alone
    assert threads == ["tiny@1-turns"]


async def test_a_schema_is_asked_for_and_random_words_do_not_keep_it(service: Sensorium) -> None:
    ran: list[int] = []
    await service.run(question())
    speaker_of(service)._model.register_forward_pre_hook(lambda *_: ran.append(1))
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    small = question(json_schema=schema, image=Source.of(png(40, 40)), max_tokens=4)
    with pytest.raises(UnstructuredAnswer) as caught:
        await service.run(small)
    assert caught.value.text.isalpha()
    assert len(ran) == 12, "it is asked again twice"


async def test_an_unloaded_model_gives_its_memory_and_thread_back_and_loads_again(service: Sensorium) -> None:
    before = await service.run(question(), options=FRESH)
    weights = weakref.ref(speaker_of(service)._model)
    await service.models.loaded["tiny@1"].unload()
    gc.collect()
    assert weights() is None
    assert not [thread for thread in threading.enumerate() if "tiny@1" in thread.name]
    assert (await service.run(question(), options=FRESH)).text == before.text


async def test_closing_ends_what_is_under_way(tmp_path: Path, models: Path) -> None:
    begun = asyncio.Event()

    async def listen(event: object) -> None:
        begun.set()

    async with Sensorium(settings(tmp_path, models)) as service:
        asking = asyncio.create_task(service.run(question(max_tokens=LONG), listener=listen))
        await begun.wait()
    with pytest.raises((ServiceClosed, asyncio.CancelledError)):
        await asking


async def test_the_answer_says_which_device_was_too_small(service: Sensorium, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = torch.nn.Module.to

    def full(self: Any, device: Any, *rest: Any) -> Any:
        if str(device).startswith("cuda"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return moved(self, device, *rest)

    monkeypatch.setattr("sensorium.runtimes.torch_device.chosen", lambda *_: "cuda:0")
    monkeypatch.setattr("sensorium.runtimes.torch_device.numbers", lambda *_: torch.float32)
    monkeypatch.setattr(torch.nn.Module, "to", full)
    answer = await service.run(question())
    assert [(skipped.engine, skipped.code) for skipped in answer.meta.skipped] == [
        ("tiny@1 on cuda:0", "out_of_device_memory")
    ]


async def test_tokens_are_counted_by_the_family_and_cost_nothing(tmp_path: Path, qwen3: Path) -> None:
    models = installed(tmp_path / "models", "qwen3-vl-tiny", qwen3)
    async with Sensorium(settings(tmp_path, models)) as service:
        counted = await service.run(TokensRequest(model="qwen3-vl-tiny", prompt="?", image=Source.of(png(320, 320))))
    assert counted.rule.startswith("qwen/3-vl@")
    assert (counted.image_tokens, counted.input_cost, counted.most_cost) == (102, 0.0, 0.0)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ("[quirks]\ndtype = 'int8'", "wrong `quirks`"),
        ("[quirks]\njson_schema = true", "wrong `quirks`"),
        ("[input]\npixels = 1", "wrong `input`"),
    ],
)
async def test_a_card_that_is_wrong_says_where(tmp_path: Path, qwen3: Path, tables: str, said: str) -> None:
    registry = Registry(installed(tmp_path / "models", "tiny", qwen3, tables=tables))
    with pytest.raises(InvalidModel, match=said):
        registry.card("tiny", "ask")


async def test_weights_with_another_checksum_are_refused(tmp_path: Path, qwen3: Path) -> None:
    models = installed(tmp_path / "models", "tiny", qwen3, tables=f'sha256 = "{"0" * 64}"')
    async with Sensorium(settings(tmp_path, models)) as service:
        with pytest.raises(InvalidModel, match="its card says 000000000000"):
            await service.run(question())


async def test_a_model_that_cannot_say_a_word_is_found_out_when_it_is_loaded(
    service: Sensorium, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise SensoriumError("The picture has no place")

    monkeypatch.setattr(Speaker, "answer", fail)
    with pytest.raises(InvalidModel, match="cannot say a word: The picture has no place"):
        await service.run(question())
