"""Where a model's weights are, whether they are the right ones, and the ONNX graphs built from those that need it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import ModuleType

from sensorium.engine import Card, Weights
from sensorium.errors import InvalidModel, ModelNotInstalled

log = logging.getLogger("sensorium.models")

SETTLED_SECONDS = 1.0
"""How long a file must have stood unchanged to be taken for whole, where no checksum says so: whoever copies, writes
many times a second."""

Stand = tuple[int, ...] | None
"""What changes when a file does: size, times and place on the disk, in that order; None where there is no file."""


def locate(card: Card, file: str | None = None) -> Path:
    """The file with the card's weights, or another that lies where they do, as it was installed; its content is not looked at.

    Raises ModelNotInstalled naming the command that brings it, and InvalidModel for a card that names no file, or one
    outside of its folder.
    """
    weights = _weights(card)
    file = file or weights.file
    for folder in _folders(card, weights):
        # An installer may link a package's files to its own store; the models folder has no reason to lead elsewhere.
        path = inside(folder, file, may_link=weights.package is not None)
        if path.is_file():
            return path
    raise ModelNotInstalled(
        f"Model {card.id} is not installed", why=f"{file} is not on this machine", fix=_remedy(card)
    )


def is_installed(card: Card) -> bool:
    """Whether the card's weights are on this machine, or it needs none. Neither reads nor imports anything."""
    try:
        require(card)
    except (ModelNotInstalled, InvalidModel):
        return False
    return True


def require(card: Card) -> None:
    """Raises as `locate` unless all files that the model consists of are on this machine. Neither reads nor imports anything."""
    if card.weights is not None:
        for named in (card.weights.file, *part_files(card)):
            locate(card, named)


def part_files(card: Card) -> tuple[str, ...]:
    """The files of a model's parts beside its weights: of each table in the card's `input` that has one, its `file`."""
    named = (part.get("file") for part in card.input.values() if isinstance(part, Mapping))
    return tuple(name for name in named if isinstance(name, str))


def onnx_model(card: Card, cache_dir: Path) -> Path | bytes:
    """The card's model: the file of the weights themselves, or the graph that the card's builder makes of them.

    Built graphs are kept in `cache_dir`, named by the checksums of what they were made from and of themselves, so that
    a damaged one is noticed and built again, and processes that build at once put down the same. Where nothing can be
    written there, the graph's bytes.

    Raises ModelNotInstalled and InvalidModel, the latter also for weights that are not those of the card's checksum.
    """
    path, weights = locate(card), _weights(card)
    if weights.sha256 is None and weights.package is None:
        _settled(path)
    checksum = verified(path, card)
    if weights.builder is None:
        return path
    builder = _builder(weights.builder, card)
    recipe = f"{card.name} {card.input} {card.quirks} {builder.BUILDER_VERSION} {checksum}"
    stem = f"{card.name}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    kept = _kept(cache_dir, stem)
    if kept is not None:
        return kept
    graph = bytes(builder.build(path, card))
    try:
        return _keep(cache_dir, stem, graph)
    except OSError as error:
        log.warning("Model %s is built anew in each process: %s cannot be written (%s)", card.id, cache_dir, error)
        return graph


def verified(path: Path, card: Card) -> str:
    """The file's sha256, which is the card's if the card names one.

    Raises InvalidModel when they differ.
    """
    expected, found = _weights(card).sha256, _sha256(path)
    if expected is not None and found != expected:
        raise InvalidModel(
            f"Model {card.id} cannot be used",
            why=f"the sha256 of {path.name} begins with {found[:12]}, its card says {expected[:12]}",
            fix="Install it again, or, if the file is meant to be another, write its sha256 on the card",
        )
    return found


def files(card: Card) -> tuple[str, ...]:
    """The files beside the card that the model consists of, as the card names them; whether they are there or not."""
    carried = card.weights is not None and card.weights.package is not None
    named = (*([card.weights.file] if card.weights else []), *part_files(card))
    labels = () if card.labels in (None, "imagenet") else (card.labels,)
    return (*(() if carried else named), *labels)


def stand(path: Path) -> Stand:
    """How a file stands on the disk: equal at two moments means that nobody wrote between them."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def inside(folder: Path, file: str, *, may_link: bool = False) -> Path:
    """The path of a file named with forward slashes, which must lie in the folder.

    Raises InvalidModel when the name, or a symbolic link on the way unless `may_link`, leads out of it.
    """
    parts = PurePosixPath(file).parts
    # Backslashes and colons are Windows's own ways of leading elsewhere.
    if not parts or PurePosixPath(file).is_absolute() or ".." in parts or re.search(r"[\\:\0]", file):
        raise _leads_out(file)
    path = folder.joinpath(*parts)
    if not (may_link or path.resolve().is_relative_to(folder.resolve())):
        raise _leads_out(file)
    return path


def _settled(path: Path) -> None:
    """Blocks for a moment when the file is new. Raises InvalidModel when it is still being written."""
    before = stand(path)
    if before is None or before[1] / 1e9 + SETTLED_SECONDS <= time.time():
        return
    time.sleep(SETTLED_SECONDS)
    if stand(path) != before:
        raise InvalidModel(
            f"{path.name} cannot be used yet",
            why="it is still being written",
            fix="Wait until it is whole; with `weights.sha256` on the card, only the right file is ever taken",
        )


def _leads_out(file: str) -> InvalidModel:
    return InvalidModel(f"The file {file!r} is refused", why="it leads out of the model's folder")


def _weights(card: Card) -> Weights:
    if card.weights is None:
        raise InvalidModel(f"Model {card.id} cannot be used", why="its card names no weights")
    return card.weights


def _folders(card: Card, weights: Weights) -> list[Path]:
    if weights.package is None:
        return [card.folder] if card.folder else []
    # A dotted name would have its parents imported; packages that carry weights are not dotted.
    if not weights.package.isidentifier():
        raise InvalidModel(f"Model {card.id} cannot be used", why=f"{weights.package!r} is no name of a package")
    try:
        found = importlib.util.find_spec(weights.package)
    except ValueError:
        return []
    return [Path(folder) for folder in (found.submodule_search_locations or ())] if found else []


def _remedy(card: Card) -> str:
    if card.install:
        return f"Run `{card.install}`"
    if card.weights and card.weights.alone:
        named = " and ".join((card.weights.file, *part_files(card)))
        return f"Put {named} into the models folder {card.folder or ''}".rstrip()
    if card.folder and card.weights:
        return f"Put it into {card.folder}"
    return "Run `pip install --force-reinstall sensorium`"


def _builder(name: str, card: Card) -> ModuleType:
    """The module beside this one that makes graphs from such weights."""
    module = None
    if re.fullmatch("[a-z][a-z0-9_]*", name):
        with suppress(ModuleNotFoundError):
            module = importlib.import_module(f"{__package__}.{name}")
    if module is None or not hasattr(module, "BUILDER_VERSION"):
        raise InvalidModel(f"Model {card.id} cannot be used", why=f"there is no builder {name!r}")
    return module


def _kept(cache_dir: Path, stem: str) -> Path | None:
    """A graph that was built before and is whole; damaged ones are removed."""
    for path in _candidates(cache_dir, stem):
        with suppress(OSError):
            if _sha256(path) == path.stem.rpartition("-")[2]:
                return path
            path.unlink(missing_ok=True)
    return None


def _candidates(cache_dir: Path, stem: str) -> Iterator[Path]:
    return (path for path in cache_dir.glob(f"{stem}-*.onnx") if path.is_file())


def _keep(cache_dir: Path, stem: str, graph: bytes) -> Path:
    """Put a graph where `_kept` finds it: at once and whole, or not at all."""
    path = cache_dir / f"{stem}-{hashlib.sha256(graph).hexdigest()}.onnx"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=cache_dir, prefix=stem, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(graph)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError:
        # Windows lets nobody replace a file that is open: another process was first, with the same bytes.
        if _kept(cache_dir, stem) == path:
            return path
        raise
    return path


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidModel(f"Cannot read {path.name}", why=str(error)) from error
