"""How long a caller waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from sensorium.errors import DeadlineExceeded, InvalidRequest

T = TypeVar("T")


def checked_seconds(seconds: float) -> float:
    """The seconds that a caller allows. Raises InvalidRequest unless they are over 0."""
    if not seconds > 0:  # so that what is no number is refused too
        raise InvalidRequest(f"`timeout` must be over 0 seconds; got {seconds:g}")
    return seconds


async def within(seconds: float, work: Awaitable[T]) -> T:
    """The work's result.

    Raises DeadlineExceeded when it takes longer; a timeout inside the work passes as it is.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceeded(f"No answer within {seconds:g} s", fix="Allow more time with `timeout`") from error
