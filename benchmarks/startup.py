"""How long `sensorium --help` and `import sensorium` take, against bare Python in the same run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15
COMMANDS = {
    "bare python": [sys.executable, "-c", ""],
    "import sensorium": [sys.executable, "-c", "import sensorium"],
    "sensorium --help": [str(Path(sys.executable).with_name("sensorium")), "--help"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    for command in COMMANDS.values():
        seconds(command)  # compiles and fills the disk cache
    rounds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            rounds[name].append(seconds(command))
    median = {name: sorted(times)[ROUNDS // 2] for name, times in rounds.items()}
    for name, times in rounds.items():
        print(
            json.dumps(
                {"contestant": name, "median_seconds": round(median[name], 4), "best_seconds": round(min(times), 4)}
            )
        )
    figures = {
        "help_seconds": round(median["sensorium --help"], 4),
        "import_adds_seconds": round(median["import sensorium"] - median["bare python"], 4),
    }
    goals = {"help_seconds": 0.2, "import_adds_seconds": 0.06}
    met = all(figures[name] < goals[name] for name in goals)
    print(json.dumps({"bench": "startup", "figures": figures, "goals": goals, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
