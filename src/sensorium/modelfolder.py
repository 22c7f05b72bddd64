"""Takes a user's model, an ONNX file or a folder, into the models folder, with a card, once it has been seen to work."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sensorium.engine import Call, Card, Host, Weights
from sensorium.errors import EngineFailed, FileMissing, InvalidConfiguration, InvalidModel, InvalidRequest
from sensorium.media.pool import in_thread
from sensorium.models import trial
from sensorium.registry import Registry, read_card
from sensorium.runtimes import model_files

CARD = "card.toml"
FIRST = Card.model_fields["version"].default
"""The version of a model that nobody gave one."""
PIECE = 1 << 20


def known(registry: Registry, name: str) -> Card | None:
    """The card that says how a model of that name is fed, as far as one is known."""
    names = ((card, {card.name, *card.aliases}) for card in registry.cards)
    return next((card for card, called in names if name.lower() in called), None)


async def add(
    registry: Registry,
    host: Host,
    card: Card,
    file: Path,
    *,
    labels: Path | None = None,
    sha256: str | None = None,
    force: bool = False,
) -> Card:
    """The card of the model, now in the registry's models folder, with its weights beside it.

    `file` is an ONNX file, or a folder as Hugging Face's libraries write it, which has no `labels` and no `sha256`.
    Everything but weights and labels stays as `card` says. The model is loaded and asked once before its card is put
    down, so that nobody finds one that does not work; what was there before stays until then.

    Raises InvalidRequest when file, checksum, labels and card do not fit together or the model is there already
    (unless `force`), FileMissing, and InvalidConfiguration when the folder cannot be written.
    """
    folder = folder_for(registry, card.name, card.version, force=force)
    before = _contents(folder)
    try:
        made = await in_thread(_taken_in, folder, card, file, labels, sha256)
        await _seen_to_work(registry, host, made, file)
        await in_thread(_put, folder / CARD, toml_of(made).encode())
    except BaseException:
        _remove(folder, _contents(folder) - before)
        raise
    _remove(folder, {name for name in before if _ours(name, made)})
    return read_card(folder / CARD)


def folder_for(
    registry: Registry, name: str, version: str = FIRST, *, force: bool = False, beside: str = "another --version"
) -> Path:
    """Where that version of a model is put: each has its own, so that versions stand side by side.

    `beside` is the option by which the caller's command gives it another place.

    Raises InvalidRequest when one is there already (unless `force`), and InvalidConfiguration without a models folder.
    """
    if registry.models_dir is None:
        raise InvalidConfiguration("There is no models folder", fix="Set `models_dir`")
    folder = registry.models_dir / (name if version == FIRST else f"{name}-{version}")
    if (folder / CARD).exists() and not force:
        fix = f"Add --force to replace it, or {beside} to put one beside it"
        raise InvalidRequest(f"Model {name}@{version} is there already", why=f"{folder} holds it", fix=fix)
    return folder


def toml_of(card: Card) -> str:
    """The card as `registry.read_card` reads it."""
    told = card.model_dump(mode="json", exclude_defaults=True)
    tables = {name: told.pop(name) for name in ("weights", "input", "quirks") if told.get(name)}
    lines = [f"{name} = {_toml(value)}" for name, value in told.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]"]
        lines += [f"{_key(key)} = {_toml(value)}" for key, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"


def _taken_in(folder: Path, card: Card, file: Path, labels: Path | None, expected: str | None) -> Card:
    """The card of the copied weights and labels, which are named by their checksums: nothing is overwritten."""
    if file.is_dir():
        return _folder_taken_in(folder, card, file)
    name, sha256 = _copied(file, folder, card.name, ".onnx")
    if expected is not None and sha256 != expected.lower():
        raise InvalidRequest(
            f"{file} is not the file that was meant", why=f"its sha256 is {sha256}", fix="Get it again from its source"
        )
    changes: dict[str, Any] = {"weights": Weights(file=name, sha256=sha256), "folder": folder, "install": ""}
    if labels is not None:
        changes["labels"] = _copied(labels, folder, "labels", ".txt")[0]
    return card.model_copy(update=changes)


def _folder_taken_in(folder: Path, card: Card, model: Path) -> Card:
    """The card of the model's files, in a folder of their own within: nothing is overwritten. No checksum: reading tens
    of gigabytes would take longer than loading them."""
    if not model_files.is_model(model):
        raise InvalidRequest(f"{model} is no model's folder", why=f"there is no {model_files.CONFIG} in it")
    try:
        weights = model_files.weights_of(model)
    except InvalidModel as error:
        raise InvalidRequest(f"{model} cannot be added as {card.name}", why=str(error)) from error
    own = folder / f"{card.name}-{secrets.token_hex(6)}"
    try:
        own.mkdir(parents=True)
        for file in model_files.used(model):
            _linked(file.resolve(), own / file.name)
    except OSError as error:
        shutil.rmtree(own, ignore_errors=True)
        raise _cannot(error, model) from error
    return card.model_copy(update={"weights": Weights(file=f"{own.name}/{weights}"), "folder": folder, "install": ""})


def _linked(file: Path, place: Path) -> None:
    """Another name of the same file, where the disk is the same: weights are large, and nobody writes into them."""
    try:
        place.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, place)


def _copied(file: Path, folder: Path, stem: str, suffix: str) -> tuple[str, str]:
    """The name of the copy, and its sha256."""
    digest = hashlib.sha256()
    try:
        with file.open("rb") as source:
            folder.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=folder, suffix=".part")
            with os.fdopen(handle, "wb") as copy:
                while piece := source.read(PIECE):
                    digest.update(piece)
                    copy.write(piece)
        name = f"{stem}-{digest.hexdigest()[:12]}{suffix}"
        Path(part).replace(folder / name)
    except OSError as error:
        raise _cannot(error, file) from error
    return name, digest.hexdigest()


async def _seen_to_work(registry: Registry, host: Host, card: Card, file: Path) -> None:
    engine = registry.engine(card, host)
    try:
        await in_thread(engine.load)
        try:
            if request := trial(registry, card):
                await engine.run(request, Call())
        finally:
            await in_thread(engine.close)
    except (InvalidModel, EngineFailed) as error:
        raise InvalidRequest(
            f"{file} cannot be added as {card.name}",
            why=str(error),
            fix="`sensorium models add --help` lists what can be told about it",
        ) from error


def _put(path: Path, content: bytes) -> None:
    try:
        handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(part).replace(path)
    except OSError as error:
        raise _cannot(error, path) from error


def _cannot(error: OSError, file: Path) -> FileMissing | InvalidConfiguration:
    why = error.strerror or str(error)
    if error.filename == str(file):
        return FileMissing(f"Cannot read {file}", why=why, fix="Check the path")
    return InvalidConfiguration(f"Cannot write into the models folder for {file.name}", why=why, fix="Set `models_dir`")


def _contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _ours(name: str, card: Card) -> bool:
    """Whether it is a file or folder that `add` put there for an earlier card of the model."""
    if name in (card.weights.file.partition("/")[0] if card.weights else None, card.labels):
        return False
    return re.fullmatch(rf"({re.escape(card.name)}|labels)-[0-9a-f]{{12}}(\.(onnx|txt))?", name) is not None


def _remove(folder: Path, names: set[str]) -> None:
    for path in (folder / name for name in names):
        with contextlib.suppress(OSError):  # Windows keeps a file that another process has open
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with contextlib.suppress(OSError):  # not empty: there was something before
        folder.rmdir()


def _key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else json.dumps(name)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)} = {_toml(held)}" for name, held in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    # JSON's strings, numbers and booleans are TOML's too, but for one sign.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
