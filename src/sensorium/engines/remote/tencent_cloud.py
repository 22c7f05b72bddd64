"""Tencent Cloud: DetectLabel for `classify`, DetectProduct for `detect`, DetectFace for `faces`.

What may differ stands on the card, under `quirks`; keys are the names of environment variables, never their values:

    tiia = "https://tiia.tencentcloudapi.com"    of labels and products; or a region's, such as https://tiia.ap-beijing.tencentcloudapi.com
    iai = "https://iai.tencentcloudapi.com"      of faces
    region = "ap-guangzhou"
    language = "en-US"                           of messages; or zh-CN. Names of things are Chinese in any case
    id = "TENCENTCLOUD_SECRET_ID"
    key = "TENCENTCLOUD_SECRET_KEY"
    token = "TENCENTCLOUD_TOKEN"                 of credentials that are for a while only; need not be set
    scene = "WEB"                                which list of labels: WEB, CAMERA, ALBUM or NEWS
    face_model = "3.0"
    timeout_seconds = 30
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from sensorium.engine import Call, Card, Host
from sensorium.errors import InputTooLarge, MissingKey, ProviderFailed, SensoriumError
from sensorium.media.pool import in_thread
from sensorium.runtimes import refusals, tc3
from sensorium.runtimes.http import Client, Patience, Question
from sensorium.runtimes.outgoing import Outgoing, outgoing
from sensorium.runtimes.provider import MARK
from sensorium.schemas.base import Frozen, ImageInfo, Request, Result
from sensorium.schemas.classify import Classification, Label
from sensorium.schemas.detect import DetectedObject, Detections
from sensorium.schemas.faces import Face, FaceAttributes, Faces, FacesRequest, Pose
from sensorium.schemas.geometry import Box

REQUIRES: tuple[str, ...] = ()

CARDS = (
    Card(
        name="tencent_cloud",
        kind="tencent_cloud",
        tasks=("classify", "detect", "faces"),
        licence="LicenseRef-Tencent-Cloud",
        origin="Tencent Cloud's tiia and iai, a paid service",
        remote=True,
        # Labels take 4 MB of base64, faces 2,000 pixels of what is no JPEG.
        input={"longest_side": 1600, "formats": ["jpeg", "png"], "max_bytes": 3_000_000, "denoise": True},
        limits={"requests_per_minute": 600},
    ),
)

CONTENT_TYPE = "application/json"

VERSIONS = {"tiia": "2019-05-29", "iai": "2020-03-03"}

MOST_FACES = 120
DESCRIBED_FACES = 5
"""The largest: of the others, Tencent's attributes stand for nothing."""

CALLED = "Tencent Cloud"

TOO_LARGE = 413

MESSAGE = 300
"""Characters of Tencent's own words that are passed on."""


class Quirks(Frozen):
    """What may differ, as the module says."""

    tiia: str = Field(default="https://tiia.tencentcloudapi.com", pattern=r"^https?://[^/]+$")
    iai: str = Field(default="https://iai.tencentcloudapi.com", pattern=r"^https?://[^/]+$")
    region: str = "ap-guangzhou"
    language: Literal["en-US", "zh-CN"] = "en-US"
    id: str = "TENCENTCLOUD_SECRET_ID"
    key: str = "TENCENTCLOUD_SECRET_KEY"
    token: str = "TENCENTCLOUD_TOKEN"  # noqa: S105 - a variable's name
    scene: Literal["WEB", "CAMERA", "ALBUM", "NEWS"] = "WEB"
    face_model: str = "3.0"
    timeout_seconds: float = Field(default=30.0, gt=0)


class Wire(BaseModel):
    """What Tencent answers; lists may be null, and there may be more fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_pascal)


class Fault(Wire):
    code: str
    message: str = ""


class Named(Wire):
    name: str
    confidence: float = Field(ge=0, le=100)
    first_category: str | None = None
    second_category: str | None = None


class Labels(Wire):
    labels: tuple[Named, ...] | None = None
    camera_labels: tuple[Named, ...] | None = None
    album_labels: tuple[Named, ...] | None = None
    news_labels: tuple[Named, ...] | None = None


class Product(Wire):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_pascal, populate_by_name=True)

    name: str
    parents: str | None = None
    """Categories from the widest, with dashes between."""
    confidence: float = Field(ge=0, le=100)
    left: float = Field(alias="XMin")
    top: float = Field(alias="YMin")
    right: float = Field(alias="XMax")
    bottom: float = Field(alias="YMax")


class Products(Wire):
    products: tuple[Product, ...] | None = None


class Looks(Wire):
    gender: float = 50.0
    """0 to 49 female, 50 to 100 male; the further from the middle, the surer."""
    age: float | None = None
    expression: float = 0.0
    """0 earnest, 100 laughing."""
    glass: bool = False
    hat: bool = False
    mask: bool = False
    eye_open: bool = True
    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0


class FaceInfo(Wire):
    x: float
    y: float
    width: float = Field(ge=0)
    height: float = Field(ge=0)
    looks: Looks | None = Field(default=None, alias="FaceAttributesInfo")


class FaceInfos(Wire):
    face_infos: tuple[FaceInfo, ...] | None = None


def label_body(request: Request, quirks: Quirks) -> dict[str, Any]:  # noqa: ARG001 - as every action's
    return {"ImageBase64": MARK, "Scenes": [quirks.scene]}


def product_body(request: Request, quirks: Quirks) -> dict[str, Any]:  # noqa: ARG001 - as every action's
    return {"ImageBase64": MARK}


def face_body(request: Request, quirks: Quirks) -> dict[str, Any]:
    asked = request if isinstance(request, FacesRequest) else None
    return {
        "Image": MARK,
        "MaxFaceNum": min(MOST_FACES, (asked.limit if asked else None) or MOST_FACES),
        "NeedFaceAttributes": int(asked is not None and asked.attributes),
        "FaceModelVersion": quirks.face_model,
    }


def labels(response: Mapping[str, Any], image: ImageInfo) -> Classification:
    found = Labels.model_validate(response)
    named = found.labels or found.camera_labels or found.album_labels or found.news_labels or ()
    return Classification(image=image, labels=tuple(map(_label, named)))


def products(response: Mapping[str, Any], image: ImageInfo) -> Detections:
    found = Products.model_validate(response).products or ()
    return Detections(image=image, objects=tuple(map(_object, found)))


def faces(response: Mapping[str, Any], image: ImageInfo) -> Faces:
    return Faces(image=image, faces=tuple(_faces(FaceInfos.model_validate(response).face_infos or ())))


class Action(NamedTuple):
    """What Tencent is asked for a task, and how its answer becomes ours."""

    service: Literal["tiia", "iai"]
    name: str
    body: Callable[[Request, Quirks], dict[str, Any]]
    read: Callable[[Mapping[str, Any], ImageInfo], Result]
    nothing: str
    """The code of the error by which it says that there is nothing to be found."""


ACTIONS = {
    "classify": Action("tiia", "DetectLabel", label_body, labels, ""),
    "detect": Action("tiia", "DetectProduct", product_body, products, "FailedOperation.NoObjectDetected"),
    "faces": Action("iai", "DetectFace", face_body, faces, "InvalidParameterValue.NoFaceInPhoto"),
}

STATUS = {
    "ActionOffline": 404,
    "AuthFailure": 401,
    "FailedOperation.ImageDecodeFailed": 400,
    "FailedOperation.ImageResolutionExceed": 413,
    "FailedOperation.ImageResolutionInsufficient": 400,
    "FailedOperation.ImageResolutionTooSmall": 400,
    "FailedOperation.ImageSizeExceed": 413,
    "FailedOperation.ImageUnQualified": 400,
    "FailedOperation.TooLargeFileError": 413,
    "FailedOperation.UnOpenError": 403,
    "InvalidAction": 404,
    "InvalidParameter": 400,
    "InvalidParameterValue": 400,
    "IpInBlacklist": 403,
    "IpNotInWhitelist": 403,
    "LimitExceeded": 429,
    "LimitExceeded.TooLargeFileError": 413,
    "MissingParameter": 400,
    "NoSuchProduct": 404,
    "NoSuchVersion": 404,
    "RequestLimitExceeded": 429,
    "RequestSizeLimitExceeded": 413,
    "ResourceUnavailable": 403,
    "ResourcesSoldOut": 403,
    "UnauthorizedOperation": 403,
    "UnknownParameter": 400,
    "UnsupportedOperation": 404,
    "UnsupportedRegion": 404,
}
"""Codes as statuses of HTTP. One that is not here has that of the part before its dot; all others are 500."""

HINTS = {
    "AuthFailure.SignatureExpire": "set this machine's clock: it is over five minutes off",
    "FailedOperation.UnOpenError": "open the service in Tencent Cloud's console",
    "ResourceUnavailable": "the account may be in arrears, or the service not opened",
}


class Engine:
    """Asks Tencent about one picture."""

    def __init__(self, card: Card, host: Host) -> None:  # noqa: ARG002 - every kind is made alike
        self._card = card
        self._quirks = Quirks()
        self._client: Client | None = None

    def load(self) -> None:
        self._quirks = self._card.quirks_as(Quirks)
        self._client = Client(CALLED, Patience(first=self._quirks.timeout_seconds))

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    async def run(self, request: Request, call: Call) -> Result:
        assert self._client is not None  # noqa: S101 - it was loaded
        action, (source,) = ACTIONS[request.task], request.sources()
        secrets = self._secrets()
        body = await outgoing(source, action.body(request, self._quirks))
        question = await in_thread(self._signed, action, body, secrets)
        return _read(await self._client.ask(question, call), action, body.image, secrets[1])

    def _secrets(self) -> tuple[str, str]:
        if missing := lacking(self._card):
            raise MissingKey(f"{self._card.name} cannot be asked", why=missing)
        return os.environ[self._quirks.id], os.environ[self._quirks.key]

    def _signed(self, action: Action, body: Outgoing, secrets: tuple[str, str]) -> Question:
        url = getattr(self._quirks, action.service)
        host, now = urlsplit(url).netloc, int(time.time())
        signed = {"content-type": CONTENT_TYPE, "host": host, "x-tc-action": action.name.lower()}
        headers = {
            "Authorization": tc3.authorization(*secrets, action.service, signed, tc3.sha256_of(body.pieces), now),
            "Content-Type": CONTENT_TYPE,
            "Host": host,
            "X-TC-Action": action.name,
            "X-TC-Version": VERSIONS[action.service],
            "X-TC-Timestamp": str(now),
            "X-TC-Region": self._quirks.region,
            "X-TC-Language": self._quirks.language,
        }
        if token := os.environ.get(self._quirks.token):
            headers["X-TC-Token"] = token
        return Question(f"{url}/", body.pieces, headers, secrets[1])


def lacking(card: Card) -> str:
    """What is missing before the model can be asked, in words; empty when nothing is."""
    quirks = card.quirks_as(Quirks)
    names = " and ".join(name for name in (quirks.id, quirks.key) if not os.environ.get(name))
    return f"missing {names}: set what Tencent Cloud's console gives in the environment" if names else ""


def _read(answer: Any, action: Action, image: ImageInfo, secret: str) -> Result:
    """Raises the error that stands in place of an answer, and ProviderFailed for what is no answer."""
    response = answer.get("Response") if isinstance(answer, dict) else None
    try:
        if not isinstance(response, dict):
            raise ValueError("there is no `Response`")  # noqa: TRY004, TRY301 - as for every other that is none
        fault = Fault.model_validate(response["Error"]) if "Error" in response else None
        if fault is not None and fault.code != action.nothing:
            raise _error(fault, secret)
        return action.read({} if fault else response, image)
    except ValueError as error:  # pydantic's ValidationError is one
        why = f"its answer is not one to {action.name}"
        raise ProviderFailed(f"{CALLED} cannot be understood", why=why) from error


def _error(fault: Fault, secret: str) -> SensoriumError:
    family = fault.code.partition(".")[0]
    status = STATUS.get(fault.code) or STATUS.get(family) or 500
    hint = HINTS.get(fault.code) or HINTS.get(family)
    said = f"{fault.message} ({fault.code})" + (f"; {hint}" if hint else "")
    if status == TOO_LARGE:
        return InputTooLarge(f"The picture is too large for {CALLED}", why=said[:MESSAGE], fix="Send it smaller")
    return refusals.error_of(CALLED, refusals.Told(status, said, fault.code), secret)


def _label(one: Named) -> Label:
    categories = tuple(name for name in (one.first_category, one.second_category) if name)
    return Label(name=one.name, score=one.confidence / 100, categories=categories)


def _object(one: Product) -> DetectedObject:
    box = Box(left=one.left, top=one.top, right=one.right, bottom=one.bottom)
    categories = tuple(name for name in (one.parents or "").split("-") if name)
    return DetectedObject(name=one.name, score=one.confidence / 100, box=box, categories=categories)


def _faces(found: tuple[FaceInfo, ...]) -> Iterator[Face]:
    largest = sorted(found, key=lambda one: -one.width * one.height)[:DESCRIBED_FACES]
    for one in found:
        box = Box(left=one.x, top=one.y, right=one.x + one.width, bottom=one.y + one.height)
        described = one.looks is not None and any(one is other for other in largest)
        yield Face(box=box, attributes=_attributes(one.looks) if one.looks and described else None)


def _attributes(looks: Looks) -> FaceAttributes:
    male = _unit(looks.gender / 100)
    return FaceAttributes(
        age=looks.age,
        gender="male" if looks.gender >= 50 else "female",
        gender_score=max(male, 1 - male),
        smile=_unit(looks.expression / 100),
        glasses=float(looks.glass),
        headwear=float(looks.hat),
        mask=float(looks.mask),
        eyes_open=float(looks.eye_open),
        pose=Pose(yaw=looks.yaw, pitch=looks.pitch, roll=looks.roll),
    )


def _unit(score: float) -> float:
    return min(max(score, 0.0), 1.0)
