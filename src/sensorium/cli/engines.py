"""List the models: what each can do, its licence, and whether it is ready."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from sensorium.cli.screen import Screen
from sensorium.config import load_settings
from sensorium.engine import Card
from sensorium.registry import Registry

EXAMPLE = """\b
Examples:
  sensorium engines
  sensorium engines --task classify --json"""


@click.command(
    "engines", help="List the models: what each can do, its licence, and whether it is ready.", epilog=EXAMPLE
)
@click.option("--task", metavar="NAME", help="Only those that can do this task. [default: all]")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each model. [default: a table]")
def command(task: str | None, as_json: bool) -> int:
    registry = Registry(load_settings().models_dir)
    wanted = registry.task(task.replace("-", "_")).name if task else None
    cards = [card for card in registry.cards if wanted is None or card.does(wanted)]
    screen = Screen()
    if as_json:
        for card in cards:
            screen.write(json.dumps(_told(registry, card), ensure_ascii=False))
    else:
        _table(screen, [_told(registry, card) for card in cards])
    for problem in registry.problems:
        screen.complain(str(problem))
    return 0


def _told(registry: Registry, card: Card) -> dict[str, Any]:
    return {
        "model": card.id,
        "kind": card.kind,
        "tasks": list(card.tasks),
        "licence": card.licence,
        "state": registry.state(card),
        "remote": card.remote,
        "source": str(_source(registry, card)),
        "origin": card.origin,
        "aliases": list(card.aliases),
    }


def _source(registry: Registry, card: Card) -> Path | str:
    """The file that the model is described in: its own card, or the module of its kind."""
    if card.folder is not None:
        return card.folder
    kind = registry.kinds.get(card.kind)
    return Path(kind.__file__) if kind is not None and kind.__file__ else ""


def _table(screen: Screen, models: Iterable[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("model", "does", "state", "licence", "runs"):
        table.add_column(title, overflow="fold")
    table.add_column("kind, in file", overflow="fold", style="dim")
    for told in models:
        does = "every task" if told["tasks"] == ["*"] else ", ".join(told["tasks"])
        state = Text(told["state"], style="green" if told["state"] == "ready" else "yellow")
        runs = Text("elsewhere", style="red") if told["remote"] else "here"
        table.add_row(told["model"], does, state, told["licence"], runs, f"{told['kind']}, {_short(told['source'])}")
    screen.draw(table)


def _short(source: str) -> str:
    """A file of an installed package from the package's folder on; any other path whole."""
    path = Path(source)
    package = Path(__file__).parents[1]
    return str(Path("sensorium", path.relative_to(package))) if path.is_relative_to(package) else source
