"""OpenAI's chat completions as bytes: what a stream looks like, and how failures are told."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from sensorium import errors
from sensorium.errors import InvalidRequest, ProviderLimited, RateLimited, SensoriumError
from sensorium.schemas.ask import Answer, AskRequest, Picture, Words
from sensorium.schemas.base import Meta, Skipped, Usage
from sensorium.schemas.events import Delta, Progress
from sensorium.server.facades import openai
from sensorium.server.facades.base import Message
from tests.keyring import kept_key
from tests.pictures import JUNK, png
from tests.server.conftest import Server
from tests.server.test_streams import talking
from tests.server.wire import data_url

SKIPPED = Skipped(engine="talker@1", code="provider_failed", message="It failed.")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with talking(tmp_path_factory.mktemp("openai"), heartbeat_seconds=0.1, max_bytes=100_000) as started:
        yield started


def said(content: Any = "What is it?", role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": content}]


def picture(url: Any, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def post(server: Server, **fields: Any) -> requests.Response:
    sent = {"model": "talker", "messages": said(), **fields}
    return requests.post(f"{server.url}/v1/chat/completions", json=sent, timeout=10)


def parsed(**fields: Any) -> AskRequest:
    plan = openai.parse(Message("POST", openai.FACADE.path, TRACE, fields={"messages": said(), **fields}, typed=True))
    (request,) = plan.requests
    assert isinstance(request, AskRequest)
    return request


# What is asked


def test_messages_keep_their_roles_parts_and_order() -> None:
    first = [{"type": "text", "text": "Look:"}, picture("https://example.com/a.jpg", detail="low")]
    request = parsed(
        messages=[*said("Be brief.", "developer"), *said(first), *said("A cat.", "assistant"), *said("Sure?")]
    )
    told = request.conversation()
    assert [message.role for message in told] == ["system", "user", "assistant", "user"]
    words, seen = told[1].parts
    assert isinstance(words, Words)
    assert isinstance(seen, Picture)
    assert (words.text, seen.image.url, seen.detail) == ("Look:", "https://example.com/a.jpg", "low")


def test_the_newer_name_of_the_longest_answer_goes_before_the_older() -> None:
    assert parsed(max_tokens=5).max_tokens == 5
    assert parsed(max_tokens=5, max_completion_tokens=7).max_tokens == 7
    assert parsed(max_completion_tokens=None).max_tokens == AskRequest(prompt="?").max_tokens


def test_stop_is_a_text_or_a_list() -> None:
    assert [parsed(stop=stop).stop for stop in ("a", ["a", "b"], None, [])] == [("a",), ("a", "b"), (), ()]


def test_a_format_becomes_a_schema() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    strict = {"type": "json_schema", "json_schema": {"name": "it", "strict": True, "schema": schema}}
    assert parsed(response_format=strict).json_schema == schema
    assert parsed(response_format={"type": "json_object"}).json_schema == {"type": "object"}
    assert parsed(response_format={"type": "text"}).json_schema is None


def test_fields_that_are_not_known_are_left_alone() -> None:
    more = {"logprobs": True, "user": "me", "tools": [{"type": "function"}], "metadata": {}, "n": 1, "brand_new": [1]}
    assert parsed(temperature=0.5, seed=3, **more) == parsed(temperature=0.5, seed=3)


def test_who_may_answer_and_what_it_may_cost_are_kept_from_openai_s_clients_too() -> None:
    more = {"privacy": "local", "max_cost": 0.01, "cache": False, "timeout": 5}
    plan = openai.parse(
        Message("POST", openai.FACADE.path, TRACE, fields={"messages": said(), **more, "stream": True}, typed=True)
    )
    assert (plan.remote, plan.max_cost, plan.cache, plan.timeout, plan.stream) == (False, 0.01, False, 5.0, True)
    plan = openai.parse(
        Message("POST", openai.FACADE.path, TRACE, fields={"messages": said(), **dict.fromkeys(more)}, typed=True)
    )
    assert (plan.remote, plan.max_cost, plan.cache, plan.timeout) == (True, None, True, None)


def test_a_remote_model_is_refused_where_privacy_is_local(server: Server) -> None:
    told = post(server, model="gpt-4o", privacy="local")
    assert told.json()["error"]["code"] == "remote_forbidden"


def test_empty_instructions_and_replies_are_passed_over() -> None:
    request = parsed(messages=[*said("", "system"), *said(None, "assistant"), *said("Hello")])
    assert [message.role for message in request.conversation()] == ["user"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages"),
    "messages are text": ({"messages": "Hello"}, "messages"),
    "a message is text": ({"messages": ["Hello"]}, "messages[0]"),
    "an empty prompt": ({"messages": said("")}, "messages[0].content"),
    "empty parts": ({"messages": said([{"type": "text", "text": ""}])}, "messages[0].content"),
    "no parts": ({"messages": said([])}, "messages[0].content"),
    "no content": ({"messages": [{"role": "user"}]}, "messages[0].content"),
    "only instructions": ({"messages": said("", "system")}, "prompt"),
    "a strange privacy": ({"privacy": "locl"}, "privacy"),
    "a strange role": ({"messages": said("Hello", "tool")}, "messages[0].role"),
    "sound": ({"messages": said([{"type": "input_audio", "input_audio": {}}])}, "messages[0].content[0]"),
    "a file": ({"messages": said([{"type": "file", "file": {}}])}, "messages[0].content[0].file.file_id"),
    "no address": ({"messages": said([picture(None)])}, "messages[0].content[0].image_url.url"),
    "a strange detail": (
        {"messages": said([picture("https://a.example/", detail="huge")])},
        "messages[0].content[0].image_url.detail",
    ),
    "two answers": ({"n": 2}, "n"),
    "spoken": ({"modalities": ["text", "audio"]}, "modalities"),
    "strange modalities": ({"modalities": 5}, "modalities"),
    "a tool that must be called": ({"tool_choice": "required"}, "tool_choice"),
    "a strange format": ({"response_format": {"type": "xml"}}, "response_format"),
    "a format without schema": ({"response_format": {"type": "json_schema"}}, "response_format"),
    "a format that is text": ({"response_format": "json_schema"}, "response_format"),
    "no tokens": ({"max_tokens": 0}, "max_tokens"),
    "more tokens than can be counted": ({"max_tokens": 10**30}, "max_tokens"),
    "too hot": ({"temperature": 9}, "temperature"),
    "a strange stream": ({"stream": "yes"}, "stream"),
}


@pytest.mark.parametrize(("fields", "param"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_answered_names_its_field(server: Server, fields: dict[str, Any], param: str) -> None:
    answer = post(server, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["message"]


def test_a_body_that_is_no_json_is_told_in_the_same_shape(server: Server) -> None:
    for sent in ({"data": "{"}, {"data": "messages=hello"}, {"files": {"file": b"a"}}):
        kind = {"Content-Type": "application/json"} if sent.get("data") == "{" else None
        answer = requests.post(f"{server.url}/v1/chat/completions", headers=kind, timeout=10, **sent)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


BAD_PICTURES = {
    "base64": ("data:image/png;base64,!!!", 400, "invalid_base64", "base64"),
    "junk": (data_url(JUNK), 400, "invalid_image_format", ""),
    "cut": (data_url(png(300, 200)[:-400]), 400, "invalid_image_format", ""),
    "private": ("http://127.0.0.1:1/a.png", 400, "invalid_image_url", "127.0.0.1"),
    "path": ("/etc/passwd", 400, "invalid_request", "neither"),
    "large": (data_url(bytes(140_000)), 413, "image_too_large", "100,000"),
}


@pytest.mark.parametrize(("url", "status", "code", "told"), BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_a_bad_picture_is_a_bad_request(server: Server, url: str, status: int, code: str, told: str) -> None:
    for stream in (False, True):
        answer = post(server, messages=said([{"type": "text", "text": "What?"}, picture(url)]), stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert told in answer.json()["error"]["message"]


def test_a_picture_that_is_too_large_says_its_size(server: Server) -> None:
    def told(size: int) -> str:
        answer = post(server, messages=said([picture(data_url(bytes(size)))]))
        assert answer.status_code == 413
        return str(answer.json()["error"]["message"])

    for size, has in ((101_000, "101,000 bytes"), (140_000, "about 140,001 bytes")):
        assert has in told(size)
        assert "100,000" in told(size)
    assert re.search(r"it has 266,\d+ bytes, and 205,\d+ are allowed: a file may have 100,000", told(200_000))


def test_an_unknown_model_names_the_near_ones(server: Server) -> None:
    for stream in (False, True):
        answer = post(server, model="talkr", stream=stream)
        error = answer.json()["error"]
        assert answer.status_code == 404
        assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")
        assert "talker" in error["message"]


# What is answered


def test_an_answer_has_openai_s_shape(server: Server) -> None:
    answer = post(server)
    told = answer.json()
    assert answer.headers["openai-processing-ms"].isdecimal()
    assert told["object"] == "chat.completion"
    assert told["id"] == f"chatcmpl-{answer.headers['X-Request-Id']}"
    assert isinstance(told["created"], int)
    assert told["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "A cat on a mat.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


def test_a_picture_in_base64_is_seen(server: Server) -> None:
    wrapped = base64.encodebytes(png(300, 200)).decode()
    for url in (data_url(png(300, 200)), f"data:image/png;base64,{wrapped}"):
        assert post(server, messages=said([{"type": "text", "text": "What?"}, picture(url)])).status_code == 200


def test_usage_is_told_with_what_the_pictures_took() -> None:
    usage = Usage(input_tokens=812, output_tokens=42, image_tokens=765, cached_tokens=3)
    reply = openai.render([Answer(text="A cat.", meta=Meta(usage=usage))], context())
    assert json.loads(reply.body)["usage"] == {
        "prompt_tokens": 812,
        "completion_tokens": 42,
        "total_tokens": 854,
        "prompt_tokens_details": {"cached_tokens": 3, "image_tokens": 765},
    }
    unknown = json.loads(openai.render([Answer(text="A cat.")], context()).body)
    assert unknown["usage"] is None


def test_a_structured_answer_is_the_value_as_json() -> None:
    reply = openai.render([Answer(text="Sure: {name: cat}", data={"name": "cat"})], context())
    assert json.loads(reply.body)["choices"][0]["message"]["content"] == '{"name":"cat"}'


def context(usage: bool = False) -> openai.Context:
    return openai.Context(f"chatcmpl-{TRACE}", "talker", usage, TRACE, 1_795_000_000)


def chunks(data: bytes) -> list[Any]:
    blocks = data.decode().split("\n\n")
    assert blocks.pop() == ""
    return [text if (text := block.removeprefix("data: ")) == "[DONE]" else json.loads(text) for block in blocks]


def test_a_stream_is_chunks_that_share_an_id_and_then_done(server: Server) -> None:
    answer = post(server, stream=True)
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    *told, done = chunks(answer.content)
    assert done == "[DONE]"
    assert len({(one["id"], one["created"], one["model"], one["object"]) for one in told}) == 1
    choices = [one["choices"][0] for one in told]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "A cat on a mat."
    assert choices[-1]["delta"] == {}
    assert [choice["finish_reason"] for choice in choices] == [None] * 6 + ["stop"]
    assert not any("usage" in one for one in told)


def test_usage_comes_in_a_chunk_of_its_own_when_it_is_wanted() -> None:
    encoder = openai.Chunks(context(usage=True))
    answer = Answer(text="Hi", meta=Meta(usage=Usage(input_tokens=5, output_tokens=2)), ending="length")
    *told, done = chunks(encoder.start() + encoder.event(Delta("Hi")) + encoder.end(answer))
    assert [one["usage"] for one in told[:-1]] == [None] * 3
    assert told[-2]["choices"][0]["finish_reason"] == "length"
    assert (told[-1]["choices"], told[-1]["usage"]["total_tokens"]) == ([], 7)
    assert told[-1]["id"] == told[0]["id"]
    assert done == "[DONE]"


def test_an_answer_that_comes_whole_is_streamed_in_one_piece() -> None:
    encoder = openai.Chunks(context())
    assert encoder.event(Progress(1, 2)) == b""
    *told, _ = chunks(encoder.start() + encoder.end(Answer(text="All at once")))
    assert [one["choices"][0]["delta"].get("content") for one in told] == ["", "All at once", None]


@pytest.mark.parametrize(
    ("meta", "called"), [(Meta(engine="talker@1"), "talker"), (Meta(skipped=(SKIPPED,)), "qwen-2026-01-01")]
)
def test_streams_and_whole_answers_end_with_the_same_name_of_the_model(meta: Meta, called: str) -> None:
    answer = Answer(text="Hi", answered_by="qwen-2026-01-01", meta=meta)
    whole = json.loads(openai.render([answer], context()).body)
    encoder = openai.Chunks(context())
    first, *_, last, _ = chunks(encoder.start() + encoder.event(Delta("Hi")) + encoder.end(answer))
    assert (first["model"], last["model"], whole["model"]) == ("talker", called, called)


def test_words_of_any_kind_pass_unharmed() -> None:
    words = 'quote " line\nbreak\r\n\ttab \u2028 描述 \U0001f600 \x00'
    (told,) = chunks(openai.Chunks(context()).event(Delta(words)))
    assert told["choices"][0]["delta"]["content"] == words


def test_there_is_no_id_and_no_retry_and_signs_of_life_are_single_lines(server: Server) -> None:
    text = post(server, model="slowly", stream=True).text
    lines = text.split("\n")
    assert ": keep-alive" in lines
    assert {line.partition(":")[0] for line in lines} == {"", "data"}
    assert all(lines[number + 1] for number, line in enumerate(lines) if line.startswith(":"))


@pytest.mark.parametrize(("model", "code"), [("torn", "stream_broken"), ("late", "provider_failed")])
def test_a_stream_that_fails_ends_with_an_error_and_is_not_done(server: Server, model: str, code: str) -> None:
    answer = post(server, model=model, stream=True)
    told = chunks("\n".join(line for line in answer.text.split("\n") if not line.startswith(":")).encode())
    assert told[-1]["error"]["code"] == code
    assert "[DONE]" not in told


# How failures are told


def refused(error: SensoriumError) -> tuple[int, str, str, dict[str, str]]:
    reply = openai.refuse(error, TRACE)
    told = json.loads(reply.body)["error"]
    assert told["trace"] == TRACE
    return reply.status, told["type"], told["code"], {name.decode(): value.decode() for name, value in reply.headers}


@pytest.mark.parametrize(
    ("kind", "status", "type_", "code"),
    [
        (errors.ContextTooLong, 400, "invalid_request_error", "context_length_exceeded"),
        (errors.ContentFiltered, 400, "invalid_request_error", "content_filter"),
        (errors.Unauthenticated, 401, "authentication_error", "invalid_api_key"),
        (errors.RemoteForbidden, 403, "permission_error", "remote_forbidden"),
        (errors.BudgetSpent, 429, "insufficient_quota", "insufficient_quota"),
        (errors.TooExpensive, 402, "insufficient_quota", "too_expensive"),
        (errors.ProviderLimited, 429, "rate_limit_error", "rate_limit_exceeded"),
        (errors.MissingKey, 424, "server_error", "missing_key"),
        (errors.ProviderFailed, 502, "server_error", "provider_failed"),
        (errors.EngineFailed, 500, "server_error", "engine_failed"),
    ],
)
def test_errors_have_the_types_and_codes_that_clients_know(
    kind: type[SensoriumError], status: int, type_: str, code: str
) -> None:
    assert refused(kind("It went wrong"))[:3] == (status, type_, code)


def test_clients_are_kept_from_retrying_what_was_retried_here() -> None:
    for tried in (errors.ProviderFailed, errors.ProviderLimited, errors.Unavailable, errors.DeadlineExceeded):
        assert refused(tried("It went wrong"))[3]["x-should-retry"] == "false"
    for worth in (errors.RateLimited, errors.Overloaded, errors.ServiceClosed):
        assert "x-should-retry" not in refused(worth("Not now"))[3]
    assert "x-should-retry" not in refused(InvalidRequest("Wrong"))[3]


def test_waiting_is_told_in_all_the_ways_that_clients_read() -> None:
    told = refused(RateLimited("Too many", retry_after_seconds=1.25))[3]
    assert (told["retry-after"], told["retry-after-ms"]) == ("2", "1250")


def test_callers_with_a_rate_are_told_how_they_stand(tmp_path: Path) -> None:
    rated, free = (
        kept_key(tmp_path / "data", name, requests_per_minute=rate) for name, rate in (("rated", 3), ("free", None))
    )
    fields = {"model": "talker", "messages": said()}

    def ask(key: str, route: str = "chat/completions", **more: Any) -> requests.Response:
        sent = {**fields, **more}
        return requests.post(f"{keyed.url}/v1/{route}", json=sent, headers={"X-API-Key": key}, timeout=10)

    def standing(told: requests.Response) -> tuple[int, str, str]:
        head = told.headers
        assert 0 < float(head["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
        return told.status_code, head["x-ratelimit-limit-requests"], head["x-ratelimit-remaining-requests"]

    with talking(tmp_path, auth="on") as keyed:
        assert standing(ask(rated)) == (200, "3", "2")
        assert standing(ask(rated, stream=True)) == (200, "3", "1")
        assert standing(ask(rated, model="nobody")) == (404, "3", "0")
        refusal = ask(rated)
        assert standing(refusal) == (429, "3", "0")
        assert refusal.headers["x-request-id"]
        for told in (ask(free), ask("none"), ask(rated, "ask")):
            assert "x-ratelimit-limit-requests" not in told.headers


def test_a_provider_s_spent_quota_is_told_as_one() -> None:
    error = ProviderLimited("The provider's quota is used up")
    error.retryable = False  # type: ignore[misc] # as the engines say it
    assert refused(error)[1:3] == ("insufficient_quota", "insufficient_quota")


# The models


def test_the_list_of_models_serves_openai_s_clients_and_operators(server: Server) -> None:
    told = requests.get(f"{server.url}/v1/models", timeout=10).json()
    assert told["object"] == "list"
    ids = [one["id"] for one in told["data"]]
    assert "talker" in ids
    assert "efficientnet_lite0" not in ids, "it cannot be asked questions"
    assert len(ids) == len(set(ids))
    assert {"id", "object", "created", "owned_by"} == set(told["data"][0])
    assert "efficientnet_lite0@1" in [one["model"] for one in told["models"]]


def test_one_model_is_told_and_its_name_may_have_slashes(server: Server) -> None:
    told = requests.get(f"{server.url}/v1/models/talker", timeout=10)
    assert told.json() == {"id": "talker", "object": "model", "created": 0, "owned_by": "sensorium"}
    far = requests.get(f"{server.url}/v1/models/vllm/Qwen/Qwen2.5-VL-7B-Instruct", timeout=10)
    assert (far.json()["id"], far.json()["owned_by"]) == ("vllm/Qwen/Qwen2.5-VL-7B-Instruct", "vllm")
    gone = requests.get(f"{server.url}/v1/models/nowhere/talker", timeout=10)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
    reloaded = requests.post(f"{server.url}/v1/models/nowhere/talker/reload", timeout=10)
    assert (reloaded.status_code, reloaded.json()["error"]["code"]) == (404, "unknown_model")
