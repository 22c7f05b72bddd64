"""Where jobs are kept, and in which line they wait, as the settings say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import from_json

from sensorium.config import Settings
from sensorium.errors import InvalidConfiguration
from sensorium.registry import Registry
from sensorium.stores.files import Files
from sensorium.stores.jobs import JobStore
from sensorium.stores.jobs_redis import RedisJobs
from sensorium.stores.jobs_sqlite import FILE, SqliteJobs

QUEUE, GRAPHICS = "sensorium.", ".gpu"
"""A queue is named `sensorium.<task>`; that of models for graphics cards ends in `.gpu`."""


class Place(NamedTuple):
    """A folder with the jobs, and another in it with their inputs."""

    database: Path
    inputs: Path


def place_of(settings: Settings) -> Place:
    folder = settings.jobs_dir or settings.data_dir / "jobs"
    return Place(folder / FILE, folder / "inputs")


def open_jobs(settings: Settings) -> tuple[JobStore, Files]:
    """Both open their files when they are first used."""
    if settings.jobs == "celery":
        return open_shared(settings)
    place = place_of(settings)
    store = SqliteJobs(
        place.database,
        kept_seconds=settings.job_kept_seconds,
        attempts=settings.job_attempts,
        most_open=settings.jobs_per_key,
        quota=settings.job_quota_bytes,
    )
    return store, Files(place.inputs)


def open_shared(settings: Settings) -> tuple[RedisJobs, Files]:
    """Those that several machines share. Raises InvalidConfiguration where no Redis is named."""
    url = settings.jobs_redis_url or settings.redis_url
    if url is None:
        raise InvalidConfiguration(
            "Jobs have no Redis to be kept in", why='`jobs` is "celery"', fix="Set `jobs_redis_url`"
        )
    store = RedisJobs(
        url.get_secret_value(),
        kept_seconds=settings.job_kept_seconds,
        attempts=settings.job_attempts,
        most_open=settings.jobs_per_key,
        quota=settings.job_quota_bytes,
        line_of=line_of(settings),
    )
    return store, Files(place_of(settings).inputs)


def queue_of(task: str, *, graphics: bool = False) -> str:
    """The queue, and the line of work in the store, of a task's items."""
    return f"{QUEUE}{task}{GRAPHICS if graphics else ''}"


def line_of(settings: Settings) -> Callable[[bytes], str]:
    """Tells the line of an order."""
    graphics = frozenset(settings.celery_gpu_models)

    def line(order: bytes) -> str:
        fields = from_json(order)
        task = fields.get("task", "")
        return queue_of(task, graphics=bool(graphics) and _model(settings, task, fields["request"]) in graphics)

    return line


def _model(settings: Settings, task: str, request: Mapping[str, Any]) -> str | None:
    """The model that is asked first."""
    named = request.get("model") or next(iter(settings.models.get(task, ())), None)
    return named or next(iter(Registry().task(task).defaults), None)
