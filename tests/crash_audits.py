"""What a crash may have done to sampled audit: each finished job is drawn once, as its epoch's key says, found once.

Read from the log and computed here from the definition, by nothing that the steps or `policies` use: the first eight
bytes, big-endian, of HMAC-SHA256 under the epoch's key over the agent's id and the job's, each behind its length in
four bytes, over 2^64, below the job's probability. So the sample is what the same jobs would have without a crash.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from crash_findings import Expect
from crash_load import AMOUNT_MAX, RATE, TOPICS, WEIGHTS, amount_of, finding_of

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import Undecodable
from sluicegate.schemas.events import (
    ApprovalRequest,
    AuditDrawn,
    Closed,
    Command,
    Decision,
    Finding,
    Resolution,
    Result,
)
from sluicegate.streams.engine import Record
from sluicegate.streams.registry import registry_for

FINISHED: Final = ("succeeded", "failed")
TOLD_AFTER_MS: Final = 90_000
"""An epoch that has been over for so long at the end of the log has told its key, though oversight was away."""


class _Book:
    """The events of one log about audit. Epochs are (offset, appended at, command), in the order of the log."""

    def __init__(self, records: Iterable[Record]) -> None:
        codec = Codec(registry_for(""))
        self.decisions: dict[str, list[Decision]] = defaultdict(list)
        self.closed: dict[str, list[Closed]] = defaultdict(list)
        self.drawn: dict[str, list[AuditDrawn]] = defaultdict(list)
        self.numbers: dict[str, list[int]] = defaultdict(list)
        self.epochs: list[tuple[int, int, Command]] = []
        self.told: list[Command] = []
        self.asked: dict[str, list[ApprovalRequest]] = defaultdict(list)
        self.resolutions: dict[str, list[Resolution]] = defaultdict(list)
        self.findings: dict[str, list[Finding]] = defaultdict(list)
        self.results: dict[str, list[Result]] = defaultdict(list)
        self.last_ms = 0
        for record in sorted(records, key=lambda each: (each.topic, each.partition, each.offset)):
            self.last_ms = max(self.last_ms, record.timestamp_ms)
            try:
                self._put(record, codec.decode(record.value))
            except Undecodable:
                continue

    def _put(self, record: Record, event: Any) -> None:
        if isinstance(event, (AuditDrawn, Finding)):
            self.numbers[event.agent_id].append(event.number)
        if isinstance(event, Decision):
            self.decisions[event.job_id].append(event)
        elif isinstance(event, Closed):
            self.closed[event.job_id].append(event)
        elif isinstance(event, AuditDrawn):
            self.drawn[event.job_id].append(event)
        elif isinstance(event, Command) and event.kind == "epoch":
            self.epochs.append((record.offset, record.timestamp_ms, event))
        elif isinstance(event, Command) and event.kind == "reveal":
            self.told.append(event)
        elif isinstance(event, ApprovalRequest) and event.kind == "audit":
            self.asked[event.request_id].append(event)
        elif isinstance(event, Resolution) and event.kind == "audit":
            self.resolutions[event.request_id].append(event)
        elif isinstance(event, Finding):
            self.findings[event.request_id].append(event)
        elif isinstance(event, Result):
            self.results[event.job_id].append(event)

    def epoch_at(self, control_offset: int) -> tuple[int, Fraction]:
        """Number and scale of the epoch that went on at a control offset; 0 before the first."""
        begun = [command for offset, _, command in self.epochs if offset <= control_offset]
        return (begun[-1].epoch or 0, Fraction(begun[-1].scale or "")) if begun else (0, Fraction(1))


def key_of(master: bytes, epoch: int) -> bytes:
    """The key of an epoch."""
    return hmac.new(master, _long(b"sluicegate.epoch.v1") + _long(str(epoch).encode()), hashlib.sha256).digest()


def is_drawn(key: bytes, agent_id: str, job_id: str, probability: Fraction) -> bool:
    """Whether the key draws the job."""
    digest = hmac.new(key, _long(agent_id.encode()) + _long(job_id.encode()), hashlib.sha256).digest()
    return Fraction(int.from_bytes(digest[:8], "big"), 1 << 64) < probability


def _long(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


def audit_findings(
    records: Iterable[Record], numbers: Mapping[str, int], master: bytes
) -> tuple[dict[str, int], dict[str, list[str]]]:
    """What was counted, and every broken promise. ``numbers`` says which job is which of the load."""
    book, expect = _Book(records), Expect()
    draws = [event for found in book.drawn.values() for event in found]
    _expect_draws(book, expect)
    across = _expect_sample(book, expect, numbers, master)
    _expect_epochs(book, expect, master)
    _expect_findings(book, expect)
    said = Counter(event.finding for found in book.findings.values() for event in found)
    epochs = Counter(event.epoch for event in draws if event.drawn)
    counts = {
        "finished jobs": len(draws),
        "drawn because they must be": sum(event.mandatory for event in draws),
        "drawn across epochs": across,
        "epochs told": len(book.told),
        **{f"drawn in epoch {number}": count for number, count in epochs.items()},
        **{f"findings {word}": count for word, count in said.items()},
    }
    return dict(sorted(counts.items())), expect.broken


def _expect_draws(book: _Book, expect: Expect) -> None:
    """A job that has ended is drawn once or not, in the turn that ended it; no other job is."""
    ended = {job: found for job, found in book.closed.items() if any(each.outcome in FINISHED for each in found)}
    expect("a finished job has no draw", ended.keys() - book.drawn.keys())
    expect("a job was drawn twice", [job for job, found in book.drawn.items() if len(found) > 1])
    expect("an unfinished job has a draw", book.drawn.keys() - ended.keys())
    places = {(each.job_id, each.outcome, str(each.cause)) for found in ended.values() for each in found}
    said = {(each.job_id, each.outcome, str(each.cause)) for found in book.drawn.values() for each in found}
    expect("a draw is not of what ended the job", said - places)
    expect("a number of audits has a gap", [
        agent for agent, found in book.numbers.items() if found != list(range(1, len(found) + 1))
    ])  # fmt: skip


def _expect_sample(book: _Book, expect: Expect, numbers: Mapping[str, int], master: bytes) -> int:
    """Each job is as likely as when it was judged, and drawn under the key of when it ended; how many of two epochs."""
    other_epoch, other_chance, other_draw, across = [], [], [], 0
    for job, found in book.drawn.items():
        event, judged = found[0], book.decisions[job][-1]
        number, _ = book.epoch_at(event.control_offset)
        before, scale = book.epoch_at(judged.control_offset)
        across += 0 < before < number
        stratum = "egress" if TOPICS[numbers[job] % len(TOPICS)] == "call" else "read"
        mandatory = amount_of(numbers[job]) > AMOUNT_MAX
        chance = min(Fraction(1), Fraction(repr(RATE)) * Fraction(repr(WEIGHTS[stratum])) * scale)
        if mandatory or not number:
            chance = Fraction(1)
        if (event.stratum, event.mandatory, Fraction(Decimal(event.probability))) != (stratum, mandatory, chance):
            other_chance.append((job, event.stratum, event.probability, float(chance)))
        if event.epoch != number:
            other_epoch.append((job, event.epoch, number))
        if event.drawn != (not number or is_drawn(key_of(master, number), event.agent_id, job, chance)):
            other_draw.append((job, event.epoch, event.drawn))
    expect("a job was drawn in another epoch", other_epoch)
    expect("a job was drawn with another probability", other_chance)
    expect("the sample is not what the keys say", other_draw)
    return across


def _expect_epochs(book: _Book, expect: Expect, master: bytes) -> None:
    """One epoch after another, each committed to; its key is told once, when it is over."""
    begun = [command.epoch or 0 for _, _, command in book.epochs]
    told = [command.epoch or 0 for command in book.told]
    expect("epochs were not begun one after another", [begun] if begun != list(range(1, len(begun) + 1)) else [])
    keys = {number: key_of(master, number) for number in {*begun, *told}}
    expect("an epoch is committed to another key", [
        command.epoch
        for _, _, command in book.epochs
        if command.commitment != hashlib.sha256(keys[command.epoch or 0]).hexdigest()
    ])  # fmt: skip
    expect("an epoch told another key", [each for each in book.told if each.revealed != keys[each.epoch or 0].hex()])
    expect("a key was told twice", [number for number, count in Counter(told).items() if count > 1])
    over = {
        command.epoch
        for (_, _, command), (_, ended_ms, _) in zip(book.epochs, book.epochs[1:], strict=False)
        if book.last_ms - ended_ms > TOLD_AFTER_MS
    }
    expect("a key was not told", over - set(told))
    expect("a key was told while its epoch went on", [number for number in told if number == begun[-1]])


def _expect_findings(book: _Book, expect: Expect) -> None:
    """A drawn job is asked about once, with what its caller got, and found once: what people said."""
    drawn = {event.request_id: event for found in book.drawn.values() for event in found if event.drawn}
    expect("a request of nothing drawn", (book.asked.keys() ^ drawn.keys()) - drawn.keys())
    expect("a drawn job has not one request", [each for each in drawn if len(book.asked[each or ""]) != 1])
    expect("a sample has not one resolution", [each for each in drawn if len(book.resolutions[each or ""]) != 1])
    expect("a resolved sample has not one finding", [
        each for each in book.resolutions if len(book.findings[each]) != len(book.resolutions[each][:1])
    ])  # fmt: skip
    expect("a finding of nothing resolved", [each for each, found in book.findings.items() if found and (
        not book.resolutions[each]
    )])  # fmt: skip
    expect("a finding is not what was said", [
        (event.job_id, event.finding)
        for found in book.findings.values()
        for event in found
        if event.finding != finding_of(event.job_id)
        or event.request_id not in drawn
        or event.job_id != drawn[event.request_id].job_id
    ])  # fmt: skip
    expect("a request shows another result", [
        request.job_id
        for found in book.asked.values()
        for request in found
        if request.output not in [result.output for result in book.results[request.job_id]]
    ])  # fmt: skip
