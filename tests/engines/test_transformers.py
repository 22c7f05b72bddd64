"""Vision-language models where PyTorch is not installed; tests/torch has those that run."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensorium import dependencies, registry
from sensorium.engine import Host
from sensorium.errors import MissingDependency, ModelNotInstalled
from sensorium.registry import Registry
from tests.cli.conftest import Sensorium, home, sensorium

__all__ = ["home", "sensorium"]


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "is_installed", lambda module: module != "torch")


@pytest.mark.usefixtures("without_torch")
def test_what_is_missing_is_named_with_the_command_that_brings_it(tmp_path: Path) -> None:
    models = Registry()
    card = models.card("qwen3-vl-4b", "ask")
    assert models.state(card) == "missing torch: pip install 'sensorium[torch]'"
    with pytest.raises(MissingDependency, match=r"torch is not installed. Run `pip install 'sensorium\[torch\]'`"):
        models.engine(card, Host(cache_dir=tmp_path))
    assert dependencies.install_command("transformers.models") == "pip install 'sensorium[torch]'"


@pytest.mark.usefixtures("without_torch")
def test_adding_a_folder_says_so_too_and_leaves_nothing(sensorium: Sensorium, home: Path, tmp_path: Path) -> None:
    folder = home / "Qwen3-VL-4B-Instruct"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    told = sensorium("models", "add", "qwen3-vl-4b", folder)
    assert told.exit_code == 1
    assert "pip install 'sensorium[torch]'" in told.stderr
    assert not list((tmp_path / "models").rglob("*.*"))


def test_a_known_model_that_is_not_here_says_how_it_is_added(tmp_path: Path) -> None:
    from sensorium.engines.local.transformers import Engine

    engine = Engine(Registry().card("qwen2.5-vl-7b", "ask"), Host(cache_dir=tmp_path))
    with pytest.raises(ModelNotInstalled, match=r"sensorium models add qwen2[.]5-vl-7b-instruct Qwen"):
        engine.load()
    engine.close()
