from __future__ import annotations

import asyncio
import threading
import time
from typing import ClassVar

import pytest

from sensorium.engine import Call, Caller, Delta, Engine, Event, Item, Options, Progress, ignore
from sensorium.errors import DeadlineExceeded, EngineFailed, ReaderStalled, TooExpensive
from sensorium.layers.cache import Cache
from sensorium.schemas.base import Request, Result
from sensorium.stores.memory import MemoryStore
from sensorium.telemetry import Telemetry
from tests.layers.stand_ins import Answer, Ask, Talker, listening, until


def cached(engine: Engine[Request, Result]) -> Cache:
    return Cache(engine, MemoryStore(), "talker@1", 60, Telemetry())


async def test_an_equal_request_is_answered_without_the_engine_and_as_the_same_stream() -> None:
    talker = Talker()
    cache = cached(talker)
    first, second = listening(), listening()
    one = await cache.run(Ask(text="a b"), first[0])
    two = await cache.run(Ask(text="a b"), second[0])
    assert talker.calls == 1
    assert one.model_dump(exclude={"meta"}) == two.model_dump(exclude={"meta"})
    assert (one.meta.cached, two.meta.cached) == (False, True)
    assert first[1] == second[1] == [Delta("a"), Delta("b")]


async def test_another_question_another_caller_and_no_cache_each_ask_again() -> None:
    talker = Talker()
    cache = cached(talker)
    await cache.run(Ask(text="a"), Call())
    await cache.run(Ask(text="b"), Call())
    await cache.run(Ask(text="a"), Call(caller=Caller("another")))
    await cache.run(Ask(text="a"), Call(options=Options(cache=False)))
    assert talker.calls == 4


async def test_the_model_named_in_the_request_makes_no_difference() -> None:
    talker = Talker()
    cache = cached(talker)
    await cache.run(Ask(text="a"), Call())
    assert (await cache.run(Ask(text="a", model="talker"), Call())).meta.cached
    assert talker.calls == 1


class Broken(MemoryStore):
    """A store whose file is damaged."""

    async def get(self, key: str) -> bytes | None:
        raise OSError("the disk is gone")

    async def put(self, key: str, value: bytes, seconds: float) -> None:
        raise OSError("the disk is gone")


class Garbled(MemoryStore):
    async def get(self, key: str) -> bytes | None:
        return b"[not an answer"


@pytest.mark.parametrize("store", [Broken(), Garbled()], ids=["broken", "garbled"])
async def test_without_a_working_store_answers_are_worked_out(store: MemoryStore) -> None:
    telemetry = Telemetry()
    cache = Cache(Talker(), store, "talker@1", 60, telemetry)
    assert await cache.run(Ask(text="a"), Call()) == Answer(text="a")
    assert telemetry.cache_errors["say"].value >= 1


async def test_failures_are_not_remembered() -> None:
    talker = Talker(after=EngineFailed("broke"), times=1)
    cache = cached(talker)
    with pytest.raises(EngineFailed):
        await cache.run(Ask(text="a"), Call())
    assert await cache.run(Ask(text="a"), Call()) == Answer(text="a")


async def test_a_hundred_equal_requests_at_once_are_one_and_all_hear_everything() -> None:
    talker = Talker()
    talker.gate = asyncio.Event()
    cache = cached(talker)
    listeners = [listening() for _ in range(100)]
    tasks = [asyncio.create_task(cache.run(Ask(text="a b c"), call)) for call, _ in listeners]
    await until(lambda: talker.calls)
    talker.gate.set()
    answers = await asyncio.gather(*tasks)
    assert talker.calls == 1
    assert all(answer == answers[0] for answer in answers)
    assert all(heard == [Delta("a"), Delta("b"), Delta("c")] for _, heard in listeners)


async def test_a_shared_failure_reaches_all_who_wait() -> None:
    talker = Talker(after=EngineFailed("broke"))
    cache = cached(talker)
    outcomes = await asyncio.gather(*(cache.run(Ask(text="a"), Call()) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [EngineFailed] * 3
    assert talker.calls == 1


async def test_who_may_spend_more_does_not_share_what_was_too_dear_for_another() -> None:
    class Dear(Talker):
        async def run(self, request: Request, call: Call) -> Answer:
            answer = await super().run(request, call)
            if call.options.max_cost is not None:
                raise TooExpensive("Asking talker is too expensive")
            return answer

    talker = Dear()
    talker.gate = asyncio.Event()
    cache = cached(talker)
    calls = Call(options=Options(max_cost=0.01)), Call(), Call()
    tasks = [asyncio.create_task(cache.run(Ask(text="a"), call)) for call in calls]
    await until(lambda: talker.calls == 2)
    talker.gate.set()
    poor, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(poor, TooExpensive)
    assert others == [Answer(text="a")] * 2
    assert talker.calls == 2


async def test_the_first_may_leave_while_others_wait_and_the_last_ends_the_work() -> None:
    talker = Talker()
    talker.gate = asyncio.Event()
    cache = cached(talker)
    first, second = (asyncio.create_task(cache.run(Ask(text="a"), Call())) for _ in range(2))
    await until(lambda: talker.calls)
    first.cancel()
    await asyncio.wait([first])
    assert not talker.cancelled
    second.cancel()
    await asyncio.wait([second])
    await until(lambda: talker.cancelled)


async def test_one_who_comes_just_after_the_last_left_gets_a_fresh_start() -> None:
    talker = Talker()
    talker.gate = asyncio.Event()
    cache = cached(talker)
    first = asyncio.create_task(cache.run(Ask(text="a"), Call()))
    await until(lambda: talker.calls)
    first.cancel()
    talker.gate.set()
    second = asyncio.create_task(cache.run(Ask(text="a"), Call()))
    await asyncio.wait([first])
    assert await second == Answer(text="a")


async def test_a_waiter_who_stalls_is_dropped_alone() -> None:
    async def stall(event: Event) -> None:
        raise ReaderStalled("stopped reading")

    talker = Talker()
    talker.gate = asyncio.Event()
    cache = cached(talker)
    slow = asyncio.create_task(cache.run(Ask(text="a b"), Call(listener=stall)))
    well = asyncio.create_task(cache.run(Ask(text="a b"), Call()))
    await until(lambda: slow.done())
    talker.gate.set()
    assert await well == Answer(text="a b")
    with pytest.raises(ReaderStalled):
        await slow


async def test_shared_work_goes_by_the_latest_deadline_of_those_who_wait() -> None:
    seen: list[tuple[float | None, float | None]] = []

    class Looking:
        async def run(self, request: Request, call: Call) -> Answer:
            await asyncio.sleep(0)
            seen.append((call.deadline, call.begin_by))
            return Answer(text="")

    cache, now = cached(Looking()), time.monotonic()
    calls = [Call(deadline=now + seconds, begin_by=now + seconds / 2) for seconds in (50, 90, 70)]
    await asyncio.gather(*(cache.run(Ask(text="a"), call) for call in calls))
    calls[0].begin_by = None
    await asyncio.gather(*(cache.run(Ask(text="b"), call) for call in calls))
    assert seen == [(now + 90, now + 45), (now + 90, None)]


async def test_a_thread_hears_that_nobody_waits_any_more() -> None:
    begun, heard, patience = threading.Event(), threading.Event(), time.monotonic() + 10

    def work(call: Call) -> Answer:
        begun.set()
        try:
            while call.remaining() is None and time.monotonic() < patience:
                time.sleep(0.001)
        except DeadlineExceeded:
            heard.set()
        return Answer(text="")

    class Busy:
        async def run(self, request: Request, call: Call) -> Answer:
            return await asyncio.to_thread(work, call)

    asking = asyncio.create_task(cached(Busy()).run(Ask(text="a"), Call()))
    await asyncio.to_thread(begun.wait)
    asking.cancel()
    assert await asyncio.to_thread(heard.wait, 10)


async def test_progress_is_passed_on_but_not_remembered() -> None:
    class Working:
        async def run(self, request: Request, call: Call) -> Answer:
            await call.emit(Progress(1, 2))
            await call.emit(Item(0, {"part": "one"}))
            return Answer(text="")

    cache = cached(Working())
    first, second = listening(), listening()
    await cache.run(Ask(text="a"), first[0])
    await cache.run(Ask(text="a"), second[0])
    assert sorted(map(type, first[1]), key=str) == sorted([Progress, Item], key=str)
    assert second[1] == [Item(0, {"part": "one"})]
    assert first[0].heard


class Stopped(Answer):
    """An answer that was cut off."""

    @property
    def whole(self) -> bool:
        return False


async def test_an_answer_that_was_cut_off_is_not_remembered() -> None:
    class CutOff(Talker):
        async def run(self, request: Request, call: Call) -> Answer:
            return Stopped(text=(await super().run(request, call)).text)

    talker = CutOff()
    cache = cached(talker)
    for _ in range(2):
        assert not (await cache.run(Ask(text="a"), Call())).meta.cached
    assert talker.calls == 2


class Spoken(Answer):
    """An answer in words."""

    @property
    def words(self) -> str:
        return self.text


class SpokenAsk(Ask):
    answer: ClassVar[type[Result]] = Spoken


class Quiet:
    """Answers without a word on the way, as models do whose caller does not listen."""

    def __init__(self) -> None:
        self.listened: list[bool] = []
        self.go = asyncio.Event()
        self.go.set()

    async def run(self, request: Request, call: Call) -> Spoken:
        assert isinstance(request, SpokenAsk)
        self.listened.append(call.listener is not ignore)
        await self.go.wait()
        return Spoken(text=request.text)


async def test_an_answer_that_was_asked_for_whole_is_told_as_a_stream_to_who_wants_one() -> None:
    quiet, (call, heard) = Quiet(), listening()
    cache = cached(quiet)
    await cache.run(SpokenAsk(text="a b"), Call())
    assert (await cache.run(SpokenAsk(text="a b"), call)).meta.cached
    assert heard == [Delta("a b")]
    assert quiet.listened == [False], "without a listener the model need not stream"


async def test_who_joins_a_plain_request_with_a_listener_hears_the_answer_too() -> None:
    quiet, (call, heard) = Quiet(), listening()
    quiet.go.clear()
    cache = cached(quiet)
    plain = asyncio.create_task(cache.run(SpokenAsk(text="a b"), Call()))
    await until(lambda: quiet.listened)
    streamed = asyncio.create_task(cache.run(SpokenAsk(text="a b"), call))
    await asyncio.sleep(0)
    quiet.go.set()
    assert await streamed == await plain
    assert heard == [Delta("a b")]
    assert len(quiet.listened) == 1


async def test_who_does_not_listen_has_heard_nothing_and_so_may_fall_back() -> None:
    talker = Talker(after=EngineFailed("cut"))
    talker.gate = asyncio.Event()
    cache = cached(talker)
    (stream, _), plain = listening(), Call()
    both = [asyncio.create_task(cache.run(Ask(text="a b"), call)) for call in (stream, plain)]
    await until(lambda: talker.calls)
    talker.gate.set()
    await asyncio.wait(both)
    assert (stream.heard, plain.heard) == (True, False)


async def test_names_that_look_like_parts_of_keys_do_not_lead_to_anothers_answers() -> None:
    store, talker = MemoryStore(), Talker()
    await Cache(talker, store, "a/b", 60, Telemetry()).run(Ask(text="x"), Call(caller=Caller("c")))
    await Cache(talker, store, "a", 60, Telemetry()).run(Ask(text="x"), Call(caller=Caller("b/c")))
    assert talker.calls == 2
