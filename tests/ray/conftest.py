"""Batches on Ray, in an environment of their own, by `make test-ray`."""

from __future__ import annotations

import importlib.util

from tests.batch.conftest import models  # noqa: F401 - fixtures
from tests.cli.conftest import home  # noqa: F401

HERE = importlib.util.find_spec("ray") is not None

collect_ignore_glob = [] if HERE else ["test_*.py"]
