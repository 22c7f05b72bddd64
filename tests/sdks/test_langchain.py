"""LangChain's ChatOpenAI, unchanged."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

from tests.pictures import png
from tests.sdks.serving import in_process, over_a_socket
from tests.sdks.test_openai_client import Recipe
from tests.server.conftest import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with over_a_socket(tmp_path_factory.mktemp("langchain")) as started:
        yield started


def chat(server: Server, model: str = "talker", **more: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", model=model, max_retries=0, **more)


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[ChatOpenAI]:
    async with in_process(tmp_path) as (http, _):
        yield ChatOpenAI(
            base_url="http://server/v1", api_key="none", model="talker", max_retries=0, http_async_client=http
        )


def test_words_and_pictures_are_answered(server: Server) -> None:
    url = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = chat(server).invoke([SystemMessage("Be brief."), HumanMessage(parts)])
    assert answer.content == "A cat on a mat."
    assert answer.response_metadata["finish_reason"] == "stop"


def test_an_answer_is_streamed(server: Server) -> None:
    told = [chunk.content for chunk in chat(server).stream("What is it?")]
    assert [piece for piece in told if piece] == ["A ", "cat ", "on ", "a ", "mat."]


def test_signs_of_life_break_no_stream(server: Server) -> None:
    assert "".join(str(chunk.content) for chunk in chat(server, "slowly").stream("?")) == "late later"


def test_an_answer_keeps_a_schema(server: Server) -> None:
    asked = chat(server, "recipe").with_structured_output(Recipe, method="json_schema")
    assert asked.invoke("A recipe!") == Recipe(name="soup", steps=["boil", "eat"])


def test_failures_reach_the_caller(server: Server) -> None:
    with pytest.raises(openai.NotFoundError):
        chat(server, "talkr").invoke("?")
    with pytest.raises(openai.APIError):
        list(chat(server, "torn").stream("?"))


async def test_without_a_socket_it_is_the_same(inside: ChatOpenAI) -> None:
    assert (await inside.ainvoke("What is it?")).content == "A cat on a mat."
    assert "".join([str(chunk.content) async for chunk in inside.astream("What is it?")]) == "A cat on a mat."
