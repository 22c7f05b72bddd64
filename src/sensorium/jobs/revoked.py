"""Calls off the jobs of keys that were revoked: what was handed in with a stolen key must not go on at its owner's cost."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time

from sensorium.errors import InvalidConfiguration, StorageFailed
from sensorium.schemas.jobs import JobState
from sensorium.stores.jobs import JobStore
from sensorium.stores.keys import Keys

LOOK_SECONDS = 2.0
"""How often it is looked which keys were revoked."""

LATE_SECONDS = 10.0
"""For how long after it was revoked a key's jobs are looked for: another process may have let one in meanwhile."""

AT_ONCE = 1000
"""Jobs that are called off before it is looked whether there are more."""

UNDER_WAY: tuple[JobState, ...] = ("waiting", "running")

log = logging.getLogger("sensorium.jobs")


class Revocations:
    """Looks after the jobs of a store that were handed in with keys. One that expires ends no job."""

    def __init__(self, keys: Keys, store: JobStore) -> None:
        self._keys, self._store = keys, store
        self._since = float("-inf")

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self._look()
            except (sqlite3.Error, InvalidConfiguration, StorageFailed) as error:
                log.error("It cannot be seen whether jobs are of revoked keys: %s", error)  # noqa: TRY400 - a sentence
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        """At all keys at first, later at those that were revoked since."""
        now, keys = time.time(), await self._keys.every()
        in_use = {key.name for key in keys if key.revoked is None}
        gone = {key.name for key in keys if key.revoked is not None and key.revoked >= self._since}
        for name in gone - in_use:
            await self._call_off(name)
        self._since = now - LATE_SECONDS

    async def _call_off(self, owner: str) -> None:
        count = 0
        for state in UNDER_WAY:
            while jobs := await self._store.listed(owner, state, None, AT_ONCE):
                for job in jobs:
                    await self._store.cancel(job.id, owner)
                count += len(jobs)
        if count:
            log.warning("The key %s was revoked: %d of its jobs were called off", owner, count)
