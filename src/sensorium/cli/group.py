"""The commands by name, loaded one at a time, and how each way of ending is told."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from sensorium import __version__, discovery
from sensorium.errors import Forbidden, InvalidConfiguration, InvalidInput, SensoriumError, Unauthenticated

OTHERS = {
    "batch": "sensorium.cli.batch",
    "engines": "sensorium.cli.engines",
    "probe": "sensorium.cli.probe",
    "models": "sensorium.cli.models",
    "settings": "sensorium.cli.settings",
    "doctor": "sensorium.cli.doctor",
    "serve": "sensorium.cli.serve",
    "worker": "sensorium.cli.worker",
    "keys": "sensorium.cli.keys",
    "usage": "sensorium.cli.usage",
    "jobs": "sensorium.cli.jobs",
    "health": "sensorium.cli.health",
}
"""The commands that are no tasks, in the order of the help, with the module that holds each as `command`."""

ASKING = ("batch",)
"""Those of them that ask about pictures."""

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes; the last is 128 and SIGINT, as shells count."""

CORRECTABLE = (InvalidInput, InvalidConfiguration, Unauthenticated, Forbidden, click.ClickException)
"""What whoever typed the command can correct: the exit code is BAD_INPUT."""

DEBUG_VARIABLE = "SENSORIUM_DEBUG"

EXAMPLE = """\b
Examples:
  sensorium analyze holiday.jpg
  sensorium classify photos/ --json > labels.jsonl
  sensorium read https://example.com/sign.png --draw sign-marked.jpg
  sensorium batch photos/ --task classify -o labels.jsonl

\b
`sensorium COMMAND --help` says more. Something wrong? `sensorium doctor`."""


class Commands(click.Group):
    """`sensorium`: every task is a command, and so are the others named above."""

    def __init__(self) -> None:
        super().__init__(
            "sensorium",
            help="Understand images on your own machine: what they show, what is written in them, how they look.",
            epilog=EXAMPLE,
            context_settings={"help_option_names": ["-h", "--help"]},
            params=[
                click.Option(
                    ["--debug"],
                    is_flag=True,
                    expose_value=False,
                    help=f"Show where an error comes from; may stand after any command. Also by {DEBUG_VARIABLE}=1.",
                )
            ],
        )
        click.version_option(__version__, prog_name="sensorium")(self)

    def main(self, args: Sequence[str] | None = None, *ignored: Any, **extra: Any) -> Any:  # noqa: ARG002
        """Run the command that the arguments name, and exit with its code. Never shows a traceback unasked."""
        extra.pop("prog_name", None)
        words = list(sys.argv[1:] if args is None else args)
        asked = "--debug" in (words[: words.index("--")] if "--" in words else words)
        if asked:  # anywhere: one thinks of it after the command
            words.remove("--debug")
            args = words  # otherwise left as it was: click itself expands * on Windows
        run = partial(super().main, args, **extra, standalone_mode=False, prog_name="sensorium")
        sys.exit(_told(run, debug=asked or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [*_tasks(), *OTHERS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        from importlib import import_module

        if cmd_name in OTHERS:
            command: click.Command = import_module(OTHERS[cmd_name]).command
            return command
        if cmd_name in _tasks():
            from sensorium.cli.tasks import command_of

            return command_of(_tasks()[cmd_name])
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0].replace("_", "-"), self.list_commands(ctx)
        if not (ctx.resilient_parsing or name.startswith("-") or name in known):
            raise _no_such_command(args[0], known, ctx)
        return super().resolve_command(ctx, [name, *args[1:]])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        # click's own would load every command to ask for its summary.
        asking, looking_after = (
            _other_summaries(ASKING),
            _other_summaries([name for name in OTHERS if name not in ASKING]),
        )
        for title, rows in (
            ("Ask about pictures", [*_task_summaries(), *asking]),
            ("Look after sensorium", looking_after),
        ):
            with formatter.section(title):
                formatter.write_dl(rows)


def exit_code(error: BaseException) -> int:
    """2 for what the caller can correct, 1 for the rest."""
    return BAD_INPUT if isinstance(error, CORRECTABLE) else FAILED


def _told(run: Callable[[], Any], *, debug: bool) -> int:
    """The exit code of the run; what went wrong has been said in plain words."""
    from sensorium.cli.screen import speak_utf8, told

    try:
        speak_utf8()
        code = run()
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except (KeyboardInterrupt, click.Abort):
        _say("Interrupted.")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last one to know
        if isinstance(error, OSError) and _is_broken_pipe(error):
            return _reader_gone()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _say("Error: The answers cannot be written: the disk is full.")
            return exit_code(error)
        _say(f"Error: {told(error)}" if isinstance(error, SensoriumError) else _unexpected(error))
        if debug:
            _say(traceback.format_exc())
        return exit_code(error)
    return code if isinstance(code, int) else 0


def _unexpected(error: Exception) -> str:
    return (
        f"Error: sensorium broke: {type(error).__name__}: {error}. That is its own fault: please report it with your "
        "command, what it says with --debug, and what `sensorium doctor` says."
    )


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)


def _is_broken_pipe(error: OSError) -> bool:
    # Windows says EINVAL when the reader of a pipe has gone.
    return error.errno == errno.EPIPE or (os.name == "nt" and error.errno == errno.EINVAL and error.filename is None)


def _reader_gone() -> int:
    """Let the interpreter flush what is left into nothing, so that it says nothing about it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


def _tasks() -> dict[str, str]:
    """The tasks' names as typed, with their own."""
    names = sorted(discovery.modules(discovery.TASKS))
    return {name.replace("_", "-"): name for name in names if name not in OTHERS}


def _task_summaries() -> list[tuple[str, str]]:
    places = discovery.modules(discovery.TASKS)
    return [(typed, _summary(places[name])) for typed, name in _tasks().items()]


def _other_summaries(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, _summary(OTHERS[name])) for name in names]


def _summary(place: str) -> str:
    try:
        return discovery.summary(place)
    except Exception as error:  # noqa: BLE001 - a plug-in may be broken in any way, and the help must still come
        return f"(broken: {error})"


def _no_such_command(given: str, known: list[str], ctx: click.Context) -> click.UsageError:
    import difflib

    if Path(given).exists() or given.startswith(("http://", "https://")):
        return click.UsageError(f"{given!r} is no command. Did you mean `sensorium analyze {given}`?", ctx)
    near = difflib.get_close_matches(given.replace("_", "-"), known, n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(known)}."
    return click.UsageError(f"There is no command {given!r}. {hint}", ctx)
