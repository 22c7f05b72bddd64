"""Files and uploads of the official `openai` client, unchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tests.pictures import jpeg
from tests.sdks.serving import over_a_socket
from tests.server.conftest import Server
from tests.server.wire import bitmap


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with over_a_socket(tmp_path_factory.mktemp("sdks")) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20) as made:
        yield made


def test_files_are_created_listed_read_and_deleted(client: OpenAI, tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    kept = client.files.create(
        file=tmp_path / "cat.jpg", purpose="vision", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (kept.filename, kept.object, kept.status, kept.purpose) == ("cat.jpg", "file", "processed", "vision")
    assert kept.expires_at is not None
    assert kept.expires_at - kept.created_at in (3599, 3600)
    assert client.files.retrieve(kept.id) == kept
    assert client.files.content(kept.id).read() == jpeg()
    others = [client.files.create(file=("a.jpg", jpeg(seed=seed)), purpose="batch") for seed in range(3)]
    assert [one.id for one in client.files.list(purpose="batch", limit=2)] == [one.id for one in others[::-1]]
    assert client.files.delete(kept.id).deleted
    with pytest.raises(openai.NotFoundError, match="no such file"):
        client.files.retrieve(kept.id)


def test_a_picture_that_was_sent_ahead_is_asked_about(client: OpenAI) -> None:
    kept = client.files.create(file=("cat.jpg", jpeg()), purpose="vision")
    answer = client.chat.completions.create(
        model="talker",
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": "What is it?"}, {"type": "file", "file": {"file_id": kept.id}}],
            }
        ],
    )
    assert answer.choices[0].message.content == "A cat on a mat."


def test_an_upload_in_parts_is_a_file(client: OpenAI) -> None:
    data = bitmap(600)
    done = client.uploads.upload_file_chunked(
        file=data,
        filename="scan.bmp",
        bytes=len(data),
        mime_type="image/bmp",
        purpose="vision",
        part_size=400_000,
        md5=hashlib.md5(data).hexdigest(),  # noqa: S324 - as the client has it
    )
    assert (done.status, done.bytes) == ("completed", len(data))
    assert done.file is not None
    assert client.files.content(done.file.id).read() == data
    begun = client.uploads.create(bytes=3, filename="a", mime_type="image/jpeg", purpose="vision")
    assert client.uploads.parts.create(begun.id, data=b"one").upload_id == begun.id
    assert client.uploads.cancel(begun.id).status == "cancelled"
