"""Models listed and changed over HTTP, in a real server under load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.modelfiles import put, swap
from tests.server.conftest import Server, eventually, running
from tests.server.load import asking


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server that is told to reload, and its models folder."""
    folder = tmp_path_factory.mktemp("changing")
    with running(folder, watch_seconds=0, preload=["pixel_statistics"]) as started:
        yield started, folder / "models"


def reload(server: Server, name: str) -> requests.Response:
    return requests.post(f"{server.url}/v1/models/{name}/reload", timeout=30)


def listed(server: Server) -> dict[str, dict[str, Any]]:
    answer = requests.get(f"{server.url}/v1/models", timeout=10)
    assert answer.status_code == 200
    return {one["model"] or one["name"]: one for one in answer.json()["models"]}


def test_reloading_under_load_fails_no_request_and_the_answers_change(changing: tuple[Server, Path]) -> None:
    server, models = changing
    put(models, "1", "red")
    first = reload(server, "net")
    assert (first.status_code, first.json().get("model")) == (200, "net@1"), first.text
    with asking(server.url, "net") as load:
        for number in range(4):
            name = ("green", "red")[number % 2]
            put(models, "1", name)
            answer = reload(server, "net")
            assert (answer.status_code, answer.json()["before"]) == (200, "net@1")
            assert load.says(name)
    assert set(load.heard) == {"red", "green"}
    assert server.logs("Model net@1 was taken")


def test_what_cannot_be_used_is_refused_with_a_code_and_the_old_one_answers_on(changing: tuple[Server, Path]) -> None:
    server, models = changing
    put(models, "1", "red", name="firm")
    reload(server, "firm")
    with asking(server.url, "firm", clients=2) as load:
        assert load.says("red")
        folder = put(models, "2", "green", name="firm")
        swap(next(folder.glob("*.onnx")), b"no model at all")
        answer = reload(server, "firm")
        assert answer.status_code == 409
        error = answer.json()["error"]
        assert error["code"] == "reload_failed"
        assert "firm@1 goes on answering" in error["message"]
        assert str(models) not in answer.text
        before = load.heard["red"]
        assert eventually(lambda: load.heard["red"] > before + 10)
    assert set(load.heard) == {"red"}
    assert listed(server)["firm@2"]["state"] == "failed"
    assert "sha256" in listed(server)["firm@2"]["why"]


@pytest.mark.parametrize("name", ["nowhere", "firm@77", "..%2F..%2Fetc", "%00", "x" * 5000])
def test_a_model_that_does_not_exist_is_not_found(changing: tuple[Server, Path], name: str) -> None:
    answer = reload(changing[0], name)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in ("unknown_model", "not_found")
    assert len(answer.content) < 1000


def test_the_list_says_of_each_model_what_an_operator_wants_to_know(changing: tuple[Server, Path]) -> None:
    server, models = changing
    for version in ("2", "10"):
        put(models, version, "red", name="many")
    reload(server, "many@2")
    (models / "torn.toml").write_text('name = "torn"', encoding="utf-8")
    reload(server, "torn")
    found = listed(server)
    size = next((models / "many-10").glob("*.onnx")).stat().st_size
    assert found["many@10"] == {
        "model": "many@10",
        "name": "many",
        "version": "10",
        "kind": "onnx_classifier",
        "tasks": ["classify"],
        "licence": "MIT",
        "state": "ready",
        "why": None,
        "current": True,
        "pinned": False,
        "bytes": size,
    }
    assert (found["many@2"]["current"], found["many@2"]["state"]) == (False, "loaded")
    assert found["pixel_statistics@1"]["state"] == "loaded"
    assert (found["torn"]["state"], found["torn"]["model"]) == ("failed", None)
    assert found["vgg16@1"]["state"] == "not installed"
    assert "sensorium models add" in found["vgg16@1"]["why"]


def test_a_watched_folder_needs_no_word(tmp_path: Path) -> None:
    with running(tmp_path, watch_seconds=0.05) as server, asking(server.url, "fake", clients=1):
        put(tmp_path / "models", "1", "red")
        assert eventually(lambda: "net@1" in listed(server))
        with asking(server.url, "net", clients=4) as load:
            assert load.says("red")
            folder = put(tmp_path / "models", "2", "blue")
            assert load.says("blue")
            swap(folder / "card.toml", b"torn")
            assert server.logs("stays as it was")
            put(tmp_path / "models", "2", "green")
            assert load.says("green")
        assert set(load.heard) == {"red", "blue", "green"}


def test_a_server_is_ready_once_its_models_are_loaded(tmp_path: Path) -> None:
    with running(tmp_path, preload=["efficientnet_lite0", "gone"]) as server:
        assert eventually(lambda: requests.get(f"{server.url}/health/ready", timeout=10).ok)
        assert listed(server)["efficientnet_lite0@1"]["state"] == "loaded"
        assert server.logs("Model gone is not preloaded")
