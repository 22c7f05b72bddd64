"""Finds people who stand or walk, by histograms of oriented gradients: weak, but in OpenCV itself, without any file.

Source: Dalal and Triggs, Histograms of Oriented Gradients for Human Detection, 2005. It was trained on upright pedestrians who
are seen whole: who sits, lies or is cut off is mostly overlooked, and posts and trees are taken for people.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sensorium.dependencies import need
from sensorium.engine import Call, Card, Host
from sensorium.errors import EngineFailed
from sensorium.media.encode import bounded
from sensorium.media.image import Image
from sensorium.runtimes.lending import Lending
from sensorium.schemas.base import ImageInfo
from sensorium.schemas.geometry import Box
from sensorium.schemas.people import People, PeopleRequest, Person

if TYPE_CHECKING:
    import cv2

    from sensorium.media.image import Pixels

REQUIRES = ("cv2", "numpy")

CARDS = (
    Card(
        name="hog_people",
        kind="hog_people",
        tasks=("people",),
        licence="Apache-2.0",
        origin="OpenCV's HOG detector of pedestrians (Dalal and Triggs, 2005). Weak: finds people who stand or walk and are "
        "seen whole, overlooks most others, and takes posts and trees for people; scores are no probabilities",
        aliases=("hog",),
    ),
)

PIXELS = 640 * 480
"""Larger pictures are searched at this size."""

WINDOW = (64, 128)
"""Pixels across and down of the smallest person with the space around."""

STEP, SCALE, OVERLAP = (8, 8), 1.05, 0.4
"""By how much the window moves, and grows; and of people that overlap by more the surest stays. The first two are those of OpenCV's
own example."""

SPACE_ACROSS, SPACE_DOWN = 0.1, (0.07, 0.13)
"""What the window holds around a person: left and right, above and below. Source: OpenCV's samples, peopledetect."""


class Engine:
    """Finds people in pictures."""

    def __init__(self, card: Card, host: Host) -> None:  # noqa: ARG002 - every kind is made alike
        self._card = card
        self._detectors: Lending[cv2.HOGDescriptor] | None = None

    def load(self) -> None:
        cv2 = need("cv2", for_what="find people")
        cv2.setNumThreads(1)  # pictures share the cores, not the parts of one
        self._detectors = Lending(_detector)

    def close(self) -> None:
        self._detectors = None

    async def run(self, request: PeopleRequest, call: Call) -> People:  # noqa: ARG002
        """Boxes around people; the score is the logistic function of the distance from the classifier's boundary."""
        return await request.image.image(at_least=math.isqrt(PIXELS), then=self._found)

    def _found(self, image: Image) -> People:
        import cv2

        detectors = self._detectors
        if detectors is None:
            raise EngineFailed(f"Model {self._card.id} is not loaded")
        seen = bounded(image.pixels, PIXELS)
        people = detectors.use(lambda one: list(_people(one, seen, image)))
        boxes = [(one.box.left, one.box.top, one.box.width, one.box.height) for one in people]
        kept = cv2.dnn.NMSBoxes(boxes, [one.score for one in people], 0.0, OVERLAP)
        return People(image=ImageInfo.of(image), people=tuple(people[int(place)] for place in kept))


def _people(detector: cv2.HOGDescriptor, pixels: Pixels, image: Image) -> Iterator[Person]:
    import cv2

    height, width = pixels.shape[:2]
    if width < WINDOW[0] or height < WINDOW[1]:
        return
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    found, distances = detector.detectMultiScale(grey, winStride=STEP, padding=STEP, scale=SCALE)
    across, down = image.width / width, image.height / height
    for (x, y, wide, high), distance in zip(found, distances, strict=True):
        left, right = x + SPACE_ACROSS * wide, x + (1 - SPACE_ACROSS) * wide
        top, bottom = y + SPACE_DOWN[0] * high, y + (1 - SPACE_DOWN[1]) * high
        box = Box(left=float(left), top=float(top), right=float(right), bottom=float(bottom))
        yield Person(box=box.scaled(across, down), score=1 / (1 + math.exp(-float(distance))))


def _detector() -> cv2.HOGDescriptor:
    import cv2

    detector = cv2.HOGDescriptor()
    detector.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())
    return detector
