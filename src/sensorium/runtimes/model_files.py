"""The folder of a model as Hugging Face's libraries write it: what of it is used, and what is refused unread.

Weights are taken as safetensors alone, which hold numbers; the older formats are pickles, which run what is in them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sensorium.errors import InvalidModel
from sensorium.runtimes.weights import inside

CONFIG = "config.json"
WHOLE, IN_PARTS = "model.safetensors", "model.safetensors.index.json"
"""The file with the weights, or the one that says in which parts they are."""
USED = frozenset({".json", ".jinja", ".safetensors", ".txt", ".model", ".tiktoken"})
"""Endings of the files that a model needs; no code is among them."""
PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
LARGEST_INDEX = 50_000_000
"""Bytes; that of the largest model has some million."""


def is_model(folder: Path) -> bool:
    """Whether the folder looks like a model's."""
    return (folder / CONFIG).is_file()


def weights_of(folder: Path) -> str:
    """The name of the file that stands for the weights. Raises InvalidModel, also for weights that are pickles."""
    found = next((name for name in (WHOLE, IN_PARTS) if (folder / name).is_file()), None)
    if found is not None:
        return found
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickles:
        raise InvalidModel(
            f"The weights in {folder.name} are refused",
            why=f"{pickles[0]} is a pickle, which can run code when it is read",
            fix="Get the model as safetensors, or save it again with `safe_serialization=True`",
        )
    raise InvalidModel(f"{folder.name} holds no weights", why=f"there is neither {WHOLE} nor {IN_PARTS} in it")


def check(folder: Path) -> None:
    """Raises InvalidModel unless the folder is a whole model of which nothing but numbers and words will be read."""
    if not is_model(folder):
        raise InvalidModel(f"{folder.name} is no model's folder", why=f"there is no {CONFIG} in it")
    if (folder / "adapter_config.json").exists():
        raise InvalidModel(
            f"{folder.name} is refused", why="it is an adapter, which needs another model", fix="Merge the two first"
        )
    if weights_of(folder) == IN_PARTS:
        for part in _parts(folder):
            if not part.endswith(".safetensors"):
                raise InvalidModel(f"{folder.name} is refused", why=f"its part {part[:100]!r} is not safetensors")
            if not inside(folder, part).is_file():
                raise InvalidModel(f"{folder.name} is not whole", why=f"{part} is not there", fix="Get it again")


def used(folder: Path) -> list[Path]:
    """The files that a model needs, in order; folders within are none of them."""
    return sorted(path for path in folder.iterdir() if path.suffix in USED and path.is_file())


def _parts(folder: Path) -> set[str]:
    index = _index(folder / IN_PARTS)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(part, str) for part in places.values()):
        raise InvalidModel(f"{IN_PARTS} of {folder.name} cannot be used", why="it does not say where the weights are")
    return set(places.values())


def _index(path: Path) -> Any:
    called = f"{path.name} of {path.parent.name}"
    if path.stat().st_size > LARGEST_INDEX:
        raise InvalidModel(f"{called} is refused", why=f"it has over {LARGEST_INDEX:,} bytes")
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidModel(f"{called} cannot be read", why=str(error)) from error
