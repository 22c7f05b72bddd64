"""What makes two questions the same."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pybase64
import pytest
from aiohttp import web

from sensorium.media import limits
from sensorium.media.source import Source
from sensorium.schemas.ask import Answer, AskRequest, Message, Picture, Words
from tests.pictures import jpeg, png

ASKED: dict[str, Any] = {"image": png(), "prompt": "What is this?"}


def ask(**fields: Any) -> AskRequest:
    return AskRequest(**{**ASKED, **fields})


def prints(*requests: AskRequest) -> set[str]:
    async def all_of_them() -> set[str]:
        return {await request.fingerprint() for request in requests}

    return asyncio.run(all_of_them())


async def test_a_picture_as_file_bytes_base64_and_url_is_the_same_question(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())

    async def served(request: web.Request) -> web.Response:
        return web.Response(body=png())

    app = web.Application()
    app.router.add_get("/a.png", served)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    ways = [
        tmp_path / "a.png",
        png(),
        Source.from_wire("data:image/png;base64," + pybase64.b64encode(png()).decode()),
        f"http://127.0.0.1:{port}/a.png",
    ]
    with limits.use(limits.Limits(allowed_hosts=(f"127.0.0.1:{port}",))):
        assert len({await ask(image=way).fingerprint() for way in ways}) == 1
    await runner.cleanup()


def test_the_same_conversation_in_other_fields_is_the_same_question() -> None:
    shown = Picture(image=Source.of(png()))
    assert (
        len(
            prints(
                ask(),
                ask(prompt="  What is this?\n"),
                AskRequest(images=(png(),), prompt="What is this?", model="another"),
                AskRequest(messages=(Message(role="user", parts=(shown, Words(text="What is this?"))),)),
                AskRequest(messages=[{"role": "user", "parts": [{"image": png()}, {"text": "What is this?"}]}]),
            )
        )
        == 1
    )


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "What was this?"},
        {"image": jpeg()},
        {"images": (png(),)},
        {"detail": "low"},
        {"max_tokens": 10},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"stop": ("\n",)},
        {"seed": 7},
        {"system": "Be brief."},
        {"json_schema": {"type": "object"}},
        {"messages": (Message(role="user", parts=(Words(text="Hello"),)),)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_field_is_another_question(other: dict[str, Any]) -> None:
    assert len(prints(ask(), ask(**other))) == 2


def test_pictures_in_another_order_are_another_question() -> None:
    assert len(prints(ask(images=(jpeg(),)), ask(image=jpeg(), images=(png(),)))) == 2


def test_only_an_answer_that_ended_by_itself_is_whole() -> None:
    assert [Answer(text="a", ending=ending).whole for ending in ("stop", "length", "content_filter")] == [
        True,
        False,
        False,
    ]
