"""Signatures for Tencent Cloud, held to the examples that Tencent has published."""

from __future__ import annotations

import pytest

from sensorium.runtimes import tc3

PAYLOAD = b'{"Limit": 1, "Filters": [{"Values": ["\\u672a\\u547d\\u540d"], "Name": "instance-name"}]}'
TYPE = "application/json; charset=utf-8"
HOST = "cvm.tencentcloudapi.com"
FIRST = ("Gu5t9xGARNpq86cd98joQYCN3EXAMPLE", "72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168")
SECOND = ("*" * 32, "10b1a37a7301a02ca19a647ad722d5e43b4b3cff309d421d85b46093f6ab6c4f")
"""Tencent's page "Signature v3": the older example; and the newer one, whose key is blotted out, but signs as it stands."""


@pytest.mark.parametrize(
    ("example", "headers"),
    [
        (FIRST, {"content-type": TYPE, "host": HOST}),
        (SECOND, {"content-type": TYPE, "host": HOST, "x-tc-action": "describeinstances"}),
    ],
    ids=["two headers", "three headers"],
)
def test_it_signs_as_the_published_examples(example: tuple[str, str], headers: dict[str, str]) -> None:
    key, signature = example
    pieces = (PAYLOAD[:20], PAYLOAD[20:])
    told = tc3.authorization("AKIDEXAMPLE", key, "cvm", headers, tc3.sha256_of(pieces), 1551113065)
    assert told == (
        "TC3-HMAC-SHA256 Credential=AKIDEXAMPLE/2019-02-25/cvm/tc3_request, "
        f"SignedHeaders={';'.join(headers)}, Signature={signature}"
    )
