"""Streamed answers whose connection breaks, over real sockets: readers come back, and the work waits for them a while."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests

from tests.fakes import put_fake
from tests.keyring import kept_key
from tests.server.conftest import Server, eventually, running
from tests.server.test_streams import Told, events, in_progress
from tests.server.wire import connected
from tests.upstream import Upstream, upstream

GRACE = 0.8
AT_ONCE = 8.0
"""Seconds: less than the grace of the other servers, and enough for a busy machine."""

CARD = """name = "{name}"
kind = "openai"
tasks = ["ask"]
licence = "NOASSERTION"
remote = true
[quirks]
base_url = "{url}"
model = "{model}"
"""

MODELS = {
    "talker": "slow-tokens-0.05",
    "never": "stall-2",
    "halting": "stall-6",
    "endless": "endless",
    "hang": "hang",
    "prompt": "ok",
}
"""By name, how the provider behaves."""


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with upstream() as provider:
        yield provider


@contextmanager
def asking(folder: Path, provider: Upstream, **settings: Any) -> Iterator[Server]:
    """A server between us and the provider."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    for name, model in MODELS.items():
        card = CARD.format(name=name, url=provider.openai, model=model)
        (folder / "models" / f"{name}.toml").write_text(card, encoding="utf-8")
    usual = {"cache": "off", "provider_requests_per_minute": 0, "provider_concurrent": 0, "heartbeat_seconds": 0.2}
    with running(folder, **{**usual, **settings}) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, provider: Upstream) -> Iterator[Server]:
    with asking(tmp_path_factory.mktemp("resume"), provider) as started:
        yield started


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, provider: Upstream) -> Iterator[Server]:
    """One that waits for half a second."""
    with asking(tmp_path_factory.mktemp("impatient"), provider, resume_grace_seconds=GRACE) as started:
        yield started


@pytest.fixture(autouse=True)
def _forgetful(provider: Upstream) -> Iterator[None]:
    yield
    assert eventually(lambda: provider.at_once == 0), "nothing is left at work"
    provider.forget()


def begin(server: Server, model: str = "talker", **more: Any) -> requests.Response:
    asked: Any = {"prompt": "What is it?", "model": model, "stream": True, "timeout": 20}
    return requests.post(f"{server.url}/v1/ask", json=asked, stream=True, timeout=10, **more)


def again(server: Server, name: str, last: str | None = None, **more: Any) -> requests.Response:
    headers = {**more.pop("headers", {}), **({} if last is None else {"Last-Event-ID": last})}
    return requests.get(f"{server.url}/v1/streams/{name}", headers=headers, timeout=10, **more)


def one_by_one(answer: requests.Response) -> Iterator[tuple[str, Any, str]]:
    """Its events as they come."""
    heard = b""
    for data in answer.iter_content(1):
        heard += data
        if heard.endswith(b"\n\n"):
            yield from events(heard.decode())
            heard = b""


def some(answer: requests.Response, count: int) -> Told:
    """So many of its events; then the connection is closed."""
    with answer:
        told = list(islice(one_by_one(answer), count))
    assert len(told) == count, "it ended before"
    return told


def words(told: Told) -> str:
    return "".join(data["text"] for kind, data, _ in told if kind == "delta")


def numbers(told: Told) -> list[int]:
    return [int(identity.partition(":")[2]) for _, _, identity in told]


def stream_of(told: Told) -> str:
    kind, data, identity = told[0]
    assert (kind, identity) == ("stream", f"{data['id']}:1")
    return str(data["id"])


def test_a_reader_that_lost_its_connection_goes_on_where_it_was(server: Server, provider: Upstream) -> None:
    before = some(begin(server), 4)
    answer = again(server, stream_of(before), before[-1][2])
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["X-Accel-Buffering"] == "no"
    after = events(answer.text)
    assert numbers(before) + numbers(after) == list(range(1, len(before) + len(after) + 1))
    assert words(before) + words(after) == provider.answer == after[-2][1]["text"]
    assert after[-1][1] == {"whole": True}
    assert len(provider.requests) == 1


def test_what_was_missed_comes_at_once_and_the_rest_as_it_is_told(server: Server, provider: Upstream) -> None:
    before = some(begin(server, "halting"), 2)
    provider.wait(lambda provider: provider.last.sent == 6)
    with again(server, stream_of(before), before[-1][2], stream=True) as answer:
        told = one_by_one(answer)
        missed = list(islice(told, 5))
        provider.release()
        rest = list(told)
    assert words(before) + words(missed) + words(rest) == provider.answer
    assert rest[-1][1] == {"whole": True}


def test_without_a_place_it_is_told_from_the_beginning(server: Server, provider: Upstream) -> None:
    before = some(begin(server), 2)
    for _ in range(2):  # while it is told, and afterwards
        told = events(again(server, stream_of(before)).text)
        assert told[:2] == before
        assert words(told) == provider.answer


def test_an_ended_stream_is_told_again_and_one_that_was_read_to_its_end_has_no_more(server: Server) -> None:
    told = events(begin(server, "prompt").text)
    stream = stream_of(told)
    assert events(again(server, stream, told[-2][2]).text) == told[-1:]
    answer = again(server, stream, told[-1][2])
    assert (answer.status_code, answer.content) == (204, b"")
    assert "Content-Length" not in answer.headers


def test_several_read_one_stream(server: Server, provider: Upstream) -> None:
    with begin(server) as first:
        lines = first.iter_lines()
        stream = next(lines).decode().removeprefix("id: ").partition(":")[0]
        with ThreadPoolExecutor(4) as pool:
            others = list(pool.map(lambda _: events(again(server, stream).text), range(4)))
        assert words(others[0]) == provider.answer
        assert others == others[:1] * 4
        assert sum(line == b"event: delta" for line in lines) == len(words(others[0]).split())
    assert len(provider.requests) == 1


def test_signs_of_life_fill_the_silence_of_a_resumed_stream_too(server: Server) -> None:
    before = some(begin(server, "never"), 3)
    with again(server, stream_of(before), before[-1][2], stream=True) as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(2)] == [b": keep-alive"] * 2
    delete(server, stream_of(before))


def test_a_client_that_waits_for_the_first_word_learns_the_streams_id(server: Server) -> None:
    told = some(begin(server, "hang"), 1)
    assert again(server, stream_of(told), stream=True).status_code == 200
    delete(server, stream_of(told))


def test_the_work_goes_on_for_a_while_and_is_then_cancelled_at_the_provider(
    impatient: Server, provider: Upstream
) -> None:
    before = some(begin(impatient, "endless"), 3)
    left = time.monotonic()
    provider.wait(lambda provider: provider.last.ending == "left")
    assert time.monotonic() - left > GRACE * 0.8
    told = events(again(impatient, stream_of(before), before[-1][2]).text)
    assert [kind for kind, _, _ in told[-2:]] == ["error", "end"]
    assert told[-2][1]["error"]["code"] == "reader_stalled"
    assert told[-1][1] == {"whole": False}


def test_whoever_comes_back_keeps_the_work_going(impatient: Server, provider: Upstream) -> None:
    before = some(begin(impatient, "endless"), 3)
    with again(impatient, stream_of(before), before[-1][2], stream=True) as answer:
        end = time.monotonic() + 1.25 * GRACE
        for data in answer.iter_content(1000):
            assert data
            if time.monotonic() > end:
                break
        assert provider.at_once == 1
    provider.wait(lambda provider: provider.last.ending == "left")


def test_work_that_ends_while_nobody_reads_is_kept(server: Server, provider: Upstream) -> None:
    provider.answer = "one two three"
    before = some(begin(server), 2)
    assert eventually(lambda: provider.at_once == 0)
    told = events(again(server, stream_of(before), before[-1][2]).text)
    assert words(before) + words(told) == provider.answer
    assert provider.last.ending == "answered"


def test_a_client_that_was_told_nothing_yet_ends_the_work_at_once(server: Server, provider: Upstream) -> None:
    body = json.dumps({"prompt": "What?", "model": "hang", "stream": True}).encode()
    head = f"POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with asking_quietly(server) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        provider.wait(lambda provider: provider.at_once == 1)
    provider.wait(lambda provider: provider.at_once == 0, AT_ONCE)


def asking_quietly(server: Server) -> closing[socket.socket]:
    return closing(connected(server.port))


def test_without_grace_a_client_that_leaves_ends_the_work_at_once(tmp_path: Path, provider: Upstream) -> None:
    with asking(tmp_path, provider, resume_grace_seconds=0) as server:
        some(begin(server, "endless"), 3)
        provider.wait(lambda provider: provider.at_once == 0, AT_ONCE)


def test_other_routes_know_no_ids_and_wait_for_nobody(server: Server, provider: Upstream) -> None:
    asked: Any = {"model": "endless", "stream": True, "messages": [{"role": "user", "content": "What?"}]}
    with requests.post(f"{server.url}/v1/chat/completions", json=asked, stream=True, timeout=10) as answer:
        lines = [line for line, _ in zip(answer.iter_lines(), range(9), strict=False)]
    assert all(line.startswith((b"data: ", b":")) or not line for line in lines)
    provider.wait(lambda provider: provider.at_once == 0, AT_ONCE)


@pytest.mark.parametrize(
    "last",
    [
        "1",
        "nonsense",
        "{stream}",
        "{stream}:",
        "{stream}:-1",
        "{stream}:1e3",
        "{stream}:999999999999",
        "{stream}:9999999999999999999999999999",
        "{other}:1",
        "{stream}:1 ",
        "{stream}:١",
        "{stream}:1' OR '1'='1",
        "x" * 10_000,
    ],
)
def test_a_place_that_no_event_had_is_refused(server: Server, last: str) -> None:
    stream = stream_of(events(begin(server, "prompt").text))
    sent = last.format(stream=stream, other="0" * 32).encode()
    with closing(connected(server.port)) as connection:
        head = f"GET /v1/streams/{stream} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nLast-Event-ID: "
        connection.sendall(head.encode() + sent + b"\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    if last.endswith(" "):  # which HTTP leaves out
        assert answer.startswith(b"HTTP/1.1 200")
    else:
        assert answer.startswith(b"HTTP/1.1 400")
        assert b'"invalid_request"' in answer


@pytest.mark.parametrize("stream", ["0" * 32, "0" * 31, "nonsense", "%2e%2e", "0" * 5000, "%00"])
def test_a_stream_that_is_not_there_is_not_found(server: Server, stream: str) -> None:
    answer = again(server, stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_stream")


def test_a_stream_is_its_keys_alone(tmp_path: Path, provider: Upstream) -> None:
    shop, robot = (kept_key(tmp_path / "data", name) for name in ("shop", "robot"))
    with asking(tmp_path, provider, auth="on") as server:
        told = events(begin(server, "prompt", headers={"X-API-Key": shop}).text)
        stream = stream_of(told)
        assert again(server, stream).status_code == 401
        anothers = again(server, stream, headers={"X-API-Key": robot})
        assert (anothers.status_code, anothers.json()["error"]["code"]) == (404, "unknown_stream")
        assert again(server, stream, told[-1][2], headers={"X-API-Key": robot}).status_code == 404
        assert events(again(server, stream, headers={"Authorization": f"Bearer {shop}"}).text) == told


def delete(server: Server, stream: str, **more: Any) -> requests.Response:
    return requests.delete(f"{server.url}/v1/streams/{stream}", timeout=10, **more)


def test_a_deleted_stream_ends_its_work_at_once_and_tells_its_readers_so(server: Server, provider: Upstream) -> None:
    with begin(server, "endless") as answer:
        lines = answer.iter_lines()
        stream = next(lines).decode().removeprefix("id: ").partition(":")[0]
        deleted = delete(server, stream)
        assert (deleted.status_code, deleted.content) == (204, b"")
        assert "Content-Length" not in deleted.headers
        provider.wait(lambda provider: provider.at_once == 0, AT_ONCE)
        heard = list(lines)
    assert any(b'"stream_gone"' in line for line in heard)
    assert heard[-2:] == [b'data: {"whole":false}', b""]
    assert again(server, stream).json()["error"]["code"] == "stream_gone"
    assert delete(server, stream).status_code == 204, "it may be said twice"


def test_a_stream_that_nobody_reads_can_be_deleted(server: Server, provider: Upstream) -> None:
    stream = stream_of(some(begin(server, "endless"), 3))
    assert delete(server, stream).status_code == 204
    provider.wait(lambda provider: provider.at_once == 0, AT_ONCE)


def test_an_answer_that_was_told_can_be_deleted(server: Server) -> None:
    stream = stream_of(events(begin(server, "prompt").text))
    assert delete(server, stream).status_code == 204
    assert again(server, stream).status_code == 410


@pytest.mark.parametrize("stream", ["0" * 32, "nonsense", "0" * 5000])
def test_what_is_not_there_cannot_be_deleted(server: Server, stream: str) -> None:
    answer = delete(server, stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_stream")


def test_only_its_key_deletes_a_stream(tmp_path: Path, provider: Upstream) -> None:
    shop, robot = (kept_key(tmp_path / "data", name) for name in ("shop", "robot"))
    with asking(tmp_path, provider, auth="on") as server:
        before = some(begin(server, headers={"X-API-Key": shop}), 3)
        stream = stream_of(before)
        assert delete(server, stream).status_code == 401
        anothers = delete(server, stream, headers={"X-API-Key": robot})
        assert (anothers.status_code, anothers.json()["error"]["code"]) == (404, "unknown_stream")
        after = events(again(server, stream, before[-1][2], headers={"X-API-Key": shop}).text)
        assert words(before) + words(after) == provider.answer
        assert delete(server, stream, headers={"X-API-Key": shop}).status_code == 204


def test_a_key_and_a_token_of_one_name_share_nothing(tmp_path: Path, provider: Upstream) -> None:
    secret = "0123456789abcdef0123456789abcdef"
    token = jwt.encode({"sub": "alice", "exp": time.time() + 60, "scope": "ask"}, secret)
    callers = [{"Authorization": f"Bearer {one}"} for one in (kept_key(tmp_path / "data", "alice"), token)]
    with asking(tmp_path, provider, auth="on", cache="memory", jwt_secret=secret) as server:
        with ThreadPoolExecutor(2) as pool:  # at the same time, and then again
            told = list(pool.map(lambda headers: events(begin(server, headers=headers).text), callers))
        assert len(provider.requests) == 2
        for headers, own, other in zip(callers, told, reversed(told), strict=True):
            assert events(begin(server, headers=headers).text)[-2][1]["meta"]["cached"]
            assert again(server, stream_of(other), headers=headers).status_code == 404
            assert delete(server, stream_of(other), headers=headers).status_code == 404
            assert events(again(server, stream_of(own), headers=headers).text) == own
            used = requests.get(f"{server.url}/v1/usage", headers=headers, params={"by": "key"}, timeout=10).json()
            assert [line["requests"] for line in used["usage"]] == [2]
        assert len(provider.requests) == 2


@pytest.mark.slow  # two servers start
def test_a_stream_is_deleted_from_another_process_too(tmp_path: Path, provider: Upstream) -> None:
    shared = {"streams": "sqlite", "cache_dir": str(tmp_path / "shared"), "resume_grace_seconds": 60}
    with ExitStack() as servers:
        here, there = (servers.enter_context(asking(tmp_path / name, provider, **shared)) for name in "ab")
        for model in ("endless", "never"):  # also where nothing is told
            stream = stream_of(some(begin(here, model), 2))
            assert delete(there, stream).status_code == 204
            provider.wait(lambda provider: provider.at_once == 0, AT_ONCE)
            assert eventually(lambda stream=stream: again(there, stream).status_code == 410)
            assert again(here, stream).status_code == 410


LONG = [f"{number:05}" + "y" * 9000 for number in range(100)]
TIMES = 15
"""Of that: more than the log and all that lies between."""


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("wordy")
    put_fake(folder / "models", "wordy", f"words = {LONG}\ntimes = {TIMES}")
    with running(folder, cache="off") as started:
        yield started


def slow_reader(server: Server, head: str, body: bytes = b"") -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    connection.settimeout(10)
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    return connection


def kept_bytes(server: Server) -> float:
    text = requests.get(f"{server.url}/metrics", timeout=10).text
    return sum(float(count) for count in re.findall(r"^sensorium_stream_kept_bytes (\S+)$", text, re.MULTILINE))


def all_of(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 20), b""))


def test_a_slow_reader_that_is_alone_slows_the_work_down_and_loses_nothing(wordy: Server) -> None:
    body = json.dumps({"prompt": "What?", "model": "wordy", "stream": True}).encode()
    head = f"POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with closing(slow_reader(wordy, head, body)) as connection:
        assert eventually(lambda: kept_bytes(wordy) > 2**19)
        time.sleep(0.5)
        assert in_progress(wordy) == 1, "the work waits"
        assert kept_bytes(wordy) < 2 * 2**20
        heard = all_of(connection)
    told = re.findall(rb'event: delta\ndata: {"text":"(\d{5})', heard)
    assert list(map(int, told)) == list(range(len(LONG))) * TIMES
    assert b'{"whole":true}' in heard


def told_with_a_slow_reader_beside(server: Server) -> tuple[bytes, bytes]:
    """What a quick reader of one stream hears, and what one hears who reads nothing before all has been told."""
    with begin(server, "wordy") as first:
        content = first.iter_content(1 << 16)
        heard = next(content)
        stream = heard.decode().removeprefix("id: ").partition(":")[0]
        head = f"GET /v1/streams/{stream} HTTP/1.1\r\nHost: localhost\r\nConnection: close"
        with closing(slow_reader(server, head)) as connection:
            connection.recv(1, socket.MSG_PEEK)
            return heard + b"".join(content), all_of(connection)


def test_a_reader_that_falls_too_far_behind_is_told_so(wordy: Server) -> None:
    tries = (told_with_a_slow_reader_beside(wordy) for _ in range(10))
    # On a busy machine one may come when the beginning is gone already.
    heard, late = next((heard, late) for heard, late in tries if late.startswith(b"HTTP/1.1 200"))
    assert heard.endswith(b'data: {"whole":true}\n\n')
    assert b'"stream_gone"' in late
    assert b'{"whole":false}' in late
    assert b'{"whole":true}' not in late


def test_what_is_not_kept_any_more_is_gone(wordy: Server) -> None:
    told = events(begin(wordy, "wordy").text)
    answer = again(wordy, stream_of(told), told[0][2])
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "stream_gone")


@pytest.mark.slow  # it takes longer than the grace, which is long enough for a busy machine
def test_another_process_that_shares_the_file_goes_on_with_it(tmp_path: Path, provider: Upstream) -> None:
    shared = {"streams": "sqlite", "cache_dir": str(tmp_path / "shared"), "resume_grace_seconds": 4}
    with ExitStack() as servers:
        here, there = (servers.enter_context(asking(tmp_path / name, provider, **shared)) for name in "ab")
        provider.answer = " ".join(map(str, range(120)))
        before = some(begin(here), 4)
        after = events(again(there, stream_of(before), before[-1][2]).text)
        assert words(before) + words(after) == provider.answer
        assert numbers(before) + numbers(after) == list(range(1, len(before) + len(after) + 1))
        assert after[-1][1] == {"whole": True}
        assert again(there, stream_of(before), after[-1][2]).status_code == 204
        assert again(here, stream_of(before), after[-1][2]).status_code == 204


@pytest.mark.slow  # three processes start
def test_workers_share_their_streams(tmp_path: Path, provider: Upstream) -> None:
    with asking(tmp_path, provider, workers=2) as server:
        told = some(begin(server), 3)
        with ThreadPoolExecutor(8) as pool:
            heard = list(pool.map(lambda _: events(again(server, stream_of(told)).text), range(8)))
    assert {words(one) for one in heard} == {provider.answer}
    assert len(provider.requests) == 1


@pytest.mark.slow  # a writer is given ten seconds before it is taken for dead
def test_a_stream_whose_process_was_killed_ends_with_an_error(tmp_path: Path, provider: Upstream) -> None:
    shared = {"streams": "sqlite", "cache_dir": str(tmp_path / "shared")}
    with ExitStack() as servers:
        there = servers.enter_context(asking(tmp_path / "b", provider, **shared))
        here = servers.enter_context(asking(tmp_path / "a", provider, **shared))
        before = some(begin(here, "endless"), 3)
        killer = threading.Timer(0.5, here.process.send_signal, [signal.SIGKILL])
        killer.start()
        answer = requests.get(f"{there.url}/v1/streams/{stream_of(before)}", timeout=30)
        told = re.findall(r"^event: (\w+)$", answer.text, re.MULTILINE)
        assert told[-2:] == ["error", "end"]
        assert '"stream_gone"' in answer.text
