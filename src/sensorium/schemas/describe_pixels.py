"""What can be measured of a picture without knowing what it shows."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from sensorium.schemas.base import Frozen, ImageRequest, ImageResult, Result, Score


class Colour(Frozen):
    """One of a picture's main colours."""

    hex: str = Field(pattern="^#[0-9a-f]{6}$", examples=["#c86432"])
    """sRGB, as #rrggbb."""
    name: str = Field(examples=["brown"])
    """The nearest of the eleven basic colour terms of English (Berlin and Kay)."""
    share: Score = Field(examples=[0.41])
    """How much of the picture it covers."""


class PixelDescription(ImageResult):
    """Colours, light and sharpness of a picture."""

    colours: tuple[Colour, ...] = Field(min_length=1)
    """The main colours, largest share first."""
    brightness: Score = Field(examples=[0.52])
    """Mean lightness: 0 black, 1 white."""
    contrast: Score = Field(examples=[0.24])
    """Standard deviation of lightness, of at most 0.5 (half black, half white)."""
    sharpness: float = Field(ge=0, examples=[312.5])
    """Variance of the Laplacian of the grey picture, its longer side scaled to 512 pixels at most."""
    blurred: bool
    """Whether the sharpness is below 100, under which most people call a photograph blurred."""
    megapixels: float = Field(gt=0, examples=[0.31])
    aspect: float = Field(gt=0, examples=[1.333])
    """Width divided by height."""

    @property
    def light(self) -> Literal["dark", "medium", "bright"]:
        """The brightness in a word, by eye."""
        return "dark" if self.brightness < 0.25 else "medium" if self.brightness < 0.75 else "bright"

    @property
    def depth(self) -> Literal["flat", "medium", "rich"]:
        """The contrast in a word, by eye."""
        return "flat" if self.contrast < 0.08 else "medium" if self.contrast < 0.2 else "rich"


class DescribePixelsRequest(ImageRequest):
    """Measure a picture: colours, brightness, contrast, blur, size and shape."""

    task: ClassVar[str] = "describe_pixels"
    answer: ClassVar[type[Result]] = PixelDescription

    colours: int = Field(default=5, ge=1, le=16)
    """How many main colours to give, at most."""
