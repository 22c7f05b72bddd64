"""Models that run by PyTorch, here tiny and with random weights: in an environment of their own, by `make test-torch`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HERE = all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))

collect_ignore_glob = [] if HERE else ["test_*.py"]


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is downloaded."""
    from tests.torch.tiny import qwen3_vl

    return qwen3_vl(tmp_path_factory.mktemp("downloads") / "Tiny-Qwen3-VL")


@pytest.fixture(scope="session")
def qwen25(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.torch.tiny import qwen2_5_vl

    return qwen2_5_vl(tmp_path_factory.mktemp("downloads") / "Tiny-Qwen2.5-VL")


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.torch.tiny import llava_1_5

    return llava_1_5(tmp_path_factory.mktemp("downloads") / "Tiny-LLaVA")


@pytest.fixture
def copy(tmp_path: Path, qwen3: Path) -> Path:
    """A folder to be spoilt."""
    import shutil

    return Path(shutil.copytree(qwen3, tmp_path / "Copy"))


@pytest.fixture
def models(tmp_path: Path, qwen3: Path) -> Path:
    """A models folder that holds `tiny`."""
    from tests.torch.tiny import installed

    return installed(tmp_path / "models", "tiny", qwen3)
