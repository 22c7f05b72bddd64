"""Files sent ahead over HTTP: kept for their owner, and named wherever a picture can stand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.keyring import kept_key
from tests.pictures import JUNK, jpeg
from tests.server.conftest import Server, eventually, running
from tests.server.wire import bitmap, data_url, form

NOTHING = "file-" + "0" * 32
ASKED = {"model": "fake"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("files"), file_bytes=3_000_000, file_kept_seconds=5000) as started:
        yield started


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, list[dict[str, str]]]]:
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "data").mkdir()
    keys = [kept_key(folder / "data", name) for name in ("shop", "other")]
    with running(folder, auth="on", job_workers=0) as started:
        yield started, [{"Authorization": f"Bearer {key}"} for key in keys]


def send(server: Server, data: bytes, **more: Any) -> Any:
    fields = [(name, None, value) for name, value in more.items()]
    answer = requests.post(f"{server.url}/v1/files", **form(("file", "cat.jpg", data), *fields), timeout=10)
    return answer.json() if answer.ok else answer


def call(server: Server, method: str, path: str, **more: Any) -> requests.Response:
    return requests.request(method, f"{server.url}/v1/{path}", timeout=10, **more)


def code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_file_is_told_as_clients_know_it(server: Server) -> None:
    data = jpeg()
    kept = send(server, data, purpose="user_data")
    assert {name: kept[name] for name in ("object", "bytes", "filename", "purpose", "status")} == {
        "object": "file",
        "bytes": len(data),
        "filename": "cat.jpg",
        "purpose": "user_data",
        "status": "processed",
    }
    assert kept["expires_at"] - kept["created_at"] in (4999, 5000)
    assert call(server, "GET", f"files/{kept['id']}").json() == kept
    content = call(server, "GET", f"files/{kept['id']}/content")
    assert content.content == data
    assert content.headers["Content-Type"] == "application/octet-stream"
    assert content.headers["X-Content-Type-Options"] == "nosniff"
    assert content.headers["Content-Disposition"].startswith("attachment")


def test_a_file_may_be_the_whole_body_and_go_sooner(server: Server) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    answer = call(server, "POST", "files?filename=a.bin&expires_after[seconds]=60", data=b"bytes", headers=headers)
    kept = answer.json()
    assert (kept["filename"], kept["bytes"], answer.headers["Location"]) == ("a.bin", 5, f"/v1/files/{kept['id']}")
    assert kept["expires_at"] - kept["created_at"] in (59, 60)


@pytest.mark.parametrize("data", [jpeg(width=40), bitmap(640)], ids=["small", "large"])
def test_its_id_stands_wherever_a_picture_can(server: Server, data: bytes) -> None:
    identity = send(server, data)["id"]
    width = 40 if data[:2] != b"BM" else 640
    bodies = [
        {"json": {"image": identity, **ASKED}},
        {"json": {"image": {"file_id": identity}, **ASKED}},
        {"data": {"image": identity, **ASKED}},
    ]
    for body in bodies:
        answer = call(server, "POST", "classify", **body)
        assert answer.json()["image"]["width"] == width, answer.text
    told = call(server, "POST", "classify", json={"image": [identity, data_url(jpeg(width=30)), NOTHING], **ASKED})
    outcomes = told.json()["results"]
    assert [one["result"]["image"]["width"] for one in outcomes[:2]] == [width, 30]
    assert outcomes[2]["error"]["code"] == "unknown_file"


def test_questions_and_chat_completions_take_it_too(server: Server) -> None:
    identity = send(server, jpeg())["id"]
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": identity}},
        {"type": "file", "file": {"file_id": identity}},
    ]
    body = {"model": "fake", "messages": [{"role": "user", "content": parts}]}
    assert call(server, "POST", "chat/completions", json=body).status_code == 200
    parts[2]["file"] = {"file_id": NOTHING}
    assert call(server, "POST", "chat/completions", json=body).status_code == 404
    asked = {"model": "fake", "prompt": "What?", "image": NOTHING, "stream": True}
    assert code(call(server, "POST", "ask", json=asked)) == (404, "unknown_file")


def test_a_job_keeps_what_it_named_though_it_is_deleted_meanwhile(server: Server) -> None:
    identity = send(server, jpeg(width=50))["id"]
    job = call(server, "POST", "jobs", json={"task": "classify", "requests": [{"image": identity, **ASKED}]}).json()
    assert call(server, "DELETE", f"files/{identity}").json() == {"id": identity, "object": "file", "deleted": True}
    assert eventually(lambda: call(server, "GET", f"jobs/{job['id']}").json()["ended"])
    (outcome,) = call(server, "GET", f"jobs/{job['id']}").json()["outcomes"]
    assert outcome["result"]["image"]["width"] == 50
    assert code(call(server, "GET", f"files/{identity}")) == (404, "unknown_file")
    again = call(server, "POST", "jobs", json={"task": "classify", "requests": [{"image": identity, **ASKED}]})
    assert code(again) == (404, "unknown_file")


def test_files_are_listed_by_purpose_in_pages(server: Server) -> None:
    ids = [send(server, b"x", purpose="listed")["id"] for _ in range(3)]
    page = call(server, "GET", "files?purpose=listed&limit=2").json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == (ids[:0:-1], True)
    rest = call(server, "GET", f"files?purpose=listed&limit=2&after={page['last_id']}").json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[:1], False)
    assert [one["id"] for one in call(server, "GET", "files?purpose=listed&order=asc").json()["data"]] == ids
    for query in ("limit=0", "limit=x", "order=up", "after=x", "limit=%C2%B2"):
        assert call(server, "GET", f"files?{query}").status_code in (400, 404)


def test_what_is_no_file_or_too_large_is_refused_and_said(server: Server) -> None:
    assert code(call(server, "POST", "files", **form(("purpose", None, "vision")))) == (400, "invalid_request")
    assert code(call(server, "POST", "files", **form(("file", "a", b"1"), ("file", "b", b"2")))) == (
        400,
        "invalid_request",
    )
    large = send(server, bytes(3_000_001))
    assert code(large) == (413, "input_too_large")
    assert "file_bytes" in large.text
    assert code(call(server, "POST", "uploads", json={"bytes": 3_000_001})) == (413, "input_too_large")
    assert code(call(server, "POST", "uploads", json={"filename": "a"})) == (400, "invalid_request")
    assert code(call(server, "POST", "uploads", json={"bytes": "many"})) == (400, "invalid_request")


def test_a_file_that_is_no_picture_is_the_requests_error(server: Server) -> None:
    identity = send(server, JUNK)["id"]
    assert code(call(server, "POST", "classify", json={"image": identity, **ASKED})) == (415, "unidentified_media")


@pytest.mark.parametrize(
    "image", [{"file_id": 1}, {"file_id": "/etc/passwd"}, {"file_id": NOTHING, "path": "/etc/passwd"}]
)
def test_nothing_else_hides_behind_an_id(server: Server, image: Any) -> None:
    assert call(server, "POST", "classify", json={"image": image, **ASKED}).status_code == 400


def test_others_files_and_uploads_are_not_there(keyed: tuple[Server, list[dict[str, str]]]) -> None:
    server, (shop, other) = keyed
    body = form(("file", "cat.jpg", jpeg()))
    identity = call(server, "POST", "files", data=body["data"], headers={**body["headers"], **shop}).json()["id"]
    upload = call(server, "POST", "uploads", json={"bytes": 5}, headers=shop).json()["id"]
    asked = {"image": identity, **ASKED}
    answers = [
        call(server, "GET", f"files/{identity}", headers=other),
        call(server, "GET", f"files/{identity}/content", headers=other),
        call(server, "DELETE", f"files/{identity}", headers=other),
        call(server, "POST", "classify", json=asked, headers=other),
        call(server, "POST", "jobs", json={"task": "classify", "request": asked}, headers=other),
        call(server, "GET", f"uploads/{upload}", headers=other),
        call(server, "POST", f"uploads/{upload}/cancel", headers=other),
        call(server, "POST", f"uploads/{upload}/parts", data=b"x", headers={**other, "Content-Type": "image/jpeg"}),
        call(server, "POST", f"uploads/{upload}/complete", json={"part_ids": ["x"]}, headers=other),
    ]
    assert {code(one) for one in answers} == {(404, "unknown_file")}
    assert call(server, "GET", "files", headers=other).json()["data"] == []
    assert call(server, "POST", "classify", json=asked, headers=shop).status_code == 200
    for path in ("files", f"files/{identity}", f"files/{identity}/content", f"uploads/{upload}"):
        assert call(server, "GET", path).status_code == 401


def test_a_full_quota_is_told(tmp_path: Path) -> None:
    with running(tmp_path, file_quota_bytes=10_000) as server:
        send(server, bytes(6000))
        assert code(send(server, bytes(5000))) == (413, "files_full")


def test_an_upload_goes_on_after_a_new_start_of_the_server(tmp_path: Path) -> None:
    data = bitmap(600)
    cut = len(data) // 2
    with running(tmp_path) as server:
        upload = call(server, "POST", "uploads", json={"bytes": len(data), "filename": "scan.bmp"}).json()
        assert (upload["object"], upload["status"], upload["file"]) == ("upload", "pending", None)
        first = _part(server, upload["id"], data[:cut])
        server.process.kill()
    with running(tmp_path) as server:
        told = call(server, "GET", f"uploads/{upload['id']}").json()
        assert told["bytes_received"] == cut
        assert told["parts"] == [first]
        assert first["sha256"] == hashlib.sha256(data[:cut]).hexdigest()
        second = _part(server, upload["id"], data[cut:])
        asked = {"part_ids": [first["id"], second["id"]]}
        done = call(server, "POST", f"uploads/{upload['id']}/complete", json=asked).json()
        assert (done["status"], done["file"]["filename"]) == ("completed", "scan.bmp")
        answer = call(server, "POST", "classify", json={"image": done["file"]["id"], **ASKED})
        assert answer.json()["image"]["width"] == 600
        assert call(server, "POST", f"uploads/{upload['id']}/complete", json=asked).json() == done


def test_a_cancelled_upload_takes_no_more(server: Server) -> None:
    identity = call(server, "POST", "uploads", json={"bytes": 3}).json()["id"]
    _part(server, identity, b"one")
    assert call(server, "POST", f"uploads/{identity}/cancel").json()["status"] == "cancelled"
    answer = call(server, "POST", f"uploads/{identity}/complete", json={"part_ids": ["x"]})
    assert code(answer) == (400, "invalid_request")
    assert "cancelled" in answer.text
    assert call(server, "GET", f"uploads/{identity}").json()["parts"] == []


def test_bytes_and_index_are_readable_by_the_owner_of_the_process_alone(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        send(server, bitmap(600))
        files = [path for path in (tmp_path / "data" / "files").rglob("*") if path.is_file()]
        assert len(files) >= 2
        assert {path.stat().st_mode & 0o077 for path in files} == {0}


def _part(server: Server, upload: str, data: bytes) -> Any:
    answer = call(server, "POST", f"uploads/{upload}/parts", **form(("data", "part", data)))
    assert answer.ok, answer.text
    return json.loads(answer.text)


def test_a_file_whose_bytes_are_gone_is_unknown(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        kept = send(server, jpeg())
        for path in (tmp_path / "data" / "files" / "bytes").glob("*/*"):
            path.unlink()
        assert code(call(server, "GET", f"files/{kept['id']}/content")) == (404, "unknown_file")
        answer = call(server, "POST", "classify", json={"image": kept["id"], **ASKED})
        assert (code(answer), str(tmp_path) in answer.text) == ((400, "file_missing"), False)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("files", "GET, HEAD, POST"),
        (f"files/{NOTHING}", "DELETE, GET, HEAD"),
        ("jobs", "GET, HEAD, POST"),
        (f"jobs/{'0' * 32}", "DELETE, GET, HEAD"),
        ("usage", "GET, HEAD"),
        ("models/a/reload", "POST"),
    ],
)
def test_another_method_is_told_all_that_the_path_takes(server: Server, path: str, allowed: str) -> None:
    answer = call(server, "PUT", path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
