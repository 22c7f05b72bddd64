from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import pytest

from sensorium import telemetry as module
from sensorium.telemetry import MOST_FRESH, SECONDS, TELEMETRY, Telemetry, new_trace


def from_threads(work: Callable[[], None], count: int = 4) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_nothing_is_lost_when_many_threads_count_while_others_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FRESH", 2)  # so that they add up nearly always
    telemetry = Telemetry()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work() -> None:
        for number in range(3000):
            telemetry.requests["read", "ok"].add()
            telemetry.request_seconds["read"].observe(0.5)
            if number % 500 == 0:
                telemetry.snapshot()

    try:
        from_threads(work)
    finally:
        sys.setswitchinterval(interval)
    assert telemetry.requests["read", "ok"].value == 12_000
    assert telemetry.request_seconds["read"].count == 12_000
    assert telemetry.request_seconds["read"].numbers()[-1] == 6000.0


def test_what_is_put_aside_is_bounded() -> None:
    telemetry = Telemetry()
    seconds = telemetry.decode_seconds[()]
    for _ in range(10 * MOST_FRESH):
        seconds.observe(1.0)
    assert len(seconds._fresh) < MOST_FRESH


def test_counts_are_summed_by_any_of_their_labels() -> None:
    telemetry = Telemetry()
    telemetry.requests["read", "ok"].add()
    telemetry.requests["read", "overloaded"].add(2)
    telemetry.requests["classify", "overloaded"].add()
    assert telemetry.requests.sum(task="read") == 3
    assert telemetry.requests.sum(code="overloaded") == 3
    assert telemetry.requests.sum(code="failed") == 0


def test_a_time_counts_for_each_bound_that_it_does_not_pass() -> None:
    seconds = Telemetry().request_seconds["read"]
    for value in (0.001, 0.0011, 1000.0):
        seconds.observe(value)
    *counts, total = seconds.numbers()
    assert counts == [1, *[2] * (len(SECONDS) - 1), 3]
    assert total == pytest.approx(1000.0021)


def test_what_is_watched_is_read_when_somebody_looks_and_forgotten_with_its_owner() -> None:
    class Line:
        waiting = 3

    waiting = Telemetry().admission_waiting[()]
    one, other = Line(), Line()
    waiting.watch(one, lambda line: line.waiting)
    waiting.watch(other, lambda line: line.waiting)
    one.waiting = 4
    assert waiting.value == 7
    del one
    assert waiting.value == 3


def test_labels_without_end_end_in_one_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SERIES", 3)
    requests = Telemetry().requests
    for number in range(10):
        requests[f"task-{number}", "ok"].add()
    assert set(requests.numbers()) == {("task-0", "ok"), ("task-1", "ok"), ("task-2", "ok"), ("other", "other")}
    assert requests.sum() == 10


def test_a_label_too_few_is_told() -> None:
    with pytest.raises(TypeError, match="task"):
        Telemetry().requests["read"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_counts_from_nothing() -> None:
    TELEMETRY.cache_errors["fork"].add()
    with TELEMETRY.cache_errors["fork"]._lock:  # as if another thread of the parent were adding up
        child = os.fork()
        if not child:
            TELEMETRY.cache_errors["fork"].add(5)
            os._exit(int(TELEMETRY.cache_errors["fork"].value))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    assert TELEMETRY.cache_errors["fork"].value >= 1


def test_names_keep_prometheus_conventions() -> None:
    for name, family in Telemetry().families().items():
        assert name.startswith(("sensorium_", "process_")), name
        assert name.endswith("_total") == (family.kind == "counter"), name
        assert family.meaning.endswith("."), name
        assert family.kind != "histogram" or name.endswith(("_seconds", "_size", "_ratio")), name


def test_trace_ids_are_32_hex_digits_and_differ() -> None:
    ids = {new_trace() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(one) == 32 and int(one, 16) for one in ids)
