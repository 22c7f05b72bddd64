"""The classic Flask contract, driven by the client that its users have."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import requests

from sensorium.errors import MissingDependency, ModelNotInstalled
from sensorium.server.facades import flask_predict
from tests.pictures import JUNK, jpeg
from tests.server.conftest import Server, eventually


def predict(server: Server, **sent: Any) -> tuple[int, Any]:
    answer = requests.post(f"{server.url}/predict", timeout=10, **sent)
    return answer.status_code, answer.json()


def test_a_picture_is_answered_by_class_and_prob(server: Server) -> None:
    status, answer = predict(server, files={"file": ("dog.jpg", jpeg())}, data={"model": "FAKE"})
    assert status == 200
    assert answer == {"results": [{"class": "golden_retriever", "prob": 0.93}]}


@pytest.mark.parametrize("data", [{}, {"model": ""}])
def test_no_model_means_the_default(server: Server, data: dict[str, str]) -> None:
    status, _ = predict(server, files={"file": ("dog.jpg", jpeg())}, data=data)
    assert status == 200


@pytest.mark.parametrize(
    "sent",
    [{}, {"data": {"model": "fake"}}, {"files": {"picture": ("a.jpg", jpeg())}}, {"files": {"file": ("", b"")}}],
    ids=["nothing", "a field only", "another field", "an empty field"],
)
def test_no_file_is_told_to_the_letter(server: Server, sent: dict[str, Any]) -> None:
    assert predict(server, **sent) == (400, {"error": "No file uploaded"})


@pytest.mark.parametrize("model", ["alexnet", 201 * "a", "\N{SNOWMAN}"])
def test_an_unknown_model_is_told_to_the_letter(server: Server, model: str) -> None:
    sent = {"files": {"file": ("a.jpg", jpeg())}, "data": {"model": model}}
    assert predict(server, **sent) == (400, {"error": "Invalid model"})


def test_the_model_may_stand_in_the_query(server: Server) -> None:
    sent = {"files": {"file": ("a.jpg", jpeg())}, "params": {"model": "alexnet"}}
    assert predict(server, **sent) == (400, {"error": "Invalid model"})


def test_several_files_are_answered_in_order_with_what_each_would_have_got_alone(server: Server) -> None:
    files = [("file", ("a.jpg", jpeg(seed=1))), ("file", ("b.jpg", JUNK)), ("file", ("c.jpg", jpeg(seed=2)))]
    status, answer = predict(server, files=files)
    assert status == 200
    assert [next(iter(one)) for one in answer["results"]] == ["results", "error", "results"]
    assert "b.jpg" in answer["results"][1]["error"]


def test_a_picture_that_is_none_is_told_as_a_sentence(server: Server) -> None:
    status, answer = predict(server, files={"file": ("a.jpg", JUNK)})
    assert status == 415
    assert set(answer) == {"error"}


def test_it_is_not_for_getting(server: Server) -> None:
    assert requests.get(f"{server.url}/predict", timeout=10).status_code == 405


@pytest.mark.parametrize("kind", [ModelNotInstalled, MissingDependency])
def test_a_model_that_is_not_installed_names_the_command_that_brings_it(kind: type[ModelNotInstalled]) -> None:
    reply = flask_predict.render([kind("ResNet50 is not installed", fix="Run `sensorium models get resnet50`")], False)
    assert reply.status == 400
    assert b"sensorium models get resnet50" in reply.body


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes to wake workers by")
def test_an_asynchronous_prediction_is_a_job(server: Server) -> None:
    files = [("file", ("a.jpg", jpeg(width=30))), ("file", ("b.jpg", JUNK))]
    answer = requests.post(f"{server.url}/predict?async=1", files=files, data={"model": "FAKE"}, timeout=10)
    job = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (202, job["status_url"])
    assert (job["task"], job["status_url"]) == ("classify", f"/v1/jobs/{job['id']}")
    at = server.url + job["status_url"]
    assert eventually(lambda: requests.get(at, timeout=10).json()["ended"])
    outcomes = {one["index"]: one for one in requests.get(at, timeout=10).json()["outcomes"]}
    assert outcomes[0]["result"]["labels"][0]["name"] == "golden retriever"
    assert outcomes[1]["error"]["code"] == "unidentified_media"


@pytest.mark.parametrize(("said", "status"), [("0", 200), ("false", 200), ("perhaps", 400), ("", 400)])
def test_async_is_yes_or_no(server: Server, said: str, status: int) -> None:
    sent = {"files": {"file": ("a.jpg", jpeg())}, "params": {"async": said}}
    assert predict(server, **sent)[0] == status


def test_an_asynchronous_prediction_without_a_file_is_refused_at_once(server: Server) -> None:
    assert predict(server, params={"async": "1"}) == (400, {"error": "No file uploaded"})
