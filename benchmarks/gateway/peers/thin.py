"""The least that a gateway in Python could do: parse the question, change the model's name, pass it on, pass the answer back."""

from __future__ import annotations

import os

import aiohttp
import orjson

UPSTREAM = os.environ["BENCH_UPSTREAM"] + "/v1/chat/completions"
session: aiohttp.ClientSession | None = None


async def app(scope, receive, send):
    global session
    if scope["type"] != "http":
        return
    if session is None:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    parts, more = [], True
    while more:
        event = await receive()
        parts.append(event.get("body", b""))
        more = event.get("more_body", False)
    asked = orjson.loads(b"".join(parts))
    asked["model"] = "mock"
    async with session.post(UPSTREAM, data=orjson.dumps(asked), headers={"content-type": "application/json"}) as answer:
        kind = (b"content-type", answer.headers["content-type"].encode())
        if not asked.get("stream"):
            body = await answer.read()
            length = (b"content-length", str(len(body)).encode())
            await send({"type": "http.response.start", "status": answer.status, "headers": [kind, length]})
            await send({"type": "http.response.body", "body": body})
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": [kind]})
        async for piece in answer.content.iter_any():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
