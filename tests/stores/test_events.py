"""Both homes of the event log keep the same promises; and what each of them is for."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

from sensorium.errors import InvalidRequest, Overloaded, StreamGone, UnknownStream
from sensorium.stores.events import (
    EVENT_BYTES,
    FEWEST_BYTES_OF_ONE,
    MOST_READERS,
    STREAM_BYTES,
    EventLog,
    MemoryLog,
    Reader,
    Stream,
)
from sensorium.stores.events_sqlite import HERE_SECONDS, LOST_SECONDS, REMEMBERED_SECONDS, SWEEP_SECONDS, SqliteLog
from tests.stores.test_stores import Clock

T = TypeVar("T")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def pair(tmp_path: Path, clock: Clock) -> AsyncIterator[tuple[SqliteLog, SqliteLog]]:
    """As two processes have them."""
    logs = tuple(SqliteLog(tmp_path / "events.sqlite", clock=clock) for _ in range(2))
    yield logs  # type: ignore[misc] # they are two
    for log in logs:
        await log.close()


@pytest.fixture(params=["memory", "sqlite", "elsewhere"])
async def homes(
    request: pytest.FixtureRequest, tmp_path: Path, pair: tuple[SqliteLog, SqliteLog]
) -> AsyncIterator[tuple[EventLog, EventLog]]:
    """Where streams are written, and where they are read."""
    if request.param == "memory":
        log = MemoryLog()
        yield log, log
        await log.close()
    else:
        yield pair[0], pair[1 if request.param == "elsewhere" else 0]


def told(stream: Stream, *events: str) -> Stream:
    for event in events:
        stream.add(event.encode())
    return stream


async def rest(reader: Reader) -> str:
    """All that is still to be read."""
    heard = ""
    with closing(reader):
        while data := await reader.read():
            heard += data.decode()
    return heard


async def test_events_are_read_in_order_to_the_end(homes: tuple[EventLog, EventLog]) -> None:
    written, read = homes
    stream = told(written.open("shop"), "a", "b", "c")
    stream.end()
    assert await rest(await read.reader(stream.id, "shop", 0)) == "abc"
    assert await rest(await read.reader(stream.id, "shop", 2)) == "c"


async def test_a_reader_waits_for_what_comes(homes: tuple[EventLog, EventLog]) -> None:
    written, read = homes
    stream = told(written.open("shop"), "a")
    with closing(await read.reader(stream.id, "shop", 0)) as reader:
        assert await reader.read() == b"a"
        coming = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        told(stream, "b")
        assert await coming == b"b"
        assert not reader.over
        stream.end()
        assert await reader.read() == b""
        assert reader.over


async def test_readers_do_not_disturb_each_other(homes: tuple[EventLog, EventLog]) -> None:
    written, read = homes
    stream = told(written.open("shop"), "a", "b")
    readers = [asyncio.create_task(rest(await read.reader(stream.id, "shop", after))) for after in (0, 1, 2)]
    await asyncio.sleep(0)
    told(stream, "c").end()
    assert await asyncio.gather(*readers) == ["abc", "bc", "c"]


async def test_whoever_has_read_all_of_an_ended_stream_is_over(homes: tuple[EventLog, EventLog]) -> None:
    written, read = homes
    stream = told(written.open("shop"), "a")
    stream.end()
    with closing(await read.reader(stream.id, "shop", 1)) as reader:
        assert reader.over


async def test_anothers_stream_is_as_one_that_is_not_there(homes: tuple[EventLog, EventLog]) -> None:
    written, read = homes
    stream = told(written.open("shop"), "a")
    stream.end()
    with pytest.raises(UnknownStream) as anothers:
        await read.reader(stream.id, "robot", 0)
    with pytest.raises(UnknownStream) as none:
        await read.reader("0" * 32, "shop", 0)
    assert str(anothers.value) == str(none.value)


async def test_what_its_owner_drops_is_gone_once_its_work_has_ended(homes: tuple[EventLog, EventLog]) -> None:
    written, read = homes
    stream, stopped = told(written.open("shop"), "a"), asyncio.Event()
    stream.stop = stopped.set
    with closing(await read.reader(stream.id, "shop", 0)):
        await read.drop(stream.id, "shop")
        await asyncio.wait_for(stopped.wait(), 30)
    await read.drop(stream.id, "shop")
    told(stream, "the end").end()
    assert await soon(lambda: _gone(read, stream.id))


async def test_what_is_dropped_after_its_end_is_gone_at_once(homes: tuple[EventLog, EventLog]) -> None:
    written, read = homes
    stream = told(written.open("shop"), "a")
    stream.end()
    assert await rest(await read.reader(stream.id, "shop", 0)) == "a"
    await read.drop(stream.id, "shop")
    assert await soon(lambda: _gone(read, stream.id))
    with pytest.raises(UnknownStream):
        await read.drop(stream.id, "robot")


async def test_nobody_else_can_drop_a_stream(homes: tuple[EventLog, EventLog]) -> None:
    written, read = homes
    stream = told(written.open("shop"), "a")
    stream.stop = pytest.fail
    for identity, owner in ((stream.id, "robot"), ("0" * 32, "shop")):
        with pytest.raises(UnknownStream):
            await read.drop(identity, owner)
    assert not stream.dropped
    stream.end()
    assert await rest(await read.reader(stream.id, "shop", 0)) == "a"


async def _gone(log: EventLog, identity: str) -> bool | None:
    try:
        (await log.reader(identity, "shop", 0)).close()
    except StreamGone:
        return True
    return None


async def test_ids_cannot_be_guessed(homes: tuple[EventLog, EventLog]) -> None:
    ids = {homes[0].open("shop").id for _ in range(100)}
    assert len(ids) == 100
    assert {len(one) for one in ids} == {32}


async def test_events_that_were_never_told_are_no_place_to_go_on(homes: tuple[EventLog, EventLog]) -> None:
    written, read = homes
    stream = told(written.open("shop"), "a")
    with pytest.raises(InvalidRequest, match="told 1 events"):
        await read.reader(stream.id, "shop", 2)


async def test_so_many_readers_and_no_more(homes: tuple[EventLog, EventLog]) -> None:
    written, read = homes
    stream = told(written.open("shop"), "a")
    readers = [await read.reader(stream.id, "shop", 0) for _ in range(MOST_READERS)]
    with pytest.raises(Overloaded):
        await read.reader(stream.id, "shop", 0)
    readers[0].close()
    (await read.reader(stream.id, "shop", 0)).close()


BYTES = 8 * (100 + EVENT_BYTES)
"""What eight of the events below take."""


def small() -> MemoryLog:
    return MemoryLog(stream_bytes=STREAM_BYTES + BYTES)


def numbered(stream: Stream, *numbers: int) -> None:
    for number in numbers:
        stream.add(f"{number:100}".encode())


async def test_what_is_kept_of_one_stream_is_bounded_once_it_has_been_read() -> None:
    log = small()
    stream = log.open("shop")
    with closing(await log.reader(stream.id, "shop", 0)) as reader:
        for number in range(1000):
            numbered(stream, number)
            assert not stream.full
            assert int(await reader.read()) == number
    assert log.size <= STREAM_BYTES + BYTES + EVENT_BYTES + 100


async def test_the_writer_waits_for_the_foremost_reader() -> None:
    log = small()
    stream = log.open("shop")
    reader, slow = [await log.reader(stream.id, "shop", 0) for _ in range(2)]
    numbered(stream, *range(9))
    assert stream.full
    waiting = asyncio.create_task(stream.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    await reader.read()
    numbered(stream, 9)
    await reader.read()
    await asyncio.wait_for(waiting, 30)
    assert not stream.full
    reader.close()
    slow.close()


async def test_who_falls_behind_what_is_kept_is_told_so() -> None:
    log = small()
    stream = log.open("shop")
    with (
        closing(await log.reader(stream.id, "shop", 0)) as reader,
        closing(await log.reader(stream.id, "shop", 0)) as slow,
    ):
        for number in range(20):
            numbered(stream, number)
            await reader.read()
        with pytest.raises(StreamGone, match="too many newer ones"):
            await slow.read()
        with pytest.raises(StreamGone):
            await log.reader(stream.id, "shop", 1)
        assert not (await log.reader(stream.id, "shop", 19)).over


async def test_without_any_reader_the_writer_waits_when_its_stream_is_full() -> None:
    log = small()
    stream = log.open("shop")
    (await log.reader(stream.id, "shop", 0)).close()
    numbered(stream, *range(9))
    assert stream.full
    assert int((await (await log.reader(stream.id, "shop", 0)).read())[:100]) == 0, "nothing that was unread is lost"


async def test_the_last_reader_to_leave_is_noticed() -> None:
    log, left = MemoryLog(), []
    stream = log.open("shop")
    stream.left = lambda: left.append(True)
    readers = [await log.reader(stream.id, "shop", 0) for _ in range(2)]
    readers[0].close()
    readers[0].close()
    assert not left
    readers[1].close()
    assert left == [True]


async def test_ended_streams_go_when_their_time_is_over(clock: Clock) -> None:
    log = MemoryLog(kept_seconds=60, clock=clock)
    stream = told(log.open("shop"), "a")
    stream.end()
    clock.now += 59
    assert await rest(await log.reader(stream.id, "shop", 0)) == "a"
    clock.now += 2
    with pytest.raises(StreamGone):
        await log.reader(stream.id, "shop", 0)
    with pytest.raises(UnknownStream):
        await log.reader(stream.id, "robot", 0)
    assert log.size == 0
    await log.close()


async def test_they_go_without_being_asked_for_too() -> None:
    log = MemoryLog(kept_seconds=0.01)
    told(log.open("shop"), "a").end()
    assert log.size
    assert await soon(lambda: asyncio.sleep(0, None if log.size else True))
    await log.close()


async def test_all_streams_together_are_bounded_and_the_oldest_that_ended_go_first() -> None:
    log = MemoryLog(max_bytes=100_000)
    streams = []
    for _ in range(500):
        stream = log.open("shop")
        numbered(stream, *range(5))
        stream.end()
        streams.append(stream.id)
        assert log.size <= 100_000
    with pytest.raises(StreamGone):
        await log.reader(streams[0], "shop", 0)
    assert len(await rest(await log.reader(streams[-1], "shop", 0))) == 500
    await log.close()


async def test_an_ended_stream_for_which_there_is_no_room_is_read_to_its_end_and_not_kept() -> None:
    log = MemoryLog(max_bytes=100_000)
    stream = log.open("shop")
    reader = await log.reader(stream.id, "shop", 0)
    told(stream, "x" * 200_000).end()
    assert log.size == 0
    assert len(await rest(reader)) == 200_000
    with pytest.raises(StreamGone):
        await log.reader(stream.id, "shop", 0)


async def test_where_all_is_full_each_stream_under_way_has_a_little() -> None:
    log = MemoryLog(max_bytes=100_000, stream_bytes=10**9)
    for _ in range(5):
        stream = log.open("shop")
        with closing(await log.reader(stream.id, "shop", 0)) as reader:
            for _ in range(1000):
                stream.add(b"x" * 100)
                await reader.read()
    assert log.size <= 100_000 + 5 * (FEWEST_BYTES_OF_ONE + 200)


async def test_a_discarded_stream_leaves_nothing() -> None:
    log = MemoryLog()
    stream = log.open("shop")
    reader = await log.reader(stream.id, "shop", 0)
    stream.discard()
    assert await reader.read() == b""
    assert log.size == 0
    with pytest.raises(UnknownStream):
        await log.reader(stream.id, "shop", 0)


async def soon(told: Callable[[], Awaitable[T | None]]) -> T | None:
    """What is told, once that is not None."""
    for _ in range(3000):
        if (found := await told()) is not None:
            return found
        await asyncio.sleep(0.01)
    return None


def rows(path: Path, what: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute(f"SELECT {what}").fetchone()[0]
        return found


async def test_many_events_are_one_row_and_one_transaction(pair: tuple[SqliteLog, SqliteLog], tmp_path: Path) -> None:
    stream = pair[0].open("shop")
    told(stream, *(f"{number}," for number in range(1000)))
    heard = b""
    with closing(await pair[1].reader(stream.id, "shop", 500)) as reader:
        heard = await reader.read()
    assert heard.decode() == "".join(f"{number}," for number in range(500, 1000))
    assert rows(tmp_path / "events.sqlite", "count(*) FROM pieces") == 1


async def test_only_its_owner_may_read_the_file(pair: tuple[SqliteLog, SqliteLog], tmp_path: Path) -> None:
    stream = told(pair[0].open("shop"), "a")
    (await pair[1].reader(stream.id, "shop", 0)).close()
    assert (tmp_path / "events.sqlite").stat().st_mode & 0o777 == 0o600


async def test_an_ended_stream_is_read_from_the_file_also_when_its_process_is_gone(
    pair: tuple[SqliteLog, SqliteLog], clock: Clock, tmp_path: Path
) -> None:
    log = SqliteLog(tmp_path / "events.sqlite", clock=clock)
    stream = told(log.open("shop"), "a")
    stream.end()
    await log.close()
    clock.now += LOST_SECONDS + 1
    assert await rest(await pair[1].reader(stream.id, "shop", 0)) == "a"


async def test_a_stream_whose_process_died_ends_with_an_error(pair: tuple[SqliteLog, SqliteLog], clock: Clock) -> None:
    stream = told(pair[0].open("shop"), "a")
    with closing(await pair[1].reader(stream.id, "shop", 0)) as reader:
        assert await reader.read() == b"a"
        found = await pair[1].look(stream.id, 1)
        assert found is not None
        assert not found.lost
        clock.now += LOST_SECONDS + 1
        found = await pair[1].look(stream.id, 1)
        assert found is not None
        assert found.lost, "also before anybody has swept the file"
        with pytest.raises(StreamGone, match="has ended"):
            await reader.read()


async def test_a_writer_knows_of_readers_elsewhere_and_how_far_they_are(
    pair: tuple[SqliteLog, SqliteLog], clock: Clock
) -> None:
    stream = told(pair[0].open("shop"), "a", "b")
    assert await pair[0].read_elsewhere(stream.id) is None
    reader = await pair[1].reader(stream.id, "shop", 1)
    waiting = asyncio.create_task(rest(reader))
    assert await soon(lambda: pair[0].read_elsewhere(stream.id)) == 1
    waiting.cancel()
    clock.now += HERE_SECONDS + 1
    assert await pair[0].read_elsewhere(stream.id) is None


async def test_what_is_not_kept_in_memory_goes_from_the_file(tmp_path: Path) -> None:
    logs = [SqliteLog(tmp_path / "events.sqlite", stream_bytes=STREAM_BYTES + BYTES) for _ in range(2)]
    stream = logs[0].open("shop")
    with closing(await logs[0].reader(stream.id, "shop", 0)) as reader:
        for number in range(4):
            numbered(stream, number)
            await reader.read()
        with closing(await logs[1].reader(stream.id, "shop", 0)) as late:
            await late.read()
            for number in range(4, 30):
                numbered(stream, number)
                await reader.read()
            with pytest.raises(StreamGone, match="too many newer ones"):
                await rest(late)
    for log in logs:
        await log.close()


async def test_nothing_of_a_dropped_stream_is_left_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    log = SqliteLog(path)
    stream = told(log.open("shop"), "a")
    await log.drop(stream.id, "shop")
    told(stream, "b").end()
    await log.close()
    assert (rows(path, "count(*) FROM pieces"), rows(path, "total(bytes) FROM streams")) == (0, 0)
    assert rows(path, "count(*) FROM streams WHERE ended > 0") == 1


async def test_old_streams_go_from_the_file_and_later_the_memory_of_them(
    pair: tuple[SqliteLog, SqliteLog], clock: Clock, tmp_path: Path
) -> None:
    async def sweep() -> None:
        clock.now += SWEEP_SECONDS + 1
        other = told(pair[1].open("shop"), "later")
        other.end()
        await rest(await pair[0].reader(other.id, "shop", 0))

    stream = told(pair[0].open("shop"), "a")
    stream.end()
    await rest(await pair[1].reader(stream.id, "shop", 0))
    clock.now += 300
    await sweep()
    with pytest.raises(StreamGone):
        await pair[1].reader(stream.id, "shop", 0)
    assert rows(tmp_path / "events.sqlite", f"count(*) FROM pieces WHERE stream = '{stream.id}'") == 0
    clock.now += REMEMBERED_SECONDS
    await sweep()
    with pytest.raises(UnknownStream):
        await pair[1].reader(stream.id, "shop", 0)


async def test_the_file_is_bounded(
    pair: tuple[SqliteLog, SqliteLog], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensorium.stores.events_sqlite.MOST_BYTES_OF_FILE", 3 * (STREAM_BYTES + EVENT_BYTES + 1000))
    streams = []
    for _ in range(6):
        clock.now += SWEEP_SECONDS + 1
        stream = told(pair[0].open("shop"), "x" * 1000)
        stream.end()
        streams.append(stream.id)
        await rest(await pair[1].reader(stream.id, "shop", 0))
    with pytest.raises(StreamGone):
        await pair[1].reader(streams[0], "shop", 0)
    assert await rest(await pair[1].reader(streams[-1], "shop", 0))


async def test_where_the_file_cannot_be_written_streams_go_on_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    log = SqliteLog(tmp_path / "file" / "events.sqlite")
    with caplog.at_level(logging.ERROR):
        stream = told(log.open("shop"), "a")
        reader = asyncio.create_task(rest(await log.reader(stream.id, "shop", 0)))
        assert await soon(lambda: asyncio.sleep(0, caplog.records or None))
        told(stream, "b").end()
        assert await reader == "ab"
        await log.close()
    assert sum("cannot be written" in record.getMessage() for record in caplog.records) == 1
