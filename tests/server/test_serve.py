from __future__ import annotations

import signal
import socket
import sys
import threading
from pathlib import Path

import pytest
import requests

from sensorium.config import Settings
from sensorium.errors import InvalidConfiguration
from sensorium.server.serve import serve
from tests.pictures import png
from tests.server.conftest import eventually, running


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
def test_what_is_under_way_is_answered_before_the_server_stops(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        url = f"{server.url}/v1/classify?model=slow&timeout=1"
        answers: list[int] = []

        def ask() -> None:
            headers = {"Content-Type": "image/png"}
            answers.append(requests.post(url, data=png(), headers=headers, timeout=10).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: False, 0.5)  # until the request is under way
        server.process.send_signal(signal.SIGTERM)
        asking.join()
        assert answers == [504]
        assert server.process.wait(10) == 0
        assert server.log().rstrip().endswith("Stopped")
        assert not list(server.temporary.glob("sensorium-spool-*"))


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidConfiguration, match=f"Cannot listen on 127.0.0.1:{port}"):
            serve(Settings(port=port))
