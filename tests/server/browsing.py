"""A real browser for tests of the server's pages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import which
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def browser(*arguments: str) -> Iterator[Any]:
    """One that is installed; where none is, the test is skipped."""
    found = next(filter(None, map(which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")

    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=found, args=[*arguments, *(["--no-sandbox"] if as_root else [])]
        )
        yield started
        started.close()


@contextmanager
def fresh_page(started: Any, **settings: Any) -> Iterator[Any]:
    """A page that remembers what was asked for, and what was wrong."""
    context = started.new_context(**{"viewport": {"width": 1200, "height": 900}, **settings})
    opened = context.new_page()
    opened.asked, opened.wrong = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("console", lambda message: message.type == "error" and opened.wrong.append(message.text))
    opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
    yield opened
    context.close()
