"""The anomaly score on generated traffic that drifts: false alarms beside the nominal ones, anomalies found by kind.

Three workloads of one agent each, seeded. Support refunds: office hours, log-normal amounts and a rate that both grow.
A nightly batch whose hour moves twice. A pipeline around the clock whose payloads and row counts grow. From the tenth
day on anomalies are put in, one episode in two days. What is learned, and when: an event that scores at most 0.8 runs
and is learned a minute later, an anomaly too, for nobody stopped it. One above 0.8 waits half an hour for a person, who
allows every ordinary event and one anomaly in five; those are learned then, the others never.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from sluicegate.bench.figures import Findings, Text, figure, spread
from sluicegate.policies.anomaly import (
    SKETCH_BYTES,
    Bins,
    Observation,
    Sketch,
    bins_of,
    pool,
    score,
    shape_of,
    target_of,
)

ALARM_ABOVE: Final = 0.8
NOMINAL_PER_1000: Final = 4.0
"""A score above 0.8 is a p-value below 10**-2.4."""

_MINUTE: Final = 60_000
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_BEGIN: Final = 20_000 * _DAY
_INJECTED_FROM: Final = 10
_EPISODES_A_DAY: Final = 0.5
_ALLOWED_SHARE: Final = 0.2
_RECENT: Final = 10 * _MINUTE
_LEARNED_AFTER: Final = _MINUTE
_PERSON_TAKES: Final = 30 * _MINUTE
_BURST_EVENTS: Final = 20
_OTHERS: Final = 3
_OTHERS_SEED: Final = 1_000
_JOINS_BEFORE_END: Final = 10
"""In days."""
_TIMED_EVENTS: Final = 5_000


class Event(msgspec.Struct, order=True):
    """One intent; ``kind`` and ``episode`` are those of an injected anomaly, empty and 0 for ordinary ones."""

    at_ms: int
    number: int
    amount_usd: float | None
    affected_users: float | None
    payload_bytes: int
    shape: int
    target: int | None
    kind: str = ""
    episode: int = 0


class Played(msgspec.Struct):
    """What one run of a workload gave: ordinary events and alarms among them, by the sketch that was asked."""

    ordinary: Counter[str] = msgspec.field(default_factory=Counter)
    alarms: Counter[str] = msgspec.field(default_factory=Counter)
    alarms_of_days: Counter[int] = msgspec.field(default_factory=Counter)
    bins: list[tuple[int, Bins]] = []
    episodes: dict[str, set[int]] = {}
    found: dict[str, set[int]] = {}


Ordinary = Callable[[random.Random, int, int], Event]
"""An ordinary event of the workload at this time, with this number."""


class Workload(msgspec.Struct):
    """``events_an_hour`` by the time in ms; ``ordinary`` makes an event; ``kinds`` are the anomalies put in.

    ``odd_hour`` is the UTC hour at which next to nothing happens.
    """

    name: str
    days: int
    odd_hour: int
    events_an_hour: Callable[[int], float]
    ordinary: Ordinary
    kinds: tuple[str, ...]


REFUND_SHAPE: Final = shape_of({"order": "o", "amount": 1, "reason": "late"})
REFUND_SHORT_SHAPE: Final = shape_of({"order": "o", "amount": 1})
BATCH_SHAPE: Final = shape_of({"table": "t", "rows": [{"id": 1}]})
PIPE_SHAPE: Final = shape_of({"source": "s", "rows": 1, "schema": {"id": "int"}})
FOREIGN_SHAPE: Final = shape_of({"order": "o", "amount": 1, "iban": "x", "callback": {"url": "u"}})


def _day(at_ms: int) -> float:
    return (at_ms - _BEGIN) / _DAY


def _hour(at_ms: int) -> float:
    return at_ms % _DAY / _HOUR


def _grown(daily: float, at_ms: int) -> float:
    return float(daily ** _day(at_ms))


def _refund_rate(at_ms: int) -> float:
    hour = _hour(at_ms)
    weight = 1.0 if 9 <= hour < 17 else 0.4 if 7 <= hour < 21 else 0.0
    return 18 * weight * _grown(1.01, at_ms)


def _refund(rng: random.Random, at_ms: int, number: int) -> Event:
    return Event(
        at_ms=at_ms,
        number=number,
        amount_usd=round(rng.lognormvariate(3.7, 0.6) * _grown(1.01, at_ms), 2),
        affected_users=1.0,
        payload_bytes=int(rng.gauss(420, 60)),
        shape=REFUND_SHAPE if rng.random() < 0.8 else REFUND_SHORT_SHAPE,
        target=target_of(f"customer-{rng.randrange(4_000)}"),
    )


def _batch_hour(day: float) -> int:
    return 2 if day < 25 else 4 if day < 50 else 3


def _batch_rate(at_ms: int) -> float:
    since = _hour(at_ms) - _batch_hour(_day(at_ms))
    return 180.0 if 0 <= since < 0.75 else 0.0


def _batch(rng: random.Random, at_ms: int, number: int) -> Event:
    return Event(
        at_ms=at_ms,
        number=number,
        amount_usd=None,
        affected_users=float(int(rng.lognormvariate(5, 0.5))),
        payload_bytes=int(rng.gauss(6_000, 500)),
        shape=BATCH_SHAPE,
        target=target_of(f"table-{rng.randrange(30)}"),
    )


def _pipe_rate(at_ms: int) -> float:
    return 8.0 if 6 <= _hour(at_ms) < 22 else 4.0


def _pipe(rng: random.Random, at_ms: int, number: int) -> Event:
    grown = _grown(1.02, at_ms)
    return Event(
        at_ms=at_ms,
        number=number,
        amount_usd=None,
        affected_users=float(int(rng.lognormvariate(7, 0.5) * grown)),
        payload_bytes=int(rng.lognormvariate(9, 0.4) * grown),
        shape=PIPE_SHAPE,
        target=target_of(f"store-{min(int(rng.expovariate(0.3)), 40)}"),
    )


WORKLOADS: Final = (
    Workload(
        name="support refunds",
        days=70,
        odd_hour=2,
        events_an_hour=_refund_rate,
        ordinary=_refund,
        kinds=("amount x10", "burst", "odd hour", "foreign shape", "users jump"),
    ),
    Workload(
        name="batch that moves its hour",
        days=70,
        odd_hour=14,
        events_an_hour=_batch_rate,
        ordinary=_batch,
        kinds=("payload x10", "odd hour", "foreign shape", "users jump", "new target"),
    ),
    Workload(
        name="growing pipeline",
        days=70,
        odd_hour=2,
        events_an_hour=_pipe_rate,
        ordinary=_pipe,
        kinds=("payload x10", "burst", "foreign shape", "users jump", "new target"),
    ),
)


def _chance(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - traffic that comes again with its seed, no secret


def events_of(workload: Workload, seed: int, *, injected: bool) -> list[Event]:
    """The traffic in the order of time; with and without anomalies the ordinary part of a seed is the same."""
    rng = _chance(f"{workload.name}/{seed}")
    found: list[Event] = []
    at, end = float(_BEGIN), _BEGIN + workload.days * _DAY
    # The rates only grow, or stand at every hour that a batch moves to.
    quarters = range(0, _DAY, 15 * _MINUTE)
    rate_max = max(workload.events_an_hour(_BEGIN + workload.days * _DAY + quarter) for quarter in quarters)
    while (at := at + rng.expovariate(rate_max) * _HOUR) < end:
        # Thinning (Lewis and Shedler, 1979): candidates at the highest rate, kept with the share of the present one.
        if rng.random() < workload.events_an_hour(int(at)) / rate_max:
            found.append(workload.ordinary(rng, int(at), len(found)))
    if injected:
        found += _anomalies(workload, _chance(f"{workload.name}/{seed}/anomalies"), found)
    return sorted(found)


def _anomalies(workload: Workload, rng: random.Random, ordinary: list[Event]) -> Iterator[Event]:
    late = [event for event in ordinary if _day(event.at_ms) >= _INJECTED_FROM]
    count = int((workload.days - _INJECTED_FROM) * _EPISODES_A_DAY)
    for episode in range(1, count + 1):
        kind = workload.kinds[episode % len(workload.kinds)]
        # At the time of an ordinary event, so that only its own feature is strange.
        at = rng.choice(late).at_ms + 1
        for number in range(_BURST_EVENTS if kind == "burst" else 1):
            event = workload.ordinary(rng, at + number * 3_000, len(ordinary) + episode * 1_000 + number)
            event.kind, event.episode = kind, episode
            _disfigure(event, kind, workload.odd_hour, rng)
            yield event


def _disfigure(event: Event, kind: str, odd_hour: int, rng: random.Random) -> None:
    if kind == "amount x10" and event.amount_usd is not None:
        event.amount_usd *= 10
    elif kind == "payload x10":
        event.payload_bytes *= 10
    elif kind == "users jump":
        event.affected_users = (event.affected_users or 1) * 50
    elif kind == "foreign shape":
        event.shape = FOREIGN_SHAPE
    elif kind == "new target":
        event.target = target_of(f"foreign-{event.number}-{rng.random()}")
    elif kind == "odd hour":
        event.at_ms = event.at_ms // _DAY * _DAY + int((odd_hour + 2 * rng.random()) * _HOUR)


def play(events: list[Event], seed: int, pooled: Sketch | None = None) -> Played:
    """Judge each event by what was learned until then."""
    rng = _chance(f"people/{seed}")
    sketch, played = Sketch(), Played()
    recent: deque[int] = deque()
    waiting: list[tuple[int, int, Bins]] = []
    for event in events:
        while waiting and waiting[0][0] <= event.at_ms:
            sketch.learn(heapq.heappop(waiting)[2])
        recent.append(event.at_ms)
        while recent[0] <= event.at_ms - _RECENT:
            recent.popleft()
        bins = bins_of(sketch, _observed(event, len(recent)))
        found = score(sketch, pooled, bins)
        alarm = found.value > ALARM_ABOVE
        _count(played, event, found.source, alarm)
        played.bins.append((event.at_ms, bins))
        allowed = not alarm or not event.kind or rng.random() < _ALLOWED_SHARE
        if allowed:
            after = _PERSON_TAKES if alarm else _LEARNED_AFTER
            heapq.heappush(waiting, (event.at_ms + after, event.number, bins))
    return played


def _observed(event: Event, recent_count: int) -> Observation:
    return Observation(
        at_ms=event.at_ms,
        recent_count=recent_count,
        amount_usd=event.amount_usd,
        affected_users=event.affected_users,
        payload_bytes=event.payload_bytes,
        shape=event.shape,
        target=event.target,
    )


def _count(played: Played, event: Event, source: str, alarm: bool) -> None:
    if not event.kind:
        played.ordinary[source] += 1
        played.alarms[source] += alarm
        played.alarms_of_days[int(_day(event.at_ms))] += alarm
        return
    played.episodes.setdefault(event.kind, set()).add(event.episode)
    if alarm:
        played.found.setdefault(event.kind, set()).add(event.episode)


def measure(findings: Findings, *, seeds: int) -> None:
    """False alarms and anomalies found on each workload over that many seeds, and what a score and a learning cost."""
    lines: list[str] = []
    for workload in WORKLOADS:
        traffic = [events_of(workload, seed, injected=False) for seed in range(seeds)]
        clean = [play(events, seed) for seed, events in enumerate(traffic)]
        findings.figures.append(
            figure(
                f"false alarms of {workload.name}, score above {ALARM_ABOVE}",
                "per 1,000",
                [_per_1000(played, "own") for played in clean],
                "the nominal of p = 0.4 %",
                [NOMINAL_PER_1000] * seeds,
            )
        )
        lines += _more_of(workload, traffic, clean)
    findings.texts.append(Text(f"the anomaly score over {seeds} seeds, median (lowest..highest)", lines))
    _costs(findings, rounds=seeds)


def _per_1000(played: Played, source: str) -> float:
    return 1_000 * played.alarms[source] / played.ordinary[source]


def _more_of(workload: Workload, traffic: list[list[Event]], clean: list[Played]) -> list[str]:
    seeds = range(len(clean))
    count = spread([float(len(events)) for events in traffic])
    worst = spread([float(max(played.alarms_of_days.values())) for played in clean])
    calm = spread(
        [
            1_000 * (played.alarms["own"] - max(played.alarms_of_days.values())) / played.ordinary["own"]
            for played in clean
        ]
    )
    cold = spread(_cold_start(workload, traffic))
    disturbed = [play(events_of(workload, seed, injected=True), seed) for seed in seeds]
    beside = spread([_per_1000(played, "own") for played in disturbed])
    lines = [
        f"{workload.name}: {count} ordinary events in {workload.days} days",
        f"  false alarms per 1,000 without the worst day: {calm}; alarms on the worst day: {worst}",
        f"  false alarms per 1,000 beside injected anomalies: {beside}",
        f"  false alarms per 1,000 in cold start, by the pooled baseline of {_OTHERS} other agents: {cold}",
    ]
    for kind in workload.kinds:
        shares = spread([len(played.found.get(kind, ())) / len(played.episodes[kind]) for played in disturbed])
        found, put_in = (sum(len(part.get(kind, ())) for part in parts) for parts in _parts(disturbed))
        lines.append(f"  {kind}: found {found} of {put_in}, {found / put_in:.0%}; share by seed {shares}")
    return lines


def _parts(disturbed: list[Played]) -> tuple[list[dict[str, set[int]]], list[dict[str, set[int]]]]:
    return [played.found for played in disturbed], [played.episodes for played in disturbed]


def _cold_start(workload: Workload, traffic: list[list[Event]]) -> list[float]:
    """False alarms per 1,000 of agents that join late, until they know 300 events, by what others did before."""
    joined_ms = _BEGIN + (workload.days - _JOINS_BEFORE_END) * _DAY
    others = [play(events_of(workload, _OTHERS_SEED + number, injected=False), 0).bins for number in range(_OTHERS)]
    pooled = pool(bins for at_ms, bins in heapq.merge(*others) if at_ms < joined_ms)
    late = [[event for event in events if event.at_ms >= joined_ms] for events in traffic]
    return [_per_1000(play(events, seed, pooled), "pooled") for seed, events in enumerate(late)]


def _costs(findings: Findings, *, rounds: int) -> None:
    """Microseconds of this thread's CPU, beside those of reading the sketch from a state entry and writing it back."""
    events = events_of(WORKLOADS[0], 0, injected=False)[:_TIMED_EVENTS]
    observations = [_observed(event, 3) for event in events]
    scoring: list[float] = []
    learning: list[float] = []
    entry: list[float] = []
    for _ in range(rounds):
        sketch = pool(bins_of(None, observation) for observation in observations)
        every_bins = [bins_of(sketch, observation) for observation in observations]
        scoring.append(_timed(partial(_scored, sketch), observations))
        learning.append(_timed(sketch.learn, every_bins))
        entry.append(_timed(lambda content: Sketch.from_bytes(content).to_bytes(), [sketch.to_bytes()] * len(events)))
    against = f"reading a sketch of {SKETCH_BYTES} bytes and writing it"
    findings.figures.append(figure("an anomaly score with its bins", "us", scoring, against, entry))
    findings.figures.append(figure("learning one event's bins", "us", learning, against, entry))


def _scored(sketch: Sketch, observation: Observation) -> object:
    return score(sketch, None, bins_of(sketch, observation))


def _timed(work: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    began = time.thread_time()
    for each in inputs:
        work(each)
    return (time.thread_time() - began) / len(inputs) * 1_000_000
