"""The command line and the server, with a model that is added as users add it."""

from __future__ import annotations

import base64
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.cli.conftest import Sensorium, home, lines, sensorium
from tests.pictures import jpeg
from tests.server.conftest import Server, running
from tests.torch.tiny import CONTEXT, installed

__all__ = ["home", "sensorium"]

CHOICES = ("--max-tokens", "8", "--temperature", "0")


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SENSORIUM_DEVICE", "cpu")
    monkeypatch.setenv("SENSORIUM_THREADS", "1")
    (home / "a.jpg").write_bytes(jpeg(96, 64))
    return home


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, qwen25: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    installed(folder / "models", "tiny", qwen25)
    with running(folder, device="cpu", threads=1, preload=["tiny"], models={"ask": ["tiny"]}) as started:
        yield started


def test_a_downloaded_folder_is_added_and_answers(
    sensorium: Sensorium, at_home: Path, tmp_path: Path, qwen3: Path
) -> None:
    told = sensorium("models", "add", "Tiny", qwen3, "--licence", "MIT")
    assert told.exit_code == 0, told.output
    assert 'sensorium ask photo.jpg "What is this?" --model tiny' in told.stdout
    folder = tmp_path / "models" / "tiny"
    card = tomllib.loads((folder / "card.toml").read_text(encoding="utf-8"))
    assert (card["kind"], card["tasks"], card["licence"]) == ("transformers", ["ask"], "MIT")
    assert (folder / card["weights"]["file"]).samefile(qwen3 / "model.safetensors")
    done = sensorium("ask", "a.jpg", "What is this?", "--model", "tiny", *CHOICES)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().isalpha()
    (listed,) = [line for line in lines(sensorium("engines", "--json")) if line["model"] == "tiny@1"]
    assert listed["state"] == "ready"


def test_what_is_known_of_a_model_need_not_be_told(
    sensorium: Sensorium, at_home: Path, tmp_path: Path, qwen3: Path
) -> None:
    assert sensorium("models", "add", "qwen3-vl-4b", qwen3).exit_code == 0
    card = tomllib.loads((tmp_path / "models" / "qwen3-vl-4b-instruct" / "card.toml").read_text(encoding="utf-8"))
    assert (card["name"], card["licence"], card["origin"]) == (
        "qwen3-vl-4b-instruct",
        "Apache-2.0",
        "Alibaba Cloud, Qwen/Qwen3-VL-4B-Instruct",
    )
    done = sensorium("ask", "a.jpg", "What is this?", "--model", "qwen3-vl-4b", "--json", *CHOICES)
    (answer,) = lines(done)
    assert answer["result"]["meta"]["usage"]["cost"] == 0


def test_another_takes_its_place_when_forced_and_leaves_no_files(
    sensorium: Sensorium, at_home: Path, tmp_path: Path, qwen3: Path, qwen25: Path
) -> None:
    folder = tmp_path / "models" / "tiny"
    assert sensorium("models", "add", "tiny", qwen3).exit_code == 0
    (first,) = [path for path in folder.iterdir() if path.is_dir()]
    assert sensorium("models", "add", "tiny", qwen25).exit_code == 2
    assert sensorium("models", "add", "tiny", qwen25, "--force").exit_code == 0
    (second,) = [path for path in folder.iterdir() if path.is_dir()]
    assert first != second
    assert sorted(path.name for path in folder.iterdir()) == ["card.toml", second.name]


def test_code_and_pickles_are_left_behind(sensorium: Sensorium, at_home: Path, tmp_path: Path, copy: Path) -> None:
    for name in ("modeling_tiny.py", "pytorch_model.bin", "README.md"):
        (copy / name).write_bytes(b"\x80")
    assert sensorium("models", "add", "tiny", copy).exit_code == 0
    (folder,) = [path for path in (tmp_path / "models" / "tiny").iterdir() if path.is_dir()]
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".jinja", ".safetensors"}


@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), (), "there is no config.json"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            (),
            "pytorch_model.bin is a pickle",
        ),
        (lambda folder: (folder / "chat_template.jinja").unlink(), (), "no chat template"),
        (lambda folder: None, ("--labels", "x.txt", "--input-size", "8"), "takes no `--labels`, `--size`"),
    ],
)
def test_a_folder_that_cannot_be_used_is_not_added(
    sensorium: Sensorium, at_home: Path, tmp_path: Path, copy: Path, spoil: Any, words: tuple[str, ...], said: str
) -> None:
    spoil(copy)
    told = sensorium("models", "add", "tiny", copy, *words)
    assert told.exit_code == 2
    assert said in " ".join(told.stderr.split())
    assert not (tmp_path / "models" / "tiny").exists()


def test_words_are_written_as_they_come(sensorium: Sensorium, at_home: Path, tmp_path: Path, qwen3: Path) -> None:
    installed(tmp_path / "models", "tiny", qwen3)
    whole = sensorium("ask", "a.jpg", "What is this?", "--model", "tiny", *CHOICES)
    streamed = sensorium("ask", "a.jpg", "What is this?", "--model", "tiny", "--stream", *CHOICES)
    assert streamed.exit_code == 0, streamed.output
    assert streamed.stdout == whole.stdout


def test_the_server_answers_whole_and_as_a_stream(server: Server) -> None:
    told: dict[str, Any] = {"image": data_url(), "prompt": "What is this?", "max_tokens": 8, "temperature": 0}
    whole = requests.post(f"{server.url}/v1/ask", json=told, timeout=30).json()
    assert whole["meta"]["usage"]["output_tokens"] == 8
    assert whole["ending"] == "length"
    fresh = {**told, "prompt": "What is that?"}
    streamed = requests.post(f"{server.url}/v1/ask", json=fresh, headers={"Accept": "text/event-stream"}, timeout=30)
    again = requests.post(f"{server.url}/v1/ask", json=fresh, timeout=30).json()
    deltas = [json.loads(line[6:])["text"] for line in streamed.text.splitlines() if line.startswith('data: {"text"')]
    assert len(deltas) == 8
    assert "".join(deltas) == again["text"]


def test_the_classic_clients_route_answers_whole_and_as_a_stream(server: Server) -> None:
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": data_url()}}]
    told: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": 8,
        "temperature": 0,
    }
    whole = requests.post(f"{server.url}/v1/chat/completions", json=told, timeout=30).json()
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 8
    streamed = requests.post(f"{server.url}/v1/chat/completions", json={**told, "stream": True}, timeout=30)
    chunks = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    words = [one["delta"].get("content") or "" for chunk in chunks for one in chunk["choices"]]
    assert "".join(words) == choice["message"]["content"]
    assert streamed.text.rstrip().endswith("data: [DONE]")


def test_a_question_that_is_too_long_is_the_callers_fault(server: Server) -> None:
    told: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "x" * CONTEXT}]}
    refused = requests.post(f"{server.url}/v1/chat/completions", json=told, timeout=30)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"


def data_url() -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(96, 64)).decode()}"
