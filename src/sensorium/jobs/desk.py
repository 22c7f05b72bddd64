"""Where jobs are handed in, looked up and called off: what every door to them uses."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sensorium.engine import Caller, Options
from sensorium.errors import SensoriumError, StorageFailed
from sensorium.jobs.work import Order
from sensorium.media.source import Source
from sensorium.schemas.base import Request
from sensorium.server.facades.native import item
from sensorium.stores.files import LEAST_CHARGED, Files
from sensorium.stores.jobs import Job, JobStore, Submission

FEW = 16
"""Orders that are written on the event loop: handing them to a thread would take longer."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One item of a job as it is asked for."""

    request: Request | SensoriumError
    """An error where it could not be read: its outcome."""
    options: Options = Options()  # noqa: RUF009 - frozen
    timeout: float | None = None
    """Seconds that it may take, from its turn on; None: as the settings say."""


class Desk:
    """Hands in to a store, and wakes who works for it: so many workers at most."""

    def __init__(self, store: JobStore, files: Files, wake: Callable[[int], None]) -> None:
        self.store = store
        self._files, self._wake = files, wake

    async def submit(
        self,
        wanted: Sequence[Wanted],
        caller: Caller,
        *,
        task: str,
        trace: str,
        priority: int = 0,
        key: str | None = None,
        webhook: str | None = None,
    ) -> Job:
        """The job, which is kept from now on; the earlier one where the caller sent the same with this key before.

        Raises what is wrong where nothing of it can be done, IdempotencyConflict, JobsFull, FilesFull, and StorageFailed when it
        cannot be kept: then nothing is left of it.
        """
        errors = [one.request for one in wanted if isinstance(one.request, SensoriumError)]
        if len(errors) == len(wanted):
            raise errors[0]
        draft = _Draft(secrets.token_hex(16), replace(caller, requests_per_minute=None), trace, self._files)
        try:
            aside = any(source.kind != "url" for one in wanted for source in _sources(one))
            write = draft.write_all
            orders = await asyncio.to_thread(write, wanted) if aside or len(wanted) > FEW else write(wanted)
            submission = Submission(
                id=draft.identity,
                owner=caller.name,
                task=task,
                orders=orders,
                outcomes={place: item(one.request, trace) for place, one in enumerate(wanted) if _is_wrong(one)},  # type: ignore[arg-type] # only errors
                priority=priority,
                key=key,
                digest=_digest(draft, task, orders) if key is not None else "",
                webhook=webhook,
                inputs=sum(draft.sizes.values()),
            )
            job = await self.store.submit(submission)
        except SensoriumError:
            await self._clear(draft.identity)
            raise
        if job.id == draft.identity:
            self._wake(len(orders))
        elif aside:
            await asyncio.to_thread(self._files.remove, draft.identity)
        return job

    async def _clear(self, identity: str) -> None:
        """Remove the inputs of a job that was not kept; where that is not known, the sweep for abandoned inputs sees to it."""
        with contextlib.suppress(StorageFailed):
            if await self.store.unknown([identity]):
                await asyncio.to_thread(self._files.remove, identity)

    async def cancel(self, identity: str, caller: Caller) -> Job:
        """End it. Raises UnknownJob and JobGone."""
        return await self.store.cancel(identity, caller.name)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A job while it is written. May block."""

    identity: str
    caller: Caller
    trace: str
    files: Files
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes, as they are counted, of each file that lies aside for it, by its sha256."""

    def write_all(self, wanted: Sequence[Wanted]) -> tuple[bytes, ...]:
        return tuple(self._write(one) for one in wanted)

    def _write(self, one: Wanted) -> bytes:
        """The order, its bytes put aside; empty for one that is wrong."""
        if isinstance(one.request, SensoriumError):
            return b"{}"
        order = Order.about(
            one.request.moved(self._aside),
            options=one.options,
            timeout=one.timeout,
            caller=self.caller,
            trace=self.trace,
            discreet=True,
        )
        return order.encoded()

    def _aside(self, source: Source) -> Source:
        if source.kind == "url":
            return source
        path, sha256 = self._adopted(source) or self._copied(source)
        self.sizes[sha256] = max(LEAST_CHARGED, path.stat().st_size)
        return Source.spooled(path, sha256, source.name)

    def _adopted(self, source: Source) -> tuple[Path, str] | None:
        """Of an upload nothing is copied, however often it is named."""
        if source.upload is None:
            return None
        path = self.files.adopt(self.identity, *source.upload)
        return (path, source.upload[1]) if path else None

    def _copied(self, source: Source) -> tuple[Path, str]:
        with source.open() as content:
            return self.files.put(self.identity, content)


def _is_wrong(one: Wanted) -> bool:
    return isinstance(one.request, SensoriumError)


def _sources(one: Wanted) -> Sequence[Source]:
    return () if isinstance(one.request, SensoriumError) else tuple(one.request.sources())


def _digest(draft: _Draft, task: str, orders: Sequence[bytes]) -> str:
    """Of what is asked: the job's id, in the places of its files, and the trace are another each time."""
    digest = hashlib.sha256(task.encode())
    for order in orders:
        digest.update(order.replace(draft.identity.encode(), b"").replace(draft.trace.encode(), b"") + b"\n")
    return digest.hexdigest()
