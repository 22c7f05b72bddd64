"""Make, list, limit and revoke the keys that a server asks for."""

from __future__ import annotations

import asyncio
import difflib
import json
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import click

from sensorium import discovery
from sensorium.cli.options import ParamType
from sensorium.cli.screen import Screen, plain
from sensorium.config import Settings, load_settings
from sensorium.engine import OPERATING, Budget
from sensorium.stores import keys, usage
from sensorium.stores.keys import Key, Keys, Secret, SqliteKeys
from sensorium.stores.sealing import seal_of
from sensorium.stores.usage import Spent, UsageBook

T = TypeVar("T")

Per = Literal["day", "month"]

UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}

EVERY_TASK = "*"

CREATE = """\b
Examples:
  sensorium keys create shop
  sensorium keys create shop --scope classify --scope read --expires 30d --rate 600
  sensorium keys create prometheus --scope metrics
  sensorium keys create intern --budget-usd 5 --budget-tokens 1000000 --per day
  KEY=$(sensorium keys create robot --json | jq -r .key)"""

LIST = """\b
Examples:
  sensorium keys list
  sensorium keys list --json"""

BUDGET = """\b
Examples:
  sensorium keys budget shop --usd 20 --per month
  sensorium keys budget shop --usd 20 --tokens 5000000
  sensorium keys budget shop --none"""

REVOKE = """\b
Examples:
  sensorium keys revoke shop
  sensorium keys revoke k3v9q2m7x1ab"""


class Scope(ParamType):
    """A task's name, `*`, or what operators do."""

    name = "scope"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        known = [EVERY_TASK, *sorted(OPERATING), *sorted(discovery.modules(discovery.TASKS))]
        scope = str(value).replace("-", "_")
        if scope not in known:
            near = difflib.get_close_matches(scope, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
            self.fail(f"There is no scope {value!r}. {hint}", param, ctx)
        return scope


class Moment(ParamType):
    """A time from now, or a date."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        moment = _moment(str(value))
        if moment is None:
            self.fail(f"{value!r} is no time. Write 90m, 12h, 30d, 8w, 1y or a date such as 2030-12-31.", param, ctx)
        if moment <= time.time():
            self.fail(f"{value!r} is over.", param, ctx)
        return moment


AMOUNT, TOKENS = click.FloatRange(min=0, max=1e9), click.IntRange(min=0, max=10**15)

per = click.option(
    "--per", type=click.Choice(["day", "month"]), default="month", help="The budget's time, in UTC. [default: month]"
)

as_json = click.option("--json", "as_json", is_flag=True, help="JSON for programs. [default: words for people]")


@click.command("create", help="Make a key. Its secret is shown now and never again.", epilog=CREATE)
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=Scope(),
    help="What it may do: a task; `*` for every task; `admin` to change how the server runs; `metrics` to see what it "
    "does. May be repeated. [default: *]",
)
@click.option("--expires", type=Moment(), help="Until when it is good: 12h, 30d, 1y, or a date. [default: for ever]")
@click.option("--rate", type=click.IntRange(min=1), metavar="N", help="Requests per minute. [default: no limit]")
@click.option(
    "--signing",
    is_flag=True,
    help="For programs that sign requests instead of sending the key: the secret is kept, sealed. [default: only its hash]",
)
@click.option(
    "--budget-usd",
    type=AMOUNT,
    metavar="DOLLARS",
    help="What its answers may cost. [default: no limit]",
)
@click.option("--budget-tokens", type=TOKENS, metavar="N", help="Tokens of questions and answers. [default: no limit]")
@per
@as_json
def create(
    name: str,
    scopes: tuple[str, ...],
    expires: float | None,
    rate: int | None,
    signing: bool,
    budget_usd: float | None,
    budget_tokens: int | None,
    per: Per,
    as_json: bool,
) -> None:
    settings = load_settings()
    secret = Secret.new()
    sealed = (
        seal_of(settings.sealing_key, settings.data_dir, make=True).close(secret.secret, secret.id) if signing else None
    )
    key = Key(
        id=secret.id,
        name=name,
        digest=secret.digest,
        scopes=frozenset(scopes or (EVERY_TASK,)),
        created=time.time(),
        requests_per_minute=rate,
        expires=expires,
        sealed=sealed,
        budget=_budget(per, budget_usd, budget_tokens),
    )
    _with(settings, lambda store: store.add(key))
    _tell_new(key, secret, as_json)


@click.command("list", help="List all keys: what each may do, and whether it is good.", epilog=LIST)
@as_json
def list_(as_json: bool) -> None:
    settings = load_settings()
    known = _with(settings, lambda store: store.every())
    spent = asyncio.run(_spent(settings, known))
    screen = Screen()
    if as_json:
        for key in known:
            screen.write(json.dumps(_told(key, spent.get(key.id)), ensure_ascii=False))
    elif known:
        _table(screen, known, spent)
    else:
        screen.show("There are no keys yet. `sensorium keys create NAME` makes one.")


@click.command(
    "budget",
    help="Change what a key may spend. Servers that run notice within a second; what is spent already counts.",
    epilog=BUDGET,
)
@click.argument("named", metavar="NAME|ID")
@click.option("--usd", type=AMOUNT, metavar="DOLLARS", help="What its answers may cost. [default: no limit]")
@click.option("--tokens", type=TOKENS, metavar="N", help="Tokens of questions and answers. [default: no limit]")
@per
@click.option("--none", is_flag=True, help="Take the budget away. [default: set the one that is given]")
@as_json
def budget(named: str, usd: float | None, tokens: int | None, per: Per, none: bool, as_json: bool) -> None:
    if none is not (usd is None and tokens is None):
        raise click.UsageError("Give --usd, --tokens or both; or --none alone.")
    key = _with(load_settings(), lambda store: store.allow(named, _budget(per, usd, tokens)))
    if as_json:
        Screen().write(json.dumps(_told(key), ensure_ascii=False))
    else:
        click.echo(f"{plain(key.name)} ({key.id}) may spend: {_allowed(key) or 'no limit'}.")


@click.command("revoke", help="Refuse a key from now on. Servers that run notice within a second.", epilog=REVOKE)
@click.argument("named", metavar="NAME|ID")
@as_json
def revoke(named: str, as_json: bool) -> None:
    key = _with(load_settings(), lambda store: store.revoke(named))
    if as_json:
        Screen().write(json.dumps(_told(key), ensure_ascii=False))
    else:
        click.echo(f"Revoked {plain(key.name)} ({key.id}).")


command = click.Group(
    "keys",
    commands=[create, list_, budget, revoke],
    help="Make, list, limit and revoke the keys that a server asks for. A running server needs no restart.",
    epilog="\b\nExample:\n  sensorium keys create shop --scope classify --expires 30d",
)


def _with(settings: Settings, work: Callable[[Keys], Coroutine[Any, Any, T]]) -> T:
    async def done() -> T:
        store = SqliteKeys(settings.data_dir / keys.FILE)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(done())


async def _spent(settings: Settings, known: list[Key]) -> dict[str, Spent]:
    """Of each key with a budget, what it has spent of it; by id."""
    limited = {key.id: (key.name, key.budget) for key in known if key.budget and key.revoked is None}
    if not limited:
        return {}
    book = UsageBook(settings.data_dir / usage.FILE)
    try:
        return {identity: await book.spent(name, allowed) for identity, (name, allowed) in limited.items()}
    finally:
        await book.close()


def _budget(per: Per, usd: float | None, tokens: int | None) -> Budget | None:
    return None if usd is None and tokens is None else Budget(per, usd, tokens)


def _allowed(key: Key) -> str:
    """What a key may spend, in words; empty where nothing is limited."""
    limits = key.budget
    if limits is None:
        return ""
    money = [] if limits.usd is None else [f"${limits.usd:,.2f}"]
    tokens = [] if limits.tokens is None else [f"{limits.tokens:,} tokens"]
    return f"{' and '.join(money + tokens)} a {limits.per}"


def _used(spent: Spent | None, key: Key) -> str:
    if spent is None or key.budget is None:
        return ""
    money = [] if key.budget.usd is None else [f"${spent.cost:,.4f}"]
    return ", ".join(money + ([] if key.budget.tokens is None else [f"{spent.tokens:,} tokens"]))


def _tell_new(key: Key, secret: Secret, as_json: bool) -> None:
    screen = Screen()
    if as_json:
        signs = {"secret_id": secret.id, "secret_key": secret.secret} if key.sealed else {}
        screen.write(json.dumps({"key": secret.text, **signs, **_told(key)}, ensure_ascii=False))
        return
    # The key alone on standard output: `KEY=$(sensorium keys create shop)` works.
    click.echo(f"The key {plain(key.name)} may do: {_may(key)}. It is shown only now:", err=True)
    click.echo(secret.text)
    click.echo("Send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.", err=True)
    if key.sealed:
        click.echo(
            f"Programs that sign want it in two parts:\n  id      {secret.id}\n  secret  {secret.secret}", err=True
        )


def _told(key: Key, spent: Spent | None = None) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(time.time()),
        "scopes": sorted(key.scopes),
        "requests_per_minute": key.requests_per_minute,
        "created": _iso(key.created),
        "expires": _iso(key.expires),
        "revoked": _iso(key.revoked),
        "signing": key.sealed is not None,
        "budget": None if key.budget is None else asdict(key.budget),
        **({} if spent is None else {"spent_usd": spent.cost, "spent_tokens": spent.tokens}),
    }


def _table(screen: Screen, known: list[Key], spent: dict[str, Spent]) -> None:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    limited = ("budget", "spent") if any(key.budget for key in known) else ()
    for title in ("name", "id", "state", "may do", "per minute", "created", "expires", *limited):
        table.add_column(title, overflow="fold")
    for key in known:
        state = key.state(time.time())
        shown = Text(state, style="green" if state == "good" else "yellow")
        rate = "no limit" if key.requests_per_minute is None else f"{key.requests_per_minute:,}"
        name = Text(plain(key.name))
        row: list[RenderableType] = [
            name,
            key.id,
            shown,
            _may(key),
            rate,
            _day(key.created),
            _day(key.expires) or "never",
        ]
        table.add_row(*row, *((_allowed(key) or "no limit", _used(spent.get(key.id), key)) if limited else ()))
    screen.draw(table)


def _may(key: Key) -> str:
    words = ["every task" if scope == EVERY_TASK else scope for scope in sorted(key.scopes)]
    return ", ".join([*words, "sign"] if key.sealed else words)


def _moment(text: str) -> float | None:
    """Seconds since 1970; None for what is no time."""
    if found := re.fullmatch(r"(\d{1,6})([mhdwy])", text):
        return time.time() + int(found[1]) * UNITS[found[2]]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _day(moment: float | None) -> str:
    return "" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
