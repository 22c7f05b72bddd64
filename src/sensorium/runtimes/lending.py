"""Lends out what one thread at a time may use, such as OpenCV's detectors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Lending(Generic[T]):
    """Things of one make: as many as threads use them at once, each used by one of them.

    The first is made here and now, so that one that cannot be made is known at once.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free = deque([make()])

    def use(self, work: Callable[[T], R]) -> R:
        """What the work makes of a thing that nobody else uses meanwhile. One that it failed with is not lent again."""
        try:
            thing = self._free.pop()
        except IndexError:
            thing = self._make()
        result = work(thing)
        self._free.append(thing)
        return result
