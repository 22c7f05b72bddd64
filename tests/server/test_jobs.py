"""Jobs over HTTP: handed in, watched, fetched, called off; each by its owner alone."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from sensorium.config import Settings
from sensorium.engine import Budget
from sensorium.errors import InvalidRequest
from sensorium.registry import Registry
from sensorium.server.door import House
from sensorium.server.facades.base import Message
from sensorium.server.jobs import Jobs
from tests.fakes import put_fake
from tests.keyring import kept_key
from tests.pictures import JUNK, jpeg
from tests.server.conftest import PATIENCE, Server, eventually, running
from tests.server.test_streams import Told, events
from tests.server.test_supervisor import lives
from tests.server.wire import data_url, form

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes to wake workers by")

NOTHING = "0" * 32


@contextmanager
def working(folder: Path, **settings: Any) -> Iterator[Server]:
    put_fake(folder / "models", "late", "seconds = 30")
    with running(folder, **{"heartbeat_seconds": 0.1, **settings}) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with working(tmp_path_factory.mktemp("jobs")) as started:
        yield started


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, dict[str, str]]]]:
    """A server that asks for keys, and headers for some."""
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "data").mkdir()
    fields: dict[str, Any] = {
        "shop": {"scopes": ("classify",)},
        "other": {},
        "slow": {"scopes": ("classify",), "requests_per_minute": 1},
    }
    texts = {name: kept_key(folder / "data", name, **more) for name, more in fields.items()}
    with working(folder, auth="on", job_workers=0) as started:
        yield started, {name: {"Authorization": f"Bearer {text}"} for name, text in texts.items()}


def picture(width: int = 20, **more: Any) -> dict[str, Any]:
    return {"image": data_url(jpeg(width=width)), "model": "fake", **more}


def submit(server: Server, *asked: Any, **more: Any) -> requests.Response:
    headers = more.pop("headers", {})
    body = {"task": "classify", "requests": list(asked), **more}
    return requests.post(f"{server.url}/v1/jobs", json=body, headers=headers, timeout=PATIENCE)


def get(server: Server, identity: str, **more: Any) -> requests.Response:
    return requests.get(f"{server.url}/v1/jobs/{identity}", timeout=PATIENCE, **more)


def watch(server: Server, identity: str, last: str | None = None, **more: Any) -> requests.Response:
    headers = {**more.pop("headers", {}), **({"Last-Event-ID": last} if last else {})}
    return requests.get(f"{server.url}/v1/jobs/{identity}/events", headers=headers, timeout=20, **more)


def ended(server: Server, identity: str, seconds: float = PATIENCE) -> Any:
    assert eventually(lambda: get(server, identity).json()["ended"] is not None, seconds), get(server, identity).text
    return get(server, identity).json()


def kinds(told: Told) -> list[str]:
    return [kind for kind, _, _ in told]


def test_a_job_is_taken_at_once_and_its_outcomes_are_fetched(server: Server) -> None:
    answer = submit(server, picture(20), {"image": [data_url(jpeg(width=30)), data_url(JUNK)], "model": "fake"}, {})
    job = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/v1/jobs/{job['id']}")
    assert (job["task"], job["progress"]["total"]) == ("classify", 4)
    job = ended(server, job["id"])
    assert (job["state"], job["error"]) == ("done", None)
    assert job["progress"] == {"total": 4, "settled": 4, "done": 2, "failed": 2, "dead": 0}
    told = {one["index"]: one for one in job["outcomes"]}
    assert [told[place]["result"]["image"]["width"] for place in (0, 1)] == [20, 30]
    assert [told[place]["error"]["code"] for place in (2, 3)] == ["unidentified_media", "invalid_request"]
    assert told[0]["result"]["meta"]["trace"] == answer.headers["X-Request-Id"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ", job["expires"])


def test_outcomes_are_told_in_pages(server: Server) -> None:
    identity = submit(server, *[picture(width) for width in (20, 30, 40)]).json()["id"]
    ended(server, identity)
    first = get(server, identity, params={"limit": 2}).json()
    second = get(server, identity, params={"limit": 2, "after": first["next"]}).json()
    last = get(server, identity, params={"after": second["next"]}).json()
    assert [len(page["outcomes"]) for page in (first, second, last)] == [2, 1, 0]
    assert {one["index"] for page in (first, second) for one in page["outcomes"]} == {0, 1, 2}
    assert last["next"] == second["next"]


def test_a_form_with_files_is_a_job_too(server: Server) -> None:
    parts = [("task", None, "classify"), ("priority", None, "-3"), ("model", None, "fake")]
    files = [("image", f"{width}.jpg", jpeg(width=width)) for width in (20, 30)]
    answer = requests.post(f"{server.url}/v1/jobs", **form(*parts, *files), timeout=10)
    assert (answer.status_code, answer.json()["priority"]) == (202, -3)
    assert ended(server, answer.json()["id"])["progress"]["done"] == 2


def test_a_body_that_is_the_picture_is_a_job_too(server: Server) -> None:
    query = {"task": "classify", "model": "fake", "priority": "7", "top_k": "1"}
    headers = {"Content-Type": "image/jpeg"}
    answer = requests.post(f"{server.url}/v1/jobs", params=query, data=jpeg(), headers=headers, timeout=10)
    assert (answer.status_code, answer.json()["priority"]) == (202, 7), answer.text
    (outcome,) = ended(server, answer.json()["id"])["outcomes"]
    assert len(outcome["result"]["labels"]) == 1


def test_events_tell_states_items_and_the_end_and_go_on_after_the_last_id(server: Server) -> None:
    identity = submit(server, picture(), picture()).json()["id"]
    answer = watch(server, identity)
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    told = events(answer.text)
    numbered = [one for one in told if one[0] != "progress"]
    assert kinds(numbered) == ["state", "state", "item", "item", "end"]
    assert [one for _, _, one in numbered] == [f"{identity}:{number}" for number in range(1, 6)]
    assert (numbered[0][1], numbered[1][1]) == ({"state": "waiting"}, {"state": "running"})
    assert [one[1] for one in told if one[0] == "progress"][-1]["settled"] == 2
    assert numbered[-1][1]["state"] == "done"
    rest = events(watch(server, identity, numbered[2][2]).text)
    assert [one for one in rest if one[0] != "progress"] == numbered[3:]
    assert watch(server, identity, numbered[-1][2]).status_code == 204


def test_events_come_while_the_job_goes_on_with_signs_of_life_between(server: Server) -> None:
    identity = submit(server, picture(model="late")).json()["id"]
    with watch(server, identity, stream=True) as answer:
        lines = answer.iter_lines()
        heard: list[bytes] = []
        while heard[-2:] != [b": keep-alive", b": keep-alive"]:
            heard.append(next(lines))
        assert b'data: {"state":"waiting"}' in heard
        cancelled = requests.delete(f"{server.url}/v1/jobs/{identity}", timeout=10)
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
        assert b"event: end" in list(lines)
    assert get(server, identity).json()["outcomes"] == []
    again = requests.delete(f"{server.url}/v1/jobs/{identity}", timeout=10)
    assert again.json() == cancelled.json()


def test_the_same_key_is_answered_by_the_same_job(server: Server) -> None:
    one, same = (submit(server, picture(), headers={"Idempotency-Key": "once"}).json() for _ in range(2))
    assert one["id"] == same["id"]
    assert submit(server, picture(), idempotency_key="once").json()["id"] == one["id"]
    answer = submit(server, picture(30), idempotency_key="once")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_conflict")


def test_submissions_with_one_key_at_the_same_time_are_one_job(server: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: submit(server, picture(), idempotency_key="race").json()["id"], range(8)))
    assert len(set(told)) == 1


def test_jobs_are_listed_by_state_in_pages(server: Server) -> None:
    ids = [submit(server, picture(model="late")).json()["id"] for _ in range(3)]
    for identity in ids:
        requests.delete(f"{server.url}/v1/jobs/{identity}", timeout=10)
    at = f"{server.url}/v1/jobs"
    page = requests.get(at, params={"state": "cancelled", "limit": "2"}, timeout=10).json()
    assert [job["id"] for job in page["jobs"]] == ids[:0:-1]
    after = requests.get(at, params={"state": "cancelled", "limit": "1", "before": page["next"]}, timeout=10).json()
    assert [job["id"] for job in after["jobs"]] == ids[:1]
    refused = requests.get(at, params={"state": "asleep"}, timeout=10)
    assert (refused.status_code, "waiting" in refused.text) == (400, True)


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"task": "classify"}, 400, "requests"),
        ({"task": "nothing", "request": {}}, 404, "nothing"),
        ({"task": "classify", "request": {}, "requests": [{}]}, 400, "requests"),
        ({"task": "classify", "requests": [{}]}, 400, "picture"),
        ({"task": "classify", "requests": [{}] * 1001}, 400, "1000"),
        ({"task": "classify", "requests": [{"image": ["file-1"] * 100}] * 11}, 400, "at most 1,000"),
        ({"task": "classify", "request": {"image": {"path": "/etc/passwd"}}}, 400, "picture"),
        ({"task": "classify", "request": {"image": "/etc/passwd"}}, 400, "picture"),
        ({"task": "classify", "request": picture(), "priority": 1000}, 400, "priority"),
        ({"task": "classify", "request": picture(), "webhook": "file:///etc"}, 400, "webhook"),
        ({"task": "classify", "request": picture(), "webhook": "example.com/hook"}, 400, "whole URL"),
        ({"task": "classify", "requests": {"image": "file-1"}}, 400, "should be a list"),
        ({"task": "classify", "request": picture(), "colour": 1}, 400, "colour"),
    ],
)
def test_what_is_wrong_is_refused_and_said(server: Server, asked: Any, status: int, words: str) -> None:
    answer = requests.post(f"{server.url}/v1/jobs", json=asked, timeout=10)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_a_priority_of_endless_digits_is_refused(server: Server) -> None:
    query = {"task": "classify", "priority": "9" * 5000}
    headers = {"Content-Type": "image/jpeg"}
    answer = requests.post(f"{server.url}/v1/jobs", params=query, data=jpeg(), headers=headers, timeout=10)
    assert (answer.status_code, "priority" in answer.text) == (400, True)


def test_of_too_many_items_the_rest_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def wanted(*asked: Any) -> list[Any]:
        read.append(1)
        return [asked] * 100

    monkeypatch.setattr("sensorium.server.jobs._wanted", wanted)
    jobs = Jobs(House(Settings(data_dir=tmp_path)), [Registry().task("classify")])
    fields = {"task": "classify", "requests": [{}] * 1000}
    with pytest.raises(InvalidRequest, match="at most 1,000"):
        jobs._parse(Message("POST", "/v1/jobs", "t", fields=fields, typed=True))
    assert len(read) == 11


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=x", "after=1&after=2"])
def test_wrong_pages_are_refused(server: Server, query: str) -> None:
    identity = submit(server, picture()).json()["id"]
    assert get(server, f"{identity}?{query}").status_code == 400


def test_a_place_in_no_stream_of_the_job_is_refused(server: Server) -> None:
    identity = submit(server, picture()).json()["id"]
    for last in (f"{NOTHING}:1", f"{identity}:999", "nonsense"):
        assert watch(server, identity, last).status_code == 400


def test_others_jobs_are_not_there(keyed: tuple[Server, dict[str, dict[str, str]]]) -> None:
    server, headers = keyed
    identity = submit(server, picture(), headers=headers["shop"]).json()["id"]
    other = headers["other"]
    answers = [
        get(server, identity, headers=other),
        watch(server, identity, headers=other),
        requests.delete(f"{server.url}/v1/jobs/{identity}", headers=other, timeout=10),
        get(server, NOTHING, headers=headers["shop"]),
        get(server, "x", headers=headers["shop"]),
    ]
    assert [(one.status_code, one.json()["error"]["code"]) for one in answers] == [(404, "unknown_job")] * 5
    assert requests.get(f"{server.url}/v1/jobs", headers=other, timeout=10).json()["jobs"] == []
    for path in ("jobs", f"jobs/{identity}", f"jobs/{identity}/events"):
        assert requests.get(f"{server.url}/v1/{path}", timeout=10).status_code == 401


def test_scope_and_rate_hold_for_handing_in(keyed: tuple[Server, dict[str, dict[str, str]]]) -> None:
    server, headers = keyed
    body: Any = {"task": "ask", "request": {"prompt": "What?", "model": "fake"}}
    refused = requests.post(f"{server.url}/v1/jobs", json=body, headers=headers["shop"], timeout=10)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    told = [submit(server, picture(), picture(), headers=headers["slow"]) for _ in range(2)]
    assert [one.status_code for one in told] == [202, 429], "a job counts as one request"


def test_work_is_done_within_the_budget_of_who_submitted_it_and_written_down_for_them(tmp_path: Path) -> None:
    key = kept_key(tmp_path / "data", "thrifty", budget=Budget("month", tokens=500))
    headers = {"X-API-Key": key}
    asked: Any = {"prompt": "What?", "model": "fake"}
    with working(tmp_path, auth="on") as server:
        body: Any = {"task": "ask", "requests": [asked, {**asked, "max_tokens": 100}]}
        identity = requests.post(f"{server.url}/v1/jobs", json=body, headers=headers, timeout=10).json()["id"]
        assert eventually(lambda: get(server, identity, headers=headers).json()["ended"])
        told = {one["index"]: one for one in get(server, identity, headers=headers).json()["outcomes"]}
        assert (told[0]["error"]["code"], told[1]["state"]) == ("budget_spent", "done")

        def used() -> int:
            answer = requests.get(f"{server.url}/v1/usage", params={"by": "key"}, headers=headers, timeout=10)
            return sum(line["requests"] for line in answer.json()["usage"] if line["key"] == "thrifty")

        assert eventually(lambda: used() == 2)


def test_an_expired_job_is_gone(tmp_path: Path) -> None:
    with working(tmp_path, job_kept_seconds=0.5, job_workers=0) as server:
        identity = submit(server, picture()).json()["id"]
        assert requests.delete(f"{server.url}/v1/jobs/{identity}", timeout=10).json()["state"] == "cancelled"
        assert eventually(lambda: get(server, identity).status_code == 410)
        assert get(server, identity).json()["error"]["code"] == "job_gone"
        assert watch(server, identity).status_code == 410


def test_more_jobs_than_a_key_may_have_are_refused_until_one_has_ended(tmp_path: Path) -> None:
    with working(tmp_path, jobs_per_key=2, job_workers=0) as server:
        first, _ = submit(server, picture()).json(), submit(server, picture())
        refused = submit(server, picture())
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "jobs_full")
        assert refused.json()["error"]["retryable"] is True
        assert int(refused.headers["Retry-After"]) >= 1
        classic = requests.post(f"{server.url}/predict?async=1", files={"file": jpeg()}, timeout=10)
        assert (classic.status_code, "Retry-After" in classic.headers) == (429, True)
        assert len(list((tmp_path / "data" / "jobs" / "inputs").iterdir())) == 2, (
            "what was refused leaves nothing behind"
        )
        requests.delete(f"{server.url}/v1/jobs/{first['id']}", timeout=10)
        assert submit(server, picture()).status_code == 202


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with working(tmp_path, jobs_dir=str(tmp_path / "file")) as server:
        for asked in (picture(), {"image": "https://example.com/cat.jpg"}):
            answer = submit(server, asked)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_failed")
            assert answer.json()["error"]["retryable"]
            assert str(tmp_path) not in answer.text


@pytest.mark.slow  # it takes several seconds
def test_several_processes_share_the_jobs_and_one_crew(tmp_path: Path) -> None:
    with working(tmp_path, workers=2, job_workers=2) as server:
        ids = [submit(server, picture(), picture()).json()["id"] for _ in range(8)]
        assert all(ended(server, identity)["progress"]["done"] == 2 for identity in ids)
        assert len(crew(server)) == 2
        told = requests.get(f"{server.url}/metrics", timeout=10).text
        assert eventually(
            lambda: (
                'jobs_finished_total{task="classify",state="done"} 8'
                in requests.get(f"{server.url}/metrics", timeout=10).text
            )
        ), told
        assert "sensorium_workers 2" in told


def test_workers_start_with_the_first_job_and_end_with_the_server(tmp_path: Path) -> None:
    with working(tmp_path) as server:
        assert crew(server) == []
        ended(server, submit(server, picture()).json()["id"])
        (worker,) = crew(server)
        assert os.getpriority(os.PRIO_PROCESS, worker) >= 10
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        assert eventually(lambda: not lives(worker))


def test_a_watcher_is_told_when_the_server_stops(tmp_path: Path) -> None:
    with working(tmp_path, job_workers=0) as server:
        identity = submit(server, picture()).json()["id"]
        with watch(server, identity, stream=True) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = b"\n".join(lines)
        assert b"service_closed" in rest
        assert server.process.wait(PATIENCE) == 0


def crew(server: Server) -> list[int]:
    """The processes that work on the server's jobs, or did."""
    return [int(pid) for pid in re.findall(r"Job worker \d+ starts, pid (\d+)", server.log())]
