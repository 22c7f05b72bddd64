"""The pictures of a folder, one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sensorium.errors import FileMissing
from sensorium.media.identify import identify

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".avif")
)
"""Files of a folder that are taken for pictures without a look inside."""

HEAD = 4096
"""Bytes of any other file that are looked at."""


def files_in(
    folder: Path, *, every_file: bool = False, recursive: bool = True
) -> Iterator[Path | tuple[Path, FileMissing]]:
    """The pictures, or all files, of a folder and of those inside it, by name; hidden ones left out.

    A folder that cannot be looked into comes as itself, with why. Of each folder only the names are held.
    """
    unreadable: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in sorted(files):
            path = Path(place, name)
            if not name.startswith(".") and _is_wanted(path, every_file):
                yield path
        yield from _told(unreadable)
    yield from _told(unreadable)


def _told(unreadable: list[OSError]) -> Iterator[tuple[Path, FileMissing]]:
    while unreadable:
        error = unreadable.pop(0)
        yield Path(error.filename), FileMissing(f"Cannot look into {error.filename}", why=str(error.strerror))


def _is_wanted(path: Path, every_file: bool) -> bool:
    """Whether it is a file, and looks like a picture; one of an unknown suffix is opened, pipes and devices never."""
    try:
        return path.is_file() and (every_file or path.suffix.lower() in SUFFIXES or _begins_like_a_picture(path))
    except OSError:
        return False


def _begins_like_a_picture(path: Path) -> bool:
    with path.open("rb") as file:
        kind = identify(file.read(HEAD))
    return kind is not None and kind.family == "picture"
