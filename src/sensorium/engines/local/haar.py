"""Finds faces by a cascade of Haar features, which OpenCV carries: quick to have, sees faces from the front only.

Source: Viola and Jones, Rapid Object Detection using a Boosted Cascade of Simple Features, 2001.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from sensorium.dependencies import need
from sensorium.engine import Call, Card, Host, Weights
from sensorium.errors import EngineFailed, InvalidModel
from sensorium.media.encode import bounded
from sensorium.media.image import Image
from sensorium.runtimes import weights
from sensorium.runtimes.lending import Lending
from sensorium.schemas.base import Frozen, ImageInfo
from sensorium.schemas.faces import Face, Faces, FacesRequest
from sensorium.schemas.geometry import Box

if TYPE_CHECKING:
    import cv2

REQUIRES = ("cv2", "numpy")

CARDS = (
    Card(
        name="haar_frontalface",
        kind="haar",
        tasks=("faces",),
        licence="BSD-3-Clause",
        origin="Rainer Lienhart, Intel: OpenCV's haarcascade_frontalface_default; Intel License Agreement For Open Source "
        "Computer Vision Library. Sees faces from the front; does not say how sure it is",
        aliases=("haar",),
        weights=Weights(
            package="cv2",
            file="data/haarcascade_frontalface_default.xml",
            sha256="0f7d4527844eb514d4a4948e822da90fbb16a34a0bbbbc6adc6498747a5aafb0",
        ),
    ),
)


class Input(Frozen):
    """How a picture is searched: the `input` of a card."""

    scale: float = Field(default=1.1, gt=1, le=2)
    """How many times as large faces are looked for from one search to the next."""
    neighbours: int = Field(default=4, ge=0, le=100)
    """How many findings beside each other make a face."""
    pixels: int = Field(default=640 * 480, ge=1024, le=1 << 24)
    """Larger pictures are searched at this size. Faces from 24 pixels on are found in what is searched."""


class Engine:
    """Finds faces with a cascade in OpenCV's newer XML format."""

    def __init__(self, card: Card, host: Host) -> None:  # noqa: ARG002 - every kind is made alike
        self._card = card
        self._cascades: Lending[cv2.CascadeClassifier] | None = None

    def load(self) -> None:
        """Raises InvalidModel for a card or a file that is no cascade's, and ModelNotInstalled."""
        cv2 = need("cv2", for_what="find faces")
        self._input = self._card.input_as(Input)
        path = weights.locate(self._card)
        weights.verified(path, self._card)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InvalidModel(f"Cannot read {path.name}", why=str(error)) from error
        cv2.setNumThreads(1)  # pictures share the cores, not the parts of one
        self._cascades = Lending(lambda: _cascade(text, self._card))

    def close(self) -> None:
        self._cascades = None

    async def run(self, request: FacesRequest, call: Call) -> Faces:  # noqa: ARG002
        """Squares around faces, without scores."""
        return await request.image.image(at_least=_shorter_side(self._input.pixels), then=self._found)

    def _found(self, image: Image) -> Faces:
        import cv2

        cascades = self._cascades
        if cascades is None:
            raise EngineFailed(f"Model {self._card.id} is not loaded")
        seen = bounded(image.pixels, self._input.pixels)
        grey = cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY)
        scale, neighbours = self._input.scale, self._input.neighbours
        found = cascades.use(lambda cascade: cascade.detectMultiScale(grey, scale, neighbours))
        across, down = image.width / seen.shape[1], image.height / seen.shape[0]
        boxes = (Box(left=x, top=y, right=x + wide, bottom=y + high) for x, y, wide, high in map(_numbers, found))
        return Faces(image=ImageInfo.of(image), faces=tuple(Face(box=box.scaled(across, down)) for box in boxes))


def _shorter_side(pixels: int) -> int:
    """Of a square picture with so many pixels: others of that shorter side have more, and are made smaller."""
    return int(pixels**0.5)


def _numbers(found: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in found)


def _cascade(text: str, card: Card) -> cv2.CascadeClassifier:
    import cv2

    cascade = cv2.CascadeClassifier()
    try:
        # Of a text, as OpenCV opens no path with letters beyond ASCII on Windows.
        storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        usable = cascade.read(storage.getFirstTopLevelNode()) and not cascade.empty()
    except (cv2.error, SystemError) as error:  # the latter of an empty text
        raise _no_cascade(card, str(error)) from error
    if not usable:
        raise _no_cascade(card, "it has no stages")
    return cascade


def _no_cascade(card: Card, why: str) -> InvalidModel:
    return InvalidModel(
        f"Model {card.id} cannot be used",
        why=f"its file is no cascade that OpenCV reads ({why})",
        fix="Install it again",
    )
