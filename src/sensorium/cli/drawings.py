"""Where pictures go that are drawn on, or are the answer, and how they get there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePath

from sensorium.cli.inputs import Input, is_folder
from sensorium.cli.views import headline
from sensorium.errors import InvalidConfiguration, InvalidRequest
from sensorium.media.draw import annotate, encode
from sensorium.media.encode import FORMATS, Format
from sensorium.media.folders import SUFFIXES as PICTURES
from sensorium.media.pool import in_thread
from sensorium.media.source import Source
from sensorium.schemas.base import Result
from sensorium.schemas.picture import Picture

SUFFIXES = tuple(FORMATS)
ENDINGS: dict[Format, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
LOSSLESSLY = PICTURES - {".jpg", ".jpeg", ".jpe", ".jfif", ".webp"}
"""Endings of pictures of which none is a JPEG: written as PNG, nothing is lost."""


def targets(
    typed: str, words: Sequence[str], inputs: Sequence[Input], option: str = "--draw", format_: Format | None = None
) -> list[Path]:
    """Where the picture of each input goes: the file that is typed for one, else a file of its own in the folder.

    What ends in a slash is a folder. In one, pictures are named by the format, or as their inputs are.
    Raises InvalidRequest, before any work, when that would overwrite an input or cannot be written at all.
    """
    out = Path(typed)
    many, folder = len(words) > 1 or is_folder(words[0]), out.is_dir() or typed.endswith(("/", os.sep))
    if many and out.suffix.lower() in SUFFIXES and not folder:
        raise InvalidRequest(f"Cannot write many pictures into {out}", fix=f"Name a folder for them: `{option} folder`")
    if not (many or folder):
        _check_name(out, option, format_)
    files = _in_folder(out, inputs, format_) if many or folder else [out]
    taken = {path.resolve() for path in (asked.path for asked in inputs) if path}
    for file in files:
        if file.resolve() in taken:
            raise InvalidRequest(f"Will not write over {file}", why="it is one of the inputs", fix="Name another place")
    return files


async def draw(source: Source, result: Result, target: Path) -> None:
    """Write the picture with the answer drawn on it, or the one that is the answer; whole or not at all.

    Raises InvalidConfiguration when the file cannot be written.
    """
    if isinstance(result, Picture):
        await in_thread(_put, target, result.data)
        return
    image = await source.image()
    await in_thread(lambda: _put(target, encode(annotate(image, result.marks(), headline(result)), target.suffix)))


def _check_name(file: Path, option: str, format_: Format | None) -> None:
    named = FORMATS.get(file.suffix.lower())
    if named is None:
        why, fix = f"it ends in none of {', '.join(SUFFIXES)}", f"Name such a file, or a folder: `{option} {file}/`"
        raise InvalidRequest(f"Cannot write a picture into {file}", why=why, fix=fix)
    if format_ not in (None, named):
        why = f"its name says {named}, and `--format` {format_}"
        raise InvalidRequest(f"Cannot write the picture into {file}", why=why, fix="Leave `--format` away")


def _in_folder(folder: Path, inputs: Sequence[Input], format_: Format | None) -> list[Path]:
    taken: set[str] = set()
    return [folder / _free(_as_picture(asked.place, format_), taken) for asked in inputs]


def _as_picture(place: PurePath, format_: Format | None) -> PurePath:
    """The name with an ending that says the format; without one wanted, that of the input, or PNG."""
    suffix = place.suffix.lower()
    came = FORMATS.get(suffix) or ("png" if suffix in LOSSLESSLY else "jpeg")
    wanted = format_ or came
    if FORMATS.get(suffix) == wanted:
        return place
    ending = ENDINGS[wanted]
    return place.with_suffix(ending) if suffix in PICTURES else place.with_name(f"{place.name}{ending}")


def _free(place: PurePath, taken: set[str]) -> PurePath:
    """The name, numbered if another input has it: on many machines also one that differs only in capitals."""
    free, number = place, 1
    while str(free).casefold() in taken:
        number += 1
        free = place.with_stem(f"{place.stem}-{number}")
    taken.add(str(free).casefold())
    return free


def _umask() -> int:
    """What the user takes from the rights of new files; asking means setting."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _put(target: Path, picture: bytes) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=target.suffix)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(picture)
            Path(name).chmod(0o666 & ~_umask())  # a temporary file is its owner's alone
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise InvalidConfiguration(f"Cannot write {target}", why=error.strerror or str(error)) from error
