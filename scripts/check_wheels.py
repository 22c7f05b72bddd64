"""Says whether all that sensorium installs by default exists as wheels for 64-bit ARM Linux, at the versions of constraints.txt.

Run by `make check-arm64`. Nothing is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in range(17, 29)] + ["manylinux2014_aarch64"]


def main() -> int:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        done = subprocess.run([*_dry_run(folder), f"--report={report}", *dependencies], check=False)
        if done.returncode:
            return done.returncode
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    names = [Path(one["download_info"]["url"]).name for one in found]
    print(f"{len(names)} wheels, {sum('aarch64' in name for name in names)} of them for ARM alone; none is missing")
    return 0


def _dry_run(folder: str) -> list[str]:
    options = ["--quiet", "--dry-run", "--ignore-installed", "--only-binary=:all:", f"--target={folder}"]
    platforms = [f"--platform={name}" for name in PLATFORMS]
    return [sys.executable, "-m", "pip", "install", *options, *platforms, "-c", str(ROOT / "constraints.txt")]


if __name__ == "__main__":
    sys.exit(main())
