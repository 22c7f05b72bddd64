"""Text without a tokenizer: never far too few."""

from __future__ import annotations

import pytest

from sensorium.pricing import words

# What OpenAI's o200k makes of each.
COUNTED = {
    "How much is this?": 5,
    "Describe this picture in detail.": 6,
    "List every product with its price as JSON.": 9,
    "描述这张图片": 4,
    "请列出图片中所有的文字,并翻译成英文。": 15,
    "この画像を説明してください。": 6,
    "이 사진을 설명해 주세요.": 7,
    "Опиши эту картинку подробно.": 7,
    "Décrivez précisément cette photographie.": 7,
    "Größe und Gewicht der Päckchen?": 9,
    "ما هو المكتوب على اللافتة؟": 9,
    '{"price": 13.37, "sku": "9e3779b1"}': 19,
    "def area(width: int, height: int) -> int:\n    return width * height\n": 19,
}


@pytest.mark.parametrize("text", COUNTED)
def test_words_are_not_fewer_than_a_real_tokenizer_s_and_not_three_times_as_many(text: str) -> None:
    assert COUNTED[text] <= words(text) <= 2.5 * COUNTED[text]


def test_nothing_is_no_token() -> None:
    assert words("") == 0


def test_chinese_is_not_counted_by_the_word() -> None:
    assert words("这张图片里有什么动物") == 10


def test_more_text_has_more_tokens() -> None:
    assert words("one two three") < words("one two three four")
    assert words("a " * 1000) >= 1000


def test_a_million_signs_are_counted_in_linear_time() -> None:
    assert words("a1+/" * 250_000) >= 500_000
    assert words("-" * 1_000_000) < 100_000
    assert words("aZ" * 500_000) > 100_000
