"""What other agents feel of one that floods: from intent to decision with the flood against the same flow without it.

Two gates share the partitions evenly, so the others are of three kinds: on the flooder's partition, on another one that
its gate reads too, and at the other gate. The flooder is a process of its own with its own login, so that the broker's
quota holds for it; once it is measured with the quota of the settings' default, once with none worth the name.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from sluicegate.bench.figures import Findings, Text, figure
from sluicegate.bench.flooder import flooder
from sluicegate.bench.latency import PERCENTILES, Place, latencies_of, percentile_of
from sluicegate.bench.material import INTENTS, NO_LIMIT, PARTITIONS, Message
from sluicegate.bench.stage import Stage, Watcher, now_ms, running
from sluicegate.streams.settings import Settings

OTHERS_PER_SEC: Final = 40
GATES: Final = 2
INTERVAL_MS: Final = 50
"""As `up` runs."""
LIMITS: Final = {"intents_per_min_max": 6_000, "in_flight_max": 1_000}
"""The defaults, which other measurements lift."""
KINDS: Final = {"under a flood": "flood", "under a flood without quota": "flood-free"}
PLACES: Final = ("on its partition", "on another partition of its gate", "at the other gate")
_SETTLE_SEC: Final = 1.0

Latencies = dict[str, list[float]]


def place_of(partition: int) -> str:
    """Where others stand who are on this partition; gates take partitions in ranges, the flooder's is 0."""
    return PLACES[0 if partition == 0 else 1 if partition < PARTITIONS // GATES else 2]


def measure(stage: Stage, findings: Findings, *, rounds: int, seconds: float, flood_per_sec: int) -> None:
    """Each round the flow alone, and under each kind of flood, ``seconds`` each."""
    tenants = {
        "flood": stage.tenant("flood", INTERVAL_MS, **LIMITS),
        "flood-free": stage.tenant("flood-free", INTERVAL_MS, agent_bytes_per_sec_max=NO_LIMIT, **LIMITS),
    }
    alone: list[Latencies] = []
    found: dict[str, list[Latencies]] = {kind: [] for kind in KINDS}
    written: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        with running(tenants["flood"], "gate", GATES):
            alone.append(_flow(stage, tenants["flood"], seconds, f"a{number}"))
        for kind, name in KINDS.items():
            with running(tenants[name], "gate", GATES), _drained(tenants[name]):
                began, before = time.monotonic(), _written(tenants[name])
                with running(tenants[name], "flooder", flood_per_sec=flood_per_sec):
                    time.sleep(_SETTLE_SEC)
                    found[kind].append(_flow(stage, tenants[name], seconds, f"f{number}"))
                rate = (_written(tenants[name]) - before) / (time.monotonic() - began)
                written[kind].append(f"{rate:,.0f}")
    for kind, rounds_of in found.items():
        for place in PLACES:
            for percentile in PERCENTILES:
                values = [percentile_of(each[place], percentile) for each in rounds_of]
                base = [percentile_of(each[place], percentile) for each in alone]
                name = f"intent to decision {kind}, others {place}, p{percentile}"
                findings.figures.append(figure(name, "ms", values, "the same flow without the flood", base))
    lines = [f"{kind}: {', '.join(rates)}" for kind, rates in written.items()]
    findings.texts.append(Text(f"what the flooder wrote, of {flood_per_sec:,} intents/s that it tried", lines))


def _written(settings: Settings) -> int:
    """Intents on the flooder's partition."""
    watcher = Watcher(settings, "gate")
    try:
        return watcher.ends(INTENTS)[0]
    finally:
        watcher.close()


@contextmanager
def _drained(settings: Settings) -> Iterator[None]:
    """Afterwards all that was written is judged, so that a round leaves nothing to the next one."""
    yield
    watcher = Watcher(settings, "gate")
    try:
        watcher.wait(INTENTS, {place: end for place, end in watcher.ends(INTENTS).items() if end})
    finally:
        watcher.close()


def _flow(stage: Stage, settings: Settings, seconds: float, series: str) -> Latencies:
    """Latencies of the other agents in ms, by where they stand."""
    others = _others(stage, settings, series, int(OTHERS_PER_SEC * seconds))
    written, found = latencies_of(stage, settings, others, OTHERS_PER_SEC, _SETTLE_SEC)
    return _by_place(written, found)


def _by_place(written: dict[Place, float], found: list[float]) -> Latencies:
    sorted_out: Latencies = {place: [] for place in PLACES}
    for (partition, _), latency in zip(written, found, strict=True):
        sorted_out[place_of(partition)].append(latency)
    return sorted_out


def _others(stage: Stage, settings: Settings, series: str, count: int) -> Sequence[Message]:
    scribe = stage.scribe(settings)
    who = flooder().encode()
    messages = (scribe.message(series, number, now_ms()) for number in itertools.count())
    return list(itertools.islice((each for each in messages if each.key != who), count))
