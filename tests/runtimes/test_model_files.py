"""Which files of a downloaded model are used, and which are refused unread."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sensorium.errors import InvalidModel
from sensorium.runtimes import model_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "Model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    return made


def parts(folder: Path, **places: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_a_model_is_whole_in_one_file_or_in_parts(folder: Path) -> None:
    parts(folder, a="model-1.safetensors", b="model-2.safetensors")
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (folder / name).touch()
    model_files.check(folder)
    assert model_files.weights_of(folder) == "model.safetensors.index.json"
    (folder / "model.safetensors").touch()
    model_files.check(folder)
    assert model_files.weights_of(folder) == "model.safetensors"


def test_only_numbers_and_words_are_used(folder: Path) -> None:
    names = ["model.safetensors", "chat_template.jinja", "merges.txt", "tokenizer.model"]
    for name in (*names, "modeling.py", "pytorch_model.bin", "training.pt", "README.md", ".gitattributes"):
        (folder / name).touch()
    (folder / "onnx.json").mkdir()
    assert [path.name for path in model_files.used(folder)] == sorted(["config.json", *names])


def test_pickles_alone_are_refused(folder: Path) -> None:
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(InvalidModel, match=r"pytorch_model.bin is a pickle"):
        model_files.check(folder)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("weights.bin", "not safetensors"),
        ("../model.safetensors", "leads out"),
        ("/etc/model.safetensors", "leads out"),
        ("model-9.safetensors", "not there"),
        (5, "does not say"),
    ],
)
def test_parts_are_safetensors_in_the_folder(folder: Path, place: object, said: str) -> None:
    parts(folder, a=place)
    with pytest.raises(InvalidModel, match=said):
        model_files.check(folder)


def test_parts_that_are_links_to_elsewhere_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").touch()
    (folder / "model-1.safetensors").symlink_to(tmp_path / "other.safetensors")
    parts(folder, a="model-1.safetensors")
    with pytest.raises(InvalidModel, match="leads out"):
        model_files.check(folder)


def test_an_index_that_is_too_large_or_none_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = folder / "model.safetensors.index.json"
    for text, said in (
        ("[" * 100_000, "cannot be read"),
        ("[]", "does not say"),
        ('{"weight_map": {}}', "does not say"),
    ):
        index.write_text(text)
        with pytest.raises(InvalidModel, match=said):
            model_files.check(folder)
    monkeypatch.setattr(model_files, "LARGEST_INDEX", 10)
    with pytest.raises(InvalidModel, match="over 10 bytes"):
        model_files.check(folder)
