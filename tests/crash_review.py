"""What a crash may have done to outputs: each is reviewed once, each hold ends once, nothing is let out.

`review_findings` reads the log and asks no step; `state_findings` reads what the applications have left in their state.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from crash_findings import Expect
from crash_load import fate_of, returns_of
from crash_process import SSN, mark_of, secret_of

from sluicegate.processors.desk_state import DeskCard
from sluicegate.processors.gate_state import GateCard
from sluicegate.processors.outputs_state import OutputsCard
from sluicegate.processors.plane import CARD
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.schemas.events import (
    ApprovalRequest,
    AttemptEnded,
    Output,
    Quarantined,
    Refused,
    RequestOpened,
    Resolution,
    Resolved,
    Result,
    VerdictAccepted,
)
from sluicegate.schemas.sealing import Keyring, NoKeyring
from sluicegate.streams.changelog import changelog_name
from sluicegate.streams.engine import Record
from sluicegate.streams.kafka import BrokerErrors, partition_count, plain_consumer
from sluicegate.streams.logins import ADMIN
from sluicegate.streams.registry import registry_for
from sluicegate.streams.settings import Settings
from sluicegate.streams.topics import APPLICATIONS

UNREVIEWED: Final = ("job.outputs", "approval.requests")
"""Where what was not reviewed stands; nobody who asked for a job may read there."""
WORDS: Final = {
    ("approved", "release"): "ALLOW",
    ("approved", "release_redacted"): "REDACT",
    ("denied", "destroy"): "QUARANTINE",
    ("expired", None): "QUARANTINE",
}
"""The result that each end of a request stands for."""
SEEN: Final = {"clean": "ALLOW", "redact": "REDACT", "hold": "QUARANTINE", "breach": "QUARANTINE"}
"""What review says of each kind of output."""
LEAKS: Final = re.compile(rb"mark-(\d+)-|ghp_\w{26}(\d{10})|" + SSN.encode())
Place = tuple[str, int, int]
Entry = tuple[str, str, bytes]
"""Key, name and value of something that an application remembers."""


class _Book:
    """The events about outputs, sorted by what the promises are about."""

    def __init__(self, records: Iterable[Record]) -> None:
        codec = Codec(registry_for(""))
        self.outputs: dict[str, list[Place]] = defaultdict(list)
        """By grant, as all that is of one attempt."""
        self.answers: Counter[Place] = Counter()
        self.reviews: dict[str, list[Result | Quarantined]] = defaultdict(list)
        self.refused: Counter[str] = Counter()
        self.late: Counter[str] = Counter()
        """Verdicts that came after another one, by person."""
        self.over: set[str] = set()
        self.jobs: dict[str, str] = {}
        self.held: dict[str, Quarantined] = {}
        self.asked: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()
        self.verdicts: dict[str, list[VerdictAccepted]] = defaultdict(list)
        self.resolved: Counter[str] = Counter()
        self.resolutions: dict[str, list[tuple[Place, Resolution]]] = defaultdict(list)
        self.released: dict[str, list[tuple[Record, Result]]] = defaultdict(list)
        """Results that say which request they are of."""
        self.others: list[Record] = []
        """Where nothing may stand that was not reviewed."""
        for record in records:
            try:
                self._put(record, codec.decode(record.value))
            except Undecodable:
                self.others.append(record)

    def _put(self, record: Record, event: Any) -> None:
        place = (record.topic, record.partition, record.offset)
        if record.topic not in UNREVIEWED and not isinstance(event, Result):
            self.others.append(record)
        if record.topic == "job.results" and hasattr(event, "cause"):
            self._put_result(record, event)
        elif isinstance(event, Output):
            self.outputs[event.grant_id].append(place)
            self.jobs[event.grant_id] = event.job_id
        elif isinstance(event, ApprovalRequest) and event.kind == "output":
            self.asked[event.request_id] += 1
        elif isinstance(event, RequestOpened):
            self.opened[event.request_id] += 1
        elif isinstance(event, VerdictAccepted):
            self.verdicts[event.request_id].append(event)
        elif isinstance(event, Resolved):
            self.resolved[event.request_id] += 1
        elif isinstance(event, Resolution):
            self.resolutions[event.request_id].append((place, event))
        elif isinstance(event, Refused) and record.topic == "approval.events":
            self.late[event.code] += 1

    def _put_result(self, record: Record, event: Any) -> None:
        if event.cause.topic == "job.outputs":
            self.answers[event.cause.topic, event.cause.partition, event.cause.offset] += 1
        if isinstance(event, Result) and event.request_id is not None:
            self.released[event.request_id].append((record, event))
        elif isinstance(event, (Result, Quarantined)):
            self.reviews[event.grant_id].append(event)
        elif isinstance(event, Refused) and event.subject == "output":
            self.refused[event.ref or ""] += 1
        elif isinstance(event, AttemptEnded):
            self.over.add(event.grant_id)
        if isinstance(event, Quarantined):
            self.held[event.request_id] = event

    def results(self) -> Iterator[tuple[Result, str | None]]:
        """Every result, and what it says of whose word it is."""
        for reviews in self.reviews.values():
            yield from ((event, None) for event in reviews if isinstance(event, Result))
        for found in self.released.values():
            yield from ((event, event.choice) for _, event in found)


def review_findings(
    records: Iterable[Record], numbers: Mapping[str, int], intents: int, keys: Keyring | None = None
) -> tuple[dict[str, int], dict[str, list[str]]]:
    """What was counted, and every broken promise.

    ``numbers`` says which job is which of the load's ``intents``; ``keys`` open results that are sealed.
    """
    book, expect = _Book(records), Expect()
    _expect_reviews(book, expect, numbers)
    _expect_requests(book, expect)
    _expect_effects(book, expect, numbers, intents)
    _expect_nothing_out(book, expect, numbers, NoKeyring() if keys is None else keys)
    words = Counter(event.output_safety_decision for event, _ in book.results())
    ends = Counter(str(event.choice or event.outcome) for found in book.resolutions.values() for _, event in found)
    counts = {
        "outputs": sum(map(len, book.outputs.values())),
        "outputs refused": book.refused.total(),
        "held": len(book.held),
        "verdicts after another": book.late["already_resolved"],
        **{f"results {word}": count for word, count in words.items()},
        **{f"requests ended by {word}": count for word, count in ends.items()},
    }
    return dict(sorted(counts.items())), expect.broken


def _expect_reviews(book: _Book, expect: Expect, numbers: Mapping[str, int]) -> None:
    """Each output once: reviewed, or refused because its attempt is over."""
    last: dict[tuple[str, int], int] = {}
    for topic, partition, offset in book.answers:
        last[topic, partition] = max(offset, last.get((topic, partition), -1))
    written = [place for places in book.outputs.values() for place in places]
    expect("an output has no answer", [at for at in written if at not in book.answers and at[2] < last.get(at[:2], -1)])
    expect("an output was answered twice", [at for at, count in book.answers.items() if count > 1])
    expect("an output was reviewed twice", [grant for grant, found in book.reviews.items() if len(found) > 1])
    expect("a review without an output", book.reviews.keys() - book.outputs.keys())
    answered = {grant for grant, places in book.outputs.items() if all(at in book.answers for at in places)}
    expect("an output was not reviewed", answered - book.reviews.keys() - book.over)
    expect(
        "an output is neither reviewed nor refused",
        [grant for grant in answered if len(book.outputs[grant]) != len(book.reviews[grant]) + book.refused[grant]],
    )
    said = [event for found in book.reviews.values() for event in found]
    expect(
        "a review came out wrong",
        [event for event in said if event.output_safety_decision != SEEN[returns_of(numbers[event.job_id])]],
    )


def _expect_requests(book: _Book, expect: Expect) -> None:
    """A held output is asked about once, survives until somebody has said a word, and that word is said once."""
    held = book.held.keys()
    expect("a held output has not one request", [each for each in held if book.asked[each] != 1])
    expect("a request of nothing held", book.asked.keys() - held)
    expect("a request was not opened once", [each for each in held if book.opened[each] != 1])
    expect("a request was not resolved once", [each for each in held if book.resolved[each] != 1])
    expect("a request has not one resolution", [each for each in held if len(book.resolutions[each]) != 1])
    expect("a held output has not one result", [each for each in held if len(book.released[each]) != 1])
    expect("a result of a request that nobody asked", book.released.keys() - held)
    expect("a result beside a hold", [
        grant for grant, found in book.reviews.items() if len({type(event) for event in found}) > 1
    ])  # fmt: skip


def _expect_effects(book: _Book, expect: Expect, numbers: Mapping[str, int], intents: int) -> None:
    """What people said is what became of it: not before they said it, not otherwise, and not twice."""
    early, other, unsaid, changed = [], [], [], []
    for request_id, found in book.released.items():
        places = [place for place, _ in book.resolutions[request_id]]
        for _, event in found:
            if (event.cause.topic, event.cause.partition, event.cause.offset) not in places:
                early.append(request_id)
        for _, resolution in book.resolutions[request_id][:1]:
            word = WORDS.get((resolution.outcome, resolution.choice))
            for _, event in found:
                if (event.output_safety_decision, event.choice) != (word, resolution.choice) or (
                    (event.output is None) != (word == "QUARANTINE")
                ):
                    other.append((request_id, resolution.outcome, resolution.choice, event.output_safety_decision))
            accepted = [verdict.choice for verdict in book.verdicts[request_id]]
            if accepted != ([] if resolution.choice is None else [resolution.choice]):
                unsaid.append((request_id, accepted, resolution.choice))
            if resolution.choice not in (None, fate_of(numbers[resolution.job_id], intents)):
                changed.append((request_id, resolution.choice))
    expect("a held output ended before its resolution", early)
    expect("a resolution had another effect", other)
    expect("a resolution is not what one person said", unsaid)
    expect("a resolution is not what was decided", changed)


def _expect_nothing_out(book: _Book, expect: Expect, numbers: Mapping[str, int], keys: Keyring) -> None:
    """What is held stands nowhere; what is released is the job's own, and as the result's word says."""
    expect(
        "what was not reviewed stands elsewhere",
        [(each.topic, each.partition, each.offset) for each in book.others if LEAKS.search(each.value)],
    )
    leaks, alien, altered = [], [], []
    for event, choice in book.results():
        if event.output is None:
            continue
        content = keys.open(event.output)[0]
        number = numbers[event.job_id]
        secrets = secret_of(number).encode() in content, SSN.encode() in content
        kind = returns_of(number)
        if secrets != ((kind == "hold" and choice == "release",) * 2):
            leaks.append((event.job_id, choice))
        found = {int(mark or key) for mark, key in LEAKS.findall(content) if mark or key}
        if found != {number} or mark_of(number).encode() not in content:
            alien.append((event.job_id, found))
        whole = event.output_hash == event.result_hash
        if hashlib.sha256(content).hexdigest() != event.result_hash or whole != (b"[REDACTED]" not in content):
            altered.append(event.job_id)
    expect("a result holds what was to be taken out", leaks)
    expect("a result is another job's", alien)
    expect("a result is not what its hash says", altered)


# --- state


def entries(settings: Settings, application: str) -> Iterator[Entry]:
    """Key, name and value of every entry that an application left in its state, as its changelog has it."""
    topic, errors = changelog_name(settings.tenant, APPLICATIONS[application]), BrokerErrors(ADMIN)
    consumer = plain_consumer(settings, ADMIN, ADMIN, errors, enable_partition_eof=True)
    found: dict[bytes, bytes | None] = {}
    try:
        from confluent_kafka import KafkaError, TopicPartition

        left = set(range(partition_count(consumer, topic, ADMIN)))
        consumer.assign([TopicPartition(topic, partition, 0) for partition in left])
        while left:
            for message in consumer.consume(1_000, 1.0):
                error, partition = message.error(), message.partition()
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    left.discard(-1 if partition is None else partition)
                else:
                    found[message.key() or b""] = message.value()
    finally:
        consumer.close()
    for name, value in found.items():
        size = int.from_bytes(name[:4], "big")
        if value is not None:
            yield name[4 : 4 + size].decode(), name[4 + size :].decode(), value[1:]


def state_findings(settings: Settings, gates: Sequence[Entry]) -> dict[str, list[str]]:
    """What the applications still count as open, though every job is closed. ``gates`` are the gate's entries."""
    expect = Expect()
    gate = [msgspec.msgpack.decode(value, type=GateCard) for _, name, value in gates if name == CARD]
    samples = [(key, name) for key, name, _ in gates if name.startswith("audit/")]
    expect("a sample is still open", samples)
    expect("no gate left a card", [] if gate else ["none"])
    expect("jobs are in flight", [card for card in gate if card.in_flight or card.open_requests])
    desk = [
        msgspec.msgpack.decode(value, type=DeskCard) for _, name, value in entries(settings, "desk") if name == CARD
    ]
    expect("no desk left a card", [] if desk else ["none"])
    expect("requests are open", [card for card in desk if card.open])
    outputs = list(entries(settings, "outputs"))
    cards = [msgspec.msgpack.decode(value, type=OutputsCard) for _, name, value in outputs if name == CARD]
    expect("events are parked", [card for card in cards if card.parked])
    kept = ("kept/", "raw/", "redacted/", "parked/")
    expect("an output is still kept", [(key, name) for key, name, _ in outputs if name.startswith(kept)])
    live = [msgspec.msgpack.decode(value) for _, name, value in outputs if name.startswith("job/")]
    expect("no attempt was kept", [] if live else ["none"])
    expect("an attempt is still live", [each for each in live if each["phase"] != "ended"])
    return expect.broken
