"""Processes that belong to one that looks after them: started with its settings, and gone when it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence

from sensorium.config import WITH_SECRETS, Settings

STEADY_SECONDS = 10.0
"""A process that lived so long did not die of its start."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Before a second quick death in a row is made good, in seconds; doubled each time."""


def start(
    command: Sequence[str], settings: Settings, passed: Iterable[int], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """A module and its arguments as a process, which reads its settings as a line from standard input.

    That stays open: its end tells the process that this one is gone. Not on Windows.
    """
    process = subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-m", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=tuple(passed),
        env=environment,
        process_group=0,  # Ctrl-C is heard here only
    )
    try:
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        process.stdin.write(settings.model_dump_json(context=WITH_SECRETS).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it died at once, as its exit code will tell
    return process


def close(process: subprocess.Popen[bytes]) -> None:
    """Close this side's ends of the pipes."""
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def pause_after(quick_deaths: int) -> float:
    """Seconds until the next start: none after one death, then ever longer."""
    return 0.0 if quick_deaths < 2 else min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(quick_deaths - 2, 16))


def end(code: int) -> str:
    """How a process ended, as the rest of a sentence."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
