from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sensorium.errors import Unavailable
from sensorium.server.spool import Spool, SpoolFile


async def kept(spool: Spool, data: bytes) -> tuple[SpoolFile, Path]:
    file = spool.file()
    await file.write(data[:3])
    await file.write(data[3:])
    return file, (await file.keep())[0]


def test_a_closed_spool_leaves_nothing(tmp_path: Path) -> None:
    Spool(tmp_path).close()
    assert not list(tmp_path.iterdir())


async def test_equal_uploads_share_a_file_until_the_last_lets_go(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    one, path = await kept(spool, b"the same")
    other, same = await kept(spool, b"the same")
    assert path == same
    one.discard()
    one.discard()
    assert await spool.in_thread(path.read_bytes) == b"the same"
    other.discard()
    assert not await spool.in_thread(path.exists)
    spool.close()


async def test_an_unfinished_upload_can_be_let_go(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    file = spool.file()
    await file.write(b"half")
    file.discard()
    assert await spool.in_thread(lambda: [path.name for path in spool.folder.iterdir()]) == ["lock"]
    spool.close()
    file.discard()


async def test_a_disk_that_takes_no_more_is_unavailable(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.folder.rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="put aside"):
        await spool.file().write(b"data")
    spool.close()


def test_the_folder_of_a_killed_process_goes_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    script = f"from pathlib import Path; from sensorium.server.spool import Spool; s = Spool(Path({str(tmp_path)!r})); print(s.folder, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().decode().strip())
        Spool(tmp_path).close()
        assert folder.exists()
        process.kill()
        process.wait()
    Spool(tmp_path).close()
    assert not folder.exists()
