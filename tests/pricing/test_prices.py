"""Money: published prices, the user's own, and neither."""

from __future__ import annotations

import subprocess
import sys

import pytest
from genai_prices import Usage, calc_price
from pydantic import ValidationError

from sensorium.pricing import Price, price, prices


@pytest.mark.parametrize(
    ("model", "provider", "called"),
    [
        ("gpt-4o", None, "gpt-4o"),
        ("openai/gpt-5.4", "openai", "gpt-5.4"),
        ("gemini/gemini-2.5-pro", "google", "gemini-2.5-pro"),
        ("claude-sonnet-4-5", None, "claude-sonnet-4-5"),
        ("openrouter/openai/gpt-4o", "openrouter", "openai/gpt-4o"),
    ],
)
@pytest.mark.parametrize("tokens", [(1000, 100, 0), (29_000, 4000, 5000), (250_000, 10, 1000)])
def test_published_prices_are_those_of_the_package_also_where_many_tokens_are_dearer(
    model: str, provider: str | None, called: str, tokens: tuple[int, int, int]
) -> None:
    fresh, out, cached = tokens
    usage = Usage(input_tokens=fresh, output_tokens=out, cache_read_tokens=cached)
    expected = float(calc_price(usage, called, provider_id=provider).total_price)
    assert price(model, fresh, out, cached) == pytest.approx(expected)


def test_gpt_4o_costs_two_and_a_half_dollars_in_and_ten_out() -> None:
    assert price("gpt-4o", 1_000_000, 0) == pytest.approx(2.5)
    assert price("gpt-4o", 0, 1_000_000) == pytest.approx(10)


@pytest.mark.parametrize("model", ["vllm/Qwen/Qwen2.5-VL-7B-Instruct", "ollama/gpt-4o", "no-such-model", ""])
def test_a_model_without_a_price_has_none_rather_than_nought(model: str) -> None:
    assert price(model, 1000, 1000) is None


def test_the_user_s_prices_go_before_the_published_with_or_without_the_provider() -> None:
    table = {"gpt-4o": Price(input=1, output=2, cached=0.5), "vllm/llava": Price(input=3)}
    with prices.use(table):
        assert price("gpt-4o", 1_000_000, 1_000_000) == pytest.approx(3)
        assert price("azure/gpt-4o", 1_000_000, 0, 500_000) == pytest.approx(0.75)
        assert price("vllm/llava", 1_000_000, 10**9) == pytest.approx(3)
        assert price("openai/gpt-4.1", 1_000_000, 0) == pytest.approx(2)
    assert price("vllm/llava", 1, 1) is None


def test_cached_tokens_cost_as_others_unless_it_is_said() -> None:
    assert Price(input=4).of(1_000_000, 0, 1_000_000) == pytest.approx(4)


def test_a_price_below_nothing_is_refused() -> None:
    with pytest.raises(ValidationError):
        Price(input=-1)


def test_counting_tokens_loads_no_price() -> None:
    script = "import sys; from sensorium import pricing; pricing.estimate('gemini/3', 9, 9); print('genai_prices' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
