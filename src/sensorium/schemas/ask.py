"""Questions to a vision-language model: words and pictures in, words out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from sensorium import pricing
from sensorium.media.source import Source
from sensorium.schemas.base import Frozen, Request, Result

Detail = pricing.Detail
"""How closely a model looks at a picture, and so what the picture costs; what each means, the model says."""
Role = Literal["system", "user", "assistant"]
Ending = Literal["stop", "length", "content_filter"]

TOLD = ("image", "images", "prompt", "system", "messages", "detail")
"""The fields of a question that `conversation` tells."""

MOST_PICTURES = 100
"""In one question."""
LONGEST_ANSWER = 10_000_000
"""Tokens that may be asked for: beyond any model, and small enough for every sum in which budgets and limits are kept."""

MIN_TILE, MAX_TILE = 128, 4096
"""Pixels of a part's side: less shows nothing whole, more than that no model looks at."""


class Words(Frozen):
    """A part of a message that is text."""

    text: str


class Picture(Frozen):
    """A part of a message that is a picture."""

    image: Source
    """The picture: over HTTP an http(s) URL or a data URL; in Python also a path, bytes or an open file."""
    detail: Detail = "auto"


class Message(Frozen):
    """What one side said, in the order in which it is to be read."""

    role: Role
    parts: tuple[Words | Picture, ...] = Field(min_length=1)


class Answer(Result):
    """What the model said. `meta.usage` tells what it took."""

    text: str
    data: Any = None
    """With `json_schema`: the answer as a value that the schema allows."""
    ending: Ending = "stop"
    """Why the model stopped: it was done, `max_tokens` was reached, or the provider's filter cut it off."""
    answered_by: str = Field(default="", examples=["gpt-4o-2024-08-06"])
    """What the provider calls the model that answered."""

    @property
    def whole(self) -> bool:
        return self.ending == "stop"

    @property
    def words(self) -> str:
        return self.text


class AskRequest(Request):
    """Ask a vision-language model about pictures, or about words alone."""

    task: ClassVar[str] = "ask"
    answer: ClassVar[type[Result]] = Answer
    positional: ClassVar[tuple[str, ...]] = ("prompt",)

    image: Source | None = None
    """The picture: over HTTP an http(s) URL or a data URL; in Python also a path, bytes or an open file. Absent: words alone."""
    images: tuple[Source, ...] = Field(default=(), max_length=MOST_PICTURES)
    """Further pictures of the same question, after the first."""
    prompt: str = Field(default="", max_length=1_000_000, examples=["How much is this?"])
    """The question. Pictures are shown before it."""
    system: str | None = None
    """How the model should behave."""
    messages: tuple[Message, ...] = ()
    """What was said before the question, oldest first; or, without `prompt`, the whole conversation."""
    detail: Detail = "auto"
    """How closely the model looks at `image` and `images`."""
    tile: int | None = Field(default=None, ge=MIN_TILE, le=MAX_TILE, examples=[512])
    """For a large `image` with small things in it: the model is asked about each part of so many pixels a side, and its
    answers become one. Takes as many questions as there are parts, and one more. Absent: the picture is shown whole."""
    max_tokens: int = Field(default=1024, ge=1, le=LONGEST_ANSWER)
    """The longest answer, in the model's tokens."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """How freely it chooses words. Absent: as the provider sets it; so are `top_p`, `stop` and `seed`."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """It chooses among the likeliest words that together have this share."""
    stop: tuple[str, ...] = Field(default=(), max_length=16)
    """Words at which the answer ends, without them."""
    seed: int | None = None
    """Equal questions of one seed get equal answers, as far as the provider can."""
    json_schema: Mapping[str, Any] | None = None
    """A JSON schema that the answer must keep; it is then a value in `data`."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.prompt and not self.messages:
            raise ValueError("`prompt` is empty")
        if not self.prompt and (self.image or self.images):
            raise ValueError("`prompt` is empty: say what to look for")
        if self.tile is not None and (self.image is None or self.images):
            raise ValueError("`tile` is for one picture, in `image`")
        return self

    def essence(self) -> dict[str, Any]:
        """The conversation that engines read, in whichever fields it came; white space around words says nothing."""
        fields = {name: value for name, value in super().essence().items() if name not in TOLD}
        return {**fields, "conversation": tuple(map(_trimmed, self.conversation()))}

    def sources(self) -> Iterator[Source]:
        if self.image is not None:
            yield self.image
        yield from self.images
        for message in self.messages:
            for part in message.parts:
                if isinstance(part, Picture):
                    yield part.image

    def pictures(self) -> tuple[Picture, ...]:
        """Every picture with how closely it is looked at, in the order of `sources`."""
        shown = (*((self.image,) if self.image else ()), *self.images)
        said = [part for message in self.messages for part in message.parts if isinstance(part, Picture)]
        return (*[Picture(image=one, detail=self.detail) for one in shown], *said)

    def showing(self, pictures: Sequence[Source]) -> Self:
        """The same question about other pictures: as many, in the order of `sources`."""
        coming = iter(pictures)
        image = None if self.image is None else next(coming)
        images = tuple(next(coming) for _ in self.images)
        messages = tuple(_showing(message, coming) for message in self.messages)
        return self.altered(image=image, images=images, messages=messages)

    def patience(self) -> float:
        return 2.0 if len([*self.sources()]) > 1 else 1.0

    def conversation(self) -> tuple[Message, ...]:
        """All that the model is told, in order: the one form that engines read."""
        if self.system is None and not self.prompt:
            return self.messages
        said = list(self.messages)
        if self.system is not None:
            said.insert(0, Message(role="system", parts=(Words(text=self.system),)))
        if self.prompt:
            shown = [
                Picture(image=one, detail=self.detail) for one in (*((self.image,) if self.image else ()), *self.images)
            ]
            said.append(Message(role="user", parts=(*shown, Words(text=self.prompt))))
        return tuple(said)


def _trimmed(message: Message) -> Message:
    parts = [part.altered(text=part.text.strip()) if isinstance(part, Words) else part for part in message.parts]
    return message.altered(parts=tuple(parts))


def _showing(message: Message, coming: Iterator[Source]) -> Message:
    parts = (part.altered(image=next(coming)) if isinstance(part, Picture) else part for part in message.parts)
    return message.altered(parts=tuple(parts))
