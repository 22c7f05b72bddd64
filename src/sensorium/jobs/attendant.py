"""Sees to what is left to do when jobs have ended: removes their files, and calls those who want to hear of it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from sensorium.errors import StorageFailed
from sensorium.jobs.webhooks import Webhooks
from sensorium.stores.files import Files
from sensorium.stores.jobs import Job, JobStore
from sensorium.telemetry import TELEMETRY

LOOK_SECONDS = 1.0
"""How often it looks for jobs that have ended."""

AT_ONCE = 64
"""Jobs that are seen to at the same time: one that is slow to call holds up no other."""

OF_ONE_OWNER = 8
"""How many of these are one owner's before others' go first: who has slow receivers waits for them alone."""

LEASE_SECONDS = 60.0
"""For how long a job is one attendant's own: longer than a call takes at most. Who dies in a call leaves it to others then."""

log = logging.getLogger("sensorium.jobs")


class Attendant:
    """One of those who look after the jobs of a store. Each job is seen to by one of them at a time."""

    def __init__(self, store: JobStore, files: Files, webhooks: Webhooks, *, keeps_inputs: bool) -> None:
        self._store, self._files, self._webhooks, self._keeps_inputs = store, files, webhooks, keeps_inputs
        self._hands: dict[asyncio.Task[None], str] = {}

    async def run(self) -> None:
        """Until it is cancelled; calls that are under way then are made again later."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for hand in self._hands:
                hand.cancel()
            await asyncio.gather(*self._hands, return_exceptions=True)

    async def _look(self) -> None:
        try:
            while room := min(OF_ONE_OWNER, AT_ONCE - len(self._hands)):
                busy = [owner for owner, hands in Counter(self._hands.values()).items() if hands >= OF_ONE_OWNER]
                jobs = await self._store.unattended(room, LEASE_SECONDS, busy)
                for job in jobs:
                    hand = asyncio.create_task(self._attend_to(job))
                    self._hands[hand] = job.owner
                    hand.add_done_callback(self._hands.pop)
                if len(jobs) < room:
                    return
        except StorageFailed as error:
            log.error("%s", error)  # noqa: TRY400 - a sentence

    async def _attend_to(self, job: Job) -> None:
        try:
            emptied = bool(job.inputs) and not self._keeps_inputs
            if emptied:
                await asyncio.to_thread(self._files.remove, job.id)
            called = await self._webhooks.call(job) if job.webhook else None
            await self._store.attended(job.id, called, emptied=emptied)
        except StorageFailed as error:  # it is seen to again, for its lease runs out
            log.error("%s", error)  # noqa: TRY400 - a sentence
            return
        if called:
            outcome = "delivered" if not called.fault else "given_up" if called.after is None else "failed"
            TELEMETRY.webhook_calls[outcome].add()
