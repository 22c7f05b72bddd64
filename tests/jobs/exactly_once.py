"""Jobs while whatever has to do with them is killed: every item ends exactly once, and none is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests

from sensorium.jobs.attendant import LEASE_SECONDS
from tests.pictures import jpeg
from tests.server.conftest import PATIENCE, Server, eventually
from tests.server.test_jobs import ended, submit
from tests.server.wire import data_url

ITEMS = 10
WIDTHS = [20 + place for place in range(ITEMS)]
PICTURES = [data_url(jpeg(width=width)) for width in WIDTHS]

MOMENTS = 20
"""At how many of them something is killed."""
LEASE = 2.0

DEADLY = 13
"""The width of a picture that ends the process which looks at it, where the model is `deadly`."""
DEADLY_QUIRKS = f"deadly_width = {DEADLY}"


class Client:
    """Hands in jobs until each is taken, whatever becomes of the server, and knows which it handed in."""

    def __init__(self, model: str, *, refused_with: int | None = None) -> None:
        """The server may refuse a job with that status: it is handed in again."""
        self._model, self._refused_with = model, refused_with
        self.open: list[str] = []
        self.taken: dict[str, str] = {}

    def submit(self, server: Server, count: int) -> None:
        self.open += [f"key {len(self.taken) + len(self.open) + number}" for number in range(count)]
        asked = [{"image": one, "model": self._model} for one in PICTURES]
        while self.open:
            key = self.open[0]
            try:
                answer = submit(server, *asked, idempotency_key=key)
            except requests.ConnectionError:
                return  # the next server is asked again, with the same key
            if answer.status_code == self._refused_with:
                assert answer.json()["error"]["code"] == "storage_failed"
                return
            assert answer.status_code == 202, answer.text
            self.taken[key] = answer.json()["id"]
            del self.open[0]

    def check(self, server: Server, folder: Path) -> None:
        """Every job has been taken once, every item has ended once, and nothing is left of them in the server's folder."""
        assert not self.open
        for identity in self.taken.values():
            _check_done(ended(server, identity, 120))
        listed = requests.get(f"{server.url}/v1/jobs", params={"limit": "1000"}, timeout=30).json()["jobs"]
        assert sorted(job["id"] for job in listed) == sorted(self.taken.values()), "and no job twice"
        # Who was killed while it removed them has left them to others, for when its lease is over.
        inputs = folder / "data" / "jobs" / "inputs"
        assert eventually(lambda: not list(inputs.iterdir()), LEASE_SECONDS + PATIENCE)


def _check_done(job: Any) -> None:
    assert (job["state"], job["progress"]["done"]) == ("done", ITEMS), job
    told = {one["index"]: one["result"]["image"]["width"] for one in job["outcomes"]}
    assert len(job["outcomes"]) == len(told) == ITEMS
    assert [told[place] for place in range(ITEMS)] == WIDTHS


def check_that_one_deadly_item_spoils_no_other(server: Server) -> None:
    """Where the model `deadly` has its quirks."""
    poisoned = submit(server, *[_deadly(width) for width in (20, DEADLY, 30)]).json()["id"]
    others = [submit(server, {"image": PICTURES[0], "model": "fake"}).json()["id"] for _ in range(20)]
    alone = submit(server, _deadly(DEADLY)).json()["id"]
    for identity in others:
        assert ended(server, identity, 60)["state"] == "done"
    job = ended(server, poisoned, 60)
    assert job["progress"] == {"total": 3, "settled": 3, "done": 2, "failed": 0, "dead": 1}
    told = {one["index"]: one for one in job["outcomes"]}
    assert (told[1]["state"], told[1]["error"]["code"]) == ("dead", "worker_died")
    job = ended(server, alone, 60)
    assert (job["state"], job["error"]["code"]) == ("failed", "worker_died")
    assert ended(server, submit(server, {"image": PICTURES[0], "model": "fake"}).json()["id"])["state"] == "done"


def _deadly(width: int) -> dict[str, str]:
    return {"image": data_url(jpeg(width=width)), "model": "deadly"}
