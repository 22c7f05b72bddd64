"""What docs/openai.md shows is true: its clients run as they stand there."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pictures import png
from tests.sdks.serving import over_a_socket
from tests.server.conftest import Server

PAGE = Path(__file__).parents[2] / "docs" / "openai.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with over_a_socket(tmp_path_factory.mktemp("page")) as started:
        yield started


@pytest.mark.parametrize("client", ["openai", "langchain"])
def test_the_client_on_the_page_runs(client: str, server: Server) -> None:
    page = PAGE.read_text(encoding="utf-8")
    (script,) = re.findall(rf"```python client={client}\n(.*?)```", page, re.DOTALL)
    script = script.replace("http://127.0.0.1:8000", server.url).replace("perception", "talker")
    script = script.replace("base64,...", f"base64,{base64.b64encode(png()).decode()}")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "A cat on a mat." in done.stdout
