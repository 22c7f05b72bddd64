"""Pictures on their way: decoded once for all who ask at the same time, and found again while somebody holds them."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sensorium.media.decode import Opened
    from sensorium.media.image import Image

DESK = threading.Lock()
"""Guards all flights: held for a few lines at a time, never while anything is read or decoded."""


class Flight:
    """Work that brings bytes or a picture to all who wait for it. One of them leads; the others only wait.

    When the leader goes before a thread has the work, `landed` holds None, and those who wait ask again.
    """

    def __init__(self, board: dict[bool | str, Flight], route: bool | str, at_least: int | None) -> None:
        self.landed: Future[Image | None] = Future()
        self.landed.set_running_or_notify_cancel()  # so that no waiter can cancel it for the others
        self.at_least = at_least
        self._board, self._route = board, route
        self._led = self._in_thread = self._left = False

    def claim(self) -> bool:
        """Whether the caller is to lead."""
        with DESK:
            led, self._led = self._led, True
        return not led

    def serves(self, at_least: int | None) -> bool:
        """Whether what it brings will be large enough."""
        return self.at_least is None or (at_least is not None and at_least <= self.at_least)

    def take_off(self) -> bool:
        """A thread has the work now. False when it has been given up."""
        with DESK:
            self._in_thread = not self.landed.done()
            return self._in_thread

    def pause(self) -> None:
        with DESK:
            self._in_thread = False
            self._give_up_if_nobody_works()

    def leave(self) -> None:
        """The leader goes."""
        with DESK:
            self._left = True
            self._give_up_if_nobody_works()

    def land(self, image: Image) -> None:
        with DESK:
            self._end()
        self.landed.set_result(image)

    def crash(self, error: BaseException) -> None:
        with DESK:
            self._end()
            if self.landed.done():
                return
        self.landed.set_exception(error)

    def _give_up_if_nobody_works(self) -> None:
        if self._left and not self._in_thread:
            self._end()
            if not self.landed.done():
                self.landed.set_result(None)

    def _end(self) -> None:
        if self._board.get(self._route) is self:
            del self._board[self._route]


class Remembered:
    """A picture, for as long as somebody else holds it."""

    __slots__ = ("_at_least", "_image")

    def __init__(self, image: Image, at_least: int | None) -> None:
        self._image, self._at_least = weakref.ref(image), at_least

    def recall(self, at_least: int | None) -> Image | None:
        """The picture, if it is still there and large enough."""
        image = self._image()
        if image is None or image.scale == 1 or self._at_least is None:
            return image
        if at_least is None or min(image.pixels.shape[:2]) < at_least:
            return None
        return image


class NoRoom:
    """What a thread brings back when the budget of pixels is full."""

    __slots__ = ("opened", "pixels")

    def __init__(self, pixels: int, opened: Opened) -> None:
        self.pixels, self.opened = pixels, opened
