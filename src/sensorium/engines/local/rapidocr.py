"""Text, Chinese and English, by the PP-OCR models that RapidOCR's package carries: find the lines, turn them, read them.

The steps and constants are RapidOCR's own (3.10), run in our sessions: its package is never imported, so nothing of it
can log or download. Ours differs where that was measured to be better: small pictures are enlarged less and padded with
the colour of their edge instead of black, lines are cut from the picture as decoded and read one by one (batches pad all
lines to the longest, and 18,385 classes for each eighth pixel take half a gigabyte), and the order follows the page, also
when it lies on its side or upside down.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sensorium.dependencies import need
from sensorium.engine import Call, Card, Host, Weights
from sensorium.errors import InvalidModel
from sensorium.media.image import Image
from sensorium.media.pool import in_thread
from sensorium.runtimes import weights
from sensorium.runtimes.onnx import Session
from sensorium.schemas.base import ImageInfo, Meta, Skipped
from sensorium.schemas.read import Reading, ReadRequest, TextLine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    """uint8 (height, width, 3), RGB."""
    Tensor = NDArray[np.float32]
    """float32 (1, 3, height, width), BGR, -1 to 1."""
    Quad = NDArray[np.float32]
    """float32 (4, 2): corners, clockwise, in pixels."""

REQUIRES = ("onnxruntime", "cv2", "numpy", "rapidocr")

CARDS = (
    Card(
        name="ppocr_v6",
        version="1",
        kind="rapidocr",
        tasks=("read",),
        licence="Apache-2.0",
        origin="PaddlePaddle's PP-OCRv6 small, as ONNX in the PyPI package rapidocr",
        aliases=("rapidocr", "ppocr"),
        weights=Weights(
            package="rapidocr",
            file="models/PP-OCRv6_rec_small.onnx",
            sha256="6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        ),
        input={
            "detector": {
                "file": "models/PP-OCRv6_det_small.onnx",
                "sha256": "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
            },
            "turner": {
                "file": "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
                "sha256": "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
            },
        },
    ),
)
"""`weights` is the model that reads a line; `input` names the other two: `detector` finds lines, `turner` says which
of them are upside down. All three lie in the same package or folder."""

DECODE_SHORT = 1600
"""Lines are cut from a picture with at least this shorter side, if it was sent as large."""

DETECT_PIXELS = 1280 * 1024
"""So many pixels are searched for lines, at most: 10-point text of an A4 page is then 16 pixels high. A detection takes
0.2 GB for a megapixel while it runs, and half a second."""

DETECT_LONG = 1600
"""The longer side is reduced to this, unless the shorter would fall under `DETECT_SHORT`: the detector takes signs of
some 400 pixels for pictures."""

DETECT_SHORT, ENLARGED_LONG, ENLARGE = 320, 960, 4.0
"""A smaller picture is enlarged to this shorter side, but to this longer side and by this factor at most. As accurate on
the rendered pages as RapidOCR's 736 for the shorter side, at a third of the time."""

MARGIN = 16
"""Pixels around the picture, without which text that touches its edge is not found."""

STRIDE = 32
"""The detector wants multiples of it."""

INK, LINE, UNCLIP = 0.3, 0.5, 1.6
"""A pixel belongs to text from this probability, a line counts from this mean probability, and is widened by area /
circumference times this, for the detector marks only the core of a line. RapidOCR's config.yaml."""

MOST_LINES, SMALLEST_SIDE = 1000, 3
"""RapidOCR's `max_candidates` and `min_size`."""

LINE_HEIGHT, READ_WIDTH, TURN_WIDTH = 48, 320, 192
"""Pixels: height of a line as read, and widths of shorter lines as read and as judged. RapidOCR's `rec_img_shape` and
`cls_image_shape`."""

LONGEST_LINE = 60
"""Lines longer than this many times their height are read in pieces: time and memory grow with the square."""

TALL = 1.5
"""Lines higher than this many times their width lie on their side. RapidOCR's `get_rotate_crop_image`."""

UPSIDE_DOWN = 0.9
"""RapidOCR's `cls_thresh`."""

WORD_HEIGHT, WORD_SHAPE, WORD_SCORE = 64, 1.5, 0.9
"""A picture at most this high, and this many times as wide, may be one word without any margin, which the detector
often overlooks; it is read whole as well, and that reading counts from this score, with two characters or more. Of 300
such cut-outs of photographs, none gave text that was not there."""


STROKES = frozenset("_-–—~.,·'`|/\\ ")
"""Lines of nothing else are left out: edges and shadows of photographs are taken for them."""


@dataclass(frozen=True, slots=True)
class _Page:
    """A decoded picture, and what the detector is given of it."""

    image: Image
    tensor: Tensor
    margin: tuple[int, int]
    """Pixels of the tensor to the left of the picture, and above it."""
    scale: tuple[float, float]
    """Pixels of the tensor for one of the picture: across, down."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of text as found in the picture."""

    text: str
    score: float
    quad: Quad
    """First where reading starts, then clockwise; pixels of the decoded picture."""


class Engine:
    """Reads text with three models of PP-OCR."""

    def __init__(self, card: Card, host: Host) -> None:
        self._card, self._host = card, host
        self._sessions: list[Session] = []

    def load(self) -> None:
        need("cv2", for_what="read text")
        try:
            self._detector, self._turner = self._open("detector"), self._open("turner")
            self._reader = self._open("reader")
            self._characters = _characters(self._reader, self._card)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for session in self._sessions:
            session.close()
        self._sessions.clear()

    async def run(self, request: ReadRequest, call: Call) -> Reading:  # noqa: ARG002
        """The lines in reading order: rows from top to bottom, and from left to right in each, as the page is turned.

        Latin text needs some eight pixels of height to be read. Single signs in photographs can be mistaken for text.
        """
        page = await request.image.image(at_least=DECODE_SHORT, then=_prepare)
        ink = await _run(self._detector, page.tensor)
        quads = await in_thread(_find_lines, ink[0, 0], page)
        found = await self._read_all(page.image.pixels, quads)
        if len(found) < 2 and _may_be_one_word(page.image):
            found = await self._or_whole(page.image, found)
        sure = [line for line in found if line.score >= request.min_score]
        left = tuple(skipped for session in self._sessions for skipped in session.skipped)
        return _reading(page.image, in_reading_order(sure), left)

    def _open(self, part: str) -> Session:
        card = _part(self._card, part)
        model = weights.onnx_model(card, self._host.cache_dir)
        name, host = f"{card.id} {part}", self._host
        session = Session(
            model, name=name, threads=host.threads, queue=host.queue, many_shapes=True, device=host.device
        )
        self._sessions.append(session)
        return session

    async def _read_all(self, pixels: Pixels, quads: Iterable[Quad]) -> list[_Line]:
        """The lines with text, in no order. A few at a time, so that one page does not fill the queues."""
        waiting, found = iter(quads), list[_Line]()

        async def work() -> None:
            for quad in waiting:
                if line := await self._read(pixels, quad):
                    found.append(line)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(2 * self._host.threads):
                    group.create_task(work())
        except ExceptionGroup as several:
            raise several.exceptions[0] from several
        return found

    async def _read(self, pixels: Pixels, quad: Quad) -> _Line | None:
        """What stands in a quadrilateral; None if nothing does."""
        cut, quarters, strip = await in_thread(_cut, pixels, quad)
        upside_down = bool((await _run(self._turner, strip))[0, 1] > UPSIDE_DOWN)
        strips = await in_thread(_strips, cut, upside_down)
        odds = [(await _run(self._reader, strip))[0] for strip in strips]
        text, score = await in_thread(decode, odds, self._characters)
        turned = quad[[(corner + quarters + 2 * upside_down) % 4 for corner in range(4)]]
        return None if STROKES.issuperset(text) else _Line(text, score, turned)

    async def _or_whole(self, image: Image, found: list[_Line]) -> list[_Line]:
        """The picture read as one word, if that gives the surer answer."""
        import numpy as np

        height, width = image.pixels.shape[:2]
        quad = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
        whole = await self._read(image.pixels, quad)
        best = max((line.score for line in found), default=0.0)
        if whole is None or len(whole.text) < 2 or whole.score < max(WORD_SCORE, best):
            return found
        return [whole]


def _part(card: Card, part: str) -> Card:
    """A card whose weights are one of the model's three files."""
    if part == "reader" or card.weights is None:
        return card
    named = card.input.get(part)
    if named is None:
        raise InvalidModel(f"Model {card.id} cannot be used", why=f"its card names no {part}", fix="Add it to `input`")
    return card.model_copy(update={"weights": Weights(package=card.weights.package, **named)})


def _characters(reader: Session, card: Card) -> list[str]:
    """What each class of the reader stands for; the first is the gap between characters, the last a space."""
    if "character" not in reader.metadata:
        raise InvalidModel(f"Model {card.id} cannot be used", why="its reader's metadata lacks `character`")
    return ["", *reader.metadata["character"].splitlines(), " "]


async def _run(session: Session, tensor: Tensor) -> Tensor:
    """The one output of a model with one input."""
    (answer,) = (await session.run({session.inputs[0].name: tensor})).values()
    return answer  # type: ignore[return-value] # all three give float32


def _prepare(image: Image) -> _Page:
    """Bring the picture to a size that the detector knows, with a margin in the colour of its edge."""
    import cv2

    height, width = image.pixels.shape[:2]
    factor = _detection_scale(width, height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    pixels = image.pixels
    if size != (width, height):
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    (left, right), (top, bottom) = _margins(size[0]), _margins(size[1])
    pixels = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_edge_colour(pixels))
    return _Page(image, _tensor(pixels), (left, top), (size[0] / width, size[1] / height))


def _detection_scale(width: int, height: int) -> float:
    short, long = sorted((width, height))
    if short >= DETECT_SHORT or long >= ENLARGED_LONG:
        return min(1.0, math.sqrt(DETECT_PIXELS / (short * long)), max(DETECT_LONG / long, DETECT_SHORT / short))
    return min(DETECT_SHORT / short, ENLARGED_LONG / long, ENLARGE)


def _margins(side: int) -> tuple[int, int]:
    """Pixels to add before and behind."""
    padding = math.ceil((side + 2 * MARGIN) / STRIDE) * STRIDE - side
    return padding // 2, padding - padding // 2


def _edge_colour(pixels: Pixels) -> tuple[int, ...]:
    import numpy as np

    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(int(value) for value in np.median(edge, axis=0))


def _tensor(pixels: Pixels) -> Tensor:
    """uint8 (height, width, 3) RGB to float32 (1, 3, height, width) BGR, -1 to 1."""
    import cv2

    return cv2.dnn.blobFromImage(pixels, 1 / 127.5, mean=(127.5, 127.5, 127.5), swapRB=True)  # type: ignore[no-any-return]


def _find_lines(ink: NDArray[np.float32], page: _Page) -> list[Quad]:
    """Where lines are, in pixels of the decoded picture, in no order.

    `ink`: (height, width) of the tensor, the probability that a pixel belongs to the core of a line. Source: Real-time
    Scene Text Detection with Differentiable Binarization, as RapidOCR's `DBPostProcess` does it.
    """
    import cv2
    import numpy as np

    mask = cv2.dilate((ink > INK).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    height, width = page.image.pixels.shape[:2]
    quads = []
    for contour in contours[:MOST_LINES]:
        (x, y), (across, down), angle = cv2.minAreaRect(contour)
        core = cv2.boxPoints(((x, y), (across, down), angle))
        if min(across, down) < SMALLEST_SIDE or _mean_inside(ink, core) < LINE:
            continue
        # Twice the distance by which RapidOCR moves each side outwards: area / circumference * UNCLIP.
        wider = across * down / (across + down) * UNCLIP
        quad = clockwise(cv2.boxPoints(((x, y), (across + wider, down + wider), angle)))
        quad = (quad - page.margin) / page.scale
        quads.append(quad.clip((0, 0), (width, height)).astype(np.float32))
    return [quad for quad in quads if min(_sides(quad)) >= 1]


def _mean_inside(ink: NDArray[np.float32], quad: Quad) -> float:
    import cv2
    import numpy as np

    left, top = np.floor(quad.min(axis=0)).astype(int).clip(0)
    right, bottom = np.ceil(quad.max(axis=0)).astype(int) + 1
    part = ink[top:bottom, left:right]
    mask = np.zeros(part.shape, np.uint8)
    cv2.fillPoly(mask, [(quad - (left, top)).astype(np.int32)], 1)
    return float(cv2.mean(part, mask)[0])


def clockwise(corners: Quad) -> Quad:
    """The corners of a rectangle, from its top left."""
    import numpy as np

    left, right = np.split(corners[np.argsort(corners[:, 0], kind="stable")], 2)
    (top_left, bottom_left), (top_right, bottom_right) = (side[np.argsort(side[:, 1])] for side in (left, right))
    return np.stack([top_left, top_right, bottom_right, bottom_left]).astype(np.float32)


def _sides(quad: Quad) -> tuple[float, float]:
    """Width and height of a quadrilateral: the longer of opposite sides."""
    import numpy as np

    top, right, bottom, left = (float(side) for side in np.linalg.norm(quad - np.roll(quad, -1, axis=0), axis=1))
    return max(top, bottom), max(left, right)


def _cut(pixels: Pixels, quad: Quad) -> tuple[Pixels, int, Tensor]:
    """A line cut out and laid level; the corner of the quadrilateral at its top left; and what the turner is given."""
    import cv2
    import numpy as np

    width, height = (max(1, int(side)) for side in _sides(quad))
    level = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    cut = cv2.warpPerspective(
        pixels,
        cv2.getPerspectiveTransform(quad, level),
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    lies = height >= TALL * width
    if lies:
        cut = cv2.rotate(cut, cv2.ROTATE_90_COUNTERCLOCKWISE)
    return cut, int(lies), _strip(cut, TURN_WIDTH, TURN_WIDTH)


def _strips(cut: Pixels, upside_down: bool) -> list[Tensor]:
    """What the reader is given of a line: one strip, or several of a very long line."""
    import cv2

    upright = cv2.rotate(cut, cv2.ROTATE_180) if upside_down else cut
    return [_strip(piece, READ_WIDTH, LONGEST_LINE * LINE_HEIGHT) for piece in _pieces(upright)]


def _strip(line: Pixels, at_least: int, at_most: int) -> Tensor:
    """A line at the height that the models know, float32 (1, 3, 48, width); 0, which is grey, where it is too short."""
    import cv2
    import numpy as np

    height, width = line.shape[:2]
    fitting = min(at_most, math.ceil(LINE_HEIGHT * width / height))
    # Linear interpolation, which the models were trained with, skips pixels when it shrinks by more than two.
    how = cv2.INTER_AREA if height > 2 * LINE_HEIGHT else cv2.INTER_LINEAR
    strip = np.zeros((1, 3, LINE_HEIGHT, max(at_least, fitting)), np.float32)
    strip[..., :fitting] = _tensor(cv2.resize(line, (fitting, LINE_HEIGHT), interpolation=how))
    return strip


def _pieces(line: Pixels) -> Iterator[Pixels]:
    """A line in parts that are not too long, parted where the least ink is."""
    import numpy as np

    height, width = line.shape[:2]
    if width <= LONGEST_LINE * height:
        yield line
        return
    contrast = np.ptp(line.max(axis=2), axis=0)
    count = math.ceil(1.1 * width / (LONGEST_LINE * height))  # a tenth more, for they do not part at equal distances
    begin = 0
    for number in range(1, count):
        near = number * width // count - height
        end = near + int(contrast[near : near + 2 * height].argmin())
        yield line[:, begin:end]
        begin = end
    yield line[:, begin:]


def decode(pieces: list[NDArray[np.float32]], characters: list[str]) -> tuple[str, float]:
    """The text that the probabilities of a line's pieces say, and their mean; "" and 0 when they say nothing.

    `pieces`: float32 (steps, classes) each. Source: connectionist temporal classification, the best class of each step.
    """
    import numpy as np

    texts, scores = [], []
    for odds in pieces:
        best = odds.argmax(axis=1)
        new = (best != 0) & (np.diff(best, prepend=0) != 0)
        texts.append("".join(characters[index] for index in best[new]))
        scores.append(odds.max(axis=1)[new])
    text, score = " ".join(texts).strip(), np.concatenate(scores)
    return (text, min(float(score.mean()), 1.0)) if text else ("", 0.0)


def in_reading_order(lines: list[_Line]) -> list[_Line]:
    """Rows as they follow one another on the page, however it is turned; each from where reading starts."""
    import numpy as np

    if not lines:
        return []
    along = _page_direction(lines)
    axes = np.stack([along, (-along[1], along[0])], axis=1)
    placed = [(line, line.quad @ axes) for line in lines]
    placed.sort(key=lambda one: float(one[1][:, 1].mean()))
    rows: list[list[tuple[_Line, Any]]] = []
    for line, corners in placed:
        if rows and _shares_row(rows[-1][-1][1][:, 1], corners[:, 1]):
            rows[-1].append((line, corners))
        else:
            rows.append([(line, corners)])
    return [line for row in rows for line, _ in sorted(row, key=lambda one: float(one[1][:, 0].min()))]


def _page_direction(lines: list[_Line]) -> NDArray[np.float64]:
    """Where reading goes: the unit vector along most of the text, exact for a page that is a little askew."""
    import numpy as np

    ways = np.stack([(line.quad[1] - line.quad[0] + line.quad[2] - line.quad[3]) / 2 for line in lines])
    ways = ways.astype(np.float64) / np.maximum(np.linalg.norm(ways, axis=1, keepdims=True), 1e-6)
    letters = np.array([[len(line.text)] for line in lines], np.float64)
    quarters = np.round(np.arctan2(ways[:, 1], ways[:, 0]) / (np.pi / 2)).astype(int) % 4
    most = np.bincount(quarters, letters[:, 0]).argmax()
    mean = (ways * letters)[quarters == most].sum(axis=0)
    return mean / np.linalg.norm(mean)  # type: ignore[no-any-return]


def _shares_row(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two lines, by where they stand across the page, are less than half a line apart."""
    import numpy as np

    return abs(float(one.mean() - other.mean())) < min(float(np.ptp(one)), float(np.ptp(other))) / 2


def _may_be_one_word(image: Image) -> bool:
    height, width = image.pixels.shape[:2]
    return bool(height <= WORD_HEIGHT and WORD_SHAPE * height <= width <= LONGEST_LINE * height)


def _reading(image: Image, lines: list[_Line], left: tuple[Skipped, ...]) -> Reading:
    across, down = image.width / image.pixels.shape[1], image.height / image.pixels.shape[0]
    return Reading(
        image=ImageInfo.of(image),
        lines=tuple(
            TextLine(
                text=line.text,
                score=line.score,
                polygon=tuple((round(float(x) * across, 1), round(float(y) * down, 1)) for x, y in line.quad),
            )
            for line in lines
        ),
        meta=Meta(skipped=left),
    )
