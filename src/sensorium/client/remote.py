"""A server elsewhere, asked as a Sensorium is: request in, result out."""

from __future__ import annotations

import asyncio
import random
import secrets
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sensorium import __version__
from sensorium.client.server import Server
from sensorium.client.wire import Telling, body_of, broken, error_of, manner_of, result_of
from sensorium.deadline import checked_seconds, within
from sensorium.engine import Event, Listener, Options, Progress, ignore
from sensorium.errors import InvalidAnswer, Overloaded, SensoriumError, ServerUnreachable, ServiceClosed
from sensorium.listening import Stream
from sensorium.lists import Outcome, in_order
from sensorium.schemas.base import Request
from sensorium.telemetry import new_trace

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

Body = Callable[[], AbstractAsyncContextManager[dict[str, Any]]]

LARGEST_ANSWER = 64 * 2**20
"""Bytes."""
LONGEST_TIMEOUT = 3600.0
"""Seconds; servers take no larger `timeout`."""
EVENTS = "text/event-stream"
FAREWELL_SECONDS = 2.0
"""How long a server may take to hear that a stream was left."""
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
        self._farewells: set[asyncio.Task[None]] = set()
        """On their way to the server: streams that were left."""
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
        listener: Listener = ignore,
    ) -> Any:
        """The server's answer to one request; parts of it go to the listener as they come.

        Raises what the server raised; ServerUnreachable when there is no connection, and InvalidAnswer when
        something else than a sensorium server answers; StreamBroken for an answer with a listener that was cut off or
        fell silent. `timeout` is in seconds, by default the server's own.
        """
        seconds = checked_seconds(self.server.timeout * request.patience() if timeout is None else timeout)
        question = _Question(request, options, time.monotonic() + seconds, new_trace(), listener)
        return await within(seconds, self._persistently(question))

    def stream(self, request: Request, **how: Any) -> Stream:
        """The answer's parts as they come, and then the whole of it. Leaving has the server end the work."""
        return Stream(partial(self.run, request, **how))

    def each(self, requests: Iterable[Request], **how: Any) -> AsyncGenerator[Outcome, None]:
        """The outcome of each request, in order, as soon as it is there. Takes requests no faster than it works."""
        return in_order(requests, partial(self.run, **how), self.server.connections)

    async def call(
        self, method: str, path: str, body: Body | None = None, *, params: Mapping[str, str] | None = None
    ) -> bytes:
        """What the server answers on one of its other routes. It must be a call that may be repeated.

        `body` gives the arguments of aiohttp that carry it, anew for each try. Raises as `run`.
        """
        deadline, trace = time.monotonic() + self.server.timeout, new_trace()

        async def once() -> bytes:
            async with (body or _no_body)() as how:
                headers = {**_traced(trace), **how.pop("headers", {})}
                url = f"{self.server.url}{path}"
                async with self._sent(method, url, params=params, headers=headers, **how) as answer:
                    whole = await self._whole(answer)
            if 200 <= answer.status < 300:
                return whole
            raise self._error(answer, whole, trace)

        return await within(self.server.timeout, self._again(once, deadline))

    async def aclose(self) -> None:
        """Close all connections. What is still under way ends with an error."""
        if self._farewells:
            await asyncio.wait(self._farewells)
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _persistently(self, question: _Question) -> Any:
        """Every task may be repeated: what was lost on the way is sent again, unless part of an answer was heard."""
        if not self.server.pass_urls:
            for source in question.request.sources():
                if source.url is not None:
                    await source.read()
        return await self._again(partial(self._once, question), question.deadline, lambda: question.heard)

    async def _again(
        self, once: Callable[[], Awaitable[T]], deadline: float, heard: Callable[[], bool] = lambda: False
    ) -> T:
        """What it returns, tried again where that can help."""
        tries = 0
        while True:
            try:
                return await once()
            except (Overloaded, ServerUnreachable) as error:
                pause, late = _pause(error, tries), deadline - time.monotonic()
                if tries == self.server.retries or pause > late or heard() or _never_connected(error):
                    raise
            tries += 1
            await asyncio.sleep(pause)

    async def _once(self, question: _Question) -> Any:
        async with body_of(question.request, question.manner()) as body, self._asked(question, body) as answer:
            if answer.status == 200 and answer.content_type == EVENTS:
                return await self._told(question, answer)
            whole = await self._whole(answer)
        if answer.status == 200:
            return result_of(question.request.answer, whole, self.server.origin)
        raise self._error(answer, whole, question.trace)

    def _error(self, answer: aiohttp.ClientResponse, whole: bytes, trace: str) -> SensoriumError:
        error = error_of(answer.status, answer.headers, whole, self.server.origin)
        error.add_note(f"Request {trace} to {self.server.origin}")
        return error

    def _asked(self, question: _Question, body: dict[str, Any]) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        route = self.server.route(question.request.task)
        return self._sent("POST", route, headers=_traced(question.trace), **body)

    @asynccontextmanager
    async def _sent(self, method: str, url: str, **how: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """The server's answer, of which the head has come. Leaving before its end closes the connection."""
        import aiohttp

        session, begun = self._opened(), False
        try:
            async with session.request(method, url, **how, allow_redirects=False) as answer:
                begun = answer.status == 200 and answer.content_type == EVENTS
                yield answer
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if self._closed:
                raise ServiceClosed("The client was closed while it waited for an answer") from error
            if begun:
                raise broken(self.server.origin, "the connection was cut") from error
            raise _unreachable(error, self.server.origin) from error

    async def _told(self, question: _Question, answer: aiohttp.ClientResponse) -> Any:
        """The whole of a streamed answer; its parts are told to the listener."""
        telling = Telling(question.request.answer, self.server.origin, LARGEST_ANSWER)
        try:
            while not telling.over:
                for event in telling.feed(await self._read(answer)):
                    await question.tell(event)
        finally:
            if telling.stream and not telling.over:
                self._leave(telling.stream)
        if telling.result is None:
            raise broken(self.server.origin, "it ended without a result")
        return telling.result

    def _leave(self, stream: str) -> None:
        """Have the server end the work at once, where it would wait for a reader to come back; nobody waits for that."""
        farewell = asyncio.create_task(self._delete(stream))
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)

    async def _delete(self, stream: str) -> None:
        import aiohttp

        with suppress(aiohttp.ClientError, OSError, ServiceClosed):
            async with asyncio.timeout(FAREWELL_SECONDS):
                route = self.server.stream(stream)
                async with self._opened().delete(route, headers=_traced(new_trace()), allow_redirects=False):
                    pass

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        """What comes next, a sign of life at least."""
        try:
            async with asyncio.timeout(self.server.silence) as patience:
                read = await answer.content.readany()
        except TimeoutError as error:
            if not patience.expired():
                raise
            raise broken(self.server.origin, f"nothing came for {self.server.silence:g} s") from error
        if not read:
            raise broken(self.server.origin, "it ended before its end was told")
        return read

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


@asynccontextmanager
async def _no_body() -> AsyncIterator[dict[str, Any]]:
    yield {}


@dataclass(slots=True)
class _Question:
    """One request on its way."""

    request: Request
    options: Options
    deadline: float
    """On the clock of `time.monotonic`."""
    trace: str
    listener: Listener
    heard: bool = False
    """Whether the listener has been told part of the answer."""

    def manner(self) -> dict[str, Any]:
        """How the server is to serve it, within the time that is left."""
        left = min(max(self.deadline - time.monotonic(), 0.001), LONGEST_TIMEOUT)
        streamed = {} if self.listener is ignore else {"stream": True}
        return {"timeout": round(left, 3), **streamed, **manner_of(self.options)}

    async def tell(self, event: Event) -> None:
        self.heard = self.heard or not isinstance(event, Progress)
        await self.listener(event)


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
