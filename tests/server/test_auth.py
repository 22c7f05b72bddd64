"""Who may ask a server, over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from starlette.requests import Request

import sensorium
from sensorium.config import Settings
from sensorium.errors import Forbidden, Unauthenticated
from sensorium.schemas.classify import ClassifyRequest
from sensorium.server.app import guarded
from sensorium.server.auth import Guard, asks_for_keys, make_ready
from sensorium.server.door import CALLER, TRACE, Door, House
from sensorium.server.facades import native
from sensorium.server.facades.base import Reply
from sensorium.stores.keys import SqliteKeys
from sensorium.stores.sealing import seal_of
from tests.keyring import kept_key, new_key
from tests.pictures import png
from tests.server.conftest import Server, eventually, running
from tests.server.wire import bitmap, connected, form, head

SECRET = "the secret of tokens, which is long enough"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for keys, and takes tokens too."""
    folder = tmp_path_factory.mktemp("keyed")
    with running(folder, auth="on", jwt_secret=SECRET, cors_origins=["https://shop.example"]) as started:
        yield started


@pytest.fixture(scope="module")
def data(keyed: Server) -> Path:
    return keyed.log_file.parent / "data"


def classify(server: Server, key: str | None = None, task: str = "classify", **headers: str) -> requests.Response:
    sent = {"Content-Type": "image/png", **({"Authorization": f"Bearer {key}"} if key else {}), **headers}
    return requests.post(f"{server.url}/v1/{task}", data=png(), headers=sent, timeout=10)


def predict(server: Server, key: str | None = None) -> requests.Response:
    sent = form(("file", "a.png", png()))
    sent["headers"] |= {"X-API-Key": key} if key else {}
    return requests.post(f"{server.url}/predict", timeout=10, **sent)


def test_without_a_key_nothing_is_answered_and_the_key_is_asked_for(keyed: Server) -> None:
    told = classify(keyed)
    assert (told.status_code, told.json()["error"]["code"]) == (401, "unauthenticated")
    assert told.headers["WWW-Authenticate"] == 'Bearer realm="sensorium"'
    assert "Authorization: Bearer" in told.json()["error"]["message"]
    told = predict(keyed)
    assert (told.status_code, list(told.json())) == (401, ["error"])
    assert told.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_good_key_is_taken_in_either_header(keyed: Server, data: Path) -> None:
    key = kept_key(data, "either")
    assert classify(keyed, key).status_code == 200
    assert classify(keyed, **{"X-API-Key": key}).status_code == 200
    assert classify(keyed, Authorization=f"bEaReR  {key}").status_code == 200
    assert classify(keyed, **{"Authorization": "Basic YTpi", "X-API-Key": key}).status_code == 200
    assert predict(keyed, key).status_code == 200


def test_a_wrong_key_is_refused_and_never_told(keyed: Server, data: Path) -> None:
    wrong = kept_key(data, "nearly")[:-1]
    told = classify(keyed, wrong)
    assert told.status_code == 401
    assert 'error="invalid_token"' in told.headers["WWW-Authenticate"]
    secret = wrong.rpartition("-")[2]
    assert secret not in told.text + str(told.headers)
    assert keyed.logs(r"POST /v1/classify 401")
    assert secret not in keyed.log()


def test_scopes_hold_for_every_route(keyed: Server, data: Path) -> None:
    reads = kept_key(data, "reads", scopes=("read",))
    assert classify(keyed, reads, task="read").status_code == 200
    told = classify(keyed, reads)
    assert (told.status_code, told.json()["error"]["code"]) == (403, "forbidden")
    assert "`classify` is missing" in told.json()["error"]["message"]
    assert 'error="insufficient_scope", scope="classify"' in told.headers["WWW-Authenticate"]
    told = predict(keyed, reads)
    assert (told.status_code, list(told.json())) == (403, ["error"])
    classifies = kept_key(data, "classifies", scopes=("classify",))
    assert (classify(keyed, classifies).status_code, predict(keyed, classifies).status_code) == (200, 200)


def test_a_composed_task_needs_its_own_scope_alone(keyed: Server, data: Path) -> None:
    assert classify(keyed, kept_key(data, "analyses", scopes=("analyze",)), task="analyze").status_code == 200


def test_a_key_that_expires_is_good_until_then(keyed: Server, data: Path) -> None:
    assert classify(keyed, kept_key(data, "short", expires=time.time() + 60)).status_code == 200
    told = classify(keyed, kept_key(data, "shorter", expires=time.time() - 1))
    assert (told.status_code, "expired" in told.json()["error"]["message"]) == (401, True)


def test_keys_are_made_and_revoked_by_the_command_line_without_a_restart(keyed: Server, data: Path) -> None:
    def keys(*words: str) -> Any:
        command = [sys.executable, "-m", "sensorium", "keys", *words, "--json"]
        environment = {**os.environ, "SENSORIUM_DATA_DIR": str(data)}
        return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    made = keys("create", "robot", "--scope", "classify", "--rate", "100")
    assert classify(keyed, made["key"]).status_code == 200
    assert keys("revoke", "robot")["state"] == "revoked"
    assert eventually(lambda: classify(keyed, made["key"]).status_code == 401)
    assert "revoked" in classify(keyed, made["key"]).json()["error"]["message"]


def test_a_used_up_rate_says_when_to_come_back(keyed: Server, data: Path) -> None:
    key = kept_key(data, "slow", requests_per_minute=2)
    assert [classify(keyed, key).status_code for _ in range(2)] == [200, 200]
    told = classify(keyed, key)
    error = told.json()["error"]
    assert (told.status_code, error["code"]) == (429, "rate_limited")
    assert 10 < error["retry_after_seconds"] <= 30
    assert int(told.headers["Retry-After"]) == -(-error["retry_after_seconds"] // 1)
    assert predict(keyed, key).status_code == 429
    assert classify(keyed, kept_key(data, "quick")).status_code == 200


@pytest.mark.slow
def test_two_servers_share_a_rate(tmp_path: Path) -> None:
    shared = {"auth": "on", "rates": "sqlite", "cache_dir": str(tmp_path / "both"), "data_dir": str(tmp_path / "data")}
    key = kept_key(tmp_path / "data", "shop", requests_per_minute=6)
    with running(tmp_path / "one", **shared) as one, running(tmp_path / "two", **shared) as two:
        got = [classify(server, key).status_code for server in (one, two) * 5]
    assert got.count(200) == 6
    assert got.count(429) == 4


def test_a_token_is_as_good_as_a_key(keyed: Server) -> None:
    token = jwt.encode({"sub": "alice", "exp": time.time() + 60, "scope": "read"}, SECRET)
    assert classify(keyed, token, task="read").status_code == 200
    assert classify(keyed, token).status_code == 403
    assert predict(keyed, token).status_code == 403
    for bad in (token[:-2], jwt.encode({"sub": "alice", "exp": 1, "scope": "read"}, SECRET)):
        told = classify(keyed, bad, task="read")
        assert told.status_code == 401
        assert bad not in told.text


def test_the_client_sends_its_key_and_hears_why_another_is_refused(keyed: Server, data: Path) -> None:
    reads = kept_key(data, "client", scopes=("read",))
    with sensorium.connect(keyed.url, reads) as server:
        assert server.read(png()).lines is not None
        with pytest.raises(Forbidden, match="`classify` is missing"):
            server.classify(png())
    with sensorium.connect(keyed.url, reads[:-1]) as server, pytest.raises(Unauthenticated, match="not known"):
        server.read(png())
    with sensorium.connect(keyed.url) as server, pytest.raises(Unauthenticated, match="asks for a key"):
        server.read(bitmap(2000, 2000))


def test_what_watchers_need_stays_open_and_the_rest_does_not(keyed: Server, data: Path) -> None:
    for path in ("/", "/openapi.json", "/health/live", "/health/ready"):
        assert requests.get(keyed.url + path, timeout=10).status_code == 200
    assert requests.get(f"{keyed.url}/v1/caller", timeout=10).status_code == 401
    key = kept_key(data, "who", scopes=("read", "admin"), requests_per_minute=60)
    told = requests.get(f"{keyed.url}/v1/caller", headers={"X-API-Key": key}, timeout=10).json()
    assert told == {"name": "who", "scopes": ["admin", "read"], "requests_per_minute": 60}


def test_models_are_listed_for_every_key_and_reloaded_for_operators_alone(keyed: Server, data: Path) -> None:
    listing, reload = f"{keyed.url}/v1/models", f"{keyed.url}/v1/models/pixel_statistics/reload"
    everything, admin = kept_key(data, "all-tasks", scopes=("*",)), kept_key(data, "operator", scopes=("admin",))
    assert [requests.get(listing, timeout=10).status_code, requests.post(reload, timeout=10).status_code] == [401, 401]
    told = requests.post(reload, headers={"X-API-Key": everything}, timeout=10)
    assert (told.status_code, told.json()["error"]["code"]) == (403, "forbidden")
    assert requests.get(listing, headers={"X-API-Key": everything}, timeout=10).status_code == 200
    assert requests.post(reload, headers={"X-API-Key": admin}, timeout=30).status_code == 200


def test_no_body_is_read_for_a_stranger(keyed: Server) -> None:
    """A large upload is answered at once, while almost all of it has still to be sent."""
    with connected(keyed.port) as connection:
        connection.sendall(head("/v1/classify", "Content-Type: image/png", "Content-Length: 200000000"))
        connection.sendall(b"x" * 100_000)
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")
    assert not keyed.spooled()


def test_one_who_waits_for_a_word_before_sending_is_refused_before(keyed: Server) -> None:
    with connected(keyed.port) as connection:
        lines = ("Content-Type: image/png", "Content-Length: 200000000", "Expect: 100-continue")
        connection.sendall(head("/v1/classify", *lines))
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_after_a_refusal_the_connection_goes_on(keyed: Server, data: Path) -> None:
    key = kept_key(data, "again")
    body = b"x" * 300_000
    with requests.Session() as session:
        for _ in range(3):
            assert session.post(f"{keyed.url}/v1/classify", data=body, timeout=10).status_code == 401
            headers = {"X-API-Key": key, "Content-Type": "image/png"}
            assert session.post(f"{keyed.url}/v1/classify", data=png(), headers=headers, timeout=10).status_code == 200
    with connected(keyed.port) as connection:
        request = head("/v1/classify", "Content-Type: image/png", f"Content-Length: {len(body)}") + body
        for _ in range(3):
            connection.sendall(request)
            answer = b""
            while b'"trace"' not in answer:
                answer += connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 401 ")


def test_a_named_page_may_ask_from_a_browser_also_where_keys_are_asked_for(keyed: Server, data: Path) -> None:
    origin = {"Origin": "https://shop.example"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = requests.options(f"{keyed.url}/v1/classify", headers={**origin, **asks}, timeout=10)
    assert preflight.status_code == 200, "a preflight carries no key"
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"].lower()
    for told in (classify(keyed, **origin), classify(keyed, kept_key(data, "page"), **origin)):
        assert told.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    other = requests.options(f"{keyed.url}/v1/classify", headers={**asks, "Origin": "https://evil.example"}, timeout=10)
    assert "Access-Control-Allow-Origin" not in other.headers


def test_the_first_start_elsewhere_makes_a_key_and_tells_it(tmp_path: Path) -> None:
    with running(tmp_path, host="0.0.0.0") as server:
        (key,) = re.findall(r"^ +(sk-sensorium-\S+)$", server.log(), re.MULTILINE)
        assert classify(server).status_code == 401
        assert classify(server, key).status_code == 200
        assert server.log().count(key) == 1


async def test_a_key_is_made_only_where_there_never_was_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(host="0.0.0.0", data_dir=tmp_path)
    made = await make_ready(settings)
    assert made is not None
    assert made.secret.text in str(made)
    assert made.secret.secret not in repr(made)
    assert await make_ready(settings) is None
    assert "nobody can ask" not in caplog.text
    await SqliteKeys(tmp_path / "keys.sqlite").revoke("first")
    assert await make_ready(settings) is None, "who revoked it meant it"
    assert "nobody can ask" in caplog.text
    for other in ({"auth": "off"}, {"jwt_secret": SECRET}):
        assert await make_ready(Settings(host="0.0.0.0", data_dir=tmp_path / "other", **other)) is None  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


def test_keys_can_be_switched_off_elsewhere_too(tmp_path: Path) -> None:
    with running(tmp_path, host="0.0.0.0", auth="off") as server:
        assert "sk-sensorium" not in server.log()
        assert classify(server).status_code == 200
    assert not (tmp_path / "data" / "keys.sqlite").exists()


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, False),
        ({"host": "::1"}, False),
        ({"host": "127.8.9.1"}, False),
        ({"host": "LOCALHOST"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "192.168.1.5"}, True),
        ({"host": "camera.local"}, True),
        ({"auth": "on"}, True),
        ({"host": "0.0.0.0", "auth": "off"}, False),
        ({"jwt_secret": SECRET}, True),
        ({"jwks_file": "keys.json", "auth": "off"}, False),
    ],
    ids=str,
)
def test_keys_are_asked_for_wherever_others_can_reach(settings: dict[str, Any], asked: bool) -> None:
    assert asks_for_keys(Settings(**settings)) is asked


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """What doors lead to, with a key for each of some scopes; the key's text is in the file of its name."""
    store = SqliteKeys(tmp_path / "keys.sqlite")
    for name in ("metrics", "admin", "classify"):
        secret, key = new_key(name, scopes=(name,))
        await store.add(key)
        (tmp_path / name).write_text(secret.text, encoding="ascii")
    await store.close()
    models = {"classify": ["fake"]}
    opened = House(Settings(auth="on", data_dir=tmp_path, cache_dir=tmp_path, models=models))
    await opened.open()
    yield opened
    await opened.close()


def sent_to(path: str, **headers: bytes) -> dict[str, Any]:
    told = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": told, TRACE: "trace"}


async def test_a_page_can_demand_a_scope(house: House, tmp_path: Path) -> None:
    async def answer(request: Request) -> Reply:
        return Reply(200, request.scope[CALLER].name.encode())

    page = guarded(house, answer, "metrics", "admin")
    for name, status in (("metrics", 200), ("admin", 200), ("classify", 403)):
        reply = await page(Request(sent_to("/", x_api_key=(tmp_path / name).read_bytes())))
        assert reply.status == status
    assert (await page(Request(sent_to("/")))).status == 401


async def test_a_facade_may_look_for_the_key_where_its_clients_put_it(house: House, tmp_path: Path) -> None:
    elsewhere = replace(
        native.facade_for(ClassifyRequest), credential=lambda message: message.headers.get("x-goog-api-key")
    )

    async def status(scope: dict[str, Any]) -> int:
        sent: list[Any] = []
        bodies = iter([{"type": "http.request", "body": png()}])

        async def receive() -> Any:
            return next(bodies, None) or await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await Door(elsewhere, house)(scope, receive, send)
        return int(sent[0]["status"])

    key = (tmp_path / "classify").read_bytes()
    assert await status(sent_to("/v1/classify", content_type=b"image/png", x_goog_api_key=key)) == 200
    assert await status(sent_to("/v1/classify", content_type=b"image/png", x_api_key=key)) == 401


async def test_a_signature_can_be_verified_with_the_secret_of_a_key_that_signs(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    secret, key = new_key("sdk")
    sealed = seal_of(None, tmp_path, make=True).close(secret.secret, secret.id)
    store = SqliteKeys(tmp_path / "keys.sqlite")
    await store.add(replace(key, sealed=sealed))
    await store.close()
    guard = Guard(settings)
    caller, held = await guard.signer(secret.id)
    assert (caller.name, held) == ("sdk", secret.secret)
    assert (await guard.caller(secret.text)).name == "sdk"
    await guard.close()
