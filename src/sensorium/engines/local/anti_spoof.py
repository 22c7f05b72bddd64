"""Tells faces in front of the camera from those on paper or on a screen, by two small networks that look at what is around a face.

Source: Minivision, Silent-Face-Anti-Spoofing, 2020.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sensorium.engine import Call, Card, Host, Weights
from sensorium.errors import EngineFailed, InvalidModel
from sensorium.media.image import Image
from sensorium.runtimes import weights
from sensorium.runtimes.onnx import Session
from sensorium.schemas.base import ImageInfo
from sensorium.schemas.check_live import CheckLiveRequest, Liveness
from sensorium.schemas.geometry import Box

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sensorium.media.image import Pixels

    Tensor = NDArray[np.float32]
    """float32 (1, 3, 80, 80), BGR, 0 to 255."""

REQUIRES = ("cv2", "numpy", "onnxruntime")

CARDS = (
    Card(
        name="anti_spoof",
        kind="anti_spoof",
        tasks=("check_live",),
        licence="Apache-2.0",
        origin="Minivision: Silent-Face-Anti-Spoofing's MiniFASNetV2 and MiniFASNetV1SE as ONNX. Made for the camera of a phone or "
        "a door; knows printed and replayed faces, not masks or made-up videos",
        weights=Weights(file="MiniFASNetV2_2.7_80x80.onnx", alone=True),
        input={"wider": {"file": "MiniFASNetV1SE_4.0_80x80.onnx"}},
    ),
)
"""`weights` is the network that sees 2.7 times the face, and `input` names the one that sees 4 times."""

SCALES = {"closer": 2.7, "wider": 4.0}
"""How many times as wide and high as the face what each sees is, where the picture has as much."""

SIDE = 80
"""Pixels that both networks take."""

CLASSES, ALIVE = 3, 1
"""Which of them are faces in front of the camera."""


class Engine:
    """Both networks, whose answers are averaged."""

    def __init__(self, card: Card, host: Host) -> None:
        self._card, self._host = card, host
        self._sessions: dict[str, Session] = {}

    def load(self) -> None:
        """Raises InvalidModel when a network takes or gives anything else, and ModelNotInstalled."""
        try:
            for part in SCALES:
                self._sessions[part] = _open(_part(self._card, part), part, self._host)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.close()

    async def run(self, request: CheckLiveRequest, call: Call) -> Liveness:
        """For each box how surely the face is in front of the camera. Raises what decoding and the sessions raise."""
        if not self._sessions:
            raise EngineFailed(f"Model {self._card.id} is not loaded")
        return await request.image.image(then=partial(self._checked, request, call))

    def _checked(self, request: CheckLiveRequest, call: Call, image: Image) -> Liveness:
        scores = tuple(self._score(image, box, call) for box in request.boxes)
        return Liveness(image=ImageInfo.of(image), scores=scores)

    def _score(self, image: Image, box: Box, call: Call) -> float:
        call.remaining()
        here = box.scaled(image.pixels.shape[1] / image.width, image.pixels.shape[0] / image.height)
        odds = [_odds(session, _tensor(image.pixels, here, SCALES[part])) for part, session in self._sessions.items()]
        return sum(odds) / len(odds)


def _part(card: Card, part: str) -> Card:
    if part == "closer" or card.weights is None:
        return card
    named = card.input.get(part)
    if not isinstance(named, dict):
        raise InvalidModel(f"Model {card.id} cannot be used", why=f"its card names no {part}", fix="Add it to `input`")
    return card.model_copy(update={"weights": Weights(package=card.weights.package, **named)})


def _open(card: Card, part: str, host: Host) -> Session:
    model = weights.onnx_model(card, host.cache_dir)
    session = Session(model, name=f"{card.id} {part}", threads=host.threads, queue=host.queue, device=host.device)
    try:
        _check(session, card)
    except BaseException:
        session.close()
        raise
    return session


def _check(session: Session, card: Card) -> None:
    """Raises InvalidModel when it is no such network: one that gives the odds of three classes, as those of its makers end."""
    import numpy as np

    what, takes = f"Model {card.id} cannot be used", session.inputs[0].shape
    if takes[1:] != (3, SIDE, SIDE):
        raise InvalidModel(what, why=f"its network takes {takes}, and a face of {SIDE} x {SIDE} pixels is wanted")
    (odds,) = session.run_here({session.inputs[0].name: np.full((1, 3, SIDE, SIDE), 128, np.float32)}).values()
    if odds.shape != (1, CLASSES) or odds.min() < 0 or abs(float(odds.sum()) - 1) > 1e-3:
        raise InvalidModel(what, why=f"its network gives {odds.shape}, and no odds of {CLASSES} classes")


def _tensor(pixels: Pixels, box: Box, scale: float) -> Tensor:
    import cv2

    left, top, right, bottom = around(box, scale, pixels.shape[1], pixels.shape[0])
    seen = cv2.resize(pixels[top : bottom + 1, left : right + 1], (SIDE, SIDE))
    return cv2.dnn.blobFromImage(seen, swapRB=True)  # type: ignore[no-any-return]


def around(box: Box, scale: float, width: int, height: int) -> tuple[int, int, int, int]:
    """The first and last columns and rows of what a network sees: so many times the face, less where the picture has less, moved
    inside the picture. As its makers' `CropImage` does it."""
    wide, high = max(box.width, 1.0), max(box.height, 1.0)
    scale = min((height - 1) / high, (width - 1) / wide, scale)
    across, down = wide * scale, high * scale
    left = min(max((box.left + box.right - across) / 2, 0.0), width - 1 - across)
    top = min(max((box.top + box.bottom - down) / 2, 0.0), height - 1 - down)
    return int(left), int(top), int(left + across), int(top + down)


def _odds(session: Session, tensor: Tensor) -> float:
    """That the face is in front of the camera, 0 to 1."""
    (odds,) = session.run_here({session.inputs[0].name: tensor}).values()
    return min(float(odds[0, ALIVE]), 1.0)
