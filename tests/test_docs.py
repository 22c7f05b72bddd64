"""What the pages say is true: their code runs, their links lead somewhere, and both languages are in step."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensorium.engine import Card
from sensorium.engines.local import transformers, yunet
from sensorium.engines.local.onnx_classifier import read_input
from sensorium.engines.remote import google_vision
from sensorium.layers.prepare import Input
from sensorium.registry import Registry
from tests.pictures import photograph, png
from tests.server.conftest import Server, running

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.zh-CN.md"], ids=lambda page: page.name)
def test_the_python_on_the_page_runs(page: Path, tmp_path: Path, server: Server) -> None:
    if not blocks(page):
        pytest.skip("the page has no Python to run")
    (tmp_path / "cat.jpg").write_bytes(photograph())
    (tmp_path / "page.png").write_bytes(png())
    (tmp_path / "broken.jpg").write_bytes(photograph()[:500])
    script = "\n".join(blocks(page)).replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert "broken.jpg" in done.stdout or "broken.jpg" not in script


@each_page
def test_the_links_on_the_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_both_readmes_have_the_same_code_and_headings() -> None:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    for pattern in (r"^## ", r"^    (?:make|sensorium|curl) [^#\n]*", r"^\| `\w+`"):
        assert [found.strip() for found in re.findall(pattern, english, re.MULTILINE)] == [
            found.strip() for found in re.findall(pattern, chinese, re.MULTILINE)
        ]
    code = [re.sub(r"#.*", "", block) for page in PAGES[:2] for block in blocks(page)]
    assert code[: len(code) // 2] == code[len(code) // 2 :]


def test_pages_that_derive_from_the_code_are_in_step() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_card_on_the_page_is_one_that_would_be_read() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    card = Card.model_validate(tomllib.loads(written))
    assert read_input(card).size == 224


def test_the_card_of_a_vision_language_model_on_the_page_is_one_that_would_be_read() -> None:
    page = (ROOT / "docs" / "local-models.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    card = Card.model_validate(tomllib.loads(written))
    assert transformers.settled(card).quirks == {"dtype": "auto", "context": 32768, "json_schema": False}


def test_the_cards_and_settings_for_cloud_services_on_the_page_are_ones_that_would_be_read() -> None:
    page = (ROOT / "docs" / "hybrid.md").read_text(encoding="utf-8")
    settings, written = map(tomllib.loads, re.findall(r"```toml\n(.*?)```", page, re.DOTALL))
    card = Card.model_validate(written)
    assert Input.model_validate(card.input).denoise
    assert google_vision.Quirks.model_validate(card.quirks).key == "VISION_EU_KEY"
    registry = Registry()
    for task, names in settings["models"].items():
        assert [registry.card(name, task).name for name in names] == names


def test_the_card_of_a_face_detector_on_the_page_is_one_that_would_be_read() -> None:
    page = (ROOT / "docs" / "faces.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    card = Card.model_validate(tomllib.loads(written))
    assert yunet.Input.model_validate(dict(card.input)).pixels == 6_000_000


def test_every_target_that_the_pages_name_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES[:2]:
        for target in re.findall(r"^    make (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
