"""A real sensorium server, and servers that answer whatever a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import sensorium
from tests.server.conftest import Server, running

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Speaking = Callable[[Handler], AbstractAsyncContextManager[str]]

ANSWER = {
    "image": {"width": 1, "height": 1, "format": "png"},
    "labels": [{"name": "cat", "score": 0.5, "index": 3}],
}
"""What a server may answer to `classify`."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Takes files up to 2 MB, and answers by fake models."""
    with running(tmp_path_factory.mktemp("client"), max_bytes=2_000_000, max_upload_bytes=4_000_000) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    sensorium.close()


@pytest.fixture
def speaking() -> Speaking:
    """Serves a handler for all routes, and gives the address."""

    @asynccontextmanager
    async def serve(handler: Handler) -> AsyncIterator[str]:
        app = web.Application(client_max_size=100_000_000)
        app.router.add_route("*", "/{rest:.*}", handler)
        async with TestServer(app) as started:
            yield f"http://127.0.0.1:{started.port}"

    return serve
