"""Batches over a real socket, to a provider that keeps its limits: what `make bench-flow` measures, smaller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.flow.__main__ import Provider, models
from benchmarks.flow.upstream import AT_ONCE, PER_MINUTE

import sensorium
from tests.pictures import jpeg

pytestmark = pytest.mark.slow

Ask = Callable[..., Any]


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    started = Provider()
    models(tmp_path / "models", started.url)
    for name in ("models", "data", "cache"):
        monkeypatch.setenv(f"SENSORIUM_{name.upper()}_DIR", str(tmp_path / name))
    sensorium.close()
    yield started
    sensorium.close()
    started.close()


@pytest.fixture
def ask(provider: Provider) -> Ask:
    def asked(pictures: Any, model: str) -> Any:
        return sensorium.ask(pictures, "What is this?", model=model, cache=False)

    asked(jpeg(), "free")  # imports and prices are read at the first question
    return asked


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_a_batch_reaches_the_allowed_rate_and_is_never_refused(provider: Provider, ask: Ask) -> None:
    pictures = [jpeg(1200, 900, seed) for seed in range(100)]
    took = seconds(lambda: ask(pictures, "limited"))
    seen = provider.seen()["limited"]
    assert (seen["answered"], seen["refused"], seen["most_at_once"]) == (100, {}, AT_ONCE)
    assert 100 / took >= 0.95 * PER_MINUTE / 60


def test_without_limits_a_batch_is_five_times_as_fast_as_a_loop(provider: Provider, ask: Ask) -> None:
    pictures = [jpeg(1200, 900, seed) for seed in range(60)]
    alone = seconds(lambda: [ask(picture, "free") for picture in pictures[:20]]) / 20
    together = seconds(lambda: ask(pictures, "free")) / 60
    assert provider.seen()["free"]["refused"] == {}
    assert alone / together >= 5
