"""Several processes that serve on one socket."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from pydantic_core import from_json

from sensorium.config import WITH_SECRETS, Settings, exactly
from sensorium.server.children import LONGEST_PAUSE, pause_after
from sensorium.server.supervisor import share
from tests.pictures import png
from tests.server.conftest import PATIENCE, Server, eventually, running
from tests.server.wire import bitmap

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows serves from one process only")


def workers(server: Server) -> list[int]:
    """The process of each worker, by its number."""
    latest = dict(re.findall(r"Worker (\d+) serves, pid (\d+)", server.log()))
    return [int(latest[number]) for number in sorted(latest)]


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ask(server: Server, **query: object) -> requests.Response:
    headers = {"Content-Type": "image/png"}
    return requests.post(f"{server.url}/v1/classify", data=png(), headers=headers, params=query, timeout=20)  # type: ignore[arg-type]


@contextmanager
def under_way(server: Server) -> Iterator[None]:
    """While a worker works on something that takes long."""

    def asking() -> None:
        with suppress(requests.ConnectionError):
            headers = {"Content-Type": "image/bmp"}
            requests.post(f"{server.url}/v1/classify?model=slow", data=bitmap(700), headers=headers, timeout=40)

    thread = threading.Thread(target=asking)
    thread.start()
    assert eventually(lambda: any(len(path.name) == 64 for path in server.spooled())), "it is whole"
    yield
    thread.join()


def test_a_killed_worker_is_replaced_and_nothing_is_left_when_all_stop(tmp_path: Path) -> None:
    with running(tmp_path, workers=2) as server:
        assert eventually(lambda: len(workers(server)) == 2)
        (shared,) = server.temporary.glob("sensorium-run-*")
        before = workers(server)
        os.kill(before[0], signal.SIGKILL)
        assert server.logs("Worker . was killed by signal 9; another starts$")
        assert ask(server).status_code == 200, "the other goes on"
        assert eventually(lambda: workers(server) != before)
        now = workers(server)
        assert ask(server).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        assert server.log().rstrip().endswith("Stopped")
        assert not any(map(lives, now))
        assert not shared.exists()
        assert not list(server.temporary.glob("sensorium-spool-*"))


@pytest.mark.slow
def test_a_supervisor_that_is_killed_takes_its_workers_with_it(tmp_path: Path) -> None:
    with running(tmp_path, workers=2) as server:
        assert eventually(lambda: len(workers(server)) == 2)
        server.process.kill()
        server.process.wait(PATIENCE)
        assert eventually(lambda: not any(map(lives, workers(server))))


@pytest.mark.slow
def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    with running(tmp_path, workers=2) as server, under_way(server):
        server.process.send_signal(signal.SIGTERM)
        assert server.logs("Stopping")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == -signal.SIGTERM
        assert eventually(lambda: not any(map(lives, workers(server)))), "long before the work is done"


def test_workers_that_cannot_start_end_the_server_and_say_why(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as told, running(tmp_path, workers=2, models={"clasify": ["fake"]}):
        pass
    assert "names a task 'clasify' that does not exist" in str(told.value)
    assert "No worker could start" in str(told.value)


def test_deaths_in_quick_succession_are_made_good_ever_later() -> None:
    assert [pause_after(deaths) for deaths in range(6)] == [0, 0, 0.5, 1, 2, 4]
    assert pause_after(10_000) == LONGEST_PAUSE


def test_workers_share_the_cores_and_remember_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    told = share(Settings(workers=2))
    assert (told.threads, told.running, told.cache, told.streams) == (4, 10, "sqlite", "sqlite")
    told = share(Settings(workers=4, threads=3, running=5, cache="off"))
    assert (told.threads, told.running, told.cache) == (3, 5, "off")
    assert share(Settings(workers=999)).threads == 1


def test_settings_reach_a_worker_whatever_its_surroundings_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent = Settings(workers=3, jwt_secret="s" * 32, models={"read": ["fake"]}, certfile=tmp_path / "证书.pem")
    monkeypatch.setenv("SENSORIUM_WORKERS", "9")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sensorium.toml").write_text("no_such_setting = 1", encoding="utf-8")
    assert exactly(from_json(sent.model_dump_json(context=WITH_SECRETS))) == sent


@dataclass
class Answers:
    """What a few clients got, each with one connection at a time, and when."""

    answered: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def collect(self, url: str, over: threading.Event) -> None:
        with requests.Session() as session:
            while not over.is_set():
                try:
                    answer = session.post(url, data=png(), headers={"Content-Type": "image/png"}, timeout=20)
                except requests.ConnectionError:
                    self.failed.append(time.monotonic())
                    continue
                if answer.status_code == 200:
                    self.answered.append(time.monotonic())
                else:
                    self.refused.append(answer.status_code)


@contextmanager
def load(url: str, clients: int) -> Iterator[Answers]:
    answers, over = Answers(), threading.Event()
    threads = [threading.Thread(target=answers.collect, args=(url, over)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
def test_killing_a_worker_under_load_fails_only_what_it_was_at(tmp_path: Path) -> None:
    clients = 8
    with running(tmp_path, workers=2) as server:
        assert eventually(lambda: len(workers(server)) == 2)
        with load(f"{server.url}/v1/describe_pixels?model=brief&cache=false", clients) as answers:
            assert goes_on(answers)
            before, failed = workers(server), len(answers.failed)
            os.kill(before[0], signal.SIGKILL)
            assert server.logs(rf"(?s)pid {before[0]}\n.*Worker 1 serves, pid (?!{before[0]}\n)")
            assert goes_on(answers)
            assert len(answers.failed) - failed <= clients, "one on each connection at most"
        assert not answers.refused, "those that are answered are answered well"


def goes_on(answers: Answers) -> bool:
    seen = len(answers.answered)
    return eventually(lambda: len(answers.answered) > seen + 50)
