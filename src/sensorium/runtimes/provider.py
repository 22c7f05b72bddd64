"""What the engines of all providers share: where they are and with which key, pictures on their way, answers read.

A card's quirks name the environment variable that holds the key, never the key.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_core import to_json

from sensorium.engine import Call, Card, Delta, ignore
from sensorium.errors import MissingKey, SensoriumError, StreamBroken
from sensorium.media.identify import picture_kind
from sensorium.media.pool import in_thread
from sensorium.runtimes import refusals
from sensorium.runtimes.http import DONE, Client, Patience, Question, is_loopback
from sensorium.schemas.ask import Answer, AskRequest, Detail, Ending, Message, Picture, Words
from sensorium.schemas.base import Frozen, Usage

LONGEST_TEXT = 4_000_000
"""Characters of an answer; the longest that any model gives has a tenth of that."""

MOST_TOKENS = 10**9
"""Of any kind in one answer; a larger number is nonsense, and too much of it would spoil all sums."""

LAST_WORDS_SECONDS = 5.0
"""How long a stream may go on silently after the model has said why it stopped: only the account of it is missing."""

AT_ONCE = 1 << 16
"""Bytes of a picture from which on it is encoded in a thread; fewer take less time than to hand them over."""

Q = TypeVar("Q", bound="Connection")


class Connection(Frozen):
    """Quirks of every remote kind."""

    base_url: str = Field(pattern="^https?://")
    """Where the provider's API begins."""
    base_url_from: str | None = None
    """An environment variable that goes before `base_url`, where it is set."""
    key: str | None = None
    """The NAME of the environment variable that holds the key; absent: none is needed."""
    key_optional: bool = False
    """Whether it can be asked without a key."""
    model: str | None = None
    """What the provider calls the model. Absent: the card's name."""
    any_model: bool = False
    """Whether the card is a provider's: `name/MODEL` is then any model of it."""
    headers: Mapping[str, str] = {}
    """Further headers of every request."""
    extra: Mapping[str, Any] = {}
    """Further fields of every request's body."""
    leave_out: tuple[str, ...] = ()
    """Fields that this model does not take: `temperature`, `top_p`, `stop`, `seed`."""
    takes_urls: bool = False
    """Whether the provider fetches pictures by their URL. Not for servers nearby: they may reach what callers must not."""
    json_schema: bool = True
    """Whether it can be held to a JSON schema."""
    connect_seconds: float = Field(default=10.0, gt=0)
    first_seconds: float = Field(default=60.0, gt=0)
    """How long it may take to begin its answer."""
    stall_seconds: float = Field(default=30.0, gt=0)
    """How long it may be silent within its answer."""

    @property
    def patience(self) -> Patience:
        return Patience(self.connect_seconds, self.first_seconds, self.stall_seconds)

    def secret(self, card: Card) -> str | None:
        """The key. Raises MissingKey, naming the variable."""
        value = os.environ.get(self.key, "").strip() if self.key else ""
        if not value and self.key and not self.key_optional:
            raise MissingKey(
                f"{card.name} cannot be asked",
                why=f"the environment variable {self.key} is not set",
                fix=f"Set {self.key} to the provider's key",
            )
        return value or None


def settled(card: Card, kind: type[Connection]) -> Card:
    """The card as it holds in this environment: with the address that a variable names, and with what that means.

    Pixels leave the house, `remote`, wherever the address is not this machine's own; a card that says otherwise is right.
    Raises InvalidModel.
    """
    quirks = card.quirks_as(kind)
    named = os.environ.get(quirks.base_url_from, "").strip() if quirks.base_url_from else ""
    address = (named if "://" in named else f"http://{named}" if named else quirks.base_url).rstrip("/")
    remote = card.remote if "remote" in card.model_fields_set else not is_loopback(urlsplit(address).hostname or "")
    told = {"base_url": address, "json_schema": quirks.json_schema}
    return card.altered(quirks={**card.quirks, **told}, remote=remote)


def lacking(card: Card, kind: type[Connection]) -> str:
    """What is missing before the model can be asked, in words; empty when nothing is."""
    quirks = card.quirks_as(kind)
    wanted = quirks.key if quirks.key and not quirks.key_optional and not os.environ.get(quirks.key) else None
    return f"missing {wanted}: set this environment variable to the provider's key" if wanted else ""


def model_of(card: Card, name: str) -> Card:
    """The card of a provider's model, made from the provider's. Raises ValidationError for what is no such name."""
    quirks = {**card.quirks, "model": name, "any_model": False}
    fields = {field: getattr(card, field) for field in card.model_fields_set - {"aliases", "folder"}}
    return Card(**{**fields, "name": f"{card.name}/{name}", "quirks": quirks, "remote": card.remote})


class Engine(Generic[Q]):
    """What the engines of all wire formats begin with."""

    def __init__(self, card: Card, quirks: Q) -> None:
        self._card, self._quirks = card, quirks
        self._client = Client(card.name, quirks.patience)

    def load(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        self._client.close()


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture as it goes out: by its address, or as base64."""

    url: str | None
    media_type: str
    data: bytes
    detail: Detail

    def data_url(self, mark: str) -> str:
        return f"data:{self.media_type};base64,{mark}"


async def shown(conversation: Iterable[Message], *, by_url: bool) -> list[Shown]:
    """The conversation's pictures, in order, encoded off the event loop.

    Raises as `Source.read`, and UnidentifiedMedia or UnsupportedMedia for what is no picture.
    """
    return [await _shown(part, by_url) for said in conversation for part in said.parts if isinstance(part, Picture)]


async def _shown(picture: Picture, by_url: bool) -> Shown:
    source = picture.image
    if by_url and source.url is not None:
        return Shown(source.url, "", b"", picture.detail)
    data = await source.read()
    kind = picture_kind(data, source.name)
    encoded = _base64(data) if len(data) < AT_ONCE else await in_thread(_base64, data)
    return Shown(None, kind.mime, encoded, picture.detail)


def _base64(data: bytes) -> bytes:
    import pybase64

    return pybase64.b64encode(data)


MARK = f"~{secrets.token_hex(16)}~"
"""Where a picture's base64 comes to stand in a body; no text can hold it but by guessing."""


def pieces(body: Mapping[str, Any], pictures: Iterable[Shown]) -> tuple[bytes, ...]:
    """The body as JSON in pieces: each MARK in it gives way to a picture's base64, which is not copied for that."""
    first, *rest = to_json(body).split(MARK.encode())
    made = [first]
    for picture, following in zip([one for one in pictures if one.url is None], rest, strict=True):
        made += [picture.data, following]
    return tuple(made)


def system_of(conversation: Iterable[Message]) -> str | None:
    """What the model is told of how to behave, for formats that keep it apart."""
    said = [words_of(message) for message in conversation if message.role == "system"]
    return "\n\n".join(said) if said else None


def words_of(message: Message) -> str:
    return "\n".join([part.text for part in message.parts if isinstance(part, Words)])


def chosen(request: AskRequest, names: Mapping[str, str], leave_out: Collection[str]) -> dict[str, Any]:
    """Those of a request's settings that were given, by the provider's names, without those that the model does not take."""
    given = {}
    for name, theirs in names.items():
        value = getattr(request, name)
        if value is not None and value != () and name not in leave_out:
            given[theirs] = value
    return given


class Reader(ABC):
    """Understands one answer, told in pieces or as a whole.

    Its methods may raise one of `MALFORMED` for what is not in the provider's format.
    """

    def __init__(self) -> None:
        self.text: list[str] = []
        self.length = 0
        self.ending: Ending | None = None
        """Why the model stopped; None until it has said so."""
        self.answered_by = ""
        self.usage: Usage | None = None

    @abstractmethod
    def take(self, event: dict[str, Any]) -> str:
        """The words that an event of a stream adds."""

    @abstractmethod
    def read(self, whole: dict[str, Any]) -> str:
        """The words of an answer that is no stream."""


UNSTAMPED, NOTHING = Answer(text=""), Usage()

MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError)


async def answer(client: Client, card: Card, question: Question, reader: Reader, call: Call) -> Answer:
    """The provider's answer, said as it comes where somebody listens. The question asks for a stream just then."""
    if not is_listened_to(call):
        whole = await client.ask(question, call)
        reader.text.append(_understood(card, question, reader, whole, reader.read))
    else:
        await _listen(client, card, question, reader, call)
    if reader.ending is None:
        raise StreamBroken(f"{card.name}'s answer broke", why="it ended before the model said that it was done")
    meta = UNSTAMPED.meta if reader.usage is None else UNSTAMPED.meta.altered(usage=reader.usage)
    text, by = "".join(reader.text), _name(reader.answered_by, question.secret)
    return UNSTAMPED.altered(text=text, ending=reader.ending, answered_by=by, meta=meta)


def _name(told: str, secret: str | None) -> str:
    """What the provider says that it answered with."""
    return refusals.printable(told.replace(secret, "***") if secret else told)[:200].strip()


async def _listen(client: Client, card: Card, question: Question, reader: Reader, call: Call) -> None:
    """Until the end mark; where the model has said why it stopped, whatever happens to the rest."""
    try:
        async with asyncio.timeout(None) as patience, aclosing(client.listen(question, call)) as reads:
            async for events in reads:
                for event in events:
                    if event is DONE:
                        reader.ending = reader.ending or "stop"
                        return
                    if words := _understood(card, question, reader, event, reader.take):
                        await _say(words, card, reader, call)
                if reader.ending is not None and patience.when() is None:
                    patience.reschedule(asyncio.get_running_loop().time() + LAST_WORDS_SECONDS)
    except TimeoutError:
        if not patience.expired():
            raise
    except StreamBroken:
        if reader.ending is None:
            raise


async def _say(words: str, card: Card, reader: Reader, call: Call) -> None:
    reader.text.append(words)
    reader.length += len(words)
    if reader.length > LONGEST_TEXT:
        raise StreamBroken(f"{card.name}'s answer broke", why=f"it has over {LONGEST_TEXT:,} characters")
    await call.emit(Delta(words))


def _understood(
    card: Card, question: Question, reader: Reader, event: Any, understand: Callable[[dict[str, Any]], str]
) -> str:
    """The words in an event or in a whole answer. Raises the error that it tells, and StreamBroken for what is neither."""
    try:
        if event.get("error"):
            raise _told(card, question, reader, event)
        return understand(event)
    except MALFORMED as error:
        raise StreamBroken(f"{card.name}'s answer broke", why="it is not in the provider's format") from error


def _told(card: Card, question: Question, reader: Reader, event: dict[str, Any]) -> SensoriumError:
    error = refusals.error_of(card.name, refusals.Told.within(event), question.secret)
    return StreamBroken(f"{card.name}'s answer broke", why=error.why) if reader.length else error


def is_listened_to(call: Call) -> bool:
    """Whether somebody wants words as they come, and so a stream."""
    return call.listener is not ignore


def closed(schema: Any) -> Any:
    """A schema whose objects take no fields but those that they name, where it does not say: all that some modes know."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(part) for name, part in schema.items()}
    return {**made, "additionalProperties": False} if made.get("type") == "object" else made


def count(account: Mapping[str, Any], *names: str) -> int:
    """The sum of these numbers of an account, of which any may be missing; at most `MOST_TOKENS`."""
    total = 0
    for name in names:
        value = account.get(name)
        if isinstance(value, int) and value > 0:
            total += value
    return min(MOST_TOKENS, total)


def usage(*, input_tokens: int, output_tokens: int, cached_tokens: int, image_tokens: int | None = None) -> Usage:
    """What an answer took, of numbers that `count` gave and that need no checking."""
    return NOTHING.altered(
        input_tokens=input_tokens, output_tokens=output_tokens, cached_tokens=cached_tokens, image_tokens=image_tokens
    )
