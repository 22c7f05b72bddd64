"""Who is measured: bare loops, our server, and peers as their own pages advise to run them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from benchmarks.classify import bare_step
from benchmarks.serving import machine
from benchmarks.serving.client import ask_each, closed_loop, upload
from benchmarks.serving.models import Model

CORES = 2
CLIENTS = 32
WARM_SECONDS, TURN_SECONDS = 0.5, 2.0
"""Of each turn, before and while answers are counted."""
READY_SECONDS = 60
PEERS = Path(__file__).with_name("peers")
PEERS_BIN = Path(os.environ.get("PEERS_BIN", ".venv-peers/bin")).absolute()
CHECKED = 32
"""Pictures on which all must agree for the most part: who prepares them wrongly measures something else."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn gave."""

    rate: float
    """Answers a second."""
    seconds: Sequence[float] = ()
    """How long each answer took."""
    answered: int = 0
    """In all of the turn, for which the processor's time is counted."""
    server_cpu: float = 0.0
    client_cpu: float = 0.0
    others_cpu: float = 0.0
    elapsed: float = 1.0
    errors: int = 0


class Contestant(Protocol):
    name: str

    def turn(self) -> Turn: ...
    def pss_mib(self) -> float: ...
    def rest(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


class BareLoops:
    """The limit: the same preparation and graph, without any server. Two processes, or two threads of one."""

    def __init__(self, name: str, model: Model, pictures: Sequence[Path], *, processes: int, threads: int) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._orders: list[Connection] = []
        self._processes = []
        for part in range(processes):
            ours, theirs = context.Pipe()
            share = list(pictures[part::processes])
            process = context.Process(target=_work, args=(model.file, share, threads, theirs), daemon=True)
            process.start()
            self._processes.append(process)
            self._orders.append(ours)
        for orders in self._orders:
            orders.recv()

    def turn(self) -> Turn:
        busy, start = machine.busy_seconds(), time.perf_counter()
        for orders in self._orders:
            orders.send(TURN_SECONDS)
        parts = [orders.recv() for orders in self._orders]
        done, cpu = sum(part[0] for part in parts), sum(part[2] for part in parts)
        rate = sum(part[0] / part[1] for part in parts)
        elapsed = time.perf_counter() - start
        others = machine.busy_seconds() - busy - cpu
        return Turn(rate, answered=done, server_cpu=cpu, others_cpu=others, elapsed=elapsed)

    def rest(self) -> None:
        """Nothing to do: between turns the loops wait for orders."""

    def wake(self) -> None:
        """As `rest`."""

    def pss_mib(self) -> float:
        return sum(machine.pss_mib(process.pid or 0) for process in self._processes)

    def close(self) -> None:
        for orders in self._orders:
            orders.send(None)
        for process in self._processes:
            process.join()


def _work(graph: Path, pictures: list[Path], threads: int, orders: Connection) -> None:
    """What a bare loop's process does: pictures for as long as each order says."""
    one = bare_step(graph)
    pool = ThreadPoolExecutor(threads)
    for path in pictures[:20]:
        one(path)
    orders.send("ready")
    while seconds := orders.recv():
        start, cpu = time.perf_counter(), time.process_time()
        loops = [pool.submit(_until, one, pictures[number::threads], start + seconds) for number in range(threads)]
        done = sum(loop.result() for loop in loops)
        orders.send((done, time.perf_counter() - start, time.process_time() - cpu))


def _until(one: Callable[[Path], Any], pictures: Sequence[Path], end: float) -> int:
    done = 0
    while time.perf_counter() < end:
        one(pictures[done % len(pictures)])
        done += 1
    return done


@dataclass
class Server:
    """A server in processes of its own, and the requests that it gets."""

    name: str
    command: list[str]
    port: int
    path: str
    pictures: Sequence[Path]
    environment: dict[str, str] = field(default_factory=dict)
    key: str = ""
    log: Path | None = None

    def __post_init__(self) -> None:
        self.requests = [upload(self.path, picture.read_bytes(), key=self.key) for picture in self.pictures]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **self.environment}
        with (self.log or Path(os.devnull)).open("ab") as log:
            self._process = subprocess.Popen(
                self.command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=PEERS.parents[2]
            )
        self._wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def turn(self) -> Turn:
        busy, cpu, start = machine.busy_seconds(), machine.cpu_seconds(self.pid), time.perf_counter()
        load = closed_loop(self.port, self.requests, clients=CLIENTS, seconds=WARM_SECONDS + TURN_SECONDS)
        cpu, elapsed = machine.cpu_seconds(self.pid) - cpu, time.perf_counter() - start
        counted = load.within(start + WARM_SECONDS, start + WARM_SECONDS + TURN_SECONDS)
        good = [answer for answer in counted if answer.status == 200]
        return Turn(
            rate=len(good) / TURN_SECONDS,
            seconds=[answer.seconds for answer in good],
            answered=len(load.answers),
            server_cpu=cpu,
            client_cpu=load.cpu_seconds,
            others_cpu=machine.busy_seconds() - busy - cpu - load.cpu_seconds,
            elapsed=elapsed,
            errors=sum(answer.status != 200 for answer in load.answers),
        )

    def rest(self) -> None:
        """Stand still until `wake`: some servers take a third of a core while nobody asks them."""
        os.killpg(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def likeliest(self) -> list[int]:
        """The class that it names first, for some pictures."""
        told = ask_each(self.port, self.requests[:CHECKED])
        return [json.loads(body)["labels"][0]["index"] for _, body in told]

    def pss_mib(self) -> float:
        return machine.pss_mib(self.pid)

    def close(self) -> None:
        self.wake()
        os.killpg(self.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def _wait(self) -> None:
        """Until it has answered each of its processes' worth of requests."""
        end = time.monotonic() + READY_SECONDS
        while True:
            try:
                if all(answer.status == 200 for answer, _ in ask_each(self.port, self.requests[:4])):
                    break
            except OSError:
                pass
            if not self.alive or time.monotonic() > end:
                raise SystemExit(f"{self.name} does not answer: run `{' '.join(self.command)}` to see why")
            time.sleep(0.1)
        closed_loop(self.port, self.requests, clients=CLIENTS, seconds=1.0)


def sensorium(
    model: Model, pictures: Sequence[Path], *, name: str = "sensorium", workers: int = 1, log: Path | None = None
) -> Server:
    """Our own server, as it comes but for the cache, which would answer the same picture at once; asking for a key."""
    port, key, threads = free_port(), new_key(), CORES // workers
    environment = {
        "SENSORIUM_CACHE": "off",
        "SENSORIUM_AUTH": "on" if key else "off",
        "SENSORIUM_MODELS": json.dumps({"classify": [model.name]}),
        "SENSORIUM_WORKERS": str(workers),
        "SENSORIUM_THREADS": str(threads),
        "SENSORIUM_RUNNING": str(2 * threads + 2),
    }
    command = [sys.executable, "-m", "sensorium", "serve", "--port", str(port)]
    return Server(name, command, port, "/v1/classify", pictures, environment, key=key, log=log)


def at_home(folder: Path) -> None:
    """Have models and keys kept in that folder, by this process and all that it starts."""
    os.environ |= {"SENSORIUM_MODELS_DIR": str(folder / "models"), "SENSORIUM_DATA_DIR": str(folder / "data")}


def new_key() -> str:
    """A key that the server asks for; empty where there are no keys."""
    made = subprocess.run(
        [sys.executable, "-m", "sensorium", "keys", "create", "bench", "--json"], capture_output=True, text=True
    )
    return str(json.loads(made.stdout)["key"]) if made.returncode == 0 else ""


def peers(model: Model, pictures: Sequence[Path]) -> list[Callable[[], Server]]:
    """Each is started when called."""

    def start(name: str, command: Callable[[int], list[str]]) -> Callable[[], Server]:
        def started() -> Server:
            port = free_port()
            environment = {"BENCH_MODEL": str(model.file), "PYTHONPATH": str(PEERS)}
            return Server(name, command(port), port, "/classify", pictures, environment)

        return started

    def gunicorn(port: int) -> list[str]:
        return [str(PEERS_BIN / "gunicorn"), "-w", "2", "-b", f"127.0.0.1:{port}", "flask_app:app"]

    def uvicorn(port: int) -> list[str]:
        how = ["--workers", "2", "--port", str(port), "--no-access-log", "--log-level", "warning"]
        return [str(PEERS_BIN / "uvicorn"), *how, "fastapi_app:app"]

    def litserve(port: int) -> list[str]:
        return [str(PEERS_BIN / "python"), str(PEERS / "litserve_app.py"), str(port)]

    def thin(port: int) -> list[str]:
        return [sys.executable, "-m", "benchmarks.serving.peers.thin", str(port)]

    return [start("litserve", litserve), start("flask", gunicorn), start("fastapi", uvicorn), start("thin", thin)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
