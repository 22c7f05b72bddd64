from __future__ import annotations

import threading

import pytest

from sensorium.telemetry import SECONDS, Telemetry, new_trace


def test_counts_add_up_by_any_of_their_labels_and_from_any_thread() -> None:
    telemetry = Telemetry()

    def count() -> None:
        for _ in range(1000):
            telemetry.count("requests", task="read", code="ok")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    telemetry.count("requests", task="read", code="overloaded", by=2)
    assert telemetry.counted("requests", task="read") == 4002
    assert telemetry.counted("requests", code="overloaded") == 2
    assert telemetry.counted("other") == 0


def test_times_fall_into_the_bucket_whose_bound_they_do_not_pass() -> None:
    telemetry = Telemetry()
    for seconds in (0.001, 0.0011, 1000.0):
        telemetry.observe("seconds", seconds)
    (histogram,) = telemetry.timings.values()
    assert (histogram.buckets[0], histogram.buckets[1], histogram.buckets[len(SECONDS)]) == (1, 1, 1)
    assert histogram.count == 3


def test_a_block_that_fails_is_timed_too() -> None:
    telemetry = Telemetry()
    with pytest.raises(ZeroDivisionError), telemetry.timed("seconds"):
        _ = 1 / 0
    assert next(iter(telemetry.timings.values())).count == 1


def test_trace_ids_are_32_hex_digits_and_differ() -> None:
    ids = {new_trace() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(one) == 32 and int(one, 16) for one in ids)
