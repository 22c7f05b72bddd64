"""Google Cloud Vision by its REST interface: labels for `classify`, localised objects for `detect`, and `faces`.

What may differ stands on the card, under `quirks`; keys are the names of environment variables, never their values:

    base_url = "https://vision.googleapis.com"               or another region's, such as https://eu-vision.googleapis.com
    key = "GOOGLE_VISION_API_KEY"                            holds an API key; goes in a header, never in an address
    service_account = "GOOGLE_APPLICATION_CREDENTIALS"       holds the path of a service account's key, for want of the former
    audience = "https://vision.googleapis.com/"              whom that account's tokens are for
    max_results = 10                                         how many to ask for, unless the request wants more
    timeout_seconds = 30
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from sensorium.engine import Call, Card, Host
from sensorium.errors import MissingKey, ProviderFailed, SensoriumError
from sensorium.media.pool import in_thread
from sensorium.runtimes import refusals
from sensorium.runtimes.http import Client, Patience, Question
from sensorium.runtimes.outgoing import outgoing
from sensorium.runtimes.provider import MARK
from sensorium.runtimes.service_account import ServiceAccount
from sensorium.schemas.base import Frozen, ImageInfo, Request, Result
from sensorium.schemas.classify import Classification, ClassifyRequest, Label
from sensorium.schemas.detect import DetectedObject, Detections
from sensorium.schemas.faces import Face, FaceAttributes, Faces, FacesRequest, Pose
from sensorium.schemas.geometry import Box

REQUIRES: tuple[str, ...] = ()

CARDS = (
    Card(
        name="google_vision",
        kind="google_vision",
        tasks=("classify", "detect", "faces"),
        licence="LicenseRef-Google-Cloud",
        origin="Google Cloud Vision, a paid service",
        remote=True,
        # 1600 x 1200 is what Google recommends for faces, which need most; a body of JSON may have 10 MB.
        input={
            "longest_side": 1600,
            "formats": ["jpeg", "png", "webp"],
            "max_bytes": 7_000_000,
            "denoise": True,
        },
        limits={"requests_per_minute": 1800},
    ),
)

MOST = 1000
"""Results that are asked for at most."""


class Quirks(Frozen):
    """What may differ, as the module says."""

    base_url: str = Field(default="https://vision.googleapis.com", pattern=r"^https?://")
    key: str = "GOOGLE_VISION_API_KEY"
    service_account: str = "GOOGLE_APPLICATION_CREDENTIALS"
    audience: str = "https://vision.googleapis.com/"
    max_results: int = Field(default=10, ge=1, le=MOST)
    timeout_seconds: float = Field(default=30.0, gt=0)


class Wire(BaseModel):
    """What Google answers; it leaves out zeros, and may add fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


class Status(Wire):
    code: int = 0
    message: str = ""


class Vertex(Wire):
    x: float = 0.0
    y: float = 0.0


class Polygon(Wire):
    vertices: tuple[Vertex, ...] = ()
    normalized_vertices: tuple[Vertex, ...] = ()


class Entity(Wire):
    mid: str = ""
    description: str = ""
    score: float = 0.0


class LocalizedObject(Wire):
    mid: str = ""
    name: str = ""
    score: float = 0.0
    bounding_poly: Polygon = Polygon()


class Landmark(Wire):
    type: str | int = ""
    position: Vertex = Vertex()


class FaceAnnotation(Wire):
    bounding_poly: Polygon = Polygon()
    fd_bounding_poly: Polygon = Polygon()
    """Closer around the skin of the face than the other, which holds the head."""
    landmarks: tuple[Landmark, ...] = ()
    roll_angle: float | None = None
    pan_angle: float | None = None
    tilt_angle: float | None = None
    detection_confidence: float = 0.0
    joy_likelihood: str | int = 0
    sorrow_likelihood: str | int = 0
    anger_likelihood: str | int = 0
    surprise_likelihood: str | int = 0
    under_exposed_likelihood: str | int = 0
    blurred_likelihood: str | int = 0
    headwear_likelihood: str | int = 0


class Annotations(Wire):
    label_annotations: tuple[Entity, ...] = ()
    localized_object_annotations: tuple[LocalizedObject, ...] = ()
    face_annotations: tuple[FaceAnnotation, ...] = ()
    error: Status = Status()


class Answer(Wire):
    responses: tuple[Annotations, ...] = ()


def labels(found: Annotations, image: ImageInfo) -> Classification:
    named = (Label(name=one.description, score=_unit(one.score), id=one.mid or None) for one in found.label_annotations)
    return Classification(image=image, labels=tuple(named))


def objects(found: Annotations, image: ImageInfo) -> Detections:
    return Detections(image=image, objects=tuple(_objects(found, image)))


def faces(found: Annotations, image: ImageInfo) -> Faces:
    return Faces(image=image, faces=tuple(_faces(found, image)))


class Feature(NamedTuple):
    """How Google calls what a task asks for, and how its answer becomes ours."""

    type: str
    read: Callable[[Annotations, ImageInfo], Result]


FEATURES = {
    "classify": Feature("LABEL_DETECTION", labels),
    "detect": Feature("OBJECT_LOCALIZATION", objects),
    "faces": Feature("FACE_DETECTION", faces),
}

STATUS = {3: 400, 5: 404, 7: 403, 8: 429, 9: 400, 11: 400, 12: 404, 16: 401}
"""What codes of google.rpc, which a single picture's error has, are as statuses of HTTP; all others are 500."""

LIKELIHOODS: dict[str | int, float] = {
    name: score
    for place, (called, score) in enumerate(
        (("VERY_UNLIKELY", 0.0), ("UNLIKELY", 0.25), ("POSSIBLE", 0.5), ("LIKELY", 0.75), ("VERY_LIKELY", 1.0)), 1
    )
    for name in (called, place)
}
"""Google tells five steps in place of numbers, by name or by number."""


class Engine:
    """Asks Google about one picture."""

    def __init__(self, card: Card, host: Host) -> None:  # noqa: ARG002 - every kind is made alike
        self._card = card
        self._quirks = Quirks()
        self._client: Client | None = None
        self._account: ServiceAccount | None = None

    def load(self) -> None:
        self._quirks = self._card.quirks_as(Quirks)
        self._client = Client("Google Vision", Patience(first=self._quirks.timeout_seconds))

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    async def run(self, request: Request, call: Call) -> Result:
        assert self._client is not None  # noqa: S101 - it was loaded
        feature = FEATURES[request.task]
        asked = {"type": feature.type, "maxResults": min(MOST, max(self._quirks.max_results, _wanted(request)))}
        headers, secret = await self._credentials()
        (source,) = request.sources()
        body = await outgoing(source, {"requests": [{"image": {"content": MARK}, "features": [asked]}]})
        url = f"{self._quirks.base_url.rstrip('/')}/v1/images:annotate"
        answer = await self._client.ask(Question(url, body.pieces, headers, secret), call)
        return _read(answer, feature, body.image, secret)

    async def _credentials(self) -> tuple[dict[str, str], str]:
        """The header that says who asks, and the secret in it."""
        key, path = os.environ.get(self._quirks.key), os.environ.get(self._quirks.service_account)
        if key:
            return {"x-goog-api-key": key}, key
        if not path:
            raise MissingKey(
                f"{self._card.name} cannot be asked",
                why=f"neither {self._quirks.key} nor {self._quirks.service_account} is set",
                fix="Set the first to an API key, or the second to the path of a service account's key",
            )
        if self._account is None or self._account.path != Path(path):
            self._account = ServiceAccount(Path(path), self._quirks.audience)
        token = await in_thread(self._account.token)
        return {"Authorization": f"Bearer {token}"}, token


def lacking(card: Card) -> str:
    """What is missing before the model can be asked, in words; empty when nothing is."""
    quirks = card.quirks_as(Quirks)
    if os.environ.get(quirks.key) or os.environ.get(quirks.service_account):
        return ""
    return f"missing {quirks.key}, or {quirks.service_account}: set one of these environment variables"


def _wanted(request: Request) -> int:
    """How many results the caller wants at least: of faces all, where no limit is named, since who is left out is not covered either."""
    if isinstance(request, FacesRequest):
        return request.limit or MOST
    limit = request.top_k if isinstance(request, ClassifyRequest) else getattr(request, "limit", None)
    return limit or 0


def _read(answer: Any, feature: Feature, image: ImageInfo, secret: str) -> Result:
    """Raises what stands in place of the annotations, and ProviderFailed for what is no answer."""
    try:
        (found,) = Answer.model_validate(answer).responses
        result = feature.read(found, image)
    except ValueError as error:  # pydantic's ValidationError is one
        raise ProviderFailed(
            "Google Vision cannot be understood", why="its answer is not one about one picture"
        ) from error
    # What is there is right although there is an error beside it, as Google says.
    if found.error.code and not (
        found.label_annotations or found.localized_object_annotations or found.face_annotations
    ):
        raise _error(found.error, secret)
    return result


def _error(status: Status, secret: str) -> SensoriumError:
    told = refusals.Told(STATUS.get(status.code, 500), f"{status.message} (code {status.code})")
    return refusals.error_of("Google Vision", told, secret)


def _objects(found: Annotations, image: ImageInfo) -> Iterator[DetectedObject]:
    for one in found.localized_object_annotations:
        box = _box(one.bounding_poly, image)
        if box is not None:
            yield DetectedObject(name=one.name, score=_unit(one.score), id=one.mid or None, box=box)


def _faces(found: Annotations, image: ImageInfo) -> Iterator[Face]:
    for one in found.face_annotations:
        box = _box(one.fd_bounding_poly, image) or _box(one.bounding_poly, image)
        if box is not None:
            yield Face(
                box=box,
                score=_unit(one.detection_confidence),
                landmarks={str(mark.type).lower(): (mark.position.x, mark.position.y) for mark in one.landmarks},
                attributes=_attributes(one),
            )


def _attributes(one: FaceAnnotation) -> FaceAttributes:
    shown = {
        "happy": _likely(one.joy_likelihood),
        "sad": _likely(one.sorrow_likelihood),
        "angry": _likely(one.anger_likelihood),
        "surprised": _likely(one.surprise_likelihood),
    }
    return FaceAttributes(
        emotions={name: score for name, score in shown.items() if score is not None},
        headwear=_likely(one.headwear_likelihood),
        blurred=_likely(one.blurred_likelihood),
        underexposed=_likely(one.under_exposed_likelihood),
        pose=Pose(yaw=one.pan_angle, pitch=one.tilt_angle, roll=one.roll_angle),
    )


def _box(shape: Polygon, image: ImageInfo) -> Box | None:
    """Around the shape, whose corners are in pixels or in parts of the picture; None where there are none."""
    if shape.normalized_vertices:
        return Box.around(tuple((at.x * image.width, at.y * image.height) for at in shape.normalized_vertices))
    return Box.around(tuple((at.x, at.y) for at in shape.vertices)) if shape.vertices else None


def _likely(likelihood: str | int) -> float | None:
    return LIKELIHOODS.get(likelihood)


def _unit(score: float) -> float:
    """Rounding may lead a hair out of 0 to 1."""
    return min(max(score, 0.0), 1.0)
