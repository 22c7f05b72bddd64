"""Sessions on a graphics card: chosen when it works, left when its memory is full, and never in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from sensorium.errors import DeviceUnavailable, EngineFailed
from sensorium.runtimes.device import is_out_of_memory
from sensorium.runtimes.onnx import Session
from sensorium.telemetry import TELEMETRY
from tests.runtimes.cards import FULL, Card
from tests.runtimes.graphs import lookup


@contextmanager
def opened(**options: Any) -> Iterator[Session]:
    session = Session(lookup(), name="lookup@1", **options)
    try:
        yield session
    finally:
        session.close()


def place(number: int) -> dict[str, Any]:
    return {"place": np.array([[number]], np.int64)}


async def asked(session: Session, count: int) -> list[float]:
    answers = await asyncio.gather(*(session.run(place(number % 10)) for number in range(count)))
    return [round(answer["value"].item() * 3) for answer in answers]


def right(count: int) -> list[int]:
    return [number % 10 for number in range(count)]


def test_without_cuda_auto_is_the_processor() -> None:
    with opened(device="auto") as session:
        assert session.device == "cpu"
        assert session.skipped == ()


def test_cuda_that_is_not_installed_is_refused_with_what_brings_it() -> None:
    with pytest.raises(DeviceUnavailable, match=r"sensorium\[gpu\]") as refused, opened(device="cuda"):
        pass
    assert refused.value.code == "device_unavailable"


def test_cuda_that_is_offered_but_does_not_start_is_no_card(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Card(monkeypatch, works=False)
    with caplog.at_level(logging.WARNING, "sensorium.device"), opened(device="auto") as session:
        assert session.device == "cpu"
    assert "processor instead" in caplog.text
    with pytest.raises(DeviceUnavailable, match="cuda:1"), opened(device="cuda:1"):
        pass


@pytest.mark.parametrize(("device", "number"), [("auto", "0"), ("cuda", "0"), ("cuda:3", "3")])
def test_a_card_that_works_is_used(monkeypatch: pytest.MonkeyPatch, device: str, number: str) -> None:
    card = Card(monkeypatch)
    with opened(device=device) as session:
        assert session.device == f"cuda:{number}"
        session.run_here(place(1))
    assert card.options[0]["device_id"] == number
    assert card.batches == [1]


def test_the_processor_is_used_where_it_is_named_though_there_is_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch)
    with opened(device="cpu", max_batch_on_gpu=8) as session:
        assert (session.device, session.gathers) == ("cpu", False)
        session.run_here(place(1))
    assert card.batches == []


async def test_a_batch_that_does_not_fit_is_halved_and_so_are_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, room=3)
    before = TELEMETRY.session_out_of_memory.sum(device="cuda:0")
    with opened(device="auto", max_batch_on_gpu=8, window_seconds=5) as session:
        assert session.gathers
        assert await asked(session, 1) == right(1)
        assert await asked(session, 8) == right(8)
        assert card.batches == [1, 8, 4, 2, 2, 4, 2, 2]
        assert await asked(session, 8) == right(8)
        assert card.batches[8:] == [2, 2, 2, 2]
        assert (session.device, session.skipped) == ("cuda:0", ())
    assert TELEMETRY.session_out_of_memory.sum(device="cuda:0") > before


async def test_when_one_alone_does_not_fit_the_session_goes_on_on_the_processor_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    card = Card(monkeypatch, room=0)
    with caplog.at_level(logging.WARNING, "sensorium.device"), opened(device="cuda", max_batch_on_gpu=4) as session:
        assert await asked(session, 5) == right(5)
        (left,) = session.skipped
        assert (left.engine, left.code) == ("lookup@1 on cuda:0", "out_of_device_memory")
        assert (session.device, session.gathers) == ("cpu", False)
        tried = len(card.batches)
        assert await asked(session, 5) == right(5)
        assert session.run_here(place(3))["value"].item() == 1
        assert len(card.batches) == tried
    assert "goes on on the processor" in caplog.text


def test_one_that_runs_in_its_callers_thread_leaves_a_full_card_too(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, room=0)
    with opened(device="cuda") as session:
        assert session.run_here(place(3))["value"].item() == 1
        assert session.skipped


async def test_other_failures_on_a_card_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch)
    with opened(device="cuda", max_batch_on_gpu=4) as session:
        with pytest.raises(EngineFailed):
            await session.run(place(99))
        assert session.device == "cuda:0"
    assert card.batches == [1]


@pytest.mark.parametrize(
    ("said", "full"),
    [
        (FULL, True),
        ("Available memory of 1048576 is smaller than requested bytes of 4194304", True),
        ("CUDA failure 2: out of memory ; GPU=0", True),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", True),
        ("Got invalid dimensions for input", False),
    ],
)
def test_a_full_card_is_known_by_what_is_said(said: str, full: bool) -> None:
    assert is_out_of_memory(RuntimeError(said)) is full
