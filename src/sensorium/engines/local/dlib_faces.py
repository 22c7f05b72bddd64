"""Describes faces by 128 numbers that can be compared, with dlib's residual network; finds them too, by dlib's HOG detector.

The network runs in our own session: so it takes a tenth of the time, and its threads do not hold up Python.

The files are those that the package face_recognition_models carries. They are found without importing it: its code needs a
module that newer setuptools dropped. Of them the model of 68 landmarks is not touched: its licence excludes commercial use.
"""

from __future__ import annotations

import base64
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensorium.dependencies import need
from sensorium.engine import Call, Card, Host, Weights
from sensorium.errors import EngineFailed, InvalidModel, InvalidRequest
from sensorium.media.encode import as_jpeg
from sensorium.media.image import Image
from sensorium.runtimes import weights
from sensorium.runtimes.dlib_resnet import SIDE
from sensorium.runtimes.lending import Lending
from sensorium.runtimes.onnx import Session
from sensorium.schemas.base import Frozen, ImageInfo
from sensorium.schemas.embed_faces import EmbeddedFace, EmbedFacesRequest, FaceEmbeddings, Verification
from sensorium.schemas.faces import Face, Faces, FacesRequest
from sensorium.schemas.geometry import Box, Point

if TYPE_CHECKING:
    from sensorium.media.image import Pixels

REQUIRES = ("dlib", "face_recognition_models", "numpy", "cv2")

VERIFICATION: dict[str, Any] = {
    "threshold": 0.615,
    "slope": 46.2,
    "pairs": 600,
    "people": 10,
    "rates": (
        # distance, false matches, false non-matches
        (0.3, 0.0, 0.9433),
        (0.32, 0.0, 0.9067),
        (0.34, 0.0, 0.8333),
        (0.36, 0.0, 0.78),
        (0.38, 0.0, 0.6833),
        (0.4, 0.0, 0.5633),
        (0.42, 0.0, 0.4733),
        (0.44, 0.0, 0.35),
        (0.46, 0.0, 0.25),
        (0.48, 0.0, 0.1667),
        (0.5, 0.0, 0.1067),
        (0.52, 0.0, 0.06),
        (0.54, 0.0, 0.0433),
        (0.56, 0.0, 0.0367),
        (0.58, 0.0, 0.0267),
        (0.6, 0.0, 0.0167),
        (0.62, 0.0033, 0.01),
        (0.64, 0.0367, 0.0033),
        (0.66, 0.0933, 0.0),
        (0.68, 0.1533, 0.0),
        (0.7, 0.2167, 0.0),
        (0.72, 0.27, 0.0),
        (0.74, 0.3533, 0.0),
        (0.76, 0.44, 0.0),
        (0.78, 0.56, 0.0),
        (0.8, 0.68, 0.0),
        (0.82, 0.8, 0.0),
        (0.84, 0.8833, 0.0),
        (0.86, 0.9467, 0.0),
        (0.88, 0.97, 0.0),
        (0.9, 0.98, 0.0),
        (0.92, 0.9933, 0.0),
        (0.94, 0.9967, 0.0),
        (0.96, 0.9967, 0.0),
        (0.98, 1.0, 0.0),
        (1.0, 1.0, 0.0),
    ),
}
"""As `python -m benchmarks.faces --card` measured it, on faces that YuNet found. Ten people are few: docs/faces.md."""

CARDS = (
    Card(
        name="dlib_faces",
        kind="dlib_faces",
        tasks=("faces", "embed_faces"),
        licence="CC0-1.0 AND BSL-1.0",
        origin="Davis King: dlib's face recognition network of 2017 and 5-point landmarks, in the PyPI package "
        "face_recognition_models; dlib's HOG detector. Does not say how sure it is of a face",
        aliases=("dlib",),
        weights=Weights(
            package="face_recognition_models",
            file="models/dlib_face_recognition_resnet_model_v1.dat",
            sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            builder="dlib_resnet",
        ),
        input={
            "landmarks": {
                "file": "models/shape_predictor_5_face_landmarks.dat",
                "sha256": "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
            },
        },
        quirks={"verification": VERIFICATION},
        install="pip install 'sensorium[faces]'",
    ),
)
"""`weights` is the network; `input` names the landmarks. `quirks.verification` says what distances mean: `Verification`."""

SEARCHED = 1200 * 900
"""Larger pictures are searched for faces at this size, where the detector finds those of 80 pixels and more."""

ENLARGE = 2.0
"""Smaller ones are enlarged, so many times at most. Twice, as `face_recognition` does it."""

PADDING = 0.25
"""How much of what is around a face its cut-out shows, as the network takes it."""

CROP_QUALITY = 90
"""Of the JPEG of a face that is cut out."""

CORNERS = ("right_eye_outer", "right_eye_inner", "left_eye_outer", "left_eye_inner", "nose_base")
"""The five points in the order of the model, left and right as the viewer sees them."""


class Quirks(Frozen):
    """What is odd about it: the `quirks` of a card."""

    verification: Verification | None = None


class Engine:
    """Network, landmarks and detector."""

    def __init__(self, card: Card, host: Host) -> None:
        self._card, self._host = card, host
        self._network: Session | None = None

    def load(self) -> None:
        """Raises MissingDependency without dlib, ModelNotInstalled, and InvalidModel for files that are not those of the card."""
        dlib = need("dlib", for_what="describe faces")
        self._quirks = self._card.quirks_as(Quirks)
        self._landmarks = _opened(dlib.shape_predictor, _file(_landmarks(self._card)), self._card)
        host, model = self._host, weights.onnx_model(self._card, self._host.cache_dir)
        self._network = Session(model, name=self._card.id, threads=host.threads, queue=host.queue, device=host.device)

    def close(self) -> None:
        network, self._network = self._network, None
        vars(self).pop("_detectors", None)
        if network is not None:
            network.close()

    @cached_property
    def _detectors(self) -> Lending[Any]:
        """Made when faces are first looked for, which takes a second: who only describes those of others has no use for them."""
        import dlib

        return Lending(dlib.get_frontal_face_detector)

    async def run(self, request: FacesRequest | EmbedFacesRequest, call: Call) -> Faces | FaceEmbeddings:
        """Where faces are, without scores; or the numbers of those that are given. Raises what decoding raises."""
        network = self._network
        if network is None:
            raise EngineFailed(f"Model {self._card.id} is not loaded")
        if isinstance(request, EmbedFacesRequest):
            return await request.image.image(then=partial(self._embedded, network, request, call))
        return await request.image.image(at_least=int(SEARCHED**0.5), then=self._found)

    def _found(self, image: Image) -> Faces:
        seen = _resized(image.pixels)
        rectangles = self._detectors.use(lambda detector: detector(seen))
        across, down = image.width / seen.shape[1], image.height / seen.shape[0]
        faces = tuple(
            Face(box=_box(rectangle).scaled(across, down), landmarks=self._points(seen, rectangle, across, down))
            for rectangle in rectangles
        )
        return Faces(image=ImageInfo.of(image), faces=faces)

    def _points(self, seen: Pixels, rectangle: Any, across: float, down: float) -> dict[str, Point]:
        parts = self._landmarks(seen, rectangle).parts()
        found = {name: (part.x * across, part.y * down) for name, part in zip(CORNERS, parts, strict=True)}
        eyes = {eye: _middle(found[f"{eye}_outer"], found[f"{eye}_inner"]) for eye in ("left_eye", "right_eye")}
        return {**eyes, **found}

    def _embedded(self, network: Session, request: EmbedFacesRequest, call: Call, image: Image) -> FaceEmbeddings:
        faces = tuple(self._face(network, image, box, call, crop=request.crops) for box in request.boxes)
        told = FaceEmbeddings(image=ImageInfo.of(image), faces=faces, verification=self._quirks.verification)
        return told.stamped(skipped=network.skipped) if network.skipped else told

    def _face(self, network: Session, image: Image, box: Box, call: Call, *, crop: bool) -> EmbeddedFace:
        call.remaining()
        chip = self._chip(image, box)
        return EmbeddedFace(embedding=_embedding(network, chip), crop=_data_url(chip) if crop else None)

    def _chip(self, image: Image, box: Box) -> Pixels:
        """The face turned upright, with its eyes where they are in every other: uint8 (150, 150, 3), RGB."""
        import dlib

        seen = box.within(image.width, image.height)
        if seen is None:
            raise InvalidRequest("A face cannot be described", why="its box lies outside of the picture")
        here = seen.scaled(image.pixels.shape[1] / image.width, image.pixels.shape[0] / image.height)
        points = self._landmarks(image.pixels, _rectangle(here))
        return dlib.get_face_chip(image.pixels, points, SIDE, PADDING)  # type: ignore[no-any-return]


def _embedding(network: Session, chip: Pixels) -> tuple[float, ...]:
    """The mean of the face's numbers and its mirror image's: of 600 pairs, four more were told right than without."""
    import numpy as np

    face = chip.transpose(2, 0, 1).astype(np.float32)
    (numbers,) = network.run_here({network.inputs[0].name: np.stack([face, face[:, :, ::-1]])}).values()
    return tuple(numbers.mean(axis=0).tolist())


def _landmarks(card: Card) -> Card:
    """A card whose weights are the landmarks."""
    named = card.input.get("landmarks")
    if card.weights is None or not isinstance(named, dict):
        raise InvalidModel(
            f"Model {card.id} cannot be used", why="its card names no landmarks", fix="Add it to `input`"
        )
    return card.model_copy(update={"weights": Weights(package=card.weights.package, **named)})


def _file(card: Card) -> Path:
    path = weights.locate(card)
    weights.verified(path, card)
    return path


def _opened(make: Any, path: Path, card: Card) -> Any:
    try:
        return make(str(path))
    except RuntimeError as error:
        raise InvalidModel(f"Model {card.id} cannot be used", why=f"dlib cannot read {path.name} ({error})") from error


def _resized(pixels: Pixels) -> Pixels:
    """The picture as it is searched for faces."""
    import cv2

    height, width = pixels.shape[:2]
    factor = min((SEARCHED / (height * width)) ** 0.5, ENLARGE)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)  # type: ignore[no-any-return]


def _box(rectangle: Any) -> Box:
    return Box(left=rectangle.left(), top=rectangle.top(), right=rectangle.right() + 1, bottom=rectangle.bottom() + 1)


def _rectangle(box: Box) -> Any:
    """What the landmarks are looked for in: a square, as dlib's own detector gives them."""
    import dlib

    side = (box.width + box.height) / 2
    left, top = (box.left + box.right - side) / 2, (box.top + box.bottom - side) / 2
    return dlib.rectangle(*(round(edge) for edge in (left, top, left + side, top + side)))


def _middle(one: Point, other: Point) -> Point:
    return (one[0] + other[0]) / 2, (one[1] + other[1]) / 2


def _data_url(chip: Pixels) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(as_jpeg(chip, CROP_QUALITY, "")).decode()
