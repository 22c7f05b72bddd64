"""Models changed, listed, unloaded and preloaded while a service runs, with real ONNX files."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sensorium.config import Settings
from sensorium.engine import Options
from sensorium.errors import InvalidModel, ReloadFailed, UnknownModel
from sensorium.media.source import Source
from sensorium.models import State
from sensorium.schemas.classify import ClassifyRequest
from sensorium.service import Sensorium
from tests.modelfiles import card, put, swap
from tests.pictures import jpeg
from tests.runtimes.graphs import always

Open = Callable[..., Any]

LOOK = 0.02
"""Seconds between two looks into the folder, where a test watches."""


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens a Sensorium on the models folder."""

    @asynccontextmanager
    async def opening(**settings: Any) -> AsyncIterator[Sensorium]:
        chosen = {"cache_dir": tmp_path / "cache", "models_dir": tmp_path / "models", "threads": 2, **settings}
        async with Sensorium(Settings(**chosen)) as sensorium:
            yield sensorium

    return opening


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


async def said(sensorium: Sensorium, model: str = "net", seed: int = 0, *, cache: bool = False) -> tuple[str, str]:
    """What the model calls a picture, and which model that was."""
    request = ClassifyRequest(image=Source.of(jpeg(seed=seed)), model=model)
    result = await sensorium.run(request, options=Options(cache=cache))
    return result.best.name, result.meta.engine


async def eventually(holds: Callable[[], Any]) -> None:
    """Wait for what another task brings about; the test's own time limit ends a vain wait."""
    while not holds():  # noqa: ASYNC110 - the condition belongs to the code under test
        await asyncio.sleep(0.005)


def state(sensorium: Sensorium, model: str) -> State:
    return next(one for one in sensorium.models.states() if one.card and one.card.id == model)


def watching(**settings: Any) -> dict[str, Any]:
    return {"watch_seconds": LOOK, **settings}


# Told to reload


async def test_a_reload_changes_over_while_requests_go_on_and_none_fails(opened: Open, models: Path) -> None:
    put(models, "1", "red")
    answers: list[tuple[str, str]] = []
    over = asyncio.Event()

    async def ask(sensorium: Sensorium, seed: int) -> None:
        while not over.is_set():
            answers.append(await said(sensorium, seed=seed))

    async with opened() as sensorium:
        asking = [asyncio.create_task(ask(sensorium, seed)) for seed in range(8)]
        for number in range(4):
            put(models, "1", "green" if number % 2 == 0 else "red")
            change = await sensorium.models.reload("net")
            assert (change.model, change.before) == ("net@1", "net@1")
            answers.clear()
            await eventually(lambda: len(answers) > 30)
            # At most the eight under way at the changeover still have the old answer.
            assert {word for word, _ in answers[16:]} == {"green" if number % 2 == 0 else "red"}
        over.set()
        await asyncio.gather(*asking)


async def test_the_first_request_after_a_reload_does_not_wait_for_loading(opened: Open, models: Path) -> None:
    put(models, "1", "red")
    async with opened() as sensorium:
        await sensorium.models.reload("net")
        result = await sensorium.run(ClassifyRequest(image=Source.of(jpeg()), model="net"))
    assert result.meta.loading_seconds == 0


async def test_a_version_that_does_not_work_leaves_the_old_one_and_is_told(opened: Open, models: Path) -> None:
    put(models, "1", "red")
    async with opened() as sensorium:
        await said(sensorium)
        swap(put(models, "2", "green") / "names.txt", b"red\ngreen\n")
        with pytest.raises(ReloadFailed, match=r"labels.*net@1 goes on answering"):
            await sensorium.models.reload("net")
        assert await said(sensorium) == ("red", "net@1")
        assert state(sensorium, "net@2").state == "failed"
        assert "labels" in str(state(sensorium, "net@2").why)
        with pytest.raises(InvalidModel):
            await said(sensorium, "net@2")
        put(models, "2", "green")
        assert (await sensorium.models.reload("net")).model == "net@2"
        assert await said(sensorium) == ("green", "net@2")


@pytest.mark.parametrize("damage", [b"", b"name = ", b'name = "net"\nversion = "1"\n'], ids=["empty", "cut", "lacking"])
async def test_a_card_that_breaks_leaves_the_model_as_it_was(opened: Open, models: Path, damage: bytes) -> None:
    folder = put(models, "1", "red")
    async with opened() as sensorium:
        assert await said(sensorium) == ("red", "net@1")
        swap(folder / "card.toml", damage)
        with pytest.raises(ReloadFailed, match=r"card\.toml"):
            await sensorium.models.reload("net")
        assert await said(sensorium) == ("red", "net@1")
        assert "card.toml" in str(state(sensorium, "net@1").why)


async def test_a_card_edited_in_place_for_a_version_that_fails_leaves_the_old_version(
    opened: Open, models: Path
) -> None:
    folder = put(models, "1", "red")
    async with opened() as sensorium:
        await said(sensorium)
        swap(folder / "card.toml", card("2", "gone.onnx", "0" * 64).encode())
        with pytest.raises(ReloadFailed, match=r"gone\.onnx"):
            await sensorium.models.reload("net")
        assert await said(sensorium) == ("red", "net@1")


async def test_a_half_written_file_is_refused_and_taken_once_it_is_whole(opened: Open, models: Path) -> None:
    folder = put(models, "1", "red")
    async with opened(**watching()) as sensorium:
        sensorium.start()
        await said(sensorium)
        whole = put(models.parent / "elsewhere", "1", "green")
        (new,) = whole.glob("*.onnx")
        (folder / new.name).write_bytes(new.read_bytes()[:200])
        swap(folder / "card.toml", (whole / "card.toml").read_bytes())
        await eventually(lambda: state(sensorium, "net@1").why)
        assert "sha256" in str(state(sensorium, "net@1").why)
        assert await said(sensorium) == ("red", "net@1")
        (folder / new.name).write_bytes(new.read_bytes())
        await eventually(lambda: state(sensorium, "net@1").why is None)
        assert await said(sensorium) == ("green", "net@1")


async def test_a_file_without_checksum_is_taken_once_nobody_writes_it_any_more(
    opened: Open, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensorium.runtimes.weights.SETTLED_SECONDS", 0.5)
    folder = put(models, "1", "red")
    swap(folder / "card.toml", card("1", "own.onnx", None).encode())
    whole = always(1, ballast=1)
    async with opened() as sensorium:
        with (folder / "own.onnx").open("wb") as file:
            asking = asyncio.create_task(said(sensorium))
            while not asking.done():
                file.write(b"x")
                file.flush()
                await asyncio.sleep(0.02)
        with pytest.raises(InvalidModel, match="still being written"):
            await asking
        monkeypatch.setattr("sensorium.runtimes.weights.SETTLED_SECONDS", 0.0)
        swap(folder / "own.onnx", whole[: len(whole) // 2])
        with pytest.raises(InvalidModel, match="cut short"):
            await said(sensorium)
        swap(folder / "own.onnx", whole)
        assert await said(sensorium) == ("green", "net@1")


async def test_reloading_what_does_not_exist_names_it(opened: Open, models: Path) -> None:
    put(models, "1", "red")
    async with opened() as sensorium:
        for name in ("nets", "net@7"):
            with pytest.raises(UnknownModel, match=name):
                await sensorium.models.reload(name)


async def test_a_model_that_needs_no_file_of_the_folder_can_be_reloaded_too(opened: Open) -> None:
    async with opened() as sensorium:
        change = await sensorium.models.reload("pixel_statistics")
        assert (change.model, change.before) == ("pixel_statistics@1", "pixel_statistics@1")
        assert sensorium.models.loaded["pixel_statistics@1"].ready


@pytest.mark.parametrize("cache", ["memory", "sqlite"])
async def test_answers_of_other_weights_are_not_remembered(opened: Open, models: Path, cache: str) -> None:
    put(models, "1", "red")
    async with opened(cache=cache) as sensorium:
        assert await said(sensorium, cache=True) == ("red", "net@1")
        put(models, "1", "green")
        await sensorium.models.reload("net")
        assert await said(sensorium, cache=True) == ("green", "net@1")
    put(models, "1", "blue")
    async with opened(cache=cache) as sensorium:
        assert await said(sensorium, cache=True) == ("blue", "net@1")


# Watching


async def test_a_new_version_put_into_the_folder_answers_and_the_old_one_leaves_the_memory(
    opened: Open, models: Path
) -> None:
    put(models, "9", "red")
    async with opened(**watching()) as sensorium:
        sensorium.start()
        assert await said(sensorium) == ("red", "net@9")
        put(models, "10", "green")
        await eventually(lambda: not sensorium.models.loaded["net@9"].ready)
        assert await said(sensorium) == ("green", "net@10")
        assert await said(sensorium, "net@9") == ("red", "net@9")
        assert [one.current for one in sensorium.models.states() if one.name == "net"] == [True, False]
        shutil.rmtree(models / "net-10")
        await eventually(lambda: "net@10" not in sensorium.models.loaded)
        assert await said(sensorium) == ("red", "net@9")
        with pytest.raises(UnknownModel):
            await said(sensorium, "net@10")


async def test_a_pinned_version_stays_although_a_higher_one_comes(opened: Open, models: Path) -> None:
    put(models, "1", "red")
    async with opened(**watching(models={"classify": ["net@1"]})) as sensorium:
        sensorium.start()
        assert await said(sensorium) == ("red", "net@1")
        put(models, "2", "green")
        await eventually(lambda: "net@2" in {card.id for card in sensorium.registry.cards})
        assert await said(sensorium) == ("red", "net@1")
        assert (await said(sensorium, "net@2")) == ("green", "net@2")
        assert (state(sensorium, "net@1").pinned, state(sensorium, "net@1").current) == (True, True)
        assert (state(sensorium, "net@2").pinned, state(sensorium, "net@2").current) == (False, False)


async def test_a_new_version_is_tried_before_it_is_taken_though_the_old_one_is_not_in_memory(
    opened: Open, models: Path
) -> None:
    put(models, "1", "red")
    async with opened(**watching()) as sensorium:
        sensorium.start()
        assert sensorium.registry.cards
        swap(put(models, "2", "green") / "names.txt", b"red\n")
        await eventually(lambda: sensorium.registry.problems)
        assert state(sensorium, "net@1").current
        put(models, "2", "green")
        await eventually(lambda: not sensorium.registry.problems)
        assert state(sensorium, "net@2").current
        await eventually(lambda: not sensorium.models.loaded["net@2"].ready)
        assert await said(sensorium) == ("green", "net@2")


async def test_a_model_that_appears_and_a_broken_card_beside_it_spoil_nothing(opened: Open, models: Path) -> None:
    async with opened(**watching()) as sensorium:
        sensorium.start()
        put(models, "1", "blue")
        swap(models / "torn.toml", b'name = "torn"\nkind')
        await eventually(lambda: sensorium.registry.problems)
        await eventually(lambda: "net@1" in {card.id for card in sensorium.registry.cards})
        assert await said(sensorium) == ("blue", "net@1")
        with pytest.raises(InvalidModel, match=r"torn\.toml"):
            await said(sensorium, "torn")
        (torn,) = [one for one in sensorium.models.states() if one.name == "torn"]
        assert (torn.card, torn.state) == (None, "failed")


async def test_a_model_whose_files_are_gone_stays_in_memory_when_its_successor_fails(
    opened: Open, models: Path
) -> None:
    put(models, "1", "red")
    async with opened(**watching(unload_after_seconds=0.05)) as sensorium:
        sensorium.start()
        await said(sensorium)
        loaded = sensorium.models.loaded["net@1"]
        loaded.keep = True  # so that it is in memory when the next look is taken
        (models / "net-2").mkdir()
        swap(models / "net-2" / "card.toml", card("2", "gone.onnx", "0" * 64).encode())
        (models / "net-1").rename(models.parent / "away")
        await eventually(lambda: sensorium.registry.problems)
        await asyncio.sleep(0.15)
        assert loaded.ready
        assert await said(sensorium) == ("red", "net@1")


# In memory and out


async def test_requests_that_come_while_a_model_loads_wait_for_one_load(
    opened: Open, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sensorium.runtimes import onnx

    made, gate = 0, threading.Event()
    real = onnx._open

    def counted(*how: Any) -> Any:
        nonlocal made
        made += 1
        gate.wait(10)
        return real(*how)

    monkeypatch.setattr(onnx, "_open", counted)
    put(models, "1", "red")
    async with opened() as sensorium:
        first = asyncio.create_task(said(sensorium))
        await eventually(lambda: made)
        assert state(sensorium, "net@1").state == "loading"
        first.cancel()
        others = [asyncio.create_task(said(sensorium, seed=seed)) for seed in range(6)]
        await asyncio.sleep(0)
        gate.set()
        answers = await asyncio.gather(*others)
    assert answers == [("red", "net@1")] * 6
    assert made == 1


async def test_an_idle_model_leaves_the_memory_and_comes_back_when_asked(opened: Open, models: Path) -> None:
    put(models, "1", "red")
    async with opened(unload_after_seconds=0.05) as sensorium:
        for _ in range(2):
            assert await said(sensorium) == ("red", "net@1")
            assert state(sensorium, "net@1").state == "loaded"
            await eventually(lambda: not sensorium.models.loaded["net@1"].ready)
            assert state(sensorium, "net@1").state == "ready"


async def test_a_model_that_is_asked_again_and_again_stays(opened: Open, models: Path) -> None:
    put(models, "1", "red")
    async with opened(unload_after_seconds=0.2) as sensorium:
        await said(sensorium)
        end = asyncio.get_running_loop().time() + 0.6
        while asyncio.get_running_loop().time() < end:
            result = await sensorium.run(
                ClassifyRequest(image=Source.of(jpeg()), model="net"), options=Options(cache=False)
            )
            assert result.meta.loading_seconds == 0


async def test_what_is_preloaded_is_in_memory_before_the_service_is_ready(opened: Open, models: Path) -> None:
    put(models, "1", "red")
    async with opened(preload=["gone", "net", "pixel_statistics"]) as sensorium:
        sensorium.start()
        assert not sensorium.preloaded
        await eventually(lambda: sensorium.preloaded)
        assert [state(sensorium, model).state for model in ("net@1", "pixel_statistics@1")] == ["loaded"] * 2
        assert state(sensorium, "ppocr_v6@1").state == "ready"


async def test_closing_while_models_change_leaves_nothing_behind(opened: Open, models: Path) -> None:
    put(models, "1", "red")
    async with opened(**watching(preload=["net", "efficientnet_lite0"])) as sensorium:
        sensorium.start()
        await said(sensorium)
        put(models, "2", "green")
        reloading = asyncio.create_task(sensorium.models.reload("net"))
        await asyncio.sleep(0)
    await asyncio.gather(reloading, return_exceptions=True)
    assert not any(loaded.ready for loaded in sensorium.models.loaded.values())
