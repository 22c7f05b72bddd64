"""Questions to providers over HTTP: one pool of connections for all of an event loop, JSON out, JSON or a stream in.

Nothing here logs, and no error repeats, a key, a picture or more of an answer than its message. Connections are closed
when their answer has not been read to its end, so a caller that leaves ends the work at the provider.
"""

from __future__ import annotations

import asyncio
import ipaddress
import threading
import time
import urllib.request
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic_core import from_json

from sensorium.engine import Call
from sensorium.errors import ProviderFailed, SensoriumError, StreamBroken, final
from sensorium.runtimes import refusals
from sensorium.runtimes.sse import Events

if TYPE_CHECKING:
    import aiohttp
    import yarl

LARGEST_ANSWER = 1 << 25
"""Bytes of an answer that is no stream."""

MOST_VALUES = 200_000
"""In such an answer: each takes some hundred bytes once it is read, and reading them holds up all others."""

LARGEST_REFUSAL = 1 << 16
REFUSAL_SECONDS = 5.0
"""How much of a refusal is read, and for how long: its message stands at the beginning."""

PARTING_SECONDS = 0.25
"""How long the end of a body is waited for after the end mark, so that the connection can be used again."""

UNREACHED = (
    "See that it runs, and that its address is right: `base_url` of its card, or the variable in `base_url_from`"
)

END_MARK, DONE = b"[DONE]", object()
"""The last event of a stream, and what stands for it among the values of the others."""

PACKED = "identity"
"""What providers may pack answers in: nothing, as aiohttp would unpack a bomb before it could be counted."""


@dataclass(frozen=True)
class Patience:
    """How long a provider may take, in seconds, beside the caller's deadline."""

    connect: float = 10.0
    first: float = 60.0
    """Until the first piece of the answer; its head is none."""
    stall: float = 30.0
    """Between two pieces of it."""


@dataclass(frozen=True)
class Question:
    """A POST. The body is JSON in pieces, so that no picture is copied to join them."""

    url: str
    body: tuple[bytes, ...]
    headers: Mapping[str, str] = field(repr=False)
    secret: str | None = field(default=None, repr=False)
    """The key, so that it can be taken out of what the provider says."""

    @property
    def place(self) -> str:
        """Where it goes, for messages: scheme, host and port."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class Client:
    """One engine's way to its provider. Belongs to the event loop that it is first used in."""

    def __init__(self, called: str, patience: Patience) -> None:
        self.patience = patience
        self._called = called
        self._pool: _Pool | None = None
        self._ways: dict[str, _Way] = {}

    async def ask(self, question: Question, call: Call) -> Any:
        """The whole answer, as a JSON value.

        Raises what `refusals` makes of an answer that is none, ProviderFailed, StreamBroken, or DeadlineExceeded.
        """
        body = await self._answered(question, call)
        try:
            return self._value(await body.whole())
        finally:
            body.close()

    async def listen(self, question: Question, call: Call) -> AsyncGenerator[Iterable[Any], None]:
        """The stream's events as JSON values, those together that came together; close it to leave early.

        `DONE` stands for the end mark. Raises as `ask`, StreamBroken for a stream that is cut or stalls; to go through
        values raises it for one that is malformed.
        """
        events = Events()
        body = await self._answered(question, call)
        try:
            while read := await body.read():
                found = events.feed(read)
                if found and found[-1] == END_MARK:
                    await body.part()
                yield map(self._event, found)
            yield map(self._event, events.finish())
        finally:
            body.close()

    def close(self) -> None:
        """Give the connections back, once no other engine uses them. Call it in a thread."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.leave()

    async def _answered(self, question: Question, call: Call) -> _Body:
        """The body of an answer that is one; whoever gets it closes it."""
        start = time.monotonic()
        response = await self._posted(question, call)
        packed = response.headers.get("Content-Encoding", PACKED)
        if response.status == 200 and (packed is PACKED or packed.lower() == PACKED):
            return _Body(self, response, call, start)
        try:
            if response.status == 200:
                raise self.failed(StreamBroken, "it came packed, unasked")
            raise await self._refusal(response, question)
        finally:
            response.close()

    async def _posted(self, question: Question, call: Call) -> aiohttp.ClientResponse:
        import aiohttp

        if self._pool is None or not self._pool.is_here():
            self.close()
            self._pool = _Pool.join()
        seconds = own_limit(self.patience.first, call)
        try:
            way = self._ways.get(question.url) or self._way(question.url)
            async with nullcontext() if seconds is None else asyncio.timeout(seconds):
                return await self._pool.session.post(
                    way.url,
                    data=self._pool.body(question.body),
                    headers=question.headers,
                    allow_redirects=False,  # they would take the key elsewhere
                    timeout=way.timeout,
                    proxy=way.proxy,
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if seconds is not None and isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
                raise self.silent(seconds, call) from error
            unreached = isinstance(error, aiohttp.ClientConnectorError)
            raise self.failed(ProviderFailed, _reason(error, question.place), UNREACHED if unreached else "") from error

    def _way(self, url: str) -> _Way:
        """Looked up once: of an engine's questions all go to one address, or to few."""
        import aiohttp
        import yarl

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.patience.connect)
        way = self._ways[url] = _Way(yarl.URL(url), _proxy(url), timeout)
        return way

    async def _refusal(self, response: aiohttp.ClientResponse, question: Question) -> SensoriumError:
        body = bytearray()
        with suppress(Exception):  # what was read until then has to do: the status alone says most
            async with asyncio.timeout(REFUSAL_SECONDS):
                while len(body) < LARGEST_REFUSAL and (read := await response.content.readany()):
                    body += read
        told = refusals.Told.of(response.status, response.headers, bytes(body[:LARGEST_REFUSAL]), time.time())
        return refusals.error_of(self._called, told, question.secret)

    def _event(self, data: bytes) -> Any:
        return DONE if data == END_MARK else self._value(data)

    def _value(self, data: bytes) -> Any:
        if len(data) > MOST_VALUES and sum(map(data.count, b"{[,:")) > MOST_VALUES:
            raise self.failed(StreamBroken, f"it has over {MOST_VALUES:,} values")
        try:
            return from_json(data)
        except ValueError as error:
            raise self.failed(StreamBroken, "it is no JSON") from error

    def silent(self, seconds: float, call: Call) -> ProviderFailed:
        call.remaining()
        error = ProviderFailed(f"{self._called} did not answer", why=f"nothing came within {seconds:.3g} s")
        # To wait as long once more helps nobody: another model might.
        return final(error)

    def failed(self, kind: type[ProviderFailed], why: str, fix: str = "") -> ProviderFailed:
        what = "'s answer broke" if kind is StreamBroken else " cannot be asked"
        return kind(f"{self._called}{what}", why=why, fix=fix)


class _Body:
    """What comes of an answer after its head, asked for at `start`."""

    __slots__ = ("_call", "_client", "_content", "_due", "_loop", "_response", "_seconds", "_start", "_timer")

    def __init__(self, client: Client, response: aiohttp.ClientResponse, call: Call, start: float) -> None:
        self._client, self._response, self._call, self._start = client, response, call, start
        self._content = response.content
        self._loop = asyncio.get_running_loop()
        self._seconds = 0.0
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def whole(self) -> bytes:
        """All of it, within `LARGEST_ANSWER`."""
        reads, size = [], 0
        while read := await self.read():
            reads.append(read)
            size += len(read)
            if size > LARGEST_ANSWER:
                raise self._client.failed(StreamBroken, f"it has over {LARGEST_ANSWER:,} bytes")
            if self._content.at_eof():
                break
        return b"".join(reads)

    async def read(self) -> bytes:
        """What has come of it; nothing where the provider ended it. Raises where it breaks off, or stalls."""
        import aiohttp

        content = self._content
        begun = content.total_bytes > 0
        try:
            here = content.read_nowait()
            if here or content.at_eof():  # without the price of a wait
                return here
            patience = self._client.patience
            allowed = patience.stall if begun else self._start + patience.first - time.monotonic()
            self._wait(own_limit(allowed, self._call))
            return await content.readany()
        except TimeoutError as error:
            if not begun:
                raise self._client.silent(time.monotonic() - self._start, self._call) from error
            self._call.remaining()
            raise self._client.failed(StreamBroken, f"it fell silent for {self._seconds:.3g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._client.failed(StreamBroken, "it was cut off") from error
        finally:
            self._due = None

    async def part(self) -> None:
        """Read what is left after the end mark: nothing, but for a broken provider."""
        if self._content.at_eof():
            return
        with suppress(Exception):
            async with asyncio.timeout(PARTING_SECONDS):
                await self._content.readany()

    def close(self) -> None:
        """Give the connection back, or close it where the answer was not read to its end."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._response.closed:
            self._response.close()

    def _wait(self, seconds: float | None) -> None:
        """Have what is awaited next fail after so many seconds.

        One timer serves all waits of an answer: it is left alone where it rings too early, since a timer for each piece
        costs as much as the piece.
        """
        if seconds is None:
            return
        self._seconds, self._due = seconds, self._loop.time() + seconds
        if self._timer is None or self._due < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._due is None:
            return  # nobody waits: the next wait sets it
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._look)
        else:
            self._content.set_exception(TimeoutError())


class _Way(NamedTuple):
    """To a URL, as the environment was when it was first asked."""

    url: yarl.URL
    proxy: str | None
    timeout: aiohttp.ClientTimeout


class _Pool:
    """The connections of one event loop, for all its clients."""

    here: dict[asyncio.AbstractEventLoop, _Pool] = {}
    lock = threading.Lock()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        import aiohttp

        from sensorium.runtimes.post import Pieces

        self._loop, self._users, self.body = loop, 0, Pieces
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),  # how many at once, the quotas say
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,  # it would also send what stands in ~/.netrc in place of our key
            headers={"User-Agent": "sensorium", "Content-Type": "application/json", "Accept-Encoding": PACKED},
        )

    @classmethod
    def join(cls) -> _Pool:
        """The pool of the running loop."""
        loop = asyncio.get_running_loop()
        with cls.lock:
            pool = cls.here.get(loop) or cls(loop)
            cls.here[loop] = pool
            pool._users += 1
        return pool

    def is_here(self) -> bool:
        return self._loop is asyncio.get_running_loop()

    def leave(self) -> None:
        """The last to leave closes it, in its own loop."""
        with self.lock:
            self._users -= 1
            if self._users:
                return
            self.here.pop(self._loop, None)
        if not self._loop.is_running():
            return
        closing = asyncio.run_coroutine_threadsafe(self.session.close(), self._loop)
        if _loop_here() is not self._loop:
            with suppress(TimeoutError):
                closing.result(REFUSAL_SECONDS)


def _loop_here() -> asyncio.AbstractEventLoop | None:
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None


def own_limit(seconds: float, call: Call) -> float | None:
    """For how long to wait for the provider; None where the caller's deadline comes first, for that ends the wait by itself.

    Raises as `call.patience`.
    """
    left = call.patience()
    if left is None or left > seconds:
        return seconds
    return None if call.begin_by is None or call.heard else left


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for the URL; for this machine itself there is none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, by its writing alone: no name is looked up."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def _reason(error: BaseException, place: str) -> str:
    """Why there is no answer, without the text of the error: that may repeat the URL."""
    import aiohttp

    reasons = (
        (aiohttp.ClientConnectorCertificateError, f"the certificate of {place} is not trusted"),
        (aiohttp.ClientSSLError, f"no secure connection to {place} could be made"),
        (aiohttp.ClientConnectorDNSError, f"no address is known for {place}"),
        (aiohttp.ClientConnectorError, f"no connection to {place} could be made"),
        (aiohttp.ConnectionTimeoutError, f"{place} does not take connections"),
        (aiohttp.InvalidURL, "its `base_url` cannot be read"),
        (aiohttp.ServerDisconnectedError, f"{place} closed the connection"),
        (OSError, f"the connection to {place} broke"),
    )
    return next((words for kind, words in reasons if isinstance(error, kind)), f"{place} did not answer in proper HTTP")
