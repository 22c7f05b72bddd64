"""Tell whether two pictures show the same person, and how often such an answer is wrong."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from sensorium.engine import Call
from sensorium.errors import InvalidModel, NoFace, Unavailable
from sensorium.media.source import Source
from sensorium.schemas.compare_faces import ComparedFace, CompareFacesRequest, FaceComparison
from sensorium.schemas.embed_faces import EmbedFacesRequest, FaceEmbeddings, RatePoint, Verification
from sensorium.schemas.faces import Faces, FacesRequest

Request = CompareFacesRequest
ASKS = "faces"


NOTHING_TAKEN = RatePoint(0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The face of one picture."""

    face: ComparedFace
    embedded: FaceEmbeddings

    @property
    def embedding(self) -> tuple[float, ...]:
        return self.embedded.faces[0].embedding


def needs(request: CompareFacesRequest) -> tuple[str, ...]:  # noqa: ARG001 - every one
    return ("embed_faces",)


async def run(request: CompareFacesRequest, call: Call) -> FaceComparison:
    """One face of each picture, described by one model.

    Raises NoFace for the first picture in which none is found.
    """
    looks = (_look(source, number, request.model, call) for number, source in enumerate(request.images, start=1))
    first, second = map(_told, await asyncio.gather(*looks, return_exceptions=True))
    model = first.embedded.meta.engine
    if model != second.embedded.meta.engine:
        why = f"{model} described the one, {second.embedded.meta.engine} the other"
        raise Unavailable(
            "The two faces cannot be compared", why=why, fix="Try again, or name one model for `embed_faces`"
        )
    meaning = first.embedded.verification
    if meaning is None:
        raise InvalidModel(f"Model {model} cannot compare faces", why="its card does not say what distances mean")
    distance = math.dist(first.embedding, second.embedding)
    threshold = request.threshold or meaning.threshold
    false_match, false_non_match = rates_at(meaning, distance)
    return FaceComparison(
        same=distance <= threshold,
        distance=distance,
        score=score_of(meaning, distance),
        threshold=threshold,
        false_match_rate=false_match,
        false_non_match_rate=false_non_match,
        faces=(first.face, second.face),
        compared_by=model,
    )


def score_of(meaning: Verification, distance: float) -> float:
    """A half at the threshold, and less the farther. It stays as far within 0 and 1 as so many pairs can tell: by the rule of
    succession, one of half of them and two more."""
    margin = 1 / (meaning.pairs / 2 + 2)
    chance = 1 / (1 + math.exp(min(meaning.slope * (distance - meaning.threshold), 700.0)))
    return margin + (1 - 2 * margin) * chance


def rates_at(meaning: Verification, distance: float) -> tuple[float, float]:
    """Of false matches and false non-matches, if faces up to this distance are taken for one person's.

    Up to a distance of 0 no pair is: what was measured begins farther out, and lies on a line from there.
    """
    points = (NOTHING_TAKEN, *meaning.rates)
    after = next((place for place, point in enumerate(points) if point.distance >= distance), len(points) - 1)
    near, far = points[max(after - 1, 0)], points[after]
    way = (distance - near.distance) / (far.distance - near.distance) if far is not near else 1.0
    way = min(max(way, 0.0), 1.0)
    return (
        near.false_match + way * (far.false_match - near.false_match),
        near.false_non_match + way * (far.false_non_match - near.false_non_match),
    )


async def _look(source: Source, number: int, model: str | None, call: Call) -> _Seen:
    found: Faces = await call.run(FacesRequest(image=source, model=model))
    if not found.faces:
        raise NoFace(
            f"No face was found in picture {number}",
            why=f"{source.name} shows none to {found.meta.engine}",
            fix="Send one with a larger and sharper face, upright and turned to the camera; or name another model by `model`",
            picture=number,
        )
    face = max(found.faces, key=lambda face: face.box.area)
    embedded: FaceEmbeddings = await call.run(EmbedFacesRequest(image=source, boxes=(face.box,)))
    compared = ComparedFace(
        image=found.image, faces_found=len(found.faces), box=face.box, score=face.score, landmarks=face.landmarks
    )
    return _Seen(compared, embedded)


def _told(outcome: _Seen | BaseException) -> _Seen:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
