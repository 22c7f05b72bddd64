"""Calls that tell of a job's end, signed by the scheme of Standard Webhooks, and made again for hours when they fail.

    POST /hook HTTP/1.1
    webhook-id: job_4bf92f3577b34da6a3ce929d0e0e4736
    webhook-timestamp: 1795281113
    webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=

    {"type": "job.done", "timestamp": "2026-11-21T17:11:53.000Z", "data": {"id": "...", "state": "done", ...}}

Each owner of jobs has a secret, derived of the server's own key: none can write what another takes for a call of ours.
A URL is a stranger's text, so a call is guarded as a fetched picture is (`media/fetch.py`), and follows no redirect.
Source: https://github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from pydantic_core import to_json

from sensorium.config import Settings
from sensorium.errors import FetchFailed, ForbiddenAddress, SensoriumError
from sensorium.jobs.telling import about, moment
from sensorium.media.fetch import Resolve, allowed_addresses, parsed, reason_of, session_to, system_resolve
from sensorium.media.source import public_url
from sensorium.stores.jobs import Called, Job
from sensorium.stores.sealing import derived

PURPOSE = "webhooks"

PAUSES = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0)
"""Before each further call, in seconds: the first steps of the schedule that the specification proposes, 17.6 hours in all."""

CALL_SECONDS = 15.0
"""How long a call may take: the specification's 15 to 30."""

CHECK_SECONDS = 2.0
"""How long a submission waits to see where its webhook leads."""

GONE = 410
"""The receiver wants no more calls."""

REFUSED = "Let the operator add the host to `allowed_hosts`"

log = logging.getLogger("sensorium.jobs")


class Webhooks:
    """Calls webhooks, and signs what it says."""

    def __init__(
        self, settings: Settings, resolve: Resolve = system_resolve, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings, self._resolve, self._clock = settings, resolve, clock
        self._key: bytes | None = None

    async def secret(self, owner: str) -> str:
        """By which an owner checks calls: `whsec_` and base64 of 24 bytes. Raises InvalidConfiguration."""
        return f"whsec_{base64.b64encode(await self._secret(owner)).decode()}"

    async def check(self, url: str) -> None:
        """Raises ForbiddenAddress where a URL leads to an address that is not called on a stranger's behalf, InvalidRequest
        for what is no URL. One that cannot be looked up now is let pass: it may be there by the time of the call."""
        with contextlib.suppress(FetchFailed, TimeoutError):
            async with asyncio.timeout(CHECK_SECONDS):
                await self._addresses(url)

    async def call(self, job: Job) -> Called:
        """Tell the job's webhook of its end."""
        fault, again = await self._called(job)
        after = PAUSES[job.calls] * random.uniform(1.0, 1.1) if again and job.calls < len(PAUSES) else None  # noqa: S311
        if fault:
            more = "" if after is None else f"; the next call is in {after:.0f} s"
            log.warning("The webhook of job %s was not told: %s%s", job.id, fault, more)
        return Called(fault, after if fault else None)

    async def _called(self, job: Job) -> tuple[str, bool]:
        """Why the call failed, empty when it did not; and whether another may succeed."""
        import aiohttp

        try:
            async with asyncio.timeout(CALL_SECONDS):
                status = await self._posted(job)
        except TimeoutError:
            return f"no answer came within {CALL_SECONDS:g} s", True
        except ForbiddenAddress as error:
            return error.why, False
        except SensoriumError as error:
            return error.why or error.what, True
        except (aiohttp.ClientError, OSError, UnicodeError, ValueError) as error:
            return reason_of(error), True
        fault = "" if 200 <= status < 300 else f"the answer was {status}"
        return fault, status != GONE

    async def _posted(self, job: Job) -> int:
        """The answer's status: no more of the answer is read."""
        url, body = job.webhook or "", message(job)
        headers = self._headers(await self._secret(job.owner), f"job_{job.id}", body)
        what, addresses = await self._addresses(url)
        async with (
            session_to(parsed(url), what, addresses) as session,
            session.post(parsed(url), data=body, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status

    async def _addresses(self, url: str) -> tuple[str, list[str]]:
        what, allowed = f"Cannot call {public_url(url)}", tuple(self._settings.allowed_hosts)
        return what, await allowed_addresses(parsed(url), what, allowed, self._resolve, instead=REFUSED)

    def _headers(self, secret: bytes, identity: str, body: bytes) -> dict[str, str]:
        timestamp = str(int(self._clock()))
        return {
            "Content-Type": "application/json",
            "User-Agent": "sensorium",
            "webhook-id": identity,
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(secret, identity, timestamp, body),
        }

    async def _secret(self, owner: str) -> bytes:
        if self._key is None:
            settings = self._settings
            self._key = await asyncio.to_thread(derived, settings.sealing_key, settings.data_dir, PURPOSE)
        return hmac.digest(self._key, owner.encode(), "sha256")[:24]


def signature(secret: bytes, identity: str, timestamp: str, body: bytes) -> str:
    """As Standard Webhooks has it."""
    signed = hmac.digest(secret, b"%b.%b.%b" % (identity.encode(), timestamp.encode(), body), "sha256")
    return f"v1,{base64.b64encode(signed).decode()}"


def message(job: Job) -> bytes:
    """What a call says: the same in each try."""
    told: dict[str, Any] = {
        name: value for name, value in about(job).items() if name not in ("webhook", "webhook_call")
    }
    links = {"job": f"/v1/jobs/{job.id}", "events": f"/v1/jobs/{job.id}/events"}
    return to_json({"type": f"job.{job.state}", "timestamp": moment(job.ended), "data": {**told, "links": links}})
