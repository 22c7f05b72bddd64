"""Fixtures that all tests share."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("hypothesis"):  # which those who test other people's clients do without
    from hypothesis import HealthCheck, settings

    # The same examples each time, however slow the machine: what fails, fails for everyone. `make fuzz` looks for more.
    settings.register_profile(
        "repeatable",
        deadline=None,
        derandomize="FUZZ_EXAMPLES" not in os.environ,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real media with known truth; tests that need it are skipped where it is absent."""
    named = os.environ.get("SENSORIUM_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"test data not found at {folder}: set SENSORIUM_TEST_DATA to its folder")
    return folder
