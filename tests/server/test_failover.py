"""Failover Bench's sixteen faults, through the whole server over a socket: what callers get, what providers see, what is charged.

Each fault is met in seven ways: asked whole and streamed, on OpenAI's route and on ours, with streams told live and told
whole, and by a model that has nobody to fall back on. The list is that of failoverbench/failoverbench,
`scenarios/catalogue.yaml`, version 0.1, with shorter times. Its rules: `pass` is the complete answer where one can be had (of S13:
a clean error), each provider asked as often as it should be, nothing hung, and no part of an answer told as the whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests

from sensorium.engine import Budget
from tests.keyring import kept_key
from tests.server.conftest import Server, eventually, running
from tests.server.test_streams import events
from tests.upstream import Seen, Upstream, upstream

PAGE = Path(__file__).parents[2] / "docs" / "failures.md"

FIRST = " ".join(f"one{number}" for number in range(60))
SECOND = " ".join(f"two{number}" for number in range(60))
"""What the two providers say: sixty words each, none of which the other says."""

PROMPT = "What is this?"
ATTEMPTS, SECONDS = 2, 8.0
"""How often a provider is asked, and how long a request may take."""
PRICE = {"input": 1.0, "output": 2.0}
TOKENS = 3 + 60
"""What the providers say that an answer took: a token for each word."""
COST = (3 * PRICE["input"] + 60 * PRICE["output"]) / 1e6

WAYS = ("chat", "chat live", "chat whole", "ask", "ask live", "ask whole", "alone")


@dataclass(frozen=True)
class Refused:
    """An error in place of an answer, with our code; other routes have other names for some."""

    status: int
    code: str


@dataclass(frozen=True)
class Broken:
    """So many words, and then an error."""

    words: int
    code: str = "stream_broken"


End = str | Refused | Broken


@dataclass(frozen=True)
class Fault:
    """What the first provider does, and what is to come of it."""

    first: str
    whole: End
    """What comes of it where the answer is asked for whole, or streams are told whole."""
    asked: tuple[int, int]
    """How often the first and the second provider are then asked."""
    alone: End
    """What comes of it where there is no second."""
    live: Broken | None = None
    """What comes of it where streams are told live; None: the same."""
    second: str = "ok"
    gap: float = 0.0
    """Seconds between two attempts, at least."""
    within: float = SECONDS - 1
    """Seconds that it may take; where more than one model is asked, the first has half of what a request may take."""
    quirks: str = ""


FAULTS = {
    "S01": Fault("limited-once-2", FIRST, (2, 0), FIRST, gap=2.0),
    "S02": Fault("limited", SECOND, (2, 1), Refused(429, "provider_limited"), gap=1.0),
    "S03": Fault("status-once-500", FIRST, (2, 0), FIRST),
    "S04": Fault("status-503", SECOND, (2, 1), Refused(502, "provider_failed")),
    "S05": Fault("reset-once-1", FIRST, (2, 0), FIRST),
    # Left to the share of the time: `first_seconds` is 60.
    "S06": Fault("hang", SECOND, (1, 1), Refused(504, "deadline_exceeded")),
    "S07": Fault(
        "slow-first-30", SECOND, (1, 1), Refused(502, "provider_failed"), within=3.0, quirks="first_seconds = 0.5"
    ),
    "S08": Fault("cut-40", SECOND, (2, 1), Refused(502, "stream_broken"), Broken(40)),
    "S09": Fault("stall-20", SECOND, (2, 1), Refused(502, "stream_broken"), Broken(20), quirks="stall_seconds = 1"),
    "S10": Fault("malformed-10", SECOND, (2, 1), Refused(502, "stream_broken"), Broken(10)),
    "S11": Fault("no-done", FIRST, (1, 0), FIRST, within=3.0),
    "S12": Fault("too-long", SECOND, (1, 1), Refused(400, "context_too_long")),
    "S13": Fault("filtered", Refused(400, "content_filtered"), (1, 0), Refused(400, "content_filtered")),
    "S14": Fault("cut-40", SECOND, (2, 1), Refused(502, "stream_broken"), Broken(40), second="no-prefill"),
    "S16": Fault("status-503", SECOND, (2, 1), Refused(502, "provider_failed")),
}
FLAPPING = "S15"

IN_OPENAI = {"provider_limited": "rate_limit_exceeded", "context_too_long": "context_length_exceeded"}
IN_OPENAI |= {"content_filtered": "content_filter"}

CARD = """
name = "{name}"
kind = "openai"
tasks = ["ask"]
licence = "LicenseRef-provider"
remote = true
quota = "{name}"
[quirks]
base_url = "{address}"
{quirks}
"""


def page() -> dict[str, tuple[str, str, str]]:
    """What the page says of each fault: what it is, and what comes of it asked for whole, and streamed live."""
    rows = re.findall(r"^\| (S\d\d) (.+?) \| (.+?) \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {number: (fault, whole, live) for number, fault, whole, live in rows}


def named(number: str, way: str) -> str:
    """The model that meets a fault in that way; the one that it falls back on has `-second` after its name."""
    return f"{number}-{way.replace(' ', '-')}".lower()


@dataclass
class Told:
    """What a client was told."""

    status: int
    headers: Any
    words: str = ""
    code: str | None = None
    model: str = ""
    tokens: int | None = None
    body: str = ""
    seconds: float = 0.0

    @property
    def end(self) -> End:
        if self.code is None:
            return self.words
        return Refused(self.status, self.code) if self.status != 200 else Broken(len(self.words.split()), self.code)


@dataclass
class Score:
    """What came of one fault."""

    wrong: list[str] = field(default_factory=list)
    ends: dict[str, str] = field(default_factory=dict)

    def expect(self, way: str, what: str, got: object, wanted: object) -> None:
        if got != wanted:
            self.wrong.append(f"{way}: {what} is {got!r}, not {wanted!r}")


class Bench:
    """Two providers, and two servers before them: one that tells streams live, and one that tells them whole."""

    def __init__(self, folder: Path, first: Upstream, second: Upstream) -> None:
        self._folder, self.first, self.second = folder, first, second
        first.answer, second.answer = FIRST, SECOND
        self.names: list[str] = []
        for number in (*FAULTS, FLAPPING):
            for way in WAYS:
                self._pair(named(number, way), FAULTS.get(number))
        self._card("healthy", first)
        self._scores: dict[str, Score] = {}

    def _pair(self, name: str, fault: Fault | None) -> None:
        self._card(name, self.first, fault.quirks if fault else "")
        self._card(f"{name}-second", self.second)
        if fault:
            self.first.faults[name], self.second.faults[f"{name}-second"] = fault.first, fault.second

    def _card(self, name: str, provider: Upstream, quirks: str = "") -> None:
        self.names.append(name)
        models = self._folder / "models"
        models.mkdir(parents=True, exist_ok=True)
        text = CARD.format(name=name, address=provider.openai, quirks=quirks)
        (models / f"{name}.toml").write_text(text, encoding="utf-8")

    def running(self, **settings: Any) -> Any:
        followed = [name for name in self.names if f"{name}-second" in self.names and "alone" not in name]
        usual = {
            "auth": "on",
            "cache": "off",
            "running": 32,
            "timeout_seconds": SECONDS,
            "provider_attempts": ATTEMPTS,
            "fallbacks": {name: [f"{name}-second"] for name in followed},
            "prices": dict.fromkeys(self.names, PRICE),
        }
        return running(self._folder, **{**usual, **settings})

    def use(self, live: Server, whole: Server) -> None:
        self._live, self._whole = live, whole
        self._operator = self.key("operator", scopes=("metrics", "*"))
        for way in ("chat", "chat whole"):  # the first question takes longer, since libraries are imported for it
            assert self.ask(way, "healthy", self._operator).words == FIRST

    def server(self, way: str) -> Server:
        return self._whole if way.endswith("whole") else self._live

    def key(self, name: str, **fields: Any) -> str:
        return kept_key(self._folder / "data", name, **fields)

    def ask(self, way: str, model: str, key: str) -> Told:
        """One question, asked in that way."""
        url, headers, stream = self.server(way).url, {"X-API-Key": key}, way.endswith(("live", "whole"))
        if way.startswith("ask"):
            answer = requests.post(
                f"{url}/v1/ask",
                json={"model": model, "prompt": PROMPT, "stream": stream},
                headers=headers,
                timeout=20,
            )
        else:
            asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": PROMPT}]}
            if stream:
                asked |= {"stream": True, "stream_options": {"include_usage": True}}
            answer = requests.post(f"{url}/v1/chat/completions", json=asked, headers=headers, timeout=20)
        told = Told(answer.status_code, answer.headers, body=answer.text, seconds=answer.elapsed.total_seconds())
        read = (_read_events if way.startswith("ask") else _read_chunks) if stream else _read_whole
        if answer.status_code != 200:
            told.code = answer.json()["error"]["code"]
        else:
            read(told)
        return told

    def usage(self, key: str, way: str) -> tuple[dict[str, dict[str, Any]], int]:
        """What a key used, by model without its version; and the tokens that its budget has spent."""
        told = requests.get(
            f"{self.server(way).url}/v1/usage", params={"by": "model"}, headers={"X-API-Key": key}, timeout=10
        ).json()
        lines = {line["model"].partition("@")[0]: line for line in told["usage"]}
        return lines, told["budget"]["spent_tokens"]

    def metric(self, way: str, pattern: str) -> float:
        """The sum of what the server's metrics tell under a name and labels."""
        page = requests.get(f"{self.server(way).url}/metrics", headers={"X-API-Key": self._operator}, timeout=10).text
        return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", page, re.MULTILINE))

    def score(self, number: str) -> Score:
        """What comes of a fault; each is met once."""
        if number not in self._scores:
            meet = self._flapping if number == FLAPPING else partial(self._meet, number)
            self._scores[number] = meet()
        return self._scores[number]

    def _meet(self, number: str) -> Score:
        score = Score()
        with ThreadPoolExecutor(len(WAYS)) as pool:
            for done in [pool.submit(self._meet_by, number, way, score) for way in WAYS]:
                done.result()
        score.expect("after", "what a healthy model says", self.ask("chat", "healthy", self._operator).words, FIRST)
        idle = eventually(lambda: not self.first.at_once)
        score.expect("after", "that nothing is left at work at the provider", idle, True)
        return score

    def _meet_by(self, number: str, way: str, score: Score) -> None:
        fault, model = FAULTS[number], named(number, way)
        wanted: End = fault.alone if way == "alone" else fault.whole
        if fault.live is not None and way.endswith("live"):
            wanted = fault.live
        key = self.key(model, budget=Budget("day", tokens=5000))
        told = self.ask(way, model, key)
        score.ends[way] = _said(told.end)
        expect = partial(score.expect, way)
        expect("the end", told.end, _as_told(wanted, way))
        expect(
            f"an end within {fault.within} s", told.seconds <= (SECONDS + 1 if way == "alone" else fault.within), True
        )
        self._check_providers(number, way, wanted, expect)
        self._check_account(way, key, told, wanted, expect)
        if isinstance(wanted, Broken):
            expect("the words", FIRST.startswith(told.words), True)
        if isinstance(wanted, Refused):
            _check_refusal(told, way, expect)

    def _check_providers(self, number: str, way: str, wanted: End, expect: Callable[..., None]) -> None:
        """How often each was asked, and how soon after one another."""
        fault, model = FAULTS[number], named(number, way)
        first, second = self.first.asked(model), self.second.asked(f"{model}-second")
        asked = (1, 0) if isinstance(wanted, Broken) else (fault.asked[0], 0) if way == "alone" else fault.asked
        expect("how often the providers are asked", (len(first), len(second)), asked)
        expect("a pause between attempts", all(pause >= fault.gap - 0.05 for pause in _pauses(first)), True)
        expect("that no question begins the answer", all(seen.turns[-1][0] == "user" for seen in second), True)
        counted = self.metric(way, rf'sensorium_provider_attempts_total{{model="{model}@1",code="[^"]+"}}')
        expect("attempts in the metrics", counted, float(len(first)))

    def _check_account(self, way: str, key: str, told: Told, wanted: End, expect: Callable[..., None]) -> None:
        """An answer is charged once, to who gave it; what failed is not; what broke off is, for what it told."""
        lines, spent = self.usage(key, way)
        expect("requests", sum(line["requests"] for line in lines.values()), 1)
        expect("errors", sum(line["errors"] for line in lines.values()), int(not isinstance(wanted, str)))
        charged = {name: line for name, line in lines.items() if line["input_tokens"] or line["output_tokens"]}
        tokens = sum(line["input_tokens"] + line["output_tokens"] for line in charged.values())
        expect("tokens spent of the budget", spent, tokens)
        if isinstance(wanted, str):
            who = max(charged, default="")  # the second of two, which would be one too many
            expect("who is charged", [name.endswith("-second") for name in charged], [wanted == SECOND])
            expect("tokens", (tokens, told.tokens), (TOKENS, TOKENS))
            expect("cost", round(sum(line["cost"] for line in charged.values()), 9), round(COST, 9))
            expect("who is told to have answered", _is_second(told.model), wanted == SECOND)
            measured = self.metric(way, rf'sensorium_tokens_total{{model="{who}@1",direction="(?:in|out)put"}}')
            expect("tokens in the metrics", measured, float(TOKENS))
        elif isinstance(wanted, Broken):
            expect("who is charged for the words", [name.endswith("-second") for name in charged], [False])
            expect("a charge for the words that were told, not for all that might have been", 0 < tokens < 500, True)
        elif wanted == Refused(504, "deadline_exceeded"):
            expect("a charge for the question alone", (0 < tokens < 50, _output(charged)), (True, 0))
        else:
            expect("who is charged", charged, {})

    def _flapping(self) -> Score:
        """Down, then healthy: the first is left alone, tried by one request at a time, and used again."""
        score, way = Score(), "chat live"
        model = named(FLAPPING, way)
        key = self.key(model, budget=Budget("day", tokens=100_000))
        expect = partial(score.expect, way)

        def ask(times: int) -> list[str]:
            with ThreadPoolExecutor(times) as pool:
                return sorted(_said(told.end) for told in pool.map(lambda _: self.ask(way, model, key), range(times)))

        def state() -> float:
            return self.metric(way, rf'sensorium_circuit_state{{domain="{model}"}}')

        self.first.faults[model] = "status-503"
        expect("what is said during the outage", ask(8), ["second"] * 8)
        expect("that the first is left alone then", state(), 2.0)
        before = len(self.first.asked(model))
        expect("what is said while it is left alone", ask(8), ["second"] * 8)
        expect("how often it is asked while it is left alone", len(self.first.asked(model)) - before, 0)
        self.first.faults[model] = "slow-first-2"
        expect("that it is on trial after a while", eventually(lambda: state() == 1.0), True)
        expect("what is said while it is on trial", ask(6), ["first", *["second"] * 5])
        expect("how often it is asked while it is on trial", len(self.first.asked(model)) - before, 1)
        self.first.faults[model] = "ok"
        expect("that it is asked as usual again", state(), 0.0)
        expect("what is said once it is healthy", ask(4), ["first"] * 4)
        lines, spent = self.usage(key, way)
        tokens = {name: line["input_tokens"] + line["output_tokens"] for name, line in lines.items()}
        expect("tokens", tokens, {model: 5 * TOKENS, f"{model}-second": 21 * TOKENS})
        expect("requests", sum(line["requests"] for line in lines.values()), 26)
        expect("errors", sum(line["errors"] for line in lines.values()), 0)
        expect("tokens spent of the budget", spent, 26 * TOKENS)
        score.ends[way] = "second, then first"
        return score


def _output(lines: dict[str, dict[str, Any]]) -> int:
    return sum(line["output_tokens"] for line in lines.values())


def _read_whole(told: Told) -> None:
    answer = json.loads(told.body)
    if "choices" in answer:
        (choice,) = answer["choices"]
        told.words, told.model = choice["message"]["content"], answer["model"]
        told.tokens = answer["usage"]["total_tokens"]
        assert choice["finish_reason"] == "stop"
    else:
        _read_answer(told, answer)


def _read_answer(told: Told, answer: dict[str, Any]) -> None:
    told.words, told.model, usage = answer["text"], answer["meta"]["engine"], answer["meta"]["usage"] or {}
    told.tokens = sum(usage.get(name, 0) for name in ("input_tokens", "output_tokens"))
    passed_over = [one["engine"] for one in answer["meta"]["skipped"]]
    assert bool(passed_over) == _is_second(told.model), "who was passed over is told"


def _read_chunks(told: Told) -> None:
    """An OpenAI client's stream, read as a careful one would."""
    datas = [line[6:] for line in told.body.split("\n") if line.startswith("data: ")]
    done = datas[-1] == "[DONE]"
    for number, data in enumerate(datas[:-1] if done else datas):
        chunk = json.loads(data)
        if "error" in chunk:
            told.code = chunk["error"]["code"]
            assert not done, "a stream that broke has no end mark"
            assert number == len(datas) - 1, "nothing follows an error"
            return
        told.model, told.tokens = chunk["model"], (chunk["usage"] or {}).get("total_tokens")
        told.words += "".join(choice["delta"].get("content", "") for choice in chunk["choices"])
    assert done, "a whole stream has an end mark"


def _read_events(told: Told) -> None:
    heard = events(told.body)
    (_, last, _) = heard[-1]
    told.words = "".join(data["text"] for kind, data, _ in heard if kind == "delta")
    (kind, data, _) = heard[-2]
    assert last == {"whole": kind == "result"}
    if kind == "error":
        told.code = data["error"]["code"]
    else:
        assert data["text"] == told.words, "what was streamed is the answer"
        _read_answer(told, data)


def _is_second(model: str) -> bool:
    return "-second" in model


def _as_told(wanted: End, way: str) -> End:
    """The end with the code that the way's route has for it."""
    if isinstance(wanted, Refused) and not way.startswith("ask"):
        return Refused(wanted.status, IN_OPENAI.get(wanted.code, wanted.code))
    return wanted


def _check_refusal(told: Told, way: str, expect: Callable[..., None]) -> None:
    if told.status == 429:
        expect("Retry-After", told.headers.get("Retry-After"), "1")
    if not way.startswith("ask") and (told.status == 429 or told.status >= 500):
        expect("x-should-retry", told.headers.get("x-should-retry"), "false")


def _said(end: End) -> str:
    if isinstance(end, Refused):
        return f"{end.status} {end.code}"
    if isinstance(end, Broken):
        return f"{end.words} words, {end.code}"
    return {FIRST: "first", SECOND: "second"}.get(end, f"NEITHER: {end[:40]!r}")


def _pauses(seen: list[Seen]) -> list[float]:
    return [later.at - earlier.at for earlier, later in pairwise(seen)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with ExitStack() as stack:
        first, second = stack.enter_context(upstream()), stack.enter_context(upstream())
        made = Bench(tmp_path_factory.mktemp("failover"), first, second)
        live = stack.enter_context(made.running())
        whole = stack.enter_context(made.running(streaming="whole"))
        made.use(live, whole)
        yield made


TOLD = page()
SLOW = {"S01", "S06", FLAPPING}


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, id=f"{number} {title}", marks=[pytest.mark.slow] if number in SLOW else [])
        for number, (title, _, _) in TOLD.items()
    ],
)
def test_a_fault_of_the_first_provider_ends_well(bench: Bench, number: str) -> None:
    assert bench.score(number).wrong == []


def test_the_page_says_what_comes_of_each_fault() -> None:
    assert list(TOLD) == sorted([*FAULTS, FLAPPING])
    for number, fault in FAULTS.items():
        _, whole, live = TOLD[number]
        if isinstance(fault.whole, Refused):
            assert f"the error `{fault.whole.code}`" in whole
        else:
            assert whole.startswith({FIRST: "its answer", SECOND: "the second model's"}[str(fault.whole)])
        assert live == (f"the words so far, then the error `{fault.live.code}`" if fault.live else "the same")


@pytest.mark.slow
def test_sixteen_of_sixteen(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {number: bench.score(number) for number in TOLD}
    with capsys.disabled():
        print("\n" + table(scores))  # noqa: T201 - the score is what this is for
    assert sum(not score.wrong for score in scores.values()) == 16


def table(scores: dict[str, Score]) -> str:
    head = ["", *WAYS, "verdict"]
    rows = [
        [number, *(score.ends.get(way, "") for way in WAYS), "FAIL" if score.wrong else "pass"]
        for number, score in scores.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    passed = sum(not score.wrong for score in scores.values())
    return "\n".join([*lines, f"{passed} of {len(scores)} pass"])


def test_signs_of_life_go_out_while_a_stream_is_held_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a server that tells streams whole, while a provider takes its time."""
    monkeypatch.setitem(bench.first.faults, "healthy", "slow-first-0.7")
    with bench.running(streaming="whole", heartbeat_seconds=0.1) as server:
        monkeypatch.setattr(bench, "_whole", server)
        told = bench.ask("chat whole", "healthy", bench.key("patient"))
    assert told.words == FIRST
    assert told.body.count(": keep-alive\n") >= 2
