"""A server's answers as they come: the same events as here, errors of the same kinds, and no end that is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import sensorium
from sensorium import aio
from sensorium.client import Client
from sensorium.engine import Delta, Event, Item, Progress
from sensorium.errors import (
    InvalidAnswer,
    InvalidRequest,
    Overloaded,
    ProviderFailed,
    SensoriumError,
    ServerUnreachable,
    StreamBroken,
    UnknownModel,
)
from tests.client.conftest import ANSWER, Handler, Speaking
from tests.fakes import put_fake
from tests.pictures import png
from tests.server.conftest import Server, running
from tests.upstream import Upstream, upstream

FAKES = {
    "talker": 'words = ["A ", "cat."]',
    "late": 'seconds = 0.2\nfail = "provider_failed"',
    "torn": 'words = ["half an "]\nfail = "stream_broken"',
    "slowly": 'words = ["late ", "later"]\nseconds = 0.4',
}

Told = list[tuple[str, Any]]
WORDS: Told = [("delta", {"text": "a "}), ("delta", {"text": "cat"})]
WHOLE: Told = [("result", ANSWER), ("end", {"whole": True})]


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with upstream() as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, provider: Upstream) -> Iterator[Server]:
    """It gives a sign of life every tenth of a second."""
    folder = tmp_path_factory.mktemp("streaming")
    for name, quirks in FAKES.items():
        put_fake(folder / "models", name, quirks)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OPENAI_BASE_URL", provider.openai)
        environment.setenv("OPENAI_API_KEY", "key")
        settings = {"heartbeat_seconds": 0.1, "resume_grace_seconds": 60, "models": {"ask": ["talker"]}}
        with running(folder, cache="off", **settings) as started:
            yield started


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with sensorium.connect(server.url, retries=0) as connected:
        yield connected


def telling(*answers: Told, cut: bool = False, silent: float = 0.0, beats: int = 0) -> Handler:
    """One answer for each request; the last again and again. What is said here comes before its last event, or after it."""
    left = list(answers)

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        events = left.pop(0) if len(left) > 1 else left[0]
        for number, (kind, data) in enumerate(events):
            for _ in range(beats if number == len(events) - 1 else 0):
                await response.write(b": keep-alive\n")
                await asyncio.sleep(0.05)
            await response.write(f"id: x:{number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())
        await asyncio.sleep(silent)
        if cut and request.transport is not None:
            await asyncio.sleep(0.01)
            request.transport.abort()
        return response

    return handle


async def heard(url: str, **options: Any) -> tuple[list[Event], Any]:
    """The events, and the result or the error."""
    events: list[Event] = []
    async with aio.connect(url, **{"retries": 0, **options}) as client:
        told = client.stream.classify(png())
        try:
            async for event in told:
                events.append(event)  # noqa: PERF401 - a comprehension would lose them
        except SensoriumError as error:
            return events, error
    return events, told.result


def test_words_come_one_by_one_and_then_there_is_the_whole_answer(client: Client) -> None:
    events = client.stream.ask(png(), "What is this?", model="talker")
    assert list(events) == [Delta("A "), Delta("cat.")]
    assert events.result.text == "A cat."
    assert events.result.meta.engine == "talker@1"


async def test_words_come_one_by_one_in_any_loop(server: Server) -> None:
    async with aio.connect(server.url) as client:
        events = client.stream.ask(prompt="What is this?")
        assert [event async for event in events] == [Delta("A "), Delta("cat.")]
        assert events.result.text == "A cat."


def test_words_are_there_before_the_answer_is(client: Client) -> None:
    said = iter(client.stream.ask(prompt="What is this?", model="slowly"))
    assert next(said) == Delta("late ")


def test_what_is_wrong_is_told_as_it_is_here(client: Client) -> None:
    for fields, kind in (
        ({"model": "nobody"}, UnknownModel),
        ({"model": "late"}, ProviderFailed),  # after signs of life
        ({"model": "torn"}, StreamBroken),
        ({"timeout": 0}, InvalidRequest),
    ):
        with pytest.raises(kind) as raised:
            list(client.stream.ask(prompt="What is this?", **fields))
        assert raised.value.code == kind.code
    with pytest.raises(InvalidRequest, match="one answer"):
        client.stream.ask([png(), png()], "What is this?")
    with pytest.raises(AttributeError, match="no task 'asks'"):
        _ = client.stream.asks


def test_who_leaves_early_ends_the_work_at_the_provider(client: Client, provider: Upstream) -> None:
    said = iter(client.stream.ask(prompt="What is this?", model="openai/endless"))
    assert next(said) == Delta(" more")
    said.close()  # type: ignore[attr-defined] # it is a generator
    provider.wait(lambda seen: seen.last.ending == "left")


def test_who_leaves_and_closes_the_client_ends_the_work_too(server: Server, provider: Upstream) -> None:
    with sensorium.connect(server.url, retries=0) as client:
        said = iter(client.stream.ask(prompt="What is this?", model="openai/endless"))
        assert next(said) == Delta(" more")
        said.close()  # type: ignore[attr-defined] # it is a generator
    provider.wait(lambda seen: seen.at_once == 0)


def test_a_stream_whose_time_is_over_ends_the_work(client: Client, provider: Upstream) -> None:
    with pytest.raises(SensoriumError) as raised:
        list(client.stream.ask(prompt="What is this?", model="openai/endless", timeout=0.5))
    assert raised.value.code == "deadline_exceeded"
    provider.wait(lambda seen: seen.at_once == 0)


@pytest.mark.parametrize("name", ["../caller", "a/b", "", "é", 5, None])
async def test_a_servers_word_for_a_stream_leads_nowhere_else(speaking: Speaking, name: Any) -> None:
    asked: list[tuple[str, str]] = []
    telling_it = telling([("stream", {"id": name}), *WORDS], silent=5)

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append((request.method, request.path))
        return await telling_it(request)

    async with speaking(handle) as url:
        await heard(url, silence=0.1)
    assert asked == [("POST", "/v1/classify")]


async def test_a_server_that_knows_no_deleting_spoils_nothing(speaking: Speaking) -> None:
    asked: list[tuple[str, str]] = []
    telling_it = telling([("stream", {"id": "0" * 32}), *WORDS], silent=5)

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append((request.method, request.path))
        return web.Response(status=405) if request.method == "DELETE" else await telling_it(request)

    async with speaking(handle) as url:
        events, error = await heard(url, silence=0.5)
    assert (len(events), type(error)) == (2, StreamBroken)
    assert asked == [("POST", "/v1/classify"), ("DELETE", f"/v1/streams/{'0' * 32}")]


async def test_events_of_every_kind_are_told_and_those_of_a_newer_server_passed_over(speaking: Speaking) -> None:
    newer: Told = [
        ("progress", {"done": 1, "total": 2, "message": "half", "colour": "red"}),
        ("item", {"index": 0, "value": {"name": "cat"}}),
        ("mood", {"word": "calm"}),
        *WHOLE,
        ("delta", {"text": "after the end"}),
    ]
    async with speaking(telling(newer)) as url:
        events, result = await heard(url)
    assert events == [Progress(1, 2, "half"), Item(0, {"name": "cat"})]
    assert result.best.name == "cat"


async def test_a_server_that_tells_no_events_is_heard_whole(speaking: Speaking) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.json_response(ANSWER)

    async with speaking(handle) as url:
        events, result = await heard(url)
    assert events == []
    assert result.best.name == "cat"


Case = Callable[[], Handler]


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (lambda: telling(WORDS, cut=True), "was cut"),
        (lambda: telling(WORDS), "before its end"),
        (lambda: telling([*WORDS, WHOLE[0]]), "before its end"),
        (lambda: telling([*WORDS, WHOLE[1]]), "without a result"),
        (lambda: telling(WORDS, silent=60), "nothing came for 0.5 s"),
        (lambda: telling([*WORDS, ("delta", {"words": "x"})]), "not in the format"),
        (lambda: telling([*WORDS, ("delta", "x")]), "not in the format"),
    ],
)
async def test_an_answer_without_its_end_is_broken_after_the_words_that_came(
    speaking: Speaking, handler: Case, why: str
) -> None:
    async with speaking(handler()) as url:
        events, error = await heard(url, silence=0.5)
    assert events == [Delta("a "), Delta("cat")]
    assert isinstance(error, StreamBroken)
    assert why in str(error)


async def test_signs_of_life_keep_an_answer_alive(speaking: Speaking) -> None:
    async with speaking(telling([*WORDS, *WHOLE], beats=20)) as url:
        events, result = await heard(url, silence=0.5)
    assert len(events) == 2
    assert result.best.name == "cat"


async def test_a_result_that_is_none_is_told_as_such(speaking: Speaking) -> None:
    async with speaking(telling([("result", {"hello": "world"}), WHOLE[1]])) as url:
        assert isinstance((await heard(url))[1], InvalidAnswer)


BUSY: Told = [
    ("error", {"error": {"code": "overloaded", "message": "Full", "retryable": True, "retry_after_seconds": 0.01}}),
    ("end", {"whole": False}),
]


async def test_before_a_word_was_heard_it_is_asked_again_and_never_after(speaking: Speaking) -> None:
    async with speaking(telling([("progress", {"done": 0, "total": 1, "message": ""}), *BUSY], WORDS + WHOLE)) as url:
        events, result = await heard(url, retries=1)
    assert events == [Progress(0, 1), Delta("a "), Delta("cat")]
    assert result.best.name == "cat"
    async with speaking(telling(WORDS[:1] + BUSY, WORDS + WHOLE)) as url:
        events, error = await heard(url, retries=1)
    assert events == [Delta("a ")]
    assert isinstance(error, Overloaded)


async def test_without_a_server_there_is_no_stream() -> None:
    assert isinstance((await heard("http://127.0.0.1:9"))[1], ServerUnreachable)


def test_the_timeout_holds_for_streams_too(client: Client) -> None:
    with pytest.raises(SensoriumError) as raised:
        list(client.stream.ask(prompt="What is this?", model="slowly", timeout=0.3))
    assert raised.value.code == "deadline_exceeded"


def test_pictures_are_uploaded(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(40, 30))
    events = client.stream.classify(path, model="talker")
    assert list(events) == [Delta("A "), Delta("cat.")]
    assert events.result.image.width == 40
