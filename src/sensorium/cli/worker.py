"""Work on the jobs of servers, through Celery."""

from __future__ import annotations

import sys
from typing import Any

import click

from sensorium import discovery
from sensorium.cli.options import Several, given, options_of
from sensorium.config import Settings, load_settings
from sensorium.errors import InvalidConfiguration

SHOWN = ("threads", "device", "log_format", "log_level", "models_dir")
"""The settings that are options too."""

EXAMPLE = """\b
Examples:
  sensorium worker
  sensorium worker --tasks classify,read --concurrency 2
  sensorium worker --queues sensorium.ask.gpu --device cuda:0

\b
Servers and workers share SENSORIUM_JOBS=celery, SENSORIUM_JOBS_REDIS_URL and the folder SENSORIUM_JOBS_DIR:
docs/jobs.md says more. All other settings come from the environment and the file, as for `sensorium serve`."""


def _work(
    tasks: tuple[tuple[str, ...], ...], queues: tuple[tuple[str, ...], ...], concurrency: int | None, **options: Any
) -> int:
    settings = load_settings(jobs="celery", **given(options))
    if sys.platform == "win32":
        raise InvalidConfiguration("Workers need Linux or macOS", why="Celery's processes cannot be forked on Windows")
    processes = concurrency or max(1, settings.job_workers)

    from sensorium.jobs.celery import queues_of, work_on
    from sensorium.registry import Registry

    named = [one.replace("-", "_") for some in tasks for one in some] or sorted(discovery.modules(discovery.TASKS))
    for task in named:
        Registry().task(task)  # which says what there is
    chosen = [one for some in queues for one in some] or queues_of(settings, named)
    return work_on(settings, chosen, processes)


command = click.Command(
    "worker",
    params=[
        click.Option(
            ["--tasks"], type=Several(click.STRING), multiple=True, help="The tasks to work on. Default: all."
        ),
        click.Option(
            ["--queues"],
            type=Several(click.STRING),
            multiple=True,
            help="The queues to take work from, in place of those of the tasks: `sensorium.<task>`, or "
            "`sensorium.<task>.gpu` for models of `celery_gpu_models`.",
        ),
        click.Option(
            ["--concurrency"],
            type=click.IntRange(1),
            help="How many processes work, each with its own models and its part of `threads`. Default: `job_workers`.",
        ),
        *options_of({name: Settings.model_fields[name] for name in SHOWN}),
    ],
    callback=_work,
    help="Work on the jobs of servers, through Celery, until stopped (Ctrl-C).",
    epilog=EXAMPLE,
)
