"""An event loop whose clock jumps to whatever is waited for next: minutes pass in no time, and always alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__()
        really: Callable[[float | None], list[Any]] = self._selector.select  # type: ignore[attr-defined]

        def select(timeout: float | None = None) -> list[Any]:
            events = really(None if timeout is None else 0)
            if not events:
                self.now += timeout or 0.0
            return events

        self._selector.select = select  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


def in_virtual_time(main: Callable[[Callable[[], float]], Coroutine[Any, Any, T]]) -> T:
    """What the coroutine returns, which is given the clock; `time.monotonic` is that clock too. Not for work in threads."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        clock = runner.get_loop().time
        with mock.patch("time.monotonic", clock):
            return runner.run(main(clock))
