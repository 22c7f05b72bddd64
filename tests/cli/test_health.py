"""`sensorium health`, against a server that says what each test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.cli.conftest import Sensorium, lines
from tests.server.conftest import running


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/ready" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_is_ready_is_told_by_exit_code_0(sensorium: Sensorium) -> None:
    with answering(200, b'{"status": "ready"}') as url:
        told = sensorium("health", "--url", f"{url}/")
        assert (told.exit_code, told.stdout) == (0, f"{url} is ready.\n")
        assert lines(sensorium("health", "--url", url, "--json")) == [
            {"url": url, "ready": True, "status": 200, "told": {"status": "ready"}}
        ]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, b'{"status": "stopping"}', "stopping"),
        (503, b"<html>", "not sensorium's"),
        (500, b"{}", "{}"),
    ],
)
def test_one_that_is_not_is_told_by_exit_code_1_and_why(
    sensorium: Sensorium, status: int, body: bytes, said: str
) -> None:
    with answering(status, body) as url:
        told = sensorium("health", "--url", url)
        assert told.exit_code == 1
        assert f"{url} is not ready: " in told.stderr
        assert said in told.stderr
        assert json.loads(sensorium("health", "--url", url, "--json").stdout)["status"] == status


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://127.0.0.1:99999999"])
def test_no_answer_is_exit_code_1_too(sensorium: Sensorium, url: str) -> None:
    told = sensorium("health", "--url", url)
    assert told.exit_code == 1
    assert "is not ready: " in told.stderr
    assert "Errno" not in told.stderr


def test_without_a_url_the_server_of_the_settings_is_asked(
    sensorium: Sensorium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SENSORIUM_MODELS_DIR")
    with running(tmp_path / "server") as server:
        monkeypatch.setenv("SENSORIUM_PORT", str(server.port))
        monkeypatch.setenv("SENSORIUM_HOST", "0.0.0.0")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        told = sensorium("health")
        assert (told.exit_code, told.stdout) == (0, f"{server.url} is ready.\n")
