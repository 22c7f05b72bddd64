"""States what the local tasks see: what answers `ask` where no language model is named.

It looks at each picture by `analyze`, and says in plain sentences what came out, in the language of the question. It
understands no question, and says so. With a schema it fills the fields whose names it knows, and refuses the others.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal

from sensorium.engine import Call, Card, Delta, Host
from sensorium.errors import SensoriumError, UnstructuredAnswer
from sensorium.lists import in_order
from sensorium.schemas.analyze import Analysis, AnalyzeRequest
from sensorium.schemas.ask import Answer, AskRequest, Message, Picture, Words
from sensorium.schemas.faces import Faces
from sensorium.schemas.structure import Structure

REQUIRES: tuple[str, ...] = ()

CARDS = (
    Card(
        name="perception",
        kind="perception",
        tasks=("ask",),
        licence="Apache-2.0",
        origin="sensorium: what `analyze` sees, in sentences",
        takes_tokens=False,
        cached=False,  # what it asks is remembered, and may come of a model that has changed since
    ),
)

AT_ONCE = 4
"""Pictures of one question that are looked at together."""
SURE = 0.3
"""From this score on a name is given without a `perhaps`."""
WORTH_NAMING = 0.05
"""Names that are less likely are left out, but for the first; and so are colours that cover less."""
MUCH = 0.1
"""How much of a picture a colour covers that it is compared by."""
MOST_LINES = 200
"""Lines of text that are quoted of one picture."""

Tongue = Literal["en", "zh"]

_CHINESE = re.compile("[\u3400-\u9fff]")
_PIECES = re.compile("[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]|[^\\s\u3000-\u303f\u3400-\u9fff\uff00-\uffef]*\\s*")

COLOURS_ZH = {
    "black": "黑色",
    "white": "白色",
    "grey": "灰色",
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "orange": "橙色",
    "brown": "棕色",
    "pink": "粉色",
    "purple": "紫色",
}

SAID: Mapping[Tongue, Mapping[str, str]] = {
    "en": {
        "self": "I am not a language model: I can only say what local models see.",
        "blind": "There is no picture to look at, and the question itself I cannot answer.",
        "remedy": "To have the question itself answered, name a vision-language model by `model`.",
        "the": "The picture",
        "one": "Picture {number}",
        "size": "{which} has {width} × {height} pixels ({format}).",
        "shows": "It most likely shows: {names}.",
        "perhaps": "What it shows is uncertain; perhaps: {names}.",
        "text": "It reads: {lines}.",
        "no text": "No text is found in it.",
        "face": "One face is found in it: {places}.",
        "faces": "{count} faces are found in it: {places}.",
        "no faces": "No faces are found in it.",
        "more": "and {count} more lines",
        "colours": "Its main colours: {colours}.",
        "look": "It is {light}, {depth}, and {sharp}.",
        "failed": "One thing could not be found out ({part}): {why}",
        "dark": "dark",
        "medium light": "of medium light",
        "bright": "bright",
        "flat": "flat",
        "medium": "of medium contrast",
        "rich": "rich in contrast",
        "blurred": "blurred",
        "sharp": "sharp",
        "and": ", ",
        "quote": "“{text}”",
        "all show": "All seem to show: {name}.",
        "all read": "All have the text {text}.",
        "all are": "All are {what}.",
        "all have": "All have {what} among their main colours.",
        "all sized": "All have {width} × {height} pixels.",
        "only": "{which}: {what}",
        "sharpest": "{which} is the sharpest.",
        "largest": "{which} has the most pixels.",
        "judge": "Which one is better for a purpose, local models cannot say; name a vision-language model by `model`.",
    },
    "zh": {
        "self": "我不是语言模型，只能说出本地模型看到的内容。",
        "blind": "没有可看的图片，而问题本身我无法回答。",
        "remedy": "要回答问题本身，请用 `model` 指定一个视觉语言模型。",
        "the": "图片",
        "one": "图片{number}",
        "size": "{which}有 {width} × {height} 像素（{format}）。",
        "shows": "最可能是：{names}。",
        "perhaps": "内容不确定，也许是：{names}。",
        "text": "上面写着：{lines}。",
        "no text": "没有发现文字。",
        "face": "发现 1 张脸：{places}。",
        "faces": "发现 {count} 张脸：{places}。",
        "no faces": "没有发现人脸。",
        "more": "以及另外 {count} 行",
        "colours": "主要颜色：{colours}。",
        "look": "画面{light}，{depth}，{sharp}。",
        "failed": "有一项没能得知（{part}）：{why}",
        "dark": "偏暗",
        "medium light": "亮度适中",
        "bright": "明亮",
        "flat": "对比度低",
        "medium": "对比度适中",
        "rich": "对比度高",
        "blurred": "模糊",
        "sharp": "清晰",
        "and": "、",
        "quote": "“{text}”",
        "all show": "看起来都是：{name}。",
        "all read": "都有文字{text}。",
        "all are": "都{what}。",
        "all have": "主要颜色中都有{what}。",
        "all sized": "都是 {width} × {height} 像素。",
        "only": "{which}：{what}",
        "sharpest": "{which}最清晰。",
        "largest": "{which}像素最多。",
        "judge": "哪一张更合用，本地模型说不出；请用 `model` 指定一个视觉语言模型。",
    },
}
"""What is said, in each language."""

PLACES: Mapping[Tongue, tuple[str, ...]] = {
    "en": ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right"),
    "zh": ("左上", "上方", "右上", "左侧", "中间", "右侧", "左下", "下方", "右下"),
}
"""What the ninths of a picture are called, row by row."""

OTHER_SPELLINGS = {"colors": "colours", "color": "colour", "caption": "description", "name": "label", "names": "labels"}


class Engine:
    """Looks, and says what is seen."""

    def __init__(self, card: Card, host: Host) -> None:
        self._card, self._host = card, host

    def load(self) -> None:
        """Nothing to load: what it asks loads itself."""

    def close(self) -> None:
        """Nothing to give back."""

    async def run(self, request: AskRequest, call: Call) -> Answer:
        """The words, told as they come. With a schema the value that keeps it, or UnstructuredAnswer."""
        said = request.conversation()
        tongue = tongue_of(said)
        looking = looked_at(said, call)
        if request.json_schema is not None:
            seen = [one async for one in looking]
            text = filled(Structure.of(request.json_schema), seen, tongue)
            return Answer(text=text, answered_by=self._card.id)
        return await _told(_paragraphs(looking, _pictures(said), tongue), request, call, self._card.id)


async def looked_at(said: Sequence[Message], call: Call) -> AsyncIterator[Analysis]:
    """What `analyze` sees of each picture, in order. Raises what it raises of one that cannot be used."""
    asked = (AnalyzeRequest(image=picture.image) for picture in _pictures(said))
    async with aclosing(in_order(asked, call.run, AT_ONCE)) as outcomes:
        async for outcome in outcomes:
            if isinstance(outcome, SensoriumError):
                raise outcome
            assert isinstance(outcome, Analysis)  # noqa: S101 - what `analyze` answers with
            yield outcome


def tongue_of(said: Iterable[Message]) -> Tongue:
    """The language of the last question."""
    questions = [part.text for message in said if message.role == "user" for part in _words(message)]
    return "zh" if questions and _CHINESE.search(questions[-1]) else "en"


def sentences(seen: Analysis, which: str, tongue: Tongue) -> Iterator[str]:
    """What is to be said of one picture."""
    say = SAID[tongue]
    image = seen.image
    yield say["size"].format(which=which, width=image.width, height=image.height, format=image.format)
    if seen.classify:
        sure = "shows" if seen.classify.best.score >= SURE else "perhaps"
        yield say[sure].format(names=say["and"].join(_names(seen)))
    if seen.read:
        yield say["text"].format(lines=say["and"].join(_quoted(seen, tongue))) if seen.read.lines else say["no text"]
    if seen.faces:
        places = say["and"].join(_counted(_face_places(seen.faces, tongue)))
        count = len(seen.faces.faces)
        said = say["face"] if count == 1 else say["faces"] if count else say["no faces"]
        yield said.format(count=count, places=places)
    if seen.describe_pixels:
        colours = [f"{name} ({share:.0%})" for name, share in _shares(seen, tongue).items() if share >= WORTH_NAMING]
        yield say["colours"].format(colours=say["and"].join(colours))
        light, depth, sharp = _look(seen, tongue)
        yield say["look"].format(light=light, depth=depth, sharp=sharp)
    for part, failure in seen.failures.items():
        yield say["failed"].format(part=part, why=failure.message)


def filled(structure: Structure, seen: Sequence[Analysis], tongue: Tongue) -> str:
    """As JSON, a value that keeps the schema, of what is known by the names that it uses.

    Raises UnstructuredAnswer, naming what it cannot fill.
    """
    known, wanted = facts(seen, tongue), _wanted(structure.schema)
    data = {name: known[key] for name in wanted if (key := _key(name)) in known} if wanted else known
    required = _required(structure.schema)
    data.update({name: None for name in required if name not in data})  # honest, where the schema allows it
    unfit = {path[0] for path, _ in structure.faults(data) if path}
    data = {name: value for name, value in data.items() if name in required or name not in unfit}
    faults = [(path, said) for path, said in structure.faults(data)]
    if faults:
        names = ", ".join(dict.fromkeys(f"`{path[0]}`" for path, _ in faults if path)) or "this schema"
        raise UnstructuredAnswer(
            f"perception cannot fill {names}",
            why="it is not a language model, and knows only " + ", ".join(sorted(known)),
            fix="Name a vision-language model by `model`",
            text=_all_said(seen, tongue),
        )
    return json.dumps(data, ensure_ascii=False)


def facts(seen: Sequence[Analysis], tongue: Tongue) -> dict[str, Any]:
    """All that can be filled in, by name."""
    if not seen:
        return {}
    told = compared(seen, tongue) if len(seen) > 1 else _facts_of(seen[0], tongue)
    return {"description": _all_said(seen, tongue), **told}


def compared(seen: Sequence[Analysis], tongue: Tongue) -> dict[str, list[str]]:
    """What several pictures have in common, what each has alone, and which measures best."""
    return {
        "similarities": list(_shared(seen, tongue)),
        "differences": list(_apart(seen, tongue)),
        "recommendation": list(_best(seen, tongue)),
    }


async def _paragraphs(
    looking: AsyncIterator[Analysis], pictures: Sequence[Picture], tongue: Tongue
) -> AsyncIterator[str]:
    say = SAID[tongue]
    if not pictures:
        yield _line((say["self"], say["blind"], say["remedy"]), tongue)
        return
    number = 0
    async for seen in looking:
        number += 1
        which = _called(number, len(pictures), tongue)
        # Not before there is something to say: a bad picture must fail before the first word.
        yield ("" if number > 1 else say["self"] + "\n\n") + _line(sentences(seen, which, tongue), tongue) + "\n\n"
    yield say["remedy"]


async def _told(paragraphs: AsyncIterator[str], request: AskRequest, call: Call, name: str) -> Answer:
    """The words, one after the other, until they or their allowed number end."""
    said: list[str] = []
    async with aclosing(paragraphs):  # type: ignore[type-var] # it is a generator
        async for paragraph in paragraphs:
            for piece in filter(None, _PIECES.findall(paragraph)):
                if len(said) == request.max_tokens:
                    return Answer(text="".join(said), ending="length", answered_by=name)
                said.append(piece)
                await call.emit(Delta(piece))
    return Answer(text="".join(said), answered_by=name)


def _facts_of(seen: Analysis, tongue: Tongue) -> dict[str, Any]:
    known: dict[str, Any] = {"width": seen.image.width, "height": seen.image.height, "format": seen.image.format}
    if seen.classify:
        known |= {"label": seen.classify.best.name, "labels": [label.name for label in seen.classify.labels]}
    if seen.read:
        known |= {"text": seen.read.text, "lines": [line.text for line in seen.read.lines]}
    if seen.faces:
        known |= {"face_count": len(seen.faces.faces), "faces": _face_places(seen.faces, tongue)}
    if (look := seen.describe_pixels) is not None:
        colours = list(_shares(seen, tongue))
        known |= {"colours": colours, "colour": colours[0]}
        known |= {name: getattr(look, name) for name in ("brightness", "contrast", "sharpness", "blurred")}
        known |= {"megapixels": look.megapixels, "aspect": look.aspect}
    return known


def _shared(seen: Sequence[Analysis], tongue: Tongue) -> Iterator[str]:
    say = SAID[tongue]
    for name in _in_all([_likely(one) for one in seen]):
        yield say["all show"].format(name=name)
    for text in _in_all([_lines(one) for one in seen]):
        yield say["all read"].format(text=say["quote"].format(text=text))
    for colour in _in_all([_colours(one, tongue) for one in seen]):
        yield say["all have"].format(what=colour)
    for what in _in_all([_look(one, tongue) for one in seen]):
        yield say["all are"].format(what=what)
    if len({(one.image.width, one.image.height) for one in seen}) == 1:
        yield say["all sized"].format(width=seen[0].image.width, height=seen[0].image.height)


def _apart(seen: Sequence[Analysis], tongue: Tongue) -> Iterator[str]:
    """Of each picture, what is not said of all."""
    say = SAID[tongue]
    common = {what for kind in _kinds(seen, tongue) for what in _in_all(kind)}
    sized = len({(one.image.width, one.image.height) for one in seen}) > 1
    for number, one in enumerate(seen, start=1):
        quoted = [say["quote"].format(text=text) for text in _lines(one) if text not in common]
        own = [what for what in (*_likely(one), *_colours(one, tongue), *_look(one, tongue)) if what not in common]
        size = [f"{one.image.width} × {one.image.height}"] if sized else []
        if told := [*own[:MOST_LINES], *quoted[:MOST_LINES], *size]:
            yield say["only"].format(which=_called(number, len(seen), tongue), what=say["and"].join(told))


def _kinds(seen: Sequence[Analysis], tongue: Tongue) -> Iterator[list[list[str]]]:
    yield [_likely(one) for one in seen]
    yield [_lines(one) for one in seen]
    yield [_colours(one, tongue) for one in seen]
    yield [_look(one, tongue) for one in seen]


def _best(seen: Sequence[Analysis], tongue: Tongue) -> Iterator[str]:
    """What measures alone can recommend."""
    say = SAID[tongue]
    sharpness = [one.describe_pixels.sharpness if one.describe_pixels else 0.0 for one in seen]
    pixels = [float(one.image.width * one.image.height) for one in seen]
    for name, measures in (("sharpest", sharpness), ("largest", pixels)):
        most = max(measures)
        if measures.count(most) == 1:
            yield say[name].format(which=_called(measures.index(most) + 1, len(seen), tongue))
    yield say["judge"]


def _in_all(kinds: Sequence[Sequence[str]]) -> list[str]:
    """What stands in every one, in the order of the first."""
    return [what for what in dict.fromkeys(kinds[0]) if all(what in kind for kind in kinds[1:])]


def _likely(seen: Analysis) -> list[str]:
    named = seen.classify.labels if seen.classify else ()
    return [label.name for label in named if label.score >= SURE]


def _lines(seen: Analysis) -> list[str]:
    return [line.text for line in seen.read.lines] if seen.read else []


def _colours(seen: Analysis, tongue: Tongue) -> list[str]:
    return [name for name, share in _shares(seen, tongue).items() if share >= MUCH]


def _shares(seen: Analysis, tongue: Tongue) -> dict[str, float]:
    """How much of the picture each colour covers, those of one name together."""
    shares: dict[str, float] = {}
    for one in seen.describe_pixels.colours if seen.describe_pixels else ():
        name = COLOURS_ZH.get(one.name, one.name) if tongue == "zh" else one.name
        shares[name] = shares.get(name, 0.0) + one.share
    return dict(sorted(shares.items(), key=lambda one: -one[1]))


def _look(seen: Analysis, tongue: Tongue) -> list[str]:
    """Light, contrast and sharpness in words; nothing where they are not known."""
    say, look = SAID[tongue], seen.describe_pixels
    if look is None:
        return []
    light = "medium light" if look.light == "medium" else look.light
    return [say[light], say[look.depth], say["blurred" if look.blurred else "sharp"]]


def _names(seen: Analysis) -> list[str]:
    best, *others = seen.classify.labels if seen.classify else ()
    return [
        f"{label.name} ({label.score:.0%})" for label in (best, *others) if label is best or label.score >= WORTH_NAMING
    ]


def _face_places(seen: Faces, tongue: Tongue) -> list[str]:
    """Where each face is, from top left to bottom right: in which ninth of the picture its middle lies."""
    middles = [((one.box.left + one.box.right) / 2, (one.box.top + one.box.bottom) / 2) for one in seen.faces]
    ninths = sorted((_third(y, seen.image.height), _third(x, seen.image.width)) for x, y in middles)
    return [PLACES[tongue][3 * down + across] for down, across in ninths]


def _third(at: float, length: int) -> int:
    return min(2, max(0, int(3 * at / length)))


def _counted(names: Sequence[str]) -> list[str]:
    """Each name once, with how often it is there where that is more."""
    return [name if count == 1 else f"{name} ({count})" for name, count in Counter(names).items()]


def _quoted(seen: Analysis, tongue: Tongue) -> list[str]:
    say, lines = SAID[tongue], _lines(seen)
    quoted = [say["quote"].format(text=text) for text in lines[:MOST_LINES]]
    return [*quoted, *([say["more"].format(count=len(lines) - MOST_LINES)] if len(lines) > MOST_LINES else [])]


def _all_said(seen: Sequence[Analysis], tongue: Tongue) -> str:
    """All sentences about all pictures."""
    return "\n\n".join(
        _line(sentences(one, _called(number, len(seen), tongue), tongue), tongue)
        for number, one in enumerate(seen, start=1)
    )


def _called(number: int, count: int, tongue: Tongue) -> str:
    return SAID[tongue]["the"] if count == 1 else SAID[tongue]["one"].format(number=number)


def _line(told: Iterable[str], tongue: Tongue) -> str:
    return ("" if tongue == "zh" else " ").join(told)


def _pictures(said: Iterable[Message]) -> list[Picture]:
    return [part for message in said for part in message.parts if isinstance(part, Picture)]


def _words(message: Message) -> list[Words]:
    return [part for part in message.parts if isinstance(part, Words)]


def _wanted(schema: Mapping[str, Any]) -> list[str]:
    return list(_root(schema).get("properties", ()))


def _required(schema: Mapping[str, Any]) -> list[str]:
    return list(_root(schema).get("required", ()))


def _root(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of the whole value, where it stands among its `$defs`."""
    kind, _, name = str(schema.get("$ref", "")).removeprefix("#/").partition("/")
    found = schema.get(kind, {}).get(name, schema) if name else schema
    return found if isinstance(found, dict) else {}


def _key(name: str) -> str:
    plain = name.lower()
    return OTHER_SPELLINGS.get(plain, plain)
