"""The classic way to ask about an uploaded picture: `POST /v1/analyze/upload`.

    curl -F file=@cat.jpg -F prompt="What is this?" http://127.0.0.1:8000/v1/analyze/upload
    {"id": "upload-1f3a9c02", "result": "A cat."}

`prompt` stands in the form or in the query. All else is as in `analyze_image`.
"""

from __future__ import annotations

from typing import Any

from sensorium.errors import InvalidRequest
from sensorium.schemas.base import checked
from sensorium.server.facades.analyze_image import Pieces, Question, page_of, plan_of, refuse, render
from sensorium.server.facades.base import Facade, Message, Plan

NO_FILE = "file is required"

PROMPT = "描述这张图片"
"""What the classic service asked by default."""


def parse(message: Message) -> Plan:
    """Raises InvalidRequest when there is not one file, and what was wrong with that file."""
    pictures = [upload.source for upload in message.files if upload.field == "file"]
    if len(pictures) != 1:
        raise InvalidRequest(
            NO_FILE if not pictures else "One `file` is taken", fix="Send the picture as `file` in a form"
        )
    if isinstance(pictures[0], Exception):
        raise pictures[0]
    fields = {"prompt": PROMPT, **message.query, **message.fields, "image_url": ""}
    return plan_of(checked(Question, fields, "a picture's analysis"), pictures[0], "upload")


def operation() -> dict[str, Any]:
    """The route's page in the OpenAPI document."""
    fields = Question.model_json_schema()["properties"]
    del fields["image_url"]
    fields["prompt"]["default"] = PROMPT
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary"}, **fields},
    }
    bodies = {"multipart/form-data": {"schema": form}}
    return page_of(
        "analyze_upload", "Ask about an uploaded picture, as the classic service did", bodies, "upload-1f3a9c02"
    )


FACADE = Facade(
    path="/v1/analyze/upload",
    parse=parse,
    render=render,
    refuse=refuse,
    operation=operation,
    encoder=Pieces,
)
