from __future__ import annotations

import asyncio
import time

import pytest

from sensorium.engine import Call, Engine
from sensorium.errors import EngineFailed, Overloaded
from sensorium.layers import stack
from sensorium.layers.admission import Admission
from sensorium.layers.metrics import Metrics
from sensorium.schemas.base import Request, Result
from sensorium.telemetry import Telemetry
from tests.layers.stand_ins import Ask, Talker, until

Held = tuple[Talker, Admission, Engine[Request, Result], Telemetry]


@pytest.fixture
def held() -> Held:
    """One place at work, one in line; whoever works is held until the gate opens."""
    talker, telemetry = Talker(), Telemetry()
    talker.gate = asyncio.Event()
    door = Admission(talker, running=1, waiting=1, telemetry=telemetry)
    return talker, door, stack.for_call(door, telemetry), telemetry


def codes(telemetry: Telemetry) -> dict[str, float]:
    return {code: told[0] for (_, code), told in telemetry.requests.numbers().items()}


@pytest.mark.parametrize(("failure", "code"), [(EngineFailed("broke"), "engine_failed"), (KeyError("odd"), "failed")])
async def test_failures_are_counted_by_their_code(failure: Exception, code: str) -> None:
    telemetry = Telemetry()
    with pytest.raises(type(failure)):
        await Metrics(Talker(before=failure), telemetry).run(Ask(text="a"), Call())
    assert codes(telemetry) == {code: 1}
    assert telemetry.request_seconds["say"].count == 1


async def test_who_is_sent_away_is_counted_too(held: Held) -> None:
    talker, _, calls, telemetry = held
    tasks = [asyncio.create_task(calls.run(Ask(text="a"), Call())) for _ in range(2)]
    await until(lambda: talker.calls)
    with pytest.raises(Overloaded):
        await calls.run(Ask(text="a"), Call())
    assert talker.gate
    talker.gate.set()
    await asyncio.gather(*tasks)
    assert codes(telemetry) == {"ok": 2, "overloaded": 1}


async def test_who_leaves_is_told_from_whose_time_is_over(held: Held) -> None:
    *_, calls, telemetry = held
    for deadline in (None, time.monotonic() + 60, time.monotonic()):
        task = asyncio.create_task(calls.run(Ask(text="a"), Call(deadline=deadline)))
        await until(lambda: telemetry.requests_in_progress[()].value)
        task.cancel()
        await asyncio.wait([task])
    assert codes(telemetry) == {"cancelled": 2, "deadline_exceeded": 1}


async def test_places_and_the_line_are_told_while_they_are_taken(held: Held) -> None:
    talker, _, calls, telemetry = held
    tasks = [asyncio.create_task(calls.run(Ask(text="a"), Call())) for _ in range(2)]
    await until(lambda: talker.calls)
    now = telemetry.requests_in_progress[()], telemetry.admission_waiting[()]
    assert [gauge.value for gauge in now] == [1, 1]
    assert talker.gate
    talker.gate.set()
    await asyncio.gather(*tasks)
    assert [gauge.value for gauge in now] == [0, 0]
    counts = telemetry.admission_wait_seconds[()].numbers()
    assert counts[-2] == 2
    assert counts[-1] > 0
