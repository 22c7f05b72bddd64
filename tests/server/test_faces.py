"""Faces over HTTP: found, and covered in a picture that is the answer."""

from __future__ import annotations

import base64
import io

import pytest
import requests
from PIL import Image

import sensorium
from tests.pictures import JUNK, encoded, png, skimage_photograph
from tests.server.conftest import Server
from tests.server.wire import data_url, form


@pytest.fixture(scope="module")
def portrait() -> bytes:
    with Image.open(skimage_photograph("astronaut.png")) as picture:
        return encoded(picture.convert("RGB"), "JPEG")


def post(server: Server, path: str, data: bytes, **headers: str) -> requests.Response:
    sent = {"Content-Type": "image/jpeg", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return requests.post(f"{server.url}{path}", data=data, headers=sent, timeout=60)


def test_faces_have_a_route_that_needs_no_model_named(server: Server, portrait: bytes) -> None:
    answer = post(server, "/v1/faces", portrait).json()
    assert answer["meta"]["engine"] == "haar_frontalface@1"
    assert answer["faces"]


def test_a_picture_that_is_the_answer_comes_as_base64_in_json(server: Server, portrait: bytes) -> None:
    answer = post(server, "/v1/blur_faces?method=black", portrait).json()
    assert answer["media_type"] == "image/jpeg"
    assert answer["image"]["width"] == answer["width"] == 512
    assert answer["faces"] >= 1
    with Image.open(io.BytesIO(base64.b64decode(answer["data"], validate=True))) as made:
        assert made.size == (512, 512)
        assert max(made.getpixel((221, 122))) < 20  # type: ignore[arg-type] # three numbers


@pytest.mark.parametrize(
    ("query", "accept"),
    [
        ("?as=image", "*/*"),
        ("", "image/*"),
        ("", "image/gif"),
        ("", "image/png, image/*"),
        ("?as=image", "application/json"),
    ],
)
def test_or_as_the_picture_itself_with_the_rest_in_headers(
    server: Server, portrait: bytes, query: str, accept: str
) -> None:
    answer = post(server, f"/v1/blur_faces{query}", portrait, Accept=accept)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert int(answer.headers["X-Sensorium-Faces"]) >= 1
    assert answer.headers["X-Sensorium-Detector"] == "haar_frontalface@1"
    with Image.open(io.BytesIO(answer.content)) as made:
        assert made.format == "JPEG"


@pytest.mark.parametrize(
    ("query", "accept", "given"),
    [
        ("", "image/png", "png"),
        ("", "image/png;q=0.5, image/webp;q=0.9", "webp"),
        ("", "image/avif, image/webp, */*;q=0.8", "webp"),
        ("?as=image", "image/png", "png"),
        ("?format=webp", "image/png", "webp"),
        ("", "image/png;q=0, image/gif", "jpeg"),
        ("", "image/png;q=x", "png"),
    ],
)
def test_the_picture_comes_in_the_format_that_is_accepted(
    server: Server, portrait: bytes, query: str, accept: str, given: str
) -> None:
    answer = post(server, f"/v1/blur_faces{query}", portrait, Accept=accept)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, f"image/{given}")
    with Image.open(io.BytesIO(answer.content)) as made:
        assert made.format == given.upper()


def test_that_no_face_was_found_stands_beside_the_picture(server: Server) -> None:
    assert post(server, "/v1/blur_faces?as=image", png()).headers["X-Sensorium-Faces"] == "0"
    assert post(server, "/v1/blur_faces", png()).json()["faces"] == 0


def test_a_form_and_json_may_ask_for_the_picture_itself(server: Server, portrait: bytes) -> None:
    url = f"{server.url}/v1/blur_faces"
    whole = requests.post(url, **form(("image", "a.jpg", portrait), ("as", None, "image")), timeout=60)
    assert whole.headers["Content-Type"] == "image/jpeg"
    told = requests.post(url, json={"image": data_url(portrait), "as": "image", "format": "png"}, timeout=60)
    assert told.headers["Content-Type"] == "image/png"


@pytest.mark.parametrize("query", ["?as=picture", "?as=image&stream=true"])
def test_what_cannot_be_a_picture_is_refused(server: Server, portrait: bytes, query: str) -> None:
    answer = post(server, f"/v1/blur_faces{query}", portrait)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_several_pictures_are_a_list_of_json_and_nothing_else(server: Server) -> None:
    url, body = f"{server.url}/v1/blur_faces", {"image": [data_url(png()), data_url(JUNK)]}
    answer = requests.post(url, json=body, timeout=60).json()
    assert [next(iter(one)) for one in answer["results"]] == ["result", "error"]
    assert requests.post(url, json={**body, "as": "image"}, timeout=60).status_code == 400


def test_errors_stay_json_also_for_who_wants_a_picture(server: Server) -> None:
    answer = post(server, "/v1/blur_faces?as=image", JUNK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unidentified_media")


def test_other_tasks_know_no_such_field(server: Server) -> None:
    assert post(server, "/v1/faces?as=image", png()).status_code == 400


def test_a_client_gets_the_bytes(server: Server, portrait: bytes) -> None:
    with sensorium.connect(server.url) as elsewhere:
        answer = elsewhere.blur_faces(portrait, method="pixelate")
    assert answer.faces >= 1
    with Image.open(io.BytesIO(answer.data)) as made:
        assert made.size == (512, 512)


def test_the_openapi_page_says_how_the_picture_may_come(server: Server) -> None:
    page = requests.get(f"{server.url}/openapi.json", timeout=60).json()
    operation = page["paths"]["/v1/blur_faces"]["post"]
    assert {"application/json", "image/jpeg", "image/png"} <= set(operation["responses"]["200"]["content"])
    (form_of_answer,) = operation["parameters"]
    assert (form_of_answer["name"], form_of_answer["schema"]["enum"]) == ("as", ["json", "image"])
    assert page["components"]["schemas"]["BlurredFaces"]["properties"]["data"]["contentEncoding"] == "base64"
