"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "sensorium"

LEVELS = [
    {"__main__"},
    {"cli", "aio"},
    {"batch"},
    {"client", "quantization"},
    {"streams"},
    {"server.serve", "verbs", "modelfolder"},
    {"server.process"},
    {"server.app"},
    {"server.jobs"},
    {"jobs"},
    {"server"},
    {"server.facades"},
    {"service"},
    {"models"},
    {"config", "registry"},
    {"tasks", "parts", "engines", "layers"},
    {"runtimes", "stores", "tariff"},
    {"engine", "lists", "listening"},
    {"schemas"},
    {"media", "pricing"},
    {"telemetry", "dependencies", "discovery", "deadline"},
    {"errors"},
]
"""From the top of the house to its ground, as docs/architecture.md draws it."""

FACADES_SEE = {"schemas", "media", "errors", "server.facades"}

HEAVY = (
    "numpy",
    "onnxruntime",
    "cv2",
    "PIL",
    "onnx",
    "aiohttp",
    "starlette",
    "uvicorn",
    "uvloop",
    "rapidocr",
    "sensorium.server",
)


def part_of(module: str) -> str:
    """The part of the house that a module is in: `sensorium.media.source` is in `media`."""
    words = module.removeprefix("sensorium").lstrip(".").split(".")
    longer = ".".join(words[:2])
    return (
        longer
        if longer in {"server.app", "server.jobs", "server.process", "server.serve", "server.facades"}
        else words[0]
    )


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules of sensorium that a file names in any import, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(
                f"{node.module}.{name.name}" if node.module == "sensorium" else node.module for name in node.names
            )
    return frozenset(name for name in found if name.startswith("sensorium.") and not name.startswith("sensorium.__"))


def module_of(path: Path) -> str:
    return ".".join(["sensorium", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")


def files() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


def level(part: str) -> int:
    return next(number for number, parts in enumerate(LEVELS) if part in parts)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_and_neighbours_are_strangers(path: Path) -> None:
    here = part_of(module_of(path))
    for name in imports(path):
        there = part_of(name)
        assert there == here or level(there) > level(here), f"{path.name} ({here}) must not import {name} ({there})"


@pytest.mark.parametrize("path", sorted((SOURCE / "server" / "facades").glob("*.py")), ids=lambda path: path.name)
def test_facades_only_translate(path: Path) -> None:
    assert {part_of(name) for name in imports(path)} <= FACADES_SEE


@pytest.mark.parametrize("folder", ["tasks", "engines", "layers"])
def test_a_folder_of_modules_imports_no_sibling_but_its_stack(folder: str) -> None:
    for path in sorted((SOURCE / folder).rglob("*.py")):
        siblings = {name for name in imports(path) if part_of(name) == folder and not name.endswith(f".{path.stem}")}
        assert path.stem == "stack" or not {name for name in siblings if not _is_data_reader(name)}, path


def _is_data_reader(name: str) -> bool:
    """A module beside an engine kind that is no kind itself."""
    file = SOURCE.parent / Path(*name.split(".")).with_suffix(".py")
    return file.is_file() and "class Engine" not in file.read_text(encoding="utf-8")


def test_a_broken_rule_would_be_seen() -> None:
    assert level(part_of("sensorium.service")) < level(part_of("sensorium.layers.stack"))
    assert level(part_of("sensorium.media.source")) > level(part_of("sensorium.schemas.base"))
    assert part_of("sensorium.server.facades.flask_predict") == "server.facades"


@pytest.mark.parametrize(
    "command",
    [
        "import sensorium",
        "import sensorium; dir(sensorium)",
        "import sys; sys.argv = ['sensorium', '--help']; from sensorium.cli import main; main()",
    ],
    ids=["import", "dir", "help"],
)
def test_what_must_be_instant_loads_nothing_heavy(command: str) -> None:
    ending = f"import sys; print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    script = f"try:\n    exec({command!r})\nexcept SystemExit:\n    pass\n{ending}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_no_file_is_named_after_nothing() -> None:
    assert not {path.stem for path in files()} & {"utils", "helpers", "common", "misc"}


def test_half_of_the_functions_are_under_ten_lines() -> None:
    lengths = sorted(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in files()
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    assert lengths[len(lengths) // 2] < 10
    assert lengths[int(len(lengths) * 0.9)] < 40


def test_every_package_says_what_it_is_for() -> None:
    for path in SOURCE.rglob("*.py"):
        assert ast.get_docstring(tree(path)), path
