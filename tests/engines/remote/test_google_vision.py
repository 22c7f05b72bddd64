"""Google Cloud Vision, against a fake of it on a real socket."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sensorium.config import Settings
from sensorium.engines.remote import google_vision
from sensorium.errors import (
    CorruptMedia,
    InvalidModel,
    MissingKey,
    ProviderDenied,
    ProviderFailed,
    ProviderLimited,
    ProviderRefused,
    SensoriumError,
)
from sensorium.media.source import Source
from sensorium.registry import Registry
from sensorium.schemas.classify import Classification, ClassifyRequest
from sensorium.schemas.detect import DetectRequest
from sensorium.schemas.faces import Faces, FacesRequest
from sensorium.service import Sensorium
from tests.engines.remote.vendors import API_KEY, FakeGoogle, listening
from tests.pictures import encoded, jpeg, photograph, skimage_photograph

DOG = {"mid": "/m/0bt9lr", "description": "Dog", "score": 0.97, "topicality": 0.97}
CORNERS = ((0.25, 0.5), (0.75, 0.5), (0.75, 1.0), (0.25, 1.0))
THING = {
    "mid": "/m/0bt9lr",
    "name": "Dog",
    "score": 0.88,
    "boundingPoly": {"normalizedVertices": [{"x": x, "y": y} for x, y in CORNERS]},
}
FACE = {
    # Zeros are left out, as Google does.
    "boundingPoly": {"vertices": [{}, {"x": 200}, {"x": 200, "y": 220}, {"y": 220}]},
    "fdBoundingPoly": {
        "vertices": [{"x": 20, "y": 40}, {"x": 180, "y": 40}, {"x": 180, "y": 200}, {"x": 20, "y": 200}]
    },
    "landmarks": [
        {"type": "LEFT_EYE", "position": {"x": 60.0, "y": 90.0, "z": -0.1}},
        {"type": "MIDPOINT_BETWEEN_EYES", "position": {"x": 100.0, "y": 92.0}},
    ],
    "rollAngle": 2.5,
    "panAngle": -11.0,
    "detectionConfidence": 0.93,
    "joyLikelihood": "VERY_LIKELY",
    "sorrowLikelihood": "VERY_UNLIKELY",
    "angerLikelihood": "UNKNOWN",
    "headwearLikelihood": 3,
}

Open = Callable[..., AbstractAsyncContextManager[Sensorium]]


@pytest.fixture
async def google(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeGoogle]:
    monkeypatch.setenv("GOOGLE_VISION_API_KEY", API_KEY)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    async with listening(FakeGoogle(), "/v1/images:annotate") as fake:
        fake.annotations = {
            "labelAnnotations": [DOG],
            "localizedObjectAnnotations": [THING],
            "faceAnnotations": [FACE],
        }
        yield fake


@pytest.fixture
def opened(tmp_path: Path, google: FakeGoogle) -> Open:
    @asynccontextmanager
    async def opening(quirks: str = "") -> AsyncIterator[Sensorium]:
        models = tmp_path / "models"
        models.mkdir()
        (models / "g.toml").write_text(
            'name = "g"\nkind = "google_vision"\ntasks = ["classify", "detect", "faces"]\nlicence = "x"\nremote = true\n'
            f'[input]\nlongest_side = 800\n[quirks]\nbase_url = "{google.url}"\n{quirks}',
            encoding="utf-8",
        )
        async with Sensorium(
            Settings(cache_dir=tmp_path / "cache", models_dir=models, cache="off", provider_attempts=1)
        ) as service:
            yield service

    return opening


@pytest.fixture
async def service(opened: Open) -> AsyncIterator[Sensorium]:
    async with opened() as service:
        yield service


def classify(picture: bytes = b"", **asked: Any) -> ClassifyRequest:
    return ClassifyRequest(image=Source.of(picture or photograph()), model="g", **asked)


async def test_a_picture_that_is_fit_goes_as_it_is_and_the_key_in_a_header_only(
    service: Sensorium, google: FakeGoogle
) -> None:
    result = await service.run(classify())
    assert google.pictures == [photograph()]
    assert google.bodies[0]["requests"][0]["features"] == [{"type": "LABEL_DETECTION", "maxResults": 10}]
    assert google.addresses == ["/v1/images:annotate"]
    (label,) = result.labels
    assert (label.name, label.score, label.id, label.index) == ("Dog", 0.97, "/m/0bt9lr", None)
    assert result.meta.engine == "g@1"


async def test_more_labels_are_asked_for_where_more_are_wanted(service: Sensorium, google: FakeGoogle) -> None:
    await service.run(classify(top_k=25))
    assert google.bodies[0]["requests"][0]["features"][0]["maxResults"] == 25


async def test_all_faces_are_asked_for_where_no_limit_is_named(service: Sensorium, google: FakeGoogle) -> None:
    for limit in (None, 3):
        await service.run(FacesRequest(image=Source.of(photograph()), model="g", limit=limit))
    assert [body["requests"][0]["features"][0]["maxResults"] for body in google.bodies] == [1000, 10]


async def test_nothing_recognised_is_an_answer(service: Sensorium, google: FakeGoogle) -> None:
    google.annotations = {}
    result = await service.run(classify())
    assert result.labels == ()
    with pytest.raises(LookupError):
        _ = result.best


async def test_boxes_are_in_pixels_of_the_picture_as_sent_though_a_smaller_one_was_shown(
    service: Sensorium, google: FakeGoogle
) -> None:
    with Image.open(io.BytesIO(photograph())) as small:
        large = encoded(small.resize((1800, 1200)), "JPEG")
    result = await service.run(DetectRequest(image=Source.of(large), model="g"))
    assert google.seen.size == (800, 533)
    (thing,) = result.objects
    assert (thing.name, thing.score, thing.id) == ("Dog", 0.88, "/m/0bt9lr")
    box = thing.box
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx((450, 600, 1350, 1200), abs=0.01)
    assert (result.image.width, result.image.height, result.image.format) == (1800, 1200, "jpeg")


async def test_faces_have_landmarks_and_what_they_look_like_only_when_asked_for(
    service: Sensorium, google: FakeGoogle
) -> None:
    with Image.open(io.BytesIO(photograph())) as small:
        large = encoded(small.resize((1600, 1200)), "JPEG")
    plain, described = await service.run_all(
        [FacesRequest(image=Source.of(large), model="g", attributes=wanted) for wanted in (False, True)]
    )
    assert isinstance(plain, Faces)
    assert isinstance(described, Faces)
    (face,) = plain.faces
    assert face.box.model_dump() == {"left": 40, "top": 80, "right": 360, "bottom": 400}, "twice as shown"
    assert face.landmarks == {"left_eye": (120, 180), "midpoint_between_eyes": (200, 184)}
    assert (face.score, face.attributes) == (0.93, None)
    looks = described.faces[0].attributes
    assert looks is not None
    assert looks.emotions == {"happy": 1.0, "sad": 0.0}
    assert (looks.headwear, looks.blurred, looks.age) == (0.5, None, None)
    assert looks.pose is not None
    assert (looks.pose.roll, looks.pose.yaw, looks.pose.pitch) == (2.5, -11, None)


async def test_a_photo_taken_sideways_is_shown_upright(service: Sensorium, google: FakeGoogle) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(io.BytesIO(photograph())) as picture:
        sideways = encoded(picture, "JPEG", exif=exif)
    result = await service.run(DetectRequest(image=Source.of(sideways), model="g"))
    assert google.seen.size == (400, 600)
    assert result.objects[0].box.model_dump() == {"left": 100, "top": 300, "right": 300, "bottom": 600}


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (3, "Bad image data.", ProviderRefused),
        (3, "Image too large. Please limit to 75 megapixels.", ProviderRefused),
        (7, "The caller does not have permission", ProviderDenied),
        (8, "Quota exceeded", ProviderLimited),
        (13, "Internal error", ProviderFailed),
        (14, "", ProviderFailed),
    ],
)
async def test_an_error_inside_a_200_is_that_pictures_alone(
    service: Sensorium, google: FakeGoogle, code: int, message: str, kind: type[SensoriumError]
) -> None:
    google.errors = {80: {"code": code, "message": message, "details": []}}
    before, bad, after = await service.run_all([classify(), classify(jpeg(80, 60)), classify(jpeg())])
    assert type(bad) is kind
    assert message.rstrip(".") in str(bad)
    assert isinstance(before, Classification)
    assert isinstance(after, Classification)


async def test_annotations_beside_an_error_are_good(service: Sensorium, google: FakeGoogle) -> None:
    google.annotations = {"labelAnnotations": [DOG], "error": {"code": 4, "message": "Deadline"}}
    assert (await service.run(classify())).best.name == "Dog"


async def test_a_wrong_key_is_denied_and_not_repeated(
    service: Sensorium, google: FakeGoogle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_VISION_API_KEY", "AIzaWrong")
    with pytest.raises(ProviderDenied, match="API key not valid") as caught:
        await service.run(classify())
    assert "AIzaWrong" not in str(caught.value)


async def test_too_many_requests_say_when_to_come_back(service: Sensorium, google: FakeGoogle) -> None:
    google.status, google.retry_after = 429, "7"
    with pytest.raises(ProviderLimited) as caught:
        await service.run(classify())
    assert caught.value.retry_after_seconds == 7


async def test_without_a_key_the_variables_are_named_and_nobody_is_asked(
    service: Sensorium, google: FakeGoogle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_VISION_API_KEY")
    with pytest.raises(MissingKey, match=r"GOOGLE_VISION_API_KEY.*GOOGLE_APPLICATION_CREDENTIALS"):
        await service.run(classify())
    assert not google.bodies
    (card,) = google_vision.CARDS
    assert "GOOGLE_VISION_API_KEY" in Registry().state(card)


async def test_a_service_account_signs_once_for_many_requests(
    service: Sensorium, google: FakeGoogle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    google.public_key = account(tmp_path / "account.json")
    monkeypatch.delenv("GOOGLE_VISION_API_KEY")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    await service.run(classify())
    await service.run(classify())
    tokens = {headers["Authorization"] for headers in google.headers}
    assert len(tokens) == 1
    assert all("x-goog-api-key" not in headers for headers in google.headers)


@pytest.mark.parametrize("content", [None, "private words", '{"client_email": "a", "private_key": "private words"}'])
async def test_a_service_account_that_cannot_be_used_is_named_without_its_content(
    service: Sensorium, google: FakeGoogle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "account.json").write_text(content, encoding="utf-8")
    monkeypatch.delenv("GOOGLE_VISION_API_KEY")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    with pytest.raises(MissingKey, match=r"account\.json") as caught:
        await service.run(classify())
    assert "private words" not in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"{}",
        b"[]",
        b'{"responses": []}',
        b'{"responses": [{}, {}]}',
        b'{"responses": [{"labelAnnotations": 3}]}',
    ],
    ids=lambda raw: raw.decode() or "empty",
)
async def test_what_is_no_answer_is_the_providers_failure(service: Sensorium, google: FakeGoogle, raw: bytes) -> None:
    google.raw = raw
    with pytest.raises(ProviderFailed):
        await service.run(classify())


async def test_a_damaged_picture_is_not_sent(service: Sensorium, google: FakeGoogle) -> None:
    with pytest.raises(CorruptMedia):
        await service.run(DetectRequest(image=Source.of(photograph()[:150]), model="g"))
    assert not google.bodies


async def test_a_wrong_card_is_told(opened: Open) -> None:
    async with opened("max_results = 0") as service:
        with pytest.raises(InvalidModel, match="max_results"):
            await service.run(classify())


async def test_the_card_that_comes_with_sensorium_takes_noise_out_before_it_asks(
    google: FakeGoogle, tmp_path: Path
) -> None:
    (known,) = google_vision.CARDS
    card = known.model_dump(mode="json", exclude_none=True) | {"name": "g", "quirks": {"base_url": google.url}}
    (tmp_path / "g.toml").write_text(toml(card), encoding="utf-8")
    with Image.open(skimage_photograph("coffee.png")) as picture:
        clean = np.asarray(picture.convert("RGB")).astype(float)
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    async with Sensorium(
        Settings(cache_dir=tmp_path / "cache", models_dir=tmp_path, cache="off", provider_attempts=1)
    ) as service:
        await service.run(classify(encoded(Image.fromarray(noisy), "PNG")))
    shown = np.asarray(google.seen.convert("RGB")).astype(float)
    assert np.square(shown - clean).mean() < np.square(noisy - clean).mean() / 3


def account(path: Path) -> str:
    """Writes the key of a service account, and gives its public half."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    told = {"client_email": "x@example.com", "private_key": private.decode(), "private_key_id": "k1"}
    path.write_text(json.dumps(told), encoding="utf-8")
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return public.decode()


def toml(values: dict[str, Any]) -> str:
    """TOML of plain values and tables of them, which JSON's way of writing fits."""
    plain = [f"{name} = {json.dumps(value)}" for name, value in values.items() if not isinstance(value, dict)]
    tables = [f"[{name}]\n{toml(value)}" for name, value in values.items() if isinstance(value, dict)]
    return "\n".join((*plain, *tables))
