"""A large picture is asked about part by part, and one answer comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from sensorium.engine import Call, Delta, Options, Progress
from sensorium.errors import InvalidRequest, ProviderFailed
from sensorium.layers.tile import AT_ONCE, Tiled
from sensorium.media.source import Source
from sensorium.schemas.ask import Answer, AskRequest
from sensorium.schemas.base import Meta, Request, Usage
from sensorium.schemas.classify import ClassifyRequest
from tests.layers.stand_ins import listening, until
from tests.pictures import jpeg, photograph

WORDS = {"type": "object", "properties": {"words": {"type": "array"}}, "required": ["words"]}


class Model:
    """Answers each question by `say`, and remembers it."""

    def __init__(self, say: Callable[[AskRequest], Answer]) -> None:
        self.say = say
        self.asked: list[AskRequest] = []
        self.calls: list[Call] = []
        self.running = self.most = 0
        self.gate: asyncio.Event | None = None

    async def run(self, request: Request, call: Call) -> Answer:
        assert isinstance(request, AskRequest)
        self.asked.append(request)
        self.calls.append(call)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.gate:
                await self.gate.wait()
            answer = self.say(request)
            await call.emit(Delta(answer.text))
            return answer
        finally:
            self.running -= 1


def numbered(request: AskRequest) -> Answer:
    part = request.prompt.split(maxsplit=4)[3]
    usage = Usage(input_tokens=100, output_tokens=10, image_tokens=80, cost=0.5)
    return Answer(text=f"part {part}", meta=Meta(usage=usage))


def question(**fields: Any) -> AskRequest:
    """About 600 x 400 pixels; of 256 a side that are 4 x 2 parts."""
    return AskRequest(image=Source.of(photograph()), prompt="How many?", **{"tile": 256, **fields})


async def test_each_part_is_asked_about_with_its_place_and_the_last_question_has_all_answers() -> None:
    model = Model(numbered)
    answer = await Tiled(model).run(question(), Call())
    assert isinstance(answer, Answer)
    *parts, last = model.asked
    assert len(parts) == 6
    assert {one.tile for one in model.asked} == {None}
    assert "part 1 of 6 of a picture of 600 x 400 pixels: 0 to 256 across, 0 to 256 down" in parts[0].prompt
    assert "344 to 600 across, 144 to 400 down" in parts[-1].prompt
    assert all(one.prompt.endswith("How many?") for one in model.asked)
    assert last.image == Source.of(photograph())
    assert all(f"part {number}" in last.prompt for number in range(1, 7))


async def test_the_answer_took_what_all_questions_took() -> None:
    answer = await Tiled(Model(numbered)).run(question(), Call())
    assert answer.meta.usage == Usage(input_tokens=700, output_tokens=70, image_tokens=560, cost=3.5)


async def test_a_number_that_one_part_does_not_tell_is_not_made_up() -> None:
    def say(request: AskRequest) -> Answer:
        known = Usage(input_tokens=1, cost=0.1)
        return Answer(text="x", meta=Meta(usage=known.altered(cost=None) if "part 3" in request.prompt else known))

    answer = await Tiled(Model(say)).run(question(), Call())
    assert answer.meta.usage == Usage(input_tokens=7, cost=None)
    silent = await Tiled(Model(lambda request: Answer(text="x"))).run(question(), Call())
    assert silent.meta.usage is None


async def test_only_the_last_answer_is_told_as_it_comes() -> None:
    call, heard = listening()
    await Tiled(Model(lambda request: Answer(text=request.prompt[:19]))).run(question(), call)
    assert call.said == 19
    assert [event for event in heard if isinstance(event, Delta)] == [Delta("This is a picture o")]
    assert [event.done for event in heard if isinstance(event, Progress)] == [1, 2, 3, 4, 5, 6]
    assert call.heard


async def test_lists_are_put_together_without_another_question() -> None:
    def say(request: AskRequest) -> Answer:
        number = int(request.prompt.split(maxsplit=4)[3])
        return Answer(text="...", data={"words": ["both", f"only {number}"]})

    model = Model(say)
    call, heard = listening()
    answer = await Tiled(model).run(question(json_schema=WORDS), call)
    assert isinstance(answer, Answer)
    assert len(model.asked) == 6
    assert answer.data == {"words": ["both", *(f"only {number}" for number in range(1, 7))]}
    assert [event.text for event in heard if isinstance(event, Delta)] == [answer.text]
    assert '"only 6"' in answer.text


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        ({**WORDS, "properties": {"words": {"type": "array", "maxItems": 3}}}, {"words": ["each", "part"]}),
        ({"type": "object"}, {"count": 3}),
        ({"type": "object"}, {}),
    ],
)
async def test_what_is_no_list_or_too_long_a_one_is_asked_for_again(schema: Any, data: Any) -> None:
    def say(request: AskRequest) -> Answer:
        part = request.prompt.split(maxsplit=4)[3]
        mine = {"words": [part, part + "!"]} if "words" in data else data
        return Answer(text="...", data=mine if part.isdigit() else {"whole": True})

    model = Model(say)
    answer = await Tiled(model).run(question(json_schema=schema), Call())
    assert isinstance(answer, Answer)
    assert len(model.asked) == 7
    assert answer.data == {"whole": True}


async def test_an_answer_that_was_cut_off_anywhere_says_so() -> None:
    def say(request: AskRequest) -> Answer:
        return Answer(text="x", ending="length" if "part 2 of" in request.prompt else "stop")

    answer = await Tiled(Model(say)).run(question(), Call())
    assert isinstance(answer, Answer)
    assert answer.ending == "length"


async def test_a_part_that_fails_fails_the_question_and_is_named() -> None:
    def say(request: AskRequest) -> Answer:
        if "part 4 of" in request.prompt:
            raise ProviderFailed("No answer", why="it broke")
        return Answer(text="x")

    model = Model(say)
    with pytest.raises(ProviderFailed, match="Part 4 of 6: No answer: it broke"):
        await Tiled(model).run(question(), Call())
    assert not any("made smaller" in one.prompt for one in model.asked)


async def test_parts_are_asked_about_a_few_at_a_time_and_go_with_the_caller() -> None:
    model = Model(numbered)
    model.gate = asyncio.Event()
    waiting = asyncio.create_task(Tiled(model).run(question(tile=128), Call()))
    await until(lambda: model.running == AT_ONCE)
    for _ in range(20):
        await asyncio.sleep(0)
    assert model.running == AT_ONCE
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert model.running == 0


async def test_the_questions_share_the_cost_and_the_deadline() -> None:
    model = Model(numbered)
    deadline = 1e12
    await Tiled(model).run(question(), Call(options=Options(max_cost=7.0), deadline=deadline))
    assert {call.options.max_cost for call in model.calls} == {1.0}
    assert {call.deadline for call in model.calls} == {deadline}


async def test_a_picture_of_one_part_and_other_requests_pass() -> None:
    model = Model(lambda request: Answer(text="x"))
    await Tiled(model).run(question(tile=600), Call())
    (asked,) = model.asked
    assert asked.prompt == "How many?"

    class Passing:
        async def run(self, request: Request, call: Call) -> Answer:
            self.seen = request
            return Answer(text="x")

    passing = Passing()
    for request in (question(tile=None), ClassifyRequest(image=Source.of(photograph()))):
        await Tiled(passing).run(request, Call())
        assert passing.seen is request


async def test_too_many_parts_are_refused_before_any_is_asked_about() -> None:
    model = Model(numbered)
    with pytest.raises(InvalidRequest, match=r"cut into \d+ parts.*64 parts are allowed.*larger `tile`"):
        await Tiled(model).run(AskRequest(image=Source.of(jpeg(2000, 1500)), prompt="x", tile=128), Call())
    assert not model.asked


@pytest.mark.parametrize(
    "fields",
    [{"tile": 127}, {"tile": 4097}, {"images": (Source.of(photograph()),)}, {"image": None}],
)
def test_a_tile_out_of_range_or_for_another_number_of_pictures_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="tile"):
        AskRequest(**{"image": Source.of(photograph()), "prompt": "x", "tile": 256, **fields})
