"""The verbs of `import sensorium`: each task as a function, for plain code and for `await`.

All work runs on one background event loop, so that the verbs work inside notebooks and running
loops, from any thread, and again after a fork. One Sensorium lives there, and every client that
asks a server instead.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - before this module's own ending is registered
import os
import selectors
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sensorium import discovery
from sensorium.engine import Options
from sensorium.errors import InvalidRequest, SensoriumError
from sensorium.listening import Stream
from sensorium.lists import Outcome
from sensorium.media.source import Source
from sensorium.registry import Registry
from sensorium.schemas.base import ImageResult, Request, checked
from sensorium.schemas.typed import Typed

if TYPE_CHECKING:
    from sensorium.service import Sensorium

T = TypeVar("T")


class Answerer(Protocol):
    """What verbs ask: a Sensorium, or a server."""

    async def run(self, request: Request, *, options: Options, timeout: float | None) -> Any: ...  # noqa: ASYNC109
    def each(self, requests: Iterable[Request], **how: Any) -> AsyncGenerator[Outcome, None]: ...
    def stream(self, request: Request, **how: Any) -> Stream: ...
    async def aclose(self) -> None: ...


A = TypeVar("A", bound=Answerer)


class Background:
    """One event loop in a thread of its own, with the answerers that live there."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._selector = selectors.DefaultSelector()
        self.loop = asyncio.SelectorEventLoop(self._selector)
        self._thread = threading.Thread(target=self.loop.run_forever, name="sensorium-loop", daemon=True)
        self._thread.start()
        self._lock = threading.Lock()
        self._lodgers: dict[object, Answerer] = {}

    def lodger(self, name: object, make: Callable[[], A]) -> A:
        """The answerer that lives here under the name; made when it is first asked for, closed with the loop."""
        with self._lock:
            if name not in self._lodgers:
                self._lodgers[name] = make()
            return self._lodgers[name]  # type: ignore[return-value] # a name stands for one `make`

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    async def see_out(self, name: object) -> None:
        """Close the answerer of that name, if there is one. In this loop."""
        with self._lock:
            lodger = self._lodgers.pop(name, None)
        if lodger is not None:
            await lodger.aclose()

    def abandon(self) -> None:
        """Let go, in a forked child. What the selector watches it shares with the parent, and closing any of the
        connections would make the parent deaf to it."""
        self._selector.__init__()  # type: ignore[misc]

    def close(self) -> None:
        if self.process == os.getpid():
            for name in list(self._lodgers):
                self.submit(self.see_out(name)).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()


_lock = threading.Lock()
_background: Background | None = None


def background() -> Background:
    """The process's own; made at the first use, and anew after a fork, which threads do not survive."""
    global _background
    with _lock:
        if _background is not None and _background.process != os.getpid():
            _background.abandon()
            _background = None
        if _background is None:
            _background = Background()
        return _background


def close() -> None:
    """Give all models, threads, connections and files back; the next verb starts anew."""
    global _background
    with _lock:
        if _background is not None:
            _background.close()
        _background = None


# Not `atexit`, which comes after the thread pools have shut down: closing needs them. Theirs is registered the same way
# when their module is imported, as it is above, and the last registered runs first.
threading._register_atexit(close)  # type: ignore[attr-defined]


def local() -> Sensorium:
    """The Sensorium of this process."""
    from sensorium.service import Sensorium  # a client of a server does without

    return background().lodger(Sensorium, Sensorium)


def verb(task: str, answerer: Callable[[], Answerer] = local) -> Callable[..., Any]:
    """The task as a plain function: waits for the answer."""

    def run(*sources: Any, **fields: Any) -> Any:
        return waited_for(_answer(answerer(), task, sources, fields))

    return _named(run, task)


def async_verb(task: str, answerer: Callable[[], Answerer] = local) -> Callable[..., Any]:
    """The task as a coroutine function, for any running event loop."""

    async def run(*sources: Any, **fields: Any) -> Any:
        return await awaited(_answer(answerer(), task, sources, fields))

    return _named(run, task)


def waited_for(work: Coroutine[Any, Any, T]) -> T:
    """What the work returns in the background. One who stops waiting, as by Ctrl-C, cancels it."""
    done = background().submit(work)
    try:
        return done.result()
    finally:
        done.cancel()


async def awaited(work: Coroutine[Any, Any, T]) -> T:
    """What the work returns in the background, for any running event loop. Cancelling this cancels it."""
    return await asyncio.wrap_future(background().submit(work))


def request_of(request: type[Request], sources: Sequence[Any], fields: dict[str, Any]) -> Request:
    """The request about these sources, given in the order of its source fields.

    Raises InvalidRequest, naming every field that is wrong.
    """
    given = {**_placed(request, sources), **fields}
    for name in request.source_fields():
        if given.get(name) is not None:
            given[name] = Source.of(given[name])
    return checked(request, given, request.task, trusted=True)


def _placed(request: type[Request], given: Sequence[Any]) -> dict[str, Any]:
    """What was given by place, by the names of the fields."""
    if request.gathers:
        return {request.gathers: tuple(given)} if given else {}
    names = (*request.source_fields(), *request.positional)
    if len(given) > len(names):
        raise InvalidRequest(f"`{request.task}` takes {', '.join(names)}", why=f"{len(given)} were given")
    return dict(zip(names, given, strict=False))


@dataclass(frozen=True, slots=True)
class Asked:
    """What a verb was called with, taken apart."""

    kind: type[Request]
    fields: dict[str, Any]
    """Of the request."""
    how: dict[str, Any]
    """How it is to be served: arguments of `Answerer.run`."""
    wanted: Typed | None

    @classmethod
    def of(cls, task: str, given: dict[str, Any]) -> Asked:
        """Raises InvalidRequest for a `privacy` or `schema` that is none."""
        kind, fields = Registry().task(task).request, dict(given)
        how = {"timeout": fields.pop("timeout", None), "options": options_from(fields)}
        wanted = None
        if "json_schema" in kind.model_fields and fields.get("schema") is not None:
            wanted = Typed.of(fields.pop("schema"))
            fields["json_schema"] = wanted.json_schema
        return cls(kind, fields, how, wanted)

    def check_list(self, sources: Sequence[Any]) -> None:
        """Raises InvalidRequest where pictures were listed that are meant for one question."""
        if self.kind.gathers and sources and not any(isinstance(one, (list, tuple)) for one in sources):
            task = self.kind.task
            fix = f"Give them one by one, `{task}(a, b)`; a list of lists, `{task}([[a, b], [c, d]])`, asks about each"
            raise InvalidRequest(f"`{task}` was given a list of pictures", fix=fix)

    def request(self, sources: Sequence[Any]) -> Request:
        return request_of(self.kind, sources, self.fields)

    def told(self, outcome: Any, request: Request) -> Any:
        """The outcome as who called the verb wants it."""
        return _attached(self.wanted.fitted(outcome) if self.wanted else outcome, request)


def options_from(fields: dict[str, Any]) -> Options:
    """How to serve, of the fields that say so; they are taken out."""
    privacy = fields.pop("privacy", "any")
    if privacy not in ("any", "local"):
        raise InvalidRequest(f"`privacy` is {str(privacy)[:60]!r}", fix="It is any or local")
    cache, most = fields.pop("cache", True), fields.pop("max_cost", None)
    return Options(cache=cache, remote=privacy == "any", max_cost=most)


async def _answer(answerer: Answerer, task: str, sources: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    asked = Asked.of(task, fields)
    if sources and isinstance(sources[0], (list, tuple)):
        asked.check_list(sources[0])
        return await _many(answerer, asked, sources[0], sources[1:])
    request = asked.request(sources)
    return asked.told(await answerer.run(request, **asked.how), request)


async def _many(answerer: Answerer, asked: Asked, sources: Sequence[Any], rest: Sequence[Any]) -> list[Any]:
    """An outcome for each source; one that is no source at all fails alone too."""
    requests = [_request_or_error(asked, source, rest) for source in sources]
    good = [request for request in requests if isinstance(request, Request)]
    outcomes = iter([_told(asked, outcome, one) async for outcome, one in _paired(answerer, good, asked.how)])
    return [next(outcomes) if isinstance(request, Request) else request for request in requests]


def _told(asked: Asked, outcome: Outcome, request: Request) -> Any:
    try:
        return asked.told(outcome, request)
    except SensoriumError as error:
        return error


async def _paired(answerer: Answerer, requests: list[Request], how: dict[str, Any]) -> Any:
    order = iter(requests)
    async for outcome in answerer.each(requests, **how):
        yield outcome, next(order)


def _request_or_error(asked: Asked, source: Any, rest: Sequence[Any]) -> Request | SensoriumError:
    several = asked.kind.gathers and isinstance(source, (list, tuple))
    try:
        return asked.request([*(source if several else [source]), *rest])
    except SensoriumError as error:
        return error


def _attached(outcome: Any, request: Request) -> Any:
    """A result that knows its picture, so that a notebook can draw it; one that a server fetched is not here."""
    if isinstance(outcome, ImageResult) and (source := next(request.sources(), None)) and source.url is None:
        outcome.attach(source)
    return outcome


def _named(run: Callable[..., Any], task: str) -> Callable[..., Any]:
    run.__name__ = run.__qualname__ = task
    run.__doc__ = discovery.summary(discovery.modules(discovery.TASKS)[task])
    return run
