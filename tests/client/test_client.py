"""The verbs of `sensorium.connect` against a real server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sensorium
from sensorium import aio
from sensorium.client import AsyncClient, Client
from sensorium.errors import (
    CorruptMedia,
    DeadlineExceeded,
    EngineFailed,
    FileMissing,
    ForbiddenAddress,
    InputTooLarge,
    InvalidConfiguration,
    InvalidRequest,
    Overloaded,
    SensoriumError,
    ServiceClosed,
    UnknownModel,
)
from sensorium.schemas.classify import Classification
from tests.pictures import jpeg, png
from tests.server.conftest import Server
from tests.server.wire import bitmap, data_url


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with sensorium.connect(server.url, retries=0) as connected:
        yield connected


def test_every_kind_of_source_is_answered(client: Client, tmp_path: Path) -> None:
    path = tmp_path / '图 "片".png'
    path.write_bytes(png(40, 30))
    pixels = np.zeros((30, 40, 3), dtype=np.uint8)
    with path.open("rb") as opened:
        given: list[Any] = [path, str(path), path.read_bytes(), data_url(png(40, 30)), opened, pixels]
        given += [Image.fromarray(pixels), sensorium.Source.of(path)]
        for one in given:
            assert client.classify(one).image.width == 40


def test_every_task_answers_as_it_does_here(client: Client) -> None:
    for task in ("classify", "read", "describe_pixels"):
        here = getattr(sensorium, task)(jpeg(), model="fake")
        there = getattr(client, task)(jpeg(), model="fake")
        assert type(there) is type(here)
        assert there.model_copy(update={"meta": here.meta}) == here
    assert client.analyze(jpeg(), parts=("classify", "read")).failures == {}


def test_the_fields_of_a_request_arrive(client: Client) -> None:
    assert len(client.classify(jpeg(), top_k=1).labels) == 1
    assert client.analyze(jpeg(), parts=("read",)).classify is None
    client.describe_pixels(jpeg(seed=77))
    assert client.describe_pixels(jpeg(seed=77)).meta.cached
    assert not client.describe_pixels(jpeg(seed=77), cache=False).meta.cached


def test_a_list_gives_results_and_errors_in_order(client: Client) -> None:
    sources: list[Any] = [jpeg(), "nowhere.jpg", 17, jpeg()[:60], png()]
    assert [type(one) for one in client.classify(sources)] == [
        Classification,
        FileMissing,
        InvalidRequest,
        CorruptMedia,
        Classification,
    ]


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (UnknownModel, {"model": "bref"}, "Did you mean brief"),
        (Overloaded, {"model": "busy"}, "busy"),
        (EngineFailed, {"model": "broken"}, "broken"),
        (DeadlineExceeded, {"model": "slow", "timeout": 0.2}, "Allow more time"),
        (InvalidRequest, {"top_k": 0}, "`top_k`"),
    ],
)
def test_errors_come_back_as_their_own_class(
    client: Client, kind: type[SensoriumError], fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        client.classify(jpeg(), **fields)
    assert type(caught.value) is kind
    assert caught.value.code == kind.code


def test_a_file_that_the_server_finds_too_large_is_told_so(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InputTooLarge, match=r"large\.bmp is too large"):  # its own limit for a file
        client.classify(_file(tmp_path / "large.bmp", bitmap(1200)))
    with pytest.raises(InputTooLarge, match="The body is too large"):  # refused before all of it is sent
        client.classify(_file(tmp_path / "huge.bmp", bytes(30_000_000)))
    assert client.classify(jpeg()).labels


def test_what_is_no_regular_file_is_not_opened(client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileMissing, match="a folder"):
        client.classify(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FileMissing, match="regular"):
            client.classify(tmp_path / "pipe")


def test_a_url_is_fetched_by_the_server_under_its_own_rules(client: Client) -> None:
    with pytest.raises(ForbiddenAddress, match="private"):
        client.classify("http://127.0.0.1:9/cat.jpg")


async def test_verbs_can_be_awaited_and_many_at_once(server: Server) -> None:
    async with aio.connect(server.url) as client:
        assert isinstance(client, AsyncClient)
        results = await asyncio.gather(*(client.classify(jpeg(seed=seed)) for seed in range(20)))
        assert len(await client.read([jpeg(), png()])) == 2
    assert all(result.labels for result in results)
    with pytest.raises(ServiceClosed):
        await client.classify(jpeg())


def test_many_threads_share_a_client(client: Client) -> None:
    results: list[object] = []
    work = [
        threading.Thread(target=lambda seed=seed: results.append(client.classify(jpeg(seed=seed)))) for seed in range(8)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(results) == 8


def test_a_client_outlives_the_background_loop_but_not_its_own_close(client: Client) -> None:
    assert client.classify(jpeg()).labels
    sensorium.close()
    assert client.classify(jpeg()).labels
    client.close()
    client.close()
    with pytest.raises(ServiceClosed, match="Connect again"):
        client.classify(jpeg())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_client_works_again_after_a_fork(server: Server) -> None:
    script = (
        "import os, sensorium\n"
        "from tests.pictures import jpeg\n"
        f"client = sensorium.connect({server.url!r})\n"
        "client.classify(jpeg())\n"
        "child = os.fork()\n"
        # In one write: `print` takes two, and those of parent and child may mix.
        "os.write(1, (client.classify(jpeg()).meta.engine + chr(10)).encode())\n"
        "if child: print(os.waitpid(child, 0)[1])\n"
    )
    done = _python("-W", "ignore", "-c", script, cwd=Path(__file__).parents[2])
    assert sorted(done.stdout.split()) == ["0", "fake@1", "fake@1"], done.stderr


def test_a_script_that_closes_nothing_ends_in_silence(server: Server, tmp_path: Path) -> None:
    _file(tmp_path / "a.jpg", jpeg())
    script = f"import sensorium; sensorium.connect({server.url!r}).classify('a.jpg')"
    done = _python("-W", "error", "-c", script, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_client_loads_no_models_and_no_service(server: Server, tmp_path: Path) -> None:
    _file(tmp_path / "a.jpg", jpeg())
    script = (
        f"import sensorium, sys; sensorium.connect({server.url!r}).classify('a.jpg')\n"
        "print([n for n in ('numpy', 'onnxruntime', 'sensorium.service', 'sensorium.server') if n in sys.modules])"
    )
    assert _python("-c", script, cwd=tmp_path).stdout == "[]\n"


def test_a_notebook_draws_what_was_sent(client: Client) -> None:
    html = client.read(jpeg())._repr_html_()
    assert html
    assert "data:image/jpeg;base64," in html


def test_every_task_is_offered_with_its_help(client: Client) -> None:
    assert {"classify", "read", "analyze", "close"} <= set(dir(client))
    assert client.classify.__doc__ == sensorium.classify.__doc__
    with pytest.raises(AttributeError, match="clasify"):
        _ = client.clasify  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"url": "localhost:8000"}, "such as http://host:8000"),
        ({"url": "http://"}, "such as http://host:8000"),
        ({"url": "http://me:secret@host"}, "names a user"),
        ({"url": "http://host:99999"}, "`url`"),
        ({"url": "http://host?key=secret"}, "must end with its path"),
        ({"url": "http://host", "key": "secret\nX: y"}, "`key`"),
        ({"url": "http://host", "timeout": 0}, "`timeout`"),
        ({"url": "http://host", "retries": -1}, "`retries`"),
        ({"url": "http://host", "connections": 0}, "`connections`"),
        ({"url": "http://host", "ca": "nowhere.pem"}, "`ca`"),
        ({"url": "http://host", "ca": __file__}, "PEM"),
    ],
)
def test_a_wrong_option_is_named_and_no_key_is_told(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidConfiguration, match=words) as caught:
        sensorium.connect(**fields)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_client_never_shows_its_key() -> None:
    with sensorium.connect("http://host:8000/", "secret") as client:
        assert repr(client) == "Client('http://host:8000')"
        assert "secret" not in repr(client.server)


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _python(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=60)
