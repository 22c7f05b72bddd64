"""The command line as a process of its own: what it loads, how it ends, and what it writes where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import put_fake

HEAVY = (
    "numpy",
    "onnxruntime",
    "cv2",
    "PIL",
    "onnx",
    "aiohttp",
    "pydantic",
    "rich",
    "sensorium.server",
    "sensorium.service",
)
SENSORIUM = [sys.executable, "-m", "sensorium"]


def run(*words: str | Path, **more: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*SENSORIUM, *map(str, words)], capture_output=True, timeout=60, check=False, **more)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(word: str) -> None:
    script = (
        "import sys\n"
        f"sys.argv = ['sensorium', {word!r}]\n"
        "from sensorium.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_answers_for_programs_load_nothing_for_people(photos: Path) -> None:
    script = (
        "import sys\n"
        f"sys.argv = ['sensorium', 'classify', {str(photos / 'a.png')!r}, '--model', 'fake', '--json']\n"
        "from sensorium.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print('LOADED', [name for name in ('rich', 'onnxruntime', 'aiohttp', 'sensorium.server') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_what_is_piped_is_utf8_whatever_the_locale(photos: Path) -> None:
    surroundings = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "gbk", "FORCE_COLOR": ""}
    done = run("classify", photos / "b 猫.jpg", "--model", "fake", "--json", env=surroundings)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("utf-8"))["input"].endswith("b 猫.jpg")
    for_people = run("read", photos / "b 猫.jpg", "--model", "fake", env=surroundings)
    assert "中国 EXIT" in for_people.stdout.decode("utf-8")


def test_exit_codes_reach_the_shell(photos: Path) -> None:
    assert run("classify", photos / "a.png", "--model", "fake").returncode == 0
    done = run("classify", "missing.jpg", "--model", "fake")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error(photos: Path) -> None:
    words = [str(photos / "a.png")] * 300
    process = subprocess.Popen(
        [*SENSORIUM, "classify", *words, "--model", "fake"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stderr, process.stdout:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert process.wait(30) == 1
    assert said == b""


def interruptible() -> None:
    """Undo what a shell's `&` leaves to children: they ignore interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console")
def test_an_interrupt_ends_with_130_and_no_traceback(photos: Path, tmp_path: Path) -> None:
    put_fake(tmp_path / "models", "slow", "seconds = 30.0")
    # The missing file is told at once, and so shows that the work has begun.
    process = subprocess.Popen(
        [*SENSORIUM, "classify", "missing.jpg", str(photos / "a.png"), "--model", "slow", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=interruptible,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=50)
    assert process.returncode == 130
    assert said.strip() == "Interrupted."
