from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sensorium.engine import Call, Card, Delta
from sensorium.errors import (
    ContextTooLong,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    ProviderFailed,
    RateLimited,
    SensoriumError,
    Unavailable,
)
from sensorium.layers import stack
from sensorium.layers.fallback import Fallback
from sensorium.layers.retry import Retry
from sensorium.schemas.base import Request
from sensorium.stores.breakers import Breakers
from sensorium.telemetry import Telemetry
from tests.layers.stand_ins import Answer, Ask, Talker, listening
from tests.virtual_time import in_virtual_time


async def test_the_next_model_answers_and_the_answer_says_so() -> None:
    broken = Talker(before=EngineFailed("Model a broke", why="no disk"))
    result = await Fallback([("a@1", broken), ("b@1", Talker())]).run(Ask(text="x y"), Call())
    assert [(one.engine, one.code) for one in result.meta.skipped] == [("a@1", "engine_failed")]
    assert "no disk" in result.meta.skipped[0].message


async def test_half_an_answer_is_never_told_twice() -> None:
    call, heard = listening()
    second = Talker()
    with pytest.raises(EngineFailed):
        await Fallback([("a@1", Talker(after=EngineFailed("cut"))), ("b@1", second)]).run(Ask(text="x y"), call)
    assert len(heard) == 2
    assert second.calls == 0


async def test_what_nobody_listened_to_is_no_half_of_an_answer() -> None:
    torn = Talker(after=EngineFailed("cut"))
    result = await Fallback([("a@1", torn), ("b@1", Talker())]).run(Ask(text="x y"), Call())
    assert [one.engine for one in result.meta.skipped] == ["a@1"]


async def test_a_wrong_request_does_not_fall_through() -> None:
    second = Talker()
    with pytest.raises(InvalidRequest):
        await Fallback([("a@1", Talker(before=InvalidRequest("no"))), ("b@1", second)]).run(Ask(text="x"), Call())
    assert second.calls == 0


async def test_when_all_fail_the_error_lists_all() -> None:
    models = [(f"{name}@1", Talker(before=EngineFailed(f"{name} broke"))) for name in "ab"]
    with pytest.raises(Unavailable, match=r"a@1: a broke; b@1: b broke"):
        await Fallback(models).run(Ask(text="x"), Call())


async def test_a_single_model_fails_as_itself() -> None:
    with pytest.raises(EngineFailed):
        await stack.for_task([("a@1", Talker(before=EngineFailed("a broke")))]).run(Ask(text="x"), Call())


async def test_when_all_are_too_busy_the_caller_hears_when_the_first_has_time() -> None:
    def busy(kind: type[Overloaded], seconds: float) -> Talker:
        return Talker(before=kind("busy", retry_after_seconds=seconds))

    for kinds, kind in (
        ((RateLimited, RateLimited), RateLimited),
        ((RateLimited, Overloaded), Overloaded),
    ):
        with pytest.raises(Overloaded, match="a@1: busy; b@1: busy") as raised:
            await Fallback([("a@1", busy(kinds[0], 9)), ("b@1", busy(kinds[1], 3))]).run(Ask(text="x"), Call())
        assert (type(raised.value), raised.value.retry_after_seconds) == (kind, 3)
    with pytest.raises(Unavailable) as other:
        await Fallback([("a@1", busy(Overloaded, 9)), ("b@1", Talker(before=EngineFailed("broke")))]).run(
            Ask(text="x"), Call()
        )
    assert type(other.value) is Unavailable


async def test_a_question_too_long_for_one_model_is_asked_of_the_next() -> None:
    long = ContextTooLong("too long")
    result = await Fallback([("a@1", Talker(before=long)), ("b@1", Talker())]).run(Ask(text="x"), Call())
    assert [one.code for one in result.meta.skipped] == ["context_too_long"]
    with pytest.raises(ContextTooLong, match=r"a@1: too long; b@1: too long"):
        await Fallback([("a@1", Talker(before=long)), ("b@1", Talker(before=long))]).run(Ask(text="x"), Call())


class Slow:
    """Takes so many seconds before each of its words."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = seconds
        self.patience: float | None = None

    async def run(self, request: Request, call: Call) -> Answer:
        self.patience = call.patience()
        for pause in self.seconds:
            await asyncio.sleep(pause)
            await call.emit(Delta("word"))
        return Answer(text="slow")


def timed(models: list[Any], call: Call, *, seconds: float | None = 60.0) -> tuple[Any, float]:
    """The outcome of one request, and when it was there, in seconds of virtual time."""

    async def main(clock: Callable[[], float]) -> tuple[Any, float]:
        start = clock()
        call.deadline = None if seconds is None else start + seconds
        named = [(f"{name}@1", model) for name, model in zip("abc", models, strict=False)]
        try:
            return await Fallback(named).run(Ask(text="x"), call), clock() - start
        except SensoriumError as error:
            return error, clock() - start

    return in_virtual_time(main)


def test_while_others_can_be_asked_a_model_has_its_share_of_the_time_to_begin() -> None:
    models = [Slow(1000), Slow(1000), Slow(5)]
    result, took = timed(models, Call())
    assert [one.code for one in result.meta.skipped] == ["deadline_exceeded"] * 2
    assert "a@1 did not answer: nothing came within 20 s, its share of the time" in result.meta.skipped[0].message
    assert took == pytest.approx(45, abs=1)
    assert [model.patience for model in models] == pytest.approx([20, 20, 20], abs=0.5)


def test_what_a_model_leaves_of_its_time_is_the_others() -> None:
    second = Slow(1)
    timed([Talker(before=EngineFailed("broken")), second, Talker()], Call())
    assert second.patience == pytest.approx(30)


def test_a_model_that_has_begun_has_all_the_time_there_is() -> None:
    call, heard = listening()
    result, took = timed([Slow(29, 29), Talker()], call)
    assert (result.text, len(heard)) == ("slow", 2)
    assert took == pytest.approx(58)


def test_where_nobody_listens_an_answer_begins_with_its_end() -> None:
    result, took = timed([Slow(29, 29), Slow(1)], Call())
    assert [one.engine for one in result.meta.skipped] == ["a@1"]
    assert took == pytest.approx(31, abs=1)


def test_without_a_deadline_there_is_no_share() -> None:
    result, took = timed([Slow(1000), Talker()], Call(), seconds=None)
    assert result.meta.skipped == ()
    assert took == pytest.approx(1000)


def test_the_share_of_a_part_is_within_that_of_the_whole() -> None:
    inner = Fallback([("inner@1", Slow(1000)), ("last@1", (last := Slow(1000)))])
    result, _ = timed([inner, Slow(1)], Call())
    assert [one.engine for one in result.meta.skipped] == ["a@1"]
    assert last.patience == pytest.approx(15, abs=0.3)


def test_a_provider_that_was_down_for_a_minute_is_used_again_within_half_a_minute() -> None:
    """Failover Bench's S15 as it stands there: twenty requests, one each four seconds."""

    async def main(clock: Callable[[], float]) -> tuple[list[float], list[bool]]:
        start, asked, by_second = clock(), [], []

        class Flapping:
            async def run(self, request: Request, call: Call) -> Answer:
                asked.append(clock() - start)
                if clock() - start < 60:
                    raise ProviderFailed("503")
                return Answer(text="first")

        card = Card(name="far", kind="openai", tasks=("say",), licence="x")
        retry = Retry(Flapping(), card, Breakers(clock), Telemetry())
        fallback = Fallback([("a@1", retry), ("b@1", Talker())])
        for number in range(20):
            await asyncio.sleep(start + 4 * number - clock())
            result = await fallback.run(Ask(text="x"), Call(deadline=clock() + 30))
            by_second.append(bool(result.meta.skipped))
        return asked, by_second

    asked, by_second = in_virtual_time(main)
    assert by_second[:15] == [True] * 15
    assert not by_second[-1]
    assert 60 < next(moment for moment in asked if moment >= 60) <= 80
    assert sum(20 < moment < 60 for moment in asked) <= 3, "once it is known to be down, only single requests try it"
