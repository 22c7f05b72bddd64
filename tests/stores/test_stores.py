"""Every store keeps the same promises."""

from __future__ import annotations

import asyncio
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sensorium.errors import InvalidConfiguration
from sensorium.stores import Store
from sensorium.stores.memory import MemoryStore
from sensorium.stores.sqlite import SWEEP_EVERY, SqliteStore


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    made: Store = (
        MemoryStore(clock=clock) if request.param == "memory" else SqliteStore(tmp_path / "s.sqlite", clock=clock)
    )
    yield made
    await made.close()


async def test_a_value_is_remembered_and_forgotten_when_its_time_is_over(store: Store, clock: Clock) -> None:
    await store.put("key", b"value", 10)
    assert await store.get("key") == b"value"
    clock.now += 11
    assert await store.get("key") is None


async def test_a_new_value_takes_the_place_of_the_old(store: Store) -> None:
    await store.put("key", b"old", 10)
    await store.put("key", b"new", 10)
    assert await store.get("key") == b"new"


async def test_a_deleted_value_is_gone_and_deleting_twice_is_fine(store: Store) -> None:
    await store.put("key", b"value", 10)
    await store.delete("key")
    await store.delete("key")
    assert await store.get("key") is None


async def test_many_at_once_do_not_mix(store: Store) -> None:
    await asyncio.gather(*(store.put(str(n), bytes([n]), 10) for n in range(50)))
    assert await asyncio.gather(*(store.get(str(n)) for n in range(50))) == [bytes([n]) for n in range(50)]


async def test_memory_is_bounded_and_what_was_used_last_stays() -> None:
    store = MemoryStore(max_bytes=30)
    for key in "abc":
        await store.put(key, b"123456789", 10)
    await store.get("a")
    await store.put("d", b"123456789", 10)
    assert [await store.get(key) is not None for key in "abcd"] == [True, False, True, True]
    await store.put("huge", b"x" * 31, 10)
    assert await store.get("huge") is None
    assert await store.get("d") is not None


async def test_a_file_outlives_the_process_and_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.sqlite"
    first = SqliteStore(path)
    await first.put("key", b"value", 100)
    await first.close()
    second = SqliteStore(path)
    assert await second.get("key") == b"value"
    await second.close()
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_file_keeps_no_more_than_it_may(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.sqlite", max_entries=10)
    for n in range(SWEEP_EVERY + 1):
        await store.put(str(n), b"v", 100 + n)
    kept = [n for n in range(SWEEP_EVERY + 1) if await store.get(str(n))]
    assert kept == list(range(SWEEP_EVERY - 9, SWEEP_EVERY + 1))
    await store.close()


async def test_a_file_that_cannot_be_opened_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder is needed", encoding="utf-8")
    store = SqliteStore(tmp_path / "taken" / "s.sqlite")
    with pytest.raises(InvalidConfiguration, match="cache_dir"):
        await store.get("key")
    await store.close()
