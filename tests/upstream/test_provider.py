"""The fake provider itself: each fault is what it says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from tests.upstream import FAULTS, Fault, Upstream, fault_of, upstream

DIALECTS = ("openai", "anthropic", "gemini")


@pytest.fixture
def provider() -> Iterator[Upstream]:
    with upstream() as provider:
        yield provider


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def question(provider: Upstream, dialect: str, model: str, *, stream: bool = True) -> tuple[str, dict[str, Any]]:
    said = [{"role": "user", "content": "What is this?"}]
    if dialect == "openai":
        options = {"include_usage": True}
        body = {"model": model, "messages": said, "stream": stream, "stream_options": options}
        return f"{provider.openai}/chat/completions", body
    if dialect == "anthropic":
        return f"{provider.anthropic}/v1/messages", {
            "model": model,
            "messages": said,
            "stream": stream,
            "max_tokens": 9,
        }
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    contents = [{"role": "user", "parts": [{"text": "What is this?"}]}]
    return f"{provider.gemini}/models/{model}:{method}", {"contents": contents}


def test_a_name_selects_a_fault_and_how_much_of_it() -> None:
    assert fault_of("cut-3") == Fault("cut", 3)
    assert fault_of("limited-seconds-0.5") == Fault("limited-seconds", 0.5)
    assert fault_of("some/limited") == Fault("limited")
    assert fault_of("gpt-4o") == fault_of("llava:7b") == Fault("ok")
    assert all(fault_of(f"{name}-1") == Fault(name, 1) for name in FAULTS)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_it_answers_in_each_wire_format(provider: Upstream, session: aiohttp.ClientSession, dialect: str) -> None:
    url, body = question(provider, dialect, "ok")
    async with session.post(url, json=body) as response:
        events = [line[6:] for line in (await response.read()).split(b"\n") if line.startswith(b"data: ")]
    assert "".join(_said(json.loads(event)) for event in events if event != b"[DONE]") == provider.answer
    assert provider.last.words == "What is this?"
    assert provider.last.stream
    await provider.until(lambda seen: seen.last.ending == "answered")


def _said(event: dict[str, Any]) -> str:
    if "choices" in event:
        return "".join(choice["delta"].get("content", "") for choice in event["choices"])
    if "candidates" in event:
        return "".join(part["text"] for one in event["candidates"] for part in one["content"]["parts"])
    return str(event.get("delta", {}).get("text", ""))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("model", "status"),
    [
        ("limited-seconds-2", 429),
        ("status-503", 503),
        ("page", 502),
        ("refused", 400),
        ("unknown", 404),
        ("per-second-0", 429),
    ],
)
async def test_it_refuses_as_told(
    provider: Upstream, session: aiohttp.ClientSession, dialect: str, model: str, status: int
) -> None:
    url, body = question(provider, dialect, model)
    async with session.post(url, json=body) as response:
        assert response.status == status


async def test_it_fails_once_with_any_status(provider: Upstream, session: aiohttp.ClientSession) -> None:
    url, body = question(provider, "openai", "status-once-500")
    statuses = []
    for _ in range(2):
        async with session.post(url, json=body) as response:
            statuses.append(response.status)
    assert statuses == [500, 200]


async def test_it_refuses_questions_that_begin_the_answer(provider: Upstream, session: aiohttp.ClientSession) -> None:
    url, body = question(provider, "openai", "no-prefill")
    begun = {**body, "messages": [*body["messages"], {"role": "assistant", "content": "It is"}]}
    statuses = []
    for sent in (body, begun):
        async with session.post(url, json=sent) as response:
            statuses.append(response.status)
    assert statuses == [200, 400]


async def test_it_recovers_after_as_many_failures_as_told(provider: Upstream, session: aiohttp.ClientSession) -> None:
    url, body = question(provider, "openai", "flapping-2")
    statuses = []
    for _ in range(3):
        async with session.post(url, json=body) as response:
            statuses.append(response.status)
    assert statuses == [503, 503, 200]


@pytest.mark.parametrize("model", ["reset", "reset-once-1"])
async def test_it_resets_connections(provider: Upstream, session: aiohttp.ClientSession, model: str) -> None:
    url, body = question(provider, "openai", model)
    with pytest.raises(aiohttp.ClientOSError):
        await session.post(url, json=body)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_it_cuts_a_stream_after_as_many_tokens_as_told(
    provider: Upstream, session: aiohttp.ClientSession, dialect: str
) -> None:
    url, body = question(provider, dialect, "cut-3")
    with pytest.raises(aiohttp.ClientError):  # noqa: PT012 - it is the body that breaks
        async with session.post(url, json=body) as response:
            assert response.status == 200
            await response.read()
    assert provider.last.sent == 3


@pytest.mark.parametrize("model", ["hang", "stall-2"])
async def test_it_sees_that_a_client_leaves(provider: Upstream, session: aiohttp.ClientSession, model: str) -> None:
    url, body = question(provider, "openai", model)
    with pytest.raises(TimeoutError):
        async with session.post(url, json=body, timeout=aiohttp.ClientTimeout(sock_read=0.1)) as response:
            await response.read()
    await provider.until(lambda seen: seen.last.ending == "left")
    assert provider.at_once == 0
