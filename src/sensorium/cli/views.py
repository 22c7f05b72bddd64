"""Results as a person reads them: one view for each type of result, and one that shows any other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.cells import cell_len
from rich.text import Text

from sensorium.cli.screen import plain
from sensorium.schemas.analyze import Analysis
from sensorium.schemas.ask import Answer
from sensorium.schemas.base import ImageInfo, ImageResult, Meta, Result, Usage
from sensorium.schemas.blur_faces import BlurredFaces
from sensorium.schemas.classify import Classification
from sensorium.schemas.compare import Comparison
from sensorium.schemas.compare_faces import FaceComparison
from sensorium.schemas.describe_pixels import PixelDescription
from sensorium.schemas.detect import Detections
from sensorium.schemas.faces import Face, FaceAttributes, Faces
from sensorium.schemas.geometry import Box
from sensorium.schemas.people import People
from sensorium.schemas.picture import Picture
from sensorium.schemas.read import Reading
from sensorium.schemas.tokens import TokenCount

BAR = 20
"""Columns of a full bar."""
EIGHTHS = " ▏▎▍▌▋▊▉"
"""The last column of a bar, filled from the left."""

LIGHT = {"dark": "dark", "medium": "of medium light", "bright": "bright"}
DEPTH = {"flat": "flat", "medium": "of medium contrast", "rich": "rich in contrast"}

LIKELY = 0.5
"""From which score a trait of a face is told."""

SHAPES = {1.0: "square", 4 / 3: "4:3", 3 / 2: "3:2", 16 / 9: "16:9", 3 / 4: "3:4", 2 / 3: "2:3", 9 / 16: "9:16"}

View = Callable[[Any], Iterator[Text]]


def seen(name: str, result: Result, drawing: Path | None = None) -> Text:
    """All there is to say of one input: its name, the answer, what it took, and where it is drawn."""
    heading = Text.assemble((plain(name), "bold"), (_picture(result), "dim"))
    done = "written to" if isinstance(result, Picture) else "drawn in"
    drawn = [Text(f"{done} {plain(str(drawing))}")] if drawing else []
    return Text("\n").join([heading, *_indented([*view(result), *_took(result.meta), *drawn])])


def account(result: Result) -> Text:
    """What an answer took, and how it came about."""
    return Text("\n").join(_took(result.meta))


def view(result: Result) -> Iterator[Text]:
    """The answer alone."""
    return next((VIEWS[kind] for kind in type(result).__mro__ if kind in VIEWS), _any)(result)


def headline(result: Result) -> str:
    """The answer in a few words, to write over a picture; empty when there are none."""
    named = result.classify if isinstance(result, Analysis) else result
    if not isinstance(named, Classification) or not named.labels:
        return ""
    return f"{named.best.name} {_percent(named.best.score).strip()}"


def _classification(result: Classification) -> Iterator[Text]:
    width = max((cell_len(plain(label.name)) for label in result.labels), default=0)
    for label in result.labels:
        name = plain(label.name)
        yield Text.assemble(
            name, " " * (width - cell_len(name) + 2), _percent(label.score), "  ", (_bar(label.score), "cyan")
        )
    if not result.labels:
        yield Text("nothing recognised", style="dim")


def _detections(result: Detections) -> Iterator[Text]:
    width = max((cell_len(plain(one.name)) for one in result.objects), default=0)
    for one in result.objects:
        name = plain(one.name)
        yield Text.assemble(
            name, " " * (width - cell_len(name) + 2), _percent(one.score), "  ", (_place(one.box), "dim")
        )
    if not result.objects:
        yield Text("nothing found", style="dim")


def _faces(result: Faces) -> Iterator[Text]:
    for face in result.faces:
        sure = "face " if face.score is None else _percent(face.score)
        looks = ", ".join(filter(None, (_looks(face), *_described(face))))
        yield Text.assemble((sure, "dim"), "  ", _place(face.box), f"  {looks}" if looks else "")
    if any(face.embedding is not None or face.crop is not None for face in result.faces):
        yield Text("numbers and cut-outs themselves stand in --json", style="dim")
    if not result.faces:
        yield Text("no faces found", style="dim")
    if result.untold:
        what = ", ".join(result.untold)
        yield Text(f"no {what}: {plain(result.meta.engine)} tells none; models of cloud services do", style="yellow")


def _people(result: People) -> Iterator[Text]:
    for one in result.people:
        yield Text.assemble((_percent(one.score), "dim"), "  ", _place(one.box))
    if not result.people:
        yield Text("nobody found", style="dim")


def _blurred(result: BlurredFaces) -> Iterator[Text]:
    detector = plain(result.detector)
    if not result.faces:
        yield Text(f"no faces found by {detector}: the picture shows all that it showed", style="yellow")
        return
    yield Text(f"{result.faces} face{'' if result.faces == 1 else 's'} covered, as found by {detector}")
    for box in result.boxes:
        yield Text(f"  {_place(box)}")


def _described(face: Face) -> Iterator[str]:
    if face.live is not None:
        yield f"live {face.live:.0%}"
    if face.embedding is not None:
        yield f"{len(face.embedding)} numbers"
    if face.crop is not None:
        yield "cut out"


def _face_comparison(result: FaceComparison) -> Iterator[Text]:
    yield Text(
        "the same person" if result.same else "different people", style="bold green" if result.same else "bold yellow"
    )
    yield Text.assemble(f"{result.score:6.1%}  ", (_bar(result.score), "cyan"))
    yield Text(f"distance {result.distance:.3f}, where up to {result.threshold:.3f} is taken for the same", style="dim")
    yield Text("how often faces are as near, or as far, in measured pairs of pictures:", style="dim")
    yield Text(f"  of two people: {_part(result.false_match_rate)} are as near as these two", style="dim")
    yield Text(f"  of one person: {_part(result.false_non_match_rate)} are farther apart than these two", style="dim")
    for number, face in enumerate(result.faces, start=1):
        if face.faces_found > 1:
            yield Text(f"picture {number} shows {face.faces_found} faces: the largest was compared", style="yellow")


def _part(rate: float) -> str:
    """Of pairs; few ones are neither none nor all of them."""
    if rate in (0, 1):
        return "all of them" if rate else "none of them"
    return f"{min(max(rate, 0.001), 0.999):.1%}"


def _looks(face: Face) -> str:
    """What a face looks like, in a few words."""
    seen = face.attributes or FaceAttributes()
    said = [
        seen.gender or "",
        f"about {seen.age:.0f}" if seen.age is not None else "",
        *(name for name, score in seen.emotions.items() if score >= LIKELY),
        *(word for word, score in _traits(seen) if score is not None and score >= LIKELY),
    ]
    return ", ".join(plain(word) for word in said if word)


def _traits(seen: FaceAttributes) -> Iterator[tuple[str, float | None]]:
    yield "smiling", seen.smile
    yield "glasses", seen.glasses
    yield "headwear", seen.headwear
    yield "mask", seen.mask
    yield "blurred", seen.blurred
    yield "underexposed", seen.underexposed


def _place(box: Box) -> str:
    return f"{box.width:.0f} × {box.height:.0f} at {box.left:.0f}, {box.top:.0f}"


def _reading(result: Reading) -> Iterator[Text]:
    for line in result.lines:
        yield Text.assemble((_percent(line.score), "dim"), "  ", plain(line.text))
    if not result.lines:
        yield Text("no text found", style="dim")


def _pixels(result: PixelDescription) -> Iterator[Text]:
    width = max(len(colour.name) for colour in result.colours)
    for colour in result.colours:
        yield Text.assemble(
            ("██", colour.hex), f" {colour.name:<{width}}  {_percent(colour.share)}  ", (colour.hex, "dim")
        )
    sharp = "blurred" if result.blurred else "sharp"
    yield Text.assemble(
        f"{LIGHT[result.light]}, {DEPTH[result.depth]}, {sharp}",
        (
            f"  brightness {result.brightness:.2f}, contrast {result.contrast:.2f}, sharpness {result.sharpness:.0f}",
            "dim",
        ),
    )
    yield Text(f"{result.megapixels:.2g} megapixels, {_shape(result.aspect)}")


def _analysis(result: Analysis) -> Iterator[Text]:
    parts = {"shows": result.classify, "text": result.read, "faces": result.faces, "pixels": result.describe_pixels}
    for title, part in parts.items():
        if part is not None:
            yield Text.assemble((title, "bold cyan"))
            yield from _indented(view(part))
            yield from _indented(_took(part.meta))
    for name, failure in result.failures.items():
        yield Text.assemble((f"{name} has no answer: ", "red"), plain(failure.message))


def _tokens(result: TokenCount) -> Iterator[Text]:
    for picture in result.pictures:
        used = (picture.used_width, picture.used_height)
        smaller = f", used at {used[0]} × {used[1]}" if used != (picture.width, picture.height) else ""
        yield Text.assemble(
            f"{picture.tokens:,} tokens for a picture of {picture.width} × {picture.height}", (smaller, "dim")
        )
        if picture.refused:
            yield Text(f"{result.model} would not take it as it is: {picture.refused}", style="red")
    yield Text(f"about {result.text_tokens:,} tokens for words and what stands around them")
    price = "" if result.input_cost is None else f": {_dollars(result.input_cost)}"
    yield Text.assemble((f"{result.input_tokens:,} tokens in all{price}", "bold"))
    longest = f"with the longest answer, {result.most_output_tokens:,} tokens"
    yield Text("no price is known" if result.most_cost is None else f"{longest}: {_dollars(result.most_cost)}")
    if result.confidence == "guess":
        yield Text(f"a guess: how {plain(result.model)} counts is not known", style="yellow")
    else:
        yield Text(f"counted as {result.rule} ({result.confidence})", style="dim")


def _dollars(cost: float) -> str:
    """With two digits that say something; never as 2.8e-05."""
    return f"${Decimal(f'{cost:.2g}'):f}" if cost < 0.1 else f"${cost:,.2f}"


def _answer(result: Answer) -> Iterator[Text]:
    return (Text(plain(line)) for line in result.text.splitlines())


def _comparison(result: Comparison) -> Iterator[Text]:
    for title in ("similarities", "differences", "recommendation"):
        yield Text(title, style="bold cyan")
        yield from (Text(f"  - {plain(sentence)}") for sentence in getattr(result, title) or ("none",))


def _any(value: BaseModel) -> Iterator[Text]:
    """Every field by its name, whatever it is."""
    for name in type(value).model_fields:
        held = getattr(value, name)
        if not isinstance(held, (Meta, ImageInfo)):
            yield from _field(name.replace("_", " "), held)


def _field(name: str, held: Any) -> Iterator[Text]:
    if isinstance(held, Result):
        yield Text(name, style="bold cyan")
        yield from _indented(view(held))
    elif isinstance(held, BaseModel):
        yield Text(name, style="bold cyan")
        yield from _indented(_any(held))
    elif isinstance(held, (tuple, list)) and any(isinstance(part, BaseModel) for part in held):
        yield Text(f"{name} ({len(held)})", style="bold cyan")
        for part in held:
            yield Text(f"  {_in_one_line(part)}")
    else:
        yield Text.assemble((f"{name}: ", "bold"), _in_one_line(held))


def _in_one_line(held: Any) -> str:
    if isinstance(held, BaseModel):
        return ", ".join(
            f"{name.replace('_', ' ')} {_in_one_line(getattr(held, name))}" for name in type(held).model_fields
        )
    if isinstance(held, (tuple, list)):
        return f"({', '.join(map(_in_one_line, held))})"
    if isinstance(held, bool) or held is None:
        return {True: "yes", False: "no", None: "-"}[held]
    return f"{held:.3g}" if isinstance(held, float) else plain(str(held))


VIEWS: dict[type, View] = {
    Classification: _classification,
    Reading: _reading,
    Detections: _detections,
    Faces: _faces,
    People: _people,
    BlurredFaces: _blurred,
    PixelDescription: _pixels,
    Analysis: _analysis,
    TokenCount: _tokens,
    Answer: _answer,
    Comparison: _comparison,
    FaceComparison: _face_comparison,
}


def _picture(result: Result) -> str:
    if not isinstance(result, ImageResult):
        return ""
    image = result.image
    smaller = f", decoded at 1/{1 / image.scale:.0f}" if image.scale < 1 else ""
    return f"  {image.width} × {image.height} {image.format}{smaller}"


def _took(meta: Meta) -> Iterator[Text]:
    for skipped in meta.skipped:
        said = f"{skipped.engine} did not answer: "
        why = skipped.message.removeprefix(f"Model {said}").removeprefix(said)  # as some messages begin, too
        yield Text.assemble((said, "yellow"), plain(why))
    took = [
        meta.engine or "in all",
        _seconds(meta.seconds - meta.loading_seconds) if meta.seconds else "",
        f"and {_seconds(meta.loading_seconds)} to load" if meta.loading_seconds > 0.1 else "",
        "remembered" if meta.cached else "",
        *(_spent(meta.usage) if meta.usage else ()),
    ]
    if any(took[1:]):
        yield Text(" · ".join(part for part in took if part), style="dim")


def _spent(usage: Usage) -> Iterator[str]:
    about = "about " if usage.estimated else ""
    yield f"{about}{usage.input_tokens:,} + {usage.output_tokens:,} tokens"
    if usage.cost is not None:
        yield f"{about}{_dollars(usage.cost)}"


def _indented(parts: Iterable[Text]) -> Iterator[Text]:
    return (Text.assemble("  ", part) for part in parts)


def _bar(score: float) -> str:
    full, rest = divmod(round(score * BAR * 8), 8)
    return ("█" * full + EIGHTHS[rest]).rstrip()


def _percent(score: float) -> str:
    return " <1 %" if 0 < score < 0.005 else f"{score:4.0%}".replace("%", " %").rjust(5)


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _shape(aspect: float) -> str:
    near = next((name for ratio, name in SHAPES.items() if abs(aspect / ratio - 1) < 0.01), f"aspect {aspect:.2f}")
    return near if aspect == 1 else f"{near} ({'landscape' if aspect > 1 else 'portrait'})"
