"""Intents a second through the gate, against its own engine without a step and against a relay without an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sluicegate.bench.figures import Findings, figure
from sluicegate.bench.material import INTENTS
from sluicegate.bench.offline import Offline
from sluicegate.bench.process import RELAY_GROUP
from sluicegate.bench.stage import DECISIONS, Held, Stage, Watcher, cpu_sec, now_ms, per_second, running
from sluicegate.streams.engine import Out, size_bytes
from sluicegate.streams.settings import Settings

KINDS: Final = ("gate", "noop", "relay")
GROUPS: Final = {"gate": "gate", "noop": "gate", "relay": RELAY_GROUP}
AIMS: Final = {"noop": 0.5, "relay": 0.2}
AGAINST: Final = {
    "noop": "the same engine, inputs and outputs with a step that does nothing",
    "relay": "a plain confluent-kafka transactional relay of the same records",
}

TICK_SEC: Final = 0.01
"""How finely the system counts processor time."""
TRIED: Final = 1_000
"""Intents of the first round, which warms the broker and tells how many the others take."""
ROUND_SEC: Final = 3.0
WARMING: Final = 100
"""Intents that each process group meets before anything is measured."""

Sizes = list[tuple[str, int, int]]


def outs_of_an_intent(rules: int = 0) -> Sizes:
    """What the gate writes for an allowed intent: (topic, bytes of the value, bytes of the headers)."""
    offline = Offline(rules)
    return [_size(out) for out in offline.meet(offline.records("size", 1)[0])]


def _size(out: Out) -> tuple[str, int, int]:
    bare = Out(out.topic, b"", b"", tuple((name, b"") for name, _ in out.headers))
    headers = size_bytes(out) - len(out.key) - len(out.value) - size_bytes(bare)
    return out.topic, len(out.value), headers + sum(len(name) for name, _ in out.headers)


class Round(NamedTuple):
    """One round of one kind."""

    rate: float
    cpu_us: float


def measure(
    stage: Stage, findings: Findings, *, rounds: int, count_max: int, settings: Sequence[tuple[int, int, int]]
) -> None:
    """For each setting (processes, commit interval in ms, more rules) rounds of all kinds in turn, in fresh processes.

    A round has as many intents as the gate judges in a few seconds, at most ``count_max``.
    """
    count = count_max
    for processes, interval_ms, rules in settings:
        outs = outs_of_an_intent(rules)
        series = f"{processes}-{interval_ms}ms-{rules}"
        tenants = {kind: stage.tenant(f"{kind}{series}", interval_ms, rules) for kind in KINDS}
        if count == count_max > TRIED:
            first = [one_round(stage, tenants[kind], kind, processes, outs, "first", TRIED) for kind in KINDS]
            count = min(max(int(first[0].rate * ROUND_SEC), TRIED), count_max)
        found: dict[str, list[Round]] = {kind: [] for kind in KINDS}
        for number in range(rounds):
            for kind in KINDS:
                found[kind].append(one_round(stage, tenants[kind], kind, processes, outs, f"r{number}", count))
        many = "1 process" if processes == 1 else f"{processes} processes"
        loaded = f" with {rules:,} more rules and all facts" if rules else ""
        _tell(findings, f"gate{loaded}, {many}, commits every {interval_ms} ms", found)


def _tell(findings: Findings, name: str, found: dict[str, list[Round]]) -> None:
    for kind, aim in AIMS.items():
        rates = {each: [one.rate for one in found[each]] for each in ("gate", kind)}
        findings.figures.append(figure(name, "intents/s", rates["gate"], AGAINST[kind], rates[kind], aim))
    for kind in AIMS:
        used = {each: [one.cpu_us for one in found[each]] for each in ("gate", kind)}
        findings.figures.append(figure(f"{name}: processor time", "us/intent", used["gate"], AGAINST[kind], used[kind]))


def one_round(
    stage: Stage, settings: Settings, kind: str, processes: int, outs: Sizes, series: str, count: int
) -> Round:
    """One round of one kind in fresh processes. Raises InvariantBroken when something is missing or doubled."""
    journaled = sum(topic == DECISIONS for topic, _, _ in outs)
    watcher = Watcher(settings, GROUPS[kind])
    try:
        messages = list(stage.scribe(settings).messages(series, count, now_ms()))
        warming = list(stage.scribe(settings).messages(f"{series}-warm", WARMING, now_ms()))
        with running(settings, kind, processes, outs) as supervisor:
            # The first record of a process costs what comes once: the policy is compiled, modules are loaded.
            before = watcher.ends(DECISIONS)
            held = Held(settings, warming)
            held.release()
            watcher.wait(INTENTS, held.ends)
            watcher.appended(DECISIONS, before, journaled * WARMING)
            starts = watcher.ends(DECISIONS)
            held = Held(settings, messages)
            used = cpu_sec(supervisor)
            held.release()
            watcher.wait(INTENTS, held.ends)
            used = cpu_sec(supervisor) - used
        appended = watcher.appended(DECISIONS, starts, journaled * count)
        rate = per_second(appended, journaled * count) / journaled
        return Round(rate, max(used, TICK_SEC) / count * 1_000_000)
    finally:
        watcher.close()
