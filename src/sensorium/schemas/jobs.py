"""A job as a server tells of it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from sensorium.schemas.base import Frozen

JobState = Literal["waiting", "running", "done", "failed", "cancelled"]
"""`failed`: no item has a result. What has an end stays as it is."""

OutcomeState = Literal["done", "failed", "dead"]
"""`dead`: given up, for it ended its worker again and again."""

ENDED: frozenset[JobState] = frozenset({"done", "failed", "cancelled"})


class JobProgress(Frozen):
    """How many items a job has, and what became of them."""

    total: int = Field(ge=0)
    settled: int = Field(ge=0)
    """Items that have an outcome."""
    done: int = Field(ge=0)
    """Items with a result."""
    failed: int = Field(ge=0)
    """Items with an error."""
    dead: int = Field(ge=0)
    """Items that were given up, because their worker died of them."""


class WebhookCall(Frozen):
    """Whether a job's webhook has been told of its end."""

    state: Literal["waiting", "delivered", "failed"]
    calls: int = Field(ge=0)
    error: str | None = None
    """Why the last call failed."""


MOST_ITEMS = 1000
"""Of one job: they are read on the server's event loop, and written in one transaction."""


class JobInfo(Frozen):
    """A job as it stands."""

    id: str
    """32 hex digits."""
    task: str
    state: JobState
    priority: int = 0
    progress: JobProgress
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    expires: datetime | None = None
    """When it will be forgotten; None while it has not ended."""
    webhook: str | None = None
    webhook_call: WebhookCall | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in ENDED
