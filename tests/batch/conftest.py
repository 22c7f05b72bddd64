"""A working folder for each test of batches, with models that fail, kill and take money; and a way to run the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Sensorium, home, photos, sensorium  # noqa: F401 - fixtures
from tests.fakes import put_fake
from tests.pictures import jpeg

DEADLY = 13
"""The width of pictures that kill who looks at them."""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811 - the fixture
    folder = tmp_path / "models"
    put_fake(folder, "fragile", f"deadly_width = {DEADLY}")
    put_fake(folder, "slow", "seconds = 0.05")
    put_fake(folder, "keyless", 'fail = "missing_key"')
    monkeypatch.setenv("SENSORIUM_CACHE_DIR", str(tmp_path / "cache"))
    return folder


def some(folder: Path, count: int, **more: Any) -> Path:
    """A folder of so many small pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:04d}.jpg").write_bytes(jpeg(width=16 + number % 8, height=12, **more))
    return folder


def told(path: Path) -> list[dict[str, Any]]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(sensorium: Sensorium, *words: str | Path, code: int = 0) -> dict[str, Any]:  # noqa: F811
    """The summary of a batch of `classify` by the fake model."""
    done = sensorium(
        "batch", *words, "--task", "classify", *(() if "--model" in words else ("--model", "fake")), "--json"
    )
    assert done.exit_code == code, done.output
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary
