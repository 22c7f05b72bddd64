"""The command of a task, made from its request's schema."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from sensorium import discovery
from sensorium.cli.ask import ForPeople, Json, answer, questions
from sensorium.cli.inputs import Input, expand
from sensorium.cli.options import given, options_of
from sensorium.cli.screen import Screen
from sensorium.config import Settings, load_settings
from sensorium.engine import Options
from sensorium.errors import InvalidConfiguration, SensoriumError
from sensorium.media import limits
from sensorium.registry import Registry, Task
from sensorium.service import Sensorium, limits_of

if TYPE_CHECKING:
    from sensorium.client import Remote

TAKEN = ("model", "json", "draw", "timeout", "cache", "device", "server", "key", "help")
"""Options that every task has, beside those of its fields."""

KEY_VARIABLE = "SENSORIUM_KEY"


def command_of(name: str) -> click.Command:
    """The task's command.

    Raises InvalidConfiguration when the task is a plug-in that cannot be loaded.
    """
    try:
        task = Registry().task(name)
    except SensoriumError:
        raise
    except Exception as error:
        raise InvalidConfiguration(
            f"Task {name!r} cannot be loaded",
            why=f"{type(error).__name__}: {error}",
            fix="Mend or uninstall the package that brings it",
        ) from error
    typed = name.replace("_", "-")
    return click.Command(
        typed,
        params=[*_inputs(task), *_own_options(task), *_common_options(task)],
        callback=partial(_run, task),
        help=_help(task),
        epilog=_examples(typed, task),
    )


def _run(
    task: Task,
    *,
    words: tuple[str, ...] = (),
    model: str | None,
    as_json: bool,
    draw: Path | None = None,
    timeout: float | None,
    use_cache: bool,
    device: str | None,
    server: str | None,
    key: str | None,
    **options: Any,
) -> int:
    if server and device:
        raise click.UsageError("--device does not go with --server: it computes there, on what its own settings say.")
    settings = load_settings(**({"device": device} if device else {}))
    fields = {**given(options), **({"model": model} if model else {})}
    tell = Json(Screen()) if as_json else ForPeople(Screen())

    async def work() -> int:
        inputs = expand(words, settings.max_bytes) if words else [Input(task.name, None, PurePath(task.name))]
        asked = questions(task, inputs, fields, _targets(draw, words, inputs))
        async with _answerer(settings, server, key) as answerer:
            if model and isinstance(answerer, Sensorium):  # told once, rather than for each input
                answerer.registry.card(model, task.name)
            how = {"timeout": timeout, "options": Options(cache=use_cache)}
            return await answer(answerer, asked, len(inputs), how, tell)

    with limits.use(limits_of(settings)):
        return asyncio.run(work())


def _answerer(settings: Settings, server: str | None, key: str | None) -> Sensorium | Remote:
    """This machine, or the server that is named."""
    if server is None:
        return Sensorium(settings)
    from sensorium.client import Remote, Server

    return Remote(Server.of(url=server, key=key, timeout=settings.timeout_seconds))


def _targets(draw: Path | None, words: tuple[str, ...], inputs: list[Input]) -> list[Path] | list[None]:
    if draw is None:
        return [None] * len(inputs)
    from sensorium.cli.drawings import targets

    return targets(draw, words, inputs)


def _inputs(task: Task) -> Iterator[click.Parameter]:
    if task.request.source_fields():
        yield click.Argument(["words"], nargs=-1, required=True, metavar="FILE|URL|FOLDER|-...", callback=_stdin_once)


def _stdin_once(ctx: click.Context, param: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    if words.count("-") > 1:
        raise click.BadParameter("standard input (`-`) can be read only once.", ctx, param)
    return words


def _own_options(task: Task) -> Iterator[click.Option]:
    main = task.request.source_fields()[:1]
    fields = {name: field for name, field in task.request.model_fields.items() if name not in (*main, "model")}
    return options_of(fields, taken=TAKEN)


def _common_options(task: Task) -> Iterator[click.Option]:
    yield click.Option(
        ["--model"],
        metavar="NAME",
        help=f"The model to ask, as name or name@version; `sensorium engines --task {task.name}` lists them. "
        f"[default: what the setting `models` names, else {task.default or 'the own one of each part'}]",
    )
    yield click.Option(
        ["--json", "as_json"],
        is_flag=True,
        help="A line of JSON for each input, in order: {input, result} or {input, error}. [default: words for people]",
    )
    if task.request.source_fields():
        yield click.Option(
            ["--draw"],
            type=click.Path(path_type=Path),
            metavar="OUT",
            help="Write the picture with the answer on it: to a .jpg, .png or .webp, of many inputs into a folder. "
            "[default: no drawing]",
        )
    yield click.Option(
        ["--timeout"],
        type=Seconds(min=0, min_open=True),
        metavar="SECONDS",
        help="How long each input may take, waiting included. [default: the setting `timeout_seconds`]",
    )
    yield click.Option(
        ["--cache/--no-cache", "use_cache"],
        default=True,
        help="Whether a remembered answer will do. [default: cache]",
    )
    yield click.Option(
        ["--device"],
        metavar="auto|cpu|cuda[:N]",
        help="What to compute on: the processor or a graphics card. [default: the setting `device`]",
    )
    yield click.Option(
        ["--server"],
        metavar="URL",
        help="Ask a sensorium server, such as http://host:8000: files are uploaded, URLs passed on. [default: this machine]",
    )
    yield click.Option(
        ["--key"],
        envvar=KEY_VARIABLE,
        metavar="KEY",
        help=f"The server's key; unlike {KEY_VARIABLE} in the environment, others may see it here. [default: no key]",
    )


class Seconds(click.FloatRange):
    """A number of seconds; `nan` is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


def _help(task: Task) -> str:
    summary = discovery.summary(discovery.modules(discovery.TASKS)[task.name])
    if not task.request.source_fields():
        return summary
    return (
        f"{summary}\n\nInputs are files, http(s) URLs, folders (searched for pictures, also inside folders) and `-` for "
        "standard input. One that fails does not stop the others; the exit code is then 2 if an input is to blame, else 1."
    )


def _examples(typed: str, task: Task) -> str:
    if not task.request.source_fields():
        return f"\b\nExample:\n  sensorium {typed} --json"
    return (
        f"\b\nExamples:\n  sensorium {typed} photo.jpg\n  sensorium {typed} photos/ --json > answers.jsonl\n"
        f"  sensorium {typed} photo.jpg --draw marked.jpg"
    )
