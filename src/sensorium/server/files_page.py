"""The routes of files, as OpenAPI describes them."""

from __future__ import annotations

from functools import partial
from typing import Any

from sensorium.schemas.base import Frozen
from sensorium.server import pages
from sensorium.server.pages import answer, parameter
from sensorium.stores.cabinet import FILE_ID, UPLOAD_ID

operation = partial(pages.operation, tag="files")


def operations(paths: tuple[str, ...], announced: type[Frozen], completed: type[Frozen], most: int) -> dict[str, Any]:
    """The page of each of the paths: files, a file, its content; uploads, an upload, its parts, end and cancelling."""
    files, file, content, uploads, upload, parts, complete, cancel = paths
    one, coming = _identity("file", FILE_ID.pattern), _identity("upload", UPLOAD_ID.pattern)
    told, gone = {"200": answer(_FILE, "The file")}, {"200": answer(_DELETED, "It is gone")}
    upload_told = {"200": answer(_UPLOAD, "The upload")}
    listed = [
        parameter("purpose", "query", {"type": "string"}, "Only those"),
        parameter("order", "query", {"type": "string", "enum": ["asc", "desc"]}, "By age; desc: the newest first"),
        parameter("after", "query", {"type": "string", "pattern": f"^({FILE_ID.pattern})?$"}, "`last_id` of a page"),
        parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": most}, "How many at most"),
    ]
    raw = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {
        files: {
            "post": operation("send_file", "Send a file ahead", parameters=[], answers=told, body=_form(raw, "file")),
            "get": operation(
                "files", "Your own files", parameters=listed, answers={"200": answer(_FILES, "The files")}
            ),
        },
        file: {
            "get": operation("file", "One file: its name, size and times", parameters=[one], answers=told),
            "delete": operation("delete_file", "Delete a file", parameters=[one], answers=gone),
        },
        content: {
            "get": operation(
                "file_content",
                "A file's bytes",
                parameters=[one],
                answers={"200": {"description": "It", "content": raw}},
            )
        },
        uploads: {
            "post": operation(
                "begin_upload",
                "Begin a file that comes in parts",
                parameters=[],
                answers=upload_told,
                body=_json(announced),
            )
        },
        upload: {
            "get": operation(
                "upload",
                "How far an upload is, and which parts are here",
                parameters=[coming],
                answers={"200": answer(_COMING, "The upload, with its parts")},
            )
        },
        parts: {
            "post": operation(
                "send_part",
                "Send one part of a file",
                parameters=[coming],
                answers={"200": answer(_PART, "The part")},
                body=_form(raw, "data"),
            )
        },
        complete: {
            "post": operation(
                "complete_upload",
                "Make the parts a file",
                parameters=[coming],
                answers=upload_told,
                body=_json(completed),
            )
        },
        cancel: {
            "post": operation(
                "cancel_upload", "Let go of an upload and its parts", parameters=[coming], answers=upload_told
            )
        },
    }


def _identity(name: str, pattern: str) -> dict[str, Any]:
    return parameter(name, "path", {"type": "string", "pattern": f"^{pattern}$"}, "Its id", required=True)


def _json(model: type[Frozen]) -> dict[str, Any]:
    schema = model.model_json_schema()
    inner = schema.pop("$defs", {})
    for name, field in schema["properties"].items():  # of one level, and used once: written out in its place
        schema["properties"][name] = _written_out(field, inner)
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _written_out(field: dict[str, Any], inner: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in field:
        return {**field, "anyOf": [_written_out(one, inner) for one in field["anyOf"]]}
    return inner[field["$ref"].rpartition("/")[2]] if "$ref" in field else field


def _form(raw: dict[str, Any], name: str) -> dict[str, Any]:
    fields: dict[str, Any] = {name: {"type": "string", "format": "binary"}}
    if name == "file":
        fields |= {"purpose": {"type": "string", "maxLength": 64}}
    form = {"type": "object", "required": [name], "properties": fields}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}, **raw}}


def _object(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "required": [*fields], "properties": fields}


_TEXT, _COUNT = {"type": "string"}, {"type": "integer"}
_FILE = _object(
    id=_TEXT,
    object={"const": "file"},
    bytes=_COUNT,
    created_at={"type": "integer", "description": "In seconds since 1970"},
    expires_at=_COUNT,
    filename=_TEXT,
    purpose=_TEXT,
    status={"const": "processed"},
)
_MAYBE_TEXT = {"type": ["string", "null"]}
_FILES = _object(
    object={"const": "list"},
    data={"type": "array", "items": _FILE},
    has_more={"type": "boolean"},
    first_id=_MAYBE_TEXT,
    last_id=_MAYBE_TEXT,
)
_DELETED = _object(id=_TEXT, object={"const": "file"}, deleted={"const": True})
_PART = _object(
    id=_TEXT, object={"const": "upload.part"}, created_at=_COUNT, upload_id=_TEXT, bytes=_COUNT, sha256=_TEXT
)
_UPLOAD = _object(
    id=_TEXT,
    object={"const": "upload"},
    bytes=_COUNT,
    created_at=_COUNT,
    expires_at=_COUNT,
    filename=_TEXT,
    purpose=_TEXT,
    status={"enum": ["pending", "completed", "cancelled"]},
    file={"oneOf": [_FILE, {"type": "null"}]},
)
_COMING = _object(**_UPLOAD["properties"], parts={"type": "array", "items": _PART}, bytes_received=_COUNT)
