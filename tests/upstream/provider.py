"""The fake provider's server."""

from __future__ import annotations

import asyncio
import email.utils
import json
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from aiohttp import web

from tests.upstream import wire
from tests.upstream.faults import Fault, fault_of
from tests.upstream.wire import Dialect, Seen, Took

ANSWER = "It is a cat that sits on a red mat and looks at you."

ROUTES: dict[str, Dialect] = {
    "/v1/chat/completions": "openai",
    "/v1/messages": "anthropic",
    "/v1beta/models/{model:.+}": "gemini",
}


class Upstream:
    """The provider, and what it has seen. It runs in a thread of its own; every method may be called from any."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.url = ""
        self.requests: list[Seen] = []
        self.answer = ANSWER
        """What it says."""
        self.answers: deque[str] = deque()
        """What it says first, one a request."""
        self.faults: dict[str, str] = {}
        """Faults of models with other names: {"gpt-4o": "cut-3"}."""
        self.keys: set[str] | None = None
        """The keys that are good; None: any, and none at all."""
        self.at_once = self.most_at_once = 0
        self._changed = threading.Condition()
        self._loop, self._released = loop, asyncio.Event()
        self._counts: Counter[str] = Counter()
        self._times: dict[str, deque[float]] = {}

    @property
    def openai(self) -> str:
        return f"{self.url}/v1"

    @property
    def anthropic(self) -> str:
        return self.url

    @property
    def gemini(self) -> str:
        return f"{self.url}/v1beta"

    @property
    def last(self) -> Seen:
        return self.requests[-1]

    def asked(self, model: str) -> list[Seen]:
        """The requests for one model."""
        return [seen for seen in self.requests if seen.model == model]

    def release(self) -> None:
        """Let what hangs or stalls go on, now and later."""
        self._loop.call_soon_threadsafe(self._released.set)

    def forget(self) -> None:
        """Be as new."""
        self.answer, self.keys = ANSWER, None
        for held in (self.requests, self.answers, self.faults, self._counts, self._times):
            held.clear()
        self.at_once = self.most_at_once = 0
        self._loop.call_soon_threadsafe(self._released.clear)

    def wait(self, until: Callable[[Upstream], object], seconds: float = 30.0) -> None:
        """Wait, with the thread, for something to become so. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: until(self), seconds):
                raise TimeoutError(f"It did not happen within {seconds:g} s: {self.requests}")

    async def until(self, so: Callable[[Upstream], object], seconds: float = 30.0) -> None:
        """As `wait`, without holding the event loop."""
        await asyncio.to_thread(self.wait, so, seconds)

    # The server's side

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        for path, dialect in ROUTES.items():
            app.router.add_post(path, self._handler(dialect))
        return app

    def _handler(self, dialect: Dialect) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._handle(request, dialect)

        return handle

    async def _handle(self, request: web.Request, dialect: Dialect) -> web.StreamResponse:
        body = await request.read()
        try:
            seen = wire.understand(dialect, request.path_qs, request.headers, body, time.monotonic())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return self._refuse(dialect, 400, "invalid_request_error", f"this is no request: {error!r}")
        seen.number = self._counts[seen.model]
        seen.peer = request.transport.get_extra_info("peername") if request.transport else None
        with self._changed:
            self._counts[seen.model] += 1
            self.requests.append(seen)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self._changed.notify_all()
        ending = "left"
        try:
            response = await self._answer(request, seen, fault_of(self.faults.get(seen.model, seen.model)))
            ending = "answered"
        except ConnectionError:  # the client has left, or was cut off by the fault
            return web.Response()
        else:
            return response
        finally:
            with self._changed:
                self.at_once -= 1
                seen.ending = ending  # type: ignore[assignment]
                self._changed.notify_all()

    async def _answer(self, request: web.Request, seen: Seen, fault: Fault) -> web.StreamResponse:
        if self.keys is not None and seen.key not in self.keys:
            return self._refuse(seen.dialect, 401, "invalid_api_key", "Incorrect API key provided")
        early = await self._early(request, seen, fault)
        if early is not None:
            return early
        text = "" if fault.name == "empty" else self.answers.popleft() if self.answers else self.answer
        ending = {"length": "length", "filtered-answer": "content_filter"}.get(fault.name, "stop")
        pieces = wire.tokens_of(text)
        images = wire.PICTURE_TOKENS * len(seen.pictures)
        took = Took(seen.input_tokens, len(pieces), images, fault.count if fault.name == "cached" else 0)
        if fault.name == "took":
            took = Took(fault.count, fault.count, 0, 0)
        told = None if fault.name == "no-usage" else took
        if not seen.stream:
            return await self._whole(request, seen, fault, text, ending, told)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if fault.name == "odd-frames":
            spoken = [wire.spoken(seen, piece) for piece in pieces]
            frames = [*wire.opening(seen, told), *spoken, *wire.closing(seen, ending, told, done=True)]
            whole = wire.odd(frames)
            for start in range(0, len(whole), 7):
                await response.write(whole[start : start + 7])
                await asyncio.sleep(0)
            return response
        async for frame in self._frames(request, seen, fault, pieces, ending, told):
            await response.write(frame)
        return response

    async def _whole(
        self, request: web.Request, seen: Seen, fault: Fault, text: str, ending: str, told: Took | None
    ) -> web.StreamResponse:
        if fault.name in ("slow-first", "slow-tokens"):
            await asyncio.sleep(fault.amount)
        if fault.name == "huge-body":
            text = "x" * fault.count
        answer = wire.whole(seen, text, ending, told)
        if fault.name == "odd-name":
            answer["model"] = answer["modelVersion"] = f"\x1b[31m\r\n{seen.key}\u2028"
        if fault.name == "many-values":
            answer["more"] = [[]] * fault.count
        body = json.dumps(answer).encode()
        if fault.name == "malformed":
            body = body[:-9]
        if fault.name not in ("cut", "stall", "end-early", "endless"):
            return web.Response(body=body, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(body) if fault.name == "end-early" else len(body) + 1
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        if fault.name in ("stall", "endless"):
            await self._released.wait()
        self._reset(request)
        return response

    async def _frames(
        self, request: web.Request, seen: Seen, fault: Fault, pieces: list[str], ending: str, told: Took | None
    ) -> AsyncIterator[bytes]:
        if fault.name == "slow-first":
            await asyncio.sleep(fault.amount)
        for frame in wire.opening(seen, told):
            yield frame
        while fault.name == "endless":
            yield wire.spoken(seen, " more")
            seen.sent += 1
            await asyncio.sleep(0.001)
        for number, piece in enumerate(pieces):
            if number == fault.count:
                async for frame in self._amid(request, seen, fault):
                    yield frame
                if fault.name in ("end-early", "error-after"):
                    return
            if fault.name == "slow-tokens":
                await asyncio.sleep(fault.amount)
            yield wire.spoken(seen, piece)
            with self._changed:
                seen.sent += 1
                self._changed.notify_all()
        if fault.name == "huge-event":
            yield wire.spoken(seen, "x" * fault.count)
        for frame in wire.closing(seen, ending, told, done=fault.name != "no-done"):
            yield frame

    async def _amid(self, request: web.Request, seen: Seen, fault: Fault) -> AsyncIterator[bytes]:
        """What happens after as many tokens as the fault says."""
        if fault.name == "cut":
            await asyncio.sleep(0.01)  # so that what was written is on its way before the reset
            self._reset(request)
        elif fault.name == "stall":
            await self._released.wait()
        elif fault.name == "malformed":
            yield b'data: {"choices": [{"delta": {"content": "bro\n\n'
        elif fault.name == "error-after":
            kind = {"openai": "server_error", "anthropic": "overloaded_error", "gemini": "UNAVAILABLE"}[seen.dialect]
            yield wire.failed(seen, wire.refusal(seen.dialect, 503, kind, "Overloaded"))

    async def _early(self, request: web.Request, seen: Seen, fault: Fault) -> web.StreamResponse | None:
        """What is answered in place of an answer."""
        match fault.name:
            case "reset":
                self._reset(request)
            case "reset-once" if seen.number < fault.count:
                self._reset(request)
            case "hang":
                await self._released.wait()
            case "slow-headers":
                await asyncio.sleep(fault.amount)
            case "flapping" if seen.number < fault.count:
                return self._status(seen, 503)
            case "status":
                return self._status(seen, fault.count)
            case "status-once" if seen.number == 0:
                return self._status(seen, fault.count)
            case "no-prefill" if seen.turns[-1][0] != "user":
                return self._refusal(seen, "refused")
            case "page":
                return web.Response(status=502, text="<html><h1>Bad Gateway</h1></html>", content_type="text/html")
            case "limited-once" if seen.number == 0:
                return self._limited(seen, Fault("limited-seconds", fault.amount))
            case "at-most" if self.at_once > fault.count:
                return self._limited(seen, Fault("limited"))
            case "per-second" if self._is_too_fast(seen, fault.count):
                return self._limited(seen, Fault("limited-ms", 200))
            case "limited" | "limited-seconds" | "limited-date" | "limited-ms" | "limited-info":
                return self._limited(seen, fault)
            case "insufficient-quota" | "too-long" | "filtered" | "refused" | "denied" | "unknown":
                return self._refusal(seen, fault.name)
        return None

    def _is_too_fast(self, seen: Seen, allowed: int) -> bool:
        times = self._times.setdefault(seen.model, deque())
        while times and times[0] <= seen.at - 1.0:
            times.popleft()
        if len(times) >= allowed:
            return True
        times.append(seen.at)
        return False

    def _status(self, seen: Seen, status: int) -> web.Response:
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 529: "overloaded_error"}
        return self._refuse(seen.dialect, status, kinds.get(status, "api_error"), f"This is a {status}")

    def _limited(self, seen: Seen, fault: Fault) -> web.Response:
        kind = "RESOURCE_EXHAUSTED" if seen.dialect == "gemini" else "rate_limit_error"
        later = email.utils.formatdate(time.time() + fault.amount, usegmt=True)
        headers = {
            "limited-seconds": {"Retry-After": f"{fault.amount:g}"},
            "limited-date": {"Retry-After": later},
            "limited-ms": {"retry-after-ms": f"{fault.amount:g}"},
        }.get(fault.name, {})
        info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{fault.amount:g}s"}
        body = wire.refusal(seen.dialect, 429, kind, "Rate limit reached")
        if fault.name == "limited-info":
            other = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []}
            body["error"]["details"] = [other, info]
        return web.json_response(body, status=429, headers=headers)

    def _refusal(self, seen: Seen, fault: str) -> web.Response:
        if seen.dialect == "gemini" and fault == "filtered":  # which it says within an answer
            blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 5}}
            if seen.stream:
                return web.Response(body=wire.event(blocked), content_type="text/event-stream")
            return web.json_response(blocked)
        status, kind, message = REFUSALS[fault][seen.dialect]
        if seen.dialect == "gemini" and fault == "insufficient-quota":  # the status is that of any other limit
            violation = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": kind}]}
            body = wire.refusal("gemini", status, "RESOURCE_EXHAUSTED", message, details=[violation])
            return web.json_response(body, status=status)
        return self._refuse(seen.dialect, status, kind, message)

    def _refuse(self, dialect: Dialect, status: int, kind: str, message: str) -> web.Response:
        return web.json_response(wire.refusal(dialect, status, kind, message), status=status)

    def _reset(self, request: web.Request) -> None:
        """Close the connection with a reset, now."""
        transport = request.transport
        if transport is not None:
            with suppress(OSError):
                held = transport.get_extra_info("socket")
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        raise ConnectionResetError("by the fault")


REFUSALS: dict[str, dict[Dialect, tuple[int, str, str]]] = {
    "insufficient-quota": {
        "openai": (429, "insufficient_quota", "You exceeded your current quota, please check your plan"),
        "anthropic": (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        "gemini": (429, "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "You exceeded your current quota"),
    },
    "too-long": {
        "openai": (400, "context_length_exceeded", "This model's maximum context length is 128000 tokens."),
        "anthropic": (400, "invalid_request_error", "prompt is too long: 200251 tokens > 200000 maximum"),
        "gemini": (400, "INVALID_ARGUMENT", "The input token count (2000000) exceeds the maximum number of tokens"),
    },
    "filtered": {
        "openai": (400, "content_policy_violation", "Your request was rejected by our safety system"),
        "anthropic": (400, "invalid_request_error", "Output blocked by content filtering policy"),
        "gemini": (400, "INVALID_ARGUMENT", "blocked"),
    },
    "refused": {
        "openai": (400, "invalid_value", "temperature must be at most 2"),
        "anthropic": (400, "invalid_request_error", "temperature: must be at most 1"),
        "gemini": (400, "INVALID_ARGUMENT", "temperature must be at most 2"),
    },
    "denied": {
        "openai": (401, "invalid_api_key", "Incorrect API key provided: sk-secret"),
        "anthropic": (401, "authentication_error", "invalid x-api-key"),
        "gemini": (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    },
    "unknown": {
        "openai": (404, "model_not_found", "The model does not exist"),
        "anthropic": (404, "not_found_error", "model: unknown"),
        "gemini": (404, "NOT_FOUND", "models/unknown is not found"),
    },
}


@contextmanager
def upstream() -> Iterator[Upstream]:
    """A provider on a port of this machine."""
    loop = asyncio.new_event_loop()
    provider = Upstream(loop)
    thread = threading.Thread(target=loop.run_forever, name="upstream", daemon=True)
    thread.start()

    async def open_() -> web.AppRunner:
        runner = web.AppRunner(provider.app(), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    runner = asyncio.run_coroutine_threadsafe(open_(), loop).result(10)
    try:
        yield provider
    finally:
        provider.release()
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
