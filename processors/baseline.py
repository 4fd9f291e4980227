"""The pooled baseline of the anomaly score, folded from the log: what all agents together did on a topic. Pure.

A step keyed by agent has no state over agents, so a command makes it and the bundle carries it. It learns what the
gate learned: the features in the decision of a job, once its result was ALLOW or REDACT, in the order of results.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from sluicegate.policies.anomaly import COLD_START_EVENTS, Bins, Sketch, baseline_document, pool
from sluicegate.processors.gate import CLEAN
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import Closed, Decision, Result
from sluicegate.streams.engine import Record

NEEDED: Final = ("job.decisions", "job.results")
"""The topics that are read for this."""


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """A baseline and what it rests on; events are counted by topic."""

    document: dict[str, Any]
    topics: dict[str, int]
    too_few: dict[str, int]
    """Topics that are left out: a sketch of fewer events would not be asked."""
    featureless: int
    """Jobs with a clean result whose decision holds no features: no rule asked for the anomaly score then."""
    unfit: int
    """Jobs whose features are of another format."""


class _Finished(msgspec.Struct, frozen=True, order=True):
    at_ms: int
    agent_id: str
    seq: int
    topic: str
    features: tuple[int, ...]


def baseline_of(records: Iterable[Record], codec: Codec, since_ms: int = 0) -> Learned:
    """The baseline of jobs that ended since a time. The same records, in any order, give the same document."""
    journals: defaultdict[bytes, list[Any]] = defaultdict(list)
    results: dict[tuple[int, int], Record] = {}
    for record in records:
        if record.topic == "job.results":
            results[record.partition, record.offset] = record
        elif record.topic == "job.decisions":
            event = codec.decode_or_none(record.value)
            if isinstance(event, (Decision, Closed)):
                journals[record.key].append(event)
    finished: list[_Finished] = []
    for events in journals.values():
        features: dict[str, list[int]] = {}
        for event in sorted(events, key=lambda each: each.seq):
            if isinstance(event, Decision):
                features[event.job_id] = event.features
                continue
            bins = features.pop(event.job_id, [])
            if event.cause.topic != "job.results" or event.at_ms < since_ms:
                continue
            source = results.get((event.cause.partition, event.cause.offset))
            result = None if source is None else codec.decode_or_none(source.value)
            if isinstance(result, Result) and result.output_safety_decision in CLEAN:
                finished.append(_Finished(event.at_ms, event.agent_id, event.seq, result.topic, tuple(bins)))
    return _folded(sorted(finished))


def _folded(finished: list[_Finished]) -> Learned:
    by_topic: defaultdict[str, list[Bins]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    blank = Sketch()
    for each in finished:
        if not each.features:
            left_out["featureless"] += 1
            continue
        try:
            blank.strangeness(each.features)
        except ValueError:
            left_out["unfit"] += 1
            continue
        by_topic[each.topic].append(each.features)
    enough = {topic: events for topic, events in sorted(by_topic.items()) if len(events) >= COLD_START_EVENTS}
    return Learned(
        document=baseline_document({topic: pool(events) for topic, events in enough.items()}),
        topics={topic: len(events) for topic, events in enough.items()},
        too_few={topic: len(events) for topic, events in sorted(by_topic.items()) if topic not in enough},
        featureless=left_out["featureless"],
        unfit=left_out["unfit"],
    )
