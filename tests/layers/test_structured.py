"""Structured answers: read, mended, checked, asked for again; and what must not be said before."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from sensorium.engine import Call, Delta
from sensorium.errors import InvalidRequest, ProviderFailed, UnstructuredAnswer
from sensorium.layers.structured import LARGEST_MENDED, Structured, Unreadable, read
from sensorium.media.source import Source
from sensorium.schemas.ask import Answer, AskRequest, Ending, Message, Picture, Words
from sensorium.schemas.base import Meta, Request, Usage
from tests.layers.stand_ins import Ask, Talker, listening
from tests.pictures import png

PRICE = {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]}
GOOD = '{"price": 3.5}'


class Model:
    """Says one thing after the other; remembers what it was asked."""

    def __init__(self, *said: str | Exception, ending: Ending = "stop", cost: float | None = 0.5) -> None:
        self.said, self.ending, self.cost = list(said), ending, cost
        self.asked: list[AskRequest] = []
        self.heard = False

    async def run(self, request: Request, call: Call) -> Answer:
        assert isinstance(request, AskRequest)
        self.asked.append(request)
        assert not call.heard
        said = self.said.pop(0)
        if isinstance(said, Exception):
            raise said
        await call.emit(Delta(said))
        usage = Usage(input_tokens=100, output_tokens=10, cost=self.cost)
        return Answer(text=said, ending=self.ending, meta=Meta(engine="model@1", usage=usage))


def question(**fields: Any) -> AskRequest:
    return AskRequest(**{"prompt": "How much?", "json_schema": PRICE, **fields})


def words(request: AskRequest) -> list[tuple[str, str]]:
    """Role and words of all that a model was told."""
    return [
        (message.role, "".join(part.text for part in message.parts if isinstance(part, Words)))
        for message in request.conversation()
    ]


@pytest.mark.parametrize(
    "said",
    [
        GOOD,
        f"\n {GOOD} \n",
        f"```json\n{GOOD}\n```",
        f"Here you are:\n```\n{GOOD}\n```\nAnything else?",
        f"The answer is {GOOD}",
        "{'price': 3.5,}",
        '{"price": 3.5',
        "{price: 3.5} // about",
    ],
)
async def test_an_answer_is_read_however_it_is_wrapped(said: str) -> None:
    call, heard = listening()
    answer = await Structured(Model(said), native=False).run(question(), call)
    assert isinstance(answer, Answer)
    assert answer.data == {"price": 3.5}
    assert json.loads(answer.text) == {"price": 3.5}
    assert heard == [Delta(answer.text)]


async def test_native_mode_passes_the_schema_on_and_checks_all_the_same() -> None:
    model = Model("not JSON", GOOD)
    answer = await Structured(model, native=True).run(question(), Call())
    assert isinstance(answer, Answer)
    assert answer.data == {"price": 3.5}
    assert model.asked[0].json_schema == PRICE
    assert words(model.asked[0]) == [("user", "How much?")]


async def test_without_native_mode_the_schema_is_put_into_words() -> None:
    model = Model(GOOD)
    await Structured(model, native=False).run(question(), Call())
    ((role, told),) = words(model.asked[0])
    assert role == "user"
    assert told.startswith("How much?")
    assert json.dumps(PRICE) in told
    assert model.asked[0].json_schema is None


async def test_a_conversation_without_prompt_is_told_of_the_schema_too() -> None:
    said = (
        Message(role="user", parts=(Picture(image=Source.of(png())), Words(text="How much?"))),
        Message(role="assistant", parts=(Words(text="Three"),)),
    )
    for messages, last in ((said[:1], "How much?"), (said, "")):
        model = Model(GOOD)
        await Structured(model, native=False).run(question(prompt="", messages=messages), Call())
        role, told = words(model.asked[0])[-1]
        assert role == "user"
        assert told.startswith(last)
        assert json.dumps(PRICE) in told


async def test_a_wrong_answer_is_asked_for_again_with_what_was_wrong_and_all_pictures() -> None:
    model = Model('{"price": "three"}', GOOD)
    asked = question(system="Be brief", image=Source.of(png()), images=(Source.of(png()),))
    answer = await Structured(model, native=True).run(asked, Call())
    assert [role for role, _ in words(model.asked[1])] == ["system", "user", "assistant", "user"]
    assert words(model.asked[1])[2][1] == '{"price": "three"}'
    assert "`price`: 'three' is not of type 'number'" in words(model.asked[1])[3][1]
    assert len(list(model.asked[1].sources())) == 2
    assert answer.meta.usage == Usage(input_tokens=200, output_tokens=20, cost=1.0)


async def test_after_three_attempts_it_is_a_failure_with_the_words_and_all_usage() -> None:
    call, heard = listening()
    model = Model("", "I would rather not.", '{"cost": 1}', GOOD)
    with pytest.raises(UnstructuredAnswer, match=r"asked 3 times.*'price' is a required property") as caught:
        await Structured(model, native=False).run(question(), call)
    assert caught.value.text == '{"cost": 1}'
    assert caught.value.as_dict()["text"] == '{"cost": 1}'
    assert caught.value.usage == Usage(input_tokens=300, output_tokens=30, cost=1.5)
    assert heard == []
    assert not call.heard
    assert words(model.asked[1])[1] == ("assistant", "(nothing)")


async def test_the_cost_of_all_is_not_known_where_that_of_one_is_not() -> None:
    answer = await Structured(Model("no", GOOD, cost=None), native=False).run(question(), Call())
    assert answer.meta.usage == Usage(input_tokens=200, output_tokens=20)


async def test_a_later_attempt_that_fails_tells_what_the_earlier_ones_took() -> None:
    with pytest.raises(ProviderFailed) as caught:
        await Structured(Model("no", ProviderFailed("gone")), native=False).run(question(), Call())
    assert caught.value.usage.input_tokens == 100


@pytest.mark.parametrize("ending", ["length", "content_filter"])
async def test_what_was_cut_off_is_not_mended(ending: Ending) -> None:
    said = ['{"price": 3.5, "items": ["a", "b'] * 3
    with pytest.raises(UnstructuredAnswer, match="cut off"):
        await Structured(Model(*said, ending=ending), native=False).run(question(), Call())


async def test_what_the_filter_cut_off_is_not_asked_for_again() -> None:
    model = Model("no", GOOD, ending="content_filter")
    with pytest.raises(UnstructuredAnswer):
        await Structured(model, native=False).run(question(), Call())
    assert len(model.asked) == 1


async def test_a_hostile_schema_never_reaches_the_model() -> None:
    model = Model(GOOD)
    with pytest.raises(InvalidRequest):
        await Structured(model, native=True).run(question(json_schema={"$ref": "http://x/"}), Call())
    assert not model.asked


async def test_all_else_passes_unchanged_and_is_heard_as_it_comes() -> None:
    call, heard = listening()
    talker = Talker()
    await Structured(talker, native=False).run(Ask(text="a b"), call)
    model = Model("a cat")
    plain = question(json_schema=None)
    again, said = listening()
    answer = await Structured(model, native=False).run(plain, again)
    assert heard == [Delta("a"), Delta("b")]
    assert said == [Delta("a cat")]
    assert model.asked[0] is plain
    assert isinstance(answer, Answer)
    assert answer.data is None


@pytest.mark.parametrize(
    "said", ["[" * 100_000, '{"a":' * 100_000, "NaN", "1e999", "{" + "x" * LARGEST_MENDED, "9" * 5000]
)
def test_hostile_answers_end_in_a_refusal_or_in_json(said: str) -> None:
    try:
        json.dumps(read(said), allow_nan=False)
    except Unreadable as error:
        assert re.search("JSON", str(error))  # noqa: PT017 - either is right
