from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from sensorium.runtimes.lending import Lending


def test_each_thing_is_used_by_one_at_a_time_and_lent_again() -> None:
    things = Lending(make := _counting())
    both_at_work = Barrier(2)

    def work(thing: list[int]) -> int:
        both_at_work.wait(10)
        return id(thing)

    with ThreadPoolExecutor(2) as threads:
        first = set(threads.map(lambda _: things.use(work), range(2)))
        second = set(threads.map(lambda _: things.use(work), range(2)))
    assert len(first) == 2
    assert first == second
    assert make.times == 2  # type: ignore[attr-defined]


def test_one_that_cannot_be_made_is_known_at_once() -> None:
    with pytest.raises(ZeroDivisionError):
        Lending(lambda: 1 // 0)


def test_what_the_work_failed_with_is_not_lent_again() -> None:
    things = Lending(make := _counting())
    with pytest.raises(ZeroDivisionError):
        things.use(lambda _: 1 // 0)
    things.use(len)
    assert make.times == 2  # type: ignore[attr-defined]


def _counting() -> Callable[[], list[int]]:
    def make() -> list[int]:
        make.times += 1  # type: ignore[attr-defined]
        return []

    make.times = 0  # type: ignore[attr-defined]
    return make
