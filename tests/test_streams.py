"""Answers as they come, in plain code and for `async for`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

import sensorium
from sensorium import aio
from sensorium.engine import Delta
from sensorium.errors import CorruptMedia, FileMissing, InvalidRequest, Overloaded
from tests.fakes import put_fake
from tests.pictures import jpeg, photograph, png


class Thing(BaseModel):
    label: str


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    models = tmp_path / "models"
    put_fake(models, "talker", 'words = ["a ", "cat"]')
    put_fake(models, "endless", 'words = ["a ", "cat"]\ntimes = 1000\nseconds = 0.05')
    put_fake(models, "breaking", 'words = ["a ", "cat"]\nfail = "overloaded"')
    monkeypatch.setenv("SENSORIUM_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("SENSORIUM_MODELS_DIR", str(models))
    sensorium.close()
    yield
    sensorium.close()


def test_words_come_one_by_one_and_then_there_is_the_whole_answer() -> None:
    events = sensorium.stream.ask(jpeg(), "What is this?", model="talker")
    assert [event.text for event in events if isinstance(event, sensorium.Delta)] == ["a ", "cat"]
    assert events.result.meta.engine == "talker@1"


async def test_words_come_one_by_one_in_any_loop() -> None:
    events = aio.stream.ask(png(), "What is this?")
    said = "".join([event.text async for event in events if isinstance(event, Delta)])
    assert said == events.result.text
    assert "64 × 48" in said


def test_a_type_as_schema_holds_for_streams_too() -> None:
    events = sensorium.stream.ask(photograph(), "What is this?", schema=Thing)
    (whole,) = events
    assert isinstance(whole, Delta)
    assert whole.text == '{"label": "espresso"}'
    assert events.result.data == Thing(label="espresso")


def test_a_failure_comes_after_the_words_that_were_heard() -> None:
    events = sensorium.stream.ask(jpeg(), "What is this?", model="breaking")
    heard = iter(events)
    assert [next(heard), next(heard)] == [Delta("a "), Delta("cat")]
    with pytest.raises(Overloaded):
        next(heard)
    with pytest.raises(InvalidRequest, match="no answer yet"):
        _ = events.result


def test_who_leaves_early_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    import sensorium.engines.fake

    ended, run = threading.Event(), sensorium.engines.fake.Engine.run

    async def watched(*given: object) -> object:
        try:
            return await run(*given)  # type: ignore[arg-type]
        finally:
            ended.set()

    monkeypatch.setattr(sensorium.engines.fake.Engine, "run", watched)
    for _ in sensorium.stream.ask(jpeg(), "What is this?", model="endless", cache=False):
        break
    assert ended.wait(5)


def test_events_are_read_once_and_to_the_end() -> None:
    events = sensorium.stream.ask(jpeg(), "What is this?", model="talker")
    with pytest.raises(InvalidRequest, match="no answer yet"):
        _ = events.result
    list(events)
    with pytest.raises(InvalidRequest, match="have been read"):
        list(events)


def test_what_cannot_be_asked_is_told_at_once_or_at_the_first_event() -> None:
    with pytest.raises(InvalidRequest, match="one answer"):
        sensorium.stream.ask([jpeg()], "What is this?")
    with pytest.raises(InvalidRequest, match="`prompt`"):
        sensorium.stream.ask(jpeg())
    with pytest.raises(FileMissing):
        list(sensorium.stream.ask("nowhere.jpg", "What is this?"))
    with pytest.raises(CorruptMedia):
        list(sensorium.stream.classify(jpeg()[:300]))
    with pytest.raises(AttributeError, match="clasify"):
        sensorium.stream.clasify("a.jpg")
    assert "ask" in dir(sensorium.stream)
