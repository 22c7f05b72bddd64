"""Clients that ask a server again and again while something else happens to it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import requests

from tests.pictures import jpeg
from tests.server.conftest import PATIENCE, eventually


class Load:
    """What the clients have heard so far."""

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()
        """How often each name was the answer; of a failure its status and body."""
        self.latest = ""

    def hear(self, answer: requests.Response) -> None:
        said = answer.json()["labels"][0]["name"] if answer.ok else f"{answer.status_code} {answer.text}"
        self.heard[said] += 1
        self.latest = said

    def says(self, name: str, seconds: float = PATIENCE) -> bool:
        """Whether the answers become this."""
        return eventually(lambda: self.latest == name, seconds)


@contextmanager
def asking(url: str, model: str, clients: int = 8) -> Iterator[Load]:
    """So many keep-alive clients, each with one request after another, and never an answer from memory."""
    load, over, failures = Load(), threading.Event(), list[BaseException]()

    def ask(seed: int) -> None:
        try:
            with requests.Session() as session:
                while not over.is_set():
                    how = {"model": model, "cache": "false", "top_k": "1"}
                    headers = {"Content-Type": "image/jpeg"}
                    load.hear(
                        session.post(f"{url}/v1/classify", jpeg(seed=seed), params=how, headers=headers, timeout=30)
                    )
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failures, failures
