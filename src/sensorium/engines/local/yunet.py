"""Finds faces by YuNet, a small network that OpenCV runs: from the front and the side, large and small.

Source: Wu, Peng and Yu, YuNet: A Tiny Millisecond-level Face Detector, 2023. Its file is not carried by any package: it
becomes the model as `yunet.onnx` in the models folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from sensorium.dependencies import need
from sensorium.engine import Call, Card, Host, Weights
from sensorium.errors import EngineFailed, InvalidModel
from sensorium.media.encode import bounded, shrunk, within
from sensorium.media.image import Image
from sensorium.runtimes import weights
from sensorium.runtimes.lending import Lending
from sensorium.schemas.base import Frozen, ImageInfo
from sensorium.schemas.faces import Face, Faces, FacesRequest
from sensorium.schemas.geometry import Box

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray

    from sensorium.media.image import Pixels

    Rows = NDArray[np.float32]
    """float32 (faces, 15): left, top, width, height, five points as x and y, score."""

REQUIRES = ("cv2", "numpy", "onnxruntime")

CARDS = (
    Card(
        name="yunet",
        kind="yunet",
        tasks=("faces",),
        licence="MIT",
        origin="Shiqi Yu and others, libfacedetection; as ONNX in OpenCV's zoo: face_detection_yunet",
        weights=Weights(file="yunet.onnx", alone=True),
        install="sensorium models add yunet yunet.onnx",
    ),
)

LANDMARKS = ("left_eye", "right_eye", "nose_tip", "mouth_left", "mouth_right")
"""In the order of the network, which calls the viewer's left the right of the face."""

SMALL_VIEW = 480
"""Pixels of the longer side of the view in which large faces are looked for. The network finds faces of 10 to some 300."""

LARGEST_IN_DETAIL = 256
"""Pixels of a side from which on a face is left to the small view: in pictures made larger, those found only in the large
one were none."""

LEAST_SCORE, OVERLAP, MOST = 0.3, 0.3, 5000
"""What is less likely is not told at all; of faces that overlap by more the surest stays; and so many are looked at. The last two
are OpenCV's own."""

TRIAL_SIDE, LARGEST_TRIAL, STRIDES = 320, 2048, (8, 16, 32)
OUTPUTS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
"""Numbers of each place of a stride's grid. OpenCV reads them without looking how many there are."""


class Input(Frozen):
    """How a picture is searched: the `input` of a card."""

    pixels: int = Field(default=1_500_000, ge=1024, le=1 << 24)
    """Larger pictures are searched at this size. A megapixel takes about a tenth of a second."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A face in pixels of the picture as sent."""

    box: Box
    score: float
    points: tuple[tuple[float, float], ...]


class Engine:
    """Finds faces, their eyes, noses and mouths, with any file of YuNet that OpenCV's FaceDetectorYN runs."""

    def __init__(self, card: Card, host: Host) -> None:
        self._card, self._host = card, host
        self._detectors: Lending[cv2.FaceDetectorYN] | None = None

    def load(self) -> None:
        """Raises InvalidModel for a card or a file that is not YuNet's, and ModelNotInstalled."""
        cv2 = need("cv2", for_what="find faces")
        self._input = self._card.input_as(Input)
        path = weights.onnx_model(self._card, self._host.cache_dir)
        if isinstance(path, bytes):
            raise _not_yunet(self._card, "its card names a builder")
        _check(path, self._card)
        network = _read(path)
        cv2.setNumThreads(1)  # pictures share the cores, not the parts of one
        try:
            self._detectors = Lending(lambda: _detector(network))
            self._detectors.use(lambda one: one.detect(_blank(TRIAL_SIDE, TRIAL_SIDE)))
        except cv2.error as error:
            raise _not_yunet(self._card, str(error)) from error

    def close(self) -> None:
        self._detectors = None

    async def run(self, request: FacesRequest, call: Call) -> Faces:  # noqa: ARG002
        """Faces with scores and five points each."""
        return await request.image.image(at_least=int(self._input.pixels**0.5), then=self._found)

    def _found(self, image: Image) -> Faces:
        import cv2

        detectors = self._detectors
        if detectors is None:
            raise EngineFailed(f"Model {self._card.id} is not loaded")
        large = bounded(image.pixels, self._input.pixels)
        # OpenCV fills both sides up to whole strides: of a line of pixels it would make thirty-two.
        large = shrunk(
            large, within(max(SMALL_VIEW, self._input.pixels // STRIDES[-1]))(large.shape[1], large.shape[0])
        )
        seen = list(detectors.use(lambda one: _seen(one, large, image)))
        height, width = large.shape[:2]
        if max(width, height) > SMALL_VIEW:
            small = shrunk(large, within(SMALL_VIEW)(width, height))
            across = image.width / width
            seen = [face for face in seen if max(face.box.width, face.box.height) < LARGEST_IN_DETAIL * across]
            seen += detectors.use(lambda one: _seen(one, small, image))
        boxes = [(face.box.left, face.box.top, face.box.width, face.box.height) for face in seen]
        kept = cv2.dnn.NMSBoxes(boxes, [face.score for face in seen], LEAST_SCORE, OVERLAP)
        return Faces(image=ImageInfo.of(image), faces=tuple(_face(seen[int(place)]) for place in kept))


def _seen(detector: cv2.FaceDetectorYN, pixels: Pixels, image: Image) -> list[_Seen]:
    """What the network finds in a view of the picture."""
    import cv2

    height, width = pixels.shape[:2]
    detector.setInputSize((width, height))
    _, rows = detector.detect(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return [] if rows is None else list(_faces(rows, image.width / width, image.height / height))


def _faces(rows: Rows, across: float, down: float) -> Iterator[_Seen]:
    for row in rows:
        left, top, wide, high, *points, score = (float(number) for number in row)
        if not (all(map(math.isfinite, (left, top, *points, score))) and 0 < wide < math.inf and 0 < high < math.inf):
            continue
        box = Box(left=left, top=top, right=left + wide, bottom=top + high).scaled(across, down)
        placed = tuple((x * across, y * down) for x, y in zip(points[::2], points[1::2], strict=True))
        yield _Seen(box, min(max(score, 0.0), 1.0), placed)


def _face(seen: _Seen) -> Face:
    return Face(box=seen.box, score=seen.score, landmarks=dict(zip(LANDMARKS, seen.points, strict=True)))


def _check(path: Path, card: Card) -> None:
    """Raises InvalidModel unless the file is a whole network with YuNet's outputs.

    By onnxruntime, which refuses what is damaged: OpenCV's importer crashes on some of it.
    """
    try:
        height, width, outputs = _tried(path, card)
    except (EngineFailed, ValueError) as error:
        raise _not_yunet(card, str(error)) from error
    for stride in STRIDES:
        for name, numbers in OUTPUTS.items():
            output, expected = outputs.get(f"{name}_{stride}"), (height // stride) * (width // stride) * numbers
            if output is None or output.size != expected or output.dtype != "float32":
                raise _not_yunet(card, f"it has no output {name}_{stride} with {expected} numbers")


def _tried(path: Path, card: Card) -> tuple[int, int, Mapping[str, NDArray[np.generic]]]:
    """Height and width of a black picture, and what the network makes of it."""
    from sensorium.runtimes.onnx import Session

    session = Session(path, name=card.id)
    try:
        (port,) = session.inputs
        height, width = (min(side, LARGEST_TRIAL) if isinstance(side, int) else TRIAL_SIDE for side in port.shape[2:])
        picture = _blank(height, width).transpose(2, 0, 1)[None].astype("float32")
        return height, width, session.run_here({port.name: picture})
    finally:
        session.close()


def _blank(height: int, width: int) -> Pixels:
    import numpy as np

    return np.zeros((height, width, 3), np.uint8)


def _read(path: Path) -> NDArray[np.uint8]:
    """The file's bytes, (bytes,)."""
    import numpy as np

    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise InvalidModel(f"Cannot read {path.name}", why=str(error)) from error


def _detector(network: NDArray[np.uint8]) -> cv2.FaceDetectorYN:
    import cv2
    import numpy as np

    side = (TRIAL_SIDE, TRIAL_SIDE)
    return cv2.FaceDetectorYN.create("onnx", network, np.empty(0, np.uint8), side, LEAST_SCORE, OVERLAP, MOST)


def _not_yunet(card: Card, why: str) -> InvalidModel:
    return InvalidModel(
        f"Model {card.id} cannot be used",
        why=f"its file is no YuNet that OpenCV runs ({why.strip()[:300]})",
        fix="Get face_detection_yunet of OpenCV's zoo, and put it in place of the file",
    )
