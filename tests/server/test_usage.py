"""What was used, as clients and operators are told it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pybase64
import pytest
import requests

from sensorium.engine import Budget
from sensorium.stores.usage import Amounts, UsageBook
from tests.keyring import kept_key
from tests.pictures import png
from tests.server.conftest import PATIENCE, Server, eventually, running

TASKS = {task: ["fake"] for task in ("classify", "read", "describe_pixels", "ask")}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("keyed"), auth="on", models=TASKS) as started:
        yield started


@pytest.fixture(scope="module")
def data(keyed: Server) -> Path:
    return keyed.log_file.parent / "data"


def ask(server: Server, key: str, task: str = "classify", **query: Any) -> int:
    headers = {"Content-Type": "image/png", "X-API-Key": key}
    url = f"{server.url}/v1/{task}"
    return requests.post(url, data=png(), headers=headers, params=query, timeout=10).status_code


def usage(server: Server, sent: str, **query: Any) -> requests.Response:
    return requests.get(f"{server.url}/v1/usage", headers={"X-API-Key": sent}, params=query, timeout=10)


def lines(server: Server, sent: str, by: str, **query: Any) -> dict[str, dict[str, Any]]:
    told = usage(server, sent, by=by, **query)
    assert told.status_code == 200, told.text
    return {line[by]: line for line in told.json()["usage"]}


def test_each_key_sees_what_it_used_itself(keyed: Server, data: Path) -> None:
    shop, robot = kept_key(data, "shop"), kept_key(data, "robot")
    assert [ask(keyed, shop) for _ in range(3)] == [200] * 3
    assert ask(keyed, shop, model="broken") == 500
    ask(keyed, robot)
    (line,) = lines(keyed, shop, "key").values()
    assert (line["key"], line["requests"], line["errors"]) == ("shop", 4, 1)
    assert line["pictures"] == 1, "the others were remembered"
    assert set(lines(keyed, shop, "model")) == {"fake@1", ""}
    assert set(lines(keyed, shop, "task")) == {"classify"}
    (day,) = lines(keyed, shop, "day", since="2020-01-01")
    assert day == time.strftime("%Y-%m-%d", time.gmtime())
    assert lines(keyed, shop, "day", since="2999-01-01") == {}
    assert usage(keyed, shop).json()["budget"] is None


def test_an_operator_sees_everyone_or_one(keyed: Server, data: Path) -> None:
    one = kept_key(data, "one")
    ask(keyed, one)
    admin = kept_key(data, "admin", scopes=("admin",))
    assert "one" in lines(keyed, admin, "key")
    assert set(lines(keyed, admin, "key", key="one")) == {"one"}
    told = usage(keyed, one, key="admin")
    assert (told.status_code, told.json()["error"]["code"]) == (403, "forbidden")
    assert set(lines(keyed, one, "key", key="one")) == {"one"}


@pytest.mark.parametrize(
    "query", [{"by": "secret"}, {"since": "yesterday"}, {"sinse": "2026-01-01"}, {"by": ["key", "day"]}]
)
def test_a_wrong_query_is_told(keyed: Server, data: Path, query: dict[str, Any]) -> None:
    key = kept_key(data, f"asks {json.dumps(query).replace(':', '')[:40]}")
    told = usage(keyed, key, **query)
    assert (told.status_code, told.json()["error"]["code"]) == (400, "invalid_request")
    assert next(iter(query)) in told.json()["error"]["message"]


def test_without_a_key_nothing_is_told(keyed: Server) -> None:
    assert requests.get(f"{keyed.url}/v1/usage", timeout=10).status_code == 401


def test_parts_of_a_composed_task_are_work_but_no_requests(keyed: Server, data: Path) -> None:
    key = kept_key(data, "composer")
    assert ask(keyed, key, "analyze") == 200
    tasks = lines(keyed, key, "task")
    assert {name: (line["requests"], line["pictures"]) for name, line in tasks.items()} == {
        "analyze": (1, 0),
        "classify": (0, 1),
        "read": (0, 1),
        "faces": (0, 1),
        "describe_pixels": (0, 1),
    }


def test_a_budget_is_shown_to_its_key_and_changes_without_a_restart(keyed: Server, data: Path) -> None:
    key = kept_key(data, "intern", budget=Budget("day", usd=5.0, tokens=1000))
    told = usage(keyed, key).json()["budget"]
    assert told.pop("until") > time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    assert told == {"per": "day", "usd": 5.0, "tokens": 1000, "spent_usd": 0.0, "spent_tokens": 0}
    command = [sys.executable, "-m", "sensorium", "keys", "budget", "intern", "--usd", "9"]
    subprocess.run(command, env={**os.environ, "SENSORIUM_DATA_DIR": str(data)}, check=True, capture_output=True)
    assert eventually(lambda: usage(keyed, key).json()["budget"]["usd"] == 9.0)


def test_what_a_budget_has_no_room_for_is_refused_until_its_time_is_over(keyed: Server, data: Path) -> None:
    key = kept_key(data, "thrifty", budget=Budget("day", tokens=500))

    def asked(**fields: Any) -> requests.Response:
        picture = "data:image/png;base64," + pybase64.b64encode(png()).decode()
        body = {"image": picture, "prompt": "What is this?", **fields}
        return requests.post(f"{keyed.url}/v1/ask", json=body, headers={"X-API-Key": key}, timeout=10)

    assert asked(max_tokens=100).status_code == 200
    asyncio.run(spend(data, "thrifty", 450))
    told = asked(max_tokens=101)
    error = told.json()["error"]
    assert (told.status_code, error["code"], error["retryable"]) == (429, "budget_spent", True)
    assert "500 tokens a day are allowed, 450 are used" in error["message"]
    assert 0 < int(told.headers["Retry-After"]) <= 86400
    assert ask(keyed, key) == 200, "what takes no tokens needs no budget"
    assert asked(model="perception").status_code == 200, "neither does what only local tasks see"
    never = asked()
    error = never.json()["error"]
    assert (never.status_code, error["code"], error["retryable"]) == (429, "budget_spent", False)
    assert "only 500 tokens a day are allowed" in error["message"]
    assert "retry_after_seconds" not in error
    assert "Retry-After" not in never.headers


async def spend(data: Path, key: str, tokens: int) -> None:
    book = UsageBook(data / "usage.sqlite")
    book.note(key, "gpt@1", "ask", Amounts(input_tokens=tokens))
    await book.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows serves from one process only")
def test_several_workers_and_one_that_is_told_to_stop_count_every_request(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    key = kept_key(folder, "shop")
    with running(tmp_path, auth="on", workers=2, data_dir=str(folder)) as server:
        assert [ask(server, key) for _ in range(20)] == [200] * 20
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(PATIENCE)
    with running(tmp_path / "again", auth="on", data_dir=str(folder)) as server:
        (line,) = lines(server, key, "key").values()
        assert line["requests"] == 20


def test_where_no_key_is_asked_for_everything_is_told(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        headers = {"Content-Type": "image/png"}
        requests.post(f"{server.url}/v1/classify", data=png(), headers=headers, timeout=10)
        told = requests.get(f"{server.url}/v1/usage", params={"by": "key"}, timeout=10).json()
        assert [(line["key"], line["requests"]) for line in told["usage"]] == [("local", 1)]
        assert requests.post(f"{server.url}/v1/usage", timeout=10).status_code == 405


def test_a_server_that_cannot_write_its_usage_serves_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where a folder is needed", encoding="utf-8")
    with running(tmp_path, auth="off") as server:
        headers = {"Content-Type": "image/png"}
        told = requests.post(f"{server.url}/v1/classify", data=png(), headers=headers, timeout=10)
        assert told.status_code == 200
        assert server.logs("Usage cannot be written")
        refused = requests.get(f"{server.url}/v1/usage", timeout=10)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
        assert str(tmp_path) not in refused.text
