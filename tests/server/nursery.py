"""Servers as processes of their own, which need not each import all over again: they are forked off one that has.

What a server does is its own from the first line of `serve` on: settings, sockets, threads, its end. `test_serve.py` has one
that starts as users start it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any, Protocol

SERVE = "from sensorium.config import load_settings; from sensorium.server.serve import serve; serve(load_settings())"


class Process(Protocol):
    """What tests use of a `subprocess.Popen`."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sent: int) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


def start(environment: dict[str, str], log: Path) -> Process:
    """A server with these variables, whose standard error goes to the file."""
    if hasattr(os, "fork"):
        return _nursery().start(environment, log)
    with log.open("wb") as told:
        return subprocess.Popen([sys.executable, "-c", SERVE], env=environment, stderr=told)


class _Forked:
    """A server; the socket tells its pid, and how it ended once it has."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        self.returncode: int | None = None
        self.pid = self._number()

    def _number(self) -> int:
        """The next that is told. Raises TimeoutError, and ChildProcessError when there is nobody who could tell it."""
        told = self._told.recv(4, socket.MSG_WAITALL)
        if len(told) < 4:
            raise ChildProcessError("the process that servers are forked off has ended")
        return int.from_bytes(told, "little", signed=True)

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._told.settimeout(timeout)
            try:
                self.returncode = self._number()
            except (TimeoutError, BlockingIOError) as error:
                raise subprocess.TimeoutExpired("a server", timeout or 0) from error
            self._told.close()
        return self.returncode

    def send_signal(self, sent: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sent)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Nursery:
    """The process that has imported what servers need."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tests.server.nursery", str(theirs.fileno())]
            folder = Path(__file__).parents[2]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=folder)
        atexit.register(self._close)

    def start(self, environment: dict[str, str], log: Path) -> _Forked:
        here, there = socket.socketpair()
        with there, log.open("wb") as told:
            asked = json.dumps({"environment": environment, "folder": str(Path.cwd())}).encode()
            socket.send_fds(self._control, [asked[:1]], [there.fileno(), told.fileno()])
            self._control.sendall(asked[1:] + b"\n")
        return _Forked(here)

    def _close(self) -> None:
        self._control.close()
        self._process.wait(10)


@cache
def _nursery() -> _Nursery:
    return _Nursery()


# The nursery's side


def _look_after(control: socket.socket) -> dict[str, Any] | None:
    """Fork a server whenever one is asked for. What it shall be is returned in its process, None where there are no more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for its keepers
    while True:
        data, passed, _, _ = socket.recv_fds(control, 1, 2)
        if not data:
            return None
        while not data.endswith(b"\n"):
            data += control.recv(1 << 16)
        if os.fork() == 0:
            control.close()
            return _keep(json.loads(data), *passed)
        for descriptor in passed:
            os.close(descriptor)


def _keep(asked: dict[str, Any], told: int, log: int) -> dict[str, Any]:
    """Fork the server and tell how it ends; returns in the server's process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(told)
        os.dup2(log, 2)
        os.close(log)
        return asked
    os.close(log)
    threading.Thread(target=_kill_without_tests, args=(told, pid), daemon=True).start()
    os.write(told, pid.to_bytes(4, "little"))
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        os.write(told, ended.to_bytes(4, "little", signed=True))
    os._exit(0)


def _kill_without_tests(told: int, pid: int) -> None:
    """Tests that were killed leave no server behind."""
    os.read(told, 1)
    with contextlib.suppress(ProcessLookupError):  # it has ended, which was told
        os.kill(pid, signal.SIGKILL)


def _main() -> None:
    import sensorium.jobs.crew
    import sensorium.server.app
    import sensorium.server.process
    import sensorium.server.serve

    asked = _look_after(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        tempfile.tempdir = None
        sensorium.server.serve.serve(sensorium.config.load_settings())


if __name__ == "__main__":
    _main()
