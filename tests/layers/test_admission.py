from __future__ import annotations

import asyncio

import pytest

from sensorium.engine import LOCAL, Call, Caller, Options
from sensorium.errors import EngineFailed, Forbidden, Overloaded, RateLimited
from sensorium.layers.admission import Admission
from sensorium.schemas.base import Request
from tests.layers.stand_ins import Answer, Ask, Talker, until


class Gated:
    """Runs until it is let go; remembers who ran, in order."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.gates: list[asyncio.Event] = []

    async def run(self, request: Request, call: Call) -> Answer:
        assert isinstance(request, Ask)
        self.order.append(request.text)
        self.gates.append(gate := asyncio.Event())
        await gate.wait()
        return Answer(text=request.text)


def ask(admission: Admission, text: str, caller: str = "local", priority: int = 0) -> asyncio.Task[object]:
    call = Call(caller=Caller(caller), options=Options(priority=priority))
    return asyncio.create_task(admission.run(Ask(text=text), call))


async def drain(engine: Gated, tasks: list[asyncio.Task[object]]) -> None:
    while not all(task.done() for task in tasks):
        for gate in engine.gates:
            gate.set()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)


async def test_no_more_run_than_may_and_the_rest_wait() -> None:
    engine = Gated()
    admission = Admission(engine, running=2, waiting=10)
    tasks = [ask(admission, str(n)) for n in range(5)]
    await asyncio.sleep(0.01)
    assert engine.order == ["0", "1"]
    await drain(engine, tasks)
    assert engine.order == ["0", "1", "2", "3", "4"]


async def test_a_full_line_refuses_at_once_and_says_when_to_come_back() -> None:
    engine = Gated()
    admission = Admission(engine, running=1, waiting=1)
    tasks = [ask(admission, str(n)) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await admission.run(Ask(text="late"), Call())
    assert refused.value.retry_after_seconds > 0
    await drain(engine, tasks)


async def test_one_caller_of_many_requests_delays_another_by_one() -> None:
    engine = Gated()
    admission = Admission(engine, running=1, waiting=20)
    tasks = [ask(admission, f"many {n}", "many") for n in range(5)]
    await asyncio.sleep(0)
    tasks.append(ask(admission, "one", "one"))
    await asyncio.sleep(0)
    await drain(engine, tasks)
    assert engine.order.index("one") == 2


async def test_a_higher_priority_goes_first_among_a_callers_own() -> None:
    engine = Gated()
    admission = Admission(engine, running=1, waiting=20)
    tasks = [ask(admission, "running"), ask(admission, "low"), ask(admission, "high", priority=1)]
    await asyncio.sleep(0)
    await drain(engine, tasks)
    assert engine.order == ["running", "high", "low"]


async def test_one_who_leaves_the_line_takes_no_place_and_leaves_nothing_behind() -> None:
    engine = Gated()
    admission = Admission(engine, running=1, waiting=2)
    first = ask(admission, "first")
    await asyncio.sleep(0)
    for _ in range(50):  # more than may wait: each must free its place
        leaving = ask(admission, "leaving", "a guest")
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
    last = ask(admission, "last")
    await asyncio.sleep(0)
    await drain(engine, [first, last])
    assert engine.order == ["first", "last"]
    assert not admission._here._lines


async def test_a_place_called_for_one_who_just_left_goes_to_the_next() -> None:
    engine = Gated()
    admission = Admission(engine, running=1, waiting=5)
    first, leaving, third = (ask(admission, text) for text in ("first", "leaving", "third"))
    await until(lambda: engine.gates)
    engine.gates[0].set()
    await until(first.done)  # `leaving` has been called, but has not moved yet
    assert engine.order == ["first"]
    leaving.cancel()
    await until(lambda: len(engine.gates) == 2)
    engine.gates[1].set()
    await third
    assert engine.order == ["first", "third"]


async def test_a_failure_gives_its_place_back() -> None:
    admission = Admission(Talker(before=EngineFailed("broke")), running=1, waiting=0)
    for _ in range(3):
        with pytest.raises(EngineFailed):
            await admission.run(Ask(text="x"), Call())


async def test_a_caller_without_the_tasks_scope_is_refused_by_naming_it() -> None:
    engine = Talker()
    admission = Admission(engine, running=1, waiting=0)
    for scopes in ({"read"}, set(), {"admin"}, {"metrics"}):
        with pytest.raises(Forbidden, match="`say` is missing") as refused:
            await admission.run(Ask(text="x"), Call(caller=Caller("shop", frozenset(scopes))))
        assert refused.value.scope == "say"
    assert engine.calls == 0
    for scopes in ({"say"}, {"*"}, {"read", "say"}):
        await admission.run(Ask(text="x"), Call(caller=Caller("shop", frozenset(scopes))))


async def test_every_task_does_not_mean_operating() -> None:
    assert not Caller("shop", frozenset("*")).may("admin")
    assert LOCAL.may("admin")
    Caller("ops", frozenset({"admin"})).require("metrics", "admin")
    with pytest.raises(Forbidden, match="`metrics` or `admin`"):
        Caller("shop", frozenset("*")).require("metrics", "admin")


async def test_a_used_up_rate_is_refused_before_the_line_and_says_when_to_come_back() -> None:
    admission = Admission(Talker(), running=1, waiting=0)
    call = Call(caller=Caller("shop", requests_per_minute=2))
    for _ in range(2):
        await admission.run(Ask(text="x"), call)
    with pytest.raises(RateLimited, match="2 a minute") as refused:
        await admission.run(Ask(text="x"), call)
    assert refused.value.retry_after_seconds == pytest.approx(30, abs=10)
    with pytest.raises(Forbidden):  # scope comes first: it costs nothing
        await admission.run(Ask(text="x"), Call(caller=Caller("other", frozenset(), 1)))
    await admission.run(Ask(text="x"), Call(caller=Caller("other", None, 1)))


async def test_who_waits_for_another_machine_takes_no_place_of_those_who_compute() -> None:
    engine = Gated()
    admission = Admission(
        engine, running=1, waiting=1, elsewhere=2, is_elsewhere=lambda request: "far" in vars(request)["text"]
    )
    tasks = [ask(admission, text) for text in ("far 1", "near 1", "far 2", "far 3", "near 2")]
    await asyncio.sleep(0.01)
    assert engine.order == ["far 1", "near 1", "far 2"]
    for text in ("far 4", "near 3"):
        with pytest.raises(Overloaded):
            await admission.run(Ask(text=text), Call())
    with pytest.raises(Overloaded):
        admission.refuse_when_full()
    await drain(engine, tasks)
    assert sorted(engine.order) == ["far 1", "far 2", "far 3", "near 1", "near 2"]
    admission.refuse_when_full()
