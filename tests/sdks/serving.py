"""A server for clients that are used as they come: over a socket, and in this process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from sensorium.config import Settings
from sensorium.server.app import create_app, running
from tests.fakes import put_fake
from tests.server.conftest import Server
from tests.server.conftest import running as started

FAKES = {
    "talker": 'words = ["A ", "cat ", "on ", "a ", "mat."]',
    "recipe": f"words = [{json.dumps(json.dumps({'name': 'soup', 'steps': ['boil', 'eat']}))}]",
    "torn": 'words = ["half an "]\nfail = "stream_broken"',
    "failing": 'fail = "provider_failed"',
    "busy": 'fail = "overloaded"',
    "limited": 'fail = "rate_limited"',
    "wordy": 'fail = "context_too_long"',
    "slowly": 'words = ["late ", "later"]\nseconds = 0.3',
    "never": "seconds = 50",
}


def cards(folder: Path) -> Path:
    for name, quirks in FAKES.items():
        put_fake(folder, name, quirks)
    return folder


@contextmanager
def over_a_socket(folder: Path, **settings: Any) -> Iterator[Server]:
    cards(folder / "models")
    chosen = {"cache": "off", "models": {"ask": ["talker"]}, "heartbeat_seconds": 0.1, **settings}
    with started(folder, **chosen) as server:
        yield server


class Counted:
    """Counts the requests of each status that reach the application."""

    def __init__(self, app: Starlette) -> None:
        self._app, self.statuses = app, Counter[int]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses[message["status"]] += 1
            await send(message)

        await self._app(scope, receive, counting)


@asynccontextmanager
async def in_process(folder: Path, **settings: Any) -> AsyncIterator[tuple[httpx2.AsyncClient, Counted]]:
    """An HTTP client that talks to the application without a socket."""
    chosen = {
        "cache": "off",
        "models": {"ask": ["talker"]},
        "trusted_hosts": ["server"],
        "watch_seconds": 0,
        **settings,
    }
    app = create_app(Settings(models_dir=cards(folder / "models"), cache_dir=folder, data_dir=folder, **chosen))
    counted = Counted(app)
    async with (
        running(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=counted), base_url="http://server") as client,
    ):
        yield client, counted
