"""What the log says, and what it must never say."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from sensorium.server.access import trace_of
from sensorium.server.logs import LONGEST, Json, Text
from sensorium.telemetry import TRACE
from tests.pictures import photograph, png
from tests.server.conftest import Server, running

SECRET = "hunter2hunter2"
PNG = {"Content-Type": "image/png"}
TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that logs in JSON, all there is."""
    with running(tmp_path_factory.mktemp("told"), log_format="json", log_level="debug") as server:
        yield server


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log().splitlines()]


def about(server: Server, trace: str) -> list[dict[str, Any]]:
    """The lines of one request, once its last is written."""
    assert server.logs(rf'"trace": "{trace}", "method"')
    return [line for line in lines(server) if line.get("trace") == trace]


def test_each_line_is_json_with_the_request_it_is_about(told: Server) -> None:
    answer = requests.post(f"{told.url}/v1/classify?model=broken", data=png(), headers=PNG, timeout=10)
    error, access = about(told, answer.json()["error"]["trace"])
    assert (error["level"], error["logger"]) == ("error", "sensorium.server")
    assert (access["method"], access["route"], access["status"]) == ("POST", "/v1/classify", 500)
    assert access["ms"] > 0
    assert access["time"].endswith("+00:00")


def test_neither_secrets_nor_what_is_sent_are_logged(told: Server) -> None:
    body = photograph()
    headers = {"Authorization": f"Bearer {SECRET}", "X-API-Key": SECRET, "Cookie": SECRET, "Content-Type": "image/jpeg"}
    for path in ("/v1/classify", "/v1/classify/" + SECRET, "/v1/" + SECRET, "/" + SECRET):
        for model in ("fake", "broken", SECRET):
            url = f"{told.url}{path}?model={model}&api_key={SECRET}"
            requests.post(url, data=body, headers=headers, timeout=10)
    image = f"data:image/png;base64,{SECRET}"
    last = requests.post(f"{told.url}/v1/classify", json={"image": image, "top_k": SECRET}, timeout=10)
    about(told, last.headers["X-Request-Id"])
    assert SECRET not in told.log()
    assert "JFIF" not in told.log()
    assert max(map(len, told.log().splitlines())) < 5000


def test_a_method_that_is_not_taken_is_logged_with_its_route(told: Server) -> None:
    answer = requests.get(f"{told.url}/v1/classify", timeout=10)
    (access,) = about(told, answer.headers["X-Request-Id"])
    assert (access["route"], access["status"]) == ("/v1/classify", 405)


@pytest.mark.parametrize(
    ("headers", "trace"),
    [
        ({"traceparent": f"00-{TRACE_ID}-{PARENT}-01"}, TRACE_ID),
        ({"X-Request-ID": "order-17.a_B"}, "order-17.a_B"),
        ({"X-Request-ID": "mine", "traceparent": f"00-{TRACE_ID}-{PARENT}-00"}, TRACE_ID),
        ({"X-Request-ID": "mine", "traceparent": "nonsense"}, "mine"),
    ],
)
def test_the_id_that_a_request_brings_is_taken_over(told: Server, headers: dict[str, str], trace: str) -> None:
    answer = requests.post(f"{told.url}/v1/classify", data=png(), headers={**PNG, **headers}, timeout=10)
    assert answer.headers["X-Request-Id"] == answer.json()["meta"]["trace"] == trace
    assert about(told, trace)


@pytest.mark.parametrize(
    "header",
    [
        (b"traceparent", f"00-{'0' * 32}-{PARENT}-01"),
        (b"traceparent", f"00-{TRACE_ID}-{'0' * 16}-01"),
        (b"traceparent", f"ff-{TRACE_ID}-{PARENT}-01"),
        (b"traceparent", f"00-{TRACE_ID.upper()}-{PARENT}-01"),
        (b"traceparent", f"00-{TRACE_ID}-{PARENT}-01-more"),
        (b"x-request-id", ""),
        (b"x-request-id", "x" * 65),
        (b"x-request-id", "two words"),
        (b"x-request-id", "trace=1\nforged line"),
        (b"x-request-id", "名"),
    ],
)
def test_an_id_that_could_do_harm_is_replaced(header: tuple[bytes, str]) -> None:
    name, sent = header
    trace, parent = trace_of([(name, sent.encode())])
    assert (len(trace), parent) == (32, None)
    assert int(trace, 16)
    assert trace != TRACE_ID


def test_what_weighs_less_than_the_level_is_left_out() -> None:
    """In a process of its own, since the level is the whole process's."""
    script = (
        "import logging; from sensorium.server.logs import log_to_stderr; log_to_stderr('text', 'warning');"
        "logging.getLogger('sensorium.access').info('light'); logging.getLogger('sensorium.server').warning('grave')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"[\d-]+ [\d:]+ grave\n", done.stderr)


# Single lines


def written(form: logging.Formatter, message: str, *given: object, error: bool = False) -> str:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(form)
    handler.emit(
        logging.LogRecord("sensorium.x", logging.INFO, "", 0, message, given, sys.exc_info() if error else None)
    )
    return out.getvalue()


@pytest.mark.parametrize("form", [Text(), Json()], ids=["text", "json"])
def test_a_message_is_one_line_and_no_longer_than_it_may_be(form: logging.Formatter) -> None:
    assert len(written(form, "a\nb\x1b[31m %s", "x" * 50_000).splitlines()) == 1
    assert len(written(form, "%s", "x" * 50_000)) < LONGEST + 300


@pytest.mark.parametrize("form", [Text(), Json()], ids=["text", "json"])
def test_the_request_is_named_wherever_a_line_comes_from(form: logging.Formatter) -> None:
    token = TRACE.set(TRACE_ID)
    try:
        assert TRACE_ID in written(form, "from a plug-in")
    finally:
        TRACE.reset(token)
    assert "trace" not in written(form, "from nobody's request")


def test_a_failure_has_its_traceback_in_its_object() -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        told = json.loads(written(Json(), "Broke", error=True))
    assert told["message"] == "Broke"
    assert told["error"].endswith("ZeroDivisionError: division by zero")


def test_lines_are_written_soon_and_a_warning_at_once_in_order() -> None:
    script = (
        "import logging, os, sys; from sensorium.server.logs import log_to_stderr; log_to_stderr();"
        "log = logging.getLogger('sensorium.x'); log.info('one'); log.warning('two'); log.info('three');"
        "sys.stdin.readline(); log.info('lost'); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        told = [process.stderr.readline().split()[-1] for _ in range(3)]
        rest = process.communicate("\n")[1]
    assert (told, rest) == (["one", "two", "three"], "")


def test_the_last_lines_are_written_when_the_process_ends() -> None:
    script = "import logging; from sensorium.server.logs import log_to_stderr; log_to_stderr(); logging.getLogger('sensorium').info('end')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.endswith("end\n")
