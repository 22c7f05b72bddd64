"""Without keys, web pages from elsewhere must not reach the server through a browser of this machine."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from sensorium.config import Settings
from sensorium.server.app import create_app
from tests.server.conftest import Server
from tests.server.test_failures import ask
from tests.server.wire import connected


def get(server: Server, path: str = "/", **headers: str) -> requests.Response:
    return requests.get(server.url + path, headers=headers, timeout=10)


def test_a_foreign_host_is_refused_on_every_route(server: Server) -> None:
    for path in ("/", "/openapi.json", "/health/live", "/v1/nothing"):
        told = get(server, path, Host="evil.example")
        assert (told.status_code, told.json()["error"]["code"]) == (403, "foreign_host")
        assert "trusted_hosts" in told.json()["error"]["message"]
    told = requests.post(f"{server.url}/v1/classify", data=b"x" * 100_000, headers={"Host": "evil.example"}, timeout=10)
    assert told.status_code == 403
    assert "www-authenticate" not in told.headers, "no key would help"


def test_names_of_this_machine_are_its_own(server: Server) -> None:
    for host in ("localhost", f"localhost:{server.port}", "LocalHost.", "127.0.0.1:1", "[::1]:8000", "app.localhost"):
        assert get(server, "/health/live", Host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "0.0.0.0",
        "[::2]",
        "a@b",
        "[",
        "evillocalhost",
    ],
)
def test_names_that_only_look_like_it_are_not(server: Server, host: str) -> None:
    assert get(server, "/health/live", Host=host).status_code == 403


def test_one_good_host_beside_a_foreign_one_does_not_help(server: Server) -> None:
    with connected(server.port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert connection.recv(4096).split()[1] in (b"400", b"403")


def test_what_a_proxy_says_is_not_believed(server: Server) -> None:
    told = get(server, Host="evil.example", **{"X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"})
    assert told.status_code == 403
    told = get(server, Host="localhost", **{"X-Forwarded-Host": "evil.example", "X-Forwarded-For": "6.6.6.6"})
    assert told.status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://[", "file://"]
)
def test_a_page_from_elsewhere_is_refused(server: Server, origin: str) -> None:
    told = get(server, "/health/live", Origin=origin)
    assert (told.status_code, told.json()["error"]["code"]) == (403, "foreign_host")


def test_a_page_of_this_machine_may_ask(server: Server) -> None:
    for origin in (server.url, "http://localhost:3000", "http://[::1]:5173"):
        assert get(server, "/health/live", Origin=origin).status_code == 200


@pytest.mark.parametrize(
    ("settings", "host", "origin", "status"),
    [
        ({"trusted_hosts": ["vision.example"]}, "Vision.Example:443", None, 404),
        ({"trusted_hosts": ["vision.example"]}, "vision.example", "https://vision.example", 404),
        ({"trusted_hosts": ["vision.example"]}, "evil.example", None, 403),
        ({"trusted_hosts": ["*"]}, "anything.example", None, 404),
        ({"cors_origins": ["https://shop.example"]}, "localhost", "https://shop.example", 404),
        ({"cors_origins": ["https://shop.example"]}, "localhost", "http://shop.example", 403),
        ({"cors_origins": ["*"]}, "localhost", "https://anywhere.example", 404),
        ({"cors_origins": ["*"]}, "evil.example", "https://anywhere.example", 403),
        ({"host": "0.0.0.0", "auth": "off"}, "192.168.1.5:8000", None, 404),
        ({"host": "0.0.0.0", "auth": "off"}, "192.168.1.5:8000", "http://192.168.1.5:8000", 404),
        ({"host": "0.0.0.0", "auth": "off"}, "192.168.1.5:8000", "http://192.168.1.6:8000", 403),
        ({"host": "0.0.0.0", "auth": "off"}, "evil.example", None, 403),
        ({"host": "192.168.1.5", "auth": "off"}, "192.168.1.5", None, 404),
        ({"host": "192.168.1.5", "auth": "off"}, "192.168.1.6", None, 403),
        ({"auth": "on"}, "evil.example", "https://evil.example", 404),
    ],
    ids=str,
)
async def test_the_settings_say_whose_names_and_pages_are_known(
    settings: dict[str, Any], host: str, origin: str | None, status: int
) -> None:
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    told, _ = await ask(create_app(Settings(**settings)), "/nowhere", headers=headers)
    assert told == status
