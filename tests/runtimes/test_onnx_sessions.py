"""A session serves many at once: each gets their own answer, and none waits for, or suffers from, another."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.errors import EngineFailed, InvalidModel, Overloaded, ServiceClosed
from sensorium.runtimes.onnx import GIVES_BACK_EVERY, Port, Session
from sensorium.telemetry import TELEMETRY
from tests.runtimes.graphs import lookup, total

STATM = Path("/proc/self/statm")


class Held:
    """A session's graph that runs only while it is let; remembers the batches that it ran."""

    def __init__(self, session: Session) -> None:
        self.inner: Any = session._session
        self.open, self.entered = threading.Event(), threading.Semaphore(0)
        self.batches: list[list[list[int]]] = []
        session._session = self

    def run(self, names: None, feed: Mapping[str, Any], options: Any) -> Any:
        self.batches.append(feed["place"].tolist())
        self.entered.release()
        assert self.open.wait(20)
        return self.inner.run(names, feed, options)


def place(*numbers: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    return {"place": np.array([numbers], np.int64)}


class Opened:
    """Makes sessions, and closes them after the test."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.held: list[Held] = []

    def __call__(self, model: bytes | None = None, **options: Any) -> Session:
        self.sessions.append(Session(model or lookup(), name="lookup@1", **options))
        return self.sessions[-1]

    def hold(self, **options: Any) -> tuple[Session, Held]:
        session = self(**options)
        self.held.append(Held(session))
        return session, self.held[-1]


@pytest.fixture
def opened() -> Iterator[Opened]:
    made = Opened()
    yield made
    for held in made.held:
        held.open.set()
    for session in made.sessions:
        session.close()


async def started(held: Held) -> None:
    """Wait until a runner is inside of the graph."""
    assert await asyncio.to_thread(held.entered.acquire, timeout=20)


async def submitted(*waiting: asyncio.Task[Any]) -> None:
    """Let tasks go as far as they can."""
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)


async def test_answers_are_those_of_the_bare_graph(opened: Opened) -> None:
    session = opened(threads=2)
    bare = onnxruntime.InferenceSession(lookup(), providers=["CPUExecutionProvider"])
    answers = await asyncio.gather(*(session.run(place(n % 10)) for n in range(200)))
    for number, answer in enumerate(answers):
        assert answer["value"].tobytes() == bare.run(None, place(number % 10))[0].tobytes()


async def test_ports_tell_names_shapes_and_types(opened: Opened) -> None:
    session = opened()
    assert session.inputs == (Port("place", ("n", "m"), "int64"),)
    assert session.outputs == (Port("value", ("n", "m"), "float32"),)


async def test_those_that_wait_share_a_run_if_their_shapes_are_equal(opened: Opened) -> None:
    session, held = opened.hold(max_batch=3)
    first = asyncio.create_task(session.run(place(0)))
    await started(held)
    others = [asyncio.create_task(session.run(place(*n))) for n in ((1,), (2, 2), (3,), (4,), (5,))]
    await submitted(first, *others)
    held.open.set()
    answers = await asyncio.gather(first, *others)
    assert held.batches == [[[0]], [[1], [3], [4]], [[2, 2]], [[5]]]
    wanted = [[0], [1], [2, 2], [3], [4], [5]]
    assert [(answer["value"] * 3).round().tolist() for answer in answers] == [[row] for row in wanted]


async def test_a_bad_request_spoils_no_other_of_its_batch(opened: Opened) -> None:
    session, held = opened.hold(max_batch=8)
    held.open.set()
    alone = [(await session.run(place(n)))["value"].tobytes() for n in (1, 2)]
    held.open.clear()
    held.entered = threading.Semaphore(0)
    first = asyncio.create_task(session.run(place(0)))
    await started(held)
    tasks = [asyncio.create_task(session.run(place(n))) for n in (1, 99, 2)]
    await submitted(first, *tasks)
    held.open.set()
    one, bad, two = await asyncio.gather(*tasks, return_exceptions=True)
    assert held.batches[-4:] == [[[1], [99], [2]], [[1]], [[99]], [[2]]]
    assert isinstance(one, dict)
    assert isinstance(two, dict)
    assert [one["value"].tobytes(), two["value"].tobytes()] == alone
    assert isinstance(bad, EngineFailed)
    assert "lookup@1" in str(bad)
    await first


async def test_an_answer_does_not_keep_its_whole_batch_in_memory(opened: Opened) -> None:
    session, held = opened.hold(max_batch=8)
    first = asyncio.create_task(session.run(place(0)))
    await started(held)
    tasks = [asyncio.create_task(session.run(place(n))) for n in (1, 2)]
    await submitted(*tasks)
    held.open.set()
    answers = await asyncio.gather(*tasks)
    assert [answer["value"].base for answer in answers] == [None, None]
    await first


async def test_a_graph_that_merges_its_batch_is_asked_one_by_one(opened: Opened) -> None:
    session = opened(total(), max_batch=4)
    rows = [np.full((1, 2), n, np.float32) for n in range(20)]
    answers = await asyncio.gather(*(session.run({"input": row}) for row in rows))
    assert [answer["sum"].tolist() for answer in answers] == [row.tolist() for row in rows]


async def test_nothing_waits_for_company_when_the_session_is_idle(opened: Opened) -> None:
    session = opened(max_batch=8, window_seconds=3600)
    async with asyncio.timeout(20):
        await session.run(place(1))


async def test_a_full_batch_does_not_wait_for_its_window(opened: Opened) -> None:
    session, held = opened.hold(max_batch=2, window_seconds=3600)
    held.open.set()
    async with asyncio.timeout(20):
        await session.run(place(0))
        await asyncio.gather(session.run(place(1)), session.run(place(2)))
    assert held.batches == [[[0]], [[1], [2]]]


async def test_a_request_waits_its_window_out_and_no_longer(opened: Opened) -> None:
    session, held = opened.hold(max_batch=3, window_seconds=1.0)
    held.open.set()
    async with asyncio.timeout(20):
        await session.run(place(0))
        await started(held)
        second = asyncio.create_task(session.run(place(1)))
        assert not await asyncio.to_thread(held.entered.acquire, timeout=0.1)
        await asyncio.gather(second, session.run(place(2)))
    assert held.batches == [[[0]], [[1], [2]]]


async def test_a_request_whose_waiter_has_gone_does_not_run(opened: Opened) -> None:
    session, held = opened.hold()
    first = asyncio.create_task(session.run(place(0)))
    await started(held)
    gone, stays = (asyncio.create_task(session.run(place(n))) for n in (1, 2))
    await submitted(gone, stays)
    gone.cancel()
    await asyncio.wait([gone])
    held.open.set()
    await asyncio.gather(first, stays)
    assert held.batches == [[[0]], [[2]]]


async def test_a_waiter_that_goes_while_its_request_runs_harms_nobody(opened: Opened) -> None:
    session, held = opened.hold()
    first = asyncio.create_task(session.run(place(0)))
    await started(held)
    first.cancel()
    await asyncio.wait([first])
    held.open.set()
    assert (await session.run(place(3)))["value"].item() == 1


async def test_a_full_queue_says_when_to_come_again(opened: Opened) -> None:
    session, held = opened.hold(queue=2)
    first = asyncio.create_task(session.run(place(0)))
    await started(held)
    waiting = [asyncio.create_task(session.run(place(n))) for n in (1, 2)]
    await submitted(*waiting)
    with pytest.raises(Overloaded) as refused:
        await session.run(place(3))
    assert refused.value.retry_after_seconds > 0
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    last = asyncio.create_task(session.run(place(4)))
    await submitted(last)
    held.open.set()
    await asyncio.gather(first, waiting[1], last)
    assert held.batches == [[[0]], [[2]], [[4]]]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"place": np.zeros((1, 1), np.float32)}, id="type"),
        pytest.param({"place": np.zeros(1, np.int64)}, id="rank"),
        pytest.param({"other": np.zeros((1, 1), np.int64)}, id="name"),
        pytest.param({}, id="nothing"),
    ],
)
async def test_inputs_that_do_not_fit_fail_alone(opened: Opened, wrong: dict[str, Any]) -> None:
    session = opened()
    with pytest.raises(EngineFailed, match="lookup@1"):
        await session.run(wrong)
    assert (await session.run(place(3)))["value"].item() == 1


async def test_closing_fails_what_waits_and_ends_what_runs(opened: Opened) -> None:
    session, held = opened.hold(threads=1)
    running = asyncio.create_task(session.run(place(3)))
    await started(held)
    waiting = asyncio.create_task(session.run(place(1)))
    await submitted(running, waiting)
    closing = asyncio.create_task(asyncio.to_thread(session.close))
    with pytest.raises(ServiceClosed):
        await waiting
    held.open.set()
    await closing
    assert (await running)["value"].item() == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lookup@1")]
    with pytest.raises(ServiceClosed):
        await session.run(place(1))
    session.close()


def test_several_loops_share_a_session(opened: Opened) -> None:
    session = opened(threads=2, max_batch=4)

    async def ask() -> list[float]:
        answers = await asyncio.gather(*(session.run(place(n % 10)) for n in range(50)))
        return [answer["value"].item() * 3 for answer in answers]

    found: list[list[float]] = []
    threads = [threading.Thread(target=lambda: found.append(asyncio.run(ask()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [pytest.approx([n % 10 for n in range(50)])] * 4


def test_a_loop_that_closes_while_it_waits_harms_no_other(opened: Opened) -> None:
    session, held = opened.hold()
    loop = asyncio.new_event_loop()

    async def leave_two() -> list[asyncio.Task[Any]]:
        tasks = [asyncio.create_task(session.run(place(n))) for n in (0, 1)]
        await started(held)
        return tasks

    tasks = loop.run_until_complete(leave_two())
    loop.close()
    held.open.set()
    answer = asyncio.run(session.run(place(3)))
    assert answer["value"].item() == 1
    assert held.batches == [[[0]], [[3]]]
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined] # their loop was closed under them, as is tested


async def test_runs_are_timed_by_model_and_their_batches_measured(opened: Opened) -> None:
    batches, runs = TELEMETRY.session_batch_size["lookup@1"], TELEMETRY.session_run_seconds["lookup@1"]
    before = batches.numbers(), runs.count
    session = opened()
    await session.run(place(1))
    await asyncio.to_thread(session.close)
    assert [new - old for new, old in zip(batches.numbers(), before[0], strict=True)] == [1] * len(before[0])
    assert runs.count == before[1] + 1


@pytest.mark.skipif(not STATM.exists(), reason="the system does not tell how much memory is in use")
@pytest.mark.parametrize("many_shapes", [True, False])
def test_what_a_large_input_took_is_given_back_where_inputs_come_in_many_sizes(
    opened: Opened, many_shapes: bool
) -> None:
    session = opened(total(), many_shapes=many_shapes)
    (name,) = [port.name for port in session.inputs]
    large, small = ({name: np.zeros((size, 2), np.float32)} for size in (8_000_000, 1))
    session.run_here(small)  # what the first run takes is always kept
    before = _resident_mib()
    session.run_here(large)
    kept = _resident_mib() - before
    assert kept > 50
    for _ in range(GIVES_BACK_EVERY):
        session.run_here(small)
    left = _resident_mib() - before
    assert left < 20 if many_shapes else left > 50


def _resident_mib() -> float:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_what_is_no_model_is_refused() -> None:
    for content in (b"", b"no model", lookup()[:-20]):
        with pytest.raises(InvalidModel, match="lookup@1 cannot be loaded"):
            Session(content, name="lookup@1")


async def test_a_run_in_the_callers_thread_gives_the_same_answer(opened: Opened) -> None:
    session = opened()
    (waited,) = (await session.run(place(1))).values()
    (at_once,) = session.run_here(place(1)).values()
    np.testing.assert_array_equal(at_once, waited)


def test_no_more_run_in_their_callers_threads_than_the_session_has_threads(opened: Opened) -> None:
    session, held = opened.hold(threads=2)
    callers = [threading.Thread(target=session.run_here, args=[place(number)]) for number in range(5)]
    for caller in callers:
        caller.start()
    assert held.entered.acquire(timeout=20)
    assert held.entered.acquire(timeout=20)
    assert not held.entered.acquire(timeout=0.1)
    held.open.set()
    for caller in callers:
        caller.join()
    assert sorted(held.batches) == [[[number]] for number in range(5)]


def test_a_run_in_the_callers_thread_fails_as_any_other(opened: Opened) -> None:
    session = opened()
    with pytest.raises(EngineFailed, match="lookup@1"):
        session.run_here({"place": np.array([[1.5]])})
    session.close()
    with pytest.raises(ServiceClosed):
        session.run_here(place(1))


def test_closing_waits_for_those_who_run_in_threads_of_their_own(opened: Opened) -> None:
    session, held = opened.hold(threads=2)
    answers: list[float] = []
    callers = [
        threading.Thread(target=lambda: answers.append(session.run_here(place(3))["value"].item())) for _ in range(2)
    ]
    for caller in callers:
        caller.start()
    for _ in callers:
        assert held.entered.acquire(timeout=20)
    closing = [threading.Thread(target=session.close) for _ in range(2)]
    for closer in closing:
        closer.start()
    closing[0].join(0.1)
    assert all(closer.is_alive() for closer in closing)
    held.open.set()
    for thread in (*closing, *callers):
        thread.join(20)
    assert answers == [1, 1]
    with pytest.raises(ServiceClosed):
        session.run_here(place(1))


@settings(max_examples=30)
@given(numbers=st.lists(st.integers(0, 14), min_size=2, max_size=12))
def test_bad_requests_leave_the_answers_of_their_batches_as_they_were(numbers: list[int]) -> None:
    """Places of the table of ten are good, those above are not."""
    good = [number for number in numbers if number < 10]
    mixed, batches = asyncio.run(gathered(numbers))
    assert any(len(batch) > 1 for batch in batches)
    assert [answer for answer in mixed if not isinstance(answer, EngineFailed)] == asyncio.run(gathered(good))[0]
    assert [isinstance(answer, EngineFailed) for answer in mixed] == [number >= 10 for number in numbers]


async def gathered(numbers: list[int]) -> tuple[list[bytes | EngineFailed], list[list[list[int]]]]:
    """The bytes of each answer, or its error, of requests that share batches; and the batches."""
    session = Session(lookup(), name="lookup@1", max_batch=4)
    held = Held(session)
    try:
        waiting = [asyncio.create_task(session.run(place(number))) for number in [0, *numbers]]
        await started(held)  # with the first; all others wait, and so are gathered
        held.open.set()
        _, *answers = await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        held.open.set()
        await asyncio.to_thread(session.close)
    told = [one if isinstance(one, EngineFailed) else one["value"].tobytes() for one in answers]  # type: ignore[index]
    return told, held.batches
