"""Answers drawn on their pictures."""

from __future__ import annotations

import functools
import html
import io
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensorium.errors import InvalidRequest, SensoriumError
from sensorium.media.encode import FORMATS

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from sensorium.media.image import Image
    from sensorium.media.source import Source

Outline = list[tuple[float, float]]
Box = tuple[int, int, int, int]

PAPER = (250, 250, 250)
"""Behind a list of captions."""

COLOURS = ((230, 25, 75), (0, 130, 200), (60, 140, 60), (145, 30, 180), (200, 90, 0), (0, 110, 110))
"""Of outlines, in turn: dark enough for white words, and apart from each other for the colour-blind too."""

LARGEST_HTML = 1_000_000
"""Characters of a picture in a notebook, which is stored with each of them."""

_FONTS = {
    "win32": ("C:/Windows/Fonts/msyh.ttc", "C:/Windows/Fonts/simhei.ttf", "C:/Windows/Fonts/simsun.ttc"),
    "darwin": (
        "/System/Library/Fonts/PingFang.ttc",
        "/System/Library/Fonts/Hiragino Sans GB.ttc",
        "/System/Library/Fonts/STHeiti Medium.ttc",
        "/Library/Fonts/Arial Unicode.ttf",
    ),
    "linux": (
        "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
        "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
        "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
        "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
        "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
        "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
        "/usr/share/fonts/truetype/arphic/uming.ttc",
    ),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """An outline to draw, with words."""

    points: tuple[tuple[float, float], ...]
    """Corners in order, in pixels of the upright picture as sent."""
    caption: str = ""
    dots: tuple[tuple[float, float], ...] = ()
    """Single points that belong to it, drawn in its colour."""


def annotate(image: Image, marks: Sequence[Mark], title: str = "") -> Picture:
    """The picture, as a Pillow image, with outlines, their captions, and a title on a strip above.

    Captions stand at their outlines; where they would cover other outlines, as in a page of text, numbers
    stand there, and the captions in a list beside the picture. Captions that no font at hand can write
    become the number of their mark, as do all others then.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    picture = Pillow.fromarray(image.pixels).copy()
    size = max(12, min(picture.size) // 32)
    outlines = [_at(mark.points, image.scale) for mark in marks]
    captions = _captions(marks, size)
    if _crowded(outlines, captions, picture.size):
        return _titled(_with_list(picture, outlines, captions, size), title, size)
    draw = ImageDraw.Draw(picture)
    for mark, outline, caption, colour in zip(marks, outlines, captions, itertools.cycle(COLOURS)):
        _draw_outline(draw, outline, colour, size)
        _draw_dots(draw, _at(mark.dots, image.scale), colour, size)
        if caption is not None and outline:
            _label(draw, caption, _label_box(caption, outline, picture.size), colour)
    return _titled(picture, title, size)


def encode(picture: Picture, suffix: str) -> bytes:
    """A file of the kind that the suffix names: .jpg, .jpeg, .png or .webp. Else InvalidRequest."""
    format_ = FORMATS.get(suffix.lower())
    if format_ is None:
        raise InvalidRequest(
            f"Cannot write a picture as {suffix or 'a file without suffix'!r}", fix=f"Use one of {', '.join(FORMATS)}"
        )
    out = io.BytesIO()
    picture.save(out, format_, **({} if format_ == "png" else {"quality": 90}))
    return out.getvalue()


def encode_jpeg(picture: Picture, quality: int = 90) -> bytes:
    """A JPEG of the picture; `quality` from 1 to 95."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def html_of(source: Source, marks: Sequence[Mark] = ()) -> str:
    """An <img> with the annotated picture inside, of at most a million characters; a sentence if it cannot be shown.

    Decodes here and now, also within a running event loop. A URL must have been fetched before.
    """
    import pybase64

    name = html.escape(source.name, quote=True)
    try:
        picture = annotate(source.image_now(at_least=1024), marks)
    except SensoriumError as error:
        return f"<em>{html.escape(str(error))}</em>"
    data = next(jpeg for jpeg in _smaller_and_smaller(picture) if len(jpeg) * 4 // 3 < LARGEST_HTML - 1000)
    shown = pybase64.b64encode(data).decode("ascii")
    return f'<img alt="{name}" style="max-width: 100%" src="data:image/jpeg;base64,{shown}">'


def _smaller_and_smaller(picture: Picture) -> Iterator[bytes]:
    side = 1600
    while True:
        shown = picture.copy()
        shown.thumbnail((side, side))
        yield encode_jpeg(shown, 85)
        side = side * 3 // 4


def _label(draw: Any, label: Picture, box: Box, colour: tuple[int, int, int]) -> None:
    """White words on the mark's colour."""
    draw.rectangle(box, fill=colour)
    draw.bitmap((box[0] + 3, box[1] + 2), label, fill=(255, 255, 255))


def _label_box(label: Picture, outline: Outline, size: tuple[int, int]) -> Box:
    """Above the outline's top left corner, and always within the picture: left, top, right, bottom."""
    left, top = min(outline, key=lambda point: point[1] + point[0] / 4)
    width, height = label.width + 6, label.height + 4
    x = max(0, min(round(left), size[0] - width))
    y = max(0, min(round(top) - height, size[1] - height))
    return x, y, x + width, y + height


def _crowded(outlines: Sequence[Outline], captions: Sequence[Picture | None], size: tuple[int, int]) -> bool:
    """Whether a caption would cover another outline, or another caption."""
    shown = [(number, outline) for number, outline in enumerate(outlines) if outline]
    boxes = {number: _around(outline) for number, outline in shown}
    labels = {number: _label_box(words, outlines[number], size) for number in boxes if (words := captions[number])}
    return any(
        _overlap(label, boxes[other]) or (other in labels and _overlap(label, labels[other]))
        for number, label in labels.items()
        for other in boxes
        if other != number
    )


def _around(outline: Outline) -> Box:
    xs, ys = zip(*outline, strict=True)
    return round(min(xs)), round(min(ys)), round(max(xs)), round(max(ys))


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _with_list(picture: Picture, outlines: Sequence[Outline], captions: Sequence[Picture | None], size: int) -> Picture:
    """The picture with a number left of each outline, and right of it the captions, each after its number."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    numbers = _numbers(len(captions), size)
    gutter, step = max(number.width for number in numbers) + 8, round(1.7 * size)
    beside = max(words.width for words in captions if words) + gutter + 2 * size
    height = max(picture.height, step * (len(captions) + 1))
    whole = Pillow.new("RGB", (gutter + picture.width + beside, height), PAPER)
    whole.paste(picture, (gutter, 0))
    draw, x = ImageDraw.Draw(whole), gutter + picture.width + size // 2
    for place, (number, words, colour) in enumerate(zip(numbers, captions, itertools.cycle(COLOURS))):
        outline = [(across + gutter, down) for across, down in outlines[place]]
        _draw_outline(draw, outline, colour, size)
        if outline:
            left, top, _, bottom = _around(outline)
            _label(
                draw,
                number,
                _box_at(max(0, left - number.width - 7), (top + bottom - number.height) // 2, number),
                colour,
            )
        y = size // 2 + place * step
        _label(draw, number, _box_at(x, y, number), colour)
        if words is not None:
            draw.bitmap((x + gutter + size // 2, y + 2), words, fill=(0, 0, 0))
    return whole


def _draw_outline(draw: Any, outline: Outline, colour: tuple[int, int, int], size: int) -> None:
    if len(outline) > 1:
        draw.line([*outline, outline[0]], fill=colour, width=max(2, size // 6), joint="curve")


def _draw_dots(draw: Any, dots: Outline, colour: tuple[int, int, int], size: int) -> None:
    radius = max(1, size // 6)
    for x, y in dots:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _at(points: Sequence[tuple[float, float]], scale: float) -> Outline:
    return [(x * scale, y * scale) for x, y in points]


def _box_at(x: int, y: int, label: Picture) -> Box:
    return x, y, x + label.width + 6, y + label.height + 4


def _numbers(count: int, size: int) -> list[Picture]:
    return [_written(_fonts(size)[0], str(number)) for number in range(1, count + 1)]


def can_write_chinese() -> bool:
    """Whether a font at hand has Chinese; else such captions become numbers."""
    return _lettering("汉字", 16) is not None


def _titled(picture: Picture, title: str, size: int) -> Picture:
    words = _lettering(title, size) if title else None
    if words is None:
        return picture
    from PIL import Image as Pillow
    from PIL import ImageDraw

    whole = Pillow.new("RGB", (picture.width, picture.height + words.height + 8), (32, 32, 32))
    whole.paste(picture, (0, words.height + 8))
    ImageDraw.Draw(whole).bitmap((6, 4), words, fill=(255, 255, 255))
    return whole


def _captions(marks: Sequence[Mark], size: int) -> list[Picture | None]:
    written = [_lettering(mark.caption, size) if mark.caption.strip() else None for mark in marks]
    if all(words or not mark.caption.strip() for mark, words in zip(marks, written, strict=True)):
        return written
    return [*_numbers(len(marks), size)]


def _lettering(text: str, size: int) -> Picture | None:
    """The words as a mask, mode L: 255 is ink. None when no font at hand has all their signs."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())[:200]
    for font in _fonts(size):
        if _can_write(font, line):
            return _written(font, line)
    return None


@functools.lru_cache(8)
def _fonts(size: int) -> tuple[Any, ...]:
    """Pillow's own font for Latin letters, then those of the system that have Chinese."""
    from PIL import ImageFont

    fonts: list[Any] = [ImageFont.load_default(size)]
    for path in _FONTS.get(sys.platform, _FONTS["linux"]):
        if Path(path).is_file():
            try:
                fonts.append(ImageFont.truetype(path, size))
            except OSError:
                continue
    return tuple(fonts)


def _can_write(font: Any, line: str) -> bool:
    if line.isascii():
        return True
    if not hasattr(font, "getmask2"):
        return False  # Pillow was built without FreeType
    # A sign that a font lacks comes out as the box of one that no font has, or as nothing at all.
    missing = bytes(font.getmask("\U0010ffff"))
    return all(any(ink := bytes(font.getmask(sign))) and ink != missing for sign in set(line) if not sign.isspace())


def _written(font: Any, line: str) -> Picture:
    from PIL import Image as Pillow
    from PIL import ImageDraw

    left, top, right, bottom = map(round, font.getbbox(line))
    mask = Pillow.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), line, fill=255, font=font)
    return mask
