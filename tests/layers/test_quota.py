from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sensorium.engine import Call, Card, Delta
from sensorium.errors import MissingKey, ProviderFailed, ProviderLimited, SensoriumError
from sensorium.layers.quota import Quota
from sensorium.schemas.ask import Answer, AskRequest
from sensorium.schemas.base import Meta, Request, Usage
from sensorium.stores.quota import Limiter, Limits, MemoryLedger
from sensorium.tariff import Tariff
from sensorium.telemetry import Telemetry
from tests.layers.stand_ins import Ask, Talker, listening
from tests.virtual_time import in_virtual_time

CARD = Card(name="gpt-4o", kind="openai", tasks=("ask",), licence="proprietary", remote=True)
ASK = AskRequest(prompt="What is this?", max_tokens=100)
BILLED = Usage(input_tokens=10, output_tokens=20, cached_tokens=4, cost=0.25)
"""Of ASK's expected tokens, less than a third."""


class Provider:
    """Fails as told, or answers with the usage."""

    def __init__(self, usage: Usage | None = BILLED, error: SensoriumError | None = None) -> None:
        self.usage, self.error = usage, error
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0

    async def run(self, request: Request, call: Call) -> Answer:
        self.asked += 1
        await self.gate.wait()
        if self.error:
            raise self.error
        return Answer(text="yes", meta=Meta(usage=self.usage))


class House:
    """A quota before a provider, and what is left of its limits."""

    def __init__(self, provider: Any, clock: Callable[[], float], **limits: int) -> None:
        self.telemetry = Telemetry()
        self.limiter = Limiter(MemoryLedger(clock), clock)
        self.quota = Quota(provider, CARD, self.limiter, self.telemetry, Limits(**limits))

    async def ask(self, call: Call | None = None, request: Request = ASK) -> Any:
        try:
            return await self.quota.run(request, call or Call())
        except SensoriumError as error:
            return error

    async def has(self, tokens: int) -> bool:
        """Whether so many tokens, a request and a place are left now. Takes them."""
        await asyncio.gather(*self.limiter._settling)
        try:
            await self.limiter.reserve(self.quota._domain, self.quota._limits, tokens, patience=0.01)
        except ProviderLimited:
            return False
        return True


def housed(provider: Any, scene: Callable[[House, Callable[[], float]], Any], **limits: int) -> Any:
    async def main(clock: Callable[[], float]) -> Any:
        return await scene(House(provider, clock, **limits), clock)

    return in_virtual_time(main)


def test_an_answer_counts_as_billed_and_not_as_expected() -> None:
    async def scene(house: House, clock: Callable[[], float]) -> None:
        assert (await house.ask()).text == "yes"
        assert not await house.has(971)
        assert await house.has(970)

    housed(Provider(), scene, tokens_per_minute=1000)


def test_while_it_is_asked_what_is_expected_is_held_back_with_a_place() -> None:
    async def scene(house: House, clock: Callable[[], float]) -> None:
        provider.gate.clear()
        asking = asyncio.create_task(house.ask())
        await asyncio.sleep(0.001)
        assert not await house.has(901)
        provider.gate.set()
        await asking
        assert await house.has(901)

    provider = Provider()
    housed(provider, scene, tokens_per_minute=1000)


def test_an_answer_without_usage_counts_as_expected() -> None:
    async def scene(house: House, clock: Callable[[], float]) -> None:
        most = await Tariff(CARD).most(ASK)
        assert most is not None
        expected = most.input_tokens + most.output_tokens
        await house.ask()
        assert not await house.has(1001 - expected)
        assert await house.has(1000 - expected)

    housed(Provider(usage=None), scene, tokens_per_minute=1000)


def test_a_failure_gives_tokens_and_place_back_but_the_request_was_sent() -> None:
    async def scene(house: House, clock: Callable[[], float]) -> None:
        assert isinstance(await house.ask(), ProviderFailed)
        assert await house.has(1000)
        assert not await house.has(0)

    housed(Provider(error=ProviderFailed("503")), scene, tokens_per_minute=1000, requests_per_minute=2, concurrent=2)


def test_what_was_never_sent_counts_as_nothing() -> None:
    async def scene(house: House, clock: Callable[[], float]) -> None:
        assert isinstance(await house.ask(), MissingKey)
        assert await house.has(1000)

    housed(Provider(error=MissingKey("EXAMPLE_KEY is not set")), scene, tokens_per_minute=1000, requests_per_minute=1)


def test_a_caller_who_leaves_gives_the_place_back_and_the_provider_was_at_work() -> None:
    async def scene(house: House, clock: Callable[[], float]) -> None:
        provider.gate.clear()
        asking = asyncio.create_task(house.quota.run(ASK, Call()))
        await asyncio.sleep(1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not await house.has(901)
        assert await house.has(800)

    provider = Provider()
    housed(provider, scene, tokens_per_minute=1000, concurrent=1)


def test_an_answer_that_broke_off_counts_as_expected() -> None:
    class Broken(Provider):
        async def run(self, request: Request, call: Call) -> Answer:
            await call.emit(Delta("half an"))
            raise ProviderFailed("cut")

    async def scene(house: House, clock: Callable[[], float]) -> None:
        await house.ask(listening()[0])
        assert not await house.has(901)

    housed(Broken(), scene, tokens_per_minute=1000)


def test_a_provider_that_says_429_is_left_alone_by_all_of_its_domain() -> None:
    async def scene(house: House, clock: Callable[[], float]) -> None:
        start = clock()
        assert isinstance(await house.ask(), ProviderLimited)
        sibling = Quota(Provider(), CARD.model_copy(update={"name": "gpt-4o-mini"}), house.limiter, house.telemetry)
        with pytest.raises(ProviderLimited):
            await sibling.run(ASK, Call(deadline=clock() + 5))
        assert house.telemetry.quota_refusals.numbers() == {
            (house.quota._domain, "theirs"): [1],
            (house.quota._domain, "ours"): [1],
        }
        await sibling.run(ASK, Call(deadline=clock() + 60))
        assert 20 <= clock() - start < 21

    housed(Provider(error=ProviderLimited("429", retry_after_seconds=20)), scene)


def test_an_allowance_that_is_spent_closes_nothing_since_waiting_would_not_help() -> None:
    spent = ProviderLimited("No money left", retry_after_seconds=1000)
    spent.retryable = False  # type: ignore[misc] # as runtimes/http.py does for insufficient_quota

    async def scene(house: House, clock: Callable[[], float]) -> None:
        await house.ask()
        assert await house.has(1)

    housed(Provider(error=spent), scene)


def test_who_would_wait_too_long_hears_so_before_the_deadline_and_nothing_is_sent() -> None:
    async def scene(house: House, clock: Callable[[], float]) -> None:
        await house.ask()
        start = clock()
        error = await house.ask(Call(deadline=clock() + 30))
        assert isinstance(error, ProviderLimited)
        assert clock() == start
        assert error.retry_after_seconds > 59
        provider.gate.clear()

    provider = Provider()
    housed(provider, scene, requests_per_minute=1)
    assert provider.asked == 1


def test_a_deadline_is_kept_while_waiting_for_a_place() -> None:
    async def scene(house: House, clock: Callable[[], float]) -> None:
        provider.gate.clear()
        asking = asyncio.create_task(house.ask())
        await asyncio.sleep(0)
        start = clock()
        assert isinstance(await house.ask(Call(deadline=clock() + 10)), ProviderLimited)
        assert 9.8 < clock() - start < 10
        provider.gate.set()
        await asking
        assert house.telemetry.quota_wait_seconds[house.quota._domain].count == 2

    provider = Provider()
    housed(provider, scene, concurrent=1)


def test_how_good_the_estimate_was_is_told() -> None:
    async def scene(house: House, clock: Callable[[], float]) -> None:
        await house.ask()
        most = await Tariff(CARD).most(ASK)
        assert most is not None
        assert house.telemetry.provider_estimate[CARD.id].numbers()[-1] == pytest.approx(most.input_tokens / 10)

    housed(Provider(), scene)


def test_an_estimate_is_not_compared_with_an_estimate() -> None:
    async def scene(house: House, clock: Callable[[], float]) -> None:
        await house.ask()
        assert house.telemetry.provider_estimate[CARD.id].count == 0

    housed(Provider(usage=BILLED.altered(estimated=True)), scene)


async def test_other_tasks_take_a_request_and_no_tokens() -> None:
    house = House(Talker(), asyncio.get_running_loop().time, tokens_per_minute=1, requests_per_minute=1)
    assert (await house.ask(request=Ask(text="x"))).text == "x"
    assert not await house.has(0)
