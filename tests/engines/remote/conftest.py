"""What all tests of remote engines start from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from sensorium.config import Settings
from sensorium.registry import Registry
from sensorium.service import Sensorium
from tests.upstream import Upstream, upstream

KINDS = ("openai", "anthropic", "gemini")
VARIABLES = {"openai": "OPENAI", "anthropic": "ANTHROPIC", "gemini": "GEMINI"}


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[Upstream]:
    with upstream() as provider:
        yield provider


@pytest.fixture
def provider(shared_provider: Upstream) -> Upstream:
    shared_provider.forget()
    return shared_provider


@pytest.fixture(autouse=True)
def environment(provider: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider stands in for all, as users would tell it: by environment variables."""
    for kind, prefix in VARIABLES.items():
        monkeypatch.setenv(f"{prefix}_BASE_URL", getattr(provider, kind))
        monkeypatch.setenv(f"{prefix}_API_KEY", f"key-of-{kind}")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Callable[..., Sensorium]]:
    """Makes services without a cache, which ask once and at once; cards are texts of TOML."""
    async with AsyncExitStack() as stack:

        async def make(*cards: str, **settings: Any) -> Sensorium:
            for number, card in enumerate(cards):
                (tmp_path / f"{number}.toml").write_text(card, encoding="utf-8")
            once = {"provider_attempts": 1, "provider_requests_per_minute": 0, "provider_concurrent": 0, "cache": "off"}
            told = Settings(cache_dir=tmp_path / "cache", models_dir=tmp_path, **{**once, **settings})
            made = Sensorium(told, Registry(tmp_path))
            return await stack.enter_async_context(made)

        yield make  # type: ignore[misc]
