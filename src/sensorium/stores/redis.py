"""A store in Redis or Valkey, shared by all servers that use it. While it is down, nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sensorium.dependencies import need
from sensorium.errors import InvalidConfiguration

T = TypeVar("T")

PREFIX = "sensorium:answers:"
"""Before every key, so that other programs' keys are left alone."""

PATIENCE_SECONDS = 0.5
"""How long to wait for a connection, or for a reply; one machine away, a reply takes less than a thousandth of that."""

PAUSE_SECONDS = 5.0
"""How long it is left alone once it has failed."""

MOST_CONNECTIONS = 32

LARGEST_BYTES = 4 * 2**20
"""Of one value: moving a larger one would take longer than most answers."""

log = logging.getLogger("sensorium.stores")


class RedisDown(Exception):
    """It failed a moment ago, and is not asked now."""


class RedisStore:
    """Values with a time to live, which Redis itself forgets. How much memory they take is Redis's `maxmemory`.

    Raises InvalidConfiguration for an address that is none. What is asked while Redis is down raises at once.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = client(url, for_what="remember answers in Redis")
        where = self._redis.connection_pool.connection_kwargs
        self._place = where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
        self._clock = clock
        self._until: float | None = None

    async def get(self, key: str) -> bytes | None:
        found: bytes | None = await self._asked(lambda: self._redis.get(PREFIX + key))
        return found

    async def put(self, key: str, value: bytes, seconds: float) -> None:
        if len(value) <= LARGEST_BYTES:
            await self._asked(lambda: self._redis.set(PREFIX + key, value, px=max(1, round(seconds * 1000))))

    async def delete(self, key: str) -> None:
        await self._asked(lambda: self._redis.delete(PREFIX + key))

    async def close(self) -> None:
        await self._redis.aclose(close_connection_pool=True)

    async def _asked(self, command: Callable[[], Awaitable[T]]) -> T:
        down, now = self._until is not None, self._clock()
        if self._until is not None:
            if now < self._until:
                raise RedisDown
            self._until = now + PAUSE_SECONDS  # while this one tries, the others go on without
        try:
            answer = await reply_to(command())
        except Exception as error:
            self._until = self._clock() + PAUSE_SECONDS
            if not down:
                told = f"{type(error).__name__}: {error}"
                log.warning("Redis at %s cannot be used (%s): answers are worked out without it", self._place, told)
            raise
        if down:
            log.info("Redis at %s can be used again", self._place)
        self._until = None
        return answer


async def reply_to(command: Awaitable[T]) -> T:
    """What Redis replies; raises CancelledError also where its client has swallowed it.

    It sends by `asyncio.wait_for`, which before Python 3.12 passes over a cancelling that comes just when all is sent:
    who is called off in that moment would go on for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    reply = await command
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
    return reply


def client(
    url: str,
    *,
    for_what: str,
    setting: str = "redis_url",
    patience: float = PATIENCE_SECONDS,
    most: int = MOST_CONNECTIONS,
) -> Any:
    """A client that waits `patience` seconds for a connection, and as long for a reply.

    Raises InvalidConfiguration, which names the setting, for an address that is none, and MissingDependency.
    """
    redis = need("redis.asyncio", for_what=for_what)
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as Disconnected

    try:
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=most,
            timeout=patience,
            socket_timeout=patience,
            socket_connect_timeout=patience,
            # Once more, since an idle connection may have been closed meanwhile.
            retry=Retry(NoBackoff(), 1, supported_errors=(Disconnected,)),
        )
    except ValueError as error:
        fix = "Write it as `redis://:PASSWORD@HOST:PORT/0`, or `rediss://` for TLS"
        # Without the library's words: they may repeat the password.
        raise InvalidConfiguration(f"`{setting}` is no address of a Redis", fix=fix) from error
    return redis.Redis(connection_pool=pool)
