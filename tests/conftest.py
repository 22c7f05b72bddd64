"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real media with known truth; tests that need it are skipped where it is absent."""
    named = os.environ.get("SENSORIUM_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"test data not found at {folder}: set SENSORIUM_TEST_DATA to its folder")
    return folder
