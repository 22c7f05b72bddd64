"""Questions and comparisons over the wire: pictures that may be absent, several, or inside of messages."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import sensorium
from sensorium import aio
from sensorium.client import Client
from sensorium.errors import CorruptMedia, FileMissing, InvalidRequest, UnknownModel, UnstructuredAnswer
from tests.pictures import jpeg, png
from tests.server.conftest import Server, running


class Thing(BaseModel):
    width: int
    price: float | None


class Impossible(BaseModel):
    price: float


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose `ask` is answered by perception."""
    with running(tmp_path_factory.mktemp("seeing")) as started:
        yield started


@pytest.fixture
def client(seeing: Server) -> Iterator[Client]:
    with sensorium.connect(seeing.url, retries=0) as connected:
        yield connected


def test_a_question_comes_with_a_picture_or_without(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(40, 30))
    assert "40 × 30" in client.ask(path, "What is this?").text
    assert "no picture" in client.ask(prompt="Hello").text


def test_several_pictures_of_one_question_arrive_in_order(client: Client) -> None:
    text = client.ask(png(10, 20), "这是什么？", images=[png(30, 40), png(50, 60)]).text
    assert [text.index(size) for size in ("10 × 20", "30 × 40", "50 × 60")] == sorted(
        text.index(size) for size in ("50 × 60", "30 × 40", "10 × 20")
    )
    assert "不是语言模型" in text


def test_pictures_inside_messages_arrive(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(40, 30))
    said: Any = [{"role": "user", "parts": [{"image": path, "detail": "low"}, {"text": "What is this?"}]}]
    assert "40 × 30" in client.ask(messages=said).text
    both = client.ask(png(50, 60), "And this?", messages=said, images=[png(70, 80)]).text
    assert all(size in both for size in ("40 × 30", "50 × 60", "70 × 80"))


def test_a_type_as_schema_gives_an_instance(client: Client) -> None:
    assert client.ask(png(40, 30), "?", schema=Thing).data == Thing(width=40, price=None)
    with pytest.raises(UnstructuredAnswer) as caught:
        client.ask(png(40, 30), "?", schema=Impossible)
    assert "40 × 30" in caught.value.text


async def test_they_can_be_awaited(seeing: Server) -> None:
    async with aio.connect(seeing.url) as client:
        assert (await client.ask(png(40, 30), "?", schema=Thing)).data == Thing(width=40, price=None)
        assert (await client.compare(png(40, 30), png(50, 60))).differences


def test_a_list_is_asked_about_one_by_one(client: Client) -> None:
    outcomes = client.ask([png(), "nowhere.jpg", jpeg()[:200]], "What is this?")
    assert [type(one).__name__ for one in outcomes] == ["Answer", "FileMissing", "CorruptMedia"]


def test_pictures_are_compared(client: Client) -> None:
    told = client.compare(png(40, 30), jpeg(), question="哪一张更大？")
    assert any("40 × 30" in sentence for sentence in told.differences)
    assert client.compare(png(), png(), model="fake").similarities == ("example",)
    with pytest.raises(CorruptMedia):
        client.compare(png(), jpeg()[:200])
    with pytest.raises(FileMissing):
        client.compare(png(), "nowhere.jpg")
    with pytest.raises(UnknownModel):
        client.compare(png(), png(), model="nobody")


def test_how_it_is_to_be_served_goes_along(client: Client) -> None:
    assert client.ask(png(), "?", privacy="local", max_cost=0.5).text


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"image": data_url(png())}, "`prompt` is empty"),
        ({"prompt": ""}, "`prompt` is empty"),
        ({"prompt": "?", "images": "a.jpg"}, "not a list"),
        ({"prompt": "?", "images": ["/etc/passwd"]}, "neither an http"),
        ({"prompt": "?", "images": [{"path": "/etc/passwd"}]}, "not a picture"),
        ({"messages": [{"role": "user", "parts": [{"image": {"path": "/etc/passwd"}}]}]}, "path"),
        ({"messages": [{"role": "user", "parts": [{"image": "/etc/passwd"}]}]}, "neither an http"),
        ({"messages": [{"role": "user", "parts": []}]}, "parts"),
        ({"prompt": "?", "privacy": "some"}, "`privacy`"),
        ({"prompt": "?", "json_schema": {"$ref": "http://127.0.0.1/"}}, "json_schema"),
    ],
)
async def test_what_is_wrong_is_refused_over_http(seeing: Server, body: dict[str, Any], why: str) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.post(f"{seeing.url}/v1/ask", json=body) as answer:
        assert answer.status == 400, await answer.text()
        assert why in (await answer.json())["error"]["message"]


async def test_a_form_takes_pictures_under_their_own_names(seeing: Server) -> None:
    import aiohttp

    form = aiohttp.FormData()
    for name, picture in (("image", png(10, 20)), ("images", png(30, 40)), ("images", png(50, 60))):
        form.add_field(name, picture, filename="a.png")
    form.add_field("prompt", "What are these?")
    pair = aiohttp.FormData()
    for name in ("file", "images"):
        pair.add_field(name, png(30, 40), filename="a.png")
    pair.add_field("images", data_url(png(50, 60)))
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{seeing.url}/v1/ask", data=form) as answer:
            assert "Picture 3 has 50 × 60" in (await answer.json())["text"]
        async with session.post(f"{seeing.url}/v1/compare", data=pair) as answer:
            assert any("Picture 3: 50 × 60" in told for told in (await answer.json())["differences"])


def test_too_few_pictures_are_told(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="two pictures or more"):
        client.compare(png())
