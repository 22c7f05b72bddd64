"""Spans of OpenTelemetry, taken by its own exporter in memory."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sensorium.config import Settings
from sensorium.errors import MissingDependency
from sensorium.server.app import create_app
from sensorium.server.traces import Traces
from sensorium.telemetry import TELEMETRY
from tests.pictures import jpeg

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra `otel` is not installed")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `otel` is not installed")

TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def spans_of(
    path: str,
    headers: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    body: bytes = b"",
    query: bytes = b"",
    **settings: Any,
) -> list[Any]:
    """What a request leaves, in the order of the ends."""
    exporters = importlib.import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    memory = exporters.InMemorySpanExporter()
    monkeypatch.setattr(
        "opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter", lambda endpoint: memory
    )
    app = create_app(Settings(traces_to="http://127.0.0.1:1/v1/traces", **settings))
    asyncio.run(_ask(app, path, headers, body or jpeg(), query))
    return list(memory.get_finished_spans())


async def _ask(app: Any, path: str, headers: dict[str, str], body: bytes, query: bytes) -> None:
    async def send(message: Any) -> None:
        pass

    coming: asyncio.Queue[Any] = asyncio.Queue()
    coming.put_nowait({"type": "http.request", "body": body})
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": query,
        "headers": [
            (b"content-type", b"image/jpeg"),
            *((name.encode(), sent.encode()) for name, sent in headers.items()),
        ],
        "root_path": "",
    }
    async with app.router.lifespan_context(app):
        await app(scope, coming.get, send)


def test_a_request_its_task_and_its_decoding_are_spans_in_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = {"traceparent": f"00-{TRACE_ID}-{PARENT}-01"}
    decode, task, request = spans_of("/v1/describe_pixels", sent, monkeypatch)
    assert (decode.name, task.name, request.name) == ("decode", "describe_pixels", "POST /v1/describe_pixels")
    assert (decode.parent.span_id, task.parent.span_id) == (task.context.span_id, request.context.span_id)
    assert f"{request.parent.span_id:016x}" == PARENT
    assert {f"{span.context.trace_id:032x}" for span in (decode, task, request)} == {TRACE_ID}
    assert request.attributes["http.route"] == "/v1/describe_pixels"
    assert request.attributes["http.response.status_code"] == 200
    assert request.resource.attributes["service.name"] == "sensorium"


def test_a_trace_has_the_id_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, request = spans_of("/v1/describe_pixels", {"x-request-id": TRACE_ID}, monkeypatch)
    assert (request.context.trace_id, request.parent) == (int(TRACE_ID, 16), None)


def test_an_id_that_is_no_trace_id_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, request = spans_of("/v1/describe_pixels", {"x-request-id": "order-17"}, monkeypatch)
    assert request.context.trace_id


def test_queries_and_headers_are_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = {"authorization": "Bearer hunter2"}
    (request,) = spans_of("/v1/describe_pixels", sent, monkeypatch, query=b"api_key=hunter2")
    assert "hunter2" not in request.to_json()


def test_the_run_of_a_model_is_a_span_of_its_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spans = {span.name: span for span in spans_of("/v1/classify", {}, monkeypatch, cache_dir=tmp_path)}
    assert spans["run"].parent.span_id == spans["classify"].context.span_id
    assert spans["run"].attributes["sensorium.model"] == "efficientnet_lite0@1"


def test_a_failure_marks_its_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, task, request = spans_of("/v1/describe_pixels", {}, monkeypatch, body=jpeg()[:-200])
    assert not decode.status.is_ok
    assert not task.status.is_ok
    assert request.attributes["http.response.status_code"] == 422


def test_nothing_is_traced_when_the_server_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    spans_of("/v1/describe_pixels", {}, monkeypatch)
    assert TELEMETRY.tracer is None


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(MissingDependency, match=r"pip install 'sensorium\[otel\]'"):
        Traces("http://127.0.0.1:1/v1/traces")


def test_a_server_that_does_not_trace_does_not_load_it() -> None:
    script = (
        "import sys; from sensorium.server.app import create_app; create_app();"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
