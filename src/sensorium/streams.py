"""Answers as they come: `for event in sensorium.stream.ask("photo.jpg", "What is this?")`, and with `async for` in `aio`.

The work runs on the same background loop as the verbs. What `sensorium.connect` gives has a `stream` of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sensorium.discovery import TASKS, modules
from sensorium.engine import Event
from sensorium.errors import InvalidRequest
from sensorium.verbs import Answerer, Asked, awaited, local, waited_for

if TYPE_CHECKING:
    from sensorium.listening import Stream


class _Events:
    """The events of one answer, to be read once; then `result` is the whole answer. Leaving early cancels the work."""

    def __init__(
        self, answerer: Callable[[], Answerer], task: str, sources: tuple[Any, ...], fields: dict[str, Any]
    ) -> None:
        """Raises InvalidRequest, naming every field that is wrong."""
        if sources and isinstance(sources[0], (list, tuple)):
            raise InvalidRequest("A stream has one answer", fix="Give one picture, or ask without streaming")
        self._answerer, self._asked = answerer, Asked.of(task, fields)
        self._request = self._asked.request(sources)
        self._begun = False
        self._results: list[Any] = []

    @property
    def result(self) -> Any:
        """The whole answer, as the verb gives it, once all events have been read."""
        if not self._results:
            raise InvalidRequest("There is no answer yet", why="its events were not read to the end")
        return self._results[0]

    async def _begin(self) -> Stream:
        """In the background loop."""
        if self._begun:
            raise InvalidRequest("These events have been read", fix="Ask again")
        self._begun = True
        return self._answerer().stream(self._request, **self._asked.how)

    def _keep(self, stream: Stream) -> None:
        self._results.append(self._asked.told(stream.result, self._request))


class Events(_Events):
    """For plain code: `for event in events`."""

    def __iter__(self) -> Iterator[Event]:
        stream = waited_for(self._begin())
        events = aiter(stream)
        try:
            while (event := waited_for(_next(events))) is not None:
                yield event
            self._keep(stream)
        finally:
            waited_for(_leave(stream, events))


class AsyncEvents(_Events):
    """For any running event loop: `async for event in events`."""

    async def __aiter__(self) -> AsyncIterator[Event]:
        stream = await awaited(self._begin())
        events = aiter(stream)
        try:
            while (event := await awaited(_next(events))) is not None:
                yield event
            self._keep(stream)
        finally:
            await awaited(_leave(stream, events))


E = TypeVar("E", bound=_Events)


class Streams(Generic[E]):
    """Every task as a function that gives its events."""

    def __init__(
        self,
        kind: Callable[[Callable[[], Answerer], str, tuple[Any, ...], dict[str, Any]], E],
        answerer: Callable[[], Answerer] = local,
    ) -> None:
        self._kind, self._answerer = kind, answerer

    def __getattr__(self, name: str) -> Callable[..., E]:
        if name.startswith("_") or name not in modules(TASKS):
            raise AttributeError(f"there is no task {name!r} to stream")

        def run(*sources: Any, **fields: Any) -> E:
            return self._kind(self._answerer, name, sources, fields)

        return run

    def __dir__(self) -> list[str]:
        return sorted(modules(TASKS))


stream = Streams(Events)
async_stream = Streams(AsyncEvents)


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


async def _leave(stream: Stream, events: AsyncIterator[Event]) -> None:
    await stream.aclose()
    # One who stopped waiting, as by Ctrl-C, may have left it at work; then it ends with the stream.
    with suppress(RuntimeError):
        await events.aclose()  # type: ignore[attr-defined] # it is a generator
