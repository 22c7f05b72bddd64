"""What callers are told of a job, wherever they hear of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sensorium.stores.jobs import Job


def about(job: Job) -> dict[str, Any]:
    """A job as JSON-ready fields."""
    moments = {name: moment(getattr(job, name)) for name in ("created", "started", "ended", "expires")}
    return {
        "id": job.id,
        "task": job.task,
        "state": job.state,
        "priority": job.priority,
        "progress": progress(job),
        **moments,
        "webhook": job.webhook,
        "webhook_call": call(job) if job.webhook else None,
    }


def progress(job: Job) -> dict[str, int]:
    return {"total": job.total, "settled": job.settled, "done": job.done, "failed": job.failed, "dead": job.dead}


def call(job: Job) -> dict[str, Any]:
    """How far the telling of its webhook has come."""
    waits = not job.over or job.attend_at is not None
    state = "waiting" if waits else "failed" if job.fault else "delivered"
    return {"state": state, "calls": job.calls, "error": job.fault or None}


def moment(seconds: float | None) -> str | None:
    """As RFC 3339 writes it."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
