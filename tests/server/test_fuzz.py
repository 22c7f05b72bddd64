"""What schemathesis makes up from the OpenAPI document, against every route: no failure of the server's own, and answers as the document says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.server.conftest import running

SECONDS = 60

OWN_FAULT = "Unsupported type: 'Binary'"
"""What it says (4.32) where it cannot change a picture that it made up, by chance; the rest of its time is then lost."""
RUNS = 4

SETTINGS = """
[checks]
# Not installed here, and a timeout that the client itself made too short.
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501, 504]

[phases.coverage]
# It cannot write down the pictures that it made up and remembered (4.32: Unsupported type: 'Binary').
extra-data-sources.responses = false
"""
NO_SCHEMA_SAYS = "positive_data_acceptance,negative_data_rejection,use_after_free"
"""Which bytes are a picture, which models answer a task, and that an empty field of a form is one left out; and that DELETE
ends a job, which can still be read."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_made_up_from_the_openapi_document_makes_the_server_fail(tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SETTINGS, encoding="utf-8")
    program = str(Path(sys.executable).with_name("schemathesis"))
    # Without the models that are made to fail and to stall: /v1/models tells of them.
    settings = {"models_dir": str(tmp_path / "none"), "upload_seconds": 5.0, "timeout_seconds": 5.0}
    with running(tmp_path / "server", **settings) as server:
        command = [program, "run", f"{server.url}/openapi.json", "--max-time", str(SECONDS), "--no-color"]
        command += ["--checks", "all", "--exclude-checks", NO_SCHEMA_SAYS]
        for _ in range(RUNS):
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
            if OWN_FAULT not in done.stdout or "= FAILURES =" in done.stdout:
                break
        assert done.returncode == 0, done.stdout[-10_000:]
        assert requests.get(f"{server.url}/health/live", timeout=10).status_code == 200
        assert "Traceback" not in server.log()
