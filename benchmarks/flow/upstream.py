"""A provider that keeps its limits, as a process of its own: it says its port, and answers until its input is closed.

Of `/limited/v1` it takes 600 requests in any 60 seconds, and also no more than a bucket holds: 10, refilled by 10 a
second; and 5 at once. Whatever is more is answered by 429. `/free/v1` takes everything. Both think for 0.3 to 0.5 s.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import deque
from dataclasses import dataclass, field

from aiohttp import web

PER_MINUTE = 600
BUCKET = 10
"""Requests that may come at once, after a time without any."""
AT_ONCE = 5
THINKING_SECONDS = 0.3, 0.5
USAGE = {"prompt_tokens": 800, "completion_tokens": 8, "total_tokens": 808}


@dataclass
class Gate:
    """What it lets through, by two ways of counting that providers use, and how many at once."""

    per_minute: float = float("inf")
    bucket: float = float("inf")
    at_once: float = float("inf")
    answered: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    under_way: int = 0
    most_under_way: int = 0

    def __post_init__(self) -> None:
        self._times: deque[float] = deque()
        self._held, self._filled = self.bucket, time.monotonic()

    def reason(self) -> str:
        """Why the request that has just come is refused; empty when it is let through, and then it counts."""
        now = time.monotonic()
        while self._times and self._times[0] <= now - 60:
            self._times.popleft()
        self._held = min(self.bucket, self._held + (now - self._filled) * self.per_minute / 60)
        self._filled = now
        for reason, full in (
            ("minute", len(self._times) >= self.per_minute),
            ("bucket", self._held < 1),
            ("at once", self.under_way >= self.at_once),
        ):
            if full:
                return reason
        self._times.append(now)
        self._held -= 1
        return ""


class Provider:
    def __init__(self) -> None:
        self._chance = random.Random(1)  # noqa: S311 - no secret
        self.forget()

    def forget(self) -> None:
        self._gates = {"limited": Gate(PER_MINUTE, BUCKET, AT_ONCE), "free": Gate()}

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/{gate}/v1/chat/completions", self._answer)
        app.router.add_get("/seen", self._seen)
        app.router.add_delete("/seen", self._forgotten)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        await request.read()
        gate = self._gates[request.match_info["gate"]]
        if reason := gate.reason():
            gate.refused[reason] = gate.refused.get(reason, 0) + 1
            error = {"message": f"Rate limit reached: {reason}", "type": "requests", "code": "rate_limit_exceeded"}
            return web.json_response({"error": error}, status=429)
        gate.under_way += 1
        gate.most_under_way = max(gate.most_under_way, gate.under_way)
        try:
            await asyncio.sleep(self._chance.uniform(*THINKING_SECONDS))
        finally:
            gate.under_way -= 1
        gate.answered += 1
        said = {"index": 0, "message": {"role": "assistant", "content": "A cat."}, "finish_reason": "stop"}
        told = {"id": "1", "object": "chat.completion", "created": 1, "model": "mock", "choices": [said]}
        return web.json_response({**told, "usage": USAGE})

    async def _seen(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler
        told = {
            name: {"answered": gate.answered, "refused": gate.refused, "most_at_once": gate.most_under_way}
            for name, gate in self._gates.items()
        }
        return web.json_response(told)

    async def _forgotten(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler
        self.forget()
        return web.Response(status=204)


async def main() -> None:
    runner = web.AppRunner(Provider().app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
