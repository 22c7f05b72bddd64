"""The command line: `sensorium`, with one command for each task.

Names and summaries are found without importing what they name; only the command that is run is loaded.
"""

from __future__ import annotations

from sensorium.cli.group import Commands

main = Commands()

__all__ = ["main"]
