from __future__ import annotations

import pytest

from sensorium.errors import CircuitOpen
from sensorium.stores.breakers import (
    FIRST_COOL_DOWN,
    LEAST_CALLS,
    LONGEST_COOL_DOWN,
    RECENT_SECONDS,
    Breaker,
    Breakers,
)
from sensorium.telemetry import TELEMETRY
from tests.stores.test_stores import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("shop", clock)


def called(breaker: Breaker, *outcomes: bool | None) -> None:
    for failed in outcomes:
        breaker.leave(breaker.enter(), failed)


def opened(breaker: Breaker) -> Breaker:
    called(breaker, *[True] * LEAST_CALLS)
    return breaker


def test_it_opens_when_half_of_enough_calls_failed_and_not_before(breaker: Breaker) -> None:
    called(breaker, *[True, False] * (LEAST_CALLS // 2 - 1), False)
    assert breaker.state == "closed"
    called(breaker, True)
    assert breaker.state == "open"
    with pytest.raises(CircuitOpen, match="shop failed again and again") as told:
        breaker.enter()
    assert told.value.as_dict()["retry_after_seconds"] == FIRST_COOL_DOWN


def test_fewer_failures_than_half_do_no_harm(breaker: Breaker) -> None:
    called(breaker, *[False, False, True] * 100)
    assert breaker.state == "closed"


def test_failures_long_past_do_not_count(breaker: Breaker, clock: Clock) -> None:
    called(breaker, *[True] * (LEAST_CALLS - 1))
    clock.now += RECENT_SECONDS + 1
    called(breaker, True)
    assert breaker.state == "closed"


def test_what_says_nothing_of_the_provider_does_not_count(breaker: Breaker) -> None:
    called(breaker, *[None] * 100, *[True] * (LEAST_CALLS - 1))
    assert breaker.state == "closed"


def test_after_the_cool_down_one_call_tries_for_all(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += FIRST_COOL_DOWN
    assert breaker.state == "half_open"
    trial = breaker.enter()
    with pytest.raises(CircuitOpen):
        breaker.enter()
    breaker.leave(trial, failed=False)
    assert breaker.state == "closed"
    called(breaker, *[True] * (LEAST_CALLS - 1))
    assert breaker.state == "closed"


def test_a_trial_that_says_nothing_leaves_it_to_the_next(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += FIRST_COOL_DOWN
    called(breaker, None)
    assert breaker.state == "half_open"
    called(breaker, False)
    assert breaker.state == "closed"


def test_each_trial_that_fails_doubles_the_cool_down_up_to_a_bound(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    cool_downs = []
    for _ in range(8):
        with pytest.raises(CircuitOpen) as told:
            breaker.enter()
        cool_downs.append(told.value.retry_after_seconds)
        clock.now += told.value.retry_after_seconds
        called(breaker, True)
    assert cool_downs == [5, 10, *[LONGEST_COOL_DOWN] * 6]


def test_calls_that_began_before_it_opened_change_nothing(breaker: Breaker, clock: Clock) -> None:
    early = [breaker.enter() for _ in range(3)]
    opened(breaker)
    breaker.leave(early[0], failed=False)
    assert breaker.state == "open"
    clock.now += FIRST_COOL_DOWN
    trial = breaker.enter()
    breaker.leave(early[1], failed=True)
    breaker.leave(trial, failed=False)
    breaker.leave(early[2], failed=True)
    assert breaker.state == "closed"


def test_late_failures_do_not_make_the_cool_down_longer(breaker: Breaker, clock: Clock) -> None:
    early = [breaker.enter() for _ in range(LEAST_CALLS)]
    opened(breaker)
    clock.now += FIRST_COOL_DOWN - 1
    for call in early:
        breaker.leave(call, failed=True)
    clock.now += 1
    assert breaker.state == "half_open"


def test_a_domain_has_one_breaker_whose_state_is_told(clock: Clock) -> None:
    breakers = Breakers(clock)
    one = breakers.of("told")
    assert breakers.of("told") is one
    assert breakers.of("another") is not one
    before = TELEMETRY.circuit_openings["told"].value
    assert TELEMETRY.circuit_state["told"].value == 0
    opened(one)
    assert TELEMETRY.circuit_state["told"].value == 2
    assert TELEMETRY.circuit_openings["told"].value == before + 1
