"""The three wire formats as providers speak them: requests understood, answers and errors written."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Dialect = Literal["openai", "anthropic", "gemini"]

PICTURE_TOKENS = 100
"""What any picture takes at this provider; of words, each takes one."""


@dataclass(frozen=True)
class Sight:
    """A picture that was sent."""

    data: bytes | None
    url: str | None
    media_type: str | None = None
    detail: str | None = None


@dataclass
class Seen:
    """A request, as the provider understood it."""

    dialect: Dialect
    path: str
    headers: Mapping[str, str]
    key: str | None
    body: dict[str, Any]
    model: str
    stream: bool
    system: str | None
    turns: list[tuple[str, list[str | Sight]]]
    """Who said what, in order; the system prompt of OpenAI's format is in `system` alone."""
    settings: dict[str, Any]
    """max_tokens, temperature, top_p, stop, seed, schema: those that were sent."""
    at: float
    """When it came, by time.monotonic."""
    ending: Literal["", "answered", "left"] = ""
    """`left`: the client closed the connection before the end."""
    sent: int = 0
    """How many tokens were written."""
    number: int = 0
    """How many requests for the same model there were before."""
    peer: tuple[str, int] | None = None
    """The client's address and port: the same for requests on one connection."""

    @property
    def pictures(self) -> list[Sight]:
        return [part for _, parts in self.turns for part in parts if isinstance(part, Sight)]

    @property
    def words(self) -> str:
        """All that was said in words, joined."""
        return "\n".join(part for _, parts in self.turns for part in parts if isinstance(part, str))

    @property
    def input_tokens(self) -> int:
        said = f"{self.system or ''} {self.words}"
        return len(said.split()) + PICTURE_TOKENS * len(self.pictures)


def tokens_of(text: str) -> list[str]:
    """The text in pieces, a word with its space each."""
    return re.findall(r"\s*\S+|\s+$", text)


def understand(dialect: Dialect, path: str, headers: Mapping[str, str], body: bytes, at: float) -> Seen:
    """Raises ValueError, KeyError or TypeError for what is no request of that dialect."""
    told = json.loads(body)
    return {"openai": _from_openai, "anthropic": _from_anthropic, "gemini": _from_gemini}[dialect](
        path, headers, told, at
    )


def _data_url(url: str, detail: str | None) -> Sight:
    if not url.startswith("data:"):
        return Sight(None, url, None, detail)
    head, _, text = url.partition(",")
    return Sight(base64.b64decode(text, validate=True), None, head[5:].partition(";")[0], detail)


def _from_openai(path: str, headers: Mapping[str, str], body: dict[str, Any], at: float) -> Seen:
    turns: list[tuple[str, list[str | Sight]]] = []
    for message in body["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        turns.append((message["role"], [_openai_part(part) for part in parts]))
    system = [str(part) for role, parts in turns if role in ("system", "developer") for part in parts]
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    return Seen(
        "openai",
        path,
        headers,
        headers.get("Authorization", "").removeprefix("Bearer ") or None,
        body,
        body["model"],
        bool(body.get("stream")),
        "\n".join(system) or None,
        [turn for turn in turns if turn[0] not in ("system", "developer")],
        _given(
            max_tokens=body.get("max_completion_tokens", body.get("max_tokens")),
            temperature=body.get("temperature"),
            top_p=body.get("top_p"),
            stop=body.get("stop"),
            seed=body.get("seed"),
            schema=schema,
        ),
        at,
    )


def _openai_part(part: dict[str, Any]) -> str | Sight:
    if part["type"] == "text":
        return str(part["text"])
    if part["type"] != "image_url":
        raise ValueError(part["type"])
    return _data_url(part["image_url"]["url"], part["image_url"].get("detail"))


def _from_anthropic(path: str, headers: Mapping[str, str], body: dict[str, Any], at: float) -> Seen:
    turns: list[tuple[str, list[str | Sight]]] = []
    for message in body["messages"]:
        if message["role"] not in ("user", "assistant"):
            raise ValueError(message["role"])
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        turns.append((message["role"], [_anthropic_part(part) for part in parts]))
    system = body.get("system")
    return Seen(
        "anthropic",
        path,
        headers,
        headers.get("x-api-key"),
        body,
        body["model"],
        bool(body.get("stream")),
        "\n".join(block["text"] for block in system) if isinstance(system, list) else system,
        turns,
        _given(
            max_tokens=body["max_tokens"],
            temperature=body.get("temperature"),
            top_p=body.get("top_p"),
            stop=body.get("stop_sequences"),
            schema=body.get("output_config", {}).get("format", {}).get("schema"),
        ),
        at,
    )


def _anthropic_part(part: dict[str, Any]) -> str | Sight:
    if part["type"] == "text":
        return str(part["text"])
    if part["type"] != "image":
        raise ValueError(part["type"])
    source = part["source"]
    if source["type"] == "url":
        return Sight(None, source["url"])
    return Sight(base64.b64decode(source["data"], validate=True), None, source["media_type"])


def _from_gemini(path: str, headers: Mapping[str, str], body: dict[str, Any], at: float) -> Seen:
    named = re.fullmatch(r".*/models/(.+):(generateContent|streamGenerateContent)", path.partition("?")[0])
    if named is None:
        raise ValueError(path)
    turns = [(turn["role"], [_gemini_part(part) for part in turn["parts"]]) for turn in body["contents"]]
    if {role for role, _ in turns} - {"user", "model"}:
        raise ValueError("role")
    config = body.get("generationConfig", {})
    return Seen(
        "gemini",
        path,
        headers,
        headers.get("x-goog-api-key"),
        body,
        named[1],
        named[2] == "streamGenerateContent",
        "\n".join(part["text"] for part in body.get("systemInstruction", {}).get("parts", ())) or None,
        turns,
        _given(
            max_tokens=config.get("maxOutputTokens"),
            temperature=config.get("temperature"),
            top_p=config.get("topP"),
            stop=config.get("stopSequences"),
            seed=config.get("seed"),
            schema=config.get("responseJsonSchema"),
        ),
        at,
    )


def _gemini_part(part: dict[str, Any]) -> str | Sight:
    detail = part.get("mediaResolution", {}).get("level")
    if "text" in part:
        return str(part["text"])
    if "inlineData" in part:
        inline = part["inlineData"]
        return Sight(base64.b64decode(inline["data"], validate=True), None, inline["mimeType"], detail)
    return Sight(None, part["fileData"]["fileUri"], part["fileData"].get("mimeType"), detail)


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


@dataclass(frozen=True)
class Took:
    """What an answer took."""

    input_tokens: int
    output_tokens: int
    image_tokens: int
    cached_tokens: int

    def of(self, dialect: Dialect) -> dict[str, Any]:
        """As the provider writes it."""
        if dialect == "openai":
            return {
                "prompt_tokens": self.input_tokens,
                "completion_tokens": self.output_tokens,
                "total_tokens": self.input_tokens + self.output_tokens,
                "prompt_tokens_details": {"cached_tokens": self.cached_tokens, "image_tokens": self.image_tokens},
            }
        if dialect == "anthropic":  # whose input_tokens leave out what was cached
            return {
                "input_tokens": self.input_tokens - self.cached_tokens,
                "cache_read_input_tokens": self.cached_tokens,
                "cache_creation_input_tokens": 0,
                "output_tokens": self.output_tokens,
            }
        return {
            "promptTokenCount": self.input_tokens,
            "candidatesTokenCount": self.output_tokens,
            "totalTokenCount": self.input_tokens + self.output_tokens,
            "cachedContentTokenCount": self.cached_tokens,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": self.input_tokens - self.image_tokens},
                {"modality": "IMAGE", "tokenCount": self.image_tokens},
            ],
        }


ENDINGS = {
    "openai": {"stop": "stop", "length": "length", "content_filter": "content_filter"},
    "anthropic": {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"},
    "gemini": {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"},
}


def whole(seen: Seen, text: str, ending: str, took: Took | None) -> dict[str, Any]:
    """The answer to a request that asked for no stream."""
    reason = ENDINGS[seen.dialect][ending]
    usage = took.of(seen.dialect) if took else None
    if seen.dialect == "openai":
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "choices": [choice]}
        return {**body, "model": dated(seen.model), **({"usage": usage} if usage else {})}
    if seen.dialect == "anthropic":
        body = {"id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "text", "text": text}]}
        return {**body, "model": dated(seen.model), "stop_reason": reason, **({"usage": usage} if usage else {})}
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": reason, "index": 0}
    return {
        "candidates": [candidate],
        "modelVersion": dated(seen.model),
        **({"usageMetadata": usage} if usage else {}),
    }


def dated(model: str) -> str:
    """What the provider says that it answered with."""
    return f"{model}-2026-01-01"


def opening(seen: Seen, took: Took | None) -> list[bytes]:
    """Events before the first token."""
    if seen.dialect == "openai":
        return [event(_chunk(seen, {"role": "assistant", "content": ""}))]
    if seen.dialect == "gemini":
        return []
    usage = {**took.of("anthropic"), "output_tokens": 1} if took else None
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": dated(seen.model)}
    start = {"type": "message_start", "message": {**message, **({"usage": usage} if usage else {})}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    return [named(start), named(block), named({"type": "ping"})]


def spoken(seen: Seen, text: str) -> bytes:
    """A token."""
    if seen.dialect == "openai":
        return event(_chunk(seen, {"content": text}))
    if seen.dialect == "anthropic":
        delta = {"type": "text_delta", "text": text}
        return named({"type": "content_block_delta", "index": 0, "delta": delta})
    content = {"role": "model", "parts": [{"text": text}]}
    return event({"candidates": [{"content": content, "index": 0}], "modelVersion": dated(seen.model)})


def closing(seen: Seen, ending: str, took: Took | None, *, done: bool) -> list[bytes]:
    """Events after the last token; without `done`, the end mark beside the reason is missing."""
    reason = ENDINGS[seen.dialect][ending]
    usage = took.of(seen.dialect) if took else None
    if seen.dialect == "openai":
        wants = bool(seen.body.get("stream_options", {}).get("include_usage"))
        last = [event(_chunk(seen, {}, reason))]
        if usage and wants:
            last.append(event({**_chunk(seen, {}), "choices": [], "usage": usage}))
        return [*last, *([b"data: [DONE]\n\n"] if done else [])]
    if seen.dialect == "anthropic":
        delta = {"type": "message_delta", "delta": {"stop_reason": reason}, **({"usage": usage} if usage else {})}
        stop = [named({"type": "message_stop"})] if done else []
        return [named({"type": "content_block_stop", "index": 0}), named(delta), *stop]
    candidate = {"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": reason, "index": 0}
    return [event({"candidates": [candidate], **({"usageMetadata": usage} if usage else {})})]


def refusal(dialect: Dialect, status: int, kind: str, message: str, **more: Any) -> dict[str, Any]:
    """An error's body; `kind` is its code or type."""
    if dialect == "openai":
        return {"error": {"message": message, "type": kind, "param": None, "code": kind}}
    if dialect == "anthropic":
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return {"error": {"code": status, "message": message, "status": kind, **more}}


def failed(seen: Seen, error: dict[str, Any]) -> bytes:
    """An error told within a stream."""
    return named(error) if seen.dialect == "anthropic" else event(error)


def _chunk(seen: Seen, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": dated(seen.model)}
    return {**head, "choices": [choice]}


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def named(value: dict[str, Any]) -> bytes:
    return b"event: " + str(value["type"]).encode() + b"\n" + event(value)


def odd(frames: Iterable[bytes]) -> bytes:
    """The same events as clients must also be able to read them: CRLF, comments, data over several lines."""
    lines = [b": hello", b""]
    for frame in frames:
        for line in frame.rstrip(b"\n").split(b"\n"):
            # Between members of an object a line break is nothing but space.
            lines += line.replace(b', "', b',\ndata:"', 1).split(b"\n")
        lines += [b"id: 7", b"", b": keep-alive", b""]
    return b"\xef\xbb\xbf" + b"".join(line + b"\r\n" for line in lines)
