"""Asks models over OpenAI's chat completions, which most providers and most servers for one's own models speak.

What differs between them stands on the cards below, under `quirks`.
"""

from __future__ import annotations

from typing import Any

from sensorium.engine import Call, Card, Host
from sensorium.runtimes import provider
from sensorium.runtimes.http import Question
from sensorium.schemas.ask import Answer, AskRequest, Ending, Message, Words

REQUIRES = ("aiohttp",)

SETTINGS = {"temperature": "temperature", "top_p": "top_p", "stop": "stop", "seed": "seed"}

ENDINGS: dict[str, Ending] = {"length": "length", "max_tokens": "length", "content_filter": "content_filter"}
"""Every other reason is that the model was done."""

BROKEN = frozenset({"error", "insufficient_system_resource", "abort"})
"""Reasons that servers give for stopping in the middle."""


def _server(name: str, origin: str, port: int, **quirks: Any) -> Card:
    """A server for one's own models, by default on this machine; whether it is remote, its address says."""
    made = {
        "any_model": True,
        "base_url": f"http://localhost:{port}/v1",
        "base_url_from": f"{name.upper()}_BASE_URL",
        "key": f"{name.upper()}_API_KEY",
        "key_optional": True,
    }
    return Card(
        name=name,
        kind="openai",
        tasks=("ask",),
        licence="LicenseRef-provider",
        origin=origin,
        quirks={**made, **quirks},
    )


OPENAI: dict[str, Any] = {
    "base_url": "https://api.openai.com/v1",
    "base_url_from": "OPENAI_BASE_URL",
    "key": "OPENAI_API_KEY",
    "max_tokens_field": "max_completion_tokens",
    "details": ("auto", "low", "high", "original"),
    "takes_urls": True,
}
DASHSCOPE: dict[str, Any] = {
    "base_url": "https://dashscope.aliyuncs.com/compatible-mode/v1",
    "base_url_from": "DASHSCOPE_BASE_URL",
    "key": "DASHSCOPE_API_KEY",
    "details": (),
    "takes_urls": True,
    "json_schema": False,
}


def _elsewhere(name: str, origin: str, quirks: dict[str, Any], *aliases: str) -> Card:
    """A model or provider that is remote, also where a gateway on this machine passes on what it is asked."""
    return Card(
        name=name,
        kind="openai",
        tasks=("ask",),
        licence="LicenseRef-provider",
        origin=origin,
        aliases=aliases,
        quirks=quirks,
        remote=True,
    )


CARDS = (
    _elsewhere("openai", "OpenAI, platform.openai.com", {"any_model": True, **OPENAI}),
    _elsewhere(
        "dashscope", "Alibaba Cloud Model Studio (Qwen-VL), dashscope.aliyuncs.com", {"any_model": True, **DASHSCOPE}
    ),
    _server("vllm", "vLLM, docs.vllm.ai", 8000),
    _server("sglang", "SGLang, docs.sglang.ai", 30000),
    _server("lmdeploy", "LMDeploy (InternVL and others), lmdeploy.readthedocs.io", 23333),
    _server("ollama", "Ollama (LLaVA and others), docs.ollama.com", 11434, details=()),
    _server("llava", "A server of LLaVA, or any other of this wire format", 8000),
    *(
        _elsewhere(name, "OpenAI", {**OPENAI, "leave_out": ("temperature", "top_p", "stop")}, f"openai/{name}")
        for name in ("gpt-5.5", "gpt-5.4", "gpt-5.4-mini", "gpt-5.4-nano")
    ),
    *(
        _elsewhere(name, "OpenAI", {**OPENAI, "details": ("auto", "low", "high")}, f"openai/{name}")
        for name in ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini")
    ),
    *(
        _elsewhere(name, "Alibaba Cloud", DASHSCOPE, f"dashscope/{name}")
        for name in ("qwen3-vl-plus", "qwen3-vl-flash", "qwen-vl-max", "qwen-vl-plus")
    ),
)


class Quirks(provider.Connection):
    """What differs between servers of this wire format."""

    max_tokens_field: str = "max_tokens"
    """What they call the longest answer."""
    details: tuple[str, ...] = ("auto", "low", "high")
    """The ways to look at a picture that can be asked for; others are left to the server."""
    usage_in_stream: bool = True
    """Whether streams tell what they took when `stream_options` asks for it."""
    strict_schemas: bool = True
    """Whether schemas may be marked as strict, where they allow it."""


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
        body = self._body(request, self._messages(conversation, pictures), stream=provider.is_listened_to(call))
        headers = {**quirks.headers, **({"Authorization": f"Bearer {secret}"} if secret else {})}
        question = Question(
            f"{quirks.base_url.rstrip('/')}/chat/completions", provider.pieces(body, pictures), headers, secret
        )
        return await provider.answer(self._client, self._card, question, _Reader(), call)

    def _body(self, request: AskRequest, messages: list[dict[str, Any]], *, stream: bool) -> dict[str, Any]:
        quirks = self._quirks
        body: dict[str, Any] = {"model": quirks.model or self._card.name, "messages": messages}
        body[quirks.max_tokens_field] = request.max_tokens
        body |= provider.chosen(request, SETTINGS, quirks.leave_out)
        if request.json_schema is not None and quirks.json_schema:
            schema = dict(request.json_schema)
            strict = quirks.strict_schemas and is_strict(schema)
            named = {"name": "answer", "strict": strict, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        if stream:
            body["stream"] = True
            if quirks.usage_in_stream:
                body["stream_options"] = {"include_usage": True}
        return {**body, **quirks.extra}

    def _messages(self, conversation: tuple[Message, ...], pictures: list[provider.Shown]) -> list[dict[str, Any]]:
        waiting = iter(pictures)
        return [{"role": said.role, "content": self._content(said, waiting)} for said in conversation]

    def _content(self, said: Message, pictures: Any) -> str | list[dict[str, Any]]:
        words = [part.text for part in said.parts if isinstance(part, Words)]
        if len(words) == len(said.parts):
            return "\n".join(words)  # which every server understands; some take lists from users only
        return [
            {"type": "text", "text": part.text} if isinstance(part, Words) else self._picture(next(pictures))
            for part in said.parts
        ]

    def _picture(self, picture: provider.Shown) -> dict[str, Any]:
        shown = {"url": picture.url or picture.data_url(provider.MARK)}
        if picture.detail in self._quirks.details:
            shown["detail"] = picture.detail
        return {"type": "image_url", "image_url": shown}


class _Reader(provider.Reader):
    def take(self, event: dict[str, Any]) -> str:
        self._account(event)
        choices = event.get("choices") or ()  # the last chunk, with the usage, has none
        return self._words(choices[0], choices[0].get("delta") or {}) if choices else ""

    def read(self, whole: dict[str, Any]) -> str:
        self._account(whole)
        choice = whole["choices"][0]
        words = self._words(choice, choice["message"])
        self.ending = self.ending or "stop"  # the body is whole, though some servers give no reason
        return words

    def _words(self, choice: dict[str, Any], said: dict[str, Any]) -> str:
        reason = choice.get("finish_reason")
        if reason in BROKEN:
            raise ValueError(reason)
        if reason:
            self.ending = ENDINGS.get(reason, "stop")
        words, refused = _text(said.get("content")), said.get("refusal")
        if not refused:
            return words
        self.ending = "content_filter"
        return words + _text(refused)

    def _account(self, told: dict[str, Any]) -> None:
        if isinstance(told.get("model"), str):
            self.answered_by = told["model"]
        account = told.get("usage")
        if not account:
            return
        details = account.get("prompt_tokens_details") or {}
        self.usage = provider.usage(
            input_tokens=provider.count(account, "prompt_tokens"),
            output_tokens=provider.count(account, "completion_tokens"),
            image_tokens=provider.count(details, "image_tokens") or None,
            cached_tokens=provider.count(details, "cached_tokens"),
        )


def _text(content: Any) -> str:
    """Some servers give words in parts, as they take them."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if content is None or isinstance(content, str):
        return content or ""
    raise TypeError(type(content).__name__)


def is_strict(schema: Any) -> bool:
    """Whether a schema keeps the rules of OpenAI's strict mode: objects name all their fields, and need each."""
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, dict):
        return True
    fields = schema.get("properties")
    if fields is not None or schema.get("type") == "object":
        named = set(fields or ())
        if schema.get("additionalProperties") is not False or set(schema.get("required") or ()) != named:
            return False
    return all(map(is_strict, schema.values()))
