"""The spine, proved with the fake engine: lists, streams, deadlines, fallback, cancellation, nested calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sensorium.config import Settings
from sensorium.engine import Delta, Event, Options
from sensorium.engines import fake
from sensorium.errors import (
    DeadlineExceeded,
    DeviceUnavailable,
    EngineFailed,
    InvalidConfiguration,
    InvalidRequest,
    Overloaded,
    ReaderStalled,
    SensoriumError,
    ServiceClosed,
    UnidentifiedMedia,
    UnknownModel,
    UnknownTask,
)
from sensorium.listening import Stream
from sensorium.media.source import Source
from sensorium.schemas.analyze import AnalyzeRequest
from sensorium.schemas.ask import AskRequest
from sensorium.schemas.base import Result
from sensorium.schemas.classify import Classification, ClassifyRequest
from sensorium.schemas.detect import DetectRequest
from sensorium.service import Sensorium
from sensorium.telemetry import TELEMETRY
from tests.fakes import put_fake
from tests.pictures import JUNK, jpeg, png
from tests.runtimes.cards import Card as GraphicsCard

Open = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens a Sensorium with fake models; each is given by its quirks."""

    @asynccontextmanager
    async def opening(fakes: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Sensorium]:
        models = tmp_path / "models"
        models.mkdir(exist_ok=True)
        for name, quirks in (fakes or {}).items():
            put_fake(models, name, quirks)
        async with Sensorium(Settings(cache_dir=tmp_path / "cache", models_dir=models, **settings)) as sensorium:
            yield sensorium

    return opening


def classify(picture: bytes | str | Path | None = None, model: str | None = "fake") -> ClassifyRequest:
    return ClassifyRequest(image=Source.of(jpeg() if picture is None else picture), model=model)


async def listen(stream: Stream, heard: list[Event]) -> None:
    """Read a stream to its end; what was heard stays when it breaks."""
    async for event in stream:
        heard.append(event)  # noqa: PERF401 - a comprehension would lose it


async def test_an_answer_says_how_it_came_about(opened: Open) -> None:
    async with opened() as sensorium:
        result = await sensorium.run(classify())
    assert isinstance(result, Classification)
    assert (result.meta.engine, result.meta.cached, result.meta.skipped) == ("fake@1", False, ())
    assert result.meta.seconds > 0
    assert len(result.meta.trace) == 32
    assert (result.image.width, result.image.height, result.image.format) == (64, 48, "jpeg")


async def test_a_list_keeps_length_and_order_and_each_item_fails_alone(opened: Open, tmp_path: Path) -> None:
    sources: list[bytes | Path] = [jpeg(seed=1), JUNK, png(), tmp_path / "nowhere.jpg", jpeg(width=20, height=10)]
    async with opened() as sensorium:
        outcomes = await sensorium.run_all([classify(source) for source in sources])
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds == ["Classification", "UnidentifiedMedia", "Classification", "FileMissing", "Classification"]
    assert (outcomes[4].image.width, outcomes[4].image.height) == (20, 10)


async def test_a_long_list_is_taken_no_faster_than_it_is_worked_on(opened: Open) -> None:
    taken = 0

    def requests() -> Any:
        nonlocal taken
        for seed in range(200):
            taken += 1
            yield classify(jpeg(seed=seed % 3))

    async with opened(running=2) as sensorium:
        ahead = []
        done = 0
        async for _ in sensorium.each(requests()):
            done += 1
            ahead.append(taken - done)
    assert done == 200
    assert max(ahead) <= 4


async def test_a_slow_item_of_a_list_does_not_stop_the_others(opened: Open) -> None:
    heard: list[Event] = []

    async def listen(event: Event) -> None:
        heard.append(event)

    async with opened({"slow": "seconds = 30", "quick": 'words = ["a"]'}, running=2, cache="off") as sensorium:
        requests = [classify(model="slow"), classify(model="quick"), classify(model="quick"), classify(model="quick")]
        outcomes = sensorium.each(requests, listener=listen)
        first = asyncio.ensure_future(anext(outcomes))
        while len(heard) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert not first.done(), "answers keep their order"
        first.cancel()
        await asyncio.wait([first])
        await outcomes.aclose()


async def test_a_mistake_of_ours_in_a_list_reaches_who_asked(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    async with opened({"fake": ""}) as sensorium:
        monkeypatch.setattr(sensorium, "_stack", broken)
        with pytest.raises(ZeroDivisionError):
            await sensorium.run_all([classify(), classify()])


async def test_leaving_a_list_early_ends_its_work(opened: Open) -> None:
    async with opened({"slow": "seconds = 30", "quick": ""}, running=2, waiting=0, cache="off") as sensorium:
        outcomes = sensorium.each([classify(model="quick"), *[classify(model="slow")] * 5])
        await anext(outcomes)
        await outcomes.aclose()
        assert isinstance(await sensorium.run(classify(model="quick")), Result), "the places are free again"


async def test_a_stream_tells_its_parts_and_then_the_whole(opened: Open) -> None:
    async with opened({"talker": 'words = ["a", "cat"]'}) as sensorium:
        stream = sensorium.stream(classify(model="talker"))
        events = [event async for event in stream]
        plain = await sensorium.run(classify(model="talker"), options=Options(cache=False))
    assert events == [Delta("a"), Delta("cat")]
    assert stream.result.labels == plain.labels


async def test_a_stream_that_breaks_ends_with_the_error_after_what_was_said(opened: Open) -> None:
    async with opened({"cut": 'words = ["a"]\nfail = "engine_failed"'}) as sensorium:
        heard: list[Event] = []
        with pytest.raises(EngineFailed):
            await listen(sensorium.stream(classify(model="cut")), heard)
    assert heard == [Delta("a")]


async def test_a_reader_that_leaves_a_stream_ends_the_work_and_frees_its_place(opened: Open) -> None:
    async with opened({"slow": 'words = ["a", "b"]\nseconds = 0.05'}, running=1, waiting=0) as sensorium:
        stream = sensorium.stream(classify(model="slow"))
        async for _ in stream:
            break
        await stream.aclose()
        assert isinstance(await sensorium.run(classify()), Result)


async def test_a_reader_that_stalls_is_dropped_and_holds_no_place(opened: Open) -> None:
    words = ", ".join(f'"{n}"' for n in range(10))
    async with opened({"talker": f"words = [{words}]"}, running=1, waiting=0) as sensorium:
        stream = sensorium.stream(classify(model="talker"), buffer=2, patience=0.05)
        await asyncio.wait([stream._work])
        assert isinstance(await sensorium.run(classify()), Result)
        with pytest.raises(ReaderStalled):
            await listen(stream, [])


async def test_the_next_model_answers_when_one_fails_and_the_answer_says_so(opened: Open) -> None:
    fakes = {"broken": 'fail = "engine_failed"', "spare": ""}
    async with opened(fakes, models={"classify": ["broken", "spare"]}) as sensorium:
        result = await sensorium.run(classify(model=None))
        named = await sensorium.run_all([classify(model="broken")])
    assert result.meta.engine == "spare@1"
    assert [one.engine for one in result.meta.skipped] == ["broken@1"]
    assert isinstance(named[0], EngineFailed)


async def test_a_model_that_is_named_falls_back_on_those_that_the_settings_name_for_it(
    opened: Open, tmp_path: Path
) -> None:
    fakes = {"broken": 'fail = "engine_failed"', "spare": ""}
    fallbacks = {"broken": ["perception", "spare"], "broken@2": ["lost"]}
    async with opened(fakes, fallbacks=fallbacks) as sensorium:
        results = [await sensorium.run(classify(model=name)) for name in ("broken", "broken@1", "BROKEN")]
        assert isinstance((await sensorium.run_all([classify(model="spare")]))[0], Result)
    assert [result.meta.engine for result in results] == ["spare@1"] * 3, "perception does other tasks"


@pytest.mark.parametrize("written", ["openai/gpt-4o", "GPT-4o", "openai/gpt-4o@1"])
async def test_fallbacks_may_be_set_for_any_name_of_the_model(
    opened: Open, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with opened(fallbacks={"gpt-4.1": ["nobody"], "there is none": ["nobody"], written: ["fake"]}) as sensorium:
        results = [await sensorium.run(AskRequest(prompt="a", model=name)) for name in ("gpt-4o", "openai/gpt-4o")]
    assert [(one.meta.engine, one.meta.skipped[0].code) for one in results] == [("fake@1", "missing_key")] * 2


async def test_a_fallback_that_there_is_not_is_told(opened: Open) -> None:
    async with opened({"broken": ""}, fallbacks={"broken": ["spaer"]}) as sensorium:
        with pytest.raises(UnknownModel, match="spaer"):
            await sensorium.run(classify(model="broken"))


async def test_the_second_best_answer_is_not_remembered_as_the_best(opened: Open) -> None:
    fakes = {"shaky": 'fail = "engine_failed"\nfail_times = 1', "spare": ""}
    async with opened(fakes, models={"classify": ["shaky", "spare"]}) as sensorium:
        engines = [(await sensorium.run(classify(model=None))).meta.engine for _ in range(2)]
    assert engines == ["spare@1", "shaky@1"]


async def test_one_picture_has_one_remembered_answer_however_it_is_handed_in(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "图片.jpg").write_bytes(jpeg())
    async with opened() as sensorium:
        first = await sensorium.run(classify(tmp_path / "图片.jpg"))
        again = await sensorium.run(classify(jpeg()))
        other = await sensorium.run(classify(jpeg(seed=5)))
    assert [one.meta.cached for one in (first, again, other)] == [False, True, False]


async def test_answers_outlive_the_process_in_sqlite(opened: Open) -> None:
    async with opened(cache="sqlite") as sensorium:
        await sensorium.run(classify())
    async with opened(cache="sqlite") as sensorium:
        assert (await sensorium.run(classify())).meta.cached


async def test_a_deadline_ends_in_our_error_and_covers_waiting(opened: Open) -> None:
    async with opened({"slow": "seconds = 10"}, running=1, waiting=5) as sensorium:
        first = asyncio.create_task(sensorium.run(classify(model="slow"), timeout=0.5))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
            await sensorium.run(classify(), timeout=0.05)
        with pytest.raises(DeadlineExceeded):
            await first


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
async def test_a_timeout_that_is_none_is_refused(opened: Open, seconds: float) -> None:
    async with opened() as sensorium:
        with pytest.raises(InvalidRequest, match="timeout"):
            await sensorium.run(classify(), timeout=seconds)


async def test_more_than_the_line_holds_is_refused_at_once(opened: Open) -> None:
    async with opened({"slow": "seconds = 0.2"}, running=1, waiting=1) as sensorium:
        requests = [classify(jpeg(seed=seed), "slow") for seed in range(4)]
        outcomes = await asyncio.gather(*(sensorium.run(one) for one in requests), return_exceptions=True)
    assert [isinstance(one, Overloaded) for one in outcomes] == [False, False, True, True]


async def test_a_composed_task_holds_no_place_that_its_parts_wait_for(opened: Open) -> None:
    models = {task: ["fake"] for task in ("classify", "read", "describe_pixels")}
    async with opened(running=1, waiting=0, models=models) as sensorium:
        result = await sensorium.run(AnalyzeRequest(image=Source.of(jpeg())), timeout=30)
    assert result.classify.meta.engine == result.read.meta.engine == result.describe_pixels.meta.engine == "fake@1"


async def test_a_part_that_fails_stands_in_the_answer_beside_the_others(opened: Open) -> None:
    models = {"classify": ["fake"], "read": ["broken"], "describe_pixels": ["fake"]}
    async with opened({"broken": 'fail = "engine_failed"'}, models=models) as sensorium:
        result = await sensorium.run(AnalyzeRequest(image=Source.of(jpeg())))
    assert result.classify
    assert result.read is None
    assert result.failures["read"].code == "engine_failed"


async def test_when_all_parts_fail_so_does_the_whole(opened: Open) -> None:
    async with opened({"broken": 'fail = "engine_failed"'}, models={"read": ["broken"]}) as sensorium:
        with pytest.raises(EngineFailed):
            await sensorium.run(AnalyzeRequest(image=Source.of(jpeg()), parts=("read",)))
        with pytest.raises(UnidentifiedMedia):
            await sensorium.run(AnalyzeRequest(image=Source.of(JUNK)))


async def test_names_are_found_whatever_their_capitals_and_near_ones_are_told(opened: Open) -> None:
    async with opened() as sensorium:
        assert (await sensorium.run(classify(model="FAKE@1"))).meta.engine == "fake@1"
        with pytest.raises(UnknownModel, match="efficientnet_lite0"):
            await sensorium.run(classify(model="efficientnet_lite9"))
        with pytest.raises(UnknownModel, match="does not answer classify"):
            await sensorium.run(classify(model="ppocr_v6"))
        with pytest.raises(UnknownModel, match=r"models\.classify"):
            await sensorium.run(AnalyzeRequest(image=Source.of(jpeg()), model="efficientnet_lite0"))
        with pytest.raises(UnknownTask, match="classify"):
            sensorium.registry.task("clasify")


async def test_what_an_engine_throws_becomes_ours(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(*_: object) -> None:
        raise ZeroDivisionError("one by none")

    monkeypatch.setattr(fake.Engine, "run", run)
    async with opened() as sensorium:
        with pytest.raises(EngineFailed, match=r"ZeroDivisionError: one by none") as caught:
            await sensorium.run(classify())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_a_closed_service_says_so(opened: Open) -> None:
    async with opened() as sensorium:
        pass
    with pytest.raises(ServiceClosed):
        await sensorium.run(classify())


async def test_a_wrong_card_spoils_no_other(opened: Open, tmp_path: Path) -> None:
    async with opened({"good": "", "odd": 'colour = "blue"'}) as sensorium:
        (tmp_path / "models" / "broken.toml").write_text("name = ", encoding="utf-8")
        assert (await sensorium.run(classify(model="good"))).meta.engine == "good@1"
        assert [problem.code for problem in sensorium.registry.problems] == ["invalid_model"]
        with pytest.raises(SensoriumError, match="quirks"):
            await sensorium.run(classify(model="odd"))


async def test_a_task_without_any_model_says_what_to_set(opened: Open) -> None:
    async with opened(models={"classify": []}) as sensorium:
        assert sensorium.registry.task("classify").defaults
        task = sensorium.registry.task("classify")
        object.__setattr__(task, "defaults", ())
        with pytest.raises(InvalidRequest, match=r"models\.classify"):
            await sensorium.run(classify(model=None))


async def test_a_setting_for_a_task_that_does_not_exist_is_refused(opened: Open) -> None:
    with pytest.raises(InvalidConfiguration, match="clasify"):
        async with opened(models={"clasify": ["fake"]}):
            pass


async def test_the_first_request_says_how_long_the_model_took_to_load(opened: Open) -> None:
    async with opened() as sensorium:
        first, second = await sensorium.run_all([classify(), classify(jpeg(seed=1))])
    assert 0 < first.meta.loading_seconds <= first.meta.seconds
    assert second.meta.loading_seconds <= second.meta.seconds


async def test_a_composed_answer_is_signed_by_its_task(opened: Open) -> None:
    async with opened(models={"classify": ["fake"]}) as sensorium:
        result = await sensorium.run(AnalyzeRequest(image=Source.of(jpeg()), parts=("classify",)))
    assert (result.meta.engine, result.classify.meta.engine) == ("analyze", "fake@1")


async def test_requests_and_failures_are_counted(opened: Open) -> None:
    before = (
        TELEMETRY.requests["classify", "ok"].value,
        TELEMETRY.requests.sum(code="unidentified_media"),
    )
    async with opened() as sensorium:
        await sensorium.run_all([classify(), classify(JUNK)])
    after = (
        TELEMETRY.requests["classify", "ok"].value,
        TELEMETRY.requests.sum(code="unidentified_media"),
    )
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)


# Where models compute


async def test_the_device_of_the_settings_is_what_models_are_loaded_on(opened: Open) -> None:
    async with opened(device="cuda") as sensorium:
        with pytest.raises(DeviceUnavailable, match="Cannot compute on cuda"):
            await sensorium.run(classify(model="efficientnet_lite0"))


async def test_an_answer_says_every_model_and_card_that_was_passed_over(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    GraphicsCard(monkeypatch, room=0)
    models = {"classify": ["broken", "efficientnet_lite0"]}
    async with opened({"broken": 'fail = "engine_failed"'}, device="auto", models=models, cache="off") as sensorium:
        found = await sensorium.run(classify(model=None))
    assert [(one.engine, one.code) for one in found.meta.skipped] == [
        ("broken@1", "engine_failed"),
        ("efficientnet_lite0@1 on cuda:0", "out_of_device_memory"),
    ]


async def test_a_task_for_which_no_model_is_named_says_what_could_be(opened: Open) -> None:
    async with opened() as sensorium:
        with pytest.raises(InvalidRequest, match=r"`model`.*`models\.detect`.*google_vision"):
            await sensorium.run(DetectRequest(image=Source.of(jpeg())))
        assert (await sensorium.run(DetectRequest(image=Source.of(jpeg()), model="fake"))).objects
