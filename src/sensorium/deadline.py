"""How long a caller waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from sensorium.errors import DeadlineExceeded, InvalidRequest

T = TypeVar("T")


def checked_seconds(seconds: float) -> float:
    """The seconds that a caller allows. Raises InvalidRequest unless they are over 0."""
    if not seconds > 0:  # so that what is no number is refused too
        raise InvalidRequest(f"`timeout` must be over 0 seconds; got {seconds:g}")
    return seconds


class at_most:  # noqa: N801 - read as a verb's object: `with at_most(seconds):`
    """Ends the block once it takes longer, with the error that `late` makes of the seconds.

    What `asyncio.timeout` does, for those that every request passes: at a third of the cost, since this can neither be put
    off nor awaited. A timeout inside the block passes as it is.
    """

    __slots__ = ("_before", "_expired", "_late", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float, late: Callable[[float], Exception]) -> None:
        self._seconds, self._late, self._expired = seconds, late, False

    def __enter__(self) -> Self:
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment] # a coroutine runs in a task
        self._before = self._task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # Who else cancelled it is heard.
        if self._expired and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise self._late(self._seconds) from error

    def _end(self) -> None:
        self._expired = True
        self._task.cancel()


def no_answer(seconds: float) -> DeadlineExceeded:
    """What is raised of an answer that took longer."""
    return DeadlineExceeded(f"No answer within {seconds:g} s", fix="Allow more time with `timeout`")


async def within(seconds: float, work: Awaitable[T]) -> T:
    """The work's result.

    Raises DeadlineExceeded when it takes longer; a timeout inside the work passes as it is.
    """
    with at_most(seconds, no_answer):
        return await work
