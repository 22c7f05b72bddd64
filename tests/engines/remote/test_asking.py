"""What every remote engine does, whatever its provider's wire format."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sensorium.engine import Delta, Event, ignore
from sensorium.errors import (
    DeadlineExceeded,
    MissingKey,
    ProviderDenied,
    ProviderFailed,
    ProviderLimited,
    SensoriumError,
    StreamBroken,
    UnidentifiedMedia,
    UnknownModel,
)
from sensorium.media.source import Source
from sensorium.runtimes.provider import MOST_TOKENS
from sensorium.schemas.ask import Answer, AskRequest, Message, Picture, Words
from sensorium.schemas.base import Usage
from sensorium.schemas.classify import ClassifyRequest
from sensorium.schemas.compare import CompareRequest
from sensorium.service import Sensorium
from sensorium.stores.usage import Amounts, UsageBook
from tests.engines.remote.conftest import KINDS
from tests.pictures import jpeg, photograph, png
from tests.upstream import Sight, Upstream
from tests.upstream.provider import ANSWER

Make = Callable[..., Awaitable[Sensorium]]

each_kind = pytest.mark.parametrize("kind", KINDS)


def question(kind: str, model: str = "ok", prompt: str = "What is this?", **fields: Any) -> AskRequest:
    return AskRequest(model=f"{kind}/{model}", prompt=prompt, **fields)


async def streamed(service: Sensorium, request: AskRequest) -> tuple[list[str], Answer]:
    """The words as they came, and the whole answer."""
    words: list[str] = []

    async def listen(event: Event) -> None:
        assert isinstance(event, Delta)
        words.append(event.text)

    return words, await service.run(request, listener=listen)


async def failure(service: Sensorium, request: AskRequest, *, stream: bool, **how: Any) -> tuple[SensoriumError, str]:
    """The error, and the words that came before it."""
    words: list[str] = []

    async def listen(event: Event) -> None:
        assert isinstance(event, Delta)
        words.append(event.text)

    with pytest.raises(SensoriumError) as caught:
        await service.run(request, listener=listen if stream else ignore, **how)
    return caught.value, "".join(words)


@each_kind
async def test_words_alone_are_asked_and_answered(service: Make, provider: Upstream, kind: str) -> None:
    answer = await (await service()).run(question(kind))
    assert answer.text == ANSWER
    assert answer.ending == "stop"
    assert answer.answered_by == "ok-2026-01-01"
    assert answer.meta.engine == f"{kind}/ok@1"
    assert provider.last.turns == [("user", ["What is this?"])]
    assert provider.last.key == f"key-of-{kind}"
    assert not provider.last.stream


@each_kind
async def test_words_come_as_they_are_said_and_are_the_same_answer(
    service: Make, provider: Upstream, kind: str
) -> None:
    sensorium = await service()
    words, answer = await streamed(sensorium, question(kind))
    assert provider.last.stream
    assert len(words) > 10
    assert "".join(words) == answer.text == ANSWER
    whole = await sensorium.run(question(kind))
    assert whole.altered(meta=answer.meta) == answer
    assert whole.meta.usage == answer.meta.usage


@each_kind
@pytest.mark.parametrize("stream", [False, True])
async def test_what_it_took_is_told_by_the_provider(service: Make, provider: Upstream, kind: str, stream: bool) -> None:
    request = question(kind, "cached-7", image=jpeg())
    sensorium = await service()
    answer = (await streamed(sensorium, request))[1] if stream else await sensorium.run(request)
    images = None if kind == "anthropic" else 100
    assert answer.meta.usage == Usage(input_tokens=103, output_tokens=14, image_tokens=images, cached_tokens=7)


@each_kind
@pytest.mark.parametrize("stream", [False, True])
async def test_without_an_account_there_is_none(service: Make, kind: str, stream: bool) -> None:
    request = question(kind, "no-usage")
    sensorium = await service()
    answer = (await streamed(sensorium, request))[1] if stream else await sensorium.run(request)
    assert answer.meta.usage is None


@each_kind
async def test_pictures_arrive_byte_for_byte_in_their_order_before_the_words(
    service: Make, provider: Upstream, kind: str, tmp_path: Path
) -> None:
    file = tmp_path / "big.jpg"
    file.write_bytes(photograph() + bytes(100_000))  # long enough for a thread
    await (await service()).run(question(kind, image=png(), images=(Source.of(str(file)), Source.of(jpeg()))))
    first, second, third, words = provider.last.turns[0][1]
    assert [sight.data for sight in (first, second, third) if isinstance(sight, Sight)] == [
        png(),
        file.read_bytes(),
        jpeg(),
    ]
    assert [sight.media_type for sight in provider.last.pictures] == ["image/png", "image/jpeg", "image/jpeg"]
    assert words == "What is this?"


@each_kind
async def test_text_that_looks_like_a_pictures_place_is_text(service: Make, provider: Upstream, kind: str) -> None:
    prompt = '~0~ "data:image/png;base64,AAAA" \\u0000 你好'
    await (await service()).run(question(kind, prompt=prompt, image=png()))
    assert provider.last.words == prompt
    assert provider.last.pictures[0].data == png()


@each_kind
async def test_what_is_no_picture_is_refused_before_anything_is_sent(
    service: Make, provider: Upstream, kind: str
) -> None:
    with pytest.raises(UnidentifiedMedia):
        await (await service()).run(question(kind, image=b"\x81no picture"))
    assert not provider.requests


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_a_picture_elsewhere_is_passed_by_its_address_where_the_provider_fetches_it(
    service: Make, provider: Upstream, kind: str
) -> None:
    await (await service()).run(question(kind, image=Source.of("https://pictures.example/cat.jpg?a=1")))
    assert provider.last.pictures[0].url == "https://pictures.example/cat.jpg?a=1"
    assert provider.last.pictures[0].data is None


async def test_a_picture_elsewhere_is_fetched_by_us_where_the_provider_does_not(service: Make) -> None:
    sensorium = await service()
    for model in ("gemini/ok", "vllm/ok"):
        error, _ = await failure(
            sensorium, AskRequest(model=model, prompt="?", image=Source.of("http://127.0.0.1:9/cat.jpg")), stream=False
        )
        assert error.code == "forbidden_address"


@each_kind
async def test_how_to_behave_and_what_was_said_before_are_told(service: Make, provider: Upstream, kind: str) -> None:
    before = (
        Message(role="user", parts=(Picture(image=Source.of(png())), Words(text="Look."))),
        Message(role="assistant", parts=(Words(text="I see a square."),)),
    )
    await (await service()).run(question(kind, system="Be brief.", messages=before))
    assert provider.last.system == "Be brief."
    theirs = "model" if kind == "gemini" else "assistant"
    assert [role for role, _ in provider.last.turns] == ["user", theirs, "user"]
    assert provider.last.turns[1][1] == ["I see a square."]
    assert provider.last.pictures[0].data == png()


@each_kind
async def test_settings_are_passed_on_and_absent_ones_are_not(service: Make, provider: Upstream, kind: str) -> None:
    sensorium = await service()
    await sensorium.run(
        question(
            kind, max_tokens=77, temperature=0.5, top_p=0.9, stop=("END",), seed=None if kind == "anthropic" else 4
        )
    )
    told = {"max_tokens": 77, "temperature": 0.5, "top_p": 0.9, "stop": ["END"]}
    assert provider.last.settings == told | ({} if kind == "anthropic" else {"seed": 4})
    await sensorium.run(question(kind, max_tokens=78))
    assert provider.last.settings == {"max_tokens": 78}


SCHEMA = {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]}


@pytest.mark.parametrize("model", ["openai/gpt-4o", "anthropic/claude-sonnet-5", "gemini/gemini-2.5-flash"])
async def test_a_schema_is_passed_on_in_the_providers_own_mode(service: Make, provider: Upstream, model: str) -> None:
    provider.answers.append('{"price": 3}')
    answer = await (await service()).run(AskRequest(model=model, prompt="How much?", json_schema=SCHEMA))
    assert answer.data == {"price": 3}
    closed = {**SCHEMA, "additionalProperties": False}
    assert provider.last.settings["schema"] == (closed if model.startswith("anthropic") else SCHEMA)


async def test_a_schema_is_left_to_others_where_the_provider_has_no_such_mode(
    service: Make, provider: Upstream
) -> None:
    provider.answers.append('It is `{"price": 3}`')
    assert (await (await service()).run(question("anthropic", json_schema=SCHEMA))).data == {"price": 3}
    assert "schema" not in provider.last.settings


@each_kind
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "ending"), [("length", "length"), ("filtered-answer", "content_filter")])
async def test_why_the_model_stopped_is_told(service: Make, kind: str, stream: bool, model: str, ending: str) -> None:
    request, sensorium = question(kind, model), await service()
    answer = (await streamed(sensorium, request))[1] if stream else await sensorium.run(request)
    assert answer.ending == ending


FAULTS: list[tuple[str, str]] = [
    ("limited", "provider_limited"),
    ("limited-seconds-3", "provider_limited"),
    ("limited-date-60", "provider_limited"),
    ("limited-ms-2500", "provider_limited"),
    ("limited-info-37", "provider_limited"),
    ("insufficient-quota", "provider_limited"),
    ("status-500", "provider_failed"),
    ("status-503", "provider_failed"),
    ("status-529", "provider_failed"),
    ("status-408", "provider_failed"),
    ("status-302", "provider_denied"),
    ("status-403", "provider_denied"),
    ("page", "provider_failed"),
    ("reset", "provider_failed"),
    ("too-long", "context_too_long"),
    ("filtered", "content_filtered"),
    ("refused", "provider_refused"),
    ("denied", "provider_denied"),
    ("unknown", "provider_denied"),
]


@each_kind
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "code"), FAULTS, ids=[fault for fault, _ in FAULTS])
async def test_what_a_provider_says_instead_of_an_answer_is_one_of_our_errors(
    service: Make, kind: str, stream: bool, model: str, code: str
) -> None:
    raised, words = await failure(await service(), question(kind, model), stream=stream)
    assert raised.code == code
    assert words == ""
    assert f"{kind}/{model}" in str(raised)
    assert "key-of" not in str(raised)
    assert "sk-secret" not in str(raised)


@each_kind
@pytest.mark.parametrize(
    ("model", "seconds"),
    [("limited-seconds-3", 3), ("limited-date-60", 59), ("limited-ms-2500", 2.5), ("limited-info-37", 37)],
)
async def test_how_long_to_wait_is_what_the_provider_says(service: Make, kind: str, model: str, seconds: float) -> None:
    raised, _ = await failure(await service(), question(kind, model), stream=False)
    assert isinstance(raised, ProviderLimited)
    assert raised.retry_after_seconds == pytest.approx(seconds, abs=1.5 if "date" in model else 0)
    assert raised.retryable


@each_kind
async def test_a_spent_quota_is_nothing_to_wait_for(service: Make, kind: str) -> None:
    raised, _ = await failure(await service(), question(kind, "insufficient-quota"), stream=False)
    assert not raised.retryable
    assert not raised.as_dict()["retryable"]
    assert ProviderLimited.retryable


@each_kind
@pytest.mark.parametrize("model", ["cut-3", "end-early-3", "malformed-3", "stall-3", "error-after-3"])
async def test_a_stream_that_is_not_whole_is_no_success(
    service: Make, provider: Upstream, kind: str, model: str
) -> None:
    # Its card has little patience, so that the stall is seen at once.
    card = hasty(kind, model, stall_seconds=0.2)
    raised, words = await failure(await service(card), AskRequest(model="hasty", prompt="?"), stream=True)
    assert type(raised) is StreamBroken
    assert words == "It is a"
    assert raised.retryable


@each_kind
@pytest.mark.parametrize("model", ["cut", "malformed", "stall"])
async def test_an_answer_that_is_not_whole_is_no_success(
    service: Make, provider: Upstream, kind: str, model: str
) -> None:
    raised, _ = await failure(
        await service(hasty(kind, model, stall_seconds=0.2)), AskRequest(model="hasty", prompt="?"), stream=False
    )
    assert type(raised) is StreamBroken


@each_kind
async def test_an_error_told_in_a_stream_before_the_first_word_is_that_error(service: Make, kind: str) -> None:
    raised, words = await failure(await service(), question(kind, "error-after-0"), stream=True)
    assert type(raised) is ProviderFailed
    assert words == ""


@each_kind
async def test_a_stream_whose_reason_for_stopping_came_is_whole_without_an_end_mark(service: Make, kind: str) -> None:
    words, answer = await streamed(await service(), question(kind, "no-done"))
    assert "".join(words) == answer.text == ANSWER
    assert answer.meta.usage is not None


@each_kind
async def test_events_are_understood_however_they_are_written(service: Make, kind: str) -> None:
    words, answer = await streamed(await service(), question(kind, "odd-frames"))
    assert "".join(words) == answer.text == ANSWER


@each_kind
async def test_an_answer_without_words_is_an_answer(service: Make, kind: str) -> None:
    sensorium = await service()
    words, answer = await streamed(sensorium, question(kind, "empty"))
    assert words == []
    assert answer.text == (await sensorium.run(question(kind, "empty"))).text == ""


@each_kind
@pytest.mark.parametrize(("model", "stream"), [("huge-event-1100000", True), ("huge-body-34000000", False)])
async def test_an_answer_beyond_all_bounds_is_broken_off(service: Make, kind: str, model: str, stream: bool) -> None:
    raised, _ = await failure(await service(), question(kind, model), stream=stream)
    assert type(raised) is StreamBroken
    assert "has over" in str(raised)


@each_kind
async def test_an_answer_of_more_values_than_could_be_read_quickly_is_broken_off(service: Make, kind: str) -> None:
    sensorium = await service()
    assert (await sensorium.run(question(kind, "many-values-1000"))).text == ANSWER
    raised, _ = await failure(sensorium, question(kind, "many-values-300000"), stream=False)
    assert type(raised) is StreamBroken
    assert "values" in str(raised)


@each_kind
@pytest.mark.parametrize("stream", [False, True])
async def test_a_number_of_tokens_that_is_nonsense_spoils_no_sum(
    service: Make, tmp_path: Path, kind: str, stream: bool
) -> None:
    sensorium, book = await service(), UsageBook(tmp_path / "usage.sqlite")
    request = question(kind, f"took-1{'0' * 30}")
    answer = (await streamed(sensorium, request))[1] if stream else await sensorium.run(request)
    used = answer.meta.usage
    assert used is not None
    assert used.input_tokens == used.output_tokens == MOST_TOKENS
    book.note("shop", "m", "ask", Amounts(input_tokens=used.input_tokens, output_tokens=used.output_tokens))
    assert (await book.lines("key"))[0].amounts.input_tokens == MOST_TOKENS
    await book.close()


@each_kind
async def test_the_name_of_what_answered_is_one_line_without_our_key(service: Make, kind: str) -> None:
    assert (await (await service()).run(question(kind, "odd-name"))).answered_by == "[31m  ***"


@each_kind
@pytest.mark.parametrize("model", ["hang", "slow-first-50"])
@pytest.mark.parametrize("stream", [False, True])
async def test_no_answer_at_all_is_waited_for_no_longer_than_the_card_says(
    service: Make, provider: Upstream, kind: str, model: str, stream: bool
) -> None:
    card = hasty(kind, model, first_seconds=0.2)
    raised, _ = await failure(await service(card), AskRequest(model="hasty", prompt="?"), stream=stream)
    assert type(raised) is ProviderFailed
    assert not raised.retryable  # to wait as long once more helps nobody
    await provider.until(lambda seen: seen.last.ending == "left")


@each_kind
async def test_a_stream_may_take_longer_than_any_silence_in_it(service: Make, kind: str) -> None:
    card = hasty(kind, "slow-tokens-0.05", first_seconds=0.5, stall_seconds=0.4)
    words, answer = await streamed(await service(card), AskRequest(model="hasty", prompt="?"))
    assert "".join(words) == answer.text == ANSWER


@each_kind
@pytest.mark.parametrize("model", ["hang", "stall-2", "endless", "slow-tokens-5"])
async def test_the_callers_deadline_is_over_all(service: Make, provider: Upstream, kind: str, model: str) -> None:
    raised, _ = await failure(await service(), question(kind, model), stream=True, timeout=0.3)
    assert type(raised) is DeadlineExceeded
    await provider.until(lambda seen: seen.last.ending == "left")


@each_kind
@pytest.mark.parametrize(("model", "stream"), [("hang", False), ("hang", True), ("stall-2", True), ("stall", False)])
async def test_a_caller_who_leaves_closes_the_connection_to_the_provider(
    service: Make, provider: Upstream, kind: str, model: str, stream: bool
) -> None:
    sensorium, request = await service(), question(kind, model)
    running = asyncio.create_task(streamed(sensorium, request) if stream else sensorium.run(request))
    await provider.until(lambda seen: seen.requests and (model != "stall-2" or seen.last.sent == 2))
    assert provider.at_once == 1
    running.cancel()
    await asyncio.wait([running])
    await provider.until(lambda seen: seen.last.ending == "left")
    assert provider.at_once == 0
    assert (await sensorium.run(question(kind))).text == ANSWER


@each_kind
async def test_a_missing_key_is_named_by_its_variable_and_nothing_is_sent(
    service: Make, provider: Upstream, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"{kind.upper()}_API_KEY"
    monkeypatch.setenv(variable, " ")
    with pytest.raises(MissingKey, match=variable):
        await (await service()).run(question(kind))
    assert not provider.requests


@each_kind
async def test_a_wrong_key_is_denied_and_never_repeated(service: Make, provider: Upstream, kind: str) -> None:
    provider.keys = {"another"}
    raised, _ = await failure(await service(), question(kind), stream=False)
    assert type(raised) is ProviderDenied
    assert f"key-of-{kind}" not in repr(raised.as_dict())


async def test_nobody_there_is_a_failure_of_the_provider(service: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    raised, _ = await failure(await service(), question("openai"), stream=False)
    assert type(raised) is ProviderFailed
    assert "no connection to http://127.0.0.1:9" in str(raised)


async def test_connections_are_used_again_also_after_streams(service: Make, provider: Upstream) -> None:
    sensorium = await service()
    for _ in range(3):
        await streamed(sensorium, question("openai"))
        await sensorium.run(question("openai"))
    assert len({seen.peer for seen in provider.requests}) == 1


async def test_a_hundred_are_asked_at_once(service: Make, provider: Upstream) -> None:
    sensorium = await service(running=1, waiting=0)
    answers = asyncio.gather(*(sensorium.run(question("openai", "hang", f"number {i}")) for i in range(100)))
    await provider.until(lambda seen: seen.at_once == 100)
    provider.release()
    assert {answer.text for answer in await answers} == {ANSWER}


async def test_while_answers_are_awaited_models_of_this_machine_go_on(service: Make, provider: Upstream) -> None:
    sensorium = await service(running=1, waiting=0)
    pictures = (Source.held(jpeg(seed=1)), Source.held(jpeg(seed=2)))
    asked: list[Any] = [question("openai", "hang"), CompareRequest(images=pictures, model="openai/hang")]
    answers = [asyncio.create_task(sensorium.run(one)) for one in asked]
    await provider.until(lambda seen: seen.at_once == 2)
    assert (await sensorium.run(ClassifyRequest(image=Source.held(jpeg()), model="fake"))).labels
    provider.release()
    await asyncio.wait(answers)


LIMITED = """
name = "limited"
kind = "openai"
tasks = ["ask"]
licence = "LicenseRef-provider"
remote = true
[limits]
concurrent = 5
[quirks]
base_url = "http://127.0.0.1:9/v1"
base_url_from = "OPENAI_BASE_URL"
model = "hang"
"""


async def test_a_list_asks_as_many_at_once_as_the_provider_allows_and_prepares_the_next(
    service: Make, provider: Upstream
) -> None:
    taken = 0

    def requests() -> Iterator[AskRequest]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield AskRequest(model="limited", prompt=f"{number}?")

    sensorium = await service(LIMITED, running=2, waiting=0)
    outcomes = sensorium.each(requests())
    first = asyncio.ensure_future(anext(outcomes))
    await provider.until(lambda seen: seen.at_once == 5)
    provider.release()
    told = [await first, *[outcome async for outcome in outcomes]]
    assert [type(outcome) for outcome in told] == [Answer] * 40
    assert provider.most_at_once == 5
    assert taken == 40


async def test_a_provider_recovers(service: Make) -> None:
    sensorium = await service()
    raised, _ = await failure(sensorium, question("openai", "flapping-1"), stream=False)
    assert type(raised) is ProviderFailed
    assert (await sensorium.run(question("openai", "flapping-1"))).text == ANSWER


@pytest.mark.parametrize("name", ["opnai/gpt-4o", "openai", "openai/", "openai//a", "openai/../a", "openai/a@b c"])
async def test_what_names_no_model_of_a_provider_is_unknown(service: Make, name: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        await (await service()).run(AskRequest(model=name, prompt="?"))
    assert "openai" in str(caught.value) or "letters" in str(caught.value)


def hasty(kind: str, model: str, **quirks: float) -> str:
    """A card of one's own, with the provider's address from the environment."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in {"model": model, **quirks}.items()]
    prefix = kind.upper()
    return "\n".join(
        [
            'name = "hasty"',
            f'kind = "{kind}"',
            'tasks = ["ask"]',
            'licence = "LicenseRef-provider"',
            "[quirks]",
            'base_url = "https://unused.example"',
            f'base_url_from = "{prefix}_BASE_URL"',
            f'key = "{prefix}_API_KEY"',
            *lines,
        ]
    )


async def test_names_that_anybody_can_make_up_take_no_more_room_than_is_set_aside(
    service: Make, provider: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensorium.models.MOST_PASSING", 3)
    sensorium = await service()
    for number in range(5):
        await sensorium.run(question("openai", f"made-up-{number}"))
    assert list(sensorium.models.loaded) == [f"openai/made-up-{number}@1" for number in (2, 3, 4)]
    assert (await sensorium.run(question("openai", "made-up-0"))).text == ANSWER
