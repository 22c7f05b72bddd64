"""Where the modules of tasks, their parts, engine kinds and facades are, by name; nothing is imported to know it."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

TASKS, PARTS = "sensorium.tasks", "sensorium.parts"
ENGINES, FACADES = "sensorium.engines", "sensorium.server.facades"
"""The packages whose modules are registered, and the entry-point groups of the same names."""


@functools.cache
def modules(package: str) -> Mapping[str, str]:
    """The full name of each module under the package, and of each entry point of that group, by its short name.

    A module of the package goes before an entry point of the same name.
    """
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    others = {point.name: point.value for point in importlib.metadata.entry_points(group=package)}
    own = {name.rpartition(".")[2]: name for name in _under(folders, package)}
    return MappingProxyType({**others, **own})


def summary(module: str) -> str:
    """The first line of a module's documentation; empty when the module is not there any more."""
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        return ""
    if spec is None or spec.origin is None:
        return ""
    said = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0]


def _under(folders: list[str], package: str) -> Iterator[str]:
    for module in pkgutil.iter_modules(folders, f"{package}."):
        if module.ispkg:
            yield from _under([str(Path(folder, module.name.rpartition(".")[2])) for folder in folders], module.name)
        else:
            yield module.name
