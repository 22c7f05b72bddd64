"""Understand images on your own machines.

    import sensorium

    result = sensorium.classify("cat.jpg")
    results = sensorium.read(["a.png", "b.png"])

Every task is a verb here, and a coroutine function in `sensorium.aio`. One input gives a
result or raises a SensoriumError; a list gives a list of the same length and order, each
a result or a SensoriumError. `stream` has the same verbs, and gives an answer as it comes.
`connect(url, key)` gives the same verbs, answered by a server.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import Any as _Any

__version__ = "0.1.0"

_EXPORTS = {
    "Sensorium": "sensorium.service",
    "Settings": "sensorium.config",
    "SensoriumError": "sensorium.errors",
    "Source": "sensorium.media.source",
    "close": "sensorium.verbs",
    "connect": "sensorium.client",
    "stream": "sensorium.streams",
    "Delta": "sensorium.engine",
}


def __getattr__(name: str) -> _Any:
    """Exports on demand, so that `import sensorium` stays light."""
    if name in _EXPORTS:
        return getattr(_import_module(_EXPORTS[name]), name)
    if name == "aio":
        return _import_module("sensorium.aio")
    if not name.startswith("_"):
        from sensorium.discovery import TASKS, modules

        if name in modules(TASKS):
            from sensorium.verbs import verb

            globals()[name] = verb(name)
            return globals()[name]
    raise AttributeError(f"module 'sensorium' has no attribute {name!r}")


def __dir__() -> list[str]:
    from sensorium.discovery import TASKS, modules

    return sorted({"__doc__", "__version__", "aio", *_EXPORTS, *modules(TASKS)})
