from __future__ import annotations

import platform
import subprocess
import sys

import pytest

KEPT = """
import os, sys
from sensorium.runtimes.memory import give_back, keep_little

def resident_mib():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

exec(sys.argv[1])
before = resident_mib()
large = b"x" * (24 << 20)
del large  # from now on glibc keeps blocks of that size, unless it was told otherwise
blocks = [b"x" * (20 << 20) for _ in range(2)]
del blocks
exec(sys.argv[2])
print(resident_mib() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of other allocators nothing is said")
@pytest.mark.parametrize(
    ("first", "last", "kept"), [("", "", True), ("keep_little()", "", False), ("", "give_back()", False)]
)
def test_large_blocks_go_back_to_the_system(first: str, last: str, kept: bool) -> None:
    told = subprocess.run([sys.executable, "-c", KEPT, first, last], capture_output=True, text=True, check=True)
    assert (float(told.stdout) > 30) is kept
