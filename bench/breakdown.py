"""What limits the gate: the parts of its step in microseconds, outside Kafka, and where a profiler sees the time."""

from __future__ import annotations

import cProfile
import io
import pstats
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from sluicegate.bench.figures import Findings, Text, figure
from sluicegate.bench.offline import Offline
from sluicegate.policies.evaluate import Subject
from sluicegate.schemas.events import Intent
from sluicegate.schemas.payload import job_hash, parse_strict, unseal
from sluicegate.streams.engine import Record
from sluicegate.streams.identity import check

TOP: Final = 15
WARM_UP: Final = 500


def measure(findings: Findings, *, count: int, rounds: int) -> None:
    """The parts of ``count`` steps, median of the rounds, each beside the whole step of the same round."""
    offline = Offline()
    for record in offline.records("warm", min(WARM_UP, count)):
        offline.meet(record)
    parts: dict[str, list[float]] = {}
    whole: list[float] = []
    for number in range(rounds):
        records = offline.records(f"w{number}", count)
        whole.append(_timed(offline.meet, records))
        for name, work, inputs in _parts(offline, records, f"p{number}"):
            parts.setdefault(name, []).append(_timed(work, inputs))
    against = "measured alone, against nothing: the whole step in memory, one allowed intent"
    findings.figures.append(figure("the gate's step outside Kafka", "us", whole, against))
    for name, values in parts.items():
        findings.figures.append(figure(f"of which {name}", "us", values, "the whole step", whole))
    findings.texts.append(Text("where the profiler sees the gate's step, by own time", _profiled(offline, count)))


def _timed(work: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    """Microseconds of this thread's CPU per input: others' load on a shared machine counts less."""
    began = time.thread_time()
    for each in inputs:
        work(each)
    return (time.thread_time() - began) / len(inputs) * 1_000_000


def _parts(
    offline: Offline, records: list[Record], series: str
) -> list[tuple[str, Callable[[Any], object], Sequence[Any]]]:
    codec, control = offline.codec, offline.control
    intents = [event for record in records if isinstance(event := codec.decode(record.value), Intent)]
    outs = [offline.meet(record) for record in offline.records(series, len(records))]
    events = [[codec.decode(out.value) for out in each] for each in outs]
    payloads = [unseal(intent.payload) for intent in intents]

    def verify(record: Record) -> object:
        return check(record.headers, record.topic, record.key, record.value, record.timestamp_ms, control.key)

    def rehash(intent: Intent) -> object:
        content, salt = unseal(intent.payload)
        return job_hash(content, intent.topic, intent.agent_id, intent.risk_tags, salt)

    def judge(intent: Intent) -> object:
        subject = Subject(
            topic=intent.topic,
            risk_tags=tuple(intent.risk_tags),
            agent_id=intent.agent_id,
            agent_class="default",
            facts={"confidence": intent.confidence},
        )
        return control.policy.judge(subject)

    return [
        ("decoding the intent", lambda record: codec.decode(record.value), records),
        ("checking the signature", verify, records),
        ("parsing the payload strictly", lambda pair: parse_strict(pair[0]), payloads),
        ("hashing the job again", rehash, intents),
        ("judging by the policy", judge, intents),
        ("encoding the events", lambda each: [codec.encode(event) for event in each], events),
    ]


def _profiled(offline: Offline, count: int) -> list[str]:
    records = offline.records("profiled", count)
    profiler = cProfile.Profile()
    profiler.enable()
    for record in records:
        offline.meet(record)
    profiler.disable()
    out = io.StringIO()
    stats = pstats.Stats(profiler, stream=out).strip_dirs().sort_stats("tottime")
    stats.print_stats(TOP)
    lines = out.getvalue().splitlines()
    header = next(at for at, line in enumerate(lines) if "ncalls" in line)
    return [line.rstrip() for line in lines[header : header + TOP + 1] if line.strip()]
