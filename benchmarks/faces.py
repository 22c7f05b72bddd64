"""Faces: how many are counted right, how well two are told apart, and what one takes beside dlib's own example.

The pictures are those of SENSORIUM_TEST_DATA, else of `../shared/data`: some with known numbers of faces, from none to six, and
600 pairs of pictures of ten people, half of them of one person. Thresholds are chosen on nine tenths of the pairs and judged on the tenth that had no
say, ten times over; and once more so that nobody in the judged pairs is in those that chose. `--card` writes what a card says
about distances, as measured here.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sensorium.config import Settings
from sensorium.engine import Options
from sensorium.media.source import Source
from sensorium.registry import Registry
from sensorium.schemas.embed_faces import EmbedFacesRequest, FaceEmbeddings, RatePoint, Verification
from sensorium.schemas.faces import Faces, FacesRequest
from sensorium.service import Sensorium
from sensorium.tasks.compare_faces import rates_at

DATA = Path(os.environ.get("SENSORIUM_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
MODELS = ("yunet", "haar_frontalface", "dlib_faces")
GOALS = {"yunet_counted_right": 0.88, "accuracy": 0.98}
"""Parts of one; the first is that of 16 pictures in 18."""
ONE_FACE = tuple(f"compreface/einstein.{suffix}" for suffix in ("bmp", "gif", "jpeg", "webp"))
"""Counted pictures that are not in the table: one, in four formats."""
FOLDS, ROUNDS = 10, 5
POINTS = np.arange(0.30, 1.0001, 0.02)
"""Distances of the table on the card."""
EQUAL = ("threshold", "slope", "pairs", "people")
FRESH = Options(cache=False)

Array = np.ndarray[Any, np.dtype[Any]]


def main() -> int:
    return asyncio.run(_main("--card" in sys.argv))


async def _main(card: bool) -> int:
    async with Sensorium(Settings(threads=1, cache="off", models_dir=_models())) as sensorium:
        counted = {name: await _right(sensorium, name) for name in MODELS if _is_here(sensorium.registry, name)}
        detectors = [name for name in MODELS if name in counted]
        accuracies: dict[str, dict[str, Any]] = {}
        for name in detectors:
            distances, same, people, missed = await _distances(sensorium, name)
            accuracies[name] = {**judged(distances, same, people), "without_a_face": missed}
            if name == detectors[0]:
                meaning = measured(distances, same, people)
                roc = [
                    (point, *_rates(distances, same, point))
                    for point in sorted({0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, meaning.threshold})
                ]
        seconds = await _seconds(sensorium, detectors)
        told = await _of_card(sensorium)
    if card:
        print(_toml(meaning))
    for name, figures in accuracies.items():
        print(
            json.dumps(
                {
                    "detector": name,
                    "counted_right": counted[name],
                    "of": len(_counts()),
                    **figures,
                    "seconds": seconds[name],
                }
            )
        )
    print(json.dumps({"example": "dlib: HOG, 5 points, compute_face_descriptor", "seconds": seconds["example"]}))
    for point, false_match, false_non_match in roc:
        print(json.dumps({"distance": point, "false_match": false_match, "false_non_match": false_non_match}))
    best = accuracies[detectors[0]]
    figures = {
        **{
            f"{name.partition('_')[0]}_counted_right": round(right / len(_counts()), 4)
            for name, right in counted.items()
        },
        "counted": len(_counts()),
        "accuracy": best["accuracy"],
        "accuracy_unknown_people": best["accuracy_unknown_people"],
        "threshold": meaning.threshold,
        "milliseconds_a_face": round(seconds[detectors[0]] * 1000, 1),
        "milliseconds_of_dlibs_example": round(seconds["example"] * 1000, 1),
        "card_differs_by": difference(told, meaning),
    }
    met = all(figures.get(name, 0) >= goal for name, goal in GOALS.items())
    print(json.dumps({"bench": "faces", "figures": figures, "goals": GOALS, "met": met}))
    return 0 if met else 1


def judged(distances: Array, same: Array, people: list[set[str]]) -> dict[str, Any]:
    """How many of the pairs are told right by thresholds in whose choice they had no say."""
    folds = np.arange(len(same)) % FOLDS
    chosen, right = [], np.zeros(len(same), bool)
    for fold in range(FOLDS):
        chosen.append(best_threshold(distances[folds != fold], same[folds != fold]))
        right[folds == fold] = ((distances <= chosen[-1]) == same)[folds == fold]
    strangers = [_right_of_strangers(distances, same, people, person) for person in sorted(set().union(*people))]
    return {
        "accuracy": round(float(right.mean()), 4),
        "folds": [round(float(right[folds == fold].mean()), 4) for fold in range(FOLDS)],
        "thresholds": [round(min(chosen), 4), round(max(chosen), 4)],
        "accuracy_unknown_people": round(float(np.concatenate(strangers).mean()), 4),
    }


def _right_of_strangers(distances: Array, same: Array, people: list[set[str]], person: str) -> Array:
    """Of the pairs with this person, which are told right by what the pairs without them teach."""
    theirs = np.array([person in pair for pair in people])
    threshold = best_threshold(distances[~theirs], same[~theirs])
    return (distances[theirs] <= threshold) == same[theirs]


def best_threshold(distances: Array, same: Array) -> float:
    """The distance at which most pairs are told right: the middle of all such."""
    order = np.sort(distances)
    between = np.concatenate([[0.0], (order[1:] + order[:-1]) / 2, [order[-1] + 0.1]])
    right = np.array([((distances <= point) == same).sum() for point in between])
    best = between[right == right.max()]
    return float((best.min() + best.max()) / 2)


def measured(distances: Array, same: Array, people: list[set[str]]) -> Verification:
    """What distances mean, of all pairs together."""
    threshold = round(best_threshold(distances, same), 3)
    rates = [RatePoint(round(float(point), 2), *_rates(distances, same, point)) for point in POINTS]
    return Verification(
        threshold=threshold,
        slope=round(_slope(distances - threshold, same), 1),
        pairs=len(same),
        people=len(set().union(*people)),
        rates=tuple(rates),
    )


def _rates(distances: Array, same: Array, point: float) -> tuple[float, float]:
    return round(float((distances[~same] <= point).mean()), 4), round(float((distances[same] > point).mean()), 4)


def _slope(beyond: Array, same: Array) -> float:
    """Of the logistic function that goes through a half at the threshold: the likeliest, by Platt's targets.

    Source: Platt, Probabilistic Outputs for Support Vector Machines, 1999: targets a little within 0 and 1, so that pairs that
    lie well apart do not make a step of it.
    """
    yes, no = int(same.sum()), int((~same).sum())
    target = np.where(same, (yes + 1) / (yes + 2), 1 / (no + 2))
    slopes = np.arange(1.0, 100.0, 0.1)
    losses = [np.mean(np.logaddexp(0, slope * beyond) - (1 - target) * slope * beyond) for slope in slopes]
    return float(slopes[int(np.argmin(losses))])


def difference(told: Verification | None, found: Verification) -> float | None:
    """By how much the card is wrong at most: of thresholds in their own unit, of rates in parts of one."""
    if told is None:
        return None
    rates = (abs(np.subtract(rates_at(told, point.distance), point[1:])).max() for point in found.rates)
    return round(float(max(abs(told.threshold - found.threshold), *rates)), 4)


def _toml(meaning: Verification) -> str:
    rates = ",\n".join(f"        ({', '.join(map(str, point))})" for point in meaning.rates)
    plain = "\n".join(f'    "{name}": {getattr(meaning, name)},' for name in EQUAL)
    return f'"verification": {{\n{plain}\n    "rates": (\n{rates},\n    ),\n}}'


async def _right(sensorium: Sensorium, model: str) -> int:
    found = {name: await _faces(sensorium, model, DATA / "faces" / name) for name in _counts()}
    return sum(len(found[name].faces) == count for name, count in _counts().items())


def _counts() -> dict[str, int]:
    """How many faces the counted pictures show."""
    return {row["file"]: int(row["face_count"]) for row in _rows("compreface_faces.csv")} | dict.fromkeys(ONE_FACE, 1)


async def _faces(sensorium: Sensorium, model: str, path: Path) -> Faces:
    found: Faces = await sensorium.run(FacesRequest(image=Source.of(path), model=model), options=FRESH)
    return found


async def _distances(sensorium: Sensorium, model: str) -> tuple[Array, Array, list[set[str]], int]:
    """Of each pair: how far apart, whether of one person, and of whom; then in how many pictures no face was found, whose pairs
    are taken for different people's."""
    who = {row["file"]: row["identity"] for row in _rows("lfw10_identities.csv")}
    seen = {name: await _embedding(sensorium, model, DATA / "faces" / name) for name in who}
    pairs = [(row["a"], row["b"], row["same"] == "1") for row in _rows("lfw10_pairs.csv")]
    distances = np.array([_apart(seen[one], seen[other]) for one, other, _ in pairs])
    return (
        distances,
        np.array([same for *_, same in pairs]),
        [{who[one], who[other]} for one, other, _ in pairs],
        sum(one is None for one in seen.values()),
    )


def _apart(one: Array | None, other: Array | None) -> float:
    return 2.0 if one is None or other is None else float(np.linalg.norm(one - other))


async def _embedding(sensorium: Sensorium, model: str, path: Path) -> Array | None:
    """Of the largest face, as `compare_faces` takes it."""
    found = await sensorium.run(FacesRequest(image=Source.of(path), model=model, embeddings=True), options=FRESH)
    face = max(found.faces, key=lambda one: one.box.area, default=None)
    return None if face is None else np.array(face.embedding)


async def _seconds(sensorium: Sensorium, detectors: Iterable[str]) -> dict[str, float]:
    """For each way, how long one picture with one face takes, from the file to the numbers: the middle of all pictures and rounds."""
    paths = [DATA / "faces" / row["file"] for row in _rows("lfw10_identities.csv")][::5]
    ways: dict[str, Callable[[Path], Awaitable[Any]]] = {
        name: lambda path, name=name: _embedding(sensorium, name, path)  # type: ignore[misc]
        for name in detectors
    }
    example = _example()

    async def as_dlib_shows(path: Path) -> None:
        example(path)

    ways["example"] = as_dlib_shows
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for path in paths:
            for name, way in ways.items():
                start = time.perf_counter()
                await way(path)
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def _example() -> Callable[[Path], Any]:
    """As dlib's face_recognition.py and the package face_recognition do it, on a picture enlarged once."""
    import dlib
    from PIL import Image

    card = Registry().card("dlib_faces", "faces")
    network, points = _files(card)
    detector = dlib.get_frontal_face_detector()
    predictor, model = dlib.shape_predictor(points), dlib.face_recognition_model_v1(network)

    def described(path: Path) -> list[Any]:
        with Image.open(path) as opened:
            picture = np.array(opened.convert("RGB"))
        return [model.compute_face_descriptor(picture, predictor(picture, face), 1) for face in detector(picture, 1)]

    return described


def _files(card: Any) -> tuple[str, str]:
    from sensorium.runtimes import weights

    return str(weights.locate(card)), str(weights.locate(card, card.input["landmarks"]["file"]))


async def _of_card(sensorium: Sensorium) -> Verification | None:
    picture = Source.of(DATA / "faces" / _rows("lfw10_identities.csv")[0]["file"])
    told: FaceEmbeddings = await sensorium.run(EmbedFacesRequest(image=picture))
    return told.verification


def _is_here(registry: Registry, name: str) -> bool:
    return registry.state(registry.card(name, "faces")) == "ready"


def _models() -> Path:
    """A models folder with the YuNet of the test data."""
    import tempfile

    folder = Path(tempfile.mkdtemp())
    for file in (DATA / "weights" / "yunet").glob("*.onnx"):
        (folder / "yunet.onnx").write_bytes(file.read_bytes())
    return folder


def _rows(name: str) -> list[dict[str, str]]:
    with (DATA / "faces" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main())
