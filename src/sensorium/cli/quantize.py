"""Make a quicker INT8 twin of a classifier, calibrated on your pictures."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from sensorium.cli.inputs import expand
from sensorium.cli.screen import Screen
from sensorium.config import load_settings
from sensorium.engine import Host
from sensorium.errors import SensoriumError
from sensorium.media import limits
from sensorium.media.source import Source
from sensorium.quantization import FEWEST, Report, quantize
from sensorium.registry import Registry
from sensorium.runtimes.quantize import Method
from sensorium.service import limits_of

if TYPE_CHECKING:
    from rich.table import Table

GOOD = 0.9
"""Twins that name the same less often are worth a hint."""

EXAMPLE = """\b
Examples:
  sensorium models quantize efficientnet_lite0 --pictures photos/
  sensorium models quantize flowers --pictures photos/ --name flowers_quick --json
  sensorium classify photo.jpg --model efficientnet_lite0_int8"""


@click.command(
    "quantize",
    short_help="Make an INT8 twin of a classifier.",
    help="Make a quicker INT8 twin of an image classifier and put it into the models folder. Half of the pictures show "
    "the tool what values flow through the model; on the other half the twin is compared with the model.",
    epilog=EXAMPLE,
)
@click.argument("model", metavar="NAME")
@click.option(
    "--pictures",
    "folders",
    metavar="FOLDER",
    required=True,
    multiple=True,
    help=f"Pictures like those that the model will see, {2 * FEWEST} or more; no names are needed. May be repeated.",
)
@click.option("--name", metavar="NAME", help="What to call the twin. [default: NAME_int8]")
@click.option(
    "--limit",
    type=click.IntRange(min=2 * FEWEST),
    default=200,
    show_default=True,
    help="How many pictures to take, at most, spread over all of them.",
)
@click.option(
    "--method",
    type=click.Choice(get_args(Method)),
    default="minmax",
    show_default=True,
    help="How the range of values is chosen: all of it, without the rarest, or by entropy (slow).",
)
@click.option("--force", is_flag=True, help="Replace a model of that name. [default: refuse]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object. [default: a table]")
def command(
    model: str, folders: tuple[str, ...], name: str | None, limit: int, method: Method, force: bool, as_json: bool
) -> int:
    settings, screen = load_settings(), Screen()
    registry = Registry(settings.models_dir)
    host = Host(cache_dir=settings.cache_dir, device="cpu")
    pictures = _pictures(folders, settings.max_bytes, screen)
    with limits.use(limits_of(settings)), screen.progress(min(limit, len(pictures))) as advance:
        work = quantize(
            registry, host, model, pictures, name=name, limit=limit, method=method, force=force, advance=advance
        )
        report = asyncio.run(work)
    if as_json:
        screen.write(report.model_dump_json())
    else:
        _tell(screen, report)
    return 0


def _pictures(folders: tuple[str, ...], most_bytes: int, screen: Screen) -> list[Source]:
    found = []
    for one in expand(folders, most_bytes):
        if isinstance(one.what, SensoriumError):
            screen.complain(f"{one.name}: {one.what}")
        elif one.what is not None:
            found.append(Source.of(one.what))
    return found


def _tell(screen: Screen, report: Report) -> None:
    for left_out in report.unreadable:
        screen.complain(f"{left_out.picture} was left out: {left_out.message}")
    screen.draw(_table(report))
    kept = f", the first {len(report.kept_in_float)} convolutions in float32" if report.kept_in_float else ""
    screen.show(
        f"Calibrated on {report.calibrated_on} pictures by {report.method}: {report.activations} activations, "
        f"{report.weight_bits}-bit weights{kept}."
    )
    if report.weight_bits < 8:
        screen.show("This processor has no exact 8-bit sums (VNNI): made on one that has, the twin would agree better.")
    if report.same_best < GOOD:
        screen.complain("They agree little: try more pictures like those that the model will see, or another --method.")
    name = report.made.partition("@")[0]
    screen.show(f"Added {report.made} in {Path(report.folder)}.")
    screen.show(f"Try it: sensorium classify photo.jpg --model {name}")


def _table(report: Report) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", report.model, report.made, ""):
        table.add_column(title, justify="right" if title else "left")
    before, after = report.bytes_before, report.bytes_after
    table.add_row("size", _mebibytes(before), _mebibytes(after), f"{after / before:.0%}")
    table.add_row(
        "one picture, one thread",
        f"{report.seconds_before * 1000:.2f} ms",
        f"{report.seconds_after * 1000:.2f} ms",
        f"{report.speedup:.2f} times as fast",
    )
    on = f"on {report.compared_on} other pictures"
    table.add_row("same best name", "", f"{report.same_best:.1%}", on)
    table.add_row("same among the best five", "", f"{report.top_5_overlap:.1%}", on)
    table.add_row("change of the best name's probability", "", f"{report.mean_change:.3f}", "on average")
    return table


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"
