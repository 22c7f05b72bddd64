"""The routes of the tasks, over a real socket."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.pictures import JUNK, jpeg, png
from tests.server.conftest import Server, eventually
from tests.server.test_slow_clients import answer_on
from tests.server.wire import bitmap, connected, data_url, form, head, reset

Client = aiohttp.ClientSession


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(server.url) as session:
        yield session


@pytest.fixture
async def strict_client(strict: Server) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(strict.url) as session:
        yield session


async def post(client: Client, path: str, **body: Any) -> tuple[int, Any]:
    if isinstance(body.get("data"), bytes):
        body["data"] = io.BytesIO(body["data"])  # aiohttp warns of large bytes
    async with client.post(path, **body) as response:
        assert response.content_type == "application/json"
        assert len(response.headers["X-Request-Id"]) == 32
        return response.status, await response.json()


async def test_a_data_url_in_json_is_answered_with_the_result(client: Client) -> None:
    status, answer = await post(client, "/v1/classify", json={"image": data_url(png(80, 60)), "top_k": 3})
    assert status == 200
    assert answer["image"] == {"width": 80, "height": 60, "format": "png", "scale": 1.0}
    assert answer["labels"][0]["name"] == "golden retriever"


async def test_a_list_in_json_is_answered_in_order_with_an_error_for_each_bad_one(client: Client) -> None:
    pictures = [data_url(png(20, 10)), "data:;base64,!!", data_url(JUNK), "/etc/passwd", 7, data_url(png(30, 10))]
    status, answer = await post(client, "/v1/classify", json={"image": pictures})
    assert status == 200
    assert [one["result"]["image"]["width"] if "result" in one else one["error"]["code"] for one in answer["results"]] == [
        20, "invalid_base64", "unidentified_media", "invalid_request", "invalid_request", 30,
    ]  # fmt: skip


async def test_json_that_is_not_called_so_says_what_to_add(client: Client) -> None:
    plain = {"Content-Type": "application/x-www-form-urlencoded"}
    status, answer = await post(client, "/v1/classify", data=b'{"image": "https://example.com/a.jpg"}', headers=plain)
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert "Content-Type: application/json" in answer["error"]["message"]


async def test_a_list_in_a_form_may_have_commas(client: Client) -> None:
    body = form(("image", "a.png", png()), ("parts", None, "classify, describe_pixels"))
    status, answer = await post(client, "/v1/analyze", **body)
    assert status == 200
    assert (bool(answer["classify"]), answer["read"], bool(answer["describe_pixels"])) == (True, None, True)


async def test_a_field_that_does_not_exist_is_told_with_a_near_one(client: Client) -> None:
    _, answer = await post(client, "/v1/classify", json={"image": data_url(png()), "topk": 3})
    assert "`topk`: there is no such field; did you mean `top_k`?" in answer["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "y" * 200_000},
        {f"field{number}": 1 for number in range(5_000)},
        {"top_k": [{}] * 200_000},
    ],
    ids=["name", "fields", "values"],
)
async def test_an_answer_is_not_many_times_what_was_sent(client: Client, fields: dict[str, Any]) -> None:
    body = {"image": [data_url(png())] * 100, **fields}
    async with client.post("/v1/classify", json=body) as response:
        assert response.status == 400
        assert len(await response.read()) < 100_000


@pytest.mark.parametrize("values", ["[0" + ",0" * 120_000 + "]", "[" + "[]," * 60_000 + "0]"])
async def test_a_body_of_very_many_values_is_refused_before_it_is_parsed(client: Client, values: str) -> None:
    sent = {"data": f'{{"image": {values}}}'.encode(), "headers": {"Content-Type": "application/json"}}
    status, answer = await post(client, "/v1/classify", **sent)
    assert (status, answer["error"]["message"]) == (400, "The body has too many values. Send at most 100,000.")


async def test_a_list_of_one_is_answered_with_a_list(client: Client) -> None:
    _, answer = await post(client, "/v1/classify", json={"image": [data_url(png())]})
    assert [list(one) for one in answer["results"]] == [["result"]]


async def test_a_list_of_which_all_fail_has_an_error_status(client: Client) -> None:
    status, answer = await post(client, "/v1/classify", json={"image": [data_url(JUNK), "nothing"]})
    assert status == 415
    assert [one["error"]["code"] for one in answer["results"]] == ["unidentified_media", "invalid_request"]


async def test_a_file_in_a_form_with_fields_of_every_type(client: Client) -> None:
    sent = form(("image", "a.jpg", jpeg()), ("parts", None, "read"), ("top_k", None, "2"), ("cache", None, "false"))
    status, answer = await post(client, "/v1/analyze", **sent)
    assert status == 200
    assert answer["read"] is not None
    assert answer["classify"] is None


@pytest.mark.parametrize(
    "parts", [[("parts", None, '["read","classify"]')], [("parts", None, "read"), ("parts", None, "classify")]]
)
async def test_a_list_in_a_form_is_json_or_a_repeated_field(client: Client, parts: list[Any]) -> None:
    _, answer = await post(client, "/v1/analyze", **form(("file", "a.jpg", jpeg()), *parts))
    assert answer["read"] is not None
    assert answer["classify"] is not None
    assert answer["describe_pixels"] is None


async def test_files_and_urls_of_one_form_are_answered_together(client: Client) -> None:
    sent = form(("image", "a.jpg", png(11, 9)), ("file", "b.jpg", JUNK), ("image", None, data_url(png(12, 9))))
    status, answer = await post(client, "/v1/classify", **sent)
    assert status == 200
    assert [next(iter(one)) for one in answer["results"]] == ["result", "error", "result"]


async def test_a_picture_may_be_the_whole_body(client: Client) -> None:
    for kind in ("image/jpeg", "application/octet-stream"):
        status, answer = await post(client, "/v1/analyze?parts=read", data=bitmap(640), headers={"Content-Type": kind})
        assert (status, answer["image"]["width"], answer["classify"]) == (200, 640, None)


async def test_the_answer_and_its_header_carry_the_same_trace(client: Client, server: Server) -> None:
    async with client.post("/v1/classify", json={"image": data_url(png())}) as response:
        trace = (await response.json())["meta"]["trace"]
        assert response.headers["X-Request-Id"] == trace
    assert server.logs(rf"POST /v1/classify 200 [\d.]+ ms trace={trace}")
    async with client.post("/v1/classify", json={}) as response:
        assert (await response.json())["error"]["trace"] == response.headers["X-Request-Id"]


WRONG: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "path": ({"json": {"image": "/etc/passwd"}}, 400, "invalid_request", "neither"),
    "file url": ({"json": {"image": "file:///etc/passwd"}}, 400, "forbidden_address", "file:"),
    "dict path": ({"json": {"image": {"path": "/etc/passwd"}}}, 400, "invalid_request", "`image`"),
    "private address": ({"json": {"image": "http://127.0.0.1:1/a.jpg"}}, 400, "forbidden_address", "127.0.0.1"),
    "no picture": ({"json": {"top_k": 3}}, 400, "invalid_request", "No picture was sent"),
    "empty list": ({"json": {"image": []}}, 400, "invalid_request", "No picture was sent"),
    "empty body": ({}, 400, "invalid_request", "No picture was sent"),
    "unknown field": ({"json": {"image": data_url(png()), "topk": 3}}, 400, "invalid_request", "`topk`"),
    "bad value": ({"json": {"image": data_url(png()), "top_k": "many"}}, 400, "invalid_request", "`top_k`"),
    "bad timeout": ({"json": {"image": data_url(png()), "timeout": -1}}, 400, "invalid_request", "`timeout`"),
    "unknown model": ({"json": {"image": data_url(png()), "model": "brokn"}}, 400, "unknown_model", "broken"),
    "bad base64": ({"json": {"image": "data:;base64,a"}}, 400, "invalid_base64", "base64"),
    "junk": (form(("image", "a.jpg", JUNK)), 415, "unidentified_media", "a.jpg"),
    "cut short": (form(("image", "a.png", png(500, 400)[:-900])), 422, "corrupt_media", "a.png"),
    "text": (form(("image", "a.jpg", b"Hello, this is a letter.\n" * 20)), 415, "unsupported_media", "text"),
    "malformed JSON": ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "invalid_request", "not JSON"),
    "surrogate": ({"data": b'{"image":"\\ud800"}', "headers": {"Content-Type": "application/json"}}, 400, "invalid_request", "JSON"),
    "nested JSON": ({"data": b"[" * 10**5, "headers": {"Content-Type": "application/json"}}, 400, "invalid_request", "JSON"),
    "JSON list": ({"json": [1]}, 400, "invalid_request", "object"),
    "wrong type": ({"data": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media", "text/plain"),
    "compressed": ({"data": b"x", "headers": {"Content-Encoding": "gzip"}}, 415, "unsupported_media", "compressed"),
    "picture as a form": ({"data": jpeg(), "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 400, "invalid_request", "Content-Type"),
    "no boundary": ({"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "invalid_request", "boundary"),
    "malformed form": ({"data": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400, "invalid_request", "form"),
    "form cut short": ({"data": b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nxx', "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400, "invalid_request", "closing boundary"),
    "strange file field": (form(("photo", "a.jpg", jpeg())), 400, "invalid_request", "'photo'"),
    "empty file field": (form(("image", "", b"")), 400, "invalid_request", "No picture was sent"),
    "engine failed": ({"json": {"image": data_url(png()), "model": "broken"}}, 500, "engine_failed", "broken"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_wrong_has_its_status_and_code_and_a_sentence(client: Client, wrong: str) -> None:
    sent, status, code, words = WRONG[wrong]
    got, answer = await post(client, "/v1/classify", **sent)
    assert (got, answer["error"]["code"]) == (status, code), answer
    assert words in answer["error"]["message"]
    assert set(answer["error"]) == {"code", "message", "retryable", "trace"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/clasify", 404, "unknown_task"),
        ("GET", "/v1/classify", 405, "method_not_allowed"),
        ("POST", "/v1/caller", 405, "method_not_allowed"),
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/health/live", 405, "method_not_allowed"),
        ("GET", "/%0a%0dforged", 404, "not_found"),
        ("GET", "/health/live%0a", 404, "not_found"),
        ("POST", "/v1/classify%0A", 404, "unknown_task"),
        ("POST", "/predict/", 404, "not_found"),  # and no redirection, to wherever `Host` says
    ],
)
async def test_unknown_routes_and_methods_are_refused_in_our_shape(
    client: Client, method: str, path: str, status: int, code: str
) -> None:
    async with client.request(method, path) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (status, code)
        assert ("Allow" in response.headers) == (status == 405)


async def test_an_unknown_task_names_the_near_one(client: Client) -> None:
    _, answer = await post(client, "/v1/clasify")
    assert "classify" in answer["error"]["message"]


async def test_fifty_uploads_at_once_under_one_hostile_name_each_get_their_own_answer(
    client: Client, server: Server
) -> None:
    names = ["test.jpg", "../../x", "..\\..\\x", "/etc/passwd", "C:\\x", "a\x7fb", "." * 300]

    async def one(number: int) -> tuple[int, Any]:
        large = number % 3  # else small enough for memory, or not a picture at all
        data = bitmap(700 + number) if large else (jpeg(100 + number) if number % 2 else JUNK * 9000)
        return await post(client, "/v1/classify", **form(("image", names[number % len(names)], data)))

    answers = await asyncio.gather(*map(one, range(50)))
    for number, (status, answer) in enumerate(answers):
        if number % 3:
            assert (status, answer["image"]["width"]) == (200, 700 + number)
        elif number % 2:
            assert (status, answer["image"]["width"]) == (200, 100 + number)
        else:
            assert (status, answer["error"]["code"]) == (415, "unidentified_media")
    assert server.spool_empties()


async def test_equal_large_uploads_at_once_do_not_lose_each_others_file(client: Client, server: Server) -> None:
    sent = form(("image", "test.jpg", bitmap(900)), ("cache", None, "false"))
    answers = await asyncio.gather(*(post(client, "/v1/classify", **sent) for _ in range(12)))
    assert {status for status, _ in answers} == {200}
    assert server.spool_empties()


async def test_no_file_is_ever_named_by_the_client(strict_client: Client, strict: Server) -> None:
    slow = asyncio.create_task(
        post(strict_client, "/v1/classify", **form(("image", "../mine.jpg", bitmap(650)), ("model", None, "slow")))
    )
    assert await asyncio.to_thread(eventually, strict.spooled)
    (path,) = strict.spooled()
    await asyncio.to_thread(eventually, lambda: len(strict.spooled()[0].name) == 64)
    (path,) = strict.spooled()
    assert set(path.name) <= set("0123456789abcdef")
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    slow.cancel()
    assert await asyncio.to_thread(strict.spool_empties)


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_read(strict: Server) -> None:
    with connected(strict.port) as connection:
        connection.sendall(head("/v1/classify", "Content-Type: image/png", "Content-Length: 4000001"))
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (2_000_001, b"it has 2,000,001 bytes, and 2,000,000 are allowed (`max_bytes`)"),
        (4_000_001, b"it has 4,000,001 bytes, and 4,000,000 are allowed (`max_upload_bytes`)"),
    ],
)
async def test_what_says_its_size_is_refused_with_that_size_and_the_limit(
    strict: Server, size: int, said: bytes
) -> None:
    with connected(strict.port) as connection:
        connection.sendall(head("/v1/classify", "Content-Type: image/png", f"Content-Length: {size}"))
        answer = await asyncio.to_thread(answer_on, connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert said in answer


async def test_what_does_not_say_its_size_is_refused_with_what_came(strict_client: Client) -> None:
    async def picture() -> AsyncIterator[bytes]:
        yield bytes(2_000_000)
        yield bytes(1_000)

    status, answer = await post(strict_client, "/v1/classify", data=picture(), headers={"Content-Type": "image/png"})
    assert status == 413
    assert "it has at least 2,00" in answer["error"]["message"]


async def test_a_body_that_turns_out_too_large_is_refused(strict_client: Client, strict: Server) -> None:
    async def endless() -> AsyncIterator[bytes]:
        opening = form(("image", "a.jpg", b""))["data"].removesuffix(b"\r\n--the-boundary--\r\n")
        yield opening
        for _ in range(50):
            yield bytes(100_000)

    headers = form()["headers"]
    status, answer = await post(strict_client, "/v1/classify", data=endless(), headers=headers)
    assert (status, answer["error"]["code"]) == (413, "input_too_large")
    assert "it has at least 4," in answer["error"]["message"]
    assert "4,000,000 are allowed (`max_upload_bytes`)" in answer["error"]["message"]
    assert await asyncio.to_thread(strict.spool_empties)


async def test_a_file_too_large_among_good_ones_fails_alone(strict_client: Client, strict: Server) -> None:
    sent = form(("image", "a.png", png()), ("image", "b.bmp", bitmap(1200)), ("image", "c.png", png(colour=(1, 2, 3))))
    sent["headers"]["Connection"] = "close"
    status, answer = await post(strict_client, "/v1/describe_pixels", **sent)
    assert status == 200
    codes = [one["error"]["code"] if "error" in one else "ok" for one in answer["results"]]
    assert codes == ["ok", "input_too_large", "ok"]
    assert strict.spool_empties()


async def test_a_slow_upload_is_given_up(strict: Server) -> None:
    with connected(strict.port) as connection:
        connection.sendall(
            head("/v1/classify", "Content-Type: image/png", "Content-Length: 1900000") + bytes(1_500_000)
        )
        answer = await asyncio.to_thread(answer_on, connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"upload_incomplete"' in answer
    assert strict.spool_empties()


@pytest.mark.parametrize("framing", ["Content-Length: 1900000", "Transfer-Encoding: chunked"])
async def test_a_sender_that_leaves_during_the_upload_leaves_nothing_behind(strict: Server, framing: str) -> None:
    before = strict.log().count("/v1/read 408")
    connection = connected(strict.port)
    size = b"16e360\r\n" if "chunked" in framing else b""
    connection.sendall(head("/v1/read", "Content-Type: image/png", framing) + size + bytes(1_500_000))
    assert await asyncio.to_thread(eventually, strict.spooled)
    reset(connection)
    assert strict.spool_empties()
    assert eventually(lambda: strict.log().count("/v1/read 408") == before + 1)


async def test_a_client_that_leaves_cancels_its_work(strict_client: Client, strict: Server) -> None:
    body = json.dumps({"image": data_url(png(33, 33)), "model": "slow"}).encode()
    with connected(strict.port) as connection:
        connection.sendall(
            head("/v1/describe_pixels", "Content-Type: application/json", f"Content-Length: {len(body)}") + body
        )
        assert await eventual_status(strict_client, 429)  # the one place is taken
    assert await eventual_status(strict_client, 200)
    assert strict.logs("POST /v1/describe_pixels 499")


async def eventual_status(client: Client, wanted: int) -> bool:
    for _ in range(2000):
        status, _ = await post(client, "/v1/read", json={"image": data_url(png(5, 5))})
        if status == wanted:
            return True
        await asyncio.sleep(0.01)
    return False


async def test_overload_is_refused_at_once_and_says_when_to_come_back(client: Client) -> None:
    async with client.post("/v1/classify", json={"image": data_url(png()), "model": "busy"}) as response:
        assert response.status == 429
        assert int(response.headers["Retry-After"]) >= 1
        error = (await response.json())["error"]
        assert error["code"] == "overloaded"
        assert error["retryable"]
        assert error["retry_after_seconds"] > 0


async def test_no_answer_in_time_is_a_timeout(client: Client) -> None:
    sent = {"image": data_url(png(9, 9)), "model": "slow", "timeout": 0.05}
    status, answer = await post(client, "/v1/classify", json=sent)
    assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")


async def test_health_and_the_front_page(client: Client) -> None:
    async with client.get("/health/live") as response:
        assert response.status == 200
    async with client.get("/health/ready") as response:
        assert response.status == 200
        assert (await response.json())["tasks"]["read"] == {"fake@1": await one_of(response, "loaded", "ready")}
    async with client.get("/") as response:
        assert (await response.json())["tasks"]["classify"] == "/v1/classify"


async def one_of(response: aiohttp.ClientResponse, *states: str) -> str:
    state: str = (await response.json())["tasks"]["read"]["fake@1"]
    assert state in states
    return state


async def test_bodies_and_names_stay_out_of_the_log(client: Client, server: Server) -> None:
    await post(client, "/v1/classify?secret=abc", **form(("image", "private-name.jpg", JUNK)))
    assert not any(word in server.log() for word in ("private-name", "secret", "forged"))


async def test_tokens_are_counted_for_a_model_that_is_not_here(client: Client) -> None:
    status, answer = await post(client, "/v1/tokens", json={"image": data_url(png(1024, 1024)), "model": "gpt-4o"})
    assert (status, answer["image_tokens"], answer["rule"].partition("@")[0]) == (200, 765, "openai/gpt-4o")
    sent = form(("image", "a.png", png()), ("model", None, "gpt-4o"), ("detail", None, "low"), ("prompt", None, "你好"))
    status, answer = await post(client, "/v1/tokens", **sent)
    assert (status, answer["image_tokens"]) == (200, 85)
    status, answer = await post(client, "/v1/tokens", json={"image": data_url(png())})
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
