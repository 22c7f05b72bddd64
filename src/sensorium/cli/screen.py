"""Where words go: results to standard output, errors and progress to standard error. Plain text when piped."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from sensorium.errors import SensoriumError, Unauthenticated

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

FIRST: TaskID = 0  # type: ignore[assignment] # as rich numbers them
"""The one line of a bar."""

TOLD_EVERY = 60.0
"""Seconds between two lines on how far long work is, where there is no terminal."""

WIDE = 10_000
"""Columns when nobody looks: what is piped is not wrapped."""


def speak_utf8() -> None:
    """Have all output in UTF-8, except on a terminal of another encoding that knows Chinese.

    What cannot be written (a file name that is no text) is written as an escape that JSON reads too.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            keep = stream.isatty() and _knows_chinese(stream.encoding)
            stream.reconfigure(encoding=None if keep else "utf-8", errors="backslashreplace")


class Screen:
    """Standard output and error as people see them."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    @cached_property
    def out(self) -> Console:
        """Made when something is drawn: answers for programs need none."""
        return console()

    @cached_property
    def err(self) -> Console:
        return console(stderr=True)

    def show(self, line: Any) -> None:
        """Write a line for people to standard output, text or rich's Text; long ones are left to the terminal."""
        self.out.print(line, soft_wrap=True, highlight=False, markup=False)

    def draw(self, table: Any) -> None:
        """Draw one of rich's tables, fitted to the terminal."""
        self.out.print(table)

    def write(self, line: str) -> None:
        """Write a line for programs to standard output, as it is and at once."""
        if self._bar and self._bar.console is self.out:
            self.show(line)
        else:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    def say(self, words: str) -> None:
        """Write words to standard output as they come, without a line's end."""
        sys.stdout.write(plain(words))
        sys.stdout.flush()

    def note(self, line: Any) -> None:
        """Write to standard error what is worth knowing beside the answer."""
        self.err.print(line, style="dim", soft_wrap=True, highlight=False, markup=False)

    def complain(self, sentence: str) -> None:
        """Write an error or a hint to standard error."""
        # A bar and a line on the same terminal must go through one console, or they overwrite each other.
        where = self._bar.console if self._bar else self.err
        where.print(plain(sentence), style="red", soft_wrap=True, highlight=False, markup=False)

    @contextmanager
    def share(self, total: int) -> Iterator[Any]:
        """A bar on the terminal for work that goes on elsewhere; tell what it gives how many are done."""
        if not sys.stderr.isatty():
            yield lambda _done: None
            return
        with _bar(self.err, "items") as bar:
            self._bar = bar
            task = bar.add_task("", total=total)
            try:
                yield lambda done: bar.update(task, completed=done)
            finally:
                self._bar = None

    @contextmanager
    def progress(self, total: int) -> Iterator[Any]:
        """A bar on the terminal while many things are done; call what it gives after each."""
        if total < 2 or not sys.stderr.isatty():
            yield lambda: None
            return
        with _bar(self.out if self.out.is_terminal else self.err) as self._bar:
            task = self._bar.add_task("", total=total)
            try:
                yield partial(self._bar.advance, task)
            finally:
                self._bar = None

    @contextmanager
    def tally(self, done: int, failed: int, *, bar: bool = True) -> Iterator[Tally]:
        """Tell how far long work is, on the terminal or now and then as a line. `done` counts failed ones too."""
        if not (bar and sys.stderr.isatty()):
            yield Tally(self, None)
            return
        with _tally_bar(self.out if self.out.is_terminal else self.err) as self._bar:
            tally = Tally(self, self._bar)
            tally(done, failed)
            self._bar.reset(FIRST, completed=done)
            try:
                yield tally
            finally:
                self._bar = None


class Tally:
    """How far long work is; call it with how many are done, failed ones too, and how many failed."""

    def __init__(self, screen: Screen, bar: Progress | None) -> None:
        self._screen, self._bar = screen, bar
        self._total: int | None = None
        self._told = time.monotonic()
        if bar:
            bar.add_task("", total=None, failed="")

    def __call__(self, done: int, failed: int) -> None:
        if self._bar:
            self._bar.update(FIRST, completed=done, failed=f", {failed:,} failed" if failed else "")
        elif time.monotonic() - self._told > TOLD_EVERY:
            self._told = time.monotonic()
            of = f" of {self._total:,}" if self._total else ""
            self._screen.note(f"{done:,}{of} done, {failed:,} of them failed")

    def expect(self, total: int) -> None:
        """Say how many there will be, once that is known. From any thread."""
        self._total = total
        if self._bar:
            self._bar.update(FIRST, total=total)


def console(*, stderr: bool = False) -> Console:
    """A console for people: colours only on a terminal, and piped lines are never wrapped."""
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            raise  # we are inside the handler: the group ends it quietly

    made = Quiet(stderr=stderr, highlight=False, emoji=False)
    if not made.is_terminal:
        made.width = WIDE
    return made


def told(error: SensoriumError) -> str:
    """An error for who typed the command: what a server says of keys is for those who write headers."""
    return (
        f"{error} Here: --key KEY, or the variable SENSORIUM_KEY." if isinstance(error, Unauthenticated) else f"{error}"
    )


def plain(text: str) -> str:
    """Text from a picture, a file name or a server, without signs that would steer the terminal."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "�" for sign in text)


def _bar(console: Console, what: str = "pictures") -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(f"{what},"), TimeRemainingColumn(), TextColumn("left"))
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)


def _tally_bar(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.1f} a second" if speed else "")

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"), Rate())
    return Progress(
        *columns,
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        speed_estimate_period=60.0,
    )


def _knows_chinese(encoding: str) -> bool:
    try:
        "中█■".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
