"""Fakes of Google Cloud Vision and of Tencent Cloud on a real socket: they check who asks, and answer as they are told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from aiohttp import web
from PIL import Image

from sensorium.dependencies import need

V = TypeVar("V", bound="Vendor")

SECRET_ID, SECRET_KEY = "AKIDfake0000000000000000000000000000", "not-a-real-key-0000000000000000"
API_KEY = "AIzaFakeFakeFakeFakeFakeFakeFakeFake000"


class Vendor:
    """What the fakes share: what was asked, and what is answered."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.addresses: list[str] = []
        self.pictures: list[bytes] = []
        self.raw: bytes | None = None
        """A whole body in place of an answer."""
        self.status = 200
        self.retry_after: str | None = None

    @property
    def seen(self) -> Image.Image:
        """The picture that was shown last."""
        return Image.open(io.BytesIO(self.pictures[-1]))

    async def handle(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.addresses.append(str(request.rel_url))
        self.headers.append(request.headers)
        body = json.loads(raw)
        self.bodies.append(body)
        answer = self.answer(request, raw, body)
        headers = {"Retry-After": self.retry_after} if self.retry_after else {}
        text = self.raw if self.raw is not None else json.dumps(answer).encode()
        return web.Response(body=text, status=self.status, content_type="application/json", headers=headers)

    def answer(self, request: web.Request, raw: bytes, body: dict[str, Any]) -> Any:
        raise NotImplementedError


class FakeGoogle(Vendor):
    """Google Cloud Vision."""

    def __init__(self) -> None:
        super().__init__()
        self.annotations: dict[str, Any] = {}
        self.public_key = ""
        self.errors: dict[int, dict[str, Any]] = {}
        """By the width of a picture, the error that stands in place of its annotations."""

    def answer(self, request: web.Request, raw: bytes, body: dict[str, Any]) -> Any:
        if (refused := self._refused(request)) is not None:
            self.status = refused["error"]["code"]
            return refused
        self.pictures.append(base64.b64decode(body["requests"][0]["image"]["content"], validate=True))
        error = self.errors.get(self.seen.width)
        return {"responses": [{"error": error} if error else self.annotations]}

    def _refused(self, request: web.Request) -> dict[str, Any] | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and self.public_key:
            jwt = need("jwt", for_what="look at a token")
            told = jwt.decode(token, self.public_key, ["RS256"], audience="https://vision.googleapis.com/")
            assert told["iss"] == told["sub"]
            assert 0 < told["exp"] - told["iat"] <= 3600
            return None
        if request.headers.get("x-goog-api-key") == API_KEY:
            return None
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
        message = "API key not valid. Please pass a valid API key."
        return {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT", "details": [info]}}


class FakeTencent(Vendor):
    """Tencent Cloud, which signs as its documents say, in code of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.response: dict[str, Any] = {}

    def answer(self, request: web.Request, raw: bytes, body: dict[str, Any]) -> Any:
        if not _is_signed(request, raw):
            return self._envelope({"Error": {"Code": "AuthFailure.SignatureFailure", "Message": "It is not yours."}})
        self.pictures.append(base64.b64decode(body.get("ImageBase64") or body["Image"], validate=True))
        return self._envelope(self.response)

    def _envelope(self, response: dict[str, Any]) -> dict[str, Any]:
        return {"Response": {**response, "RequestId": "3c140219-cfe9-470e-b241-907877d6fb03"}}


def _is_signed(request: web.Request, raw: bytes) -> bool:
    method, _, rest = request.headers["Authorization"].partition(" ")
    told = dict(part.split("=", 1) for part in rest.split(", "))
    secret_id, date, service, ending = told["Credential"].split("/")
    stamp = request.headers["X-TC-Timestamp"]
    if method != "TC3-HMAC-SHA256" or ending != "tc3_request" or abs(time.time() - int(stamp)) > 300:
        return False
    if secret_id != SECRET_ID or date != datetime.fromtimestamp(int(stamp), UTC).strftime("%Y-%m-%d"):
        return False
    names = told["SignedHeaders"].split(";")
    if not {"content-type", "host"} <= set(names):
        return False
    headers = "".join(f"{name}:{request.headers[name].strip().lower()}\n" for name in names)
    asked = f"POST\n/\n\n{headers}\n{told['SignedHeaders']}\n{hashlib.sha256(raw).hexdigest()}"
    scope = f"{date}/{service}/tc3_request"
    text = f"TC3-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
    key = b"TC3" + SECRET_KEY.encode()
    for step in (date, service, "tc3_request"):
        key = hmac.new(key, step.encode(), hashlib.sha256).digest()
    return hmac.compare_digest(hmac.new(key, text.encode(), hashlib.sha256).hexdigest(), told["Signature"])


@asynccontextmanager
async def listening(vendor: V, path: str) -> AsyncIterator[V]:
    """The fake at an address of its own."""
    app = web.Application(client_max_size=50_000_000)
    app.router.add_post(path, vendor.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        vendor.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield vendor
    finally:
        await runner.cleanup()
