"""Say what a file is: picture, video, sound or base64 text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import click

from sensorium.cli.group import exit_code
from sensorium.cli.inputs import Input, expand
from sensorium.cli.screen import Screen, plain
from sensorium.config import load_settings
from sensorium.errors import SensoriumError
from sensorium.media import limits
from sensorium.media.probe import Probe, probe
from sensorium.media.source import Source
from sensorium.service import limits_of

EXAMPLE = """\b
Examples:
  sensorium probe holiday.jpg clip.mp4
  sensorium probe unknown.bin --json"""

APART = ("name", "kind", "called", "accepted", "error", "error_code", "inside")
"""Fields that are not listed one below the other."""


@click.command(
    "probe",
    help="Say what a file is, by its content: picture, video, sound or base64 text, and whether it can be analysed.",
    epilog=EXAMPLE,
)
@click.argument("words", nargs=-1, required=True, metavar="FILE|URL|FOLDER|-...")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each. [default: words for people]")
def command(words: tuple[str, ...], as_json: bool) -> int:
    settings = load_settings()
    with limits.use(limits_of(settings)):
        return asyncio.run(_tell(expand(words, settings.max_bytes, every_file=True), as_json))


async def _tell(inputs: list[Input], as_json: bool) -> int:
    screen, worst = Screen(), 0
    with screen.progress(len(inputs)) as advance:
        async for given, found in _probed(inputs):
            if isinstance(found, SensoriumError):
                worst = max(worst, exit_code(found))
            if as_json:
                screen.write(_line(given.name, found))
            elif isinstance(found, SensoriumError):
                screen.complain(f"{given.name}: {found}")
            else:
                screen.show("\n  ".join([f"{plain(given.name)}  {found.called}", *_lines(found)]))
            advance()
    return worst


async def _probed(inputs: list[Input]) -> AsyncIterator[tuple[Input, Probe | SensoriumError]]:
    for given in inputs:
        try:
            if isinstance(given.what, SensoriumError):
                raise given.what
            yield given, await probe(Source.of(given.what or b""))
        except SensoriumError as error:
            yield given, error


def _line(name: str, found: Probe | SensoriumError) -> str:
    told: dict[str, Any] = (
        {"error": found.as_dict()} if isinstance(found, SensoriumError) else {"result": found.as_dict()}
    )
    return json.dumps({"input": name, **told}, ensure_ascii=False)


def _lines(found: Probe) -> Iterator[str]:
    for name, value in found.as_dict().items():
        if name not in APART:
            yield f"{name.replace('_', ' ')}: {_said(name, value)}"
    yield "can be analysed" if found.accepted else f"cannot be analysed: {plain(found.error or 'it is no picture')}"
    if found.inside:
        yield f"inside: {found.inside.called}"
        yield from (f"  {line}" for line in _lines(found.inside))


def _said(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if name == "bytes" else plain(str(value))
