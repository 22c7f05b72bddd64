"""Streamed answers over a real socket: of our own routes, and what all facades have in common."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fakes import put_fake
from tests.pictures import png
from tests.server.conftest import Server, eventually, running
from tests.server.wire import connected, data_url, form

CARDS = {
    "talker": 'words = ["A ", "cat ", "on ", "a ", "mat."]',
    "chatty": f"words = {['word '] * 100}\nseconds = 0.05",
    "slowly": 'words = ["late ", "later"]\nseconds = 0.4',
    "late": 'seconds = 0.4\nfail = "provider_failed"',
    "torn": 'words = ["half an "]\nfail = "stream_broken"',
    "endless": f"words = {['word ' * 1600] * 100}\ntimes = 20",
    "never": "seconds = 50",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that beats every tenth of a second, and waits as long for readers that left."""
    with talking(tmp_path_factory.mktemp("talking"), heartbeat_seconds=0.1, resume_grace_seconds=0.1) as started:
        yield started


def talking(folder: Path, **settings: Any) -> Any:
    for name, quirks in CARDS.items():
        put_fake(folder / "models", name, quirks)
    return running(folder, **{"cache": "off", "models": {"ask": ["talker"]}, **settings})


def ask(server: Server, model: str = "talker", **more: Any) -> requests.Response:
    fields = {"prompt": "What is it?", "model": model, "stream": True, **more}
    return requests.post(f"{server.url}/v1/ask", json=fields, timeout=20)


Told = list[tuple[str, Any, str]]


def events(text: str) -> Told:
    """Kind, data and id of each event; what a server says of a failure that is no part of the stream has no id."""
    told = []
    for block in text.split("\n\n")[:-1]:
        lines = [line.partition(": ") for line in block.split("\n") if not line.startswith(":")]
        fields = {name: value for name, _, value in lines}
        told.append((fields["event"], json.loads(fields["data"]), fields.get("id", "")))
    return told


def test_words_come_before_the_whole_answer_and_then_the_end(server: Server) -> None:
    answer = ask(server)
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["X-Accel-Buffering"] == "no"
    told = events(answer.text)
    assert [kind for kind, _, _ in told] == ["stream"] + ["delta"] * 5 + ["result", "end"]
    assert "".join(data["text"] for kind, data, _ in told if kind == "delta") == "A cat on a mat."
    result = told[6][1]
    assert (result["text"], result["meta"]["trace"]) == ("A cat on a mat.", answer.headers["X-Request-Id"])
    assert told[7][1] == {"whole": True}


def test_ids_name_the_stream_and_count(server: Server) -> None:
    streams = [[identity.split(":") for _, _, identity in events(ask(server).text)] for _ in range(2)]
    assert [number for _, number in streams[0]] == [str(number) for number in range(1, 9)]
    names = [{name for name, _ in stream} for stream in streams]
    assert len(names[0]) == len(names[1]) == 1
    assert names[0] != names[1]


def test_accepting_events_is_asking_for_them(server: Server) -> None:
    def kind_of(accept: str, **more: Any) -> str:
        sent = {"prompt": "What?", **more}
        answer = requests.post(f"{server.url}/v1/ask", json=sent, headers={"Accept": accept}, timeout=10)
        return answer.headers["Content-Type"].partition(";")[0]

    assert kind_of("text/event-stream") == "text/event-stream"
    assert kind_of("application/json, text/event-stream") == "application/json"
    assert kind_of("*/*") == "application/json"
    assert kind_of("text/event-stream", stream=False) == "application/json"


def test_any_task_can_be_streamed_and_a_form_too(server: Server) -> None:
    sent = form(("image", "a.png", png()), ("stream", None, "true"), ("model", None, "talker"))
    told = events(requests.post(f"{server.url}/v1/classify", timeout=10, **sent).text)
    assert told[6][0] == "result"
    assert told[6][1]["image"]["width"] == 64


def test_a_list_cannot_be_streamed(server: Server) -> None:
    answer = requests.post(
        f"{server.url}/v1/classify", json={"image": [data_url(png())] * 2, "stream": True}, timeout=10
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_signs_of_life_fill_the_silence_before_the_first_word_and_between_words(server: Server) -> None:
    lines = ask(server, "slowly").text.split("\n")
    beats = [number for number, line in enumerate(lines) if line == ": keep-alive"]
    words = [number for number, line in enumerate(lines) if line.startswith("event: delta")]
    assert any(beat < words[0] for beat in beats)
    assert any(words[0] < beat < words[1] for beat in beats)
    assert lines.count("") == 6, "a sign of life is no event: it is followed by no empty line"


def test_what_fails_at_once_keeps_its_status(server: Server) -> None:
    for sent, status in (({"model": "nobody"}, 400), ({"prompt": ""}, 400), ({"image": "data:;base64,!"}, 400)):
        answer = ask(server, **sent)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
    assert ask(server, "broken").status_code == 500
    assert ask(server, "busy").status_code == 429


def test_what_fails_late_ends_with_an_error(server: Server) -> None:
    answer = ask(server, "late")
    assert answer.status_code == 200
    told = events(answer.text)
    assert [kind for kind, _, _ in told] == ["stream", "error", "end"]
    assert told[1][1]["error"]["code"] == "provider_failed"
    assert told[2][1] == {"whole": False}


def test_what_breaks_between_words_ends_with_an_error(server: Server) -> None:
    told = events(ask(server, "torn").text)
    assert [kind for kind, _, _ in told] == ["stream", "delta", "error", "end"]
    assert told[2][1]["error"]["code"] == "stream_broken"


def test_a_deadline_in_a_stream_is_an_error(server: Server) -> None:
    told = events(ask(server, "chatty", timeout=1).text)
    kinds = [kind for kind, _, _ in told]
    assert kinds == ["stream", *["delta"] * kinds.count("delta"), "error", "end"]
    assert "delta" in kinds
    assert told[-2][1]["error"]["code"] == "deadline_exceeded"


def in_progress(server: Server) -> int:
    text = requests.get(f"{server.url}/metrics", timeout=10).text
    return sum(
        int(float(line.split()[-1])) for line in text.splitlines() if line.startswith("sensorium_requests_in_progress ")
    )


def begun(server: Server, model: str) -> socket.socket:
    body = json.dumps({"prompt": "What?", "model": model, "stream": True}).encode()
    head = f"POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    connection = connected(server.port)
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    return connection


@pytest.mark.parametrize("words_first", [False, True])
def test_a_client_that_leaves_ends_the_work(server: Server, words_first: bool) -> None:
    with closing(begun(server, "never")) as connection:
        assert eventually(lambda: in_progress(server) == 1)
        if words_first:
            assert b"200 OK" in connection.recv(1000), "after the first sign of life"
    assert eventually(lambda: in_progress(server) == 0)


def rest_of(connection: socket.socket) -> bytes:
    """All that still comes, until it ends or is cut off."""
    heard = b""
    with suppress(ConnectionError):
        while data := connection.recv(1 << 20):
            heard += data
    return heard


def test_a_client_that_does_not_read_is_let_go(tmp_path: Path) -> None:
    with talking(tmp_path, unread_seconds=1.0, resume_grace_seconds=0.1) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        body = b'{"prompt": "What?", "model": "endless", "stream": true}'
        head = (
            f"POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        with closing(connection):
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
            connection.settimeout(10)
            assert connection.recv(1, socket.MSG_PEEK), "it is answered"
            assert eventually(lambda: in_progress(server) == 0)
            assert b'{"whole":true}' not in rest_of(connection)
        assert ask(server).status_code == 200


def test_a_server_that_is_told_to_stop_finishes_streams_or_says_that_it_does_not(tmp_path: Path) -> None:
    with (
        talking(tmp_path, drain_seconds=0.3, heartbeat_seconds=0.05) as server,
        closing(begun(server, "never")) as connection,
    ):
        assert b"200 OK" in connection.recv(1000)
        server.process.terminate()
        rest = rest_of(connection)
    assert b"service_closed" in rest
    assert b'{"whole":false}' in rest
