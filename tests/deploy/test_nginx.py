"""The nginx file of deploy/, run by a real nginx in front of real servers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.pictures import png
from tests.server.conftest import Server, eventually, running
from tests.server.test_slow_clients import answer_on
from tests.server.wire import connected, head

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx" / "nginx.conf"
NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))

MANNER = "daemon off;" + (" user root;" if hasattr(os, "geteuid") and os.geteuid() == 0 else "")
"""Without `user`, nginx started by root works as somebody who may not read root's temporary folders."""

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx)")

STREAM = """
import sys
import uvicorn

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": b"data: first\\n\\n", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass

uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""
"""Says one thing, and goes on without end."""


@dataclass
class Front:
    """nginx, with what stands behind it."""

    port: int
    behind: list[Server]
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        return (self.folder / "access.log").read_text(encoding="utf-8")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def adapted(text: str, folder: Path, port: int, instances: list[int]) -> str:
    """The file as it is, but for addresses and places."""
    changes = {
        " /tmp/": f" {folder}/",
        "listen 8080;": f"listen 127.0.0.1:{port};",
        "server sensorium-1:8000": f"server 127.0.0.1:{instances[0]}",
        "server sensorium-2:8000": f"server 127.0.0.1:{instances[1]}",
        "/dev/stdout": f"{folder}/access.log",
        "/dev/stderr": f"{folder}/error.log",
    }
    for old, new in changes.items():
        assert old in text, f"{old!r} is no longer in {CONFIGURATION.name}"
        text = text.replace(old, new)
    return text


@contextmanager
def in_front_of(folder: Path, instances: list[int]) -> Iterator[int]:
    folder.mkdir(parents=True)
    port, file = free_port(), folder / "nginx.conf"
    file.write_text(adapted(CONFIGURATION.read_text(encoding="utf-8"), folder, port, instances), encoding="utf-8")
    command = [str(NGINX), "-p", str(folder), "-c", str(file), "-e", f"{folder}/error.log", "-g", MANNER]
    with subprocess.Popen(command) as process:
        try:
            assert eventually(lambda: process.poll() is not None or listens(port)), "nginx does not start"
            assert process.poll() is None, (folder / "error.log").read_text(encoding="utf-8")
            yield port
        finally:
            process.terminate()
            process.wait(10)


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with two_behind(tmp_path_factory.mktemp("front")) as made:
        yield made


@contextmanager
def two_behind(folder: Path, **settings: object) -> Iterator[Front]:
    with ExitStack() as all_of_them:
        behind = [all_of_them.enter_context(running(folder / name, **settings)) for name in ("one", "two")]
        port = all_of_them.enter_context(in_front_of(folder / "nginx", [server.port for server in behind]))
        yield Front(port, behind, folder / "nginx")


def ask(front: Front, session: requests.Session | None = None, body: bytes = b"", **query: object) -> requests.Response:
    headers, url = {"Content-Type": "image/png"}, f"{front.url}/v1/classify"
    return (session or requests).post(url, data=body or png(), headers=headers, params=query, timeout=20)  # type: ignore[arg-type]


def asked(server: Server) -> int:
    return server.log().count("POST /v1/classify")


def test_both_instances_are_asked_over_one_connection_of_the_client(front: Front) -> None:
    before = [asked(server) for server in front.behind]
    with requests.Session() as session:
        assert {ask(front, session).status_code for _ in range(20)} == {200}
    assert eventually(lambda: sum(map(asked, front.behind)) - sum(before) == 20)
    assert all(asked(server) - known >= 5 for server, known in zip(front.behind, before, strict=True))


def test_connections_to_instances_are_kept(front: Front) -> None:
    for _ in range(3):
        ask(front)
    held = [connections_to(server.port) for server in front.behind]
    with requests.Session() as session:
        for _ in range(30):
            assert ask(front, session).status_code == 200
    assert sum(connections_to(server.port) for server in front.behind) <= max(2 * os.cpu_count(), sum(held) + 2)  # type: ignore[operator]


def connections_to(port: int) -> int:
    """Those that are open, and those that have ended of late."""
    if sys.platform != "linux":
        pytest.skip("only Linux lists connections in a file")
    return Path("/proc/net/tcp").read_text(encoding="utf-8").count(f" 0100007F:{port:04X} 0100007F:")


def test_answers_carry_the_request_id_that_the_logs_have(front: Front) -> None:
    answer = ask(front)
    assert len(answer.headers["X-Request-Id"]) == 32
    assert eventually(lambda: f"answered={answer.headers['X-Request-Id']}" in front.log())


def test_what_is_too_large_is_refused_before_it_is_sent(front: Front) -> None:
    with connected(front.port) as connection:
        connection.sendall(head("/v1/classify", "Content-Type: image/png", f"Content-Length: {210 * 2**20}"))
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    with connected(front.port) as connection:
        connection.sendall(head("/v1/classify", "Content-Type: image/png", "Content-Length: 1048577"))
        connection.sendall(bytes(1048577))
        assert answer_on(connection).startswith(b"HTTP/1.1 415"), "larger than nginx's default limit, and read"


def test_metrics_are_not_for_the_outside(front: Front) -> None:
    assert requests.get(f"{front.url}/metrics", timeout=10).status_code == 404
    assert requests.get(f"{front.url}/health/ready", timeout=10).status_code == 200


@pytest.mark.slow
def test_when_an_instance_is_killed_the_other_serves(tmp_path: Path) -> None:
    with two_behind(tmp_path / "front") as front, requests.Session() as session:
        assert {ask(front, session).status_code for _ in range(6)} == {200}
        front.behind[0].process.send_signal(signal.SIGKILL)
        front.behind[0].process.wait(10)
        assert {ask(front, session).status_code for _ in range(20)} == {200}


@pytest.mark.slow
def test_when_an_instance_stops_nothing_fails(tmp_path: Path) -> None:
    with two_behind(tmp_path / "front") as front:
        answers: list[int] = []
        over = threading.Event()

        def asking() -> None:
            with requests.Session() as session:
                while not over.is_set():
                    answers.append(ask(front, session, model="brief", cache="false").status_code)

        threads = [threading.Thread(target=asking) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            assert eventually(lambda: len(answers) > 20)
            front.behind[0].process.terminate()
            front.behind[0].process.wait(10)
            seen = len(answers)
            assert eventually(lambda: len(answers) > seen + 20)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert set(answers) == {200}


@pytest.mark.slow
def test_overload_reaches_the_client_as_it_is_whatever_it_sends(tmp_path: Path) -> None:
    with two_behind(tmp_path / "front", running=1, waiting=0) as front, ExitStack() as busy:
        for server in front.behind:
            taken = busy.enter_context(connected(server.port))
            body = png(77, 77)
            taken.sendall(
                head("/v1/classify?model=slow", "Content-Type: image/png", f"Content-Length: {len(body)}") + body
            )
            assert eventually(lambda server=server: asks(server) == 429)
        for size in (1000, 200_000, 1_000_000, 10_000_000):
            answers = [ask(front, body=bytes(size)) for _ in range(6)]
            assert [answer.status_code for answer in answers] == [429] * 6, size
            assert all(answer.headers["Retry-After"] for answer in answers)


def asks(server: Server) -> int:
    headers, url = {"Content-Type": "image/png"}, f"{server.url}/v1/read"
    return requests.post(url, data=png(6, 6), headers=headers, timeout=10).status_code


def test_event_streams_come_as_they_are_made(tmp_path: Path) -> None:
    instance = free_port()
    with subprocess.Popen([sys.executable, "-c", STREAM, str(instance)], stdout=subprocess.DEVNULL) as process:
        try:
            assert eventually(lambda: listens(instance))
            with (
                in_front_of(tmp_path / "nginx", [instance, instance]) as port,
                requests.get(
                    f"http://127.0.0.1:{port}/", stream=True, timeout=10, headers={"Accept-Encoding": "gzip"}
                ) as answer,
            ):
                assert "Content-Encoding" not in answer.headers
                assert next(answer.iter_lines()) == b"data: first", "although the stream has not ended"
        finally:
            process.kill()


def test_the_file_has_no_word_that_this_nginx_does_not_know(tmp_path: Path) -> None:
    file = tmp_path / "nginx.conf"
    file.write_text(adapted(CONFIGURATION.read_text(encoding="utf-8"), tmp_path, 1, [1, 2]), encoding="utf-8")
    checked = subprocess.run(
        [str(NGINX), "-t", "-c", str(file), "-e", "stderr"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert not re.search("warn|emerg", checked.stderr), json.dumps(checked.stderr)
