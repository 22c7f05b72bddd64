"""The server without a socket: requests handed straight to its application."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.applications import Starlette

Asked = tuple[str, str, bytes]
"""Method, path and body."""


def asked(app: Starlette, *requests: Asked) -> list[Any]:
    """The JSON that each request is answered with, in a server that starts before and stops afterwards."""

    async def all_of_them() -> list[Any]:
        async with app.router.lifespan_context(app):
            return [json.loads(await _answer(app, request)) for request in requests]

    return asyncio.run(all_of_them())


async def _answer(app: Starlette, request: Asked) -> bytes:
    method, path, body = request
    sent: list[Any] = []
    coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    coming.put_nowait({"type": "http.request", "body": body, "more_body": False})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/octet-stream"), (b"content-length", str(len(body)).encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "scheme": "http",
        "root_path": "",
    }
    await app(scope, coming.get, send)
    return b"".join(message.get("body", b"") for message in sent)
