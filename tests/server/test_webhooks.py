"""A server tells the end of a job to its webhook, also after a new start."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.pictures import jpeg
from tests.server.conftest import eventually, running
from tests.server.wire import data_url

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes to wake workers by")


class Receiver(ThreadingHTTPServer):
    """Answers with `status`, and keeps what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        super().__init__(("127.0.0.1", 0), Answering)

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Answering(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *ignored: Any) -> None:
        """Nothing."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()


def submit(url: str, webhook: str) -> requests.Response:
    asked: Any = {"task": "classify", "request": {"image": data_url(jpeg()), "model": "fake"}, "webhook": webhook}
    return requests.post(f"{url}/v1/jobs", json=asked, timeout=10)


def test_a_webhook_is_called_and_its_signature_is_good(tmp_path: Path) -> None:
    with receiving() as receiver, running(tmp_path, allowed_hosts=[receiver.place]) as server:
        job = submit(server.url, f"http://{receiver.place}/hook").json()
        assert eventually(lambda: receiver.heard)
        ((headers, body),) = receiver.heard
        told = json.loads(body)
        assert (told["type"], told["data"]["id"]) == ("job.done", job["id"])
        secret = requests.get(f"{server.url}/v1/webhooks/secret", timeout=10).json()["secret"]
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(secret.removeprefix("whsec_"))
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        at = f"{server.url}/v1/jobs/{job['id']}"
        assert eventually(lambda: requests.get(at, timeout=10).json()["webhook_call"]["state"] == "delivered")


def test_a_webhook_inside_the_house_is_refused_when_it_is_handed_in(tmp_path: Path) -> None:
    with receiving() as receiver, running(tmp_path) as server:
        answer = submit(server.url, f"http://{receiver.place}/hook")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "forbidden_address")
        assert requests.get(f"{server.url}/v1/jobs", timeout=10).json()["jobs"] == []


@pytest.mark.slow
def test_a_call_that_failed_is_made_again_after_a_new_start(tmp_path: Path) -> None:
    with receiving() as receiver:
        receiver.status = 500
        with running(tmp_path, allowed_hosts=[receiver.place]) as server:
            job = submit(server.url, f"http://{receiver.place}/hook").json()
            at = f"/v1/jobs/{job['id']}"
            assert eventually(
                lambda: requests.get(server.url + at, timeout=10).json()["webhook_call"]["calls"] == 1, 20
            )
            server.process.kill()
        receiver.status = 204
        with running(tmp_path, allowed_hosts=[receiver.place]) as server:
            assert eventually(lambda: len(receiver.heard) == 2)
            assert receiver.heard[0][1] == receiver.heard[1][1]
            assert eventually(
                lambda: requests.get(server.url + at, timeout=10).json()["webhook_call"]["state"] == "delivered"
            )
