"""The one function that does items: orders in, outcomes out, both as JSON."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sensorium.config import Settings
from sensorium.engine import Caller, Options
from sensorium.jobs.work import Order, work
from sensorium.media.source import Source
from sensorium.schemas.classify import ClassifyRequest
from sensorium.server.facades.native import item
from sensorium.service import Sensorium
from tests.fakes import put_fake
from tests.pictures import JUNK, jpeg


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Sensorium]:
    put_fake(tmp_path / "models", "late", "seconds = 30")
    put_fake(tmp_path / "models", "slow", "seconds = 0.2")
    put_fake(tmp_path / "models", "far", remote=True)
    async with Sensorium(Settings(cache_dir=tmp_path, models_dir=tmp_path / "models", cache="off")) as service:
        yield service


def order(picture: bytes | Path, **more: Any) -> bytes:
    request = ClassifyRequest(image=Source.of(picture), model=more.pop("model", "fake"))
    return Order.about(request, **more).encoded()


async def outcomes(service: Sensorium, *orders: bytes) -> list[Any]:
    return [json.loads(outcome) for outcome in await work(service, orders)]


async def test_outcomes_come_in_order_and_each_item_fails_alone(service: Sensorium, tmp_path: Path) -> None:
    (tmp_path / "猫.jpg").write_bytes(jpeg(width=20))
    told = await outcomes(
        service,
        order(jpeg(width=30)),
        order(JUNK),
        order(tmp_path / "猫.jpg"),
        order(tmp_path / "nowhere.jpg"),
        b'{"task": "nothing", "request": {}}',
        b'{"task": "classify", "request": {"image": 5}}',
        b"no JSON",
        order(jpeg(width=40)),
    )
    assert [one["result"]["image"]["width"] if "result" in one else one["error"]["code"] for one in told] == [
        30,
        "unidentified_media",
        20,
        "file_missing",
        "unknown_task",
        "invalid_request",
        "invalid_request",
        40,
    ]
    assert all(len(one["error"]["trace"]) == 32 for one in told if "error" in one)


async def test_an_outcome_is_written_as_the_native_route_writes_it(service: Sensorium) -> None:
    (told,) = await work(service, [order(jpeg(), trace="a" * 32)])
    result = await service.run(ClassifyRequest(image=Source.of(jpeg()), model="fake"), trace="a" * 32)
    took = json.loads(told)["result"]["meta"]
    assert told == item(result.stamped(seconds=took["seconds"], loading_seconds=took["loading_seconds"]), "")


async def test_an_order_says_how_it_is_served(service: Sensorium) -> None:
    stranger = Caller("shop", frozenset({"read", "ask"}), 60)
    told = await outcomes(
        service,
        order(jpeg(), model="late", timeout=0.05),
        order(jpeg(), caller=stranger),
        order(jpeg(), model="far", options=Options(remote=False)),
        order(jpeg(), trace="b" * 32),
    )
    assert [one["error"]["code"] for one in told[:3]] == ["deadline_exceeded", "forbidden", "remote_forbidden"]
    assert told[3]["result"]["meta"]["trace"] == "b" * 32


def test_orders_come_whole_through_json() -> None:
    place = os.fsdecode(b"/photos/\xff\xfe \xe7\x8c\xab.jpg")
    request = ClassifyRequest(image=Source.of(place), top_k=3)
    made = Order.about(request, caller=Caller("shop", frozenset({"read", "ask"})), options=Options(max_cost=0.5))
    read = Order.model_validate(json.loads(made.encoded()))
    assert (read.request, read.caller, read.options) == (
        {"image": {"path": place}, "top_k": 3},
        made.caller,
        made.options,
    )


async def test_a_mistake_of_ours_is_an_outcome_and_its_words_are_told_to_owners_only(
    service: Sensorium, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*ignored: Any, **more: Any) -> Any:
        raise ZeroDivisionError("the secret of the house")

    monkeypatch.setattr(service, "run", broken)
    own, others = await outcomes(service, order(jpeg()), order(jpeg(), discreet=True))
    assert own["error"]["code"] == others["error"]["code"] == "engine_failed"
    assert "the secret of the house" in own["error"]["message"]
    assert "the secret of the house" not in others["error"]["message"]
    assert others["error"]["trace"] in caplog.text


async def test_items_are_under_way_together(service: Sensorium) -> None:
    begun = asyncio.get_running_loop().time()
    told = await outcomes(service, *(order(jpeg(seed=seed), model="slow") for seed in range(8)))
    assert all("result" in one for one in told)
    assert asyncio.get_running_loop().time() - begun < 8 * 0.2
