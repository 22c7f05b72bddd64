"""Work through very many pictures, going on after any interruption."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sensorium.cli.group import FAILED, INTERRUPTED, exit_code
from sensorium.cli.options import ParamType, given
from sensorium.cli.screen import Screen
from sensorium.cli.tasks import KEY_VARIABLE, TAKEN, Amount, finish, own_options, serving_options
from sensorium.config import load_settings
from sensorium.engine import Options
from sensorium.errors import SensoriumError, every_error
from sensorium.registry import Registry, Task

if TYPE_CHECKING:
    from sensorium.batch.estimate import Estimate
    from sensorium.batch.inputs import Inputs
    from sensorium.batch.run import Batch, Running, Summary

HELP = f"""{__doc__}

Inputs are files, folders (searched for pictures), patterns in quotes, http(s) URLs, lists (`@list.txt`, a path or URL a line),
columns of tables (`data.csv:photo`, also .tsv and .jsonl), and `-` for a list on standard input.

The same command again goes on where it stopped, whatever stopped it. One bad file stops no other: it is told in the
output, and in a file of failures beside it. The options of a task are those of its own command:
`sensorium batch --task ask --help` shows them."""

EXAMPLE = """\b
Examples:
  sensorium batch photos/ --task classify -o labels.jsonl
  sensorium batch "photos/**/*.jpg" --task read -o texts.csv
  sensorium batch photos/ --task classify -o labels.jsonl --server http://host:8000
  sensorium batch shop.csv:photo --task ask --prompt "What is this?" --model gpt-4o --max-cost 5 -o answers.jsonl
  find photos -name '*.jpg' | sensorium batch - --task classify -o - > labels.jsonl"""

OWN = (
    "task",
    "output",
    "format",
    "column",
    "recursive",
    "keep-order",
    "at-once",
    "on",
    "restart",
    "retry-failed",
    "estimate",
)
"""Options that a batch has beside those of all tasks."""


class Place(ParamType):
    """Where work can be done."""

    name = "where"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        where, colon, address = value.partition(":")
        if value != "here" and (where != "ray" or bool(colon) != bool(address)):
            self.fail(
                f"{value!r} is no place for work: it is here, ray or ray:ADDRESS, such as ray:10.0.0.5:6379", param, ctx
            )
        return value


class Command(click.Command):
    """Has the options of the task that its arguments name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if (name := _task_named(args)) is not None:
            ctx.meta[__name__] = _task(name, ctx)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        task = ctx.meta.get(__name__)
        more = [*own_options(task, (*TAKEN, *OWN)), *serving_options(task)] if task else []
        *own, helping = super().get_params(ctx)
        return [*own, *more, helping]


def _task_named(args: list[str]) -> str | None:
    for word, following in zip(args, [*args[1:], None], strict=True):
        if word == "--":
            return None
        if word == "--task":
            return following
        if word.startswith("--task="):
            return word.partition("=")[2]
    return None


def _task(name: str, ctx: click.Context) -> Task:
    try:
        return Registry().task(name.replace("-", "_"))
    except SensoriumError as error:
        raise click.UsageError(str(error), ctx) from error


@click.command("batch", cls=Command, help=HELP, epilog=EXAMPLE)
@click.argument("words", nargs=-1, required=True, metavar="INPUT...")
@click.option("--task", "named", required=True, metavar="TASK", help="What to do with each picture, such as classify.")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="Where results go: .jsonl, .json, .csv or .parquet; - for standard output.",
)
@click.option(
    "--format",
    type=click.Choice(["jsonl", "json", "csv", "parquet"]),
    help="How they are written. Only jsonl grows while the work goes on. [default: by the name of the output]",
)
@click.option(
    "--column", metavar="NAME", help="The column of tables that names the pictures. [default: after the colon]"
)
@click.option(
    "-r/-R",
    "--recursive/--no-recursive",
    default=True,
    help="Whether folders inside folders are searched. [default: recursive]",
)
@click.option("--keep-order", is_flag=True, help="Results in the order of the inputs. [default: as they come]")
@click.option(
    "--at-once",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many inputs are under way at once. [default: what keeps the cores busy, or what the provider allows]",
)
@click.option(
    "--on",
    type=Place(),
    default="here",
    metavar="WHERE",
    help="Where the work is done: here, ray, or ray:ADDRESS of a cluster. [default: here]",
)
@click.option(
    "--server",
    metavar="URL",
    help="Have a sensorium server do the work, as jobs, such as http://host:8000: files are uploaded, URLs passed on. "
    "[default: this machine]",
)
@click.option(
    "--key",
    envvar=KEY_VARIABLE,
    metavar="KEY",
    help=f"The server's key; unlike {KEY_VARIABLE} in the environment, others may see it here. [default: no key]",
)
@click.option("--restart", is_flag=True, help="Begin anew: what the output holds is lost.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed, then go on.")
@click.option(
    "--max-cost",
    type=Amount(min=0),
    metavar="DOLLARS",
    help="The most that all answers together may cost; it stops before that is passed. [default: no limit]",
)
@click.option(
    "--estimate", "only_estimate", is_flag=True, help="Only say what it would take and cost of a model that is paid."
)
@click.option(
    "--cache/--no-cache",
    "use_cache",
    default=None,
    help="Whether a remembered answer will do. [default: where the setting `cache` keeps answers in sqlite or redis]",
)
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON. [default: words for people]")
@click.pass_context
def command(ctx: click.Context, /, words: tuple[str, ...], as_json: bool, only_estimate: bool, **options: Any) -> int:
    from sensorium.batch.inputs import Inputs

    inputs = Inputs(words, options["column"], options["recursive"])
    batch = _batch(ctx.meta[__name__], inputs, options)
    return finish(_Session(batch, as_json).work(only_estimate=only_estimate))


def _batch(task: Task, inputs: Inputs, options: dict[str, Any]) -> Batch:
    from sensorium.batch.outputs import format_of
    from sensorium.batch.run import Batch
    from sensorium.client import Server

    if options["server"] and options["device"]:
        raise click.UsageError("--device does not go with --server: it computes there, on what its own settings say.")
    settings = load_settings(**({"device": options["device"]} if options["device"] else {}))
    kept = bool(options["server"]) or settings.cache in ("sqlite", "redis")
    cache = kept if options["use_cache"] is None else options["use_cache"]
    return Batch(
        inputs=inputs,
        task=task.name,
        fields={**given(options), **({"model": options["model"]} if options["model"] else {})},
        output=options["output"],
        format=format_of(options["output"], options["format"]),
        settings=settings,
        options=Options(cache=cache, remote=options["privacy"] == "any"),
        timeout=options["timeout"],
        at_once=options["at_once"],
        keep_order=options["keep_order"],
        restart=options["restart"],
        retry_failed=options["retry_failed"],
        max_cost=options["max_cost"],
        on=options["on"],
        server=Server.of(url=options["server"], key=options["key"]) if options["server"] else None,
    )


class _Session:
    """A batch before somebody who looks on, and may interrupt it."""

    def __init__(self, batch: Batch, as_json: bool) -> None:
        self._batch, self._as_json = batch, as_json
        self._screen = Screen()
        self._signal = 0

    async def work(self, *, only_estimate: bool) -> int:
        from sensorium.batch.run import opened

        async with opened(self._batch) as running:
            if running.is_paid:
                self._tell_estimate(await running.estimate(), fresh=not running.seen)
            if only_estimate:
                return 0
            self._listen(running)
            alone = self._batch.output != "-" or not sys.stdout.isatty()
            with self._screen.tally(running.seen, running.failed, bar=alone) as tally:
                running.progress = tally
                threading.Thread(target=self._count, args=(tally,), daemon=True).start()
                try:
                    summary = await running.work()
                except asyncio.CancelledError:
                    self._say_how_to_go_on()
                    return INTERRUPTED
                except SensoriumError:
                    if running.seen:
                        self._screen.note(f"{running.seen:,} inputs are done, and stay so.")
                    raise
        self._tell(summary)
        return self._code(summary)

    def _listen(self, running: Running) -> None:
        """The first signal has what is under way finished, the second ends at once."""
        loop, me = asyncio.get_running_loop(), asyncio.current_task()

        def stop() -> None:
            if running.stopping:
                if me:
                    me.cancel()
                return
            running.stop()
            self._screen.note("Stopping: what is under way is finished first. Ctrl-C again ends at once.")

        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # on Windows Ctrl-C ends at once
                loop.add_signal_handler(number, stop)

    def _count(self, tally: Any) -> None:
        if not self._batch.inputs.is_live:
            with suppress(SensoriumError):  # as the work itself will say
                tally.expect(sum(1 for _ in self._batch.inputs))

    def _tell_estimate(self, estimate: Estimate | None, *, fresh: bool) -> None:
        """`fresh`: whether nothing is done yet, so that what is told is of the whole."""
        if estimate is None:
            self._screen.note("What this will take and cost is not known before.")
        elif self._as_json:
            self._screen.note(json.dumps({"estimate": asdict(estimate)}))
        else:
            self._screen.note(_in_words(estimate, "inputs" if fresh else "inputs left"))

    def _tell(self, summary: Summary) -> None:
        if self._as_json:
            told = {**asdict(summary), "per_second": round(_rate(summary), 2), "seconds": round(summary.seconds, 3)}
            line = json.dumps(told, ensure_ascii=False)
            if self._batch.output == "-":
                self._screen.note(line)
            else:
                self._screen.write(line)
            return
        for line in _lines(summary, self._batch.max_cost):
            self._screen.note(line)
        if summary.state == "stopped":
            self._say_how_to_go_on()

    def _say_how_to_go_on(self) -> None:
        if self._batch.output != "-":
            self._screen.note("The same command goes on from here.")

    def _code(self, summary: Summary) -> int:
        if summary.state == "stopped":
            return INTERRUPTED
        if summary.state == "cost":
            return FAILED
        codes = {kind.code: kind for kind in every_error()}
        return max((exit_code(codes.get(code, SensoriumError)("")) for code in summary.failed), default=0)


def _rate(summary: Summary) -> float:
    return summary.worked_on / summary.seconds if summary.seconds else 0.0


def _in_words(estimate: Estimate, what: str) -> str:
    if not estimate.count:
        return "No inputs are left to do: nothing is to be paid."
    tokens = f"about {estimate.input_tokens:,} tokens in, at most {estimate.most_output_tokens:,} out"
    if estimate.most_cost is None or estimate.input_cost is None:
        return f"{estimate.count:,} {what}: {tokens}; no price is known."
    return f"{estimate.count:,} {what}: {tokens}; ${estimate.input_cost:,.2f} to ${estimate.most_cost:,.2f}."


def _lines(summary: Summary, max_cost: float | None) -> Iterator[str]:
    failed = sum(summary.failed.values())
    reasons = ", ".join(f"{number:,} {code}" for code, number in summary.failed.items())
    yield f"{summary.done:,} done, {failed:,} failed{f' ({reasons})' if reasons else ''}."
    if summary.worked_on:
        yield f"{summary.worked_on:,} in this run, {summary.seconds:,.1f} s, {_rate(summary):,.1f} a second."
    elif summary.state == "complete":
        yield "All was done already: this run had nothing left to do."
    if summary.cost:
        yield f"${summary.cost:,.4f} spent, of all runs together."
    if summary.state == "cost":
        yield f"Stopped: more could cost over ${max_cost:,.2f}. The same command with a higher --max-cost goes on."
    if summary.failures:
        yield f"What failed, and why: {summary.failures}. The same command with --retry-failed tries it again."
