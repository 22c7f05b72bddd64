"""A provider that answers at once, and what stands before it: nothing, the thinnest proxy, our server, LiteLLM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving import machine
from benchmarks.serving.client import ask_each
from benchmarks.serving.contestants import free_port, new_key

PEERS = Path(__file__).with_name("peers")
PEERS_BIN = Path(os.environ.get("PEERS_BIN", ".venv-gateway-peers/bin")).absolute()
READY_SECONDS = 60
MODEL = "mock"

CARD = """name = "mock"
kind = "openai"
tasks = ["ask"]
licence = "NOASSERTION"
remote = true

[limits]
requests_per_minute = 100000000
tokens_per_minute = 1000000000000
concurrent = 10000

[quirks]
base_url = "{upstream}/v1"
key = "BENCH_KEY"
model = "mock"
"""
"""Limits that are kept, and never reached."""


@dataclass
class Gateway:
    """One process, or none: `direct` is the provider itself."""

    name: str
    command: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    key: str = ""

    def __post_init__(self) -> None:
        environment = {**os.environ, **self.environment}
        self._process = subprocess.Popen(
            self.command,
            env=environment,
            cwd=PEERS,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait()

    def request(self, content: object, *, stream: bool = False) -> bytes:
        """A question as the official clients send it."""
        asked = {"model": MODEL, "messages": [{"role": "user", "content": content}], "stream": stream}
        body = json.dumps(asked, separators=(",", ":")).encode()
        lines = [
            "POST /v1/chat/completions HTTP/1.1",
            "Host: 127.0.0.1",
            *([f"Authorization: Bearer {self.key}"] if self.key else []),
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def rest(self) -> None:
        os.killpg(self._process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)

    def cpu_seconds(self) -> float:
        return machine.cpu_seconds(self._process.pid)

    def pss_mib(self) -> float:
        return machine.pss_mib(self._process.pid)

    def close(self) -> None:
        self.wake()
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _wait(self) -> None:
        end = time.monotonic() + READY_SECONDS
        while True:
            try:
                if all(answer.status == 200 for answer, _ in ask_each(self.port, [self.request("hello")] * 2)):
                    return
            except OSError:
                pass
            if self._process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{self.name} does not answer: run `{' '.join(self.command)}` in {PEERS} to see why")
            time.sleep(0.1)


def _granian(app: str, port: int) -> list[str]:
    how = ["--interface", "asginl", "--port", str(port), "--no-access-log", "--log-level", "warning"]
    return [str(PEERS_BIN / "granian"), *how, app]


def upstream() -> Gateway:
    port = free_port()
    return Gateway("direct", _granian("upstream:app", port), port)


def thin(behind: str) -> Gateway:
    port = free_port()
    return Gateway("thin", _granian("thin:app", port), port, {"BENCH_UPSTREAM": behind})


def sensorium(behind: str, home: Path) -> Gateway:
    """As it comes but for the cache, asking for a key, with limits and usage on."""
    models = home / "models"
    models.mkdir(parents=True)
    (models / "mock.toml").write_text(CARD.format(upstream=behind))
    os.environ |= {"SENSORIUM_MODELS_DIR": str(models), "SENSORIUM_DATA_DIR": str(home / "data")}
    port = free_port()
    environment = {
        "SENSORIUM_CACHE": "off",
        "SENSORIUM_AUTH": "on",
        "SENSORIUM_RUNNING": "10000",
        "SENSORIUM_CACHE_DIR": str(home / "cache"),
        "BENCH_KEY": "none",
    }
    command = [sys.executable, "-m", "sensorium", "serve", "--port", str(port)]
    return Gateway("sensorium", command, port, environment, new_key())


def litellm(behind: str, home: Path) -> Gateway | None:
    """None where it is not installed."""
    program = PEERS_BIN / "litellm"
    if not program.exists():
        return None
    home.mkdir(parents=True, exist_ok=True)
    model = {
        "model_name": MODEL,
        "litellm_params": {"model": "openai/mock", "api_base": f"{behind}/v1", "api_key": "x"},
    }
    (home / "litellm.json").write_text(json.dumps({"model_list": [model]}))
    port = free_port()
    command = [str(program), "--config", str(home / "litellm.json"), "--port", str(port), "--num_workers", "1"]
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": "sk-1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return Gateway("litellm", command, port, environment, "sk-1")
