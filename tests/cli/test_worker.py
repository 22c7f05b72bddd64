"""`sensorium worker`, as far as it goes without a broker."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Sensorium


def test_without_a_redis_it_says_what_is_missing(sensorium: Sensorium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSORIUM_REDIS_URL", raising=False)
    said = sensorium("worker")
    assert said.exit_code == 2
    assert "redis_url" in said.stderr


def test_a_task_that_is_none_is_refused_with_what_there_is(sensorium: Sensorium) -> None:
    said = sensorium("worker", "--tasks", "clasify")
    assert said.exit_code == 2
    assert "classify" in said.stderr
