"""Where jobs are kept, as the settings say."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sensorium.config import Settings
from sensorium.stores.files import Files
from sensorium.stores.jobs import JobStore
from sensorium.stores.jobs_sqlite import FILE, SqliteJobs


class Place(NamedTuple):
    """A folder with the jobs, and another in it with their inputs."""

    database: Path
    inputs: Path


def place_of(settings: Settings) -> Place:
    folder = settings.jobs_dir or settings.data_dir / "jobs"
    return Place(folder / FILE, folder / "inputs")


def open_jobs(settings: Settings) -> tuple[JobStore, Files]:
    """Both open their files when they are first used."""
    place = place_of(settings)
    store = SqliteJobs(place.database, kept_seconds=settings.job_kept_seconds, attempts=settings.job_attempts)
    return store, Files(place.inputs)
