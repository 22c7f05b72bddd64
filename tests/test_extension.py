"""An engine, a task and a facade from outside the package, exactly as docs/architecture.md shows them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pictures import png

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the page's examples as an installed package would."""
    folder = tmp_path_factory.mktemp("plugin")
    for name, code in re.findall(r"```python file=(\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        (folder / name).write_text(code, encoding="utf-8")
    info = folder / "example-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n", encoding="utf-8")
    points = re.findall(r'\[project\.entry-points\."(\S+)"\]\n(\w+) = "(\w+)"', PAGE.read_text(encoding="utf-8"))
    lines = [f"[{group}]\n{name} = {module}\n" for group, name, module in points]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "white.png").write_bytes(png(colour=(250, 250, 250)))
    (folder / "black.png").write_bytes(png(colour=(5, 5, 5)))
    return folder


def run(plugin: Path, *command: str) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(plugin), str(PAGE.parents[1])]), "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=plugin, env=surroundings, capture_output=True, text=True, encoding="utf-8"
    )


def test_an_engine_from_outside_answers_an_existing_task(plugin: Path) -> None:
    script = (
        "import sensorium; r = sensorium.classify('black.png', model='daylight'); print(r.best.name, r.meta.engine)"
    )
    done = run(plugin, "-c", script)
    assert done.stdout.split() == ["night", "daylight@1"], done.stderr


def test_a_task_from_outside_is_a_verb(plugin: Path) -> None:
    script = "import sensorium; print(*[r.word for r in sensorium.mood(['white.png', 'black.png'])])"
    done = run(plugin, "-c", script)
    assert done.stdout.split() == ["cheerful", "gloomy"], done.stderr


def test_a_task_from_outside_is_a_command_with_its_options(plugin: Path) -> None:
    assert "mood" in run(plugin, "-m", "sensorium", "--help").stdout
    done = run(plugin, "-m", "sensorium", "mood", "white.png", "--threshold", "0.99", "--json")
    assert json.loads(done.stdout)["result"]["word"] == "gloomy", done.stderr


def test_a_task_from_outside_has_a_route_and_a_page(plugin: Path) -> None:
    script = (
        "from sensorium.server.app import create_app\n"
        "from tests.server.inside import asked\n"
        "page, answer = asked(create_app(), ('GET', '/openapi.json', b''), ('POST', '/v1/mood', open('white.png', 'rb').read()))\n"
        "print(page['paths']['/v1/mood']['post']['summary'])\n"
        "print(answer['word'])\n"
    )
    done = run(plugin, "-c", script)
    assert done.stdout.splitlines() == ["Say how a picture feels.", "cheerful"], done.stderr


def test_a_facade_from_outside_has_a_route_and_a_page(plugin: Path) -> None:
    script = (
        "from sensorium.server.app import create_app\n"
        "from tests.server.inside import asked\n"
        "white = open('white.png', 'rb').read()\n"
        "requests = ('POST', '/brightness', white), ('POST', '/brightness', b'junk'), ('GET', '/openapi.json', b'')\n"
        "good, bad, page = asked(create_app(), *requests)\n"
        "print(good['brightness'] > 0.9, 'error' in bad, page['paths']['/brightness']['post']['summary'])\n"
    )
    done = run(plugin, "-c", script)
    assert done.stdout.strip() == "True True How bright a picture is", done.stderr


def test_a_broken_plug_in_is_told_and_spoils_nothing(plugin: Path) -> None:
    (plugin / "daylight.py").write_text("raise OSError('no sun today')", encoding="utf-8")
    script = (
        "from sensorium.registry import Registry\n"
        "registry = Registry()\n"
        "print(len(registry.cards) > 3, *registry.problems)\n"
    )
    done = run(plugin, "-c", script)
    assert done.stdout.startswith("True Engine kind 'daylight' cannot be imported: OSError: no sun today"), done.stderr
