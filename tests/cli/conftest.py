"""A working folder of its own for each test of the command line, and a way to run commands in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sensorium.cli import main
from tests.pictures import jpeg, png

Sensorium = Callable[..., Result]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with caches and models elsewhere than the user's."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SENSORIUM_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("SENSORIUM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("NO_COLOR", "FORCE_COLOR", "SENSORIUM_DEBUG", "SENSORIUM_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def photos(home: Path) -> Path:
    """A folder of pictures with Chinese names, and of much that is none."""
    folder = home / "照片"
    (folder / "旅行").mkdir(parents=True)
    (folder / ".缩略图").mkdir()
    (folder / "b 猫.jpg").write_bytes(jpeg(seed=1))
    (folder / "a.png").write_bytes(png())
    (folder / "旅行" / "长城").write_bytes(jpeg(seed=2))
    (folder / "broken.jpg").write_bytes(jpeg(seed=3)[:40])
    (folder / "notes.txt").write_text("no picture", encoding="utf-8")
    (folder / ".hidden.jpg").write_bytes(jpeg())
    (folder / ".缩略图" / "c.jpg").write_bytes(jpeg())
    return folder


@pytest.fixture
def sensorium() -> Sensorium:
    """Runs a command line in this process."""

    def run(*words: str | Path, input: bytes | None = None) -> Result:  # noqa: A002 - click's own name
        return CliRunner().invoke(main, [str(word) for word in words], input=input)

    return run


def lines(result: Result) -> list[dict[str, Any]]:
    """The JSON Lines on standard output; each must be valid by itself."""
    return [json.loads(line) for line in result.stdout.splitlines()]
