"""A picture on its way to a remote model, as base64 inside a body of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensorium.media.limits import Limits, current
from sensorium.media.pool import in_thread
from sensorium.media.source import Source
from sensorium.runtimes.provider import Shown, pieces
from sensorium.schemas.base import ImageInfo


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A body of JSON in pieces, so that a picture of megabytes is not copied once more."""

    pieces: tuple[bytes, ...]
    image: ImageInfo
    """The picture that is shown."""


async def outgoing(source: Source, body: Mapping[str, Any]) -> Outgoing:
    """The body with the picture's base64 where it says `provider.MARK`, once. Built in a pool thread.

    Raises as `Source.read`, and what its header makes inacceptable.
    """
    if source.url is not None:
        await source.read()
    return await in_thread(_built, source, body, current())


def _built(source: Source, body: Mapping[str, Any], limits: Limits) -> Outgoing:
    import pybase64

    from sensorium.media.decode import look

    data = source.read_now(limits)
    opened = look(data, source.name, limits)
    width, height = opened.upright_size
    shown = Shown(None, opened.kind.mime, pybase64.b64encode(data), "auto")
    return Outgoing(pieces(body, [shown]), ImageInfo(width=width, height=height, format=opened.kind.format))
