"""What a cabinet promises: files of their owner alone, whole or in parts, within a quota, until they expire."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, Any

import pytest

from sensorium.errors import FilesFull, InputTooLarge, InvalidRequest, StorageFailed, UnknownFile
from sensorium.stores.cabinet import ABANDONED_SECONDS, UPLOAD_SECONDS, Cabinet, Kept
from sensorium.stores.files import LEAST_CHARGED
from tests.stores.test_stores import Clock

QUOTA = 100_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def cabinet(tmp_path: Path, clock: Clock) -> AsyncIterator[Cabinet]:
    cabinet = Cabinet(tmp_path, QUOTA, clock)
    yield cabinet
    await cabinet.close()


def opener(data: bytes) -> Callable[[], IO[bytes]]:
    return lambda: io.BytesIO(data)


async def put(cabinet: Cabinet, data: bytes = b"bytes", owner: str = "shop", seconds: float = 100.0) -> Kept:
    return await cabinet.put(owner, "cat.jpg", "vision", opener(data), seconds)


def shelves(folder: Path) -> set[str]:
    return {path.name for path in (folder / "bytes").iterdir()} if (folder / "bytes").exists() else set()


async def test_a_file_is_kept_as_it_was_sent_for_its_owner_alone(cabinet: Cabinet) -> None:
    kept = await put(cabinet, b"picture")
    found = await cabinet.find(kept.id, "shop")
    assert found == kept
    assert (found.bytes, found.sha256) == (7, hashlib.sha256(b"picture").hexdigest())
    path = cabinet.path(found)
    assert path.read_bytes() == b"picture"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    for work in (cabinet.find, cabinet.remove):
        with pytest.raises(UnknownFile):
            await work(kept.id, "other")
    assert await cabinet.listed("other", None, None, 9) == []


async def test_files_are_listed_in_pages_from_either_end(cabinet: Cabinet) -> None:
    ids = [(await put(cabinet)).id for _ in range(4)]
    newest = [one.id for one in await cabinet.listed("shop", None, None, 2)]
    assert newest == ids[:1:-1]
    assert [one.id for one in await cabinet.listed("shop", None, newest[-1], 9)] == ids[1::-1]
    assert [one.id for one in await cabinet.listed("shop", None, ids[0], 2, oldest_first=True)] == ids[1:3]
    assert await cabinet.listed("shop", "batch", None, 9) == []


async def test_a_removed_file_is_gone_with_its_bytes(cabinet: Cabinet, tmp_path: Path) -> None:
    kept = await put(cabinet)
    await cabinet.remove(kept.id, "shop")
    with pytest.raises(UnknownFile):
        await cabinet.find(kept.id, "shop")
    assert shelves(tmp_path) == set()


async def test_an_expired_file_is_unknown_at_once_and_swept_later(
    cabinet: Cabinet, clock: Clock, tmp_path: Path
) -> None:
    kept, stays = await put(cabinet, seconds=10.0), await put(cabinet, seconds=1000.0)
    clock.now += 10.0
    with pytest.raises(UnknownFile):
        await cabinet.find(kept.id, "shop")
    assert [one.id for one in await cabinet.listed("shop", None, None, 9)] == [stays.id]
    await cabinet.sweep()
    assert shelves(tmp_path) == {stays.id[-32:]}


async def test_bytes_that_belong_to_nothing_are_swept(cabinet: Cabinet, tmp_path: Path) -> None:
    kept = await put(cabinet)
    left = tmp_path / "bytes" / ("0" * 32)
    left.mkdir()
    for folder in (left, tmp_path / "bytes" / kept.id[-32:]):
        os.utime(folder, (0, 0))
    young = tmp_path / "bytes" / ("1" * 32)
    young.mkdir()
    await cabinet.sweep()
    assert shelves(tmp_path) == {kept.id[-32:], young.name}
    assert ABANDONED_SECONDS > 60


async def test_each_owner_has_a_quota_and_what_is_refused_leaves_nothing(cabinet: Cabinet, tmp_path: Path) -> None:
    await put(cabinet, bytes(QUOTA - LEAST_CHARGED))
    with pytest.raises(FilesFull, match="file_quota_bytes"):
        await put(cabinet, bytes(LEAST_CHARGED + 1))
    await put(cabinet, bytes(LEAST_CHARGED + 1), owner="other")
    assert len(shelves(tmp_path)) == 2
    await put(cabinet, b"")
    with pytest.raises(FilesFull):
        await put(cabinet, b"")


async def test_an_upload_holds_its_bytes_until_it_is_cancelled(cabinet: Cabinet) -> None:
    upload = await cabinet.begin("shop", "a", "vision", QUOTA, 10.0)
    with pytest.raises(FilesFull):
        await put(cabinet)
    await cabinet.cancel(upload.id, "shop")
    await put(cabinet)


async def test_parts_become_a_file_in_the_order_that_is_asked_for(cabinet: Cabinet, tmp_path: Path) -> None:
    upload = await cabinet.begin("shop", "scan.tif", "vision", 9, 50.0)
    parts = [await cabinet.add(upload.id, "shop", opener(data)) for data in (b"two", b"one", b"one")]
    order = [parts[1].id, parts[0].id, parts[2].id]
    done, kept = await cabinet.complete(upload.id, "shop", order, hashlib.md5(b"onetwoone").hexdigest().upper())  # noqa: S324
    assert (done.state, done.file, kept.name, kept.expires - kept.created) == ("completed", kept.id, "scan.tif", 50.0)
    assert cabinet.path(kept).read_bytes() == b"onetwoone"
    assert shelves(tmp_path) == {kept.id[-32:]}
    assert (await cabinet.complete(upload.id, "shop", order))[1] == kept, "once more is the same file"
    with pytest.raises(InvalidRequest, match="completed"):
        await cabinet.add(upload.id, "shop", opener(b"more"))
    with pytest.raises(InvalidRequest, match="completed"):
        await cabinet.cancel(upload.id, "shop")


async def test_two_who_complete_at_once_make_one_file(cabinet: Cabinet, tmp_path: Path) -> None:
    upload = await cabinet.begin("shop", "a", "vision", 3, 50.0)
    part = await cabinet.add(upload.id, "shop", opener(b"one"))
    both = await asyncio.gather(*(cabinet.complete(upload.id, "shop", [part.id]) for _ in range(2)))
    assert both[0][1] == both[1][1]
    assert len(await cabinet.listed("shop", None, None, 9)) == 1
    assert len(shelves(tmp_path)) == 1


async def test_an_upload_goes_on_in_another_process(cabinet: Cabinet, tmp_path: Path, clock: Clock) -> None:
    upload = await cabinet.begin("shop", "a", "vision", 6, 50.0)
    first = await cabinet.add(upload.id, "shop", opener(b"one"))
    later = Cabinet(tmp_path, QUOTA, clock)
    _, parts = await later.upload(upload.id, "shop")
    assert parts == [first]
    second = await later.add(upload.id, "shop", opener(b"two"))
    _, kept = await later.complete(upload.id, "shop", [first.id, second.id])
    assert later.path(kept).read_bytes() == b"onetwo"
    await later.close()


async def test_what_is_not_whole_is_refused_and_may_go_on(cabinet: Cabinet) -> None:
    upload = await cabinet.begin("shop", "a", "vision", 6, 50.0)
    first = await cabinet.add(upload.id, "shop", opener(b"one"))
    for order, md5, words in (
        ([first.id], None, "3 bytes, and it was to have 6"),
        ([first.id, "part_unknown"], None, "part_unknown"),
        ([first.id, first.id], "0" * 32, "md5"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            await cabinet.complete(upload.id, "shop", order, md5)
    second = await cabinet.add(upload.id, "shop", opener(b"two"))
    await cabinet.complete(upload.id, "shop", [first.id, second.id])


async def test_more_than_was_announced_is_refused_and_leaves_nothing(cabinet: Cabinet, tmp_path: Path) -> None:
    upload = await cabinet.begin("shop", "a", "vision", 5, 50.0)
    first = await cabinet.add(upload.id, "shop", opener(b"one"))
    with pytest.raises(InputTooLarge):
        await cabinet.add(upload.id, "shop", opener(b"two"))
    again = await cabinet.add(upload.id, "shop", opener(b"one"))
    assert again.id != first.id, "a part whose answer was lost may come again"
    assert [path.name for path in (tmp_path / "bytes" / upload.id[-32:]).iterdir()] == [first.sha256]


async def test_uploads_of_others_and_expired_ones_are_unknown(cabinet: Cabinet, clock: Clock, tmp_path: Path) -> None:
    upload = await cabinet.begin("shop", "a", "vision", 3, 50.0)
    await cabinet.add(upload.id, "shop", opener(b"one"))
    for work in (cabinet.upload("x", "shop"), cabinet.upload(upload.id, "other"), cabinet.cancel(upload.id, "other")):
        with pytest.raises(UnknownFile):
            await work
    clock.now += UPLOAD_SECONDS
    with pytest.raises(UnknownFile):
        await cabinet.add(upload.id, "shop", opener(b"two"))
    await cabinet.sweep()
    assert shelves(tmp_path) == set()


async def test_a_full_disk_is_told_and_leaves_nothing(cabinet: Cabinet, tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def read(self, *count: object) -> bytes:
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageFailed, match="No space left"):
        await cabinet.put("shop", "a", "vision", Full, 50.0)
    assert shelves(tmp_path) == set()
    assert await cabinet.listed("shop", None, None, 9) == []


async def test_an_upload_that_is_completed_many_times_at_once_is_put_together_once(
    cabinet: Cabinet, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[str] = []
    join = Cabinet._join

    def counted(self: Cabinet, *args: Any) -> str:
        joined.append("once")
        return join(self, *args)

    monkeypatch.setattr(Cabinet, "_join", counted)
    upload = await cabinet.begin("shop", "cat.jpg", "vision", 5, 100.0)
    part = await cabinet.add(upload.id, "shop", opener(b"bytes"))
    done = await asyncio.gather(*(cabinet.complete(upload.id, "shop", [part.id]) for _ in range(8)))
    assert len({kept.id for _, kept in done}) == len(joined) == 1


async def test_files_and_uploads_are_bounded_in_number_too(cabinet: Cabinet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorium.stores.cabinet.MOST_UPLOADS", 3)
    monkeypatch.setattr("sensorium.stores.cabinet.MOST_FILES", 2)
    begun = [await cabinet.begin("shop", "cat.jpg", "vision", 5, 100.0) for _ in range(3)]
    with pytest.raises(FilesFull, match="3 uploads"):
        await cabinet.begin("shop", "cat.jpg", "vision", 5, 100.0)
    await cabinet.begin("other", "cat.jpg", "vision", 5, 100.0)
    await cabinet.cancel(begun[0].id, "shop")
    await put(cabinet)
    await put(cabinet)
    with pytest.raises(FilesFull, match="2 files"):
        await put(cabinet)


async def test_who_begins_and_cancels_all_day_does_not_fill_the_index(
    cabinet: Cabinet, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr("sensorium.stores.cabinet.MOST_UPLOADS", 3)
    ids = []
    for _ in range(6):
        ids.append((await cabinet.begin("shop", "cat.jpg", "vision", 5, 100.0)).id)
        await cabinet.cancel(ids[-1], "shop")
        clock.now += 1
    for gone in ids[:2]:
        with pytest.raises(UnknownFile):
            await cabinet.upload(gone, "shop")
    assert (await cabinet.upload(ids[-1], "shop"))[0].state == "cancelled"


async def test_a_part_whose_bytes_an_equal_one_took_along_is_refused_and_sent_again(
    cabinet: Cabinet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await cabinet.begin("shop", "cat.jpg", "vision", 5, 100.0)
    lay = Cabinet._laid_down

    def lost(self: Cabinet, shelf: str, content: Any) -> tuple[str, int]:
        told = lay(self, shelf, content)
        (tmp_path / "bytes" / shelf / told[0]).unlink()
        return told

    with monkeypatch.context() as broken:
        broken.setattr(Cabinet, "_laid_down", lost)
        with pytest.raises(StorageFailed, match="Send it again"):
            await cabinet.add(upload.id, "shop", opener(b"bytes"))
    part = await cabinet.add(upload.id, "shop", opener(b"bytes"))
    await cabinet.complete(upload.id, "shop", [part.id])
