"""A server elsewhere, asked as a Sensorium is: request in, result out."""

from __future__ import annotations

import asyncio
import random
import secrets
import ssl
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sensorium import __version__
from sensorium.client.server import Server
from sensorium.client.wire import body_of, error_of, manner_of, result_of
from sensorium.deadline import checked_seconds, within
from sensorium.engine import Options
from sensorium.errors import InvalidAnswer, Overloaded, SensoriumError, ServerUnreachable, ServiceClosed
from sensorium.lists import Outcome, in_order
from sensorium.schemas.base import Request
from sensorium.telemetry import new_trace

if TYPE_CHECKING:
    import aiohttp

LARGEST_ANSWER = 64 * 2**20
"""Bytes."""
LONGEST_TIMEOUT = 3600.0
"""Seconds; servers take no larger `timeout`."""
FIRST_PAUSE = 0.05
"""Seconds before a broken connection is tried again; then twice as long each time."""


class Remote:
    """A server as an answerer. Belongs to the event loop that it is first used in.

    async with Remote(Server(url="http://host:8000")) as server:
        result = await server.run(ClassifyRequest(image=Source.of("cat.jpg")))
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._trusted = server.trusted()
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def __aenter__(self) -> Remote:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def run(
        self,
        request: Request,
        *,
        options: Options = Options(),  # noqa: B008 - frozen
        timeout: float | None = None,  # noqa: ASYNC109 - covers all tries, and ends in our error
    ) -> Any:
        """The server's answer to one request.

        Raises what the server raised; ServerUnreachable when there is no connection, and InvalidAnswer when
        something else than a sensorium server answers. `timeout` is in seconds, by default the server's own.
        """
        seconds = checked_seconds(self.server.timeout * request.patience() if timeout is None else timeout)
        return await within(seconds, self._persistently(request, options, time.monotonic() + seconds, new_trace()))

    def each(self, requests: Iterable[Request], **how: Any) -> AsyncGenerator[Outcome, None]:
        """The outcome of each request, in order, as soon as it is there. Takes requests no faster than it works."""
        return in_order(requests, partial(self.run, **how), self.server.connections)

    async def aclose(self) -> None:
        """Close all connections. What is still under way ends with an error."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _persistently(self, request: Request, options: Options, deadline: float, trace: str) -> Any:
        """Every task may be repeated: what was lost on the way is sent again."""
        if not self.server.pass_urls:
            for source in request.sources():
                if source.url is not None:
                    await source.read()
        tries = 0
        while True:
            try:
                return await self._once(request, options, deadline, trace)
            except (Overloaded, ServerUnreachable) as error:
                pause = _pause(error, tries)
                if tries == self.server.retries or time.monotonic() + pause > deadline or _never_connected(error):
                    raise
            tries += 1
            await asyncio.sleep(pause)

    async def _once(self, request: Request, options: Options, deadline: float, trace: str) -> Any:
        left = min(max(deadline - time.monotonic(), 0.001), LONGEST_TIMEOUT)
        manner = {"timeout": round(left, 3), **manner_of(options)}
        async with body_of(request, manner) as body:
            status, headers, answer = await self._exchange(request.task, body, trace)
        if status == 200:
            return result_of(request.answer, answer, self.server.origin)
        error = error_of(status, headers, answer, self.server.origin)
        error.add_note(f"Request {trace} to {self.server.origin}")
        raise error

    async def _exchange(self, task: str, body: dict[str, Any], trace: str) -> tuple[int, Mapping[str, str], bytes]:
        import aiohttp

        session, headers = self._opened(), _traced(trace)
        try:
            async with session.post(self.server.route(task), **body, headers=headers, allow_redirects=False) as answer:
                return answer.status, answer.headers, await self._whole(answer)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if self._closed:
                raise ServiceClosed("The client was closed while it waited for an answer") from error
            raise _unreachable(error, self.server.origin) from error

    async def _whole(self, answer: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > LARGEST_ANSWER:
                why = f"it has more than {LARGEST_ANSWER:,} bytes"
                raise InvalidAnswer(f"The answer of {self.server.origin} cannot be used", why=why)
        return bytes(body)

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ServiceClosed("The client is closed", fix="Connect again")
        if self._session is None:
            self._session = self._new_session()
        return self._session

    def _new_session(self) -> aiohttp.ClientSession:
        import aiohttp

        key = {"Authorization": f"Bearer {self.server.key.get_secret_value()}"} if self.server.key else {}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.server.connections, ssl=self._trusted),
            headers={"User-Agent": f"sensorium/{__version__}", "Accept-Encoding": "identity", **key},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # ours is around everything
            trust_env=False,  # a .netrc would send other credentials
        )


def _traced(trace: str) -> dict[str, str]:
    """The request's id for the server's log, as W3C Trace Context and as most proxies write it."""
    return {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01", "X-Request-ID": trace}


def _never_connected(error: SensoriumError) -> bool:
    """Whether trying again at once is in vain, unlike after a kept connection that the server had meanwhile closed."""
    import aiohttp

    return isinstance(error.__cause__, aiohttp.ClientConnectorError)


def _pause(error: SensoriumError, tries: int) -> float:
    """Seconds; somewhat more than asked for, so that not all who were refused together come back together."""
    if isinstance(error, Overloaded):
        return error.retry_after_seconds * random.uniform(1.0, 1.25)  # noqa: S311 - no secret
    return FIRST_PAUSE * float(2**tries)


def _unreachable(error: Exception, origin: str) -> ServerUnreachable:
    import aiohttp

    told: tuple[tuple[type[Exception], str, str], ...] = (
        (
            aiohttp.ClientConnectorCertificateError,
            f"its certificate is not trusted ({_certificate_words(error)})",
            "Name the file of its authority's certificate by `ca`",
        ),
        (aiohttp.ClientSSLError, "no secure connection could be made", "Does it speak https? Try http://"),
        (aiohttp.ClientConnectorDNSError, "no address is known for its name", "Check the name"),
        (aiohttp.ClientConnectorError, _strerror(error), "Check the address, and that the server runs there"),
    )
    for kind, why, fix in told:
        if isinstance(error, kind):
            return ServerUnreachable(f"Cannot reach {origin}", why=why, fix=fix)
    return ServerUnreachable(f"Cannot reach {origin}", why="the connection broke off", fix="Try again")


def _certificate_words(error: Exception) -> str:
    inner = getattr(error, "certificate_error", None)
    return inner.verify_message if isinstance(inner, ssl.SSLCertVerificationError) else "it does not match"


def _strerror(error: Exception) -> str:
    said = getattr(getattr(error, "os_error", None), "strerror", None) or "no connection could be made"
    return str(said)[:1].lower() + str(said)[1:]
