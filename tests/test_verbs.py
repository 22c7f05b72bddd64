"""The verbs of `import sensorium`, as plain functions and for `await`."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import sensorium
from sensorium import aio, verbs
from sensorium.errors import FileMissing, InvalidRequest, SensoriumError
from tests.pictures import jpeg, photograph, png


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SENSORIUM_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("SENSORIUM_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("SENSORIUM_MODELS", '{"read": ["fake"]}')  # which is ready at once
    sensorium.close()
    yield
    sensorium.close()


def test_one_input_gives_a_result(tmp_path: Path) -> None:
    path = tmp_path / "图 片.jpg"
    path.write_bytes(jpeg())
    with path.open("rb") as opened:
        for given in (path, str(path), path.read_bytes(), opened, sensorium.Source.of(path)):
            assert sensorium.classify(given, model="fake").image.width == 64


def test_one_bad_input_raises() -> None:
    with pytest.raises(SensoriumError, match=r"nowhere\.jpg"):
        sensorium.classify("nowhere.jpg", model="fake")
    with pytest.raises(InvalidRequest, match="`top_k`"):
        sensorium.classify(jpeg(), model="fake", top_k=0)
    with pytest.raises(InvalidRequest, match="`colour`"):
        sensorium.classify(jpeg(), model="fake", colour="red")  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest):
        sensorium.classify(17, model="fake")  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest):
        sensorium.classify(jpeg(), jpeg(), model="fake")  # type: ignore[call-overload]


def test_a_list_gives_a_list_with_each_error_in_its_place() -> None:
    sources: list[Any] = [jpeg(), "nowhere.jpg", 17, png()]
    outcomes = sensorium.classify(sources, model="fake")
    assert [type(one).__name__ for one in outcomes] == [
        "Classification",
        "FileMissing",
        "InvalidRequest",
        "Classification",
    ]
    nothing: list[bytes] = []
    assert sensorium.classify(nothing, model="fake") == []


async def test_plain_verbs_work_inside_a_running_loop_and_others_can_be_awaited() -> None:
    plain = sensorium.classify(jpeg(), model="fake")
    awaited = await aio.classify(jpeg(), model="fake")
    assert plain.labels == awaited.labels
    assert awaited.meta.cached  # one Sensorium behind both


def test_many_threads_may_call_at_once() -> None:
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda seed=seed: results.append(sensorium.classify(jpeg(seed=seed), model="fake")))
        for seed in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8


async def test_cancelling_an_awaited_verb_ends_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    import sensorium.engines.fake

    begun, ended = threading.Event(), threading.Event()

    async def run(*_: object) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    monkeypatch.setattr(sensorium.engines.fake.Engine, "run", run)
    task = asyncio.create_task(aio.classify(jpeg(), model="fake"))
    assert await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    await asyncio.wait([task])
    assert await asyncio.to_thread(ended.wait, 30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_verbs_work_again_after_a_fork() -> None:
    script = (
        "import os, sensorium\n"
        "from tests.pictures import jpeg\n"
        "sensorium.classify(jpeg(), model='fake')\n"
        "child = os.fork()\n"
        "print(sensorium.classify(jpeg(), model='fake').meta.engine, flush=True)\n"
        "if child: print(os.waitpid(child, 0)[1])\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert sorted(done.stdout.split()) == ["0", "fake@1", "fake@1"], done.stderr


def test_results_draw_themselves_in_a_notebook() -> None:
    html = sensorium.read(jpeg(), model="fake")._repr_html_()
    assert html
    assert "data:image/jpeg;base64," in html


@pytest.mark.parametrize("verb", ["classify", "read", "analyze"])
def test_a_plain_script_ends_in_silence(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    script = f"import sensorium, asyncio; sensorium.{verb}('a.jpg'); asyncio.run(sensorium.aio.{verb}('a.jpg'))"
    command = [sys.executable, "-W", "error", "-c", script]
    monkeypatch.delenv("SENSORIUM_MODELS")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Thing(BaseModel):
    label: str
    price: float | None


def test_a_question_is_given_by_place_after_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    assert "64 × 48" in sensorium.ask(path, "What is this?").text
    assert "no picture" in sensorium.ask(prompt="Hello").text
    assert "no picture" in sensorium.ask(None, "Hello").text
    assert "Picture 2" in sensorium.ask(path, "What is this?", images=[str(path)]).text
    with pytest.raises(InvalidRequest, match="for ask: `prompt` is empty"):
        sensorium.ask(path)
    with pytest.raises(InvalidRequest, match="image, prompt"):
        sensorium.ask(path, "What?", "Why?")  # type: ignore[call-overload]
    with pytest.raises(FileMissing):
        sensorium.ask(path, "What is this?", images=["nowhere.jpg"])


def test_pictures_inside_messages_may_be_paths_here(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    said: Any = [{"role": "user", "parts": [{"image": str(path)}, {"text": "What is this?"}]}]
    assert "64 × 48" in sensorium.ask(messages=said).text


def test_one_question_about_a_list_is_asked_about_each() -> None:
    outcomes = sensorium.ask([jpeg(), "nowhere.jpg"], "这是什么？")
    assert [type(one).__name__ for one in outcomes] == ["Answer", "FileMissing"]
    assert not isinstance(outcomes[0], SensoriumError)
    assert "不是语言模型" in outcomes[0].text


def test_a_type_as_schema_gives_an_instance_of_it() -> None:
    thing = sensorium.ask(photograph(), "What is this?", schema=Thing).data
    assert thing == Thing(label="espresso", price=None)
    assert sensorium.ask(photograph(), "?", schema={"type": "object"}).data["label"] == "espresso"
    assert sensorium.ask([photograph()], "?", schema=Thing)[0].data == thing  # type: ignore[union-attr]
    with pytest.raises(InvalidRequest, match="`schema`"):
        sensorium.ask(photograph(), "?", schema=17)  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest, match="`schema`"):
        sensorium.classify(jpeg(), schema=Thing)  # type: ignore[call-overload]


async def test_a_type_as_schema_gives_an_instance_where_it_is_awaited() -> None:
    assert (await aio.ask(photograph(), "?", schema=Thing)).data == Thing(label="espresso", price=None)


def test_pictures_are_compared_by_place_and_lists_of_them_one_by_one() -> None:
    assert "Picture 2 has the most pixels." in sensorium.compare(png(20, 20), png(60, 60)).recommendation
    outcomes = sensorium.compare([[png(), png()], [png()]], question="Which?")
    assert [type(one).__name__ for one in outcomes] == ["Comparison", "InvalidRequest"]
    with pytest.raises(InvalidRequest, match=r"compare\(a, b\)"):
        sensorium.compare([png(), png()])  # type: ignore[list-item]
    with pytest.raises(InvalidRequest, match="`images`"):
        sensorium.compare()


def test_privacy_is_one_of_two_words() -> None:
    assert sensorium.ask(jpeg(), "?", privacy="local").text
    with pytest.raises(InvalidRequest, match="`privacy`"):
        sensorium.ask(jpeg(), "?", privacy="some")  # type: ignore[call-overload]


def test_every_task_is_offered_with_its_help() -> None:
    assert {"classify", "read", "describe_pixels", "analyze"} <= set(dir(sensorium))
    assert inspect.getdoc(sensorium.classify) == "Name what a picture shows."
    with pytest.raises(AttributeError, match="clasify"):
        _ = sensorium.clasify  # type: ignore[attr-defined]


def test_closing_gives_all_threads_back_and_the_next_verb_starts_anew() -> None:
    sensorium.classify(jpeg(), model="fake")
    sensorium.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "sensorium-loop"]
    assert sensorium.classify(jpeg(), model="fake").labels
    assert verbs.background().process == os.getpid()
