"""An answer told as it comes: signs of life, statuses, clients that leave and clients that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sensorium.errors import SensoriumError, StreamBroken
from sensorium.schemas.base import Result
from sensorium.schemas.events import Delta, Event, Progress
from sensorium.server.events import Talk
from tests.virtual_time import in_virtual_time

STATUS = "http.response.start"


class Plainly:
    """Tells events in the fewest letters."""

    def start(self) -> bytes:
        return b"("

    def event(self, event: Event) -> bytes:
        return event.text.encode() if isinstance(event, Delta) else b""

    def beat(self) -> bytes:
        return b"."

    def end(self, result: Result) -> bytes:
        return b")"

    def error(self, error: SensoriumError) -> bytes:
        return b"!"


class Client:
    """Takes what is sent; while the gate is closed it does not read."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.heard = asyncio.Condition()

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        async with self.heard:
            self.sent.append(message)
            self.heard.notify_all()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def hears(self, text: bytes) -> None:
        async with self.heard:
            await self.heard.wait_for(lambda: text in self.body)


@pytest.fixture
async def client() -> Client:
    return Client()


def talk_to(client: Client, interval: float = 60.0, patience: float = 60.0) -> Talk:
    return Talk(Plainly(), client.send, interval=interval, patience=patience)


async def test_nothing_is_sent_before_there_is_something_to_tell(client: Client) -> None:
    with talk_to(client) as talk:
        await talk.hear(Progress(1, 2))
        assert not talk.started
        assert not client.sent
        await talk.hear(Delta("a"))
    assert [message["type"] for message in client.sent] == [STATUS, "http.response.body"]
    assert client.body == b"(a"


async def test_no_proxy_may_gather_or_keep_it(client: Client) -> None:
    with talk_to(client) as talk:
        await talk.end(Result())
    headers = dict(client.sent[0]["headers"])
    assert headers[b"x-accel-buffering"] == b"no"
    assert headers[b"cache-control"] == b"no-cache, no-transform"
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert client.sent[-1]["more_body"] is False


def test_signs_of_life_come_before_the_first_word_and_in_silence() -> None:
    async def main(clock: Callable[[], float]) -> Client:
        client, start = Client(), clock()
        with talk_to(client, interval=10) as talk:
            await client.hears(b"(..")
            assert clock() - start == pytest.approx(20)
            await talk.hear(Delta("a"))
            await client.hears(b"a..")
            await talk.end(Result())
        return client

    client = in_virtual_time(main)
    assert client.body.endswith(b")")
    assert client.sent[0]["status"] == 200


def test_there_is_no_sign_of_life_while_words_come() -> None:
    async def main(clock: Callable[[], float]) -> bytes:
        client = Client()
        with talk_to(client, interval=10) as talk:
            for _ in range(50):
                await talk.hear(Delta("a"))
                await asyncio.sleep(9)
        return client.body

    assert in_virtual_time(main) == b"(" + b"a" * 50


def test_no_sign_of_life_comes_after_the_end() -> None:
    async def main(clock: Callable[[], float]) -> bytes:
        client = Client()
        client.reads.clear()
        with talk_to(client, interval=10) as talk:
            ending = asyncio.create_task(talk.end(Result()))
            await asyncio.sleep(50)
            client.reads.set()
            await ending
            count = len(client.sent)
            await asyncio.sleep(50)
        assert len(client.sent) == count
        return client.body

    assert in_virtual_time(main) == b"()"


async def test_a_failure_is_told_as_one(client: Client) -> None:
    with talk_to(client) as talk:
        await talk.hear(Delta("a"))
        await talk.fail(StreamBroken("It was cut"))
    assert client.body == b"(a!"
    assert client.sent[-1]["more_body"] is False


def test_a_client_that_does_not_read_is_dropped_and_its_work_is_cancelled() -> None:
    async def main(clock: Callable[[], float]) -> None:
        client, start = Client(), clock()
        client.reads.clear()
        talk = talk_to(client, interval=10, patience=50)

        async def work() -> None:
            with talk:
                await talk.hear(Delta("a"))

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(work())
        assert talk.stalled
        assert clock() - start == pytest.approx(50)

    in_virtual_time(main)


def test_a_client_that_reads_slowly_is_not_dropped() -> None:
    async def main(clock: Callable[[], float]) -> bytes:
        client = Client()
        with talk_to(client, interval=10, patience=50) as talk:
            for _ in range(5):
                client.reads.clear()
                asyncio.get_running_loop().call_later(40, client.reads.set)
                await talk.hear(Delta("a"))
            await talk.end(Result())
        return client.body

    assert in_virtual_time(main) == b"(aaaaa)"


async def test_words_of_several_tasks_are_not_mixed_with_the_start(client: Client) -> None:
    client.reads.clear()
    with talk_to(client) as talk:
        saying = [asyncio.create_task(talk.hear(Delta(word))) for word in "abc"]
        await asyncio.sleep(0)
        client.reads.set()
        await asyncio.gather(*saying)
    assert client.body == b"(abc"
    assert [message["type"] for message in client.sent].count(STATUS) == 1
