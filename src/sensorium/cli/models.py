"""Add your own models: ONNX classifiers, of which INT8 twins can be made, and vision-language models."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from sensorium import modelfolder
from sensorium.cli.options import given, options_of
from sensorium.config import load_settings
from sensorium.engine import Card, Host
from sensorium.errors import InvalidModel, InvalidRequest, SensoriumError
from sensorium.registry import Registry, read_card
from sensorium.schemas.base import checked

KIND, TALKING = "onnx_classifier", "transformers"
"""What runs a file that is added, and what runs a folder."""

UNKNOWN = "NOASSERTION"
"""SPDX's word for a licence that nobody has told."""

EXAMPLE = """\b
Examples:
  sensorium models add resnet50 resnet50.onnx
  sensorium models add flowers flowers.onnx --labels flowers.txt --input-size 224 --input-mean 127.5 --input-std 127.5
  sensorium models add flowers flowers.onnx --card flowers.toml
  sensorium models add flowers better.onnx --card flowers.toml --version 2
  sensorium models add qwen3-vl-4b Qwen3-VL-4B-Instruct/
  sensorium models add yunet face_detection_yunet_2023mar.onnx"""


def _add(
    name: str,
    file: Path,
    labels: str | None,
    sha256: str | None,
    card: Path | None,
    licence: str | None,
    version: str | None,
    force: bool,
    **options: Any,
) -> None:
    settings = load_settings()
    registry = Registry(settings.models_dir)
    told = {"licence": licence, "version": version}
    if file.is_dir():
        _refuse({"labels": labels, "sha256": sha256, **given(options)})
        template = _talking(registry, name, card, told)
        host = Host(cache_dir=settings.cache_dir, threads=settings.threads, device=settings.device)
    else:
        template = _template(registry, name, card, given(options), told, file)
        host = Host(cache_dir=settings.cache_dir, device="cpu")
    if labels == "imagenet":
        template, labels = template.model_copy(update={"labels": labels}), None
    beside = Path(labels) if labels else None
    added = asyncio.run(
        modelfolder.add(registry, host, template, file, labels=beside, sha256=sha256, force=force),
    )
    click.echo(f"Added {added.id} in {added.folder}.")
    what = 'ask photo.jpg "What is this?"' if added.does("ask") else f"{added.tasks[0]} photo.jpg"
    click.echo(f"Try it: sensorium {what} --model {added.name}")


def _refuse(told: dict[str, Any]) -> None:
    """Raises InvalidRequest for options that say something of files alone."""
    wrong = [f"`--{name.replace('_', '-')}`" for name, value in told.items() if value is not None]
    if wrong:
        raise InvalidRequest(f"A folder takes no {', '.join(wrong)}", why="it says itself how pictures are fed to it")


def _talking(registry: Registry, name: str, card: Path | None, told: dict[str, str | None]) -> Card:
    """What is told and what is known of a vision-language model."""
    known = modelfolder.known(registry, name)
    start = _read(card) if card else known if known is not None and known.kind == TALKING else None
    base = start or Card(name="new", kind=TALKING, tasks=("ask",), licence=UNKNOWN)
    whole = {
        **base.model_dump(exclude_defaults=True),
        "name": base.name if start is not None and card is None else name.lower(),
        "licence": base.licence,
        **{key: value for key, value in told.items() if value},
    }
    return checked(Card, whole, "models add")


def _template(
    registry: Registry, name: str, card: Path | None, how: dict[str, Any], told: dict[str, str | None], file: Path
) -> Card:
    """What is told of the model, what is known of it, and for the rest what its file says."""
    start = _read(card) if card else modelfolder.known(registry, name)
    foreign = start is not None and start.kind != KIND
    read = {} if foreign else _inferred(registry, file, {**(start.input if start else {}), **how})
    # Bytes go in as they are; of floats the file does not say how they are to be scaled.
    if start is None and not how and read.get("dtype") != "uint8":
        models = ", ".join(known.name for known in registry.cards if known.kind == KIND)
        raise InvalidRequest(
            f"It is not known how to feed pictures to {name!r}",
            why="its file does not say how pixels are scaled",
            fix=f"Tell it with `--input-mean`, `--input-std` and the like, or `--card`; known are: {models}",
        )
    if read:
        click.echo(f"Read from {file.name}: {', '.join(f'{key} {value}' for key, value in read.items())}.")
    how = {**read, **how}
    base = start or Card(name="new", kind=KIND, tasks=("classify",), licence=UNKNOWN)
    whole = {
        **base.model_dump(exclude_defaults=True),
        "name": base.name if start is not None and card is None else name.lower(),
        "licence": base.licence,
        "input": {**base.input, **how},
        **{key: value for key, value in told.items() if value},
    }
    return checked(Card, whole, "models add")


def _inferred(registry: Registry, file: Path, told: dict[str, Any]) -> dict[str, Any]:
    """What the file says of how pictures are fed to it, where nothing else has."""
    kind = registry.kinds.get(KIND)
    try:
        found = kind.inferred(file) if kind else {}
    except SensoriumError:
        return {}  # taking it in will say what is wrong
    return {key: value for key, value in found.items() if key not in told}


def _read(card: Path) -> Card:
    try:
        return read_card(card)
    except InvalidModel as error:
        raise InvalidRequest(error.what, why=error.why, fix=error.fix) from error


def _how_it_is_fed() -> list[click.Option]:
    """An option for each key of `input` on the card of such a model."""
    kind = Registry().kinds.get(KIND)
    return list(options_of(kind.Input.model_fields, before="input-", all_optional=True)) if kind else []


class Models(click.Group):
    """`sensorium models`; what it offers is made when asked for, as options come from the kind's schema."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return ["add", "quantize"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name == "quantize":
            from sensorium.cli.quantize import command as quantize

            return quantize
        return _add_command() if cmd_name == "add" else None


def _add_command() -> click.Command:
    options = [
        click.Argument(["name"]),
        click.Argument(["file"], type=click.Path(path_type=Path), metavar="FILE.onnx|FOLDER"),
        click.Option(
            ["--labels"],
            metavar="FILE",
            help="The names of the classes, one a line in their order, or `imagenet`. [default: what is known of NAME]",
        ),
        click.Option(["--sha256"], help="Refuse the file if its checksum is another. [default: any]"),
        click.Option(
            ["--card"],
            type=click.Path(path_type=Path),
            metavar="FILE.toml",
            help="What to know about the model; weights are filled in. [default: what is known of NAME]",
        ),
        click.Option(["--licence"], metavar="SPDX", help=f"[default: what is known of NAME, else {UNKNOWN}]"),
        click.Option(
            ["--version"],
            help="Put it beside other versions of that name; the highest is meant by the name alone. [default: 1]",
        ),
        click.Option(["--force"], is_flag=True, help="Replace that version of the model. [default: refuse]"),
    ]
    return click.Command(
        "add",
        short_help="Add a classifier, a detector of faces, or a vision-language model.",
        params=[*options, *_how_it_is_fed()],
        callback=_add,
        help="Put an ONNX image classifier, YuNet, which finds faces, or the folder of a vision-language model (safetensors, as from Hugging Face), "
        "into the models folder, with a card that says how it is used. It is loaded and tried first. Of models that are "
        "known, such as resnet50 or qwen3-vl-4b, nothing else need be told.",
        epilog=EXAMPLE,
    )


command = Models(
    "models",
    help="Add your own ONNX classifiers and vision-language models, and make INT8 twins. `sensorium engines` lists all models.",
    epilog="\b\nExamples:\n  sensorium models add resnet50 resnet50.onnx\n"
    "  sensorium models quantize resnet50 --pictures photos/",
)
