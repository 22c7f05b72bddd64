"""The page at `/`, in a real browser. Screenshots of its views go to the folder that SENSORIUM_SCREENSHOTS names, else to
pytest's own."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from playwright.sync_api import expect

from tests.keyring import kept_key
from tests.pictures import JUNK, encoded, jpeg, photograph, png
from tests.server import browsing
from tests.server.conftest import Server, eventually, running
from tests.server.relay import Relay, relay
from tests.upstream import Upstream, upstream

HEAVIEST = 200_000
"""Bytes of all that the page is made of, with the description of the server that it reads."""

TASKS = ("classify", "read", "describe_pixels", "detect", "faces", "ask")
BOX = {"left": 40, "top": 30, "right": 200, "bottom": 180}
"""Where the fake model finds a dog."""
RED = (209, 17, 73)
"""The first colour of marks."""

HALTING = """name = "halting"
kind = "openai"
tasks = ["ask"]
licence = "NOASSERTION"
remote = true
[quirks]
base_url = "{url}"
model = "stall-2"
"""

DROP = """([name, kind, data, text]) => {
  const carried = new DataTransfer();
  if (data) carried.items.add(new File([Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0))], name, { type: kind }));
  if (text) carried.setData("text/plain", text);
  document.querySelector("#stage").dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: carried }));
}"""

SHIFTS = """window.shifts = [];
new PerformanceObserver((list) => window.shifts.push(...list.getEntries().map((one) => [one.value, one.hadRecentInput])))
  .observe({ type: "layout-shift", buffered: true });"""


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with upstream() as provider:
        yield provider


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, provider: Upstream) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "models").mkdir()
    (folder / "models" / "halting.toml").write_text(HALTING.format(url=provider.openai), encoding="utf-8")
    limits = {
        "provider_requests_per_minute": 0,
        "provider_concurrent": 0,
        "job_workers": 0,
        "heartbeat_seconds": 0.2,
        "cache": "off",
    }
    with running(folder, waiting=64, models={task: ["fake"] for task in TASKS}, **limits) as started:
        yield started


@pytest.fixture(autouse=True)
def _forgetful(provider: Upstream) -> Iterator[None]:
    yield
    provider.release()
    assert eventually(lambda: provider.at_once == 0, 15), "nothing is left at work"
    provider.forget()


@pytest.fixture
def network(server: Server) -> Iterator[Relay]:
    with relay(server.port) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing.browser("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream") as started:
        yield started


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with browsing.fresh_page(browser) as opened:
        yield opened


@pytest.fixture(scope="session")
def screens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("SENSORIUM_SCREENSHOTS") or tmp_path_factory.mktemp("screens"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def show(page: Any, address: str, view: str = "") -> None:
    page.goto(f"{address}/{view}")
    page.locator("#task").wait_for(state="attached" if view else "visible")


SIZED: dict[str, Any] = {"image": {"width": 600, "height": 400, "format": "jpeg", "scale": 1.0}}


def noise(width: int, height: int) -> bytes:
    """A picture that no format makes small."""
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG", quality=100, subsampling=0)


LAST = {"": "#task", "#jobs": "#jobs .title ~ *", "#server": ".card.numbers tbody"}
"""What comes last in each view."""


def drop(page: Any, data: bytes, name: str = "cat.png", kind: str = "image/png") -> None:
    page.evaluate(DROP, [name, kind, base64.b64encode(data).decode(), ""])


def choose(page: Any, task: str) -> None:
    page.locator(f"label[for=task-{task}]").click()


def look(page: Any, kind: str = "right") -> None:
    page.click("#go")
    page.wait_for_selector(f"#status.{kind}")


def ask(page: Any, prompt: str, model: str) -> None:
    choose(page, "ask")
    page.fill("#field-prompt", prompt)
    page.get_by_text("More settings").click()
    page.fill("#field-model", model)
    page.get_by_text("More settings").click()
    page.click("#go")


def tab(page: Any, name: str) -> str:
    page.get_by_role("tab", name=name).click()
    return str(page.locator("#panel").inner_text())


def answer(page: Any) -> Any:
    tab(page, "JSON")
    return json.loads(page.locator("#panel code").inner_text())


def spot(page: Any, x: float, y: float) -> tuple[int, int]:
    """Where a pixel of the picture is on the screen."""
    at = page.locator(".frame img").bounding_box()
    wide, high = page.locator(".frame img").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    return round(at["x"] + x * at["width"] / wide), round(at["y"] + y * at["height"] / high)


def is_near(screen: Image.Image, place: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    """Whether the colour is within two pixels of the place."""
    x, y = place
    around = np.asarray(screen, dtype=int)[y - 2 : y + 3, x - 2 : x + 3]
    return bool((np.abs(around - colour).max(axis=-1) < 40).any())


def words(page: Any) -> str:
    return str(page.evaluate("document.body.textContent"))


def test_browsers_get_the_page_and_programs_what_they_had(server: Server) -> None:
    for accept in ("", "*/*", "application/json", "application/json, text/html"):
        reply = requests.get(server.url, headers={"Accept": accept}, timeout=10)
        assert reply.json()["name"] == "sensorium"
        assert reply.headers["Vary"] == "Accept"
    reply = requests.get(server.url, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}, timeout=10)
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "require-trusted-types-for 'script'" in reply.headers["Content-Security-Policy"]
    assert "unsafe" not in reply.headers["Content-Security-Policy"]
    named = re.findall(r'(?:src|href)="(ui/[^"]+)"', reply.text)
    assert len(named) == 3
    for path in named:
        assert requests.get(f"{server.url}/{path}", timeout=10).headers["X-Content-Type-Options"] == "nosniff"


def test_the_description_is_squeezed_for_those_who_take_it(server: Server) -> None:
    plain = requests.get(f"{server.url}/openapi.json", headers={"Accept-Encoding": "identity"}, timeout=10)
    squeezed = requests.get(f"{server.url}/openapi.json", headers={"Accept-Encoding": "gzip"}, stream=True, timeout=10)
    assert "Content-Encoding" not in plain.headers
    assert int(squeezed.headers["Content-Length"]) < len(plain.content) / 4
    assert squeezed.json() == plain.json()


def test_a_dropped_picture_shows_its_boxes_at_the_right_pixels(page: Any, server: Server, screens: Path) -> None:
    show(page, server.url)
    choose(page, "detect")
    drop(page, png(600, 400, (128, 128, 128)))
    look(page)
    page.mouse.move(0, 0)
    screen = Image.open(io.BytesIO(page.screenshot(path=screens / "detect.png"))).convert("RGB")
    middle = (BOX["left"] + BOX["right"]) / 2, (BOX["top"] + BOX["bottom"]) / 2
    edges = [
        (BOX["left"], middle[1]),
        (BOX["right"], middle[1]),
        (middle[0], BOX["bottom"]),
        (BOX["right"] - 30, BOX["top"]),
    ]
    for x, y in edges:
        assert is_near(screen, spot(page, x, y), RED), (x, y)
    for x, y in (*((x + 12, y + 12) for x, y in edges), middle, (300, 200)):
        assert not is_near(screen, spot(page, x, y), RED), (x, y)
    assert page.locator(".captions").inner_text() == "dog 91 %"
    assert answer(page)["objects"][0]["box"] == BOX
    assert page.wrong == []


def test_a_turned_photograph_is_upright_and_so_are_its_boxes(page: Any, server: Server, screens: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    show(page, server.url)
    choose(page, "faces")
    with Image.open(io.BytesIO(photograph())) as picture:
        drop(page, encoded(picture, "JPEG", exif=turned), "turned.jpg", "image/jpeg")
    look(page)
    assert page.locator(".frame img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [400, 600]
    assert page.locator(".frame svg").get_attribute("viewBox") == "0 0 400 600"
    at = page.locator(".frame").bounding_box()
    assert at["width"] / at["height"] == pytest.approx(400 / 600, rel=0.01)
    stage = page.locator("#stage").bounding_box()
    assert at["height"] <= stage["height"]
    assert at["width"] <= stage["width"]
    assert page.locator(".mark .dot:not(.under)").count() == 3
    page.screenshot(path=screens / "faces.png")


def test_an_answer_about_several_pictures_is_drawn_on_each_of_them(page: Any, server: Server) -> None:
    about = {"width": 600, "height": 400, "format": "png", "scale": 1.0}
    told = {"faces": [{"image": about, "box": BOX}, {"image": about, "box": {**BOX, "left": 20}}], "same": True}
    page.route("**/v1/compare", lambda route: route.fulfill(json=told))
    show(page, server.url)
    choose(page, "compare")
    drop(page, png(600, 400), "a.png")
    drop(page, png(600, 400), "b.png")
    look(page)
    drawn = page.locator(".grid .mark .line").evaluate_all("all => all.map((one) => one.getAttribute('d'))")
    assert drawn == ["M40 30L200 30L200 180L40 180Z", "M20 30L200 30L200 180L20 180Z"]
    assert page.locator(".facts").inner_text().split() == ["Same", "yes"]


def test_an_answer_that_is_a_picture_is_shown_in_its_place(page: Any, server: Server) -> None:
    blurred = noise(1200, 800)
    assert len(blurred) > 2_000_000
    told = {**SIZED, "media_type": "image/jpeg", "width": 600, "height": 400}
    told["data"] = base64.b64encode(blurred).decode()
    page.route("**/v1/detect", lambda route: route.fulfill(json=told))
    show(page, server.url)
    choose(page, "detect")
    drop(page, png(600, 400), "at the sea.v2.png")
    look(page)
    expect(page.locator(".frame img")).to_have_attribute("src", re.compile("^blob:"))
    assert page.locator(".frame img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 1200
    with page.expect_download() as saved:
        page.locator(".corner").get_by_text("Save").click()
    assert saved.value.path().read_bytes() == blurred
    assert saved.value.suggested_filename == "at the sea.v2-detect.jpg"
    assert page.locator("#outcome img, #outcome a[download]").count() == 0, "it stands once"
    assert page.wrong == []


def test_an_answer_that_no_picture_was_sent_for_is_shown_among_the_words(page: Any, server: Server) -> None:
    told = {"media_type": "image/png", "width": 60, "height": 40, "data": base64.b64encode(png(60, 40)).decode()}
    answers(page, "tokens", json=told)
    show(page, server.url)
    choose(page, "tokens")
    look(page)
    expect(page.locator("#outcome img.given")).to_be_visible()
    expect(page.locator("#outcome a[download]")).to_have_attribute("download", "picture.png")


@pytest.mark.slow
@pytest.mark.skipif(which("curl") is None, reason="curl is not installed")
def test_covered_faces_are_saved_by_what_is_shown(
    page: Any, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "we.jpg").write_bytes(photograph())
    show(page, server.url)
    choose(page, "blur_faces")
    page.set_input_files("#files", tmp_path / "we.jpg")
    look(page)
    with page.expect_download() as saved:
        page.get_by_text("Save").click()
    assert saved.value.suggested_filename == "we-covered.jpg"
    covered = saved.value.path().read_bytes()
    for name in ("curl", "Python"):
        shown = page.get_by_role("tab", name=name).click() or page.locator("#panel code").inner_text()
        command = ["bash", "-c", shown] if name == "curl" else [sys.executable, "-c", shown]
        monkeypatch.chdir(tmp_path)
        done = subprocess.run(command, capture_output=True, timeout=30, check=True)
        assert done.stdout == b"", name
        assert (tmp_path / "out.jpg").read_bytes() == covered, name
        (tmp_path / "out.jpg").unlink()


def test_each_of_several_pictures_is_saved_as_what_it_is(page: Any, server: Server) -> None:
    show(page, server.url)
    choose(page, "blur_faces")
    drop(page, png(), "a.png")
    drop(page, png(), "b.gif")
    drop(page, png(), "c.jpeg")
    expect(page.locator(".grid li")).to_have_count(3)
    assert re.findall(r"-o (\S+)", tab(page, "curl")) == ["out-1.png", "out-2.png", "out-3.jpg"]
    saved = ['blur_faces("a.png").save("out-1.png")', 'blur_faces("b.gif").save("out-2.png")']
    assert all(one in tab(page, "Python") for one in saved)
    page.get_by_text("More settings").click()
    page.select_option("#field-format", "webp")
    assert 'blur_faces("c.jpeg", format="webp").save("out-3.webp")' in tab(page, "Python")


def test_no_number_is_rounded_to_certainty(page: Any, server: Server) -> None:
    scores = {0: "0", 4e-5: "0.004", 0.0049: "0.49", 0.5: "50", 0.985: "99", 0.9967: "99.7", 0.99999: "99.9", 1: "100"}
    answers(page, "faces", json={**SIZED, "faces": [{"box": BOX, "score": score} for score in scores]})
    show(page, server.url)
    choose(page, "faces")
    drop(page, png(600, 400))
    look(page)
    told = [f"{score} %" for score in scores.values()]
    assert page.locator(".share").all_inner_texts() == told
    assert page.locator(".captions span").all_inner_texts() == told


def test_rates_of_errors_are_explained_and_have_no_bars(page: Any, server: Server) -> None:
    rates = {"same": True, "score": 0.93, "false_match_rate": 0.0017, "false_non_match_rate": 0.943}
    answers(page, "compare_faces", json={**rates, "faces": [{**SIZED, "box": BOX}] * 2})
    show(page, server.url)
    choose(page, "compare_faces")
    drop(page, png(), "a.png")
    drop(page, png(), "b.png")
    look(page)
    facts = page.locator(".facts")
    assert facts.locator(".meter").count() == 1, "that of the score"
    schema = requests.get(f"{server.url}/openapi.json", timeout=10).json()["components"]["schemas"]["FaceComparison"]
    meanings = [schema["properties"][name]["description"] for name in list(rates)[2:]]
    assert facts.locator(".help").all_inner_texts() == [" ".join(one.split()) for one in meanings]
    assert "94 %" in facts.inner_text()


def test_what_is_pointed_at_in_the_table_is_lit_in_the_picture(page: Any, server: Server) -> None:
    show(page, server.url)
    choose(page, "read")
    drop(page, photograph(), "page.jpg", "image/jpeg")
    look(page)
    assert page.locator(".plate text").text_content() == "中国 EXIT"
    page.locator("tbody tr").hover()
    expect(page.locator(".mark.on")).to_have_count(1)
    page.mouse.move(0, 0)
    expect(page.locator(".mark.on")).to_have_count(0)
    page.get_by_label("Captions").uncheck()
    expect(page.locator(".plate")).to_be_hidden()


@pytest.mark.skipif(which("curl") is None, reason="curl is not installed")
def test_the_command_and_the_python_that_are_shown_give_the_answer(
    page: Any, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = 'it\'s; touch hacked, $(touch hacked) "q" .jpg'
    (tmp_path / name).write_bytes(photograph())
    show(page, server.url)
    choose(page, "classify")
    page.set_input_files("#files", tmp_path / name)
    page.fill("#field-top_k", "2")
    look(page)
    shown = answer(page)
    command = page.get_by_role("tab", name="curl").click() or page.locator("#panel code").inner_text()
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=20, check=True)
    told = json.loads(done.stdout)
    assert {**told, "meta": None} == {**shown, "meta": None}
    code = page.get_by_role("tab", name="Python").click() or page.locator("#panel code").inner_text()
    monkeypatch.chdir(tmp_path)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True)
    assert b"golden retriever" in ran.stdout
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_hostile_names_and_answers_stay_words(page: Any, server: Server) -> None:
    hostile = "<img src=x onerror=window.broken=1><script>window.broken=1</script>"
    show(page, server.url)
    choose(page, "read")
    answered = requests.post(f"{server.url}/v1/read", files={"image": png(600, 400)}, timeout=10).json()
    answered["lines"][0]["text"] = hostile
    answered[hostile] = hostile
    answered["crop"] = "data:image/svg+xml;base64,PHN2Zz48L3N2Zz4="
    page.route("**/v1/read", lambda route: route.fulfill(json=answered))
    name = hostile.replace("/", "-") + ".png"
    drop(page, png(600, 400), name)
    look(page)
    for one in ("Answer", "JSON", "curl", "Python"):
        assert "onerror" in tab(page, one), one
    assert page.locator(".frame img").get_attribute("alt") == name
    assert page.locator("#look script, #outcome img").count() == 0
    assert page.evaluate("window.broken") is None
    refused = "() => { try { document.body.innerHTML = '<b>x</b>'; return false; } catch { return true; } }"
    assert page.evaluate(refused), "the browser itself refuses to make markup of text"


NONSENSE: tuple[Any, ...] = (
    b"null",
    b"7",
    b"[]",
    b"<html>Sign in</html>",
    b"",
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b"[" * 50_000 + b"]" * 50_000,
    {},
    {"image": None, "meta": None, "objects": None},
    {"image": {"width": 0, "height": -4}, "objects": [{"box": BOX, "score": 7}]},
    {"image": {"width": "600", "height": []}, "meta": {"skipped": 7, "usage": 7, "seconds": "x"}},
    {**SIZED, "objects": [{"box": {**BOX, "right": 1e300}}, None, [[[]]], {"polygon": [1, 2, 3], "landmarks": 5}]},
    {**SIZED, "media_type": "image/png", "data": "no base64"},
    {**SIZED, "media_type": ["image/png"], "data": "AAAA"},
    {"error": "busy"},
    {"results": [{"result": {}}]},
    {"__proto__": {"image": 1}, "constructor": 5, "toString": "x", "valueOf": None},
)
"""What no server of ours says."""


def answers(page: Any, task: str, **said: Any) -> None:
    """Have the task answered so, rather than by the server."""
    page.unroute(f"**/v1/{task}")
    page.route(f"**/v1/{task}", lambda route: route.fulfill(**said))


@pytest.mark.slow
def test_a_server_that_talks_nonsense_spoils_nothing(page: Any, server: Server) -> None:
    show(page, server.url)
    choose(page, "detect")
    drop(page, png(600, 400))
    for status in (200, 500):
        for said in NONSENSE:
            body = said if isinstance(said, bytes) else json.dumps(said).encode()
            answers(page, "detect", status=status, body=body)
            page.click("#go")
            page.wait_for_selector("#status.right, #status.wrong", timeout=5000)
            assert page.locator("#go.busy").count() == 0, said
            assert page.locator("#outcome .answer, #outcome .error").count() == 1, said
    page.unroute("**/v1/detect")
    look(page)
    assert page.locator(".captions").inner_text() == "dog 91 %"
    assert not [one for one in page.wrong if "status of 500" not in one and "<path>" not in one]


@pytest.mark.slow
def test_a_stream_of_nonsense_is_given_up_at_once(page: Any, server: Server) -> None:
    show(page, server.url)
    for events in (
        "id: 1\ndata: null\n\n",
        "id: 1\ndata: {broken\n\n",
        "id: 1\nevent: result\ndata: []\n\n",
        "id: 1\n\n",
    ):
        answers(page, "ask", body=events, content_type="text/event-stream")
        ask(page, "What is it?", "halting")
        page.wait_for_selector("#status.wrong")
        assert "answer" in page.locator(".error").inner_text(), events


def test_too_few_answers_for_several_pictures_are_said(page: Any, server: Server) -> None:
    show(page, server.url)
    choose(page, "detect")
    drop(page, png(), "a.png")
    drop(page, png(), "b.png")
    short: tuple[dict[str, Any], ...] = ({"results": [{"result": {}}]}, {"results": 2}, {})
    for told in short:
        answers(page, "detect", json=told)
        look(page, "wrong")
        assert "no answer of this server" in page.locator(".error").inner_text()
    answers(page, "detect", json={"results": [None, {"result": {}}]})
    look(page)
    assert page.locator(".grid .sign").all_inner_texts() == ["!", "✓"]


def test_errors_that_are_markup_stay_words(page: Any, server: Server) -> None:
    hostile = "<img src=x onerror=window.broken=1>"
    show(page, server.url)
    choose(page, "detect")
    drop(page, png())
    told = {"error": {"message": f"{hostile} `{hostile}`", "code": hostile, "trace": hostile}}
    page.route("**/v1/detect", lambda route: route.fulfill(status=400, json=told))
    look(page, "wrong")
    assert page.locator(".error").inner_text().count(hostile) == 4
    assert page.locator(".error img").count() == 0
    assert page.evaluate("window.broken") is None


@pytest.mark.slow
def test_ten_thousand_boxes_are_shown_in_part_and_told_in_full(page: Any, server: Server) -> None:
    boxes = [{"name": f"thing {n}", "score": 0.5, "box": {**BOX, "left": n % 39}} for n in range(10_000)]
    page.route("**/v1/detect", lambda route: route.fulfill(json={**SIZED, "objects": boxes}))
    show(page, server.url)
    choose(page, "detect")
    drop(page, png(600, 400))
    look(page)
    assert page.locator(".mark").count() == 2000
    assert page.locator("tbody tr").count() == 500
    assert "and 9500 more, in JSON" in page.locator("#panel").inner_text()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown = tab(page, "JSON")
    assert len(shown) < 250_000
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied["objects"] == boxes


@pytest.mark.slow
def test_two_hundred_pictures_are_offered_as_a_job_and_let_go(page: Any, server: Server) -> None:
    page.add_init_script("""window.held = new Set();
        const [make, drop] = [URL.createObjectURL, URL.revokeObjectURL];
        URL.createObjectURL = (file) => { const made = make.call(URL, file); window.held.add(made); return made; };
        URL.revokeObjectURL = (made) => { window.held.delete(made); drop.call(URL, made); };""")
    show(page, server.url)
    choose(page, "detect")
    picture = {"mimeType": "image/png", "buffer": png()}
    page.set_input_files("#files", [{"name": f"{number}.png", **picture} for number in range(200)])
    expect(page.locator(".grid li")).to_have_count(200)
    assert page.get_by_label("As a job").is_checked()
    assert page.evaluate("window.held.size") == 200
    page.get_by_label("× 7.png", exact=True).click()
    assert page.evaluate("window.held.size") == 199
    page.get_by_role("button", name="Clear").click()
    assert page.evaluate("window.held.size") == 0


def test_faces_are_drawn_and_told_with_all_that_is_known_of_them(page: Any, server: Server) -> None:
    chip = f"data:image/jpeg;base64,{base64.b64encode(jpeg(150, 150)).decode()}"
    marks = {
        "left_eye": [70, 70],
        "right_eye": [150, 72],
        "nose_tip": [110, 110],
        "mouth_left": [80, 140],
        "mouth_right": [140, 141],
    }
    face = {"box": BOX, "score": 0.97, "landmarks": marks, "embedding": [0.125] * 128, "crop": chip, "live": 0.5}
    page.route("**/v1/faces", lambda route: route.fulfill(json={**SIZED, "faces": [face]}))
    show(page, server.url)
    choose(page, "faces")
    drop(page, png(600, 400))
    look(page)
    drawn = page.locator(".mark .dot:not(.under)").evaluate_all("all => all.map((one) => one.getAttribute('d'))")
    assert drawn == [f"M{x} {y}h0" for x, y in marks.values()]
    row = page.locator("tbody tr")
    assert "128 numbers" in row.inner_text()
    assert "5 points" in row.inner_text()
    assert row.locator("td").first.locator("img").count() == 1, "what a face looks like comes first"
    assert row.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 150
    assert page.wrong == []


def test_scores_in_a_crowd_are_told_of_what_is_pointed_at(page: Any, server: Server) -> None:
    boxes = [{"box": {"left": 40 * n, "top": 50, "right": 40 * n + 30, "bottom": 90}, "score": 0.9} for n in range(12)]
    answers(page, "faces", json={**SIZED, "faces": boxes})
    show(page, server.url)
    choose(page, "faces")
    drop(page, png(600, 400))
    look(page)
    page.mouse.move(0, 0)
    told = page.locator(".captions span:visible")
    expect(told).to_have_count(0)
    page.locator("tbody tr").nth(3).hover()
    expect(told).to_have_count(1)
    answers(page, "faces", json={**SIZED, "faces": boxes[:4]})
    look(page)
    page.mouse.move(0, 0)
    expect(told).to_have_count(4)


def in_sight(page: Any, selector: str) -> bool:
    """Whether it begins within a phone's screen, and much of it is there."""
    at = page.locator(selector).bounding_box()
    return bool(at["y"] >= 0 and at["y"] + min(at["height"], 200) <= 740)


def test_on_a_phone_what_came_is_in_sight(browser: Any, server: Server) -> None:
    with browsing.fresh_page(browser, viewport={"width": 360, "height": 740}) as page:
        show(page, server.url)
        drop(page, png(600, 400))
        choose(page, "detect")
        look(page)
        assert in_sight(page, "#stage")
        choose(page, "classify")
        look(page)
        assert in_sight(page, "#outcome")
        page.get_by_role("link", name="Server").click()
        page.locator(".card.numbers tbody").wait_for()
        assert in_sight(page, "header"), "views are turned to, not scrolled to"


def described(page: Any, path: str, fields: dict[str, Any], name: str = "compare_faces", **more: Any) -> None:
    """Have the server say that it has a task more."""

    def told(route: Any) -> None:
        document = route.fetch().json()
        schema = {"properties": fields, "required": list(fields), "type": "object"}
        body = {"content": {kind: {"schema": schema} for kind in ("multipart/form-data", "application/json")}}
        document["paths"][path] = {"post": {"tags": ["tasks"], "operationId": name, "requestBody": body, **more}}
        route.fulfill(json=document)

    page.route("**/openapi.json", told)


def test_a_task_about_two_pictures_takes_two(page: Any, server: Server) -> None:
    faces = [{"image": {"width": w, "height": 400}, "box": BOX} for w in (600, 300)]
    rates = {"same": True, "distance": 0.41, "score": 0.93, "false_match_rate": 0.0017, "false_non_match_rate": 0.03}
    page.route("**/v1/compare_faces", lambda route: route.fulfill(json={**rates, "faces": faces}))
    show(page, server.url)
    choose(page, "compare_faces")
    drop(page, png(600, 400), "a.png")
    look(page, "wrong")
    assert page.locator("#status").inner_text() == "Add 2 pictures first."
    drop(page, png(600, 400), "b.png")
    with page.expect_request("**/v1/compare_faces") as sent:
        look(page)
    assert re.findall(r'name="(\w+)"; filename="(.+?)"', sent.value.post_data) == [
        ("images", "a.png"),
        ("images", "b.png"),
    ]
    assert [page.locator(".frame").nth(place).locator(".mark").count() for place in range(2)] == [1, 1]
    rows = page.locator("tbody tr")
    assert [row.split("\t")[0].strip() for row in rows.all_inner_texts()] == ["600 × 400", "300 × 400"]
    rows.nth(1).hover()
    lit = page.locator(".frame").nth(1).locator(".mark.on")
    expect(lit).to_have_count(1)
    expect(page.locator(".mark.on")).to_have_count(1)
    told = page.locator(".facts").inner_text()
    assert "0.17 %" in told
    assert "3 %" in told
    page.set_input_files("#files", [{"name": f"{n}.png", "mimeType": "image/png", "buffer": png()} for n in range(3)])
    look(page, "wrong")
    assert page.locator("#status").inner_text() == "This takes 2 pictures. Remove the others."


@pytest.mark.slow
def test_a_description_of_tasks_is_hostile_too(page: Any, server: Server) -> None:
    hostile = "<img src=x onerror=window.broken=1>"
    file = {"type": "string", "format": "binary"}
    fields = {"image": file, hostile: {"type": "string"}, "note": {"type": "string", "description": hostile}}
    described(page, "///evil.example/v1/x", fields, name="guess", summary=hostile)
    show(page, server.url)
    choose(page, "guess")
    assert page.locator(".summary").inner_text() == hostile
    assert page.locator("#field-note-help").text_content() == hostile
    assert page.locator("#task img").count() == 0
    drop(page, png())
    look(page, "wrong")
    assert all(address.startswith((server.url, "data:", "blob:")) for address in page.asked)
    assert f"{server.url}/evil.example/v1/x" in tab(page, "curl")
    page.unroute("**/openapi.json")
    described(page, "/v1/x", {"image": file}, name="x(); import os; os.remove")
    page.reload()
    page.wait_for_selector("#task:not([hidden])")
    assert "import os" not in words(page), "what is no name of a task is offered to nobody"


def test_what_is_no_picture_is_said(page: Any, server: Server) -> None:
    show(page, server.url)
    drop(page, b"%PDF-1.7", "notes.pdf", "application/pdf")
    expect(page.locator("#status")).to_have_text("That is no picture, and no URL of one.")
    for address in ("javascript:alert(1)", "ftp://example.com/cat.jpg", "data:text/html,<script>alert(1)</script>"):
        drop(page, png(), "cat.png")
        expect(page.locator("#status")).to_have_text("")
        page.fill("#address", address)
        page.keyboard.press("Enter")
        expect(page.locator("#status")).to_have_text("That is no picture, and no URL of one.")
        page.get_by_role("button", name="Clear").click()
    assert page.locator(".frame").count() == 0


def test_a_drawing_runs_nothing_even_on_a_page_of_its_own(page: Any, server: Server) -> None:
    drawing = b"""<svg xmlns="http://www.w3.org/2000/svg" width="60" height="40" onload="document.title = 'broken'">
        <script>document.title = "broken"</script><image href="https://evil.example/x.png"/></svg>"""
    show(page, server.url)
    drop(page, drawing, "drawing.svg", "image/svg+xml")
    page.wait_for_selector(".frame.sized")
    with page.context.expect_page() as opened:
        page.evaluate("window.open(document.querySelector('.frame img').src) && null")
    opened.value.wait_for_load_state()
    assert opened.value.locator("svg").count() == 1
    assert opened.value.title() != "broken"
    assert page.title() == "sensorium"
    assert all(address.startswith((server.url, "data:", "blob:")) for address in page.asked)


def test_a_page_that_opens_this_one_has_no_hold_of_it(page: Any, server: Server, network: Relay) -> None:
    show(page, network.url)
    with page.context.expect_page() as opened:
        page.evaluate(f"window.hold = window.open('{server.url}/'); null")
    opened.value.wait_for_selector("#task:not([hidden])")
    assert opened.value.evaluate("window.opener") is None
    assert page.evaluate("window.hold.closed"), "as far as the opener can see"


def test_a_proxy_that_knows_people_by_cookies_lets_the_page_ask(page: Any, server: Server) -> None:
    page.context.add_cookies([{"name": "session", "value": "s3", "url": server.url}])
    with page.expect_request("**/openapi.json") as asked:
        show(page, server.url)
    assert asked.value.all_headers().get("cookie") == "session=s3"


def test_a_model_s_words_are_never_markup(page: Any, server: Server, provider: Upstream) -> None:
    provider.answer = "<img src=x onerror=window.broken=1> and [a](javascript:window.broken=1)"
    provider.release()
    show(page, server.url)
    ask(page, "What is it?", "halting")
    page.wait_for_selector("#status.right")
    assert page.locator(".said").inner_text() == provider.answer
    assert page.evaluate("window.broken") is None


def test_an_answer_streams_and_survives_a_lost_connection(
    page: Any, network: Relay, provider: Upstream, screens: Path
) -> None:
    places: list[str] = []
    page.on("request", lambda one: places.extend([one.headers["last-event-id"]] if "/v1/streams/" in one.url else []))
    page.clock.install()
    show(page, network.url)
    ask(page, "What is it?", "halting")
    begun = page.locator(".answer.live .said")
    expect(begun).to_have_text("It is")
    page.screenshot(path=screens / "stream.png")
    network.cut()
    expect(page.locator("#status")).to_contain_text("Coming back")
    page.clock.fast_forward(2000)
    expect(page.locator("#status")).to_contain_text("(2)")
    page.screenshot(path=screens / "lost.png")
    assert network.refused >= 1
    assert provider.answer.startswith(begun.inner_text())
    network.mend()
    provider.release()
    page.clock.fast_forward(2000)
    page.wait_for_selector("#status.right")
    assert page.locator(".said").inner_text() == provider.answer
    assert len(provider.requests) == 1, "the same answer went on"
    assert len(places) >= 2
    assert len(set(places)) == 1, "it goes on after the last word that was heard"
    assert places[0].endswith(":3"), "which came after the stream's id and one other"


def test_signs_of_life_are_heard_and_silence_is_not_waited_for(page: Any, network: Relay, provider: Upstream) -> None:
    page.clock.install()
    show(page, network.url)
    ask(page, "What is it?", "halting")
    expect(page.locator(".answer.live .said")).not_to_be_empty()
    page.clock.fast_forward(20_000)
    page.evaluate("new Promise((done) => setTimeout(done, 500))")  # more than a heartbeat, by the page's own clock
    page.clock.fast_forward(20_000)
    expect(page.locator("#status")).to_have_text("Waiting for the answer…")
    network.hold()
    page.clock.fast_forward(31_000)
    expect(page.locator("#status")).to_contain_text("Coming back")
    network.flow()
    provider.release()
    page.clock.fast_forward(2000)
    page.wait_for_selector("#status.right")
    assert page.locator(".said").inner_text() == provider.answer


def test_an_answer_that_never_begins_is_given_up(page: Any, network: Relay) -> None:
    page.clock.install()
    show(page, network.url)
    network.hold()
    ask(page, "What is it?", "halting")
    expect(page.locator("#status")).to_have_text("Waiting for the answer…")
    page.clock.fast_forward(31_000)
    page.wait_for_selector("#status.wrong")
    assert "broke before the answer began" in page.locator(".error").inner_text()
    network.flow()


def test_stopping_ends_the_work_and_keeps_the_words(page: Any, server: Server, provider: Upstream) -> None:
    show(page, server.url)
    ask(page, "What is it?", "halting")
    begun = "It is"
    expect(page.locator(".answer.live .said")).to_have_text(begun)
    page.locator("#field-prompt").focus()
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_have_text("Stopped.")
    assert page.locator(".said").inner_text() == begun
    assert eventually(lambda: provider.at_once == 0), "nobody works on it any more"


def test_errors_are_told_as_the_server_tells_them(page: Any, server: Server, screens: Path) -> None:
    show(page, server.url)
    ask(page, "What is it?", "busy")
    page.wait_for_selector("#status.wrong")
    told = page.locator(".error").inner_text()
    assert "Model busy@1 fails" in told
    assert "overloaded" in told
    choose(page, "detect")
    page.click("#go")
    expect(page.locator("#status")).to_have_text("Add a picture first.")
    drop(page, JUNK, "junk.png")
    look(page, "wrong")
    assert "junk.png" in page.locator(".error").inner_text()
    assert page.locator(".board").count() == 1
    page.screenshot(path=screens / "error.png")


def test_a_server_that_is_gone_is_said(page: Any, network: Relay) -> None:
    show(page, network.url)
    choose(page, "detect")
    drop(page, png())
    network.cut()
    look(page, "wrong")
    assert "cannot be reached" in page.locator(".error").inner_text()
    network.mend()
    look(page)


def test_several_pictures_are_a_grid_and_one_that_is_bad_spoils_none(
    page: Any, server: Server, tmp_path: Path, screens: Path
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(320, 240, seed=number))
    (tmp_path / "bad.jpg").write_bytes(JUNK)
    show(page, server.url)
    choose(page, "detect")
    page.set_input_files("#files", sorted(tmp_path.iterdir()))
    expect(page.locator(".grid li")).to_have_count(4)
    look(page)
    signs = page.locator(".grid .sign").all_inner_texts()
    assert signs == ["✓", "✓", "✓", "!"]
    page.screenshot(path=screens / "grid.png")
    page.locator(".cell").nth(1).click()
    expect(page.locator(".captions")).to_have_text("dog 91 %")
    assert answer(page)["image"]["width"] == 320
    page.locator("#all").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".frame img")).to_have_attribute("alt", "0.jpg")
    page.keyboard.press("Escape")
    expect(page.locator(".grid li")).to_have_count(4)
    page.get_by_label("× bad.jpg").click()
    expect(page.locator(".grid li")).to_have_count(3)


def test_what_was_looked_at_makes_room_and_what_was_not_stays(page: Any, server: Server) -> None:
    show(page, server.url)
    choose(page, "compare")
    drop(page, png(), "a.png")
    drop(page, png(), "b.png")
    expect(page.locator(".grid li")).to_have_count(2)
    choose(page, "detect")
    look(page)
    drop(page, png(), "c.png")
    expect(page.locator(".frame img")).to_have_attribute("alt", "c.png")
    look(page)
    choose(page, "compare")
    drop(page, png(), "d.png")
    expect(page.locator(".grid li")).to_have_count(2)


def test_pictures_come_by_paste_and_by_url_and_none_is_fetched_by_the_browser(page: Any, server: Server) -> None:
    show(page, server.url)
    choose(page, "detect")
    pasted = DROP.replace('"drop"', '"paste"').replace("DragEvent", "ClipboardEvent")
    pasted = pasted.replace("dataTransfer: carried", "clipboardData: carried")
    page.evaluate(pasted, ["pasted.png", "image/png", base64.b64encode(png()).decode(), ""])
    expect(page.locator(".frame img")).to_have_attribute("alt", "pasted.png")
    look(page)
    page.fill("#address", "https://example.com/cat.jpg")
    page.keyboard.press("Enter")
    expect(page.locator(".board bdi")).to_have_text("https://example.com/cat.jpg")
    told = requests.post(f"{server.url}/v1/detect", files={"image": png(600, 400)}, timeout=10).json()
    page.route("**/v1/detect", lambda route: route.fulfill(json=told))
    with page.expect_request("**/v1/detect") as sent:
        look(page)
    assert 'name="image"\r\n\r\nhttps://example.com/cat.jpg' in sent.value.post_data
    assert page.locator(".mark").count() == 1
    assert "--form-string image=https://example.com/cat.jpg" in tab(page, "curl")
    assert all(address.startswith((server.url, "data:", "blob:")) for address in page.asked)


@pytest.mark.slow
def test_a_picture_is_taken_with_the_camera(page: Any, server: Server, screens: Path) -> None:
    show(page, server.url)
    choose(page, "detect")
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator(".frame img")).to_have_attribute("alt", "camera.jpg")
    assert page.locator("video").evaluate("video => video.srcObject") is None, "the camera is off again"
    look(page)
    assert answer(page)["image"]["format"] == "jpeg"
    page.screenshot(path=screens / "camera.png")


@pytest.mark.slow
def test_jobs_are_listed_and_ended(page: Any, server: Server, screens: Path) -> None:
    show(page, server.url)
    choose(page, "detect")
    drop(page, png(), "a.png")
    drop(page, png(), "b.png")
    page.get_by_label("As a job").check()
    page.click("#go")
    expect(page.locator("#status")).to_have_text("0 of 2")
    page.get_by_role("link", name="Jobs").click()
    job = page.locator("[data-job]").first
    expect(job.locator(".state")).to_have_text("Waiting")
    page.screenshot(path=screens / "jobs.png")
    page.get_by_role("link", name="Look", exact=True).click()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text("It goes on without you: see Jobs.")
    page.get_by_role("link", name="Jobs").click()
    job.get_by_role("button", name="End it").click()
    expect(job.locator(".state")).to_have_text("Cancelled")
    expect(job.get_by_role("button", name="End it")).to_be_hidden()


def test_a_job_is_watched_again_when_the_connection_is_back(page: Any, server: Server, network: Relay) -> None:
    page.clock.install()
    show(page, network.url)
    choose(page, "detect")
    drop(page, png(), "a.png")
    drop(page, png(), "b.png")
    page.get_by_label("As a job").check()
    page.click("#go")
    expect(page.locator("#status")).to_have_text("0 of 2")
    network.cut()
    expect(page.locator("#status")).to_contain_text("Coming back")
    network.mend()
    page.clock.fast_forward(2000)
    expect(page.locator("#status")).to_have_text("Connected again.")
    job = requests.get(f"{server.url}/v1/jobs", timeout=10).json()["jobs"][0]
    requests.delete(f"{server.url}/v1/jobs/{job['id']}", timeout=10)
    page.wait_for_selector("#status.right")


@pytest.mark.slow  # workers take their time to start
def test_a_job_s_answers_come_into_the_grid_as_they_are_ready(page: Any, tmp_path: Path, screens: Path) -> None:
    with running(tmp_path, models={"detect": ["brief"]}, job_workers=1) as server:
        show(page, server.url)
        choose(page, "detect")
        for number in range(12):
            drop(page, png(40 + number, 40), f"{number}.png")
        page.get_by_label("As a job").check()
        page.click("#go")
        page.wait_for_selector("#status.right", timeout=30_000)
        assert page.locator(".grid .sign.right").count() == 12
        page.locator(".cell").nth(3).click()
        assert answer(page)["image"]["width"] == 43
        page.get_by_role("link", name="Jobs").click()
        page.get_by_role("button", name="Show").click()
        expect(page.locator(".outcomes details")).to_have_count(12)
        expect(page.locator(".state")).to_have_text("Done")
        page.screenshot(path=screens / "job.png")


@pytest.mark.slow
def test_health_usage_models_and_numbers_are_shown(page: Any, server: Server, screens: Path) -> None:
    requests.post(f"{server.url}/v1/detect", files={"image": png()}, timeout=10)
    page.clock.install()
    show(page, server.url, "#server")
    asked = page.locator("[data-tile=Requests] strong")
    expect(asked).to_have_text(re.compile(r"\d+"))
    before = int(asked.inner_text())
    requests.post(f"{server.url}/v1/detect", files={"image": png()}, timeout=10)
    page.clock.fast_forward(2000)
    expect(asked).to_have_text(str(before + 1))
    expect(page.locator(".card.health .large")).to_have_text("Ready")
    expect(page.locator(".card.usage tbody")).to_contain_text("fake@1")
    expect(page.locator(".card.models tbody")).to_contain_text("efficientnet_lite0@1")
    expect(page.locator(".card.numbers tbody")).to_contain_text("sensorium_requests_total")
    page.get_by_label("Search").fill("detect")
    expect(page.locator(".card.numbers tbody tr").first).to_contain_text('task="detect"')
    page.get_by_label("Sum up by").select_option("task")
    expect(page.locator(".card.usage tbody")).to_contain_text("detect")
    page.screenshot(path=screens / "server.png", full_page=True)


@pytest.mark.slow
def test_a_key_is_asked_for_and_kept_for_the_tab_alone(page: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:  # the browser's loop runs in this thread
        key = pool.submit(kept_key, tmp_path / "data", "shop").result()
    with running(tmp_path, auth="on", models={"detect": ["fake"]}) as server:
        show(page, server.url)
        dialog = page.locator("#key-dialog")
        expect(dialog).to_be_visible()  # the list of models is not for everybody
        page.fill("#key-field", "密钥")  # no header of a request could carry it
        page.keyboard.press("Enter")
        expect(dialog).to_be_visible()
        page.fill("#key-field", key)
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        page.wait_for_selector("#field-model-list option", state="attached")
        choose(page, "detect")
        drop(page, png(600, 400))
        look(page)
        assert page.evaluate("[JSON.stringify(localStorage), document.cookie, location.href].join()").count(key) == 0
        assert page.evaluate("sessionStorage.getItem('sensorium-key')") == key
        assert key not in tab(page, "curl") + tab(page, "Python")
        assert page.locator("#key-field").input_value() == ""


def test_it_is_light_and_nothing_jumps_and_nothing_leaves_the_server(
    browser: Any, server: Server, screens: Path
) -> None:
    with browsing.fresh_page(browser) as page:
        page.add_init_script(SHIFTS)
        show(page, server.url)
        weights = page.evaluate(
            "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
            ".map((one) => [one.name, one.transferSize])"
        )
        # By script, since what moves within half a second of somebody's click would not count.
        page.evaluate("document.querySelector('#task-detect').click()")
        drop(page, photograph(), "coffee.jpg", "image/jpeg")
        page.wait_for_selector(".frame.sized")
        page.evaluate("document.querySelector('#task').requestSubmit()")
        page.locator(".captions span").wait_for()
        page.wait_for_selector("#status.right")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        jumps = sum(value for value, asked_for in page.evaluate("window.shifts") if not asked_for)
        assert all(address.startswith((server.url, "data:", "blob:")) for address in page.asked)
        assert page.wrong == []
    weight = sum(size for _, size in weights)
    (screens / "facts.json").write_text(json.dumps({"bytes": weight, "files": weights, "shift": jumps}, indent=1))
    assert 20_000 < weight <= HEAVIEST, weights
    assert jumps <= 0.001


@pytest.mark.slow
def test_each_view_fits_a_phone_and_every_control_has_a_name(browser: Any, server: Server, screens: Path) -> None:
    nameless = """all => all.filter((one) => !one.labels?.length && !one.getAttribute('aria-label') && !one.textContent.trim()
        && !one.getAttribute('aria-labelledby')).map((one) => one.outerHTML)"""
    with browsing.fresh_page(browser, viewport={"width": 360, "height": 740}, color_scheme="dark") as page:
        for view, last in LAST.items():
            show(page, server.url, view)
            page.locator(last).first.wait_for()
            page.eval_on_selector_all("details", "all => all.forEach((one) => one.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, view
            assert page.eval_on_selector_all("input, select, textarea, button", nameless) == []
            page.screenshot(path=screens / f"phone{view.replace('#', '-')}.png", full_page=True)
        show(page, server.url)
        tasks = page.eval_on_selector_all("input[name=task]", "all => all.map((one) => one.value)")
        for task in tasks:
            choose(page, task)
            page.eval_on_selector_all("details", "all => all.forEach((one) => one.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, task
            assert page.eval_on_selector_all("input, select, textarea, button", nameless) == []


def test_every_task_of_the_server_is_offered(page: Any, server: Server) -> None:
    show(page, server.url)
    offered = page.eval_on_selector_all("input[name=task]", "all => all.map((one) => one.value)")
    assert offered == sorted(requests.get(server.url, timeout=10).json()["tasks"])


@pytest.mark.slow
def test_it_speaks_chinese_all_through(browser: Any, server: Server, screens: Path) -> None:
    untold = """async () => {
      const { ZH } = await import(new URL('ui/words.js', location));
      return [...document.querySelectorAll('[data-say]:not([data-told])')].map((one) => one.dataset.say).filter((key) => key && !ZH[key]);
    }"""
    with browsing.fresh_page(browser, locale="zh-CN") as page:
        for view, last in LAST.items():
            show(page, server.url, view)
            page.locator(last).first.wait_for()
            assert page.evaluate(untold) == [], view
        show(page, server.url)
        assert page.get_by_role("link", name="识图").is_visible()
        choose(page, "detect")
        drop(page, photograph(), "coffee.jpg", "image/jpeg")
        look(page)
        assert page.evaluate(untold) == []
        assert "物体" in page.locator("#outcome").inner_text()
        page.screenshot(path=screens / "chinese.png")
        page.get_by_role("button", name="English").click()
        assert "Choose pictures" in words(page)
        page.reload()
        page.wait_for_selector("#task:not([hidden])")
        assert "Choose pictures" in words(page), "the choice is remembered"


def test_all_words_of_the_server_s_tasks_have_chinese_ones(page: Any, server: Server) -> None:
    show(page, server.url)
    untold = page.evaluate("""async () => {
      const [{ ZH }, { understand }, { prettified }] = await Promise.all(
        ["words", "tasks", "dom"].map((name) => import(new URL(`ui/${name}.js`, location))));
      const tasks = understand(await (await fetch("openapi.json")).json());
      const fields = tasks.flatMap((task) => task.fields);
      const choices = fields.flatMap((field) => field.enum || field.items?.enum?.map(prettified) || []);
      const names = [...tasks, ...fields].map((one) => prettified(one.name));
      const sentences = [...tasks.map((task) => task.summary), ...fields.map((field) => field.description)];
      const rates = tasks.flatMap((task) => Object.entries(task.meanings)).filter(([name]) => name.endsWith("_rate"));
      const shown = [...names, ...choices, ...sentences, ...rates.map(([, meaning]) => meaning)];
      return [...new Set(shown)].filter((one) => one && !Object.hasOwn(ZH, one));
    }""")
    assert untold == [], "ui/page/words.js lacks them"


ASIDE = {"meta", "image"}
"""Parts of answers that are told in one line, without their names."""


def names_in(schema: Any, parts: dict[str, Any], seen: frozenset[str] = frozenset()) -> set[str]:
    """Of all fields of an answer, within its parts too."""
    if isinstance(schema, list):
        return set().union(*(names_in(one, parts, seen) for one in schema))
    if not isinstance(schema, dict):
        return set()
    part = schema.get("$ref", "").rpartition("/")[2]
    if part and part not in seen:
        return names_in(parts[part], parts, seen | {part})
    fields = {name: one for name, one in schema.get("properties", {}).items() if name not in ASIDE}
    inner = [*fields.values(), *(schema.get(kind) for kind in ("anyOf", "prefixItems", "items"))]
    return fields.keys() | names_in(inner, parts, seen)


def test_all_names_in_answers_have_chinese_words(page: Any, server: Server) -> None:
    document = requests.get(f"{server.url}/openapi.json", timeout=10).json()
    posts = [item["post"] for item in document["paths"].values() if "tasks" in item.get("post", {}).get("tags", ())]
    said = [post["responses"]["200"]["content"]["application/json"]["schema"]["oneOf"][0] for post in posts]
    names = names_in(said, document["components"]["schemas"])
    assert {"left", "compared_by", "embedded_by", "detector", "pose"} <= names
    show(page, server.url)
    known = page.evaluate("import(new URL('ui/words.js', location)).then(({ ZH }) => Object.keys(ZH))")
    assert {name.replace("_", " ").capitalize() for name in names} - set(known) == set()


def test_light_and_dark_follow_the_system_and_the_switch(browser: Any, server: Server) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with browsing.fresh_page(browser, color_scheme="dark") as page:
        show(page, server.url)
        assert page.evaluate(ground) == "rgb(19, 21, 23)"
        page.get_by_role("button", name="Light or dark").click()
        assert page.evaluate(ground) == "rgb(247, 247, 245)"
        page.reload()
        assert page.evaluate(ground) == "rgb(247, 247, 245)"


def test_the_keyboard_is_enough(page: Any, server: Server, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(png(600, 400))
    show(page, server.url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.value") == "ask"
    for _ in range(20):
        if page.evaluate("document.activeElement.value") != "detect":
            page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.value") == "detect"
    page.set_input_files("#files", tmp_path / "cat.png")
    assert page.evaluate("document.activeElement.id") == "go"
    page.keyboard.press("Enter")
    page.wait_for_selector("#status.right")
    page.get_by_role("tab", name="Answer").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-JSON"
