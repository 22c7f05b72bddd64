"""What `sensorium.connect` and `sensorium.aio.connect` give."""

from __future__ import annotations

import os
from functools import partial
from typing import Self

from sensorium.client.jobs import AsyncJobs, Jobs
from sensorium.client.remote import Remote
from sensorium.client.server import Server
from sensorium.client.verbs import AsyncVerbs, Verbs
from sensorium.errors import ServiceClosed
from sensorium.streams import AsyncEvents, Events, Streams
from sensorium.verbs import awaited, background, waited_for


class _Face:
    """Knows its server. The connections live in the background loop, and are made anew after a fork."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 2,
        connections: int = 16,
        pass_urls: bool = True,
        ca: str | os.PathLike[str] | None = None,
        silence: float = 45.0,
    ) -> None:
        """Nothing is sent yet. Raises InvalidConfiguration, naming what is wrong; `Server` says what each means."""
        self.server = Server.of(
            url=url,
            key=key,
            timeout=timeout,
            retries=retries,
            connections=connections,
            pass_urls=pass_urls,
            ca=ca,
            silence=silence,
        )
        self.server.trusted()
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.server.url!r})"

    def _answerer(self) -> Remote:
        if self._closed:
            raise ServiceClosed("The client is closed", fix="Connect again")
        return background().lodger(self, partial(Remote, self.server))


class Client(_Face, Verbs):
    """A server's verbs as plain functions, from any thread. Close it, or use it in `with`."""

    @property
    def jobs(self) -> Jobs:
        """Work that goes on at the server without you: `client.jobs.submit("classify", ["a.jpg", "b.jpg"])`."""
        return Jobs(self._answerer)

    @property
    def stream(self) -> Streams[Events]:
        """The same verbs, which give an answer as it comes: `for event in client.stream.ask(...)`."""
        return Streams(Events, self._answerer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; the client cannot be used again."""
        self._closed = True
        waited_for(background().see_out(self))


class AsyncClient(_Face, AsyncVerbs):
    """A server's verbs as coroutine functions, in any event loop. Close it, or use it in `async with`."""

    @property
    def jobs(self) -> AsyncJobs:
        """Work that goes on at the server without you: `await client.jobs.submit("classify", ["a.jpg", "b.jpg"])`."""
        return AsyncJobs(self._answerer)

    @property
    def stream(self) -> Streams[AsyncEvents]:
        """The same verbs, which give an answer as it comes: `async for event in client.stream.ask(...)`."""
        return Streams(AsyncEvents, self._answerer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; the client cannot be used again."""
        self._closed = True
        await awaited(background().see_out(self))
