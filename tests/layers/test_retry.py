from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from sensorium.deadline import within
from sensorium.engine import Call, Card, Delta
from sensorium.errors import (
    CircuitOpen,
    DeadlineExceeded,
    InvalidRequest,
    MissingKey,
    ProviderDenied,
    ProviderFailed,
    ProviderLimited,
    ProviderRefused,
    SensoriumError,
    StreamBroken,
)
from sensorium.layers.retry import FAIR_SECONDS, FIRST_SECONDS, LONGEST_SECONDS, Retry
from sensorium.schemas.base import Request
from sensorium.stores.breakers import LEAST_CALLS, Breakers
from sensorium.telemetry import Telemetry
from tests.layers.stand_ins import Answer, Ask, listening
from tests.virtual_time import in_virtual_time

CARD = Card(name="far", kind="openai", tasks=("say",), licence="proprietary", remote=True)
ASK = Ask(text="x")

Act = SensoriumError | None | Callable[[Call], Awaitable[None]]


class Provider:
    """Does one act after another, and then answers; remembers when it was asked."""

    def __init__(self, *acts: Act) -> None:
        self.acts = list(acts)
        self.asked: list[float] = []

    async def run(self, request: Request, call: Call) -> Answer:
        self.asked.append(time.monotonic())
        act = self.acts.pop(0) if self.acts else None
        if isinstance(act, SensoriumError):
            raise act
        if act is not None:
            await act(call)
        return Answer(text="yes")

    @property
    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.asked, self.asked[1:], strict=False)]


def widest(low: float, high: float) -> float:
    return high


def tried(provider: Provider, *, seconds: float | None = None, call: Call | None = None, **how: Any) -> Any:
    """The outcome of one request, in virtual time: an answer, or the error."""

    async def main(clock: Callable[[], float]) -> Any:
        retry = Retry(provider, CARD, Breakers(clock), how.pop("telemetry", Telemetry()), **{"spread": widest, **how})
        asked = call or Call()
        asked.deadline = None if seconds is None else clock() + seconds
        try:
            return await retry.run(ASK, asked)
        except SensoriumError as error:
            return error

    return in_virtual_time(main)


def limited(after: float) -> ProviderLimited:
    return ProviderLimited("Too many", retry_after_seconds=after)


@pytest.mark.parametrize("failure", [ProviderFailed("503"), StreamBroken("cut"), limited(2)], ids=lambda one: one.code)
def test_what_may_pass_is_asked_again(failure: SensoriumError) -> None:
    provider, telemetry = Provider(failure, failure), Telemetry()
    assert tried(provider, telemetry=telemetry).text == "yes"
    assert len(provider.asked) == 3
    assert telemetry.provider_attempts[CARD.id, failure.code].value == 2
    assert telemetry.provider_attempts[CARD.id, "ok"].value == 1
    assert telemetry.provider_retries[CARD.id, failure.code].value == 2


@pytest.mark.parametrize("kind", [InvalidRequest, ProviderRefused, ProviderDenied, MissingKey])
def test_what_will_not_pass_is_asked_once(kind: type[SensoriumError]) -> None:
    provider = Provider(kind("no"), None)
    assert str(tried(provider)) == "no."
    assert len(provider.asked) == 1


def test_a_limit_that_waiting_does_not_lift_is_asked_once() -> None:
    spent = limited(1)
    spent.retryable = False  # type: ignore[misc] # as runtimes/http.py does for insufficient_quota
    provider = Provider(spent)
    assert tried(provider) is spent
    assert len(provider.asked) == 1


def test_pauses_double_up_to_a_bound() -> None:
    provider = Provider(*[ProviderFailed("503")] * 8)
    tried(provider, attempts=9)
    expected = [min(FIRST_SECONDS * 2**n, LONGEST_SECONDS) for n in range(8)]
    assert provider.pauses == pytest.approx(expected)


def test_pauses_are_spread_from_nothing_on_so_that_clients_do_not_come_together() -> None:
    asked: list[tuple[float, float]] = []

    def spread(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    provider = Provider(ProviderFailed("503"), ProviderFailed("503"))
    tried(provider, spread=spread)
    assert asked == [(0.0, FIRST_SECONDS), (0.0, 2 * FIRST_SECONDS)]
    assert provider.pauses == [0, 0]


def test_the_wait_is_what_the_latest_attempt_said_and_never_shorter() -> None:
    provider = Provider(limited(3), limited(40))
    tried(provider, seconds=60)
    assert provider.pauses == pytest.approx([3, 40])
    assert all(pause >= told for pause, told in zip(provider.pauses, (3, 40), strict=True))


def test_a_provider_that_failed_may_say_when_to_come_back_too() -> None:
    failed = ProviderFailed("503")
    failed.retry_after_seconds = 7.0
    provider = Provider(failed)
    tried(provider)
    assert provider.pauses == pytest.approx([7])


def test_a_wait_that_passes_the_deadline_is_given_up_at_once() -> None:
    provider = Provider(limited(10))
    error = tried(provider, seconds=9)
    assert isinstance(error, ProviderLimited)
    assert error.retry_after_seconds == 10
    assert len(provider.asked) == 1


def test_a_wait_beyond_the_models_share_of_the_time_is_given_up_at_once() -> None:
    async def main(clock: Callable[[], float]) -> int:
        provider = Provider(limited(10))
        retry = Retry(provider, CARD, Breakers(clock), Telemetry(), spread=widest)
        with pytest.raises(ProviderLimited):
            await retry.run(ASK, Call(deadline=clock() + 60, begin_by=clock() + 9))
        return len(provider.asked)

    assert in_virtual_time(main) == 1


def test_one_deadline_stands_over_all_attempts() -> None:
    async def hang(call: Call) -> None:
        await asyncio.sleep(50)
        raise ProviderFailed("504")

    async def main(clock: Callable[[], float]) -> float:
        start = clock()
        retry = Retry(Provider(hang, hang), CARD, Breakers(clock), Telemetry(), spread=widest)
        with pytest.raises(DeadlineExceeded):
            await within(60, retry.run(ASK, Call(deadline=start + 60)))
        return clock() - start

    assert in_virtual_time(main) == pytest.approx(60)


def test_once_a_word_was_heard_nothing_is_asked_again() -> None:
    async def talk_and_break(call: Call) -> None:
        await call.emit(Delta("half an"))
        raise StreamBroken("cut")

    call, heard = listening()
    provider = Provider(talk_and_break)
    assert isinstance(tried(provider, call=call), StreamBroken)
    assert len(provider.asked) == len(heard) == 1


def test_the_error_lists_what_each_attempt_said_and_keeps_its_kind() -> None:
    error = tried(Provider(ProviderFailed("502"), StreamBroken("cut", why="at 40"), limited(4)))
    assert type(error) is ProviderLimited
    assert error.retry_after_seconds == 4
    said = "Model far@1 did not answer: attempt 1: 502; attempt 2: cut: at 40; attempt 3: Too many"
    assert str(error).startswith(said)


def test_what_all_attempts_said_alike_is_told_once() -> None:
    error = tried(Provider(*[ProviderFailed("no connection")] * 3))
    assert str(error).startswith("Model far@1 did not answer: 3 attempts: no connection")


def test_an_unchanged_error_is_told_when_there_was_one_attempt() -> None:
    failure = ProviderFailed("503")
    assert tried(Provider(failure), attempts=1) is failure


def shared(*providers: Provider) -> tuple[list[Retry], Breakers]:
    breakers = Breakers()
    return [Retry(provider, CARD, breakers, Telemetry(), attempts=1) for provider in providers], breakers


async def failing(retry: Retry, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ProviderFailed):
            await retry.run(ASK, Call())


async def test_models_of_one_domain_share_a_breaker() -> None:
    sibling = Provider()
    (one, other), _ = shared(Provider(*[ProviderFailed("503")] * LEAST_CALLS), sibling)
    await failing(one, LEAST_CALLS)
    with pytest.raises(CircuitOpen):
        await other.run(ASK, Call())
    assert sibling.asked == []


async def test_attempts_end_when_the_breaker_opens_and_the_error_says_why() -> None:
    breakers = Breakers()
    provider = Provider(*[ProviderFailed("503")] * 100)
    await failing(Retry(provider, CARD, breakers, Telemetry(), attempts=1), LEAST_CALLS - 1)
    with pytest.raises(CircuitOpen, match=r"attempt 1: 503; attempt 2: The provider is left alone"):
        await Retry(provider, CARD, breakers, Telemetry(), spread=lambda low, high: 0).run(ASK, Call())
    assert len(provider.asked) == LEAST_CALLS


async def test_limits_and_wrong_requests_open_no_breaker() -> None:
    acts: list[Act] = [limited(1), ProviderRefused("no"), MissingKey("no key"), InvalidRequest("no")]
    (retry,), breakers = shared(Provider(*acts * LEAST_CALLS))
    for _ in range(4 * LEAST_CALLS):
        with pytest.raises(SensoriumError, match=r"no|many"):
            await retry.run(ASK, Call())
    assert [breaker.state for breaker in breakers._known.values()] == ["closed"]


@pytest.mark.parametrize(("leaves_after", "state"), [(5, "closed"), (10, "open")])
def test_silence_to_the_deadline_counts_as_failed_and_a_caller_who_leaves_before_does_not(
    leaves_after: float, state: str
) -> None:
    async def hang(call: Call) -> None:
        await asyncio.sleep(10**6)

    async def main(clock: Callable[[], float]) -> None:
        breakers = Breakers(clock)
        retry = Retry(Provider(*[hang] * LEAST_CALLS), CARD, breakers, Telemetry())
        calls = [asyncio.ensure_future(retry.run(ASK, Call(deadline=clock() + 10))) for _ in range(LEAST_CALLS)]
        await asyncio.sleep(leaves_after)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert [breaker.state for breaker in breakers._known.values()] == [state]

    in_virtual_time(main)


@pytest.mark.parametrize(
    ("seconds", "spoken", "state"),
    [(FAIR_SECONDS / 2, False, "closed"), (2 * FAIR_SECONDS, False, "open"), (2 * FAIR_SECONDS, True, "closed")],
    ids=["impatient", "silent for long", "in the middle of its words"],
)
def test_a_caller_without_patience_does_not_close_a_provider_for_others(
    seconds: float, spoken: bool, state: str
) -> None:
    async def talk(call: Call) -> None:
        if spoken:
            await call.emit(Delta("well"))
        await asyncio.sleep(10**6)

    async def main(clock: Callable[[], float]) -> None:
        breakers = Breakers(clock)
        retry = Retry(Provider(*[talk] * LEAST_CALLS), CARD, breakers, Telemetry())
        calls = [replace(listening()[0], deadline=clock() + seconds) for _ in range(LEAST_CALLS)]
        errors = await asyncio.gather(
            *[within(seconds, retry.run(ASK, call)) for call in calls], return_exceptions=True
        )
        assert [type(error) for error in errors] == [DeadlineExceeded] * LEAST_CALLS
        assert [breaker.state for breaker in breakers._known.values()] == [state]

    in_virtual_time(main)
