"""What a gateway costs: our server between clients and a provider that answers at once, beside the thinnest proxy.

All contestants stay loaded and take turns; those that wait stand still. Ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import base64
import json
import os
import statistics
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.gateway.contestants import Gateway, litellm, sensorium, thin, upstream
from benchmarks.gateway.streams import listen
from benchmarks.serving.client import closed_loop
from benchmarks.serving.measures import quantile

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = float(os.environ.get("SECONDS_A_TURN", "2"))
CLIENTS = 64
LOOK_SECONDS = 0.05
PICTURE, LARGE = 219_000, 1_500_000
"""Bytes that base64 makes 292 kB, and 2 MB, of."""

GOALS = {
    "text_of_thin": 0.5,
    "picture_of_thin": 0.5,
    "added_p50_ms": 2.0,
    "first_chunk_added_p50_ms": 3.0,
    "chunks_per_second": 20_000,
    "idle_mib": 150,
    "large_pictures_mib": 450,
    "of_litellm": 25,
}
AT_MOST = {"added_p50_ms", "first_chunk_added_p50_ms", "idle_mib", "large_pictures_mib"}


def jpeg(size: int) -> str:
    """A data URL of a picture that stays as it is: a small JPEG, made as long as wanted by comments."""
    import numpy as np
    import simplejpeg

    data = simplejpeg.encode_jpeg(np.zeros((768, 1024, 3), np.uint8), quality=85)
    filler, longest = b"", 65_533
    while len(data) + len(filler) < size:
        count = min(longest, max(size - len(data) - len(filler) - 4, 2))
        filler += b"\xff\xfe" + (count + 2).to_bytes(2, "big") + os.urandom(count).replace(b"\xff", b"\x00")
    return "data:image/jpeg;base64," + base64.b64encode(data[:2] + filler + data[2:]).decode()


def asking(url: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]


class Measured:
    """One contestant's figures, turn by turn."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.text: list[float] = []
        self.picture: list[float] = []
        self.alone: list[float] = []
        self.first: list[float] = []
        self.chunks: list[float] = []
        self.cpu: list[float] = []
        self.errors = 0
        self.idle_mib = self.large_mib = 0.0

    def turn(self, picture: str) -> None:
        gateway = self.gateway
        cpu = gateway.cpu_seconds()
        load = closed_loop(gateway.port, [gateway.request("What is this?")], clients=CLIENTS, seconds=SECONDS)
        self.cpu.append(1000 * (gateway.cpu_seconds() - cpu) / max(1, len(load.answers)))
        self.text.append(len(load.answers) / SECONDS)
        self._count(load)
        load = closed_loop(gateway.port, [gateway.request(asking(picture))], clients=CLIENTS, seconds=SECONDS)
        self.picture.append(len(load.answers) / SECONDS)
        self._count(load)
        load = closed_loop(gateway.port, [gateway.request("What is this?")], clients=1, seconds=SECONDS / 2)
        self.alone.append(1000 * quantile([answer.seconds for answer in load.answers], 0.5))
        slow = gateway.request("chunks=20 gap_ms=10", stream=True)
        heard = listen(gateway.port, [slow] * 8, seconds=SECONDS)
        self.first.append(1000 * quantile(heard.first_seconds, 0.5))
        self.errors += heard.broken
        quick = gateway.request("chunks=500 gap_ms=0", stream=True)
        heard = listen(gateway.port, [quick] * 8, seconds=SECONDS)
        self.chunks.append(heard.pieces / heard.elapsed)
        self.errors += heard.broken

    def large(self, picture: str) -> None:
        """Memory with so many large pictures at once, at its most."""
        self.idle_mib = self.gateway.pss_mib()
        over = threading.Event()
        watching = threading.Thread(target=self._watch_memory, args=(over,))
        watching.start()
        load = closed_loop(self.gateway.port, [self.gateway.request(asking(picture))], clients=CLIENTS, seconds=SECONDS)
        over.set()
        watching.join()
        self._count(load)

    def _watch_memory(self, over: threading.Event) -> None:
        while not over.wait(LOOK_SECONDS):
            self.large_mib = max(self.large_mib, self.gateway.pss_mib())

    def line(self) -> dict[str, Any]:
        return {
            "contestant": self.gateway.name,
            "text_per_second": round(statistics.median(self.text), 1),
            "cpu_ms": round(statistics.median(self.cpu), 3),
            "picture_per_second": round(statistics.median(self.picture), 1),
            "one_client_p50_ms": round(statistics.median(self.alone), 2),
            "first_chunk_p50_ms": round(statistics.median(self.first), 2),
            "chunks_per_second": round(statistics.median(self.chunks)),
            "idle_mib": round(self.idle_mib),
            "large_pictures_mib": round(self.large_mib),
            "errors": self.errors,
        }

    def _count(self, load: Any) -> None:
        self.errors += sum(answer.status != 200 for answer in load.answers)


def figures(by_name: dict[str, Measured]) -> dict[str, Any]:
    ours, least, direct = by_name["sensorium"], by_name["thin"], by_name["direct"]

    def ratio(mine: list[float], theirs: list[float]) -> float:
        return round(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)), 3)

    def added(mine: list[float], theirs: list[float]) -> float:
        return round(statistics.median(a - b for a, b in zip(mine, theirs, strict=True)), 2)

    told = {
        "text_of_thin": ratio(ours.text, least.text),
        "picture_of_thin": ratio(ours.picture, least.picture),
        "added_p50_ms": added(ours.alone, direct.alone),
        "first_chunk_added_p50_ms": added(ours.first, direct.first),
        "chunks_per_second": round(statistics.median(ours.chunks)),
        "idle_mib": round(ours.idle_mib),
        "large_pictures_mib": round(ours.large_mib),
        "errors": ours.errors,
    }
    if "litellm" in by_name:
        told["of_litellm"] = ratio(ours.text, by_name["litellm"].text)
    return told


def met(reached: dict[str, Any]) -> bool:
    return not reached["errors"] and all(
        reached[name] <= goal if name in AT_MOST else reached[name] >= goal
        for name, goal in GOALS.items()
        if name in reached
    )


def main() -> int:
    os.environ |= {"SENSORIUM_MAX_UPLOAD_BYTES": "200000000"}
    with tempfile.TemporaryDirectory() as spare, ExitStack() as stack:

        def started(gateway: Gateway) -> Gateway:
            stack.callback(gateway.close)
            return gateway

        direct = started(upstream())
        behind = f"http://127.0.0.1:{direct.port}"
        others = [thin(behind), sensorium(behind, Path(spare)), litellm(behind, Path(spare) / "litellm")]
        everyone = [Measured(direct), *(Measured(started(other)) for other in others if other)]
        picture, large = jpeg(PICTURE), jpeg(LARGE)
        for one in everyone[1:]:
            one.gateway.rest()
        for number in range(ROUNDS + 1):
            for one in everyone:
                if one.gateway is not direct:
                    one.gateway.wake()
                one.turn(picture) if number < ROUNDS else one.large(large)
                if one.gateway is not direct:
                    one.gateway.rest()
        for one in everyone:
            print(json.dumps(one.line()), flush=True)
        reached = figures({one.gateway.name: one for one in everyone})
    reached_all = met(reached)
    print(json.dumps({"bench": "gateway", "figures": reached, "goals": GOALS, "met": reached_all}))
    return 0 if reached_all else 1


if __name__ == "__main__":
    sys.exit(main())
