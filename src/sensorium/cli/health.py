"""Say whether a server is ready, by exit code too: 0 when it is, 1 when not."""

from __future__ import annotations

import json
import ssl
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import click

EXAMPLE = """\b
Examples:
  sensorium health
  sensorium health --url https://vision.example.com

\b
In a Dockerfile:
  HEALTHCHECK CMD ["sensorium", "health"]"""

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
"""Where to find, from here, a server that listens on all addresses."""


@click.command(
    "health", help="Say whether a server is ready; the exit code is 0 when it is, 1 when not.", epilog=EXAMPLE
)
@click.option("--url", help="Where the server is. [default: this machine, by the settings host, port and certfile]")
@click.option("--timeout", default=5.0, type=click.FloatRange(min=0, min_open=True), show_default=True, help="Seconds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object. [default: words for people]")
def command(url: str | None, timeout: float, as_json: bool) -> int:
    own, base = url is None, (url or own_url()).rstrip("/")
    status, told = _asked(f"{base}/health/ready", timeout, trusted=own)
    ready = status == 200
    if as_json:
        click.echo(json.dumps({"url": base, "ready": ready, "status": status, "told": told}, ensure_ascii=False))
    else:
        click.echo(f"{base} is ready." if ready else f"{base} is not ready: {_words(told)}", err=not ready)
    return 0 if ready else 1


def own_url() -> str:
    """Where this machine's server is, by the settings."""
    from sensorium.config import load_settings

    settings = load_settings()
    host = ANYWHERE.get(settings.host, settings.host)
    scheme = "https" if settings.certfile else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _asked(url: str, seconds: float, *, trusted: bool) -> tuple[int | None, Any]:
    """The status and what the server told; None and why, when there was no answer."""
    # A certificate is for the name that clients use, which on the server's own machine is another.
    context = ssl._create_unverified_context() if trusted else None  # noqa: S323
    handlers = [ProxyHandler({}), HTTPSHandler(context=context)] if trusted else []
    try:
        with build_opener(*handlers).open(Request(url), timeout=seconds) as answer:  # noqa: S310 - the caller's own URL
            return answer.status, _read(answer.read())
    except HTTPError as error:
        return error.code, _read(error.read())
    except (OSError, HTTPException, ValueError) as error:  # ValueError: what is no URL at all
        reason = getattr(error, "reason", error)
        return None, getattr(reason, "strerror", None) or str(reason)


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return "an answer that is not sensorium's"


def _words(told: Any) -> str:
    return str(told.get("status", told)) if isinstance(told, dict) else str(told)
