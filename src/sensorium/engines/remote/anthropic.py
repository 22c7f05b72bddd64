"""Asks models over Anthropic's messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sensorium.engine import Call, Card, Host
from sensorium.runtimes import provider
from sensorium.runtimes.http import Question
from sensorium.schemas.ask import Answer, AskRequest, Ending, Message, Words

REQUIRES = ("aiohttp",)

SETTINGS = {"temperature": "temperature", "top_p": "top_p", "stop": "stop_sequences"}

ENDINGS: dict[str, Ending] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
"""Every other reason is that the model was done."""

ANTHROPIC = {
    "base_url": "https://api.anthropic.com",
    "base_url_from": "ANTHROPIC_BASE_URL",
    "key": "ANTHROPIC_API_KEY",
    "takes_urls": True,
}

PICTURES = {"longest_side": 8000, "longest_side_of_many": 2000, "max_bytes": 7_500_000}
"""What is taken; ten million bytes of base64 are seven and a half of a picture."""


def _known(name: str) -> Card:
    return Card(
        name=name,
        kind="anthropic",
        tasks=("ask",),
        licence="LicenseRef-provider",
        origin="Anthropic",
        aliases=(f"anthropic/{name}",),
        input=PICTURES,
        quirks={**ANTHROPIC, "json_schema": True},
        remote=True,
    )


CARDS = (
    Card(
        name="anthropic",
        kind="anthropic",
        tasks=("ask",),
        licence="LicenseRef-provider",
        origin="Anthropic, platform.claude.com",
        input=PICTURES,
        quirks={"any_model": True, **ANTHROPIC},
        remote=True,
    ),
    *map(_known, ("claude-opus-4-8", "claude-sonnet-5", "claude-haiku-4-5")),
)


class Quirks(provider.Connection):
    """What differs between servers of this wire format."""

    version: str = "2023-06-01"
    """Of the wire format: the header `anthropic-version`."""
    json_schema: bool = False
    """Whether the model can be held to a JSON schema; older ones cannot."""


def settled(card: Card) -> Card:
    """The card as it holds in this environment."""
    return provider.settled(card, Quirks)


def lacking(card: Card) -> str:
    """What is missing before the model can be asked."""
    return provider.lacking(card, Quirks)


class Engine(provider.Engine[Quirks]):
    """One model at one provider."""

    def __init__(self, card: Card, host: Host) -> None:  # noqa: ARG002 - every kind is made alike
        super().__init__(card, card.quirks_as(Quirks))

    async def run(self, request: AskRequest, call: Call) -> Answer:
        quirks, secret = self._quirks, self._quirks.secret(self._card)
        conversation = request.conversation()
        pictures = await provider.shown(conversation, by_url=quirks.takes_urls)
        body = self._body(request, conversation, iter(pictures), stream=provider.is_listened_to(call))
        headers = {"anthropic-version": quirks.version, **quirks.headers, **({"x-api-key": secret} if secret else {})}
        question = Question(
            f"{quirks.base_url.rstrip('/')}/v1/messages", provider.pieces(body, pictures), headers, secret
        )
        return await provider.answer(self._client, self._card, question, _Reader(), call)

    def _body(
        self,
        request: AskRequest,
        conversation: tuple[Message, ...],
        pictures: Iterator[provider.Shown],
        *,
        stream: bool,
    ) -> dict[str, Any]:
        quirks, system = self._quirks, provider.system_of(conversation)
        body: dict[str, Any] = {
            "model": quirks.model or self._card.name,
            "max_tokens": request.max_tokens,
            "messages": [
                {"role": said.role, "content": [_part(part, pictures) for part in said.parts]}
                for said in conversation
                if said.role != "system"
            ],
        }
        if system is not None:
            body["system"] = system
        body |= provider.chosen(request, SETTINGS, quirks.leave_out)
        if "temperature" in body:
            body["temperature"] = min(body["temperature"], 1.0)  # their scale ends there
        if request.json_schema is not None and quirks.json_schema:
            body["output_config"] = {
                "format": {"type": "json_schema", "schema": provider.closed(dict(request.json_schema))}
            }
        return {**body, **({"stream": True} if stream else {}), **quirks.extra}


def _part(part: Any, pictures: Iterator[provider.Shown]) -> dict[str, Any]:
    if isinstance(part, Words):
        return {"type": "text", "text": part.text}
    picture = next(pictures)
    if picture.url is not None:
        return {"type": "image", "source": {"type": "url", "url": picture.url}}
    return {"type": "image", "source": {"type": "base64", "media_type": picture.media_type, "data": provider.MARK}}


class _Reader(provider.Reader):
    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, Any] = {}

    def take(self, event: dict[str, Any]) -> str:
        match event["type"]:
            case "message_start":
                self._account(event["message"])
            case "message_delta":
                self._account(event)
                self._stopped(event["delta"].get("stop_reason"))
            case "content_block_start" if event["content_block"].get("type") == "text":
                return str(event["content_block"].get("text") or "")
            case "content_block_delta" if event["delta"].get("type") == "text_delta":
                return _text(event["delta"]["text"])
        return ""  # pings, thinking, and what will be added later

    def read(self, whole: dict[str, Any]) -> str:
        self._account(whole)
        self._stopped(whole["stop_reason"])
        return "".join(_text(block["text"]) for block in whole["content"] if block.get("type") == "text")

    def _stopped(self, reason: str | None) -> None:
        if reason:
            self.ending = ENDINGS.get(reason, "stop")

    def _account(self, told: dict[str, Any]) -> None:
        """Later numbers of a stream take the place of earlier ones."""
        if isinstance(told.get("model"), str):
            self.answered_by = told["model"]
        if not told.get("usage"):
            return
        counts = self._counts = {**self._counts, **told["usage"]}
        self.usage = provider.usage(
            input_tokens=provider.count(
                counts, "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"
            ),
            output_tokens=provider.count(counts, "output_tokens"),
            cached_tokens=provider.count(counts, "cache_read_input_tokens"),
        )


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(type(text).__name__)
    return text
