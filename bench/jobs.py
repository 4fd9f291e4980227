"""Jobs a second from an intent to its reviewed result, while every processor runs, and what limits them.

The worker is one that runs nothing (`stand_in`), since handlers are not what is measured; payloads are not sealed. The
baseline is the gate alone, to its grants, with the same intents in the same rounds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import psutil

from sluicegate.bench.figures import Findings, Text, figure
from sluicegate.bench.gate import TICK_SEC
from sluicegate.bench.stage import Held, Stage, now_ms, per_second, running
from sluicegate.infra.supervisor import PROCESSORS, Supervisor
from sluicegate.schemas.errors import Unavailable
from sluicegate.streams.kafka import Tail
from sluicegate.streams.settings import Settings

INTERVAL_MS: Final = 50
"""As `up` runs."""
WARMING: Final = 100
"""Jobs that the processes meet before anything is measured."""
BUSY: Final = 0.8
"""From this share of its time on, something counts as what limits."""
FLOW_SEC_MAX: Final = 60.0
AGAINST: Final = "the gate alone, to its grants"
BROKER: Final = "broker"
"""Alone among the processes it takes more than one core."""
_LOOK_SEC: Final = 0.1
_TYPE: Final = "ce_type"


class Flow:
    """One flow through: ends a second, and by process seconds of processor time and of wall time."""

    def __init__(self, rate: float, used: Mapping[str, float], sec: float, count: int) -> None:
        self.rate = rate
        self.used = used
        self.sec = sec
        self.count = count

    def us_per_job(self, name: str) -> float:
        """Processor time of a process for each job."""
        return max(self.used[name], TICK_SEC) / self.count * 1_000_000

    def share(self, name: str) -> float:
        """The part of one core that a process took."""
        return self.used[name] / self.sec


def measure(stage: Stage, findings: Findings, *, rounds: int, count: int) -> None:
    """So many rounds of ``count`` jobs through everything, and of as many through the gate alone."""
    whole, alone = stage.tenant("jobs", INTERVAL_MS), stage.tenant("jobs-gate", INTERVAL_MS)
    jobs: list[Flow] = []
    gate: list[Flow] = []
    for number in range(rounds):
        with _everything(whole) as processes:
            jobs.append(_flow(stage, whole, processes, ("job.results", "Result"), f"j{number}", count))
        with running(alone, "gate") as supervisor:
            gate.append(_flow(stage, alone, [supervisor], ("job.decisions", "Granted"), f"g{number}", count))
    name = "intent to reviewed result, all processors running"
    rates = [each.rate for each in gate]
    findings.figures.append(figure(name, "jobs/s", [each.rate for each in jobs], AGAINST, rates))
    base = [each.us_per_job("gate.0") for each in gate]
    for process in ("gate.0", "outputs.0"):
        used = [each.us_per_job(process) for each in jobs]
        findings.figures.append(figure(f"{name}: processor time of {process}", "us/job", used, AGAINST, base))
    findings.texts.append(Text("what limits jobs/s, medians of processor time", limits(jobs)))


def limits(flows: Sequence[Flow]) -> list[str]:
    """A line for each process, the busiest first, and what they say together."""
    shares = {name: statistics.median(each.share(name) for each in flows) for name in flows[0].used}
    ordered = sorted(shares, key=lambda name: -shares[name])
    costs = {name: statistics.median(each.us_per_job(name) for each in flows) for name in ordered}
    lines = [f"{name}: {costs[name]:,.0f} us/job, {shares[name]:.0%} of a core" for name in ordered]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    total = sum(shares.values())
    lines.append(f"all together: {total:.2f} of {cores} cores")
    first = next(name for name in ordered if name != BROKER)
    if shares[first] >= BUSY:
        lines.append(f"the limit is {first}, which has one core at most; more instances of it share its work")
    elif total >= BUSY * cores:
        lines.append(f"the limit is the machine: no process fills a core, and together they fill {cores}")
    else:
        lines.append(
            "the limit is waiting, on transactions, each other or what else runs here: nothing of this is full"
        )
    return lines


@contextmanager
def _everything(settings: Settings) -> Iterator[list[Supervisor]]:
    """Every processor, and a worker that runs nothing."""
    with Supervisor(settings, PROCESSORS) as processors:
        processors.start()
        processors.wait_ready()
        with running(settings, "stand_in") as worker:
            yield [processors, worker]


def _flow(
    stage: Stage, settings: Settings, processes: Sequence[Supervisor], end: tuple[str, str], series: str, count: int
) -> Flow:
    """``end`` is the topic and the type of the event that a job ends with here."""
    topic, kind = end
    scribe = stage.scribe(settings)
    tail = Tail(settings, "auditor", (topic,), group="auditor", start="end")
    try:
        _ended(tail, kind, Held(settings, scribe.messages(f"{series}-warm", WARMING, now_ms())), WARMING)
        held = Held(settings, scribe.messages(series, count, now_ms()))
        before, began = _used(stage, processes), time.monotonic()
        appended = _ended(tail, kind, held, count)
        sec, after = time.monotonic() - began, _used(stage, processes)
    finally:
        tail.close()
    used = {name: after[name] - before[name] for name in before}
    return Flow(per_second(sorted(appended), count), used, sec, count)


def _ended(tail: Tail, kind: str, held: Held, count: int) -> list[int]:
    """Let the intents be seen, and read until so many jobs have ended: append times in ms."""
    word = f"sluicegate.{kind}.v1".encode()
    held.release()
    found: list[int] = []
    deadline = time.monotonic() + FLOW_SEC_MAX
    while len(found) < count or not tail.at_end():
        if time.monotonic() > deadline:
            raise Unavailable(f"{len(found)} of {count} jobs ended in {FLOW_SEC_MAX:g} s; measure on a quieter machine")
        found += [record.timestamp_ms for record in tail.poll(_LOOK_SEC) if (_TYPE, word) in record.headers]
    return found


def _used(stage: Stage, processes: Sequence[Supervisor]) -> dict[str, float]:
    """Seconds of processor time of each process so far, user and system, the broker's too."""
    pids = {name: pid for supervisor in processes for name, pid in supervisor.pids().items()}
    found = {}
    for name, pid in {**pids, BROKER: stage.broker_pid, "what measures": os.getpid()}.items():
        times = psutil.Process(pid).cpu_times()
        found[name] = float(times.user + times.system)
    return found
