"""The verbs of `import sensorium`: each task as a function, for plain code and for `await`.

All work runs on one background event loop with one Sensorium, so that the verbs work inside
notebooks and running loops, from any thread, and again after a fork.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from sensorium import discovery
from sensorium.engine import Options
from sensorium.errors import InvalidRequest, SensoriumError
from sensorium.media.source import Source
from sensorium.schemas.base import ImageResult, Request, checked
from sensorium.service import Sensorium

T = TypeVar("T")


class Background:
    """One event loop in a thread of its own, with the Sensorium that lives there."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="sensorium-loop", daemon=True)
        self._thread.start()
        self.sensorium = Sensorium()

    def submit(self, work: Coroutine[Any, Any, T]) -> Any:
        """A `concurrent.futures.Future` of the work's result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self) -> None:
        if self.process == os.getpid():
            self.submit(self.sensorium.aclose()).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()


_lock = threading.Lock()
_background: Background | None = None


def background() -> Background:
    """The process's own; made at the first use, and anew after a fork, which threads do not survive."""
    global _background
    with _lock:
        if _background is None or _background.process != os.getpid():
            _background = Background()
        return _background


def close() -> None:
    """Give all models, threads and files back; the next verb starts anew."""
    global _background
    with _lock:
        if _background is not None:
            _background.close()
        _background = None


# Not `atexit`, which comes after the thread pools have shut down: closing needs them. Theirs is registered the same way,
# and the last registered runs first.
threading._register_atexit(close)  # type: ignore[attr-defined]


def verb(task: str) -> Callable[..., Any]:
    """The task as a plain function: waits for the answer."""

    def run(*sources: Any, **fields: Any) -> Any:
        return background().submit(_answer(task, sources, fields)).result()

    return _named(run, task)


def async_verb(task: str) -> Callable[..., Any]:
    """The task as a coroutine function, for any running event loop."""

    async def run(*sources: Any, **fields: Any) -> Any:
        return await asyncio.wrap_future(background().submit(_answer(task, sources, fields)))

    return _named(run, task)


def request_of(request: type[Request], sources: Sequence[Any], fields: dict[str, Any]) -> Request:
    """The request about these sources, given in the order of its source fields.

    Raises InvalidRequest, naming every field that is wrong.
    """
    names = request.source_fields()
    given = {**dict(zip(names, sources, strict=False)), **fields}
    for name in names:
        if name in given:
            given[name] = Source.of(given[name])
    if len(sources) > len(names):
        raise InvalidRequest(f"`{request.task}` takes {', '.join(names)}", why=f"{len(sources)} were given")
    return checked(request, given, request.task)


async def _answer(task: str, sources: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    sensorium = background().sensorium
    kind = sensorium.registry.task(task).request
    how = {"timeout": fields.pop("timeout", None), "options": Options(cache=fields.pop("cache", True))}
    if sources and isinstance(sources[0], (list, tuple)):
        return await _many(sensorium, kind, sources[0], fields, how)
    request = request_of(kind, sources, fields)
    return _attached(await sensorium.run(request, **how), request)


async def _many(
    sensorium: Sensorium, kind: type[Request], sources: Sequence[Any], fields: dict[str, Any], how: dict[str, Any]
) -> list[Any]:
    """An outcome for each source; one that is no source at all fails alone too."""
    requests = [_request_or_error(kind, source, fields) for source in sources]
    good = [request for request in requests if isinstance(request, Request)]
    outcomes = iter([_attached(outcome, request) async for outcome, request in _paired(sensorium, good, how)])
    return [next(outcomes) if isinstance(request, Request) else request for request in requests]


async def _paired(sensorium: Sensorium, requests: list[Request], how: dict[str, Any]) -> Any:
    order = iter(requests)
    async for outcome in sensorium.each(requests, **how):
        yield outcome, next(order)


def _request_or_error(kind: type[Request], source: Any, fields: dict[str, Any]) -> Request | SensoriumError:
    try:
        return request_of(kind, [source], dict(fields))
    except SensoriumError as error:
        return error


def _attached(outcome: Any, request: Request) -> Any:
    """A result that knows its picture, so that a notebook can draw it."""
    if isinstance(outcome, ImageResult):
        outcome.attach(next(request.sources()))
    return outcome


def _named(run: Callable[..., Any], task: str) -> Callable[..., Any]:
    run.__name__ = run.__qualname__ = task
    run.__doc__ = discovery.summary(discovery.modules(discovery.TASKS)[task])
    return run
