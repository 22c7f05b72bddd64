"""The document says what the server does."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import TypeAdapter

from sensorium.errors import every_error
from sensorium.registry import Registry
from sensorium.server import files, jobs, openapi
from sensorium.server.facades import analyze_image, analyze_upload, flask_predict, native
from sensorium.server.facades import openai as chat


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    tasks = Registry().tasks
    classic = (flask_predict.FACADE, chat.FACADE, analyze_image.FACADE, analyze_upload.FACADE)
    more = {**jobs.operations(), **files.operations()}
    built = openapi.document(tasks, [*(native.facade_for(task.request) for task in tasks), *classic], more)
    as_sent: dict[str, Any] = TypeAdapter(dict[str, Any]).dump_python(built, mode="json")
    return as_sent


def test_it_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_every_task_has_its_route(document: dict[str, Any]) -> None:
    assert {f"/v1/{task.name}" for task in Registry().tasks} | {"/predict", "/v1/chat/completions"} <= set(
        document["paths"]
    )


def test_examples_fit_their_schemas(document: dict[str, Any]) -> None:
    checked = 0
    for media in _media(document["paths"]) + _media(document["components"]["responses"]):
        examples = [one["value"] for one in media.get("examples", {}).values()]
        for example in [*examples, *([media["example"]] if "example" in media else [])]:
            schema = {**media["schema"], "components": document["components"]}
            jsonschema.Draft202012Validator(schema).validate(example)
            checked += 1
    assert checked > 15


def test_every_error_code_is_told_of(document: dict[str, Any]) -> None:
    told = " ".join(response["description"] for response in document["components"]["responses"].values())
    assert all(f"`{kind.code}`" in told for kind in every_error())


def test_a_list_and_the_manner_of_serving_are_described(document: dict[str, Any]) -> None:
    body = document["paths"]["/v1/classify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"image", "top_k", "model", "timeout", "cache"} <= set(body["properties"])
    for image in ("https://example.com/a.jpg", ["https://example.com/a.jpg"]):
        jsonschema.Draft202012Validator(body).validate({"image": image})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(body).validate({"image": 7})


def test_a_list_of_which_nothing_could_be_answered_is_described(document: dict[str, Any]) -> None:
    schema = document["components"]["responses"]["Refused415"]["content"]["application/json"]["schema"]
    refused = jsonschema.Draft202012Validator({**schema, "components": document["components"]})
    error = {"code": "unidentified_media", "message": "It is no picture.", "retryable": False, "trace": "4bf92f35"}
    for answer in ({"error": error}, {"results": [{"error": error}, {"error": error}]}):
        refused.validate(answer)
    assert not refused.is_valid({"results": [error]})
    classic = document["paths"]["/predict"]["post"]["responses"]["default"]["content"]["application/json"]["schema"]
    for told in ({"error": "Invalid model"}, {"results": [{"error": "Invalid model"}]}):
        jsonschema.Draft202012Validator(classic).validate(told)


def _media(part: Any) -> list[dict[str, Any]]:
    """All Media Type Objects below."""
    if isinstance(part, list):
        return [found for one in part for found in _media(one)]
    if not isinstance(part, dict):
        return []
    own = list(part["content"].values()) if isinstance(part.get("content"), dict) else []
    return own + [found for name, one in part.items() if name != "content" for found in _media(one)]
