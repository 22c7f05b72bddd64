"""A picture as the answer."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from sensorium.errors import OutputFailed
from sensorium.schemas.base import ImageResult


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    import pybase64

    return pybase64.b64decode(value, validate=True)


def _encoded(data: bytes) -> str:
    import pybase64

    return pybase64.b64encode(data).decode("ascii")


Encoded = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(_encoded, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "examples": ["/9j/4AAQSkZJRg=="]}),
]
"""Bytes; in JSON base64, by the standard alphabet. pydantic's own way writes the URL-safe one, which data URLs do not take."""


class Picture(ImageResult):
    """A picture made of the one that was sent: upright, without EXIF, in sRGB."""

    data: Encoded
    """The file's bytes; in JSON as base64."""
    media_type: Literal["image/jpeg", "image/png", "image/webp"] = Field(examples=["image/jpeg"])
    width: int = Field(ge=1, examples=[640])
    """Pixels across, of this picture: those of the one sent, unless that was too large to be decoded whole."""
    height: int = Field(ge=1, examples=[480])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bytes into a file, in the place of what is there. Raises OutputFailed."""
        try:
            Path(path).write_bytes(self.data)
        except (OSError, ValueError) as error:
            raise OutputFailed(f"Cannot write {os.fspath(path)!r}", why=str(error)) from error

    def _repr_html_(self) -> str | None:
        """The picture itself, for notebooks: never the one that it was made of."""
        shown = f"data:{self.media_type};base64,{_encoded(self.data)}"
        return f'<img style="max-width: 100%" src="{html.escape(shown, quote=True)}">'
