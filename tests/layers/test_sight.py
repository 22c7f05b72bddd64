"""Models without vision are shown no picture."""

from __future__ import annotations

from typing import Any

import pytest

from sensorium.engine import Call, Card
from sensorium.errors import ProviderFailed, Unavailable, Unseeing
from sensorium.layers import stack
from sensorium.layers.fallback import Fallback
from sensorium.layers.loaded import Loaded
from sensorium.layers.sight import Sight
from sensorium.media.source import Source
from sensorium.schemas.ask import Answer, AskRequest, Message, Picture, Words
from sensorium.schemas.base import Request
from sensorium.telemetry import Telemetry
from tests.pictures import png

BLIND = Card(name="blind", kind="fake", tasks=("ask",), licence="none", vision=False)
SHOWN = AskRequest(image=Source.held(png()), prompt="What is this?")
TALK = (Message(role="user", parts=(Picture(image=Source.held(png())), Words(text="What?"))),)


class Model:
    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[Request] = []
        self._error = error

    async def run(self, request: Request, call: Call) -> Answer:
        self.asked.append(request)
        if self._error:
            raise self._error
        return Answer(text="yes")


@pytest.mark.parametrize(
    ("request_", "shown"),
    [
        (SHOWN, "a picture"),
        (AskRequest(images=(Source.held(png()), Source.held(png())), prompt="?"), "2 pictures"),
        (AskRequest(messages=TALK), "a picture"),
    ],
)
async def test_a_question_with_pictures_is_refused_and_never_asked(request_: AskRequest, shown: str) -> None:
    inner = Model()
    with pytest.raises(Unseeing, match=f"blind@1 was not asked.*shown {shown}"):
        await Sight(inner, BLIND).run(request_, Call())
    assert inner.asked == []


async def test_words_alone_are_asked() -> None:
    assert (await Sight(Model(), BLIND).run(AskRequest(prompt="Hello?"), Call())) == Answer(text="yes")


async def test_it_is_passed_over_for_one_that_sees_and_the_answer_says_so() -> None:
    inner = Model()
    answer: Any = await Fallback([("blind@1", Sight(inner, BLIND)), ("seeing@1", Model())]).run(SHOWN, Call())
    assert inner.asked == []
    assert [(one.engine, one.code) for one in answer.meta.skipped] == [("blind@1", "unseeing")]


async def test_where_none_sees_that_is_what_callers_hear() -> None:
    blind = ("blind@1", Sight(Model(), BLIND))
    with pytest.raises(Unseeing, match="No model could answer"):
        await Fallback([blind, blind]).run(SHOWN, Call())
    with pytest.raises(Unavailable) as raised:
        await Fallback([blind, ("down@1", Model(ProviderFailed("503")))]).run(SHOWN, Call())
    assert type(raised.value) is Unavailable


async def test_every_model_whose_card_says_so_is_behind_it() -> None:
    engine = stack.for_model(Loaded(lambda: Model(), BLIND), "", None, 60, Telemetry())  # type: ignore[arg-type,return-value]
    with pytest.raises(Unseeing):
        await engine.run(SHOWN, Call())
