from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sensorium.engine import Budget, Call, Caller, Card, Engine, Options
from sensorium.errors import BudgetSpent, EngineFailed, Forbidden, TooExpensive, Unavailable
from sensorium.layers.cache import Cache
from sensorium.layers.fallback import Fallback
from sensorium.layers.metering import ModelMetering, RequestMetering
from sensorium.schemas.base import Meta, Request, Result, Usage
from sensorium.schemas.describe_pixels import DescribePixelsRequest
from sensorium.stores.memory import MemoryStore
from sensorium.stores.usage import Amounts, UsageBook
from sensorium.tariff import Tariff
from sensorium.telemetry import Telemetry
from tests.layers.stand_ins import Answer, Ask, Talker, listening, until
from tests.pictures import png

CARD = Card(name="talker", kind="fake", tasks=("say",), licence="MIT")


class Rate(Tariff):
    """A token a word of the question, 100 for the answer, and a cent for ten; or no price."""

    def __init__(self) -> None:
        super().__init__(CARD)
        self.priced = True
        self.asked = 0

    async def most(self, request: Request) -> Usage | None:
        self.asked += 1
        if not isinstance(request, Ask):
            return None
        usage = Usage(input_tokens=len(request.text.split()), output_tokens=100, estimated=True)
        return usage.altered(cost=self.cost(usage))

    def cost(self, usage: Usage) -> float | None:
        return (usage.input_tokens + usage.output_tokens) / 1000 if self.priced else None


class Model(Talker):
    """Takes as many tokens as there are words, and says so."""

    async def run(self, request: Request, call: Call) -> Answer:
        answer = await super().run(request, call)
        count = len(answer.text.split())
        usage = Usage(input_tokens=count, output_tokens=count, cached_tokens=1)
        return answer.stamped(engine="talker@1", seconds=2.0, loading_seconds=0.5, usage=usage)


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[UsageBook]:
    made = UsageBook(tmp_path / "usage.sqlite", telemetry=Telemetry())
    yield made
    await made.close()


def metered(inner: Engine[Request, Result], book: UsageBook | None, tariff: Any = None) -> ModelMetering:
    return ModelMetering(inner, CARD, tariff or Rate(), book, Telemetry())


def by(caller: str = "shop", budget: Budget | None = None, **more: Any) -> Call:
    return Call(caller=Caller(caller, budget=budget), **more)


async def used(book: UsageBook, key: str = "shop") -> Amounts:
    lines = {line.name: line.amounts for line in await book.lines("key")}
    return lines.get(key, Amounts())


async def test_an_answers_tokens_and_cost_are_written_down_and_told(book: UsageBook) -> None:
    telemetry = Telemetry()
    metering = ModelMetering(Model(), CARD, Rate(), book, telemetry)
    answer = await metering.run(Ask(text="a b c"), by())
    assert answer.meta.usage == Usage(input_tokens=3, output_tokens=3, cached_tokens=1, cost=0.006)
    assert await used(book) == Amounts(seconds=1.5, input_tokens=3, output_tokens=3, cost=0.006)
    assert [line.name for line in await book.lines("model")] == ["talker@1"]
    numbers = {direction: telemetry.tokens["talker@1", direction].value for direction in ("input", "output", "cached")}
    assert numbers == {"input": 3, "output": 3, "cached": 1}
    assert telemetry.cost["talker@1"].value == pytest.approx(0.006)


async def test_work_on_pictures_without_tokens_is_written_down_too(book: UsageBook) -> None:
    class Looking:
        async def run(self, request: Request, call: Call) -> Result:
            return Result(meta=Meta(engine="lite@1", seconds=0.25))

    await metered(Looking(), book).run(DescribePixelsRequest(image=png()), by())
    assert await used(book) == Amounts(pictures=1, seconds=0.25)


async def test_an_answer_without_a_known_price_is_counted_as_such(book: UsageBook) -> None:
    telemetry, tariff = Telemetry(), Rate()
    tariff.priced = False
    await ModelMetering(Model(), CARD, tariff, book, telemetry).run(Ask(text="a"), by())
    assert (await used(book)).unpriced == 1
    assert telemetry.unpriced_answers["talker@1"].value == 1


async def test_remembered_and_shared_answers_are_paid_for_once(book: UsageBook) -> None:
    model = Model()
    model.gate = asyncio.Event()
    cache = Cache(metered(model, book), MemoryStore(), "talker@1", 60, Telemetry())
    both = [asyncio.create_task(cache.run(Ask(text="a b"), by())) for _ in range(2)]
    await until(lambda: model.calls)
    model.gate.set()
    await asyncio.gather(*both)
    remembered = await cache.run(Ask(text="a b"), by())
    assert remembered.meta.cached
    assert (await used(book)).input_tokens == 2


async def test_nothing_is_estimated_for_who_has_no_limit(book: UsageBook) -> None:
    tariff = Rate()
    await metered(Model(), book, tariff).run(Ask(text="a"), by())
    assert tariff.asked == 0


async def test_a_burst_of_questions_is_held_to_the_budget_by_what_they_may_take(book: UsageBook) -> None:
    model = Model()
    model.gate = asyncio.Event()
    metering, budget = metered(model, book), Budget("day", tokens=505)
    burst = [asyncio.create_task(metering.run(Ask(text="a"), by(budget=budget))) for _ in range(20)]
    await asyncio.wait(burst, return_when=asyncio.FIRST_EXCEPTION)
    assert model.calls == 5
    model.gate.set()
    outcomes = await asyncio.gather(*burst, return_exceptions=True)
    assert sum(isinstance(outcome, BudgetSpent) for outcome in outcomes) == 15
    taken = await used(book)
    assert (taken.seconds, taken.input_tokens, taken.output_tokens) == (7.5, 5, 5)
    await metering.run(Ask(text="a"), by(budget=budget))


async def test_requests_that_take_no_tokens_are_answered_with_a_spent_budget(book: UsageBook) -> None:
    class Looking:
        async def run(self, request: Request, call: Call) -> Result:
            return Result()

    book.note("shop", "talker@1", "say", Amounts(input_tokens=100))
    call = by(budget=Budget("day", tokens=100))
    await metered(Looking(), book).run(DescribePixelsRequest(image=png()), call)
    with pytest.raises(BudgetSpent):
        await metered(Model(), book).run(Ask(text="a"), call)


async def test_a_failure_gives_its_room_back_and_costs_nothing(book: UsageBook) -> None:
    metering, budget = metered(Model(before=EngineFailed("broke"), times=1), book), Budget("day", tokens=101)
    with pytest.raises(EngineFailed):
        await metering.run(Ask(text="a"), by(budget=budget))
    assert await used(book) == Amounts()
    await metering.run(Ask(text="a"), by(budget=budget))


@pytest.mark.parametrize("budget", [Budget("day", tokens=1000), None], ids=["with a budget", "without"])
async def test_an_answer_that_breaks_off_or_is_left_is_charged_by_what_was_said(
    book: UsageBook, budget: Budget | None
) -> None:
    call, _ = listening()
    call.caller = Caller("shop", budget=budget)
    with pytest.raises(EngineFailed):
        await metered(Model(after=EngineFailed("broke")), book).run(Ask(text="three words here"), call)
    assert (await used(book))[4:6] == (3, 5), "three words asked, fourteen characters told"
    model = Model()
    model.gate = asyncio.Event()
    leaving = asyncio.create_task(metered(model, book).run(Ask(text="a b"), by("left", budget)))
    await until(lambda: model.calls)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert (await used(book, "left"))[4:6] == (2, 1)


async def test_an_answer_that_would_cost_too_much_is_not_asked_for(book: UsageBook) -> None:
    model = Model()
    with pytest.raises(TooExpensive, match=r"may cost 0\.101 US dollars, and `max_cost` allows 0\.1"):
        await metered(model, None).run(Ask(text="a"), Call(options=Options(max_cost=0.1)))
    assert not model.calls
    await metered(model, None).run(Ask(text="a"), Call(options=Options(max_cost=0.2)))


async def test_with_limited_money_a_model_without_a_price_is_not_asked(book: UsageBook) -> None:
    tariff = Rate()
    tariff.priced = False
    for call in (by(budget=Budget("day", usd=1.0)), Call(options=Options(max_cost=1.0))):
        with pytest.raises(TooExpensive, match="Set its price in `prices`"):
            await metered(Model(), book, tariff).run(Ask(text="a"), call)
    await metered(Model(), book, tariff).run(Ask(text="a"), by(budget=Budget("day", tokens=1000)))


async def test_what_is_larger_than_the_whole_budget_is_refused_for_good(book: UsageBook) -> None:
    models = [("a@1", metered(Model(), book)), ("b@1", metered(Model(), book))]
    for engine in (models[0][1], Fallback(models)):
        with pytest.raises(BudgetSpent, match=r"may take 101, and only 100 tokens a day are allowed") as raised:
            await engine.run(Ask(text="a"), by(budget=Budget("day", tokens=100)))
        assert not raised.value.retryable
        assert "retry_after_seconds" not in raised.value.as_dict()
    book.note("shop", "talker@1", "say", Amounts(input_tokens=50))
    with pytest.raises(BudgetSpent) as passing:
        await models[0][1].run(Ask(text="a"), by(budget=Budget("day", tokens=101)))
    assert passing.value.retryable


async def test_where_one_model_has_room_later_the_caller_hears_to_wait(book: UsageBook) -> None:
    class Little(Rate):
        async def most(self, request: Request) -> Usage | None:
            return Usage(input_tokens=10)

    book.note("shop", "talker@1", "say", Amounts(input_tokens=95))
    models = [("a@1", metered(Model(), book)), ("b@1", metered(Model(), book, Little()))]
    with pytest.raises(BudgetSpent) as raised:
        await Fallback(models).run(Ask(text="a"), by(budget=Budget("day", tokens=100)))
    assert raised.value.retryable
    assert raised.value.retry_after_seconds > 1


async def test_with_a_spent_budget_the_next_model_may_be_one_that_costs_nothing(book: UsageBook) -> None:
    class Free(Rate):
        async def most(self, request: Request) -> Usage | None:
            return None

    models = [("dear@1", metered(Model(), book)), ("free@1", metered(Model(), book, Free()))]
    answer = await Fallback(models).run(Ask(text="a"), by(budget=Budget("day", tokens=1)))
    assert [one.code for one in answer.meta.skipped] == ["budget_spent"]


async def test_when_no_model_has_room_in_the_budget_the_caller_hears_when_to_come_back(book: UsageBook) -> None:
    book.note("shop", "talker@1", "say", Amounts(input_tokens=100))
    models = [("a@1", metered(Model(), book)), ("b@1", metered(Model(), book))]
    with pytest.raises(BudgetSpent, match=r"a@1.*b@1") as raised:
        await Fallback(models).run(Ask(text="a"), by(budget=Budget("day", tokens=150)))
    assert raised.value.retry_after_seconds > 0


async def test_each_request_counts_once_with_the_model_that_answered_and_failures_as_errors(book: UsageBook) -> None:
    class Refusing:
        async def run(self, request: Request, call: Call) -> Result:
            raise Forbidden("no")

    await RequestMetering(Model(), book).run(Ask(text="a"), by())
    with pytest.raises(Forbidden):
        await RequestMetering(Refusing(), book).run(Ask(text="a", model="made up"), by())
    assert {line.name: line.amounts for line in await book.lines("model")} == {
        "talker@1": Amounts(requests=1),
        "": Amounts(requests=1, errors=1),
    }


async def test_without_the_file_those_without_a_budget_are_served(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    book = UsageBook(tmp_path / "taken" / "usage.sqlite", telemetry=Telemetry())
    await metered(Model(), book).run(Ask(text="a"), by())
    with pytest.raises(Unavailable):
        await metered(Model(), book).run(Ask(text="a"), by(budget=Budget("day", tokens=1000)))
    await book.close()
