"""Answers questions about pictures by a vision-language model in this process, through the library transformers.

A model is a folder as Hugging Face's libraries write it, of any architecture that transformers knows by itself for words
and pictures: Qwen2.5-VL, Qwen3-VL, LLaVA and others. It works on one question at a time; others wait in line.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from sensorium.engine import Call, Card, Delta, Host, Weights, ignore
from sensorium.errors import InvalidModel, SensoriumError
from sensorium.media.encode import scaled
from sensorium.media.image import Image
from sensorium.runtimes import weights
from sensorium.runtimes.model_files import WHOLE
from sensorium.runtimes.turns import Turn, Turns
from sensorium.runtimes.vision_language import Conversation, Said, Speaker, Wishes
from sensorium.schemas.ask import Answer, AskRequest, Detail, Picture, Words
from sensorium.schemas.base import Frozen, Usage, wrong_fields

if TYPE_CHECKING:
    from PIL.Image import Image as Shown

T = TypeVar("T", bound=Frozen)

REQUIRES = ("torch", "transformers", "PIL")


def _qwen(name: str, *aliases: str) -> Card:
    return Card(
        name=name.lower(),
        kind="transformers",
        tasks=("ask",),
        licence="Apache-2.0",
        origin=f"Alibaba Cloud, Qwen/{name}",
        aliases=aliases,
        weights=Weights(file=WHOLE),
        install=f"sensorium models add {name.lower()} {name}/",
    )


CARDS = (
    _qwen("Qwen3-VL-2B-Instruct", "qwen3-vl-2b"),
    _qwen("Qwen3-VL-4B-Instruct", "qwen3-vl-4b"),
    _qwen("Qwen3-VL-8B-Instruct", "qwen3-vl-8b"),
    _qwen("Qwen2.5-VL-7B-Instruct", "qwen2.5-vl-7b"),
)
"""Models whose licence and origin are known; their folders are brought by whoever uses them."""

TIMES: dict[Detail, float] = {"low": 0.25, "auto": 1.0, "high": 4.0, "original": 16.0}
"""Of `pixels`, how many a picture is shown with, by how closely it is to be looked at."""
MOST_PIXELS = 1 << 25
"""Of all pictures of a question together; more are shown smaller. While it is made ready, a pixel takes 50 bytes."""


class Input(Frozen):
    """How pictures are shown: the `input` of a card. The model's own limits hold as well."""

    pixels: int = Field(default=1 << 20, ge=1024)
    """Pixels of a picture at most, where `detail` does not ask for more or less."""


class Quirks(Frozen):
    """What is odd about a model: the `quirks` of a card."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The numbers that it computes in. `auto`: bfloat16 on a graphics card, float32 on the processor."""
    context: int | None = Field(default=None, ge=16)
    """Tokens of question and answer together, where the model's own configuration allows more than the memory does."""
    json_schema: Literal[False] = False
    """It takes no schemas; what it answers is read, checked and asked for again."""


def settled(card: Card) -> Card:
    """The card with all of its quirks. Raises InvalidModel."""
    quirks = _read(card, Quirks, card.quirks)
    _read(card, Input, card.input)
    return card.altered(quirks=quirks.model_dump(exclude_none=True))


class Engine:
    """One model of this machine."""

    def __init__(self, card: Card, host: Host) -> None:
        self._card, self._host = card, host
        self._input = _read(card, Input, card.input)
        self._quirks = _read(card, Quirks, card.quirks)
        self._speaker: Speaker | None = None
        self._turns: Turns | None = None

    def load(self) -> None:
        """Read the model, and have it say one word about a grey picture, so that one that cannot is found out now."""
        file = weights.locate(self._card)
        if self._card.weights is not None and self._card.weights.sha256 is not None:
            weights.verified(file, self._card)
        self._speaker = Speaker(
            file.parent,
            self._card.id,
            device=self._host.device,
            dtype=self._quirks.dtype,
            context=self._quirks.context,
            threads=self._host.threads,
        )
        self._try_out(self._speaker)
        self._turns = Turns(self._card.id, self._host.queue)

    def close(self) -> None:
        if self._turns is not None:
            self._turns.close()
        if self._speaker is not None:
            self._speaker.close()
        self._turns = self._speaker = None

    async def run(self, request: AskRequest, call: Call) -> Answer:
        """The answer, told as it comes. Whoever leaves has it end within one layer of the model."""
        speaker, turns = self._speaker, self._turns
        assert speaker is not None  # noqa: S101 - it is loaded before it is asked
        assert turns is not None  # noqa: S101
        asked = await self._shown(request)
        wishes = Wishes(request.max_tokens, request.temperature, request.top_p, request.stop, request.seed)
        words: asyncio.Queue[str | None] = asyncio.Queue()

        def work(turn: Turn) -> Said:
            say = functools.partial(turn.tell, words.put_nowait) if call.listener is not ignore else _nobody
            return speaker.answer(asked, wishes, say, turn.check)

        speaking = turns.take(work)
        speaking.add_done_callback(lambda _: words.put_nowait(None))
        try:
            while (piece := await words.get()) is not None:
                await call.emit(Delta(piece))
            said: Said = await speaking
        finally:
            if not speaking.cancel():
                speaking.exception()  # where emitting failed, nobody else looks at it
        answer = Answer(text=said.text, ending="length" if said.cut else "stop", answered_by=self._card.id)
        return answer.stamped(usage=_usage(said), skipped=speaker.skipped)

    def _try_out(self, speaker: Speaker) -> None:
        from PIL import Image as Pillow

        picture = Pillow.new("RGB", (64, 64), "grey")
        try:
            speaker.answer([("user", (picture, "What is this?"))], Wishes(max_tokens=1), _nobody)
        except Exception as error:
            why = str(error).rstrip(".") or type(error).__name__
            raise InvalidModel(f"Model {self._card.id} cannot say a word", why=why) from error

    async def _shown(self, request: AskRequest) -> Conversation:
        """The conversation with its pictures decoded, one after the other; how many at once, the pool says."""
        conversation = request.conversation()
        pictures = [part for said in conversation for part in said.parts if isinstance(part, Picture)]
        allowed = [self._pixels(picture, len(pictures)) for picture in pictures]
        shown = iter(await _all_decoded(pictures, allowed))
        return [(said.role, [_part(part, shown) for part in said.parts]) for said in conversation]

    def _pixels(self, picture: Picture, many: int) -> int:
        return min(round(self._input.pixels * TIMES[picture.detail]), MOST_PIXELS // many)


async def _all_decoded(pictures: Sequence[Picture], allowed: Sequence[int]) -> list[Shown]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_decoded(number, pictures, pixels)) for number, pixels in enumerate(allowed)]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed.exceptions[0].__cause__
    return [task.result() for task in tasks]


async def _decoded(number: int, pictures: Sequence[Picture], pixels: int) -> Shown:
    made = functools.partial(_as_pillow, pixels=pixels)
    try:
        return await pictures[number].image.image(at_least=math.isqrt(pixels) + 1, then=made)
    except SensoriumError as error:
        if len(pictures) == 1:
            raise
        raise error.about(f"Picture {number + 1} of {len(pictures)}") from error


def _as_pillow(image: Image, pixels: int) -> Shown:
    """Runs in a pool thread, right after decoding. A copy: what was decoded is not held."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(image.pixels)
    size = scaled(*picture.size, math.sqrt(pixels / math.prod(picture.size)))
    return picture.copy() if size == picture.size else picture.resize(size, Pillow.Resampling.LANCZOS)


def _part(part: Words | Picture, shown: Any) -> str | Shown:
    return part.text if isinstance(part, Words) else next(shown)


def _usage(said: Said) -> Usage:
    return Usage(input_tokens=said.input_tokens, output_tokens=said.output_tokens, image_tokens=said.image_tokens)


def _nobody(_: str) -> None:
    """Nobody listens."""


def _read(card: Card, kind: type[T], told: Mapping[str, Any]) -> T:
    try:
        return kind.model_validate(dict(told))
    except ValidationError as error:
        part = kind.__name__.lower()
        raise InvalidModel(
            f"The card of model {card.id} has a wrong `{part}`", why=wrong_fields(error, kind)
        ) from error
