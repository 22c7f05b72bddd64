"""Real servers in processes of their own, started once for all tests of the HTTP door."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import put_fake
from tests.server.nursery import Process, start

CARDS = {
    "slow": "seconds = 30",
    "brief": "seconds = 0.02",
    "busy": 'fail = "overloaded"',
    "broken": 'fail = "engine_failed"',
}
"""Fake models that misbehave, by name, with their quirks."""


@dataclass
class Server:
    """A running server."""

    url: str
    port: int
    process: Process
    temporary: Path
    log_file: Path

    def spooled(self) -> list[Path]:
        """The uploads that lie in its spool."""
        return [path for path in self.temporary.glob("sensorium-spool-*/*") if path.name != "lock"]

    def spool_empties(self) -> bool:
        """Whether the spool is empty now or soon: files go after the answer."""
        return eventually(lambda: not self.spooled())

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def logs(self, pattern: str) -> bool:
        """Whether a line like this is in the log now or soon."""
        return eventually(lambda: re.search(pattern, self.log()) is not None)


PATIENCE = 50.0
"""How many seconds a busy machine has for anything, before it counts as not happening."""


def eventually(holds: object, seconds: float = PATIENCE) -> bool:
    end = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def running(folder: Path, **settings: object) -> Iterator[Server]:
    models, temporary, log_file = folder / "models", folder / "tmp", folder / "log"
    for made in (models, temporary):
        made.mkdir(parents=True, exist_ok=True)
    for name, quirks in CARDS.items():
        put_fake(models, name, quirks)
    tasks = {task: ["fake"] for task in ("classify", "read", "describe_pixels")}
    chosen = {
        "port": 0,
        "models_dir": str(models),
        "cache_dir": str(folder / "cache"),
        "data_dir": str(folder / "data"),
    }
    chosen |= {"models": tasks, **settings}
    spoken = {
        f"SENSORIUM_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in chosen.items()
    }
    environment = {**os.environ, **spoken, "TMPDIR": str(temporary), "TEMP": str(temporary), "TMP": str(temporary)}
    process = start(environment, log_file)
    try:
        yield Server(*_address(process, log_file), process, temporary, log_file)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _address(process: Process, log_file: Path) -> tuple[str, int]:
    def said() -> re.Match[str] | None:
        assert process.poll() is None, log_file.read_text(encoding="utf-8")
        return re.search(
            r"Listening on (https?)://(?:127\.0\.0\.1|0\.0\.0\.0):(\d+)", log_file.read_text(encoding="utf-8")
        )

    assert eventually(said)
    found = said()
    assert found is not None
    return f"{found[1]}://127.0.0.1:{found[2]}", int(found[2])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With room for all."""
    with running(tmp_path_factory.mktemp("server"), waiting=64) as started:
        yield started


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that works on one request at a time, lets nobody wait, and takes little."""
    limits = {"running": 1, "waiting": 0, "max_bytes": 2_000_000, "max_upload_bytes": 4_000_000, "upload_seconds": 1.0}
    with running(tmp_path_factory.mktemp("strict"), **limits) as started:
        yield started
