"""What the words on a command line stand for: files, folders of pictures, URLs, standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from sensorium.errors import FileMissing, InvalidRequest, SensoriumError
from sensorium.media.folders import SUFFIXES, files_in
from sensorium.media.source import Source

LONGEST_NAME = 120
"""Characters to call several inputs by."""


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to ask about."""

    name: str
    """What to call it: as typed, for a file in a folder the path from where the user stands."""
    what: str | Path | bytes | SensoriumError | None
    """What `Source.of` takes; or why there is nothing; None for what is asked about no file, or about several."""
    place: PurePath
    """Its own name, for a file in a folder the path from there: where its drawing goes."""
    several: tuple[str | Path | bytes, ...] = ()
    """All that one question is about, each as `what`."""
    names: tuple[str, ...] = ()
    """What to call each of several."""

    @property
    def path(self) -> Path | None:
        """The file, when it is one of this machine."""
        if isinstance(self.what, Path):
            return self.what
        return Path(self.what) if isinstance(self.what, str) and not _is_address(self.what) else None


def expand(words: Sequence[str], most_bytes: int, *, every_file: bool = False) -> list[Input]:
    """Each input in order: folders walked, for pictures or for every file; everything else as it is, whatever its name."""
    return [found for word in words for found in _expanded(word, most_bytes, every_file)]


def together(inputs: Sequence[Input]) -> Input:
    """Several inputs as one, for a task that is about several at once."""
    names = tuple(one.name for one in inputs)
    name = ", ".join(names)
    parts: list[str | Path | bytes] = []
    for one in inputs:
        if isinstance(one.what, SensoriumError):
            return Input(one.name, one.what, one.place, names=names)
        if one.what is not None:
            parts.append(one.what)
    called = name if len(name) <= LONGEST_NAME else f"{len(inputs)} pictures"
    return Input(called, None, PurePath("together"), tuple(parts), names)


def is_there(word: str) -> bool:
    """Whether the word is an address, or names a file or folder of this machine."""
    try:
        return word == "-" or _is_address(word) or Path(word).exists()
    except (OSError, ValueError):  # too long for any file
        return False


def is_called_like_a_picture(word: str) -> bool:
    """Whether the word is rather the name of a file that is missing than words."""
    return PurePath(word).suffix.lower() in SUFFIXES


def is_folder(word: str) -> bool:
    """Whether many inputs may come of the word."""
    try:
        return not _is_address(word) and word != "-" and Path(word).is_dir()
    except OSError:  # a name too long for any file; opening it will say so
        return False


def _expanded(word: str, most_bytes: int, every_file: bool) -> Iterator[Input]:
    if word == "-":
        yield Input("-", _standard_input(most_bytes), PurePath("standard-input"))
    elif is_folder(word):
        yield from _files_in(Path(word), every_file)
    elif _is_address(word):
        yield _address(word)
    else:
        yield Input(word, word, PurePath(Path(word).name))


def _address(word: str) -> Input:
    try:
        source = Source.of(word)
    except SensoriumError as error:
        return Input(word[:60], error, PurePath("address"))
    # A data URL may be megabytes, and a URL may carry a password: the source's name has neither.
    return Input(source.name, word, PurePath(PurePath(source.name).name if source.kind == "url" else "data"))


def _standard_input(most_bytes: int) -> bytes:
    if sys.stdin is None:
        raise InvalidRequest("There is no standard input to read")
    # One byte more than allowed is enough to be refused.
    return sys.stdin.buffer.read(most_bytes + 1)


def _is_address(word: str) -> bool:
    return word[:8].lower().startswith(("http://", "https://", "data:"))


def _files_in(folder: Path, every_file: bool) -> Iterator[Input]:
    """The pictures, or all files, of a folder and of those inside it; what cannot be looked into comes last."""
    found = False
    unreadable: list[Input] = []
    for one in files_in(folder, every_file=every_file):
        if isinstance(one, Path):
            found = True
            yield Input(str(one), one, one.relative_to(folder))
        else:
            unreadable.append(_nothing(*one))
    yield from unreadable
    if not found and not unreadable:
        yield _nothing(
            folder, FileMissing(f"There is nothing to look at in {folder}", fix="Name a file to try it anyway")
        )


def _nothing(folder: Path, error: SensoriumError) -> Input:
    return Input(str(folder), error, PurePath(folder.name))
