"""Answer over HTTP until stopped."""

from __future__ import annotations

from typing import Any

import click

from sensorium.cli.options import given, options_of
from sensorium.config import Settings, load_settings

SHOWN = (
    "host",
    "port",
    "workers",
    "threads",
    "device",
    "running",
    "waiting",
    "timeout_seconds",
    "max_upload_bytes",
    "upload_seconds",
    "auth",
    "cors_origins",
    "drain_seconds",
    "certfile",
    "keyfile",
    "log_format",
    "log_level",
    "cache",
    "models_dir",
)
"""The settings that are options too."""

EXAMPLE = """\b
Examples:
  sensorium serve
  sensorium serve --port 8080 --threads 2
  sensorium serve --workers 4
  curl -F image=@photo.jpg http://127.0.0.1:8000/v1/classify

\b
All other settings come from the environment and the file: `sensorium settings`."""


def _serve(**options: Any) -> None:
    settings = load_settings(**given(options))

    from sensorium.server.serve import serve

    serve(settings)


command = click.Command(
    "serve",
    params=[*options_of({name: Settings.model_fields[name] for name in SHOWN})],
    callback=_serve,
    help="Answer over HTTP until stopped (Ctrl-C).",
    epilog=EXAMPLE,
)
