"""Makes a quicker twin of a model, calibrated on a user's pictures, and says what it gains and what it costs."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sensorium import modelfolder
from sensorium.engine import Call, Card, Host, Preparing
from sensorium.errors import InvalidConfiguration, InvalidRequest, SensoriumError
from sensorium.media.pool import in_thread
from sensorium.media.source import Source
from sensorium.registry import Registry
from sensorium.runtimes import weights
from sensorium.runtimes.quantize import Calibration, Method, Numbers, Quantised, is_quantised, race, suited_to_this_cpu
from sensorium.schemas.base import Frozen, Score, checked
from sensorium.schemas.classify import Classification, ClassifyRequest

FEWEST = 8
"""Pictures that can be read, for calibrating and again for comparing: with fewer, neither says anything."""

MOST_NAMES = 1000
"""Names that a classifier is asked for, so that the best one's new probability is among them."""


class Unreadable(Frozen):
    """A picture that was left out, and why."""

    picture: str
    code: str
    message: str


class Report(Frozen):
    """What the twin is, what it gains and what it costs. Compared on pictures that it was not calibrated on."""

    model: str = Field(examples=["efficientnet_lite0@1"])
    made: str = Field(examples=["efficientnet_lite0_int8@1"])
    folder: str
    method: Method
    activations: Literal["uint8", "int8"]
    weight_bits: int
    kept_in_float: tuple[str, ...]
    """The first convolutions, which eight bits would hurt most."""
    calibrated_on: int
    """Pictures."""
    compared_on: int
    unreadable: tuple[Unreadable, ...]
    bytes_before: int
    bytes_after: int
    seconds_before: float
    """For one picture, prepared, on one thread: the median."""
    seconds_after: float
    same_best: Score
    """How often the best name is the same."""
    top_5_overlap: Score
    """How many of the five best names are the same."""
    mean_change: Score
    """How much the probability of the best name changes, without sign."""

    @property
    def speedup(self) -> float:
        return self.seconds_before / self.seconds_after


async def quantize(
    registry: Registry,
    host: Host,
    model: str,
    pictures: Sequence[Source],
    *,
    name: str | None = None,
    limit: int = 200,
    method: Method = "minmax",
    force: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> Report:
    """Put an INT8 twin of the classifier into the models folder, as `name` (default: the model's with `_int8`).

    Of the pictures, up to `limit` are taken, spread over all: every other one calibrates, the others compare. Those
    that cannot be read are left out. `advance` is called after each.
    Raises InvalidRequest for a model that is quantised already or no classifier, for too few pictures and for a name
    that is taken (unless `force`), and InvalidModel for a graph that cannot be quantised.
    """
    card = registry.card(model, ClassifyRequest.task)
    twin = _twin(card, name or f"{card.name}_int8")
    modelfolder.folder_for(registry, twin.name, twin.version, force=force, beside="another --name")
    prepare = registry.preparation(card)
    graph = await in_thread(_file_of, card, host.cache_dir)
    if await in_thread(is_quantised, graph):
        raise InvalidRequest(f"Model {card.id} is quantised already", fix="Name the model that it was made from")
    chosen = _spread(pictures, limit)
    _refuse_few(len(chosen))
    numbers = await in_thread(suited_to_this_cpu)
    left_out: list[Unreadable] = []
    with tempfile.TemporaryDirectory(prefix="sensorium-") as scratch:
        calibration = await in_thread(Calibration, graph, Path(scratch), method)
        count, example = await _calibrated(calibration, prepare, chosen[::2], left_out, advance)
        made = await in_thread(calibration.write, numbers)
        labels = _labels(card)
        # Tried aside first: nobody finds a twin that does not work.
        trial = await modelfolder.add(Registry(Path(scratch) / "models"), host, twin, made.path, labels=labels)
        agreed = await _compared(registry, host, (card, trial), chosen[1::2], left_out, advance)
        before, after = await in_thread(race, graph, made.path, example)
        added = await modelfolder.add(registry, host, twin, made.path, labels=labels, force=force)
        return Report(
            model=card.id,
            made=added.id,
            folder=str(added.folder),
            calibrated_on=count,
            unreadable=tuple(left_out),
            bytes_before=graph.stat().st_size,
            bytes_after=made.path.stat().st_size,
            seconds_before=before,
            seconds_after=after,
            **agreed,
            **_how(made, method, numbers),
        )


def _file_of(card: Card, cache_dir: Path) -> Path:
    model = weights.onnx_model(card, cache_dir)
    if isinstance(model, bytes):
        why, fix = f"nothing can be written in {cache_dir}", "Set `cache_dir` to a folder that is writable"
        raise InvalidConfiguration(f"Cannot keep the graph of {card.id} while it is quantised", why=why, fix=fix)
    return model


def _how(made: Quantised, method: Method, numbers: Numbers) -> dict[str, Any]:
    return {
        "method": method,
        "activations": numbers.activations,
        "weight_bits": numbers.weight_bits,
        "kept_in_float": made.kept,
    }


def _twin(card: Card, name: str) -> Card:
    """The card of the twin, but for its weights. Raises InvalidRequest for a name that is none, or the model's own."""
    if name.lower() == card.name:
        raise InvalidRequest(f"The twin of {card.id} needs a name of its own", fix="Give another `name`")
    changes = {"name": name.lower(), "aliases": (), "install": "", "weights": None, "folder": None}
    changes["origin"] = f"{card.id}, quantised to INT8. {card.origin}".strip()
    # What only the builder of the graph needed.
    quirks = {key: value for key, value in card.quirks.items() if key not in ("width", "depth")}
    return checked(Card, {**card.model_dump(), **changes, "quirks": quirks}, "models quantize")


def _labels(card: Card) -> Path | None:
    if card.labels is None or card.labels == "imagenet":
        return None
    return weights.inside(weights.locate(card).parent, card.labels)


def _spread(pictures: Sequence[Source], limit: int) -> list[Source]:
    """So many of the pictures, from everywhere: a folder is often sorted by what its pictures show."""
    count = min(limit, len(pictures))
    return [pictures[place * len(pictures) // count] for place in range(count)]


def _refuse_few(count: int, left_out: int = 0) -> None:
    if count < 2 * FEWEST:
        raise InvalidRequest(
            "There are too few pictures",
            why=f"{count} can be used" + (f" ({left_out} cannot be read)" if left_out else ""),
            fix=f"Give {2 * FEWEST} or more; 100 to 200 like those that the model will see are good",
        )


async def _calibrated(
    calibration: Calibration,
    prepare: Preparing,
    pictures: Sequence[Source],
    left_out: list[Unreadable],
    advance: Callable[[], object],
) -> tuple[int, Any]:
    """How many pictures were taken in, and the last of them as the graph was given it."""
    count, example = 0, None
    for picture in pictures:
        try:
            example = await picture.image(prepare.at_least, then=lambda image: prepare.fast(image.pixels))
        except SensoriumError as error:
            left_out.append(_unreadable(picture, error))
        else:
            await in_thread(calibration.add, example)
            count += 1
        advance()
    _refuse_few(2 * count, len(left_out))
    return count, example


async def _compared(
    registry: Registry,
    host: Host,
    cards: tuple[Card, Card],
    pictures: Sequence[Source],
    left_out: list[Unreadable],
    advance: Callable[[], object],
) -> dict[str, Any]:
    """How far the answers of the two models agree."""
    engines = [registry.engine(card, host) for card in cards]
    pairs: list[tuple[Classification, Classification]] = []
    try:
        for engine in engines:
            await in_thread(engine.load)
        for picture in pictures:
            request = ClassifyRequest(image=picture, top_k=MOST_NAMES)
            try:
                first, second = await asyncio.gather(*(engine.run(request, Call()) for engine in engines))
            except SensoriumError as error:
                left_out.append(_unreadable(picture, error))
            else:
                pairs.append((first, second))
            advance()
    finally:
        for engine in engines:
            await in_thread(engine.close)
    _refuse_few(2 * len(pairs), len(left_out))
    return {
        "compared_on": len(pairs),
        "same_best": statistics.fmean(one.best.index == other.best.index for one, other in pairs),
        "top_5_overlap": statistics.fmean(_overlap(one, other) for one, other in pairs),
        "mean_change": statistics.fmean(_change(one, other) for one, other in pairs),
    }


def _overlap(one: Classification, other: Classification) -> float:
    first, second = ({label.index for label in answer.labels[:5]} for answer in (one, other))
    return len(first & second) / len(first)


def _change(one: Classification, other: Classification) -> float:
    now = next((label.score for label in other.labels if label.index == one.best.index), 0.0)
    return abs(one.best.score - now)


def _unreadable(picture: Source, error: SensoriumError) -> Unreadable:
    return Unreadable(picture=picture.name, code=error.code, message=str(error))
