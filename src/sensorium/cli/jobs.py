"""Hand work to a server that goes on there without you; list, show, watch and cancel it."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, get_args

import click

from sensorium import discovery
from sensorium.cli.group import BAD_INPUT, FAILED
from sensorium.cli.health import own_url
from sensorium.cli.inputs import Input, expand
from sensorium.cli.options import given
from sensorium.cli.screen import Screen, plain, told
from sensorium.cli.tasks import KEY_VARIABLE, finish, inputs_of, own_options, told_apart
from sensorium.client import Remote, Server
from sensorium.client.jobs import JobOutcome, RemoteJobs
from sensorium.config import load_settings
from sensorium.errors import SensoriumError
from sensorium.media import limits
from sensorium.registry import Registry, Task
from sensorium.schemas.jobs import MOST_ITEMS, JobInfo, JobState
from sensorium.service import limits_of

T = TypeVar("T")

SUBMIT = """\b
Examples:
  sensorium jobs submit classify photos/ --top-k 3
  sensorium jobs submit read scans/*.png --watch --json > texts.jsonl
  ID=$(sensorium jobs submit ask photo.jpg "What is this?")"""

LIST = """\b
Examples:
  sensorium jobs list
  sensorium jobs list --state failed --server http://host:8000 --json"""

SHOW = """\b
Example:
  sensorium jobs show 0123456789abcdef0123456789abcdef --json"""

WATCH = """\b
Examples:
  sensorium jobs watch 0123456789abcdef0123456789abcdef
  sensorium jobs watch 0123456789abcdef0123456789abcdef --json > outcomes.jsonl"""

CANCEL = """\b
Example:
  sensorium jobs cancel 0123456789abcdef0123456789abcdef"""

OF_WEBHOOKS = """\b
Example:
  sensorium jobs secret"""

OPTIONS = [
    click.Option(
        ["--server"],
        metavar="URL",
        envvar="SENSORIUM_SERVER",
        help="The server, such as http://host:8000. [default: this machine's, by the settings host and port]",
    ),
    click.Option(
        ["--key"],
        envvar=KEY_VARIABLE,
        metavar="KEY",
        help=f"The server's key; unlike {KEY_VARIABLE} in the environment, others may see it here. [default: no key]",
    ),
    click.Option(
        ["--json", "as_json"], is_flag=True, help="JSON for programs, a line each. [default: words for people]"
    ),
]
"""What every command has."""


def _command(
    name: str, help_: str, epilog: str, *params: click.Parameter
) -> Callable[[Callable[..., int]], click.Command]:
    def made(run: Callable[..., int]) -> click.Command:
        return click.Command(name, params=[*params, *OPTIONS], callback=run, help=help_, epilog=epilog)

    return made


def _with(server: str | None, key: str | None, work: Callable[[RemoteJobs], Awaitable[int]]) -> int:
    settings = load_settings()

    async def done() -> int:
        where = Server.of(url=server or own_url(), key=key, timeout=settings.timeout_seconds)
        async with Remote(where) as remote:
            return await work(RemoteJobs(remote))

    with limits.use(limits_of(settings)):
        return finish(done())


@_command(
    "list",
    "List your own jobs, the newest first.",
    LIST,
    click.Option(["--state"], type=click.Choice(get_args(JobState)), help="Only those. [default: all]"),
    click.Option(["--limit"], type=click.IntRange(min=1), default=20, show_default=True, help="How many at most."),
)
def list_(state: JobState | None, limit: int, server: str | None, key: str | None, as_json: bool) -> int:
    async def work(jobs: RemoteJobs) -> int:
        found = await jobs.listed(state, limit)
        screen = Screen()
        if as_json:
            for job in found:
                screen.write(job.model_dump_json())
        elif found:
            _table(screen, found)
        else:
            screen.show("There are no such jobs. `sensorium jobs submit TASK FILE...` hands one in.")
        return 0

    return _with(server, key, work)


@_command("show", "Show how a job stands, and its outcomes so far.", SHOW, click.Argument(["job"], metavar="ID"))
def show(job: str, server: str | None, key: str | None, as_json: bool) -> int:
    async def work(jobs: RemoteJobs) -> int:
        screen, found = Screen(), await jobs.get(job)
        if as_json:
            screen.write(found.model_dump_json())
        else:
            screen.show(_words(found))
            if found.webhook_call:
                screen.show(_of_the_webhook(found))
        after, rest = 0, found.progress.settled
        while rest:
            page = await jobs.more(job, after)
            for one in page.outcomes:
                _tell(screen, one, as_json)
            after, rest = page.next, rest - len(page.outcomes) if page.outcomes else 0
        return 0

    return _with(server, key, work)


@_command(
    "watch",
    "Watch a job until it has ended, and tell its outcomes as they come. Ctrl-C ends the watching, not the job.",
    WATCH,
    click.Argument(["job"], metavar="ID"),
)
def watch(job: str, server: str | None, key: str | None, as_json: bool) -> int:
    return _with(server, key, functools.partial(_watched, job=job, as_json=as_json))


@_command("cancel", "End a job; what has an outcome keeps it.", CANCEL, click.Argument(["job"], metavar="ID"))
def cancel(job: str, server: str | None, key: str | None, as_json: bool) -> int:
    async def work(jobs: RemoteJobs) -> int:
        ended = await jobs.cancel(job)
        Screen().write(ended.model_dump_json()) if as_json else Screen().show(_words(ended))
        return 0

    return _with(server, key, work)


@_command("secret", "Show the secret by which you check calls of your webhooks.", OF_WEBHOOKS)
def secret(server: str | None, key: str | None, as_json: bool) -> int:
    async def work(jobs: RemoteJobs) -> int:
        text = await jobs.secret()
        Screen().write(json.dumps({"secret": text}) if as_json else text)
        return 0

    return _with(server, key, work)


class Submit(click.Group):
    """A command for each task, with the options of its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name.replace("_", "-") for name in sorted(discovery.modules(discovery.TASKS))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        try:
            task = Registry().task(cmd_name.replace("-", "_"))
        except SensoriumError as error:
            raise click.UsageError(str(error), ctx) from error
        return click.Command(
            cmd_name,
            params=[*inputs_of(task), *own_options(task), *_of_a_job(), *OPTIONS],
            callback=functools.partial(_submit, task),
            help=discovery.summary(discovery.modules(discovery.TASKS)[task.name]),
        )


def _of_a_job() -> Sequence[click.Option]:
    return (
        click.Option(["--model"], metavar="NAME", help="The model to ask. [default: what the server's settings name]"),
        click.Option(
            ["--timeout"], type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For each item."
        ),
        click.Option(["--privacy"], type=click.Choice(["any", "local"]), default="any", show_default=True),
        click.Option(
            ["--max-cost"], type=click.FloatRange(min=0), metavar="DOLLARS", help="The most that each may cost."
        ),
        click.Option(
            ["--priority"], type=click.IntRange(-100, 100), default=0, show_default=True, help="Higher goes first."
        ),
        click.Option(["--idempotency-key"], metavar="TEXT", help="Sent twice with the same, it is one job."),
        click.Option(["--webhook"], metavar="URL", help="What to call when the job has ended."),
        click.Option(["--watch", "and_watch"], is_flag=True, help="Go on as `sensorium jobs watch` does."),
    )


def _submit(
    task: Task,
    *,
    words: tuple[str, ...] = (),
    model: str | None,
    timeout: float | None,
    privacy: str,
    max_cost: float | None,
    priority: int,
    idempotency_key: str | None,
    webhook: str | None,
    and_watch: bool,
    server: str | None,
    key: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    manner = {"model": model, "timeout": timeout, "max_cost": max_cost, "privacy": privacy}
    words, fields = told_apart(task, words, given(options))
    inputs = expand(words, load_settings().max_bytes) if words else []
    if len(inputs) > MOST_ITEMS and not task.request.gathers:
        many = f"`sensorium batch {shlex.join(words[:1])} --task {task.name} --server {server or own_url()} -o FILE`"
        raise click.UsageError(
            f"A job has at most {MOST_ITEMS:,} items; here are {len(inputs):,}. {many} takes any number."
        )
    fields |= {name: value for name, value in manner.items() if value is not None}

    async def work(jobs: RemoteJobs) -> int:
        how = {"priority": priority, "idempotency_key": idempotency_key, "webhook": webhook}
        job = await jobs.submit(task.name, _given(task, inputs), fields, **how)  # type: ignore[arg-type] # as they are named
        if and_watch:
            Screen().note(f"Job {job.id}")
            return await _watched(jobs, job.id, as_json, [] if task.request.gathers else [one.name for one in inputs])
        if as_json:
            Screen().write(job.model_dump_json())
        else:  # the id alone on standard output: `ID=$(sensorium jobs submit ...)` works
            click.echo(f"{_words(job)} `sensorium jobs watch {job.id}` tells how it goes on.", err=True)
            click.echo(job.id)
        return 0

    return _with(server, key, work)


def _given(task: Task, inputs: Sequence[Input]) -> tuple[Any, ...]:
    """The inputs as verbs take them. Raises what is wrong with one."""
    for one in inputs:
        if isinstance(one.what, SensoriumError):
            raise one.what
    whats = [one.what for one in inputs]
    return tuple(whats) if task.request.gathers or not whats else (whats,)


async def _watched(jobs: RemoteJobs, job: str, as_json: bool, names: Sequence[str] = ()) -> int:
    """Tell of each item as it comes, by its name where that is known; the exit code."""
    screen, after = Screen(), 0
    found = await jobs.get(job)
    with screen.share(found.progress.total) as tell:
        while True:
            page = await jobs.more(job, after)
            tell(page.job.progress.settled)
            for one in page.outcomes:
                _tell(screen, one, as_json, names[one.index] if one.index < len(names) else "")
            after, found = page.next, page.job
            if found.over and not page.outcomes:
                break
    screen.note(_words(found))
    return FAILED if found.state == "failed" else BAD_INPUT if found.progress.settled > found.progress.done else 0


def _tell(screen: Screen, one: JobOutcome, as_json: bool, name: str = "") -> None:
    if as_json:
        failed = isinstance(one.outcome, SensoriumError)
        kept = json.dumps(one.outcome.as_dict(), ensure_ascii=False) if failed else one.outcome.model_dump_json()
        named = f'"input": {json.dumps(name, ensure_ascii=False)}, ' if name else ""
        screen.write(f'{{"index": {one.index}, {named}"{"error" if failed else "result"}": {kept}}}')
    elif isinstance(one.outcome, SensoriumError):
        screen.complain(f"{name or one.index}: {told(one.outcome)}")
    else:
        from sensorium.cli.views import seen

        screen.show(seen(name or f"{one.index}", one.outcome, None))


def _words(job: JobInfo) -> str:
    wrong = job.progress.failed + job.progress.dead
    failures = f", {wrong:,} with an error" if wrong else ""
    return f"Job {job.id} ({job.task}) is {job.state}: {job.progress.settled:,} of {job.progress.total:,}{failures}."


def _of_the_webhook(job: JobInfo) -> str:
    call = job.webhook_call
    assert call is not None  # noqa: S101 - looked at by who calls
    why = f": {call.error}" if call.error else ""
    return f"Its webhook {plain(job.webhook or '')} is {call.state}, after {call.calls:,} calls{why}."


def _table(screen: Screen, jobs: Sequence[JobInfo]) -> None:
    from rich.table import Table
    from rich.text import Text

    colours = {"done": "green", "failed": "red", "cancelled": "yellow"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("id", "task", "state", "done", "errors", "of", "submitted"):
        table.add_column(title, overflow="fold")
    for job in jobs:
        shown, wrong = job.progress, job.progress.failed + job.progress.dead
        numbers = (f"{shown.done:,}", f"{wrong:,}", f"{shown.total:,}")
        state = Text(job.state, style=colours.get(job.state, ""))
        table.add_row(job.id, plain(job.task), state, *numbers, f"{job.created:%Y-%m-%d %H:%M} UTC")
    screen.draw(table)


command = click.Group(
    "jobs",
    commands=[
        list_,
        show,
        watch,
        cancel,
        Submit(
            "submit", help="Hand in a job: a task, and what it is about, as its own command takes it.", epilog=SUBMIT
        ),
        secret,
    ],
    help="Hand work to a server that goes on there without you; list, show, watch and cancel it.",
    epilog="\b\nExample:\n  sensorium jobs submit classify photos/ --server http://host:8000 --watch",
)
