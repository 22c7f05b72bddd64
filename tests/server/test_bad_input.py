"""What clients get wrong, told on every route in its own shape: as a 4xx, with what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.pictures import encoded, png
from tests.server.conftest import Server
from tests.server.test_streams import talking
from tests.server.wire import data_url

MODELS = {"blind": "vision = false\n", "keyless": ""}
REMOTE = """name = "{name}"
kind = "openai"
tasks = ["ask"]
licence = "NOASSERTION"
{more}[quirks]
base_url = "http://127.0.0.1:9/v1"
key = "KEY_OF_NOBODY"
"""
LARGEST = 100_000
DEFAULTS = {"bad-name": "talkr", "no-key": "keyless", "no-eyes": "blind"}
"""Faults that classic routes can meet only where the settings are wrong, and the model that those name."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """By the model that they ask where none is named; started when first needed."""
    from contextlib import ExitStack

    class Servers(dict[str, Server]):
        def __missing__(self, model: str) -> Server:
            folder = tmp_path_factory.mktemp("bad")
            (folder / "models").mkdir()
            for name, more in MODELS.items():
                (folder / "models" / f"{name}.toml").write_text(REMOTE.format(name=name, more=more), encoding="utf-8")
            self[model] = stack.enter_context(talking(folder, models={"ask": [model]}, max_bytes=LARGEST))
            return self[model]

    with ExitStack() as stack:
        yield Servers()


def noise() -> bytes:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "PNG")


FAULTS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "bad-name": ({"model": "talkr"}, "unknown_model", ("talkr", "talker")),
    "no-key": ({"model": "keyless"}, "missing_key", ("KEY_OF_NOBODY",)),
    "no-eyes": ({"model": "blind"}, "unseeing", ("blind@1", "takes no pictures")),
    "too-large": ({"data": noise()}, "input_too_large", (f"{LARGEST:,}", "`max_bytes`", " has ")),
    "base64": ({"url": "data:image/png;base64,!!!not*base64"}, "invalid_base64", ("base64",)),
    "no-words": ({"prompt": ""}, "invalid_request", ("prompt",)),
}
"""What is sent otherwise than it should be, our code for it, and what the message must say."""

OPENAI_CODES = {"unknown_model": "model_not_found", "input_too_large": "image_too_large"}


def native(server: Server, model: str, url: str, prompt: str, data: bytes) -> requests.Response:
    sent = {"model": model, "prompt": prompt, "image": url}
    return requests.post(f"{server.url}/v1/ask", json=sent, timeout=10)


def openai(server: Server, model: str, url: str, prompt: str, data: bytes) -> requests.Response:
    shown: list[Any] = [{"type": "image_url", "image_url": {"url": url}}] if prompt else []
    parts: list[Any] = [{"type": "text", "text": prompt}, *shown]
    sent: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": parts}]}
    return requests.post(f"{server.url}/v1/chat/completions", json=sent, timeout=10)


def classic(server: Server, model: str, url: str, prompt: str, data: bytes) -> requests.Response:
    return requests.post(f"{server.url}/v1/analyze/image", json={"image_url": url, "prompt": prompt}, timeout=10)


def upload(server: Server, model: str, url: str, prompt: str, data: bytes) -> requests.Response:
    return requests.post(f"{server.url}/v1/analyze/upload", files={"file": ("a.png", data)}, timeout=10)


ROUTES = (native, openai, classic, upload)
CASES = [(ask, fault) for ask in ROUTES for fault in FAULTS if ask is not upload or fault not in ("base64", "no-words")]
"""A file is no text, and without a prompt it has one of its own."""


@pytest.mark.parametrize(("ask", "fault"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_what_is_wrong_is_a_4xx_in_the_shape_of_the_route(servers: dict[str, Server], ask: Any, fault: str) -> None:
    wrong, code, says = FAULTS[fault]
    data = wrong.get("data", png())
    sent = {"model": "talker", "url": data_url(data), "prompt": "What is this?", "data": data, **wrong}
    default = DEFAULTS.get(fault, "talker") if ask in (classic, upload) else "talker"
    told = ask(servers[default], **sent)
    assert 400 <= told.status_code < 500, told.text
    assert told.headers["Content-Type"] == "application/json"
    error = told.json()["error"]
    if ask is native:
        assert (error["code"], error["trace"]) == (code, told.headers["X-Request-Id"])
    if ask is openai:
        assert error["code"] == OPENAI_CODES.get(code, code)
        assert set(error) >= {"message", "type", "param", "code"}
    message = error if ask in (classic, upload) else error["message"]
    for part in says:
        assert part in message


@pytest.mark.parametrize("size", [130_000, 1_000_000])
@pytest.mark.parametrize("ask", ROUTES, ids=lambda ask: ask.__name__)
def test_of_a_picture_that_is_too_large_the_size_is_told(servers: dict[str, Server], ask: Any, size: int) -> None:
    data = png() + bytes(size)
    sent = ask(servers["talker"], "talker", data_url(data), "What is this?", data)
    assert sent.status_code == 413
    told = [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", sent.text)]
    assert any(size <= number <= 1.5 * size for number in told), sent.text


def test_words_alone_are_no_fault(servers: dict[str, Server], tmp_path: Path) -> None:
    """A model without vision is asked, and only then is its address without anybody behind it."""
    sent = {"model": "blind", "prompt": "Hello?"}
    told = requests.post(f"{servers['talker'].url}/v1/ask", json=sent, timeout=10).json()["error"]
    assert told["code"] == "missing_key"
