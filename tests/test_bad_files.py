"""Every damaged, hostile and odd file, through the whole main job: an answer or one clear error, in bounds."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

LARGEST_MIB, LONGEST_SECONDS, AT_ONCE = 1024, 10, 25

JOB = """
import json, sys, time
from pathlib import Path
import sensorium
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        outcome = sensorium.analyze(path).meta.engine
    except sensorium.SensoriumError as error:
        outcome = error.code
    # Not getrusage, which begins with what the parent had when it started this process.
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps([path, outcome, time.process_time() - start, peak]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other units")
def test_every_bad_file_is_answered_or_refused_within_bounds(shared_data: Path) -> None:
    with (shared_data / "bad" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        paths = [str(shared_data / "bad" / row["file"]) for row in csv.DictReader(file)]
    outcomes: dict[str, str] = {}
    for start in range(0, len(paths), AT_ONCE):
        command = [sys.executable, "-c", JOB, *paths[start : start + AT_ONCE]]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        for path, outcome, seconds, peak in map(json.loads, done.stdout.splitlines()):
            outcomes[path] = outcome
            assert seconds < LONGEST_SECONDS, path
            assert peak < LARGEST_MIB, path
    assert list(outcomes) == paths
    assert sum(outcome == "analyze" for outcome in outcomes.values()) > 190
    assert "engine_failed" not in outcomes.values()
