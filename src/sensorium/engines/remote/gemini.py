"""Asks models over Google's Gemini API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from sensorium.engine import Call, Card, Host
from sensorium.errors import ContentFiltered
from sensorium.runtimes import provider
from sensorium.runtimes.http import Question
from sensorium.schemas.ask import Answer, AskRequest, Ending, Message, Words

REQUIRES = ("aiohttp",)

SETTINGS = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "stop": "stopSequences",
    "seed": "seed",
}

ENDINGS: dict[str, Ending] = {
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
}
"""Every other reason is that the model was done."""

RESOLUTIONS = {
    "low": "MEDIA_RESOLUTION_LOW",
    "high": "MEDIA_RESOLUTION_HIGH",
    "original": "MEDIA_RESOLUTION_ULTRA_HIGH",
}

GEMINI = {
    "base_url": "https://generativelanguage.googleapis.com/v1beta",
    "base_url_from": "GEMINI_BASE_URL",
    "key": "GEMINI_API_KEY",
}


def _known(name: str, **quirks: Any) -> Card:
    return Card(
        name=name,
        kind="gemini",
        tasks=("ask",),
        licence="LicenseRef-provider",
        origin="Google",
        aliases=(f"gemini/{name}",),
        quirks={**GEMINI, **quirks},
        remote=True,
    )


CARDS = (
    Card(
        name="gemini",
        kind="gemini",
        tasks=("ask",),
        licence="LicenseRef-provider",
        origin="Google, ai.google.dev",
        quirks={"any_model": True, **GEMINI},
        remote=True,
    ),
    _known("gemini-3-pro-preview", details=True),
    _known("gemini-2.5-pro"),
    _known("gemini-2.5-flash"),
    _known("gemini-2.5-flash-lite"),
)


class Quirks(provider.Connection):
    """What differs between models of this wire format."""

    details: bool = False
    """Whether each picture may say how closely it is to be looked at, which Gemini 3 began."""


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
        body = self._body(request, conversation, iter(pictures))
        headers = {**quirks.headers, **({"x-goog-api-key": secret} if secret else {})}
        question = Question(
            self._url(stream=provider.is_listened_to(call)), provider.pieces(body, pictures), headers, secret
        )
        return await provider.answer(self._client, self._card, question, _Reader(self._card.name), call)

    def _url(self, *, stream: bool) -> str:
        model = quote(self._quirks.model or self._card.name, safe="")
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"{self._quirks.base_url.rstrip('/')}/models/{model}:{method}"

    def _body(
        self, request: AskRequest, conversation: tuple[Message, ...], pictures: Iterator[provider.Shown]
    ) -> dict[str, Any]:
        quirks, system = self._quirks, provider.system_of(conversation)
        config = provider.chosen(request, SETTINGS, quirks.leave_out)
        if request.json_schema is not None and quirks.json_schema:
            config |= {"responseMimeType": "application/json", "responseJsonSchema": dict(request.json_schema)}
        contents = [
            {
                "role": "model" if said.role == "assistant" else "user",
                "parts": [self._part(part, pictures) for part in said.parts],
            }
            for said in conversation
            if said.role != "system"
        ]
        told = {"systemInstruction": {"parts": [{"text": system}]}} if system is not None else {}
        return {**told, "contents": contents, "generationConfig": config, **quirks.extra}

    def _part(self, part: Any, pictures: Iterator[provider.Shown]) -> dict[str, Any]:
        if isinstance(part, Words):
            return {"text": part.text}
        picture = next(pictures)
        level = RESOLUTIONS.get(picture.detail) if self._quirks.details else None
        closely = {"mediaResolution": {"level": level}} if level else {}
        if picture.url is not None:
            return {"fileData": {"fileUri": picture.url}, **closely}
        return {"inlineData": {"mimeType": picture.media_type, "data": provider.MARK}, **closely}


class _Reader(provider.Reader):
    def __init__(self, called: str) -> None:
        super().__init__()
        self._called = called

    def take(self, event: dict[str, Any]) -> str:
        self._account(event)
        self._refuse_blocked(event)
        candidates = event.get("candidates") or ()
        return self._words(candidates[0]) if candidates else ""

    def read(self, whole: dict[str, Any]) -> str:
        return self.take(whole)

    def _words(self, candidate: dict[str, Any]) -> str:
        reason = candidate.get("finishReason")
        if reason:
            self.ending = ENDINGS.get(reason, "stop")
        parts = (candidate.get("content") or {}).get("parts") or ()
        return "".join(part["text"] for part in parts if "text" in part and not part.get("thought"))

    def _refuse_blocked(self, event: dict[str, Any]) -> None:
        """A filter that refuses the question says so in place of an answer."""
        reason = (event.get("promptFeedback") or {}).get("blockReason")
        if reason:
            why = f"the provider's filter said {str(reason)[:40]}"
            raise ContentFiltered(f"{self._called} may not answer this", why=why)

    def _account(self, told: dict[str, Any]) -> None:
        if isinstance(told.get("modelVersion"), str):
            self.answered_by = told["modelVersion"]
        account = told.get("usageMetadata")
        if not account:
            return
        details = account.get("promptTokensDetails") or ()
        images = sum(provider.count(detail, "tokenCount") for detail in details if detail.get("modality") == "IMAGE")
        self.usage = provider.usage(
            input_tokens=provider.count(account, "promptTokenCount"),
            output_tokens=provider.count(account, "candidatesTokenCount", "thoughtsTokenCount"),
            image_tokens=images or None,
            cached_tokens=provider.count(account, "cachedContentTokenCount"),
        )
