"""Who counts as one, and how many connections a process takes, by the files that it may open."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sensorium.server.crowd import FILES, MOST_CONNECTIONS, origin_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff"),
        ("fe80::1%eth0", "fe80::2"),
        ("", ""),
    ],
)
def test_addresses_of_one_are_one(one: str, other: str) -> None:
    assert origin_of(one) == origin_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("192.0.2.1", "192.0.2.2"), ("2001:db8:0:1::1", "2001:db8:0:2::1"), ("::ffff:192.0.2.1", "::ffff:192.0.2.2")],
)
def test_addresses_of_others_are_others(one: str, other: str) -> None:
    assert origin_of(one) != origin_of(other)


SCRIPT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from sensorium.server.crowd import make_room
print(make_room(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
@pytest.mark.parametrize(
    ("soft", "hard", "room", "files"),
    [
        (1024, MOST_CONNECTIONS + FILES, MOST_CONNECTIONS, MOST_CONNECTIONS + FILES),
        (256, 2048, 2048 - FILES, 2048),
        (256, 600, 300, 600),
    ],
)
def test_connections_leave_files_for_all_else(soft: int, hard: int, room: int, files: int) -> None:
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(soft), str(hard)], capture_output=True, check=True, text=True
    )
    assert tuple(map(int, said.stdout.split())) == (room, files)
    assert ("ulimit -n" in said.stderr) is (room < MOST_CONNECTIONS)
