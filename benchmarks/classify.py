"""A folder of pictures through `sensorium.classify` on two cores, against bare loops with the same preparation and graph.

The bare loops read, decode, prepare, run and rank, and nothing else: no sources, limits, requests, queues or results.
One is two processes, the other two threads of one; the better of them is the limit. All contestants stay
loaded and take short turns, and the ratio is the median of the rounds' ratios, so that a machine that drifts drifts for all.

Pictures: the 300 of the test data where it is at hand, else scikit-image's photographs as JPEGs of 500 x 375.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

CORES = 2
ROUNDS = 30
TURN = 100
"""Pictures that a contestant works through before the next has its turn: under a second."""
PICTURES = 300
GOAL = 0.95

Pass = Callable[[slice], Any]
"""Works through a part of one's pictures."""


def library(paths: list[Path]) -> Pass:
    import sensorium

    return lambda part: sensorium.classify(paths[part], cache=False)


def bare_loop(paths: list[Path]) -> Pass:
    one = bare_step()
    return lambda part: [one(path) for path in paths[part]]


def bare_threads(paths: list[Path]) -> Pass:
    one, pool = bare_step(), ThreadPoolExecutor(CORES)
    return lambda part: list(pool.map(one, paths[part]))


def kept_graph() -> Path:
    """The default model's graph, in the folder where built ones are kept."""
    from sensorium.config import load_settings
    from sensorium.engines.local import onnx_classifier as classifier
    from sensorium.runtimes import weights

    made = weights.onnx_model(classifier.CARDS[0], load_settings().cache_dir)
    assert isinstance(made, Path), "the cache folder cannot be written"
    return made


def bare_step(graph: Path | None = None) -> Callable[[Path], list[tuple[int, float]]]:
    """From a file to the five likeliest classes, by what the engine itself calls; by default with the default model."""
    one = bare_bytes(graph)
    return lambda path: one(path.read_bytes())


def bare_bytes(graph: Path | None = None) -> Callable[[bytes], list[tuple[int, float]]]:
    """As `bare_step`, from what such a file holds."""
    import onnxruntime

    from sensorium.engines.local import onnx_classifier as classifier
    from sensorium.media import limits
    from sensorium.media.decode import describe

    card = classifier.CARDS[0]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    graph = graph or kept_graph()
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    preparation = classifier.Preparation(classifier.read_input(card))

    def one(data: bytes) -> list[tuple[int, float]]:
        opened = describe(data, "picture")
        picture = opened.decode(opened.scale_for(preparation.at_least, limits.current()), False)
        logits = session.run(["logits"], {"input": preparation.fast(picture.pixels)})[0]
        return classifier.best(classifier.scores_of(logits, "softmax"), 5)

    return one


CONTESTANTS: dict[str, tuple[Callable[[list[Path]], Pass], int]] = {
    "library": (library, 1),
    "bare loop, 2 processes": (bare_loop, CORES),
    "bare loop, 2 threads": (bare_threads, 1),
}
"""How each is made, and in how many processes it runs."""


def work(make: Callable[[list[Path]], Pass], paths: list[Path], orders: Connection) -> None:
    """What a contestant's process does: get ready, then work through the part that each order names."""
    run = make(paths)
    run(slice(None))
    orders.send("ready")
    while part := orders.recv():
        start, busy = time.perf_counter(), time.process_time()
        run(part)
        orders.send((time.perf_counter() - start, time.process_time() - busy))


class Measured(NamedTuple):
    """What one turn took."""

    rate: float
    """Pictures a second, by the slowest process."""
    cpu_ms: float
    """Of all cores, for each picture. It tells more than the rate where others use the machine too."""


class Contestant:
    def __init__(self, make: Callable[[list[Path]], Pass], paths: Sequence[Path], processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes, self._orders = processes, []
        for part in range(processes):
            ours, theirs = context.Pipe()
            share = list(paths[part::processes])
            context.Process(target=work, args=(make, share, theirs), daemon=True).start()
            self._orders.append(ours)
        for orders in self._orders:
            orders.recv()

    def turn(self, start: int) -> Measured:
        """Work through the pictures from there on, each process through its share of them."""
        for orders in self._orders:
            orders.send(slice(start // self._processes, (start + TURN) // self._processes))
        seconds, busy = zip(*(orders.recv() for orders in self._orders), strict=True)
        return Measured(TURN / max(seconds), 1000 * sum(busy) / TURN)

    def dismiss(self) -> None:
        for orders in self._orders:
            orders.send(None)


def pictures(spare: Path) -> list[Path]:
    named = os.environ.get("SENSORIUM_TEST_DATA")
    data = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    found = sorted((data / "images-imagenet").glob("*.JPEG"))[:PICTURES]
    return found or photographs(spare)


def photographs(folder: Path) -> list[Path]:
    """Scikit-image's colour photographs in different cuts, as JPEGs of 500 x 375."""
    from PIL import Image

    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        sys.exit("There are no pictures: install scikit-image, or set SENSORIUM_TEST_DATA.")
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
    known = [path for name in names if (path := Path(spec.origin).parent / "data" / name).is_file()]
    made = []
    for number in range(PICTURES):
        with Image.open(known[number % len(known)]) as picture:
            cut = number / 10
            whole = picture.convert("RGB").resize((500, 375), box=(cut, cut, picture.width - cut, picture.height - cut))
        made.append(folder / f"{number}.jpg")
        whole.save(made[-1], quality=90)
    return made


def measured(paths: list[Path]) -> dict[str, list[Measured]]:
    contestants = {name: Contestant(make, paths, processes) for name, (make, processes) in CONTESTANTS.items()}
    turns: dict[str, list[Measured]] = {name: [] for name in contestants}
    for number in range(ROUNDS):
        for name, contestant in contestants.items():
            turns[name].append(contestant.turn(number * TURN % PICTURES))
    for contestant in contestants.values():
        contestant.dismiss()
    return turns


def line(name: str, turns: list[Measured]) -> dict[str, Any]:
    rates = [one.rate for one in turns]
    return {
        "contestant": name,
        "images_per_second": round(statistics.median(rates), 1),
        "least": round(min(rates), 1),
        "most": round(max(rates), 1),
        "cpu_ms_per_image": round(statistics.median(one.cpu_ms for one in turns), 2),
    }


def main() -> int:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    os.environ |= {"SENSORIUM_THREADS": str(CORES), "SENSORIUM_RUNNING": str(2 * CORES + 2)}
    with tempfile.TemporaryDirectory() as spare:
        turns = measured(pictures(Path(spare)))
    lines = [line(name, each) for name, each in turns.items()]
    for each in lines:
        print(json.dumps(each))
    ours, *bare = lines
    limit = max(bare, key=lambda one: float(one["images_per_second"]))["contestant"]
    pairs = zip(turns[ours["contestant"]], turns[limit], strict=True)
    ratio = statistics.median(here.rate / there.rate for here, there in pairs)
    figures = {"images_per_second": ours["images_per_second"], "limit": limit, "ratio": round(ratio, 3)}
    met = ratio >= GOAL
    print(json.dumps({"bench": "classify", "figures": figures, "goals": {"ratio": GOAL}, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
