"""The page at /docs, in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import expect

from tests.pictures import photograph
from tests.server import browsing
from tests.server.conftest import Server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing.browser() as started:
        yield started


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with browsing.fresh_page(browser) as opened:
        yield opened


def show(page: Any, address: str) -> None:
    page.goto(f"{address}/docs")
    page.wait_for_selector("article")


def described(server: Server) -> dict[str, Any]:
    document: dict[str, Any] = requests.get(f"{server.url}/openapi.json", timeout=10).json()
    return document


def test_every_route_and_type_is_shown_and_nothing_comes_from_elsewhere(page: Any, server: Server) -> None:
    show(page, server.url)
    document = described(server)
    routes = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    assert set(page.eval_on_selector_all("[data-route]", "all => all.map(one => one.dataset.route)")) == routes
    for name in document["components"]["schemas"]:
        assert page.locator(f"#type-{name}").count() == 1
    words = page.evaluate("document.body.textContent")
    assert not [wrong for wrong in ("[object", "undefined", "NaN") if wrong in words]
    assert "4bf92f3577b34da6" in words, "examples are shown"
    assert all(address.startswith((server.url, "data:", "blob:")) for address in page.asked)
    assert page.wrong == []


def test_a_picture_is_classified(page: Any, server: Server, tmp_path: Path) -> None:
    (tmp_path / "coffee.jpg").write_bytes(photograph())
    show(page, server.url)
    route = page.locator('[data-route="POST /v1/classify"]')
    if not route.locator("form").is_visible():
        route.get_by_text("Try it").click()
    route.get_by_label("image", exact=True).set_input_files(tmp_path / "coffee.jpg")
    route.get_by_label("top_k").fill("2")
    route.get_by_role("button", name="Send").click()
    expect(route.locator(".outcome")).to_have_text(re.compile(r"200 after \d+ ms"))
    answer = json.loads(route.locator(".answer").inner_text())
    assert answer["image"] == {"width": 600, "height": 400, "format": "jpeg", "scale": 1.0}
    assert len(answer["labels"]) <= 2
    assert route.locator(".previews img").evaluate("image => image.naturalWidth") == 600
    route.get_by_text("As a command").click()
    assert "-F image=@coffee.jpg --form-string top_k=2" in route.locator("pre").all_inner_texts()[-2]
    assert page.wrong == []


def test_an_error_is_shown_as_the_server_tells_it(page: Any, server: Server) -> None:
    show(page, server.url)
    route = page.locator('[data-route="POST /v1/read"]')
    route.get_by_text("Try it").click()
    route.get_by_role("button", name="Send").click()
    expect(route.locator(".outcome")).to_have_text(re.compile(r"400 after \d+ ms"))
    assert "No picture was sent" in route.locator(".answer").inner_text()


def test_a_health_route_is_asked_with_the_key(page: Any, server: Server) -> None:
    show(page, server.url)
    keys: list[str | None] = []
    page.on("request", lambda request: keys.append(request.headers.get("authorization")))
    page.get_by_label("Key", exact=True).fill("the-key")
    route = page.locator('[data-route="GET /health/live"]')
    route.get_by_text("Try it").click()
    route.get_by_role("button", name="Send").click()
    expect(route.locator(".outcome")).to_have_text(re.compile(r"200 after \d+ ms"))
    assert keys == ["Bearer the-key"]
    assert "the-key" not in page.url


def test_it_fits_a_phone_and_every_control_has_a_name(page: Any, server: Server) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    show(page, server.url)
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    nameless = "all => all.filter(one => !one.labels.length).map(one => one.outerHTML)"
    assert page.eval_on_selector_all("input, select", nameless) == []
    assert page.eval_on_selector_all(
        "*",
        "all => new Set(all.map(one => one.id)).size > 1 && all.filter(one => one.id).length === new Set(all.filter(one => one.id).map(one => one.id)).size",
    )
    dead = "all => all.filter(one => !document.querySelector(one.getAttribute('href'))).map(one => one.outerHTML)"
    assert page.eval_on_selector_all("a[href^='#']", dead) == []


def test_hostile_words_stay_words_and_foreign_scripts_do_not_run(page: Any, server: Server) -> None:
    document = described(server)
    document["info"]["summary"] = "<img src=x onerror=window.broken=1><script>window.broken=1</script>"
    page.route("**/openapi.json", lambda route: route.fulfill(json=document))
    show(page, server.url)
    assert page.locator("#about").inner_text() == document["info"]["summary"]
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.broken=1'}))"
    )
    assert page.evaluate("window.broken") is None
    assert any("Content Security Policy" in wrong for wrong in page.wrong)


def test_a_server_that_asks_for_a_key_is_described_once_it_is_given(page: Any, server: Server) -> None:
    def guarded(route: Any) -> None:
        if route.request.headers.get("authorization") == "Bearer the-key":
            route.continue_()
        else:
            route.fulfill(status=401, json={})

    page.route("**/openapi.json", guarded)
    page.goto(f"{server.url}/docs")
    page.get_by_text("asks for a key").wait_for()
    page.get_by_label("Key", exact=True).fill("the-key")
    page.get_by_role("button", name="Use").click()
    page.wait_for_selector("article")
