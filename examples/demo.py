"""The main job on real photographs, by the commands that you would type: `make demo` runs this.

The photographs are those that scikit-image's package carries. Everything is written to demo-out/.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

PHOTOGRAPHS = ("chelsea.png", "coffee.png", "page.png", "rocket.jpg")
OUT = Path("demo-out")


def main() -> int:
    photos = copied(OUT / "photos")
    worst = sensorium("analyze", photos)
    worst |= sensorium("analyze", photos, "--json", into=OUT / "analysis.jsonl")
    worst |= sensorium("analyze", photos / "page.png", "--draw", OUT / "annotated.jpg")
    if not worst:
        print(
            f"\nThe answers as JSON: {OUT / 'analysis.jsonl'}. One picture with its text marked: {OUT / 'annotated.jpg'}."
        )
    return worst


def copied(folder: Path) -> Path:
    """A folder with the photographs, so that the commands below read well and can be typed again."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        sys.exit("The demo needs scikit-image's photographs. Run `pip install scikit-image`, or `make demo`.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        shutil.copyfile(Path(spec.origin).parent / "data" / name, folder / name)
    return folder


def sensorium(*arguments: str | Path, into: Path | None = None) -> int:
    """Show a command, run it, and give its exit code; what it says goes into the file, if there is one."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ sensorium {shlex.join(words)}{f' > {into}' if into else ''}", flush=True)
    # By module, as the script may not be on the path.
    command = [sys.executable, "-m", "sensorium", *words]
    if into is None:
        return subprocess.run(command, check=False).returncode  # noqa: S603
    with into.open("wb") as file:
        return subprocess.run(command, stdout=file, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
