"""The classic routes that ask about a picture."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from sensorium.schemas.ask import AskRequest
from sensorium.server.facades import analyze_upload
from sensorium.server.facades.base import Message, Upload
from tests.pictures import JUNK, jpeg, png
from tests.server.conftest import Server
from tests.server.test_streams import talking
from tests.server.wire import data_url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with talking(tmp_path_factory.mktemp("classic"), heartbeat_seconds=0.1) as started:
        yield started


def image(server: Server, **fields: Any) -> requests.Response:
    sent = {"image_url": data_url(png()), "prompt": "What is this?", **fields}
    sent = {name: value for name, value in sent.items() if value is not None}
    return requests.post(f"{server.url}/v1/analyze/image", json=sent, timeout=10)


def upload(server: Server, **sent: Any) -> requests.Response:
    return requests.post(f"{server.url}/v1/analyze/upload", timeout=10, **sent)


def test_a_picture_by_url_is_answered_with_an_id_of_its_own(server: Server) -> None:
    answers = [image(server).json() for _ in range(2)]
    assert answers[0]["result"] == "A cat on a mat."
    assert all(set(answer) == {"id", "result"} for answer in answers)
    assert all(re.fullmatch(r"img-[0-9a-f]{8}", answer["id"]) for answer in answers)
    assert answers[0]["id"] != answers[1]["id"]


@pytest.mark.parametrize("url", [None, ""])
def test_without_a_url_it_is_told_to_the_letter(server: Server, url: str | None) -> None:
    answer = image(server, image_url=url)
    assert (answer.status_code, answer.json()) == (400, {"error": "image_url is required"})


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"prompt": None},
        {"detail": "original"},
        {"max_tokens": 0},
        {"max_tokens": 4097},
        {"stream": "perhaps"},
        {"image_url": 7},
        {"image_url": "ftp://example.com/a.jpg"},
        {"image_url": "data:image/png;base64,!"},
    ],
)
def test_what_is_out_of_bounds_is_refused(server: Server, fields: dict[str, Any]) -> None:
    answer = image(server, **fields)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


def test_a_stream_is_pieces_and_then_done(server: Server) -> None:
    blocks = image(server, stream=True).text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    pieces = [json.loads(block.removeprefix("data: "))["content"] for block in blocks[:-2]]
    assert pieces == ["A ", "cat ", "on ", "a ", "mat."]


def test_a_stream_that_fails_is_not_done(tmp_path_factory: pytest.TempPathFactory) -> None:
    with talking(tmp_path_factory.mktemp("torn"), models={"ask": ["torn"]}) as server:
        blocks = image(server, stream=True).text.split("\n\n")
    assert [list(json.loads(block.removeprefix("data: "))) for block in blocks[:-1]] == [["content"], ["error"]]


def test_a_picture_that_is_none_is_told_before_a_stream_begins(server: Server) -> None:
    answer = image(server, image_url=data_url(JUNK), stream=True)
    assert answer.status_code == 415
    assert set(answer.json()) == {"error"}


def test_an_upload_is_answered_with_an_id_of_its_own(server: Server) -> None:
    answer = upload(server, files={"file": ("a.jpg", jpeg())}, data={"prompt": "What is this?"})
    assert answer.json()["result"] == "A cat on a mat."
    assert re.fullmatch(r"upload-[0-9a-f]{8}", answer.json()["id"])


def test_an_upload_may_be_streamed(server: Server) -> None:
    answer = upload(server, files={"file": ("a.jpg", jpeg())}, data={"stream": "true"})
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("query", "fields", "prompt"),
    [
        ({}, {}, "描述这张图片"),
        ({"prompt": "Where?"}, {}, "Where?"),
        ({}, {"prompt": "Who?"}, "Who?"),
        ({"prompt": "Where?"}, {"prompt": "Who?"}, "Who?"),
    ],
)
def test_the_prompt_stands_in_the_form_or_the_query(query: Any, fields: Any, prompt: str) -> None:
    from sensorium.media.source import Source

    files = (Upload("file", "a.png", Source.held(png())),)
    plan = analyze_upload.parse(Message("POST", "/v1/analyze/upload", "", query=query, fields=fields, files=files))
    (request,) = plan.requests
    assert isinstance(request, AskRequest)
    assert request.prompt == prompt


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({}, 400),
        ({"data": {"prompt": "Who?"}}, 400),
        ({"files": [("file", ("a.jpg", jpeg())), ("file", ("b.jpg", jpeg()))]}, 400),
        ({"files": {"file": ("a.jpg", jpeg())}, "data": {"prompt": ""}}, 400),
        ({"files": {"file": ("a.jpg", JUNK)}}, 415),
    ],
)
def test_a_bad_upload_is_told(server: Server, sent: dict[str, Any], status: int) -> None:
    answer = upload(server, **sent)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}


def test_health_is_told_as_the_classic_service_did(server: Server) -> None:
    assert requests.get(f"{server.url}/health", timeout=10).json() == {"status": "healthy", "service": "sensorium"}
