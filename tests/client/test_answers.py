"""What a client makes of servers that are overloaded, broken, newer, or no sensorium at all."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
import tracemalloc
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from aiohttp import web
from pydantic_core import to_json

from sensorium import aio
from sensorium.client import Remote, Server
from sensorium.client.wire import error_of
from sensorium.errors import (
    DeadlineExceeded,
    EngineFailed,
    Forbidden,
    InputTooLarge,
    InvalidAnswer,
    InvalidInput,
    NoFace,
    Overloaded,
    SensoriumError,
    ServerUnreachable,
    Unauthenticated,
    Unavailable,
)
from sensorium.media import limits
from sensorium.media.source import Source
from sensorium.schemas.classify import ClassifyRequest
from tests.client.conftest import ANSWER, Handler, Speaking
from tests.pictures import png


def saying(status: int, body: Any, **headers: str) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        await request.read()
        if isinstance(body, str):
            return web.Response(status=status, text=body, content_type="text/html", headers=headers)
        return web.json_response(body, status=status, headers=headers)

    return handle


def refusal(code: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": "What: why. Do this.", "retryable": False, "trace": "t", **more}}


async def test_which_picture_showed_no_face_is_told_as_the_server_told_it() -> None:
    for told, understood in ((2, 2), ("two", 1)):
        body = to_json(refusal("no_face", picture=told))
        error = error_of(400, {}, body, "server")
        assert isinstance(error, NoFace)
        assert error.picture == error.as_dict()["picture"] == understood


async def caught(url: str, **options: Any) -> SensoriumError:
    async with aio.connect(url, **{"retries": 0, **options}) as client:
        with pytest.raises(SensoriumError) as raised:
            await client.classify(png())
    return raised.value


async def test_fields_of_a_newer_server_are_left_out(speaking: Speaking) -> None:
    newer = {**ANSWER, "mood": "calm", "labels": [{**ANSWER["labels"][0], "colour": "red"}]}  # type: ignore[index]
    async with speaking(saying(200, newer)) as url, aio.connect(url) as client:
        assert (await client.classify(png())).best.name == "cat"


@pytest.mark.parametrize("body", ["<html>Welcome to nginx!</html>", {"labels": []}, {"hello": "world"}, []])
async def test_an_answer_of_another_kind_is_told_as_such(speaking: Speaking, body: Any) -> None:
    async with speaking(saying(200, body)) as url:
        error = await caught(url)
    assert type(error) is InvalidAnswer
    assert error.code == "invalid_answer"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidInput), (418, InvalidInput), (429, Overloaded), (503, Unavailable), (500, EngineFailed)],
)
async def test_a_code_that_is_not_known_here_keeps_its_name_and_finds_the_nearest_class(
    speaking: Speaking, status: int, kind: type[SensoriumError]
) -> None:
    async with speaking(saying(status, refusal("brand_new", retryable=True))) as url:
        error = await caught(url)
    assert isinstance(error, kind)
    assert error.as_dict() | {"retry_after_seconds": 1.0} == {
        "code": "brand_new",
        "message": "What: why. Do this.",
        "retryable": True,
        "retry_after_seconds": 1.0,
    }


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (502, ServerUnreachable, "see whether it runs"),
        (504, ServerUnreachable, "too slow for the proxy"),
        (413, InputTooLarge, "limit of the proxy"),
        (401, Unauthenticated, "key"),
        (403, Forbidden, "operator"),
        (404, InvalidAnswer, "Check the address"),
        (301, InvalidAnswer, "redirects"),
    ],
)
async def test_the_page_of_a_proxy_is_told_with_a_remedy(
    speaking: Speaking, status: int, kind: type[SensoriumError], words: str
) -> None:
    async with speaking(saying(status, "<html>Bad Gateway</html>", Location="http://127.0.0.1:9/")) as url:
        error = await caught(url)
    assert type(error) is kind
    assert words in str(error)
    assert "Bad Gateway" not in str(error)


async def test_key_and_trace_are_sent_and_the_error_names_the_trace(speaking: Speaking) -> None:
    seen: list[Any] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.headers)
        return web.json_response(refusal("invalid_request"), status=400)

    async with speaking(handle) as url:
        error = await caught(url, key="the-key")
    (headers,) = seen
    assert headers["Authorization"] == "Bearer the-key"
    version, trace, span, flags = headers["traceparent"].split("-")
    assert (version, len(trace), len(span), flags) == ("00", 32, 16, "01")
    assert headers["X-Request-ID"] == trace
    assert [trace in note for note in error.__notes__] == [True]
    assert "the-key" not in str(error) + str(error.__notes__)


async def test_an_overloaded_server_is_asked_again_when_it_says(speaking: Speaking) -> None:
    times: list[float] = []

    async def handle(request: web.Request) -> web.Response:
        assert (await request.post())["top_k"] == "3"
        times.append(time.monotonic())
        if len(times) < 3:
            return web.json_response(refusal("overloaded", retry_after_seconds=0.2), status=429)
        return web.json_response(ANSWER)

    async with speaking(handle) as url, aio.connect(url) as client:
        assert (await client.classify(png(), top_k=3)).labels
    assert [later - sooner >= 0.2 for sooner, later in pairwise(times)] == [True, True]


@pytest.mark.parametrize("as_date", [False, True])
async def test_nobody_waits_longer_than_the_caller_allows(speaking: Speaking, as_date: bool) -> None:
    wait = formatdate(time.time() + 30, usegmt=True) if as_date else "30"
    asked: list[web.Request] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request)
        return web.Response(status=429, headers={"Retry-After": wait})

    async with speaking(handle) as url:
        error = await caught(url, retries=5, timeout=5)
    assert isinstance(error, Overloaded)
    assert 10 < error.retry_after_seconds <= 30
    assert len(asked) == 1


async def test_tries_are_bounded(speaking: Speaking) -> None:
    asked: list[web.Request] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request)
        return web.json_response(refusal("overloaded", retry_after_seconds=0), status=429)

    async with speaking(handle) as url:
        assert isinstance(await caught(url, retries=3), Overloaded)
    assert len(asked) == 4


async def test_a_kept_connection_that_the_server_has_closed_is_made_anew(speaking: Speaking) -> None:
    asked: list[bytes] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(await request.read())
        if len(asked) == 2:
            assert request.transport
            request.transport.close()
        return web.json_response(ANSWER)

    async with speaking(handle) as url, aio.connect(url) as client:
        await client.classify(png())
        assert (await client.classify(png())).labels
    assert len(asked) == 3


async def test_a_server_that_breaks_off_every_time_is_unreachable(speaking: Speaking) -> None:
    async def handle(request: web.Request) -> web.Response:
        assert request.transport
        request.transport.abort()
        return web.Response()

    async with speaking(handle) as url:
        error = await caught(url, retries=1)
    assert type(error) is ServerUnreachable
    assert error.retryable


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:{closed}", "that the server runs there"),
        ("http://no-such-host.invalid", "no address is known"),
        ("https://127.0.0.1:{plain}", "Does it speak https"),
    ],
)
async def test_no_connection_says_why_and_what_to_do(speaking: Speaking, url: str, words: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = unused.getsockname()[1]
    async with speaking(saying(200, ANSWER)) as plain:
        start = time.monotonic()
        error = await caught(url.format(closed=closed, plain=plain.rpartition(":")[2]), retries=100)
    assert type(error) is ServerUnreachable
    assert error.code == "server_unreachable"
    assert words in str(error)
    assert time.monotonic() - start < 20, "what was never connected is not tried again"


async def test_a_certificate_must_be_trusted(tmp_path: Path) -> None:
    if which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    import ssl

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = ["openssl", *words.split(), "-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    runner = web.ServerRunner(web.Server(saying(200, ANSWER)))  # type: ignore[arg-type]
    await runner.setup()
    await web.TCPSite(runner, "localhost", 0, ssl_context=context).start()
    url = f"https://localhost:{runner.addresses[0][1]}"
    error = await caught(url)
    assert type(error) is ServerUnreachable
    assert "not trusted" in str(error)
    assert "`ca`" in str(error)
    async with aio.connect(url, ca=certificate) as client:
        assert (await client.classify(png())).labels
    await runner.cleanup()


async def test_silence_ends_in_time_and_lets_go_of_the_server(speaking: Speaking) -> None:
    left = asyncio.Event()

    async with speaking(_patient(left)) as url:
        error = await caught(url, timeout=1)
        await asyncio.wait_for(left.wait(), 30)
    assert type(error) is DeadlineExceeded


async def test_cancelling_closes_the_request(speaking: Speaking) -> None:
    came, left = asyncio.Event(), asyncio.Event()
    async with speaking(_patient(left, came)) as url, aio.connect(url) as client:
        asking = asyncio.create_task(client.classify(png()))
        await came.wait()
        asking.cancel()
        await left.wait()


def _patient(left: asyncio.Event, came: asyncio.Event | None = None) -> Handler:
    """Never answers; sees when the client has left."""

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        if came:
            came.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()  # the test server cancels its handler then
        return web.Response()

    return handle


async def test_no_more_are_under_way_than_allowed(speaking: Speaking) -> None:
    now = most = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await request.read()
        await asyncio.sleep(0.01)
        now -= 1
        return web.json_response(ANSWER)

    async with speaking(handle) as url, aio.connect(url, connections=3) as client:
        assert len(await client.classify([png()] * 20)) == 20
        await asyncio.gather(*(client.classify(png()) for _ in range(20)))
    assert most == 3


async def test_a_large_file_is_sent_from_the_disk(speaking: Speaking, tmp_path: Path) -> None:
    path, sizes = tmp_path / "large.bmp", list[int]()
    path.write_bytes(bytes(40_000_000))

    async def handle(request: web.Request) -> web.Response:
        sizes.append(sum([len(chunk) async for chunk in request.content.iter_any()]))
        return web.json_response(ANSWER)

    async with speaking(handle) as url, aio.connect(url) as client:
        tracemalloc.start()
        await client.classify(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert 40_000_000 < sizes[0] < 40_001_000
    assert peak < 8_000_000


async def test_a_url_is_passed_on_or_fetched_here_as_told(speaking: Speaking) -> None:
    sent: list[Any] = []
    fetched: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        if request.method == "GET":
            fetched.append(request.path)
            return web.Response(body=png())
        form = request.content_type == "multipart/form-data"
        sent.append((await request.post())["image"].file.read() if form else await request.json())  # type: ignore[union-attr]
        return web.json_response(ANSWER)

    async with speaking(handle) as url:
        asked = f"{url}/cat.png?size=2"
        async with Remote(Server.of(url=url)) as remote:
            await remote.run(ClassifyRequest(image=Source.of(asked), top_k=2))
        async with aio.connect(url) as client:
            assert (await client.classify(asked, top_k=2))._repr_html_() is None, "there is no picture here to draw on"
        assert sent[0].pop("timeout") == pytest.approx(60, abs=10)
        assert (sent[0], fetched) == ({"image": asked, "top_k": 2}, [])
        sent.clear()
        with limits.use(limits.Limits(allowed_hosts=("127.0.0.1",))):
            async with Remote(Server.of(url=url, pass_urls=False)) as remote:
                await remote.run(ClassifyRequest(image=Source.of(asked)))
        assert (sent, fetched) == ([png()], ["/cat.png"])


async def test_an_endless_answer_is_cut_off(speaking: Speaking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorium.client.remote.LARGEST_ANSWER", 1000)
    async with speaking(saying(200, "x" * 100_000)) as url:
        assert "more than 1,000 bytes" in str(await caught(url))
