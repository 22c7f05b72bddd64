"""Show the settings in force, and where each comes from."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import click

from sensorium.cli.screen import Screen, plain
from sensorium.config import config_file, load_settings

EXAMPLE = """\b
Examples:
  sensorium settings
  SENSORIUM_THREADS=2 sensorium settings --json"""


@click.command("settings", help="Show the settings in force, and where each comes from.", epilog=EXAMPLE)
@click.option("--json", "as_json", is_flag=True, help="All settings as one JSON object. [default: words for people]")
def command(as_json: bool) -> int:
    file = config_file()
    values = load_settings().model_dump(mode="json")
    screen = Screen()
    if as_json:
        told = {name: {"value": value, "from": _origin(name, file)} for name, value in values.items()}
        screen.write(json.dumps(told, ensure_ascii=False))
        return 0
    width = max(map(len, values))
    for name, value in values.items():
        screen.show(plain(f"{name:<{width}}  {json.dumps(value, ensure_ascii=False)}  ({_origin(name, file)})"))
    return 0


def _origin(name: str, file: Path | None) -> str:
    variable = f"SENSORIUM_{name.upper()}"
    # The names of environment variables have no capitals of their own on Windows, nor for the settings.
    if variable in {known.upper() for known in os.environ}:
        return variable
    if file is not None and name in tomllib.loads(file.read_text(encoding="utf-8")):
        return str(file)
    return "default"
