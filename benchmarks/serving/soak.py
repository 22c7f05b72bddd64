"""Good, bad, cut, slow and leaving clients for a quarter of an hour: the server lives, does not fail, and does not grow.

SOAK_MINUTES sets how long. The files are those of the test data's folder `bad` where it is at hand, and damage made here.
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from benchmarks import classify
from benchmarks.serving import contestants, machine, models
from benchmarks.serving.client import BOUNDARY, ask_each, upload

MINUTES = float(os.environ.get("SOAK_MINUTES", "15"))
SENDERS = 8
WARM_SHARE = 0.25
"""Of the time: until caches, pools and the heap have their size."""
LOOK_SECONDS = 2.0
GROWTH_MIB = 20.0
FIT_TO_FAIL = {501, 504}
"""Not installed here, and no answer in time: true where they are told."""
UPLOAD_SECONDS = 5
LEFT, NO_ANSWER = "left", "no answer"
"""What became of a request whose sender did not wait, and of one that got none."""


@dataclass
class Soak:
    """What is sent, and what came of it."""

    port: int
    key: str
    good: Sequence[bytes]
    bad: Sequence[bytes]
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    mib: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send_until(self, end: float, seed: int) -> None:
        """One sender: one thing after another, chosen at random."""
        chance = random.Random(seed)  # noqa: S311 - the same soak each time
        names = list(WAYS)
        while time.monotonic() < end:
            (name,) = chance.choices(names, [WAYS[name][1] for name in names])
            try:
                outcome = str(WAYS[name][0](self, chance))
            except (OSError, HTTPException):
                outcome = NO_ANSWER
            with self.lock:
                self.outcomes[name, outcome] += 1

    def post(self, path: str, body: bytes, kind: str) -> int:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=90)) as connection:
            headers = {"Content-Type": kind, **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status

    def raw(self, path: str, picture: bytes) -> bytes:
        """A whole request as bytes, for those who send it badly."""
        return upload(path, picture, key=self.key)


def form(*pictures: bytes, field_name: str = "image") -> tuple[bytes, str]:
    head = b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    parts = [head % (BOUNDARY, field_name.encode()) + picture + b"\r\n" for picture in pictures]
    return b"".join(parts) + b"--%b--\r\n" % BOUNDARY, f"multipart/form-data; boundary={BOUNDARY.decode()}"


def good(soak: Soak, chance: random.Random) -> int:
    return soak.post(_task(chance), *form(chance.choice(soak.good)))


def classic(soak: Soak, chance: random.Random) -> int:
    return soak.post("/predict", *form(chance.choice([*soak.good, *soak.bad]), field_name="file"))


def several(soak: Soak, chance: random.Random) -> int:
    return soak.post("/v1/classify", *form(*(chance.choice([*soak.good, *soak.bad[:20]]) for _ in range(5))))


def bad_file(soak: Soak, chance: random.Random) -> int:
    return soak.post(_task(chance), chance.choice(soak.bad), "application/octet-stream")


def damaged(soak: Soak, chance: random.Random) -> int:
    """A photograph with some bytes changed, or cut off."""
    picture = bytearray(chance.choice(soak.good))
    for _ in range(chance.randrange(1, 20)):
        picture[chance.randrange(len(picture))] = chance.randrange(256)
    return soak.post(_task(chance), *form(bytes(picture[: chance.randrange(1, 2 * len(picture))])))


def nonsense(soak: Soak, chance: random.Random) -> int:
    body = bytes(chance.randbytes(chance.randrange(5000)))
    kind = chance.choice(["application/json", "multipart/form-data; boundary=x", "text/plain", "image/png", ""])
    return soak.post(chance.choice([_task(chance), "/predict", "/nothing"]), body, kind)


def cut_upload(soak: Soak, chance: random.Random) -> str:
    """The sender dies in the middle of its body."""
    request = soak.raw(_task(chance), chance.choice(soak.good))
    with socket.create_connection(("127.0.0.1", soak.port), timeout=30) as connection:
        connection.sendall(request[: chance.randrange(1, len(request))])
    return LEFT


def leaving(soak: Soak, chance: random.Random) -> str:
    """The sender goes away rudely while its answer is worked out."""
    with socket.create_connection(("127.0.0.1", soak.port), timeout=30) as connection:
        connection.sendall(soak.raw(_task(chance), chance.choice(soak.good)))
        connection.settimeout(chance.random() / 20)
        with suppress(TimeoutError):
            connection.recv(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return LEFT


def slow(soak: Soak, chance: random.Random) -> int:
    """In eight pieces over up to twice the time that is allowed."""
    request = soak.raw("/v1/classify", chance.choice(soak.good))
    pause = chance.random() * 2 * UPLOAD_SECONDS / 8
    with socket.create_connection(("127.0.0.1", soak.port), timeout=90) as connection:
        step = len(request) // 8 + 1
        for start in range(0, len(request), step):
            connection.sendall(request[start : start + step])
            if select.select([connection], [], [], pause)[0]:  # refused: sending on would lose what is told
                break
        return int(connection.recv(12)[9:12])


WAYS: dict[str, tuple[Callable[[Soak, random.Random], int | str], float]] = {
    "good": (good, 30),
    "classic": (classic, 8),
    "several": (several, 5),
    "bad file": (bad_file, 20),
    "damaged": (damaged, 20),
    "nonsense": (nonsense, 8),
    "cut upload": (cut_upload, 5),
    "leaving": (leaving, 5),
    "slow": (slow, 1),
}
"""What a sender may do, and how often."""


def _task(chance: random.Random) -> str:
    """Reading takes a hundred times as long as the others."""
    (name,) = chance.choices(["classify", "describe_pixels", "analyze", "read"], [10, 6, 1, 1])
    return f"/v1/{name}"


def soaked(server: contestants.Server, good_pictures: Sequence[bytes], bad_files: Sequence[bytes]) -> Soak:
    soak = Soak(server.port, server.key, good_pictures, bad_files)
    end = time.monotonic() + 60 * MINUTES
    senders = [threading.Thread(target=soak.send_until, args=(end, seed), daemon=True) for seed in range(SENDERS)]
    for sender in senders:
        sender.start()
    while time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
        soak.mib.append(machine.rss_mib(server.pid))
    for sender in senders:
        sender.join()
    return soak


def figures(soak: Soak, server: contestants.Server) -> dict[str, Any]:
    by_way: dict[str, dict[str, int]] = {}
    for (way, outcome), count in sorted(soak.outcomes.items()):
        by_way.setdefault(way, {})[outcome] = count
    failed = {
        f"{way}: {outcome}": count
        for (way, outcome), count in soak.outcomes.items()
        if outcome == NO_ANSWER or (outcome.isdecimal() and int(outcome) >= 500 and int(outcome) not in FIT_TO_FAIL)
    }
    settled = soak.mib[int(WARM_SHARE * len(soak.mib)) :]
    fifth, tenth = max(len(settled) // 5, 1), len(soak.mib) / 10
    answers = ask_each(server.port, server.requests[:4]) if server.alive else []
    return {
        "minutes": MINUTES,
        "sent": sum(soak.outcomes.values()),
        "outcomes": by_way,
        "failed": failed,
        "rss_mib_by_tenth": [
            round(max(soak.mib[int(start * tenth) : int((start + 1) * tenth) + 1])) for start in range(10)
        ],
        "rss_mib_growth": round(statistics.median(settled[-fifth:]) - statistics.median(settled[:fifth]), 1),
        "answers_afterwards": bool(answers) and all(answer.status == 200 for answer, _ in answers),
    }


def bad_files() -> list[bytes]:
    """Of the test data, but for the largest; and some that are always at hand."""
    named = os.environ.get("SENSORIUM_TEST_DATA")
    data = Path(named) if named else Path(__file__).parents[3] / "shared" / "data"
    found = [path for path in sorted((data / "bad").rglob("*")) if path.is_file() and path.stat().st_size < 2_000_000]
    return [
        b"",
        b"no picture",
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        *(path.read_bytes() for path in found),
    ]


def main() -> int:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: contestants.CORES])
    os.environ["SENSORIUM_UPLOAD_SECONDS"] = str(UPLOAD_SECONDS)
    with tempfile.TemporaryDirectory() as spare:
        contestants.at_home(Path(spare))
        pictures = classify.pictures(Path(spare))
        with closing(contestants.sensorium(models.fp32(), pictures)) as server:
            soak = soaked(server, [path.read_bytes() for path in pictures[:50]], bad_files())
            told = figures(soak, server)
    met = not told["failed"] and told["rss_mib_growth"] <= GROWTH_MIB and told["answers_afterwards"]
    goals = {"failed": {}, "rss_mib_growth": GROWTH_MIB, "answers_afterwards": True}
    print(json.dumps({"bench": "soak", "figures": told, "goals": goals, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
