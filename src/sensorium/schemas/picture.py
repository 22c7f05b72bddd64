"""A picture as the answer."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from sensorium.errors import InvalidRequest, OutputFailed
from sensorium.media.encode import FORMATS, as_file, writable
from sensorium.media.source import Source
from sensorium.schemas.base import ImageResult


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    import pybase64

    return pybase64.b64decode(value, validate=True)


def _encoded(data: bytes) -> str:
    import pybase64

    return pybase64.b64encode(data).decode("ascii")


class _Counted:
    """Bytes, of which only the number is shown."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __repr__(self) -> str:
        return f"<{len(self._data):,} bytes>"


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
        """Write it into a file, in the place of what is there: as JPEG, PNG or WebP, as the file's name ends.

        The bytes are those of `data`, unless that is of another format. Raises InvalidRequest for any other ending,
        before anything is written, and OutputFailed.
        """
        data = self._as(Path(path).suffix.lower())
        try:
            Path(path).write_bytes(data)
        except (OSError, ValueError) as error:
            raise OutputFailed(f"Cannot write {os.fspath(path)!r}", why=str(error)) from error

    def _as(self, suffix: str) -> bytes:
        wanted = FORMATS.get(suffix)
        if wanted is None:
            why = f"{suffix or 'a name without ending'} says none of its formats"
            raise InvalidRequest("Cannot save the picture", why=why, fix=f"Use one of {', '.join(FORMATS)}")
        if self.media_type == f"image/{wanted}":
            return self.data
        image = Source.of(self.data).image_now()
        return as_file(image.pixels, writable(wanted, image.format, self.width, self.height))

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """All fields, of which the file's bytes are only counted."""
        return ((name, _Counted(self.data) if name == "data" else value) for name, value in super().__repr_args__())

    def _repr_html_(self) -> str | None:
        """The picture itself, for notebooks: never the one that it was made of."""
        shown = f"data:{self.media_type};base64,{_encoded(self.data)}"
        return f'<img style="max-width: 100%" src="{html.escape(shown, quote=True)}">'
