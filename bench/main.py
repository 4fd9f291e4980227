"""Dispatch of `sluicegate bench`: names to measurements, one embedded broker for all of them, a table or JSON."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import typer

from sluicegate.bench import figures
from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from sluicegate.bench.figures import Findings
    from sluicegate.bench.stage import Stage


class Size(msgspec.Struct, frozen=True):
    """How much is measured.

    ``gates`` are processes, commit interval in ms and how many more rules; ``seconds`` is the length of one flow of the
    latencies; ``seeds`` are of the anomaly score's workloads; ``flood_per_sec`` are intents, ``jobs`` those of a round.
    """

    rounds: int
    gates: tuple[tuple[int, int, int], ...]
    intents: int
    rates: tuple[int, ...]
    seconds: float
    events: int
    seeds: int
    flood_per_sec: int
    jobs: int


WHOLE: Final = Size(
    rounds=5,
    gates=((1, 5, 0), (2, 5, 0), (1, 50, 0), (1, 50, 1_000)),
    intents=20_000,
    rates=(100, 1_000),
    seconds=2.0,
    events=20_000,
    seeds=10,
    flood_per_sec=8_000,
    jobs=1_500,
)
"""5 ms is the interval that a figure of the gate is about, 50 ms is what `up` runs with. The flood is about twice what
one gate judges; all of it beyond its limits is refused."""
QUICK: Final = Size(
    rounds=1,
    gates=((1, 5, 50),),
    intents=200,
    rates=(100,),
    seconds=0.5,
    events=200,
    seeds=1,
    flood_per_sec=400,
    jobs=50,
)


def _gate(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import gate

    gate.measure(stage, findings, rounds=size.rounds, count_max=size.intents, settings=size.gates)


def _latency(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import latency

    latency.measure(stage, findings, rounds=size.rounds, rates=size.rates, seconds=size.seconds)


def _projection(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import projection

    projection.measure(stage, findings, rounds=size.rounds, count=size.events)


def _profile(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import breakdown

    breakdown.measure(findings, count=min(size.intents, 5_000), rounds=size.rounds)


def _judgement(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import judgement

    judgement.measure(findings, rounds=size.rounds, count=2_000)


def _anomaly(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import anomaly

    anomaly.measure(findings, seeds=size.seeds)


def _flood(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import flood

    flood.measure(stage, findings, rounds=size.rounds, seconds=4 * size.seconds, flood_per_sec=size.flood_per_sec)


def _control(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import control

    control.measure(stage, findings, rounds=size.rounds, seconds=2 * size.seconds)


def _review(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import review

    review.measure(findings, rounds=size.rounds, count=size.intents // 20)


def _detection(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import detection

    detection.measure(findings, per_class=max(size.intents // 40, 10), clean=size.intents // 10)


def _sealing(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import sealing

    sealing.measure(stage, findings, rounds=size.rounds, count_max=size.intents)


def _trust(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import trust

    trust.measure(findings, trust.WHOLE if size.rounds > 1 else trust.TINY)


def _trust_cost(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import trust_cost

    whole = size.rounds > 1
    agents = trust_cost.AGENTS if whole else 100
    trust_cost.measure(findings, rounds=size.rounds, count=min(size.intents, 4_000), agents=agents)


def _jobs(stage: Stage, findings: Findings, size: Size) -> None:
    from sluicegate.bench import jobs

    jobs.measure(stage, findings, rounds=min(size.rounds, 3), count=size.jobs)


MEASUREMENTS: Final[dict[str, Callable[[Stage, Findings, Size], None]]] = {
    "gate": _gate,
    "latency": _latency,
    "projection": _projection,
    "profile": _profile,
    "judgement": _judgement,
    "anomaly": _anomaly,
    "flood": _flood,
    "control": _control,
    "review": _review,
    "detection": _detection,
    "sealing": _sealing,
    "trust": _trust,
    "trust-cost": _trust_cost,
    "jobs": _jobs,
}


def run(names: Sequence[str], as_json: bool, size: Size = WHOLE) -> None:
    """Measure what is named, all by default, and print it. Raises BadInput for a name that is none."""
    for name in names:
        if name not in MEASUREMENTS:
            raise BadInput(f"no measurement is called `{name}`; there are {', '.join(MEASUREMENTS)}")
    findings = measure(names or tuple(MEASUREMENTS), size)
    typer.echo(msgspec.json.encode(findings).decode() if as_json else figures.table(findings))


def measure(names: Sequence[str], size: Size) -> Findings:
    """The findings of these measurements, in this order."""
    from sluicegate.bench.stage import Stage

    findings = figures.begin()
    with tempfile.TemporaryDirectory(prefix="sluicegate-bench-") as folder:
        stage = Stage(Path(folder))
        try:
            for name in names:
                began = time.monotonic()
                print(f"{name}: measuring, {size.rounds} rounds", file=sys.stderr, flush=True)
                MEASUREMENTS[name](stage, findings, size)
                print(f"{name}: done in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        finally:
            stage.close()
    return findings
