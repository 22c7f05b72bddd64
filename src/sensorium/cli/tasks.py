"""The command of a task, made from its request's schema."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import Collection, Coroutine, Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from sensorium import discovery
from sensorium.cli.ask import ForPeople, Json, answer, follow, questions
from sensorium.cli.inputs import Input, expand, is_called_like_a_picture, is_there, together
from sensorium.cli.options import given, options_of
from sensorium.cli.screen import Screen
from sensorium.config import Settings, load_settings
from sensorium.engine import Options
from sensorium.errors import InvalidConfiguration, SensoriumError
from sensorium.media import limits
from sensorium.registry import Registry, Task
from sensorium.schemas.ask import Answer
from sensorium.schemas.base import ImageResult
from sensorium.schemas.picture import Picture
from sensorium.service import Sensorium, limits_of

if TYPE_CHECKING:
    from sensorium.client import Remote

TAKEN = (
    "model",
    "json",
    "stream",
    "draw",
    "out",
    "timeout",
    "cache",
    "privacy",
    "max-cost",
    "device",
    "server",
    "key",
    "help",
)
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
        params=[*inputs_of(task), *own_options(task), *_common_options(task)],
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
    as_it_comes: bool | None = None,
    target: str | None = None,
    timeout: float | None,
    use_cache: bool,
    privacy: str,
    max_cost: float | None,
    device: str | None,
    server: str | None,
    key: str | None,
    **options: Any,
) -> int:
    if server and device:
        raise click.UsageError("--device does not go with --server: it computes there, on what its own settings say.")
    if issubclass(task.answer, Picture) and target is None and not as_json:
        raise click.UsageError("Say where the picture goes: `-o out.jpg`; of many inputs, a folder.")
    settings = load_settings(**({"device": device} if device else {}))
    fields = {**given(options), **({"model": model} if model else {})}
    words, fields = told_apart(task, words, fields)
    how = {"timeout": timeout, "options": Options(cache=use_cache, remote=privacy == "any", max_cost=max_cost)}

    async def work() -> int:
        inputs = _inputs_of(task, words, settings)
        asked = questions(task, inputs, fields, _targets(task, target, words, inputs, fields))
        tell = Json(Screen()) if as_json else ForPeople(Screen(), alone=len(inputs) == 1)
        async with _answerer(settings, server, key) as answerer:
            if isinstance(answerer, Sensorium) and model and not task.about:  # told once, rather than for each input
                answerer.registry.card(model, task.asks or task.name)
            if len(inputs) == 1 and isinstance(tell, ForPeople) and _streams(task, as_it_comes):
                return await follow(answerer, next(asked), how, tell)
            return await answer(answerer, asked, len(inputs), how, tell)

    with limits.use(limits_of(settings)):
        return finish(work())


def finish(work: Coroutine[Any, Any, int]) -> int:
    """The exit code of the work, which Ctrl-C ends.

    It may come just while a result is handed over, which asyncio then cannot do, and tells with a traceback.
    """
    told = logging.getLogger("asyncio")
    told.addFilter(_matters)
    try:
        return asyncio.run(work)
    finally:
        told.removeFilter(_matters)


def _matters(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.InvalidStateError))


def told_apart(task: Task, words: tuple[str, ...], fields: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The inputs, and the fields with those that were given by place after them.

    Raises UsageError where the last word is rather a file than a question, and the task needs one.
    """
    for name in reversed(task.request.positional):
        if name in fields or "messages" in fields:
            continue
        if task.about and (not words or is_there(words[-1]) or is_called_like_a_picture(words[-1])):
            continue
        if not words or is_there(words[-1]):
            example = task.request.model_fields[name].examples or ["..."]
            raise click.UsageError(_put_last(task.name, words, str(example[0])))
        words, fields = words[:-1], {**fields, name: words[-1]}
    return words, fields


def _put_last(command: str, words: tuple[str, ...], example: str) -> str:
    """How to ask; with the caller's own question, where it stands before the pictures."""
    asked = [word for word in words if " " in word.strip() and not is_there(word)]
    question = asked[0] if len(asked) == 1 else example
    inputs = [f'"{word}"' if " " in word else word for word in words if word != question]
    typed = " ".join(inputs) if len(inputs) < 4 else "photo.jpg"
    return f'What do you want to know? Put it last: `sensorium {command} {typed} "{question}"`'.replace("  ", " ")


def _inputs_of(task: Task, words: tuple[str, ...], settings: Settings) -> list[Input]:
    if not words:
        return [Input(task.name, None, PurePath(task.name))]
    found = expand(words, settings.max_bytes)
    return [together(found)] if task.request.gathers else found


def _streams(task: Task, asked_for: bool | None) -> bool:
    """Whether words are told as they come: to people who look on, unless they say otherwise."""
    return issubclass(task.answer, Answer) and (sys.stdout.isatty() if asked_for is None else asked_for)


def _answerer(settings: Settings, server: str | None, key: str | None) -> Sensorium | Remote:
    """This machine, or the server that is named."""
    if server is None:
        return Sensorium(settings)
    from sensorium.client import Remote, Server

    return Remote(Server.of(url=server, key=key, timeout=settings.timeout_seconds))


def _targets(
    task: Task, target: str | None, words: tuple[str, ...], inputs: list[Input], fields: dict[str, Any]
) -> list[Path] | list[None]:
    if target is None:
        return [None] * len(inputs)
    from sensorium.cli.drawings import targets

    if not issubclass(task.answer, Picture):
        return targets(target, words, inputs)
    wanted = fields.get("format")
    return targets(target, words, inputs, option="-o", format_=wanted if wanted != "same" else None)


def inputs_of(task: Task) -> Iterator[click.Parameter]:
    """What a command takes before its options."""
    if not _takes_pictures(task):
        return
    words = (f"[{name.upper()}]" if task.about else name.upper() for name in task.request.positional)
    metavar = " ".join(("FILE|URL|FOLDER|-...", *words))
    required = task.request.needs_source()
    yield click.Argument(
        ["words"],
        nargs=-1,
        required=required,
        metavar=metavar if required else metavar.replace("FILE|URL|FOLDER|-...", "[FILE|URL|FOLDER|-...]"),
        callback=_stdin_once,
    )


def _takes_pictures(task: Task) -> bool:
    return bool(task.request.source_fields() or task.request.gathers)


def _takes_two(task: Task) -> bool:
    """Whether neither fewer pictures nor more belong to a question."""
    told = task.request.model_fields[task.request.gathers or ""].metadata
    return any(getattr(mark, "max_length", None) == 2 for mark in told)


def _stdin_once(ctx: click.Context, param: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    if words.count("-") > 1:
        raise click.BadParameter("standard input (`-`) can be read only once.", ctx, param)
    return words


def own_options(task: Task, taken: Collection[str] = TAKEN) -> Iterator[click.Option]:
    """Those of its request's fields; one whose name is taken is called --task-name."""
    main = (*task.request.source_fields()[:1], task.request.gathers)
    fields = {name: field for name, field in task.request.model_fields.items() if name not in (*main, "model")}
    return options_of(fields, taken=taken, of=task.name.replace("_", "-"))


def _else(task: Task) -> str:
    """What is asked where the settings name no model."""
    if task.run is not None:
        return ", else the own one of each part"
    return f", else {' or '.join(task.defaults)}" if task.defaults else ""


def serving_options(task: Task) -> Iterator[click.Option]:
    """Who answers, and how."""
    yield click.Option(["--model"], metavar="NAME", help=_about(task) if task.about else _asked(task))
    yield click.Option(
        ["--timeout"],
        type=Amount(min=0, min_open=True),
        metavar="SECONDS",
        help="How long each input may take, waiting included. [default: the setting `timeout_seconds`]",
    )
    yield click.Option(
        ["--privacy"],
        type=click.Choice(["any", "local"]),
        default="any",
        help="Which models may answer; local: none for which pictures or words would leave the machine. [default: any]",
    )
    yield click.Option(
        ["--device"],
        metavar="auto|cpu|cuda[:N]",
        help="What to compute on: the processor or a graphics card. [default: the setting `device`]",
    )


def _common_options(task: Task) -> Iterator[click.Option]:
    yield click.Option(
        ["--json", "as_json"],
        is_flag=True,
        help=f"{_lines_of(task)} [default: words for people]",
    )
    if issubclass(task.answer, Answer):
        yield click.Option(
            ["--stream/--no-stream", "as_it_comes"],
            default=None,
            help="Whether to write the words of one answer as they come. [default: stream on a terminal]",
        )
    if issubclass(task.answer, Picture):
        yield click.Option(
            ["-o", "--out", "target"],
            type=click.Path(),
            metavar="OUT",
            help="Where the picture goes: into a .jpg, .jpeg, .png or .webp; or into a folder (`out/`), of many inputs always. "
            "Needed unless with --json.",
        )
    elif issubclass(task.answer, ImageResult):
        yield click.Option(
            ["--draw", "target"],
            type=click.Path(),
            metavar="OUT",
            help="Write the picture with the answer on it: to a .jpg, .jpeg, .png or .webp; or into a folder (`out/`), of many "
            "inputs always. "
            "[default: no drawing]",
        )
    yield from serving_options(task)
    yield click.Option(
        ["--cache/--no-cache", "use_cache"],
        default=True,
        help="Whether a remembered answer will do. [default: cache]",
    )
    yield click.Option(
        ["--max-cost"],
        type=Amount(min=0),
        metavar="DOLLARS",
        help="The most that each answer may cost, by the estimate before it is asked for. [default: no limit]",
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


def _lines_of(task: Task) -> str:
    """What --json writes."""
    if task.request.gathers:
        return "One line of JSON: {inputs, result} or {inputs, error}."
    beside = " With -o the picture is in its file alone." if issubclass(task.answer, Picture) else ""
    return "A line of JSON for each input, in order: {input, result} or {input, error}." + beside


def _asked(task: Task) -> str:
    asked = Registry().task(task.asks) if task.asks else task
    return (
        f"The model to ask, as name or name@version; `sensorium engines --task {asked.name}` lists them. "
        f"[default: what the setting `models` names{_else(asked)}]"
    )


def _about(task: Task) -> str:
    return " ".join((task.request.model_fields["model"].description or "").split())


class Amount(click.FloatRange):
    """A number of seconds, or of dollars; `nan` is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        amount: float = super().convert(value, param, ctx)
        if math.isnan(amount):
            self.fail(f"{value!r} is no number.", param, ctx)
        return amount


def _help(task: Task) -> str:
    summary = discovery.summary(discovery.modules(discovery.TASKS)[task.name])
    if not _takes_pictures(task):
        return summary
    if task.request.gathers:
        many = "two pictures" if _takes_two(task) else "two pictures or more"
        return f"{summary}\n\nInputs are files, http(s) URLs, folders and `-` for standard input: {many}."
    if task.request.positional:
        last = "may come last" if task.about else "comes last"
        alone = "counted" if task.about else "asked"
        summary = f"{summary}\n\nThe question {last}; without inputs before it, it is {alone} by itself."
    return (
        f"{summary}\n\nInputs are files, http(s) URLs, folders (searched for pictures, also inside folders) and `-` for "
        "standard input. One that fails does not stop the others; the exit code is then 2 if an input is to blame, else 1."
    )


def _examples(typed: str, task: Task) -> str:
    if not _takes_pictures(task):
        return f"\b\nExample:\n  sensorium {typed} --json"
    if task.request.gathers:
        question = task.request.model_fields.get("question")
        asked = (
            f'\n  sensorium {typed} a.jpg b.jpg --question "{(question.examples or ["..."])[0]}"' if question else ""
        )
        inputs = "a.jpg b.jpg" if _takes_two(task) else "photos/"
        return (
            f"\b\nExamples:\n  sensorium {typed} a.jpg b.jpg{asked}\n  sensorium {typed} {inputs} --json > answer.json"
        )
    fields = task.request.model_fields
    asked = "".join(f' "{(fields[name].examples or [name])[0]}"' for name in task.request.positional)
    model = f" --model {(fields['model'].examples or ['NAME'])[0]}" if task.about else ""
    alone = f"\n  sensorium {typed}{asked}{model}" if asked else ""
    if issubclass(task.answer, Picture):
        return f"\b\nExamples:\n  sensorium {typed} photo.jpg -o out.jpg\n  sensorium {typed} photos/ -o out/"
    drawn = f"\n  sensorium {typed} photo.jpg --draw marked.jpg" if issubclass(task.answer, ImageResult) else ""
    return (
        f"\b\nExamples:\n  sensorium {typed} photo.jpg{asked}{model}\n"
        f"  sensorium {typed} photos/{asked}{model} --json > answers.jsonl{alone}{drawn}"
    )
