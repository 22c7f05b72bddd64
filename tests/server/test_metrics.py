"""What operators see: the page that Prometheus reads, and the dashboard and alerts that are made of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import requests
import yaml  # type: ignore[import-untyped]
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from sensorium.config import Settings
from sensorium.server.app import create_app
from sensorium.server.exposition import exposition
from sensorium.telemetry import Telemetry
from tests.pictures import png
from tests.runtimes.graphs import channel_means
from tests.server.conftest import Server, running

DEPLOY = Path(__file__).parents[2] / "deploy"


class ASGI:
    """An application without a socket."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def status(self, path: str) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "root_path": ""}
        await self._app(scope, None, send)
        return int(sent[0]["status"])


ELSEWHERE = {"up"}
"""Metrics that Prometheus makes itself."""

CARD = """
name = "channels"
kind = "onnx_classifier"
tasks = ["classify"]
licence = "MIT"
labels = "names.txt"
[weights]
file = "channels.onnx"
sha256 = "{sha256}"
[input]
size = 8
"""


def numbers(text: str) -> dict[str, Metric]:
    """By name, as Prometheus reads them."""
    return {one.name: one for one in text_string_to_metric_families(text)}


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    """The sum of all samples of that name with these labels."""
    return sum(
        one.value
        for family in families.values()
        for one in family.samples
        if one.name == sample and labels.items() <= one.labels.items()
    )


def scrape(server: Server) -> dict[str, Metric]:
    answer = requests.get(f"{server.url}/metrics", timeout=10)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return numbers(answer.text)


def ask(server: Server, query: str = "", data: bytes | None = None) -> int:
    headers = {"Content-Type": "image/png"}
    url = f"{server.url}/v1/classify{query}"
    return requests.post(url, data=png() if data is None else data, headers=headers, timeout=10).status_code


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a real ONNX model, whose numbers nobody else moves."""
    folder = tmp_path_factory.mktemp("watched")
    models, graph = folder / "models", channel_means()
    models.mkdir()
    (models / "channels.onnx").write_bytes(graph)
    (models / "channels.toml").write_text(CARD.format(sha256=sha256(graph).hexdigest()), encoding="utf-8")
    (models / "names.txt").write_text("red\ngreen\nblue\n", encoding="utf-8")
    with running(folder) as server:
        yield server


@pytest.fixture(scope="module")
def scraped(watched: Server) -> dict[str, Metric]:
    """After one answer by each of two models, one from the cache, one of each kind of failure, and one wrong route."""
    body = png()
    assert [ask(watched, "?model=channels&cache=false"), ask(watched), ask(watched)] == [200, 200, 200]
    assert [ask(watched, data=body[:60]), ask(watched, "?model=busy"), ask(watched, "?model=nothing")] == [
        422,
        429,
        400,
    ]
    assert requests.get(f"{watched.url}/v1/classify", timeout=10).status_code == 405
    assert requests.get(f"{watched.url}/no/{'x' * 50}", timeout=10).status_code == 404
    return scrape(watched)


def test_requests_are_told_by_task_and_outcome(scraped: dict[str, Metric]) -> None:
    told = {
        one.labels["code"]: one.value for one in scraped["sensorium_requests"].samples if one.name.endswith("_total")
    }
    assert told == {"ok": 3, "corrupt_media": 1, "overloaded": 1, "unknown_model": 1}
    assert value(scraped, "sensorium_request_seconds_count", task="classify") == 6


def test_every_stage_of_a_request_is_told(scraped: dict[str, Metric]) -> None:
    assert value(scraped, "sensorium_admission_wait_seconds_count") == 6
    assert value(scraped, "sensorium_cache_lookups_total", outcome="hit") == 1
    assert value(scraped, "sensorium_cache_lookups_total", outcome="miss") == 3
    assert value(scraped, "sensorium_session_run_seconds_count", model="channels@1") == 1
    assert value(scraped, "sensorium_session_queue_seconds_count", model="channels@1") == 1
    assert value(scraped, "sensorium_session_batch_size_sum", model="channels@1") == 1
    assert value(scraped, "sensorium_model_loaded", model="channels@1") == 1
    assert value(scraped, "sensorium_model_load_seconds_count", model="channels@1") == 1
    assert value(scraped, "sensorium_decode_seconds_count") >= 1
    assert value(scraped, "sensorium_http_upload_bytes_total") == 5 * len(png()) + 60


def test_http_is_told_by_known_routes_only(scraped: dict[str, Metric]) -> None:
    told = {(one.labels["route"], one.labels["status"]) for one in scraped["sensorium_http_requests"].samples}
    assert told == {
        *(("/v1/classify", status) for status in ("200", "400", "405", "422", "429")),
        ("(no such route)", "404"),
    }


def test_nothing_is_under_way_when_nobody_asks(scraped: dict[str, Metric]) -> None:
    for name in ("sensorium_requests_in_progress", "sensorium_admission_waiting_requests"):
        assert value(scraped, name) == 0, name


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell")
def test_the_process_is_told_as_prometheus_own_clients_do(watched: Server, scraped: dict[str, Metric]) -> None:
    resident = int(Path(f"/proc/{watched.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert value(scraped, "process_resident_memory_bytes") == pytest.approx(resident, rel=0.2)
    assert 0 < value(scraped, "process_cpu_seconds_total") < 60
    assert 5 < value(scraped, "process_open_fds") < value(scraped, "process_max_fds")
    assert value(scraped, "process_start_time_seconds") > 1.7e9
    assert value(scraped, "sensorium_workers") == 1


async def test_where_keys_are_asked_for_it_takes_one(tmp_path: Path) -> None:
    app = create_app(Settings(auth="on", data_dir=tmp_path, cache_dir=tmp_path))
    async with app.router.lifespan_context(app):
        transport = ASGI(app)
        assert await transport.status("/metrics") == 401
        assert await transport.status("/health/live") == 200


def test_labels_are_escaped() -> None:
    telemetry = Telemetry()
    odd = 'a"b\\c\nd'
    telemetry.requests[odd, "ok"].add()
    families = numbers(exposition(telemetry.families(), telemetry.snapshot()).decode())
    assert value(families, "sensorium_requests_total", task=odd) == 1


def test_buckets_are_cumulative_and_end_with_all() -> None:
    telemetry = Telemetry()
    for seconds in (0.002, 0.2, 100.0):
        telemetry.decode_seconds[()].observe(seconds)
    families = numbers(exposition(telemetry.families(), telemetry.snapshot()).decode())
    counts = {
        bound: value(families, "sensorium_decode_seconds_bucket", le=bound) for bound in ("0.001", "0.25", "+Inf")
    }
    assert counts == {"0.001": 0, "0.25": 2, "+Inf": 3}
    assert value(families, "sensorium_decode_seconds_sum") == pytest.approx(100.202)


# What is made of it


def dashboard() -> dict[str, Any]:
    told: dict[str, Any] = json.loads((DEPLOY / "grafana" / "sensorium.json").read_text(encoding="utf-8"))
    return told


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def expressions() -> list[str]:
    drawn = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [*drawn, *(rule["expr"] for rule in alerts())]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_what_there_is(expression: str, scraped: dict[str, Metric]) -> None:
    plain = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
    tree = repr(promql_parser.parse(plain))
    names = set(re.findall(r'VectorSelector \{\s*name: Some\(\s*"(\w+)"', tree))
    there = {sample.name: set(sample.labels) for family in scraped.values() for sample in family.samples}
    assert names
    assert names <= {*there, *ELSEWHERE}
    asked = set(re.findall(r"labels: \[([^\]]*)\]", tree))
    grouped = {label for labels in asked for label in re.findall(r"\w+", labels)}
    assert grouped <= set().union(*(there.get(name, set()) for name in names), {"instance", "le"})


def test_the_dashboard_can_be_put_on_any_data_source() -> None:
    kinds = {one["name"]: one["type"] for one in dashboard()["templating"]["list"]}
    assert kinds == {"datasource": "datasource", "instance": "query"}
    for panel in panels():
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}, panel["title"]


def test_the_panels_stand_beside_and_below_each_other() -> None:
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    taken = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(places)


def test_alerts_say_how_grave_they_are_and_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
        assert re.fullmatch(r"\d+m", rule["for"]), rule["alert"]


def test_prometheus_is_told_where_to_look() -> None:
    told = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = told["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("sensorium", "/metrics")
    assert all((DEPLOY / "prometheus" / name).is_file() for name in told["rule_files"])
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    ours = {name: service for name, service in services.items() if service.get("image") == "sensorium"}
    servers = {f"{name}:8000" for name, service in ours.items() if "worker" not in service.get("command", ())}
    assert set(job["static_configs"][0]["targets"]) == servers
