"""`--on ray`: the same work as a dataset of Ray, mapped by a pool of actors, on this machine or on a cluster.

Each actor has a process of its own for the work, as a batch on one machine has, so that an input that ends it is known and
told, and the actor lives on. Inputs go out by their names, so every machine must find them under the same.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from sensorium.batch.hands import CHUNK, Chunk, Hands, Plan, Settle, Take
from sensorium.batch.inputs import Item
from sensorium.config import WITH_SECRETS, exactly
from sensorium.dependencies import need
from sensorium.errors import SensoriumError, Unavailable, WorkerDied

if TYPE_CHECKING:
    from ray.data import Dataset

WINDOW = 20_000
"""Inputs of one dataset: its actors load their models anew, and it is held in memory by name and address."""

ROWS = 4 * CHUNK
"""That an actor is given at once, so that its process always has the next chunk in hand."""

BLOCKS_EACH = 4
"""Parts of a dataset for each actor, at least, so that none is left over for long at its end."""

STORE_BYTES = 200 * 2**20
"""Of memory shared by the processes of this machine: orders and outcomes are small."""

STARTING_SECONDS = 120
"""How long actors may take to come up before a cluster counts as too small."""


KNOCK_SECONDS = 5.0
"""How long a cluster may take to take a connection."""


class Doer:
    """Maps rows with a `place` and an `order` to rows with the place and its `outcome`."""

    def __init__(self, settings: bytes, **plan: Any) -> None:
        """`settings` as JSON; `plan` are the other fields of the actor's Plan."""
        self._loop = asyncio.new_event_loop()
        self._orders: list[bytes] = []
        self._outcomes: dict[int, bytes] = {}
        self._left: Iterator[Item] = iter(())
        own = Plan(processes=1, settings=exactly(from_json(settings)), **plan)
        self._hands = Hands(own, lambda item: self._orders[item.ordinal], self._take, self._settle)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        self._orders, self._outcomes = [bytes(order) for order in rows["order"]], {}
        self._left = (Item("", {}, number) for number in range(len(self._orders)))
        self._loop.run_until_complete(self._hands.work())
        return {"place": rows["place"], "outcome": [self._outcomes[number] for number in range(len(self._orders))]}

    async def _take(self, most: int) -> Chunk:
        return list(itertools.islice(self._left, most))

    async def _settle(self, items: Chunk, outcomes: Sequence[bytes]) -> None:
        self._outcomes.update((item.ordinal, outcome) for item, outcome in zip(items, outcomes, strict=True))


class RayHands:
    """Stands in for `Hands`. Must be closed."""

    def __init__(
        self,
        plan: Plan,
        order: Callable[[Item], bytes],
        take: Take,
        settle: Settle,
        actors: int | None,
        address: str | None,
    ) -> None:
        """`actors`: how many; None: one for each core of the cluster. `address`: of a cluster; None: as RAY_ADDRESS says,
        else this machine alone."""
        self._plan, self._order, self._take, self._settle = plan, order, take, settle
        self._actors, self._address = actors, address
        self.stopping = False
        """Whether what has no outcome yet is left."""

    async def work(self) -> None:
        """Until there is nothing to take.

        Raises MissingDependency without Ray; Unavailable when there is no cluster, or it fails; WorkerDied when no process
        lives, whatever it is given.
        """
        await asyncio.to_thread(self._join)
        while not self.stopping and (items := await self._window()):
            await self._work_on(items)

    async def close(self) -> None:
        """Leave the cluster; one on this machine alone ends."""
        ray = need("ray", for_what="work on Ray")
        await asyncio.to_thread(ray.shutdown)

    def _join(self) -> None:
        ray = need("ray", for_what="work on Ray")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to strangers
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong comes as an error too
        address = self._address or os.environ.get("RAY_ADDRESS") or "local"
        own: dict[str, Any] = {
            "num_cpus": self._actors or self._plan.processes,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
        try:
            _knock(address)
            ray.init(address, log_to_driver=False, logging_level="error", **(own if address == "local" else {}))
        except (OSError, RuntimeError, ValueError) as error:
            why = str(error).partition("\n")[0]
            raise Unavailable(
                "There is no cluster of Ray", why=why, fix="Check the address, and that it runs"
            ) from error
        need("ray.data", for_what="work on Ray")
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    async def _window(self) -> Chunk:
        items: Chunk = []
        while len(items) < WINDOW and (found := await self._take(CHUNK)):
            items += found
        return items

    async def _work_on(self, items: Chunk) -> None:
        with closing(self._outcomes(items)) as told:
            while not self.stopping and (block := await asyncio.to_thread(next, told, None)):
                await self._settle([items[place] for place, _ in block], [outcome for _, outcome in block])

    def _outcomes(self, items: Chunk) -> Generator[list[tuple[int, bytes]], None, None]:
        """The places of items and their outcomes, as they come. Runs in threads."""
        import ray.exceptions

        rows = [{"place": place, "order": self._order(item)} for place, item in enumerate(items)]
        try:
            for block in self._mapped(rows).iter_batches(batch_size=None, batch_format="numpy"):
                yield [
                    (int(place), bytes(outcome))
                    for place, outcome in zip(block["place"], block["outcome"], strict=True)
                ]
        except (ray.exceptions.RayError, OSError) as error:
            raise _ours(error) from error

    def _mapped(self, rows: list[dict[str, Any]]) -> Dataset:
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.wait_for_min_actors_s = STARTING_SECONDS
        actors = self._pool()
        blocks = max(1, min(len(rows), max(BLOCKS_EACH * actors, len(rows) // (4 * ROWS))))
        plan = self._plan
        graphics = plan.settings.device.startswith("cuda")
        return ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            Doer,
            fn_constructor_args=(plan.settings.model_dump_json(context=WITH_SECRETS).encode(),),
            fn_constructor_kwargs={
                "chunks": plan.chunks,
                "most": plan.most,
                "seconds": plan.seconds,
                "computes": plan.computes,
            },
            batch_size=ROWS if plan.computes else max(ROWS, plan.chunks),
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=1,
            num_gpus=1 if graphics else None,
        )

    def _pool(self) -> int:
        """How many actors there are: one alone for a model elsewhere, so that the limits of its provider are kept."""
        import ray

        if not self._plan.computes:
            return 1
        return self._actors or max(1, int(ray.cluster_resources().get("CPU", 1)))


def _knock(address: str) -> None:
    """Raises OSError where nothing listens: Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


def _ours(error: BaseException) -> SensoriumError:
    """What an actor met first, else what became of the cluster."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    if isinstance(error, SensoriumError):
        return error
    return WorkerDied("Ray could not go on", why=f"{type(error).__name__}: {error}".partition("\n")[0][:300])
