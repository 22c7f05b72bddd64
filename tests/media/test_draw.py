"""Answers drawn on their pictures."""

from __future__ import annotations

import io
import re

import numpy as np
import pybase64
import pytest
from PIL import Image as Pillow

from sensorium.errors import InvalidRequest
from sensorium.media import draw
from sensorium.media.draw import Mark, annotate, encode, html_of
from sensorium.media.image import Image
from sensorium.media.source import Source
from tests.pictures import encoded, jpeg, photograph

BOX = ((100.0, 100.0), (300.0, 100.0), (300.0, 200.0), (100.0, 200.0))


needs_chinese = pytest.mark.skipif(
    not draw.can_write_chinese(),
    reason="no font with Chinese is installed (Debian: apt-get install fonts-wqy-microhei)",
)


@pytest.fixture
def blank() -> Image:
    return Source.of(encoded(Pillow.new("RGB", (600, 400), "white"), "PNG")).image_now()


def ink(picture: Pillow.Image) -> int:
    return int(np.count_nonzero(np.asarray(picture).min(axis=2) < 250))


def test_an_outline_is_drawn_where_it_belongs(blank: Image) -> None:
    drawn = np.asarray(annotate(blank, [Mark(BOX)]))
    assert drawn[150, 100].tolist() == list(draw.COLOURS[0])
    assert drawn[150, 200].tolist() == [255, 255, 255]
    assert blank.pixels.min() == 255, "the picture itself is untouched"


def test_dots_are_drawn_where_they_belong(blank: Image) -> None:
    drawn = np.asarray(annotate(blank, [Mark(BOX), Mark(BOX, dots=((400.0, 300.0),))]))
    assert drawn[300, 400].tolist() == list(draw.COLOURS[1])
    assert drawn[300, 420].tolist() == [255, 255, 255]


def test_marks_are_scaled_to_a_picture_decoded_smaller() -> None:
    half = Source.of(photograph()).image_now(200)
    drawn = np.asarray(annotate(half, [Mark(BOX)])).astype(int)
    changed = np.abs(drawn - half.pixels).sum(axis=2) > 0
    assert half.scale == 0.5
    assert changed[75, 50]
    assert not changed[120:].any()


@needs_chinese
@pytest.mark.parametrize("caption", ["espresso 0.95", "意式浓缩咖啡", "混合 text", "кофе", "コーヒー"])
def test_captions_are_written(blank: Image, caption: str) -> None:
    assert ink(annotate(blank, [Mark(BOX, caption)])) > ink(annotate(blank, [Mark(BOX, "1")])) + 100


def test_chinese_without_any_font_for_it_becomes_a_number(blank: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "_FONTS", {"linux": (), "darwin": (), "win32": ()})
    draw._fonts.cache_clear()
    chinese, number = annotate(blank, [Mark(BOX, "咖啡")]), annotate(blank, [Mark(BOX, "1")])
    draw._fonts.cache_clear()
    np.testing.assert_array_equal(np.asarray(chinese), np.asarray(number))


@pytest.mark.parametrize(
    "mark",
    [
        Mark(()),
        Mark(((5, 5),), "a point"),
        Mark(((-50, -50), (9999, -50), (9999, 9999)), "outside"),
        Mark(BOX, "x" * 5000),
        Mark(BOX, "\x00\n\u202e<script>"),
        Mark(BOX, "   "),
        Mark(BOX, "🦜"),
    ],
)
def test_odd_marks_do_no_harm(blank: Image, mark: Mark) -> None:
    assert annotate(blank, [mark], title=mark.caption).width == 600


@needs_chinese
def test_captions_that_would_cover_other_lines_are_listed_beside_the_picture(blank: Image) -> None:
    lines = [tuple((x, y + 30.0 * line) for x, y in ((10, 10), (400, 10), (400, 35), (10, 35))) for line in range(4)]
    drawn = annotate(blank, [Mark(points, f"第 {number} line") for number, points in enumerate(lines)])
    assert drawn.width > 700
    beside = drawn.crop((660, 0, drawn.width, drawn.height))
    assert ink(beside.convert("RGB")) > 400
    gutter = int(np.flatnonzero((np.asarray(drawn)[390] == 255).all(axis=1))[0])
    inside = np.asarray(drawn)[75:90, gutter + 15 : gutter + 390]  # the third line keeps its words uncovered
    assert inside.min() == 255


def test_a_list_longer_than_the_picture_makes_room_for_itself() -> None:
    small = Source.of(encoded(Pillow.new("RGB", (200, 20), "white"), "PNG")).image_now()
    marks = [Mark(((x, 2), (x + 9, 2), (x + 9, 18), (x, 18)), f"word {x}") for x in range(0, 190, 10)]
    assert annotate(small, marks).height > 19 * 15


@needs_chinese
def test_a_title_stands_above(blank: Image) -> None:
    assert annotate(blank, [], "标题").height > 400


def test_a_tiny_picture_can_be_annotated() -> None:
    tiny = Source.of(encoded(Pillow.new("RGB", (1, 1)), "PNG")).image_now()
    assert annotate(tiny, [Mark(((0, 0), (1, 1)), "word")], "title").width == 1


@pytest.mark.parametrize(("suffix", "kind"), [(".jpg", "JPEG"), (".JPEG", "JPEG"), (".png", "PNG"), (".webp", "WEBP")])
def test_the_suffix_says_how_to_encode(blank: Image, suffix: str, kind: str) -> None:
    with Pillow.open(io.BytesIO(encode(annotate(blank, []), suffix))) as written:
        assert (written.format, written.size) == (kind, (600, 400))


def test_an_unknown_suffix_is_refused(blank: Image) -> None:
    with pytest.raises(InvalidRequest, match=r"\.jpg"):
        encode(annotate(blank, []), ".xyz")


async def test_a_notebook_shows_the_picture_also_while_a_loop_runs() -> None:
    shown = html_of(Source.of(photograph()), [Mark(BOX, "咖啡")])
    found = re.fullmatch(
        r'<img alt="data \(\d+ kB\)" style="max-width: 100%" src="data:image/jpeg;base64,(.*)">', shown
    )
    assert found
    with Pillow.open(io.BytesIO(pybase64.b64decode(found[1]))) as picture:
        assert picture.size == (600, 400)


def test_a_picture_for_a_notebook_is_at_most_a_million_characters() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2000, 2000, 3), np.uint8)
    assert len(html_of(Source.of(encoded(Pillow.fromarray(noise), "JPEG", quality=95)))) < 1_000_000


def test_what_cannot_be_shown_says_so_and_is_escaped() -> None:
    assert html_of(Source.of("http://example.com/<b>.jpg")).startswith("<em>Cannot read http://example.com/&lt;b&gt;")
    assert "<em>" in html_of(Source.of(jpeg()[:200]))
    assert '"><script>' not in html_of(Source.held(jpeg(), '"><script>alert(1)</script>'))
