"""Classification over HTTP on two cores, client included: our server, its peers, and loops without any server.

All of one precision stay loaded and take short turns, so that a machine that drifts drifts for all;
every ratio is the median of the rounds' ratios. Pictures: as in `make bench-classify`.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from benchmarks import classify
from benchmarks.serving import contestants, models
from benchmarks.serving.contestants import BareLoops, Contestant, Server, Turn
from benchmarks.serving.measures import quantile

ROUNDS = int(os.environ.get("ROUNDS", "12"))
LEAST_AGREEMENT = 0.75
LIMITS = {"limit, 2 processes": (2, 1), "limit, 2 threads": (1, 2)}
"""Processes, and threads of each."""
GOALS = {
    "fp32": {"limit": 0.90, "litserve": 1.22, "flask": 1.3},
    "int8": {"limit": 0.84, "litserve": 1.22, "flask": 1.45},
}
"""How many times as fast as each our server should be."""
P99_OVER_P50, PSS_MIB = 2.0, 300


def measured(model: models.Model, pictures: Sequence[Path]) -> dict[str, Any]:
    """One line for each contestant, and the figures that have goals."""
    with ExitStack() as stack:

        def loaded(one: Any) -> Any:
            return stack.enter_context(closing(one))

        ours: Server = loaded(contestants.sensorium(model, pictures, workers=contestants.CORES))
        alone = loaded(contestants.sensorium(model, pictures, name="sensorium, 1 worker"))
        servers = [ours, alone, *(loaded(start()) for start in contestants.peers(model, pictures))]
        loops = [
            loaded(BareLoops(name, model, pictures, processes=processes, threads=threads))
            for name, (processes, threads) in LIMITS.items()
        ]
        _same_work(ours, servers)
        everyone: list[Contestant] = [*loops, *servers]
        turns: dict[str, list[Turn]] = {one.name: [] for one in everyone}
        memory = dict.fromkeys(turns, 0.0)
        for one in everyone:
            one.rest()
        for _ in range(ROUNDS):
            for one in everyone:
                one.wake()
                turns[one.name].append(one.turn())
                one.rest()
                memory[one.name] = max(memory[one.name], one.pss_mib())
        for name, each in turns.items():
            print(json.dumps(line(model.precision, name, each, memory[name])), flush=True)
        return figures(turns, memory[ours.name])


def _same_work(ours: Server, servers: Sequence[Server]) -> None:
    expected = ours.likeliest()
    for server in servers:
        same = statistics.mean(here == there for here, there in zip(server.likeliest(), expected, strict=True))
        if same < LEAST_AGREEMENT:
            sys.exit(f"{server.name} names {same:.0%} of the pictures as we do: it does other work")


def line(precision: str, name: str, turns: Sequence[Turn], memory: float) -> dict[str, Any]:
    rates = [turn.rate for turn in turns]
    answered = sum(turn.answered for turn in turns)
    told = {
        "contestant": name,
        "precision": precision,
        "per_second": round(statistics.median(rates), 1),
        "least": round(min(rates), 1),
        "most": round(max(rates), 1),
        "server_cpu_ms": round(1000 * sum(turn.server_cpu for turn in turns) / answered, 2),
        "pss_mib": round(memory),
        "others_cores": round(statistics.median(turn.others_cpu / turn.elapsed for turn in turns), 2),
    }
    seconds = sorted(second for turn in turns for second in turn.seconds)
    if not seconds:
        return told
    return {
        **told,
        "p50_ms": round(1000 * quantile(seconds, 0.5), 1),
        "p99_ms": round(1000 * quantile(seconds, 0.99), 1),
        "client_cpu_ms": round(1000 * sum(turn.client_cpu for turn in turns) / answered, 2),
        "errors": sum(turn.errors for turn in turns),
    }


def figures(turns: dict[str, list[Turn]], memory: float) -> dict[str, Any]:
    """How our server stands to the others.

    `limit_by_cpu` compares the processor's time for each answer, client included: what the ratio of rates would be
    where nobody else uses the machine. `thin` is the most that a server in Python could give.
    """
    limit = max(LIMITS, key=lambda name: statistics.median(turn.rate for turn in turns[name]))
    ours = turns["sensorium"]

    def ratio(other: str) -> float:
        return round(statistics.median(a.rate / b.rate for a, b in zip(ours, turns[other], strict=True)), 3)

    spread = statistics.median(quantile(turn.seconds, 0.99) / quantile(turn.seconds, 0.5) for turn in ours)
    others = [name for name in turns if name not in (*LIMITS, "sensorium")]
    bare = sum(turn.server_cpu for turn in turns[limit]) / sum(turn.answered for turn in turns[limit])
    spent = sum(turn.server_cpu + turn.client_cpu for turn in ours) / sum(turn.answered for turn in ours)
    return {
        "limit": ratio(limit),
        "limit_by_cpu": round(bare / spent, 3),
        **{name: ratio(name) for name in others},
        "p99_over_p50": round(spread, 2),
        "pss_mib": round(memory),
        "errors": sum(turn.errors for turn in ours),
    }


def met(precision: str, reached: dict[str, Any]) -> bool:
    return (
        all(reached[name] >= goal for name, goal in GOALS[precision].items())
        and reached["p99_over_p50"] <= P99_OVER_P50
        and reached["pss_mib"] <= PSS_MIB
        and not reached["errors"]
    )


def main() -> int:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: contestants.CORES])
    with tempfile.TemporaryDirectory() as spare:
        contestants.at_home(Path(spare))
        pictures = classify.pictures(Path(spare))
        contestants_of = {"fp32": models.fp32(), "int8": models.int8(pictures)}
        wanted = os.environ.get("PRECISIONS", "fp32,int8").split(",")
        reached = {name: measured(contestants_of[name], pictures) for name in wanted}
    reached_all = all(met(name, figure) for name, figure in reached.items())
    common = {"p99_over_p50": P99_OVER_P50, "pss_mib": PSS_MIB, "errors": 0}
    goals = {name: {**GOALS[name], **common} for name in reached}
    print(json.dumps({"bench": "serving", "figures": reached, "goals": goals, "met": reached_all}))
    return 0 if reached_all else 1


if __name__ == "__main__":
    sys.exit(main())
