"""The application inside another one."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import uvicorn
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import sensorium
from sensorium.config import Settings
from sensorium.errors import ServiceClosed
from sensorium.server.app import create_app, running
from tests.pictures import png


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


@pytest.fixture
def vision() -> Starlette:
    return create_app(Settings(models={"classify": ["fake"]}))


def host_of(vision: Starlette, **more: Any) -> Starlette:
    return Starlette(routes=[Route("/", hello), Mount("/vision", vision)], **more)


@asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A client of the application, and its address. It is served in this loop, as any host would."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        async with aiohttp.ClientSession(url) as client:
            yield client, url
    finally:
        server.should_exit = True
        await serving


async def told(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as answer:
        return await answer.json()


async def test_it_answers_under_a_prefix_beside_the_host(vision: Starlette) -> None:
    async with serving(host_of(vision, lifespan=lambda app: running(vision))) as (client, url):
        async with client.get("/") as answer:
            assert await answer.text() == "hello"
        async with sensorium.aio.connect(f"{url}/vision/") as asked:
            assert (await asked.classify(png())).image.width == 64
        assert (await told(client, "/vision/health/ready"))["status"] == "ready"
        assert (await told(client, "/vision/nothing"))["error"]["code"] == "not_found"
        async with client.get("/v1/classify") as answer:
            assert answer.status == 404


async def test_the_document_names_the_prefix_and_the_page_needs_none(vision: Starlette) -> None:
    outer = Starlette(routes=[Mount("/behind", host_of(vision))], lifespan=lambda app: running(vision))
    async with serving(outer) as (client, _):
        document = await told(client, "/behind/vision/openapi.json")
        assert document["servers"] == [{"url": "/behind/vision"}]
        OpenAPIV31SpecValidator(document).validate()
        index = await told(client, "/behind/vision/")
        assert index["tasks"]["classify"] == "/behind/vision/v1/classify"
        async with client.get("/behind/vision/", headers={"Accept": "text/html"}) as answer:
            (script,) = re.findall(r'type="module" src="(.+?)"', await answer.text())
            assert answer.content_type == "text/html"
        async with client.get(f"/behind/vision/{script}") as answer:
            assert answer.content_type == "text/javascript"
        async with client.get(index["docs"]) as answer:
            page = await answer.text()
        for linked in ("docs/page.css", "docs/page.js", "openapi.json"):
            assert f'"{linked}"' in page
            async with client.get(f"/behind/vision/{linked}") as answer:
                assert answer.status == 200


async def test_alone_the_document_names_the_root_and_no_code_but_its_own_may_run(vision: Starlette) -> None:
    async with serving(vision) as (client, _):
        assert (await told(client, "/openapi.json"))["servers"] == [{"url": "/"}]
        async with client.get("/docs") as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.content_type == "text/html"
    assert "default-src 'none'" in policy
    assert not [word for word in ("unsafe", "http", "*") if word in policy]


async def test_without_the_lifespan_it_says_what_is_missing(vision: Starlette) -> None:
    async with serving(host_of(vision)) as (_, url), sensorium.aio.connect(f"{url}/vision") as asked:
        with pytest.raises(ServiceClosed, match=r"running\(app\)"):
            await asked.classify(png())
