"""Pictures on their way: decoded once for all who ask at the same time, and found again while somebody holds them."""

from __future__ import annotations

import asyncio
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

    When the leader goes before a thread has the work, those who wait get None, and ask again.
    """

    __slots__ = ("_board", "_error", "_image", "_in_thread", "_led", "_left", "_over", "_route", "_waiting", "at_least")

    def __init__(self, board: dict[bool | str, Flight], route: bool | str, at_least: int | None) -> None:
        self.at_least = at_least
        self._board, self._route = board, route
        self._led = self._in_thread = self._left = self._over = False
        self._image: Image | None = None
        self._error: BaseException | None = None
        self._waiting: list[Future[Image | None]] = []

    def claim(self) -> bool:
        """Whether the caller is to lead."""
        with DESK:
            led, self._led = self._led, True
        return not led

    def serves(self, at_least: int | None) -> bool:
        """Whether what it brings will be large enough."""
        return self.at_least is None or (at_least is not None and at_least <= self.at_least)

    async def landed(self) -> Image | None:
        """What it brings, for those who do not lead. Raises what the leader met."""
        future: Future[Image | None] = Future()
        future.set_running_or_notify_cancel()  # so that whoever stops waiting does not cancel it
        with DESK:
            over = self._over
            if not over:
                self._waiting.append(future)
        if over:
            self._tell(future)
        return await asyncio.wrap_future(future)

    def take_off(self) -> bool:
        """A thread has the work now. False when it has been given up."""
        with DESK:
            self._in_thread = not self._over
            return self._in_thread

    def pause(self) -> None:
        """The thread is done with it for now."""
        with DESK:
            self._in_thread = False
            given_up = self._left and self._end()
        self._tell_all(given_up)

    def leave(self) -> None:
        """The leader goes."""
        with DESK:
            self._left = True
            given_up = not self._in_thread and self._end()
        self._tell_all(given_up)

    def land(self, image: Image) -> None:
        with DESK:
            first = self._end(image)
        self._tell_all(first)

    def crash(self, error: BaseException) -> None:
        with DESK:
            first = self._end(error=error)
        self._tell_all(first)

    def _end(self, image: Image | None = None, error: BaseException | None = None) -> bool:
        """Whether it had not ended before."""
        if self._over:
            return False
        self._over, self._image, self._error = True, image, error
        if self._board.get(self._route) is self:
            del self._board[self._route]
        return True

    def _tell_all(self, ended: bool) -> None:
        if ended:
            for future in self._waiting:
                self._tell(future)

    def _tell(self, future: Future[Image | None]) -> None:
        if self._error is None:
            future.set_result(self._image)
        else:
            future.set_exception(self._error)


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
