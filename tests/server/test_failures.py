"""What clients are told when something fails, and what they are not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from sensorium.config import Settings
from sensorium.errors import EngineFailed, Overloaded, SensoriumError, every_error
from sensorium.server.app import create_app
from sensorium.server.facades.native import refuse
from sensorium.server.facades.status import STATUS, headers_of, sentence, status_of
from sensorium.server.logs import Text
from tests.pictures import JUNK, png
from tests.server.wire import form


def settings(**given: Any) -> Settings:
    return Settings(models={"classify": ["fake"]}, **given)


async def ask(
    app: Any, path: str, body: bytes = b"", kind: str = "image/png", headers: Sequence[tuple[bytes, bytes]] = ()
) -> tuple[int, Any]:
    """One request, without a socket."""
    told: list[Any] = []
    waiting = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        return next(waiting, None) or await asyncio.Event().wait()

    async def send(message: Any) -> None:
        told.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", kind.encode()), *headers],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("localhost", 80),
        "client": None,
        "root_path": "",
    }
    await app(scope, receive, send)
    return told[0]["status"], json.loads(told[1]["body"])


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.code)
def test_every_error_has_a_status_that_fits_its_side(kind: type[SensoriumError]) -> None:
    named = next(above for above in kind.__mro__ if above in STATUS)
    assert named is not SensoriumError or kind is SensoriumError
    assert 400 <= status_of(kind) < 600


def test_waiting_is_told_in_whole_seconds() -> None:
    assert headers_of([Overloaded("Full", retry_after_seconds=2.1)]) == ((b"retry-after", b"3"),)


def test_the_words_of_foreign_exceptions_stay_in_the_log() -> None:
    error = EngineFailed("Model x broke", why="KeyError: /home/me/secret")
    assert "secret" in sentence(error)
    error.__cause__ = KeyError("/home/me/secret")
    assert "secret" not in sentence(error)
    assert "secret" not in refuse(error, "t").body.decode()


async def test_a_failure_of_our_own_is_a_500_in_our_shape_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*given: Any, **named: Any) -> Any:
        raise ZeroDivisionError("secret words")

    monkeypatch.setattr("sensorium.service.Sensorium.run_all", fail)
    caplog.handler.setFormatter(Text())
    app = create_app(settings())
    async with app.router.lifespan_context(app):
        status, answer = await ask(app, "/v1/classify", png())
    assert (status, answer["error"]["code"]) == (500, "engine_failed")
    assert "secret" not in json.dumps(answer)
    assert answer["error"]["trace"] in caplog.text
    assert "secret words" in caplog.text


async def test_before_it_has_started_it_is_unavailable() -> None:
    status, answer = await ask(create_app(settings()), "/v1/classify", png())
    assert (status, answer["error"]["code"]) == (503, "service_closed")


@pytest.mark.parametrize(
    ("parameter", "told"),
    [
        ('; filename="猫.jpg"'.encode(), "猫.jpg"),
        ('; filename="照片.jpg"'.encode("gbk"), "\ufffd"),
        (b"; filename=plain.jpg", "plain.jpg"),
        (b"; filename*=utf-8''%E7%8C%AB.jpg", "upload"),
    ],
)
async def test_a_file_is_a_file_in_whatever_alphabet_its_name_is(parameter: bytes, told: str) -> None:
    head = b"--xx\r\ncontent-disposition: form-data; name=image" + parameter
    app = create_app(settings())
    async with app.router.lifespan_context(app):
        status, answer = await ask(
            app, "/v1/classify", head + b"\r\n\r\n" + JUNK + b"\r\n--xx--\r\n", 'multipart/form-data; boundary="xx"'
        )
    assert (status, answer["error"]["code"]) == (415, "unidentified_media")
    assert told in answer["error"]["message"]


async def test_a_form_of_too_many_parts_is_refused() -> None:
    app = create_app(settings())
    sent = form(*[("top_k", None, "1")] * 2001)
    async with app.router.lifespan_context(app):
        status, answer = await ask(app, "/v1/classify", sent["data"], sent["headers"]["Content-Type"])
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert "too many parts" in answer["error"]["message"]


async def test_long_text_is_refused() -> None:
    app = create_app(settings(max_bytes=1000))
    body = json.dumps({"image": "x" * 100_000}).encode()
    async with app.router.lifespan_context(app):
        status, answer = await ask(app, "/v1/classify", body, "application/json")
    assert (status, answer["error"]["code"]) == (413, "input_too_large")
