"""A batch from its command to its summary."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sensorium.batch.estimate import Estimate, estimate, sample_of
from sensorium.batch.feeder import Feeder
from sensorium.batch.files import Files
from sensorium.batch.hands import CHUNK, Chunk, Hands, Plan, as_error, error_outcome
from sensorium.batch.inputs import Inputs, Item, again, together, typed
from sensorium.batch.journal import Journal, Line, cost_of
from sensorium.batch.on_ray import RayHands
from sensorium.batch.on_server import ServerHands
from sensorium.client import Server
from sensorium.client.wire import manner_of
from sensorium.config import Settings
from sensorium.engine import Card, Options
from sensorium.errors import (
    FileMissing,
    InvalidConfiguration,
    InvalidInput,
    InvalidRequest,
    SensoriumError,
    TooExpensive,
    every_error,
)
from sensorium.jobs.work import Order
from sensorium.layers.stack import is_elsewhere
from sensorium.schemas.base import Request, checked
from sensorium.service import Sensorium
from sensorium.telemetry import new_trace

HANDFUL = 64
"""Inputs that are handed over by the thread that finds them."""

MOST_HELD = 1000
"""Outcomes on standard output that wait for one before them."""

OF_ALL = {
    "budget_spent",
    "device_unavailable",
    "forbidden",
    "invalid_configuration",
    "invalid_model",
    "missing_dependency",
    "missing_key",
    "model_not_installed",
    "provider_denied",
    "reload_failed",
    "remote_forbidden",
    "unauthenticated",
    "unknown_model",
    "unknown_task",
    "unseeing",
}
"""Codes of errors that every further input would meet: they end the batch, rather than being told of each input."""


@dataclass(frozen=True)
class Batch:
    """What is to be done, and how."""

    inputs: Inputs
    task: str
    fields: dict[str, Any]
    """Of the task's requests, but for the picture."""
    output: str
    """A path, or `-` for standard output."""
    format: str
    settings: Settings
    options: Options = field(default_factory=Options)
    timeout: float | None = None
    at_once: int | None = None
    """Inputs under way; None: as many as keep everything busy."""
    keep_order: bool = False
    restart: bool = False
    retry_failed: bool = False
    max_cost: float | None = None
    """In US dollars, of all answers of the batch together."""
    on: str = "here"
    """Where the work is done: `here`, or `ray`, which may be followed by a colon and the address of a cluster."""
    server: Server | None = None
    """Does the work in place of this machine."""


State = Literal["complete", "stopped", "cost"]
"""Of a run: all is done; whoever ran it stopped it; going on could cost more than is allowed."""


@dataclass(frozen=True)
class Summary:
    """What became of a batch."""

    state: State
    done: int
    """Inputs with a result, of this and all earlier runs."""
    failed: dict[str, int]
    """Inputs with an error, by its code."""
    worked_on: int
    """Inputs of this run."""
    seconds: float
    cost: float
    """In US dollars, of this and all earlier runs."""
    output: str
    failures: str | None
    """The file of the failed ones."""


Progress = Callable[[int, int], None]
"""Told how many are done, failed ones too, and how many of them failed; of this and all earlier runs."""


def ignore(done: int, failed: int) -> None:
    """The progress of a batch that nobody watches."""


@asynccontextmanager
async def opened(batch: Batch, progress: Progress = ignore) -> AsyncIterator[Running]:
    """The batch, ready to go on from what earlier runs of the same command did.

    Raises what keeps it from going on: InvalidConfiguration, OutputFailed, or what every request would meet.
    """
    batch.inputs.check()
    _check_place(batch)
    async with Sensorium(batch.settings) as service:
        request = _template(service, batch)
        files = Files(Path(batch.output), batch.format) if batch.output != "-" else None
        if files is None:
            journal = Journal(None, None)
        else:
            _refuse_inside(batch, files.output)
            journal = files.begin(_command(batch), restart=batch.restart, retry_failed=batch.retry_failed)
        with closing(journal):
            yield Running(batch, service, request, files, journal, progress)


class Running:
    """One run of a batch."""

    def __init__(
        self,
        batch: Batch,
        service: Sensorium,
        request: Request,
        files: Files | None,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._batch, self._service, self._request = batch, service, request
        self._files, self._journal, self.progress = files, journal, progress
        self._template = Order.about(request, options=batch.options, timeout=batch.timeout)
        self._first = request.source_fields()[0]
        self._card = None if batch.server else service.first_asked(batch.task, request.model)
        self.is_paid = _is_paid(service, batch, self._card)
        """Whether answers may cost money by their tokens, and how much can be known before."""
        self._may_cost = self.is_paid or (batch.server is not None and _asks(service, batch))
        self._is_held_back = files is None and batch.keep_order
        noted = files.noted() if files else []
        self._again = [str(one["image"]) for one in noted]
        self._spent = journal.spent + sum(float(one["cost"]) for one in noted)
        counts = journal.counts()
        self.seen = self._before = sum(counts.values())
        """Inputs that are done, failed ones too, of this and all earlier runs."""
        self.failed = self.seen - counts.get(None, 0)
        self.stopping = False
        self._state: State = "complete"
        self._turn = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._under_way: dict[str, Item] = {}
        self._held: dict[int, Line | None] = {}
        self._next = 0
        self._dear: list[Item] = []
        """Inputs that were too expensive while others were under way: asked again when there are none."""
        self._alone: str | None = None
        """Such a one, by its id, while it is asked again."""
        self._estimate: Estimate | None = None
        self._hands: Hands | RayHands | ServerHands | None = None
        self._feed: Feeder | None = None

    async def estimate(self) -> Estimate | None:
        """What is left will take and cost; None where that is not known, or nothing is paid."""
        if self.is_paid and not self._batch.inputs.is_live:
            sample = await asyncio.to_thread(sample_of, self._batch.inputs)
            sample.count = max(0, sample.count - self.seen)
            self._estimate = await estimate(self._service, sample, self._batch.fields)
        return self._estimate

    async def work(self) -> Summary:
        """Do what is left. Raises OutputFailed, WorkerDied, FileMissing where there is nothing to do at all, and errors
        that every further input would meet."""
        self._check_cost()
        if self._batch.keep_order:
            self._journal.forget_places()
        start = time.monotonic()
        items = together(self._batch.inputs, again(self._again))
        self._feed = Feeder(items, 1 if self._batch.inputs.is_live else HANDFUL)
        self._hands = self._new_hands()
        try:
            await self._hands.work()
        finally:
            self._feed.end()
            await self._hands.close()
        if self._held:
            self._write([], whole=True)
        if self.stopping:
            self._state = "stopped"
        elif self.seen == 0:
            words = ", ".join(self._batch.inputs.words)
            raise FileMissing("There is nothing to do", why=f"no picture was found in {words}", fix="Check the inputs")
        summary = self._sum_up(time.monotonic() - start)
        if self._files and not self.stopping:
            await asyncio.to_thread(self._files.finish, self._journal, keep_order=self._batch.keep_order)
        return summary

    def stop(self) -> None:
        """Begin nothing further; what is under way is waited for."""
        self.stopping = True
        if self._hands and self._feed:
            self._hands.stopping = True
            self._feed.end()

    def _new_hands(self) -> Hands | RayHands | ServerHands:
        batch = self._batch
        if batch.server:
            manner = manner_of(batch.options, batch.timeout)
            return ServerHands(batch.server, self._asked, self._take, self._settle, batch.at_once, manner)
        where, _, address = batch.on.partition(":")
        if where == "here":
            return Hands(self._plan(), self._order, self._take, self._settle)
        return RayHands(self._plan(), self._order, self._take, self._settle, batch.at_once, address or None)

    def _asked(self, item: Item) -> Request:
        fields = {**self._template.request, self._first: item.source}
        return checked(type(self._request), fields, self._batch.task, trusted=True)

    def _plan(self) -> Plan:
        settings, at_once = self._batch.settings, self._batch.at_once
        seconds = (self._batch.timeout or settings.timeout_seconds) * self._request.patience()
        if self._card is not None and is_elsewhere(self._card):
            return Plan(1, at_once or self._service.at_once(self._request), 1, settings, seconds, computes=False)
        processes = (
            1 if _needs_one_process(self._service, self._card) else min(settings.threads, at_once or settings.threads)
        )
        own = share(settings, processes, at_once)
        most = min(CHUNK, -(-at_once // processes)) if at_once else CHUNK
        return Plan(processes, 1 if at_once else 2, most, own, seconds, computes=True)

    def _order(self, item: Item) -> bytes:
        options = self._batch.options
        if self._batch.max_cost is not None and self._estimate is not None:
            others = (len(self._under_way) - 1) * self._estimate.most_cost_each
            options = replace(options, max_cost=max(0.0, self._batch.max_cost - self._spent - others))
        request = {**self._template.request, self._first: item.source}
        return self._template.altered(request=request, options=options, trace=new_trace()).encoded()

    async def _take(self, most: int) -> Chunk:
        """Up to so many inputs that are not done; those that are nothing are settled here."""
        assert self._feed is not None  # noqa: S101 - hands take while it works
        async with self._turn:
            while not self.stopping:
                if self._dear:
                    return await self._dear_one()
                room = await self._room(self._feed, most)
                if room:
                    found = await self._feed.take(room)
                    chunk = await self._not_done(found)
                    if chunk or not found:
                        return chunk
                elif not self._dear:
                    break
        return []

    async def _dear_one(self) -> Chunk:
        """One that was too expensive beside others, once there are none: then all the money that is left is for it."""
        item = self._dear.pop()
        async with self._changed:
            await self._changed.wait_for(lambda: not self._under_way)
        if self.stopping:
            return []
        self._alone, self._under_way[item.id] = item.id, item
        return [item]

    def _put_off(self, item: Item) -> None:
        """It would cost more than is left."""
        del self._under_way[item.id]
        if self._alone == item.id:
            self._state = "cost"
        else:
            self._dear.append(item)

    async def _room(self, feed: Feeder, most: int) -> int:
        """How many more may begin, as far as money goes, and memory for those that wait for one before them."""
        if self._state == "cost":
            return 0
        while (left := self._affordable()) <= 0 or self._alone in self._under_way or len(self._held) >= MOST_HELD:
            if self._dear:
                return 0
            if not self._under_way:
                self._state = "cost" if await feed.more() else self._state
                return 0
            async with self._changed:
                await self._changed.wait()
        return min(most, left)

    async def _not_done(self, found: Chunk) -> Chunk:
        done = self._journal.done([item.id for item in found])
        if done and self._batch.keep_order:
            self._journal.place((item.id, item.ordinal) for item in found if item.id in done)
        chunk: Chunk = []
        for item in found:
            if item.id in done or item.id in self._under_way:
                self._skip(item)
                continue
            self._under_way[item.id] = item
            if isinstance(item.source, SensoriumError):
                await self._settle([item], [error_outcome(item.source)])
            else:
                chunk.append(item)
        return chunk

    def _skip(self, item: Item) -> None:
        """It was there before."""
        if self._is_held_back:
            self._held[item.ordinal] = None
            self._write([])

    def _affordable(self) -> int:
        if self._batch.max_cost is None or self._estimate is None:
            return CHUNK
        each = max(self._estimate.most_cost_each, 1e-9)
        return int((self._batch.max_cost - self._spent) / each + 1e-6) - len(self._under_way)

    async def _settle(self, items: Chunk, told: Iterable[bytes]) -> None:
        lines, ending = [], None
        for item, outcome in zip(items, told, strict=True):
            line = self._line(item, outcome)
            if line.code in OF_ALL:
                ending = as_error(json.loads(outcome)["error"])
            elif line.code == TooExpensive.code and self._batch.max_cost is not None:
                self._put_off(item)
            else:
                lines.append(line)
        self._write(lines)
        async with self._changed:
            self._changed.notify_all()
        if ending:
            raise ending

    def _line(self, item: Item, outcome: bytes) -> Line:
        code = str(json.loads(outcome)["error"]["code"]) if outcome.startswith(b'{"error"') else None
        cost = cost_of(outcome) if self._may_cost else 0.0
        if code and not cost and self._estimate and _may_have_cost(code):
            cost = self._estimate.input_cost_each
        return Line(item.id, outcome, item.ordinal, code, cost)

    def _write(self, lines: list[Line], *, whole: bool = False) -> None:
        """`whole`: with all that is still held back, for one before it that will not come."""
        if self._is_held_back:
            lines = self._released(lines)
        if whole:
            lines += [line for _, line in sorted(self._held.items()) if line is not None]
        self._journal.append(lines)
        failed = [line for line in lines if line.code]
        if failed and self._files:
            self._files.tell_failures(failed)
        self.seen += len(lines)
        self.failed += len(failed)
        self._spent += sum(line.cost for line in lines)
        for line in lines:
            self._under_way.pop(line.id, None)
        self.progress(self.seen, self.failed)

    def _released(self, lines: list[Line]) -> list[Line]:
        """Those that nothing before them is still waited for."""
        self._held.update((line.ordinal, line) for line in lines)
        free = []
        while self._next in self._held:
            if (line := self._held.pop(self._next)) is not None:
                free.append(line)
            self._next += 1
        return free

    def _check_cost(self) -> None:
        if self._batch.max_cost is None:
            return
        if self._batch.inputs.is_live and self.is_paid:
            fix = "Save the list to a file, and give it as @list.txt"
            raise InvalidRequest("--max-cost needs an estimate, and standard input can be read only once", fix=fix)
        elsewhere = self._card is not None and self._card.remote
        if elsewhere and (self._estimate is None or self._estimate.most_cost is None):
            fix = "Set `prices`, as docs/settings.md says, or leave --max-cost out"
            raise InvalidRequest("--max-cost needs a price, and none is known of this model", fix=fix)

    def _sum_up(self, seconds: float) -> Summary:
        counts = self._journal.counts()
        done = counts.pop(None, 0)
        return Summary(
            self._state,
            done=done,
            failed={str(code): number for code, number in sorted(counts.items(), key=lambda one: -one[1])},
            worked_on=self.seen - self._before,
            seconds=seconds,
            cost=self._spent,
            output=self._batch.output,
            failures=str(self._files.failures) if self._files and counts else None,
        )


def _is_paid(service: Sensorium, batch: Batch, card: Card | None) -> bool:
    return card is not None and (card.remote or bool(batch.settings.prices)) and _asks(service, batch)


def _asks(service: Sensorium, batch: Batch) -> bool:
    """Whether the task asks a model that counts tokens."""
    asked = service.registry.task(batch.task)
    return "ask" in (asked.name, asked.asks)


def share(settings: Settings, processes: int, at_once: int | None) -> Settings:
    """What each process is told: its part of the cores, and of the pixels."""
    threads = max(1, settings.threads // processes)
    # An item for each core: more of them bought nothing (measured).
    running = max(1, -(-at_once // processes)) if at_once else threads
    pixels = max(settings.max_pixels, settings.pixel_budget // processes)
    return settings.model_copy(update={"threads": threads, "running": running, "pixel_budget": pixels})


def _needs_one_process(service: Sensorium, card: Card | None) -> bool:
    """Whether the model is too large to be loaded by each of several processes, or lies on a graphics card."""
    device = service.settings.device
    if device.startswith("cuda") or (device == "auto" and _has_gpu_build()):
        return True
    return card is not None and "torch" in service.registry.kinds[card.kind].REQUIRES


def _has_gpu_build() -> bool:
    with suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version("onnxruntime-gpu"))
    return False


def _template(service: Sensorium, batch: Batch) -> Request:
    """A request such as all will be. Raises what would keep every one from being asked."""
    kind = service.registry.task(batch.task).request
    if kind.gathers or not kind.source_fields():
        raise InvalidRequest(
            f"`{batch.task}` is not asked about one picture after the other", fix="Choose another task"
        )
    place = {"path": "picture"}
    request = checked(kind, {**batch.fields, kind.source_fields()[0]: place}, batch.task, trusted=True)
    if batch.server is None:
        service.check(request)
    return request


def _check_place(batch: Batch) -> None:
    """Raises InvalidRequest where what is asked for is kept by this process alone."""
    if batch.server is not None and batch.on != "here":
        raise InvalidRequest("--on and --server name two places for the work", fix="Leave one of them out")
    if batch.max_cost is not None and (batch.server is not None or batch.on != "here"):
        fix = "Leave it out; on a server, the budget of your key holds" if batch.server else "Leave --on out"
        raise InvalidRequest("--max-cost is kept on this machine only", fix=fix)
    if batch.on == "here":
        return
    if batch.keep_order and batch.output == "-":
        fix = "Name a file by -o, or leave --keep-order out"
        raise InvalidRequest("Results cannot be put in order on standard output with --on ray", fix=fix)


def _refuse_inside(batch: Batch, output: Path) -> None:
    """Raises InvalidConfiguration where the output would lie among the inputs."""
    place = output.resolve()
    for folder in batch.inputs.folders():
        if place.is_relative_to(folder.resolve()):
            fix = "Name an output elsewhere by -o"
            raise InvalidConfiguration(f"{output} would lie in {folder}, which is only read", fix=fix)


def _command(batch: Batch) -> dict[str, Any]:
    """What makes a command another one."""
    fields = Order(task=batch.task, request=batch.fields).encoded()
    return {
        "task": batch.task,
        "fields": json.loads(fields).get("request", {}),
        "inputs": [os.fsencode(word).decode(errors="backslashreplace") for word in typed(batch.inputs.words)],
        "column": batch.inputs.column,
        "recursive": batch.inputs.recursive,
        "format": batch.format,
        "folder": str(Path.cwd()),
    }


def _may_have_cost(code: str) -> bool:
    """Whether a model may have been asked before it failed so."""
    return not any(kind.code == code and issubclass(kind, InvalidInput) for kind in every_error())
