"""The files of a batch: what is begun, gone on with, and finished, so that a crash at any moment leaves a state to go on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sensorium.batch import outputs
from sensorium.batch.journal import Journal, Line, encoded, write_whole, writing
from sensorium.errors import InvalidConfiguration


class Files:
    """The output, the failures, and a folder beside them with what is known of the work."""

    def __init__(self, output: Path, format: str) -> None:  # noqa: A002 - what it is called everywhere here
        self.output, self._format = output, format
        own = f"{output.stem}.failures{output.suffix}" if format == "jsonl" else f"{output.name}.failures.jsonl"
        self.failures = output.with_name(own)  # another one for `out.csv` than for `out.jsonl`
        self._state = output.with_name(output.name + ".batch")
        self._journal = output if format == "jsonl" else self._state / "journal.jsonl"
        self._index = self._state / "index.sqlite"
        self._command = self._state / "command.json"
        self._again = self._state / "again.jsonl"

    def begin(self, command: Mapping[str, Any], *, restart: bool = False, retry_failed: bool = False) -> Journal:
        """The journal with all that earlier runs of the same command did; a new one at first.

        Raises InvalidConfiguration where the output is of another command or of none, or another process writes there;
        and OutputFailed.
        """
        with writing(self.output):
            self._state.mkdir(parents=True, exist_ok=True)
        if restart:
            self._remove()
        self._check(command)
        journal = Journal(self._journal, self._index)
        try:
            write_whole(self._command, [json.dumps(command, indent=1).encode()])
            if retry_failed:
                self._take_out_failures(journal)
            self._rewrite_failures(journal)
        except BaseException:
            journal.close()
            raise
        return journal

    def noted(self) -> list[dict[str, Any]]:
        """What failed before, and is to be done also where it is no more among the inputs: `image`, and what it cost, `cost`."""
        if not self._again.exists():
            return []
        return [_understood(line, self._again) for line in self._again.read_bytes().splitlines()]

    def tell_failures(self, lines: Sequence[Line]) -> None:
        """Add to the failures. Raises OutputFailed."""
        with writing(self.failures), self.failures.open("ab") as file:
            file.write(b"".join(map(encoded, lines)))

    def finish(self, journal: Journal, *, keep_order: bool) -> None:
        """Write what is made of the journal at the end. Raises OutputFailed."""
        if self._format != "jsonl":
            part = self._state / "part"
            outputs.write(self.output, self._format, lambda: journal.lines(in_order=keep_order), part)
        elif keep_order and not journal.is_in_order:
            journal.keep(journal.lines(in_order=True))

    def _remove(self) -> None:
        Journal(None, self._index).close()  # nobody else writes there
        with writing(self.output):
            for path in (self.output, self.failures):
                path.unlink(missing_ok=True)
            shutil.rmtree(self._state)
            self._state.mkdir()

    def _check(self, command: Mapping[str, Any]) -> None:
        if not self._command.exists():
            if self.output.exists() and self.output.stat().st_size:
                fix = "Name another output by -o, or have it overwritten by --restart"
                raise InvalidConfiguration(f"{self.output} exists already, and is of no unfinished batch", fix=fix)
            return
        known = _understood(self._command.read_bytes(), self._command)
        if known != command and self._journal.exists() and self._journal.stat().st_size:
            told = "; ".join(_changes(known, command))
            fix = "Run that one to go on, name another output by -o, or begin anew by --restart"
            raise InvalidConfiguration(f"{self.output} was begun by another command", why=told, fix=fix)

    def _take_out_failures(self, journal: Journal) -> None:
        """What failed is noted, then taken out: a crash in between loses nothing."""
        failed = [str(json.loads(line)["image"]) for line in journal.failures()]
        if failed:
            notes = {str(one["image"]): float(one["cost"]) for one in self.noted()}
            notes |= {name: notes.get(name, 0.0) for name in failed}
            notes[failed[0]] += journal.spent_on_failures
            told = (json.dumps({"image": name, "cost": cost}).encode() + b"\n" for name, cost in notes.items())
            write_whole(self._again, told)
            journal.keep(journal.results())

    def _rewrite_failures(self, journal: Journal) -> None:
        if any(journal.counts()):
            write_whole(self.failures, journal.failures())
        else:
            with writing(self.failures):
                self.failures.unlink(missing_ok=True)


def _changes(known: Mapping[str, Any], command: Mapping[str, Any]) -> Iterator[str]:
    """What is another in a command than in the one that is known; the options of its task one by one."""
    was, now = ({**one, **one.get("fields", {})} for one in (known, command))
    for name in sorted({*was, *now} - {"fields"}):
        if was.get(name) != now.get(name):
            yield f"{name.replace('_', '-')} was {_short(was.get(name))}, now {_short(now.get(name))}"


def _understood(text: bytes, path: Path) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        fix = "Name another output by -o, or begin anew by --restart"
        raise InvalidConfiguration(f"{path} is damaged", why=str(error), fix=fix) from error
    return told if isinstance(told, dict) else {}


def _short(value: Any) -> str:
    if value is None:
        return "not given"
    told = " ".join(map(str, value)) if isinstance(value, list) else json.dumps(value, ensure_ascii=False)
    return told if len(told) <= 80 else f"{told[:77]}…"
