"""The verbs as coroutine functions: `await sensorium.aio.classify("cat.jpg")`, in any event loop.

`connect(url, key)` gives the same, answered by a server; `stream` gives an answer as it comes, for `async for`.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "connect":
        from sensorium.client import AsyncClient

        return AsyncClient
    if name == "stream":
        from sensorium.streams import async_stream

        return async_stream
    from sensorium.discovery import TASKS, modules

    if name.startswith("_") or name not in modules(TASKS):
        raise AttributeError(f"module 'sensorium.aio' has no attribute {name!r}")
    from sensorium.verbs import async_verb

    globals()[name] = async_verb(name)
    return globals()[name]


def __dir__() -> list[str]:
    from sensorium.discovery import TASKS, modules

    return sorted({"connect", "stream", *modules(TASKS)})
