"""Batches on Ray, in an environment of their own, by `make test-ray`."""

from __future__ import annotations

import importlib.util

from tests.batch.conftest import home, models, photos, sensorium  # noqa: F401 - fixtures

HERE = importlib.util.find_spec("ray") is not None

collect_ignore_glob = [] if HERE else ["test_*.py"]
