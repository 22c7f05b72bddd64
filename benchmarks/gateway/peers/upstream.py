"""A provider that answers at once: `/v1/chat/completions` as OpenAI writes it, plain or as a stream.

Its answers are made beforehand, and the question is not parsed: it must cost as little as can be. The words of the question
say how many chunks a stream has, and with what pauses: `chunks=20 gap_ms=10`.
"""

from __future__ import annotations

import asyncio
import json
import re

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "mock",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "A red bus in a street."}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27},
    }
).encode()
HEAD = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
STREAM_HEAD = [(b"content-type", b"text/event-stream")]


STREAMS = re.compile(rb'"stream":\s?true')
WANTED = re.compile(rb"chunks=(\d+) gap_ms=(\d+)")


def chunk(delta: dict[str, str], ending: str | None = None) -> bytes:
    told = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "mock",
        "choices": [{"index": 0, "delta": delta, "finish_reason": ending}],
    }
    return b"data: " + json.dumps(told).encode() + b"\n\n"


WORD, LAST = chunk({"content": "word "}), chunk({}, "stop") + b"data: [DONE]\n\n"


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        event = await receive()
        body = (body + event.get("body", b""))[-10_000:]  # what is asked of streams is short
        more = event.get("more_body", False)
    if not STREAMS.search(body):
        await send({"type": "http.response.start", "status": 200, "headers": HEAD})
        await send({"type": "http.response.body", "body": ANSWER})
        return
    wanted = WANTED.search(body)
    count, gap = (int(wanted[1]), int(wanted[2]) / 1000) if wanted else (100, 0)
    await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEAD})
    for _ in range(count):
        await send({"type": "http.response.body", "body": WORD, "more_body": True})
        if gap:
            await asyncio.sleep(gap)
    await send({"type": "http.response.body", "body": LAST})
