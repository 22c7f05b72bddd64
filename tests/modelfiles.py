"""Models for a models folder: tiny ONNX classifiers with their cards, put there as users put them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.runtimes.graphs import always

NAMES = ("red", "green", "blue")


def put(models: Path, version: str, says: str, *, name: str = "net", ballast: int = 0) -> Path:
    """The folder of a model that names every picture `says`; there all at once, the card last. Replaces one before."""
    weights = always(NAMES.index(says), ballast=ballast)
    folder = models / f"{name}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    checksum = hashlib.sha256(weights).hexdigest()
    file = f"{checksum[:12]}.onnx"
    swap(folder / file, weights)
    swap(folder / "names.txt", "\n".join(NAMES).encode())
    swap(folder / "card.toml", card(version, file, checksum, name=name).encode())
    return folder


def card(version: str, file: str, checksum: str | None, *, name: str = "net") -> str:
    """Its card as TOML."""
    told = f'name = "{name}"\nversion = "{version}"\nkind = "onnx_classifier"\ntasks = ["classify"]\nlicence = "MIT"\n'
    sha256 = f'sha256 = "{checksum}"\n' if checksum else ""
    return f'{told}labels = "names.txt"\n[weights]\nfile = "{file}"\n{sha256}[input]\nsize = 8\nstd = 255\n'


def swap(path: Path, content: bytes) -> None:
    """Write a file as it should be done: beside, then renamed."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
