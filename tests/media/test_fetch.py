"""Bytes from URLs that strangers wrote: guarded, bounded, and fetched once."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from sensorium.errors import FetchFailed, ForbiddenAddress, InputTooLarge, SensoriumError
from sensorium.media import limits
from sensorium.media.fetch import fetch, is_public
from sensorium.media.limits import Limits
from sensorium.media.source import Source
from tests.pictures import jpeg

BOMB = gzip.compress(bytes(50_000_000))
PUBLIC = "93.184.215.14"


class Server:
    """A real server on this machine, and what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def limits(self, **changed: Any) -> Limits:
        """Limits under which this server may be asked."""
        return Limits(**{"allowed_hosts": (f"127.0.0.1:{self.port}",), "fetch_seconds": 30, **changed})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = getattr(self, request.match_info["what"])
        return await answer(request)

    async def picture(self, request: web.Request) -> web.Response:
        return web.Response(body=jpeg(), headers={"Set-Cookie": "a=b"})

    async def missing(self, request: web.Request) -> web.Response:
        raise web.HTTPNotFound

    async def status(self, request: web.Request) -> web.Response:
        return web.Response(status=int(request.query["is"]))

    async def redirect(self, request: web.Request) -> web.Response:
        raise web.HTTPFound(request.query["to"])

    async def loop(self, request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("/loop")

    async def nowhere(self, request: web.Request) -> web.Response:
        return web.Response(status=302)

    async def long(self, request: web.Request) -> web.Response:
        return web.Response(body=bytes(1_000_000))

    async def endless(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(1000):
            await answer.write(bytes(10_000))
        return answer

    async def bomb(self, request: web.Request) -> web.Response:
        return web.Response(body=BOMB, headers={"Content-Encoding": "gzip"})

    async def packed(self, request: web.Request) -> web.Response:
        coding = request.query["as"]
        body = {"gzip": gzip.compress(jpeg()), "deflate": zlib.compress(jpeg())}.get(coding, jpeg())
        return web.Response(body=body[: int(request.query.get("cut", len(body)))], headers={"Content-Encoding": coding})

    async def followed(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Encoding": "gzip"})
        await answer.prepare(request)
        await answer.write(gzip.compress(jpeg()))
        while True:  # for as long as anybody listens
            await answer.write(bytes(100_000))

    async def slow(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(1000):  # a byte now and then: no single wait is long
            await answer.write(b"x")
            await asyncio.sleep(0.05)
        return answer

    async def cut(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "1000"})
        await answer.prepare(request)
        await answer.write(b"x")
        assert request.transport is not None
        request.transport.close()
        return answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    served = Server()
    app = web.Application()
    app.router.add_get("/{what}", served.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.port = runner.addresses[0][1]
    yield served
    await runner.cleanup()


def answering(*addresses: str) -> Callable[[str, int], Awaitable[list[str]]]:
    """A resolver that gives these addresses for any name."""

    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolve


async def test_a_picture_is_fetched_from_a_named_host(server: Server) -> None:
    with limits.use(server.limits()):
        image = await Source.of(f"{server.url}/picture").image()
    assert image.width == 64


async def test_a_url_is_fetched_once_however_many_ask(server: Server) -> None:
    source = Source.of(f"{server.url}/picture")
    with limits.use(server.limits()):
        await asyncio.gather(source.read(), source.digest(), source.image(), source.image(20))
        await source.read()
    assert len(server.asked) == 1


async def test_when_the_first_to_fetch_goes_away_the_second_is_served(server: Server) -> None:
    source = Source.of(f"{server.url}/picture")
    with limits.use(server.limits()):
        first, second = asyncio.create_task(source.read()), asyncio.create_task(source.image())
        await asyncio.sleep(0.01)
        first.cancel()
        assert (await second).width == 64


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "3fff::1",
        "3fff:fff::1",
        "5f00::1",
        "192.31.196.1",
        "192.175.48.6",
        "2001:4:112::1",
        "2620:4f:8000::1",
        "64:ff9b:1:fffe::1",
        "2606:4700::5efe:a00:1",
        "2606:4700::200:5efe:a9fe:a9fe",
        "2606:4700::5efe:6440:1",
        "::ffff:100.64.0.1",
        "::ffff:198.18.0.1",
        "2002:f000:1::1",
        "2002:c612:1::1",
    ],
)
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        PUBLIC,
        "8.8.8.8",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
        "2001:4860:4860::8888",
        "2606:4700::5efe:808:808",
    ],
)
def test_addresses_outside_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0"],
)
async def test_no_spelling_of_this_machine_is_reached(server: Server, host: str) -> None:
    with pytest.raises((ForbiddenAddress, FetchFailed)) as caught:
        await fetch(f"http://{host}:{server.port}/picture", Limits())
    assert not server.asked
    if host in ("127.0.0.1", "localhost", "[::1]"):
        assert isinstance(caught.value, ForbiddenAddress)


async def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    with pytest.raises(ForbiddenAddress, match="allowed_hosts"):
        await fetch("http://example.com/", Limits(), answering(PUBLIC, "10.0.0.1"))


async def test_a_name_is_looked_up_once_so_that_it_cannot_change_its_mind(server: Server) -> None:
    answers = iter([["127.0.0.1"], [PUBLIC]])

    async def rebinding(host: str, port: int) -> list[str]:
        return next(answers)

    limits_ = server.limits(allowed_hosts=("example.test",))
    body = await fetch(f"http://example.test:{server.port}/picture", limits_, rebinding)
    assert body == jpeg()
    assert server.asked[0].host == f"example.test:{server.port}"
    assert next(answers) == [PUBLIC], "the second answer was not asked for"


@pytest.mark.parametrize(
    "to", ["http://127.0.0.1:1/", "http://10.0.0.1/", "//[::1]/x", "http://169.254.169.254/latest"]
)
async def test_a_redirect_to_a_private_address_is_refused(server: Server, to: str) -> None:
    with pytest.raises(ForbiddenAddress):
        await fetch(f"{server.url}/redirect?to={to}", server.limits())
    assert len(server.asked) == 1


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://example.com/", "data:,x", "http://"])
async def test_a_redirect_to_another_scheme_is_refused(server: Server, to: str) -> None:
    with pytest.raises(SensoriumError):
        await fetch(f"{server.url}/redirect?to={to}", server.limits())


async def test_a_redirect_within_the_allowed_host_is_followed(server: Server) -> None:
    assert await fetch(f"{server.url}/redirect?to=/picture", server.limits()) == jpeg()
    assert "Cookie" not in server.asked[-1].headers


async def test_endless_redirects_are_given_up(server: Server) -> None:
    with pytest.raises(FetchFailed, match="more than 3 redirects"):
        await fetch(f"{server.url}/loop", server.limits(max_redirects=3))
    assert len(server.asked) == 4


async def test_a_port_that_is_not_named_stays_closed(server: Server) -> None:
    with pytest.raises(ForbiddenAddress):
        await fetch(f"{server.url}/picture", Limits(allowed_hosts=("127.0.0.1:1",)))
    assert await fetch(f"{server.url}/picture", Limits(allowed_hosts=("127.0.0.1",)))


@pytest.mark.parametrize("what", ["long", "endless", "bomb"])
async def test_a_body_that_is_too_large_is_not_read_to_its_end(server: Server, what: str) -> None:
    with pytest.raises(InputTooLarge, match="max_bytes"):
        await fetch(f"{server.url}/{what}", server.limits(max_bytes=100_000))


async def test_a_bomb_is_unpacked_in_small_pieces(server: Server) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputTooLarge):
            await fetch(f"{server.url}/bomb", server.limits(max_bytes=100_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000, "the bomb is of 50 MB"


async def test_others_have_their_turn_while_a_bomb_is_unpacked(server: Server) -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    taking = asyncio.create_task(take_turns())
    body = await fetch(f"{server.url}/bomb", server.limits(max_bytes=60_000_000))
    taking.cancel()
    assert turns > len(body) / 2**16


async def test_names_that_nobody_answers_for_hold_up_no_other_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, look_up = threading.Event(), socket.getaddrinfo

    def silent(host: Any, *args: Any, **more: Any) -> Any:
        if host == "silent.test":
            answered.wait(30)
            raise OSError("no such name")
        return look_up(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    asking = [asyncio.create_task(fetch("http://silent.test/", Limits())) for _ in range(64)]
    try:
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            assert await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)
    finally:
        answered.set()
    told = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(one, FetchFailed) for one in told)


FORK = """
import asyncio, os, time
from sensorium.media.fetch import system_resolve
look_up = lambda: asyncio.run(asyncio.wait_for(system_resolve("127.0.0.1", 80), 20))
look_up()
time.sleep(0.1)  # so that its thread is idle
child = os.fork()
if not child:
    os._exit(look_up() != ["127.0.0.1"])
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_names_are_looked_up_in_a_forked_child_too() -> None:
    assert subprocess.run([sys.executable, "-c", FORK], timeout=20, check=False).returncode == 0


@pytest.mark.parametrize("coding", ["gzip", "deflate", "identity"])
async def test_a_packed_answer_is_unpacked(server: Server, coding: str) -> None:
    assert await fetch(f"{server.url}/packed?as={coding}", server.limits()) == jpeg()


async def test_a_packed_answer_ends_where_its_packing_ends(server: Server) -> None:
    assert await fetch(f"{server.url}/followed", server.limits(fetch_seconds=30)) == jpeg()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("missing", "404"),
        ("nowhere", "nowhere"),
        ("cut", "cut short"),
        ("packed?as=br", "unasked"),
        ("packed?as=gzip&cut=100", "cut short"),
        ("packed?as=identity,gzip", "unasked"),
    ],
)
async def test_a_bad_answer_says_what_was_wrong_and_tells_no_secret(server: Server, path: str, why: str) -> None:
    url = f"{server.url}/{path}{'&' if '?' in path else '?'}token=secret".replace("//", "//me:secret@")
    with pytest.raises(FetchFailed, match=why) as caught:
        await fetch(url, server.limits())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("status", "may_pass"), [(403, False), (404, False), (410, False), (429, True), (503, True)])
async def test_only_a_refusal_that_may_pass_is_worth_another_try(server: Server, status: int, may_pass: bool) -> None:
    with pytest.raises(FetchFailed, match=str(status)) as caught:
        await fetch(f"{server.url}/status?is={status}", server.limits())
    assert caught.value.as_dict()["retryable"] is may_pass


async def test_a_slow_server_is_given_up_in_time(server: Server) -> None:
    with pytest.raises(FetchFailed, match="fetch_seconds"):
        await fetch(f"{server.url}/slow", server.limits(fetch_seconds=0.3))


async def test_a_closed_port_and_an_unknown_name_are_fetch_failures(server: Server) -> None:
    allowed = Limits(allowed_hosts=("127.0.0.1",), fetch_seconds=5)
    with pytest.raises(FetchFailed, match="no connection"):
        await fetch("http://127.0.0.1:1/", allowed)

    async def unknown(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(FetchFailed, match="no address is known"):
        await fetch("http://example.test/", allowed, unknown)


async def test_a_body_that_is_no_picture_is_said_to_be_so(server: Server) -> None:
    with limits.use(server.limits()), pytest.raises(SensoriumError, match="no known kind"):
        await Source.of(f"{server.url}/long").image()
