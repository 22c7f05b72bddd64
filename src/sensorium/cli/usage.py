"""Show what callers used: requests, pictures, tokens and money."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import click

from sensorium.cli.options import ParamType
from sensorium.cli.screen import Screen, plain
from sensorium.config import load_settings
from sensorium.stores.usage import FILE, Amounts, By, Line, UsageBook

EXAMPLE = """\b
Examples:
  sensorium usage
  sensorium usage --by key --since 2026-11-01
  sensorium usage --by day --since 7d --key shop --json"""

USUAL = "30d"


class Day(ParamType):
    """A date, or so many days ago."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if found := re.fullmatch(r"(\d{1,4})d", text):
            return (datetime.now(UTC).date() - timedelta(days=int(found[1]))).isoformat()
        try:
            return date.fromisoformat(text).isoformat()
        except ValueError:
            self.fail(f"{text!r} is no day. Write 30d for the last 30 days, or a date such as 2026-11-30.", param, ctx)


@click.command("usage", help=f"{__doc__} Kept for 400 days by the servers that use this `data_dir`.", epilog=EXAMPLE)
@click.option(
    "--by",
    type=click.Choice(["key", "model", "task", "day"]),
    default="model",
    help="What to sum up by. [default: model]",
)
@click.option("--since", type=Day(), default=USUAL, help=f"The first day (UTC): 7d, or a date. [default: {USUAL}]")
@click.option("--key", help="Only what this key used. [default: everyone]")
@click.option("--json", "as_json", is_flag=True, help="JSON for programs, a line each. [default: words for people]")
def command(by: By, since: str, key: str | None, as_json: bool) -> None:
    lines = asyncio.run(_lines(by, since, key))
    screen = Screen()
    if as_json:
        for line in lines:
            screen.write(json.dumps({by: line.name, **line.amounts._asdict()}, ensure_ascii=False))
    elif lines:
        _table(screen, by, lines)
    else:
        screen.show(f"Nothing was used since {since}.")


async def _lines(by: By, since: str, key: str | None) -> list[Line]:
    book = UsageBook(load_settings().data_dir / FILE)
    try:
        return await book.lines(by, since, key)
    finally:
        await book.close()


def _table(screen: Screen, by: By, lines: list[Line]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(by, overflow="fold")
    for title in ("requests", "errors", "pictures", "seconds", "tokens in", "tokens out", "cost"):
        table.add_column(title, justify="right")
    for line in lines:
        table.add_row(Text(plain(line.name) or "-"), *_cells(line.amounts))
    if len(lines) > 1:
        total = Amounts()
        for line in lines:
            total = total.plus(line.amounts)
        table.add_row(Text("all", style="bold"), *_cells(total))
    screen.draw(table)


def _cells(amounts: Amounts) -> list[str]:
    counts = (amounts.requests, amounts.errors, amounts.pictures)
    tokens = (amounts.input_tokens, amounts.output_tokens)
    return [*(f"{n:,}" for n in counts), f"{amounts.seconds:,.1f}", *(f"{n:,}" for n in tokens), _cost(amounts)]


def _cost(amounts: Amounts) -> str:
    """In US dollars; with a plus where more answers had a price that is not known."""
    return f"${amounts.cost:,.4f}" + ("+" if amounts.unpriced else "")
