from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from sensorium.config import Settings
from sensorium.errors import InvalidConfiguration
from sensorium.server.app import create_app
from sensorium.server.serve import serve
from tests.pictures import png
from tests.server.conftest import PATIENCE, Server, eventually, running
from tests.server.inside import asked

unasked_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")


def ask(server: Server, **query: Any) -> int:
    url, headers = f"{server.url}/v1/classify", {"Content-Type": "image/png"}
    return requests.post(url, params=query, data=png(), headers=headers, timeout=20).status_code


@contextmanager
def under_way(server: Server, **query: Any) -> Iterator[list[Any]]:
    """While the server, which works on one request at a time, works on one; what became of it is there afterwards."""
    became: list[Any] = []

    def asking() -> None:
        try:
            while (status := ask(server, model="slow", **query)) == 429:  # one of those below was there first
                pass
            became.append(status)
        except requests.ConnectionError as error:
            became.append(error)

    thread = threading.Thread(target=asking)
    thread.start()
    assert eventually(lambda: ask(server, model="slow", timeout=0.01) == 429)
    yield became
    thread.join()


@unasked_on_windows
def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    folders = {f"SENSORIUM_{name}_DIR": str(tmp_path / name) for name in ("models", "data", "cache")}
    command = [sys.executable, "-m", "sensorium", "serve", "--port", "0"]
    with subprocess.Popen(command, env={**os.environ, **folders}, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        told = next(line for line in process.stderr if "Listening on " in line)
        url = told.split()[-1]
        answer = requests.post(f"{url}/v1/describe_pixels", png(), headers={"Content-Type": "image/png"}, timeout=20)
        assert answer.json()["meta"]["engine"].startswith("pixel_statistics@")
        process.terminate()
        assert process.stderr.readlines()[-1].endswith("Stopped\n")
        assert process.wait(PATIENCE) == 0


@unasked_on_windows
def test_what_is_under_way_is_answered_before_the_server_stops(tmp_path: Path) -> None:
    with running(tmp_path, running=1, waiting=0) as server:
        with under_way(server, timeout=2) as answers:
            server.process.send_signal(signal.SIGTERM)
            assert eventually(lambda: refuses_connections(server)), "although it is not done"
            assert not answers
        assert answers == [504]
        assert server.process.wait(PATIENCE) == 0
        assert server.log().rstrip().endswith("Stopped")
        assert not list(server.temporary.glob("sensorium-spool-*"))


@unasked_on_windows
def test_what_takes_longer_than_the_server_may_take_to_stop_is_cut_off(tmp_path: Path) -> None:
    with running(tmp_path, running=1, waiting=0, drain_seconds=0.2) as server:
        with under_way(server, timeout=20) as became:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE) == 0
        assert became == [503]
        assert "Cut off: what is still under way after 0.2 s" in server.log()
        assert "Traceback" not in server.log()
        assert not list(server.temporary.glob("sensorium-spool-*"))


def refuses_connections(server: Server) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", server.port)) != 0


def test_a_server_that_is_told_to_stop_is_not_ready() -> None:
    app = create_app(Settings(models={"read": ["fake"]}))
    assert asked(app, ("GET", "/health/ready", b""))[0]["status"] == "ready"
    app.state.house.leaving = True
    assert asked(app, ("GET", "/health/ready", b"")) == [{"status": "stopping"}]


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidConfiguration, match=f"Cannot listen on 127.0.0.1:{port}"):
            serve(Settings(port=port))


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    """Files of a certificate for this machine, and of the authority that signed it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    return {name: str(tmp_path / f"{name}.pem") for name in ("cert", "key", "authority")}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=[unasked_on_windows, pytest.mark.slow])])
def test_https_is_served_with_a_certificate(tmp_path: Path, certificate: dict[str, str], workers: int) -> None:
    files = {"certfile": certificate["cert"], "keyfile": certificate["key"]}
    with running(tmp_path / "server", workers=workers, **files) as server:
        assert server.url.startswith("https://")
        answer = requests.get(f"{server.url}/health/live", verify=certificate["authority"], timeout=10)
        assert answer.json() == {"status": "live"}
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"{server.url}/health/live", timeout=10)
        old = ssl.create_default_context(cafile=certificate["authority"])
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", server.port)) as plain,
            old.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            assert secured.version() == "TLSv1.2"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda files: files.pop("keyfile"), "needs both"),
        (lambda files: files.update(keyfile=files["certfile"]), "HTTPS cannot use"),
        (lambda files: files.update(certfile="/nowhere"), "No such file"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_told(
    certificate: dict[str, str], spoil: Callable[[dict[str, str]], None], why: str
) -> None:
    files = {"certfile": certificate["cert"], "keyfile": certificate["key"]}
    spoil(files)
    with pytest.raises(InvalidConfiguration, match=why):
        serve(Settings(port=0, **json.loads(json.dumps(files))))
