"""Workers of the Celery engine as processes, for tests that run them for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class Crowd:
    """A `sensorium worker` with all its processes."""

    def __init__(self, folder: Path, name: str, settings: dict[str, Any], *options: str) -> None:
        self.log_file = folder / f"{name}.log"
        spoken = {
            f"SENSORIUM_{key.upper()}": value if isinstance(value, str) else json.dumps(value)
            for key, value in settings.items()
        }
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sensorium", "worker", *options],
                env={**os.environ, **spoken},
                stderr=log,
                stdout=log,
            )

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def hands(self) -> list[int]:
        """The processes that do the work."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(FileNotFoundError):
            return [int(one) for one in children.read_text().split()]
        return []

    def kill(self) -> None:
        """At once, as power does; its processes go with it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, seconds: float = 50.0) -> int:
        self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


@contextmanager
def crowd(folder: Path, settings: dict[str, Any], *options: str, name: str = "worker") -> Iterator[Crowd]:
    made = Crowd(folder, name, settings, *options)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.stop()
