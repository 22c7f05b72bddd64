"""The official `openai` client, unchanged."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.keyring import kept_key
from tests.pictures import JUNK, png
from tests.sdks.serving import Counted, in_process, over_a_socket
from tests.server.conftest import Server, eventually

QUESTION: list[Any] = [{"role": "user", "content": "What is it?"}]


class Recipe(BaseModel):
    name: str
    steps: list[str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with over_a_socket(tmp_path_factory.mktemp("sdks")) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20) as made:
        yield made


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[tuple[AsyncOpenAI, Counted]]:
    async with (
        in_process(tmp_path) as (http, counted),
        AsyncOpenAI(base_url="http://server/v1", api_key="none", http_client=http, max_retries=2) as made,
    ):
        yield made, counted


def seen(data: bytes, **more: Any) -> list[Any]:
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url, **more}}]
    return [{"role": "user", "content": parts}]


def listen(stream: Any, heard: list[str | None]) -> None:
    """Read a stream to its end; what was heard stays when it breaks."""
    for chunk in stream:
        heard.append(chunk.choices[0].delta.content)  # noqa: PERF401 - a comprehension would lose it


def test_a_plain_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="talker", messages=QUESTION, max_tokens=20, temperature=0)
    assert answer.choices[0].message.content == "A cat on a mat."
    assert answer.choices[0].finish_reason == "stop"
    assert answer._request_id
    assert answer.id.endswith(answer._request_id)


def test_how_the_caller_s_key_stands_is_read_from_the_raw_answer(tmp_path: Path) -> None:
    key = kept_key(tmp_path / "data", "shop", requests_per_minute=3)
    with (
        over_a_socket(tmp_path, auth="on") as keyed,
        OpenAI(base_url=f"{keyed.url}/v1", api_key=key, max_retries=0, timeout=20) as made,
    ):
        raw = made.chat.completions.with_raw_response.create(model="talker", messages=QUESTION)
        assert raw.headers["x-ratelimit-limit-requests"] == "3"
        assert raw.headers["x-ratelimit-remaining-requests"] == "2"
        assert raw.headers["x-ratelimit-reset-requests"].endswith("s")
        assert raw.request_id == raw.headers["x-request-id"]
        assert raw.parse().choices[0].message.content == "A cat on a mat."
        with made.chat.completions.with_streaming_response.create(
            model="talker", messages=QUESTION, stream=True
        ) as streamed:
            assert streamed.headers["x-ratelimit-remaining-requests"] == "1"


def test_a_picture_in_base64(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="talker", messages=seen(png(300, 200), detail="high"))
    assert answer.choices[0].message.content


def test_a_stream(client: OpenAI) -> None:
    options: Any = {"include_usage": True}
    with client.chat.completions.create(
        model="talker", messages=QUESTION, stream=True, stream_options=options
    ) as stream:
        told = [choice for chunk in stream for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in told) == "A cat on a mat."
    assert told[-1].finish_reason == "stop"


def test_a_stream_by_the_client_s_own_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model="talker", messages=QUESTION) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_completion().choices[0].message.content == "A cat on a mat."
    assert {"chunk", "content.delta", "content.done"} <= kinds


def test_signs_of_life_break_no_stream(client: OpenAI) -> None:
    with client.chat.completions.create(model="slowly", messages=QUESTION, stream=True) as stream:
        words = [choice.delta.content for chunk in stream for choice in chunk.choices]
    assert "".join(word or "" for word in words) == "late later"


def test_a_broken_stream_raises(client: OpenAI) -> None:
    heard: list[str | None] = []
    with pytest.raises(openai.APIError) as failed:
        listen(client.chat.completions.create(model="torn", messages=QUESTION, stream=True), heard)
    assert heard == ["", "half an "]
    assert failed.value.code == "stream_broken"


def test_an_answer_parsed_by_a_schema(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model="recipe", messages=QUESTION, response_format=Recipe)
    assert answer.choices[0].message.parsed == Recipe(name="soup", steps=["boil", "eat"])


def test_failures_are_the_client_s_own_exceptions(client: OpenAI) -> None:
    def fails(**more: Any) -> Any:
        with pytest.raises(openai.APIStatusError) as failed:
            client.chat.completions.create(**{"model": "talker", "messages": QUESTION, **more})
        return failed.value

    unknown = fails(model="talkr")
    assert isinstance(unknown, openai.NotFoundError)
    assert (unknown.code, unknown.param, unknown.type) == ("model_not_found", "model", "invalid_request_error")
    assert "talker" in unknown.message
    assert isinstance(fails(messages=[]), openai.BadRequestError)
    assert fails(messages=[{"role": "user", "content": ""}]).param == "messages[0].content"
    assert isinstance(fails(messages=seen(JUNK)), openai.BadRequestError)
    assert isinstance(fails(n=2), openai.BadRequestError)
    assert fails(model="wordy").code == "context_length_exceeded"
    assert isinstance(fails(model="limited"), openai.RateLimitError)
    assert isinstance(fails(model="failing"), openai.InternalServerError)
    assert fails(model="failing").request_id


def test_models_are_listed_and_told(client: OpenAI) -> None:
    assert {"talker", "fake"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("talker").owned_by == "sensorium"
    with pytest.raises(openai.NotFoundError) as failed:
        client.models.retrieve("nobody/none")
    assert failed.value.code == "model_not_found"


def test_a_wrong_key_is_told(tmp_path: Path) -> None:
    with (
        over_a_socket(tmp_path, auth="on") as locked,
        OpenAI(base_url=f"{locked.url}/v1", api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as failed,
    ):
        client.chat.completions.create(model="talker", messages=QUESTION)
    assert failed.value.code == "invalid_api_key"


def test_leaving_a_stream_ends_the_work(client: OpenAI, server: Server) -> None:
    with client.chat.completions.create(model="never", messages=QUESTION, stream=True) as stream:
        next(iter(stream))
    assert eventually(lambda: "POST /v1/chat/completions 200" in server.log())


async def test_without_a_socket_it_is_the_same(inside: tuple[AsyncOpenAI, Counted]) -> None:
    client, _ = inside
    answer = await client.chat.completions.create(model="talker", messages=QUESTION)
    assert answer.choices[0].message.content == "A cat on a mat."
    stream = await client.chat.completions.create(model="talker", messages=QUESTION, stream=True)
    words = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert "".join(words) == "A cat on a mat."


@pytest.mark.parametrize(("model", "asked"), [("failing", 1), ("wordy", 1), ("limited", 3)])
async def test_what_was_retried_here_is_not_retried_by_the_client(
    inside: tuple[AsyncOpenAI, Counted], model: str, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, counted = inside
    monkeypatch.setattr(client, "_calculate_retry_timeout", lambda *_: 0.0)  # not how often, only how soon
    with pytest.raises(openai.APIStatusError):
        await client.chat.completions.create(model=model, messages=QUESTION)
    assert counted.statuses.total() == asked


async def test_a_client_that_does_not_retry_asks_once(inside: tuple[AsyncOpenAI, Counted]) -> None:
    client, counted = inside
    with pytest.raises(openai.RateLimitError):
        await client.with_options(max_retries=0).chat.completions.create(model="limited", messages=QUESTION)
    assert counted.statuses.total() == 1
