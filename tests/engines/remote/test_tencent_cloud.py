"""Tencent Cloud, against a fake of it on a real socket that checks each signature."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sensorium.config import Settings
from sensorium.engines.remote import tencent_cloud
from sensorium.errors import (
    InputTooLarge,
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
from sensorium.schemas.classify import ClassifyRequest
from sensorium.schemas.detect import DetectRequest
from sensorium.schemas.faces import FacesRequest
from sensorium.service import Sensorium
from tests.engines.remote.vendors import SECRET_ID, SECRET_KEY, FakeTencent, listening
from tests.pictures import encoded, photograph

LOOKS = {
    "Gender": 99,
    "Age": 31,
    "Expression": 80,
    "Glass": True,
    "Hat": False,
    "Mask": False,
    "EyeOpen": True,
    "Pitch": 3,
    "Yaw": -8,
    "Roll": 1,
    "Beauty": 50,
}


@pytest.fixture
async def tencent(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeTencent]:
    monkeypatch.setenv("TENCENTCLOUD_SECRET_ID", SECRET_ID)
    monkeypatch.setenv("TENCENTCLOUD_SECRET_KEY", SECRET_KEY)
    monkeypatch.delenv("TENCENTCLOUD_TOKEN", raising=False)
    async with listening(FakeTencent(), "/") as fake:
        yield fake


@pytest.fixture
async def service(tencent: FakeTencent, tmp_path: Path) -> AsyncIterator[Sensorium]:
    for name, quirks in (("t", ""), ("album", 'scene = "ALBUM"'), ("wrong", 'scene = "SEA"')):
        (tmp_path / f"{name}.toml").write_text(
            f'name = "{name}"\nkind = "tencent_cloud"\ntasks = ["classify", "detect", "faces"]\nlicence = "x"\n'
            f'remote = true\n[input]\nlongest_side = 800\n[quirks]\ntiia = "{tencent.url}"\niai = "{tencent.url}"\n{quirks}',
            encoding="utf-8",
        )
    async with Sensorium(
        Settings(cache_dir=tmp_path / "cache", models_dir=tmp_path, cache="off", provider_attempts=1)
    ) as service:
        yield service


def classify(model: str = "t") -> ClassifyRequest:
    return ClassifyRequest(image=Source.of(photograph()), model=model)


def large() -> Source:
    with Image.open(io.BytesIO(photograph())) as small:
        return Source.of(encoded(small.resize((1600, 1200)), "JPEG"))


async def test_labels_are_asked_for_with_a_signature_and_have_categories(
    service: Sensorium, tencent: FakeTencent
) -> None:
    label = {"Name": "咖啡", "Confidence": 87, "FirstCategory": "食物", "SecondCategory": "饮料"}
    tencent.response = {"Labels": [label], "CameraLabels": None}
    result = await service.run(classify())
    (named,) = result.labels
    assert (named.name, named.score, named.categories, named.index) == ("咖啡", 0.87, ("食物", "饮料"), None)
    assert tencent.pictures == [photograph()]
    assert tencent.bodies[0]["Scenes"] == ["WEB"]
    told = {name: tencent.headers[0][f"X-TC-{name}"] for name in ("Action", "Version", "Region", "Language")}
    assert told == {"Action": "DetectLabel", "Version": "2019-05-29", "Region": "ap-guangzhou", "Language": "en-US"}
    assert tencent.headers[0]["Content-Type"] == "application/json"
    assert "X-TC-Token" not in tencent.headers[0]


async def test_another_scene_has_another_list(service: Sensorium, tencent: FakeTencent) -> None:
    tencent.response = {"Labels": None, "AlbumLabels": [{"Name": "猫", "Confidence": 60}]}
    assert (await service.run(classify("album"))).best.name == "猫"
    assert tencent.bodies[0]["Scenes"] == ["ALBUM"]


async def test_no_labels_are_an_answer(service: Sensorium, tencent: FakeTencent) -> None:
    tencent.response = {"Labels": None}
    assert (await service.run(classify())).labels == ()


async def test_products_have_boxes_in_pixels_of_the_picture_as_sent(service: Sensorium, tencent: FakeTencent) -> None:
    product = {
        "Name": "杯子",
        "Parents": "日用品-餐具",
        "Confidence": 91,
        "XMin": 100,
        "YMin": 50,
        "XMax": 300,
        "YMax": 250,
    }
    tencent.response = {"Products": [product]}
    result = await service.run(DetectRequest(image=large(), model="t"))
    assert tencent.seen.size == (800, 600)
    assert tencent.headers[0]["X-TC-Action"] == "DetectProduct"
    (thing,) = result.objects
    assert (thing.name, thing.score, thing.categories) == ("杯子", 0.91, ("日用品", "餐具"))
    assert thing.box.model_dump() == {"left": 200, "top": 100, "right": 600, "bottom": 500}


async def test_faces_are_kept_within_the_picture(service: Sensorium, tencent: FakeTencent) -> None:
    tencent.response = {"FaceInfos": [{"X": -20, "Y": 10, "Width": 120, "Height": 100}]}
    result = await service.run(FacesRequest(image=large(), model="t", limit=7))
    assert result.faces[0].box.model_dump() == {"left": 0, "top": 20, "right": 200, "bottom": 220}
    assert result.faces[0].score is None
    asked = {name: value for name, value in tencent.bodies[0].items() if name != "Image"}
    assert asked == {"MaxFaceNum": 7, "NeedFaceAttributes": 0, "FaceModelVersion": "3.0"}
    assert tencent.headers[0]["X-TC-Version"] == "2020-03-03"


async def test_only_the_five_largest_faces_are_described(service: Sensorium, tencent: FakeTencent) -> None:
    tencent.response = {
        "FaceInfos": [
            {"X": 10 * size, "Y": 0, "Width": size, "Height": size, "FaceAttributesInfo": LOOKS}
            for size in range(20, 27)
        ]
    }
    result = await service.run(FacesRequest(image=Source.of(photograph()), model="t", attributes=True))
    assert [face.attributes is not None for face in result.faces] == [True] * 5 + [False] * 2
    looks = result.faces[0].attributes
    assert (looks.gender, looks.gender_score, looks.age) == ("male", 0.99, 31)
    assert (looks.smile, looks.glasses, looks.headwear, looks.eyes_open) == (0.8, 1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("request_type", "code"),
    [(FacesRequest, "InvalidParameterValue.NoFaceInPhoto"), (DetectRequest, "FailedOperation.NoObjectDetected")],
)
async def test_nothing_found_is_an_answer_though_it_comes_as_an_error(
    service: Sensorium, tencent: FakeTencent, request_type: type[FacesRequest | DetectRequest], code: str
) -> None:
    tencent.response = {"Error": {"Code": code, "Message": "Nothing."}}
    assert (await service.run(request_type(image=Source.of(photograph()), model="t"))).marks() == ()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AuthFailure.SecretIdNotFound", ProviderDenied),
        ("UnauthorizedOperation", ProviderDenied),
        ("ResourceUnavailable.InArrears", ProviderDenied),
        ("FailedOperation.UnOpenError", ProviderDenied),
        ("LimitExceeded", ProviderLimited),
        ("RequestLimitExceeded", ProviderLimited),
        ("RequestLimitExceeded.UinLimitExceeded", ProviderLimited),
        ("InvalidParameterValue.ImageEmpty", ProviderRefused),
        ("InvalidParameter.ImageFormatNotSupport", ProviderRefused),
        ("FailedOperation.ImageDecodeFailed", ProviderRefused),
        ("FailedOperation.ImageSizeExceed", InputTooLarge),
        ("FailedOperation.ImageResolutionExceed", InputTooLarge),
        ("FailedOperation.ServerError", ProviderFailed),
        ("InternalError", ProviderFailed),
        ("InvalidParameterValue.NoFaceInPhoto", ProviderRefused),
        ("SomethingNew.Altogether", ProviderFailed),
    ],
)
async def test_an_error_inside_a_200_is_ours(
    service: Sensorium, tencent: FakeTencent, code: str, kind: type[SensoriumError]
) -> None:
    tencent.response = {"Error": {"Code": code, "Message": "They say why."}}
    with pytest.raises(kind, match=r"They say why.*" + code) as caught:
        await service.run(classify())
    assert type(caught.value) is kind
    if isinstance(caught.value, ProviderLimited):
        assert caught.value.retryable
        assert caught.value.retry_after_seconds > 0


async def test_a_wrong_clock_is_told(service: Sensorium, tencent: FakeTencent) -> None:
    tencent.response = {"Error": {"Code": "AuthFailure.SignatureExpire", "Message": "Expired."}}
    with pytest.raises(ProviderDenied, match="clock"):
        await service.run(classify())


async def test_a_wrong_key_is_denied_and_not_repeated(
    service: Sensorium, tencent: FakeTencent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENCENTCLOUD_SECRET_KEY", "another")
    with pytest.raises(ProviderDenied, match="SignatureFailure") as caught:
        await service.run(classify())
    assert "another" not in str(caught.value)
    assert not tencent.pictures


async def test_credentials_for_a_while_send_their_token(
    service: Sensorium, tencent: FakeTencent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENCENTCLOUD_TOKEN", "passing")
    await service.run(FacesRequest(image=Source.of(photograph()), model="t"))
    assert tencent.headers[0]["X-TC-Token"] == "passing"


async def test_without_keys_those_that_are_missing_are_named_and_nobody_is_asked(
    service: Sensorium, tencent: FakeTencent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TENCENTCLOUD_SECRET_KEY")
    with pytest.raises(MissingKey, match="missing TENCENTCLOUD_SECRET_KEY"):
        await service.run(classify())
    assert not tencent.bodies
    assert "TENCENTCLOUD_SECRET_KEY" in Registry().state(tencent_cloud.CARDS[0])


@pytest.mark.parametrize(
    "response",
    [{"Labels": 3}, {"Labels": [{"Name": "x"}]}, {"Error": "no"}, {"Labels": [{"Name": "x", "Confidence": 300}]}],
    ids=str,
)
async def test_what_is_no_answer_is_the_providers_failure(
    service: Sensorium, tencent: FakeTencent, response: dict[str, Any]
) -> None:
    tencent.response = response
    with pytest.raises(ProviderFailed):
        await service.run(classify())


@pytest.mark.parametrize("raw", [b"", b"<html>", b"{}", b"[]", b'{"Response": 3}'], ids=repr)
async def test_what_is_no_envelope_is_the_providers_failure(
    service: Sensorium, tencent: FakeTencent, raw: bytes
) -> None:
    tencent.raw = raw
    with pytest.raises(ProviderFailed):
        await service.run(classify())


async def test_a_server_error_is_the_providers_failure(service: Sensorium, tencent: FakeTencent) -> None:
    tencent.status = 502
    with pytest.raises(ProviderFailed, match="502"):
        await service.run(classify())


async def test_a_wrong_card_is_told(service: Sensorium) -> None:
    with pytest.raises(InvalidModel, match="scene"):
        await service.run(classify("wrong"))
