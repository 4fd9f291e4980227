"""What a crash may have done to a log: read committed, counted by promise. Nothing here asks the steps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.schemas.events import (
    AttemptEnded,
    Closed,
    Decision,
    Grant,
    Granted,
    Held,
    Intent,
    Refused,
    Repeated,
    Result,
    Started,
)
from sluicegate.streams.engine import Record
from sluicegate.streams.registry import registry_for

JOURNALS: Final = ("job.decisions", "job.results")
PERMITS: Final = ("ALLOW", "ALLOW_WITH_CONSTRAINTS")
SHOWN: Final = 5
Key = tuple[str, int]


class Findings(msgspec.Struct):
    """What was counted, and every promise that was broken with some examples."""

    counts: dict[str, int]
    broken: dict[str, list[str]]

    def names(self) -> set[str]:
        """The broken promises."""
        return set(self.broken)


class Expect:
    """Collects the promises that were broken, with some examples."""

    def __init__(self) -> None:
        self.broken: dict[str, list[str]] = {}

    def __call__(self, name: str, faulty: Iterable[Any]) -> None:
        shown = [str(each) for each in faulty]
        if shown:
            self.broken[name] = [f"{len(shown)} in all", *shown[:SHOWN]]


class _Book:
    """The events of one log, sorted by what the promises are about."""

    def __init__(self, records: Iterable[Record]) -> None:
        codec = Codec(registry_for(""))
        self.intents: dict[tuple[int, int], Intent] = {}
        self.answers: Counter[tuple[int, int]] = Counter()
        self.decisions: dict[str, list[Decision]] = defaultdict(list)
        self.granted: Counter[Key] = Counter()
        self.grants: Counter[Key] = Counter()
        self.starts: Counter[Key] = Counter()
        self.results: Counter[str] = Counter()
        self.closed: dict[str, list[Closed]] = defaultdict(list)
        self.lost: Counter[Key] = Counter()
        self.seqs: dict[tuple[str, bytes], list[int]] = defaultdict(list)
        self.counts: Counter[str] = Counter()
        for record in sorted(records, key=lambda each: (each.topic, each.partition, each.offset)):
            try:
                event = codec.decode(record.value)
            except Undecodable:
                continue
            self._put(record, event)

    def _put(self, record: Record, event: Any) -> None:
        self.counts[type(event).__name__] += 1
        if record.topic in JOURNALS and hasattr(event, "seq"):
            self.seqs[record.topic, record.key].append(event.seq)
        if record.topic == "job.intents":
            self.intents[record.partition, record.offset] = event
        elif record.topic == "job.decisions":
            self._put_decision(event)
        elif record.topic.startswith("job.grants.") and isinstance(event, Grant):
            self.grants[event.job_id, event.attempt] += 1
        elif isinstance(event, Started):
            self.starts[event.job_id, event.attempt] += 1
        elif isinstance(event, Result):
            self.results[event.job_id] += 1
        elif isinstance(event, AttemptEnded):
            self.lost[event.job_id, event.attempt] += 1

    def _put_decision(self, event: Any) -> None:
        first = isinstance(event, Decision) and event.again_after is None
        if first:
            self.decisions[event.job_id].append(event)
        if isinstance(event, (Repeated, Refused, Held)) or first:
            if event.cause.topic == "job.intents":
                self.answers[event.cause.partition, event.cause.offset] += 1
        elif isinstance(event, Granted):
            self.granted[event.job_id, event.attempt] += 1
        elif isinstance(event, Closed):
            self.closed[event.job_id].append(event)


def effects_of(folder: Path) -> Counter[Key]:
    """How often each attempt of each job took effect in the world."""
    found: Counter[Key] = Counter()
    for file in sorted(folder.glob("*")) if folder.exists() else ():
        for line in file.read_text().splitlines():
            job_id, attempt = line.split(" ")
            found[job_id, int(attempt)] += 1
    return found


def findings(
    records: Iterable[Record], submitted: Mapping[str, bool], effects: Counter[Key], *, to_the_end: bool = True
) -> Findings:
    """Hold a log against the promises.

    ``submitted`` says of each job whether policy permits it; without ``to_the_end`` nobody worked on the grants.
    """
    book, expect = _Book(records), Expect()
    permitted = {job for job, allowed in submitted.items() if allowed}
    expect("an intent is not in the log", submitted.keys() - {each.job_id for each in book.intents.values()})
    expect("an intent has no decision", submitted.keys() - book.decisions.keys())
    expect("an intent has two decisions", [job for job, found in book.decisions.items() if len(found) > 1])
    expect("an intent has no answer", book.intents.keys() - book.answers.keys())
    expect("an intent was answered twice", [at for at, count in book.answers.items() if count > 1])
    said = {job for job, found in book.decisions.items() if found[0].decision in PERMITS}
    expect("a decision is wrong", said ^ (permitted & book.decisions.keys()))
    expect("a grant is missing", [job for job in said if not book.granted[job, 1] or not book.grants[job, 1]])
    expect("a grant is doubled", [key for key, count in (book.granted + book.grants).items() if count > 2])
    expect("a grant was not journalled so", book.granted.keys() ^ book.grants.keys())
    expect("a denied job was granted", [key for key in book.granted if key[0] not in permitted])
    expect("a seq has a gap", [at for at, seqs in book.seqs.items() if seqs != list(range(1, len(seqs) + 1))])
    expect("an attempt started twice", [key for key, count in book.starts.items() if count > 1])
    expect("an attempt started without a grant", book.starts.keys() - book.grants.keys())
    expect("an attempt took effect twice", [key for key, count in effects.items() if count > 1])
    expect("an effect without a start", effects.keys() - book.starts.keys())
    expect("a job has two results", [job for job, count in book.results.items() if count > 1])
    if to_the_end:
        expect("a job has no result", permitted - book.results.keys())
        expect("a result without an effect", book.results.keys() - {job for job, _ in effects})
        ends = {job: [each.outcome for each in found] for job, found in book.closed.items()}
        expect("a job was not closed once, succeeded", [job for job in permitted if ends.get(job) != ["succeeded"]])
    counts = {**book.counts, "lost attempts": len(book.lost), "effects": sum(effects.values())}
    return Findings(dict(sorted(counts.items())), expect.broken)
