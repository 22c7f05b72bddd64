"""Pictures made fit before they leave the house: small enough, upright, without noise, in a format that is taken.

What a remote model can do with stands on its card, under `input`:

    longest_side = 1600      pixels of the longer side; larger pictures are made smaller, none larger
    quality = 85             of the JPEG that a picture becomes which is not fit as it is
    formats = ["jpeg"]       what the provider takes
    max_bytes = 3000000      encoded bytes of a picture
    denoise = true           noise is taken out of noisy pictures

A picture that is fit goes as it came. The answer is about the picture as sent: its coordinates are scaled back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sensorium.engine import Call, Card, Engine
from sensorium.media.denoise import NOISY, denoised, noise_of
from sensorium.media.encode import QUALITY, Format, Terms, as_jpeg, fitted, shrunk, within
from sensorium.media.limits import Limits, current
from sensorium.media.pool import in_thread
from sensorium.media.source import Source
from sensorium.schemas.base import Frozen, ImageInfo, ImageRequest, ImageResult, Request, Result

if TYPE_CHECKING:
    from sensorium.media.image import Image


class Input(Frozen):
    """What a card says under `input`."""

    longest_side: int = Field(default=1600, ge=32)
    quality: int = Field(default=QUALITY, ge=1, le=100)
    formats: tuple[Format, ...] = ("jpeg", "png")
    max_bytes: int | None = Field(default=None, ge=1)
    denoise: bool = False

    @property
    def terms(self) -> Terms:
        return Terms(within(self.longest_side), self.quality, self.formats, self.max_bytes)


class Prepare:
    """Shows a remote model each picture as its card says. Requests that are about no single picture pass unchanged."""

    def __init__(self, inner: Engine[Request, Result], card: Card) -> None:
        self._inner, self._card = inner, card

    async def run(self, request: Request, call: Call) -> Result:
        if not isinstance(request, ImageRequest):
            return await self._inner.run(request, call)
        given = self._input()
        image = await _looked_at(request.image)
        shown = await _prepared(request.image, image, given)
        result = await self._inner.run(request.altered(image=shown), call)
        return result.moved_to(image) if isinstance(result, ImageResult) else result

    def _input(self) -> Input:
        return self._card.input_as(Input)


async def _looked_at(source: Source) -> ImageInfo:
    """What the header says. Raises as `Source.image`, for pictures that are not accepted."""
    if source.url is not None:
        await source.read()
    return await in_thread(_look, source, current())


def _look(source: Source, limits: Limits) -> ImageInfo:
    from sensorium.media.decode import look

    opened = look(source.read_now(limits), source.name, limits)
    width, height = opened.upright_size
    return ImageInfo(width=width, height=height, format=opened.kind.format)


async def _prepared(source: Source, image: ImageInfo, given: Input) -> Source:
    if not given.denoise:
        return await fitted(source, given.terms)
    size = given.terms.size(image.width, image.height)
    decoded = await source.image(at_least=min(size))  # held, so that it is not decoded again below
    cleaned = await in_thread(_cleaned, decoded, size, given.quality)
    return await fitted(source if cleaned is None else Source.held(cleaned, source.name), given.terms)


def _cleaned(image: Image, size: tuple[int, int], quality: int) -> bytes | None:
    """A JPEG without the noise; None when there is next to none. Looked at as the model will see it: smaller has less."""
    pixels = shrunk(image.pixels, size)
    noise = noise_of(pixels)
    return as_jpeg(denoised(pixels, noise), quality, "jpeg") if noise >= NOISY else None
