"""What the log says of finished jobs, samples, findings and of what nobody was asked about. Pure.

It believes the journals of gate and desk; whether they are true, `verify` says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

import msgspec

from sluicegate.processors.audits import AUDITS
from sluicegate.processors.impact import Ending
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import (
    AuditDrawn,
    Decision,
    Finding,
    RequestEscalated,
    RequestKind,
    RequestOpened,
    Resolution,
)
from sluicegate.streams.engine import Record

NEEDED: Final = (
    AUDITS,
    "approval.events",
    "approval.resolutions",
    "job.decisions",
    "control.commands",
    "policy.snapshots",
)
"""The topics that are read for an audit report."""
AS_POLICY: Final = "policy:"
"""What an approver's name begins with where a rule approved, and no person."""


class Drawn(msgspec.Struct, frozen=True):
    """A finished job, as it was drawn, and what people found of it, if they have."""

    event: AuditDrawn
    finding: Finding | None
    overdue: int
    """How often nobody had judged it by its deadline."""

    @property
    def probability(self) -> Decimal:
        """How likely it was looked at: without a key everything is."""
        return Decimal(1) if self.event.epoch == 0 else Decimal(self.event.probability)

    @property
    def judged(self) -> bool:
        return self.finding is not None

    @property
    def waiting(self) -> bool:
        return self.event.drawn and self.finding is None

    @property
    def wrong(self) -> bool:
        """Whether it was found wrong or harmful."""
        return self.finding is not None and self.finding.finding != "correct"

    @property
    def harmful(self) -> bool:
        return self.finding is not None and self.finding.finding == "harmful"


class TimedOut(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was approved and no person said so. ``by`` names the rule, ``topic`` is None where it is gone."""

    at_ms: int
    request_id: str
    kind: RequestKind
    job_id: str
    agent_id: str
    topic: str | None
    by: str


class GlassJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was let run under a broken glass, and what its review has come to."""

    at_ms: int
    job_id: str
    agent_id: str
    topic: str
    review: Ending


class AuditLog(msgspec.Struct, frozen=True, kw_only=True):
    """What a report is made from."""

    drawn: list[Drawn]
    """In the order in which they ended."""
    timed_out: list[TimedOut]
    glass_jobs: dict[str, list[GlassJob]]
    """By the command that broke the glass."""
    records: int
    newest_ms: int
    ends: dict[str, int]
    """The offset behind the last record read of each partition of `agent.audits`, as `topic/partition`."""


class _Reading:
    def __init__(self) -> None:
        self.drawn: list[AuditDrawn] = []
        self.findings: dict[str, Finding] = {}
        self.overdue: dict[str, int] = {}
        self.topics: dict[str, str] = {}
        self.approved: list[Resolution] = []
        self.reviews: defaultdict[tuple[str, str], list[Resolution]] = defaultdict(list)
        self.under_glass: list[Decision] = []
        self.ends: dict[str, int] = {}

    def take(self, event: object) -> None:
        if isinstance(event, AuditDrawn):
            self.drawn.append(event)
        elif isinstance(event, Finding):
            self.findings[event.request_id] = event
        elif isinstance(event, RequestEscalated):
            self.overdue[event.request_id] = max(event.number, self.overdue.get(event.request_id, 0))
        elif isinstance(event, RequestOpened):
            self.topics[event.request_id] = event.topic
        elif isinstance(event, Decision) and event.break_glass is not None:
            self.under_glass.append(event)
        elif isinstance(event, Resolution):
            if event.kind == "break_glass":
                self.reviews[event.agent_id, event.job_id].append(event)
            if event.outcome == "approved" and _nobody_said(event):
                self.approved.append(event)

    def review(self, event: Decision) -> Ending:
        """How the review of a run ended: the first that ended after it, since a job id may come again."""
        later = [each for each in self.reviews[event.agent_id, event.job_id] if each.resolved_at_ms >= event.at_ms]
        return min(later, key=lambda each: each.resolved_at_ms).outcome if later else "open"


def read_audits(records: Iterable[Record], codec: Codec) -> AuditLog:
    """Take from the log what a report needs. The same records, in any order, give the same."""
    reading, count, newest_ms = _Reading(), 0, 0
    for record in records:
        count, newest_ms = count + 1, max(newest_ms, record.timestamp_ms)
        if record.topic == AUDITS:
            place = f"{record.topic}/{record.partition}"
            reading.ends[place] = max(record.offset + 1, reading.ends.get(place, 0))
        if record.topic in NEEDED:
            reading.take(codec.decode_or_none(record.value))
    return AuditLog(
        drawn=[_joined(reading, each) for each in sorted(reading.drawn, key=_in_time)],
        timed_out=[_timed_out(reading, each) for each in sorted(reading.approved, key=_resolved)],
        glass_jobs=_glass_jobs(reading),
        records=count,
        newest_ms=newest_ms,
        ends=dict(sorted(reading.ends.items())),
    )


def _in_time(event: AuditDrawn) -> tuple[int, str, int]:
    return event.at_ms, event.agent_id, event.number


def _resolved(event: Resolution) -> tuple[int, str]:
    return event.resolved_at_ms, event.request_id


def _nobody_said(event: Resolution) -> bool:
    return not event.verdicts or any(each.approver_id.startswith(AS_POLICY) for each in event.verdicts)


def _joined(reading: _Reading, event: AuditDrawn) -> Drawn:
    request_id = event.request_id or ""
    return Drawn(event, reading.findings.get(request_id), reading.overdue.get(request_id, 0))


def _timed_out(reading: _Reading, event: Resolution) -> TimedOut:
    rules = [each.approver_id for each in event.verdicts if each.approver_id.startswith(AS_POLICY)]
    return TimedOut(
        at_ms=event.resolved_at_ms,
        request_id=event.request_id,
        kind=event.kind,
        job_id=event.job_id,
        agent_id=event.agent_id,
        topic=reading.topics.get(event.request_id),
        by=", ".join(rules) or "nobody",
    )


def _glass_jobs(reading: _Reading) -> dict[str, list[GlassJob]]:
    """Each job once a glass: one that is judged again after a lapse did not run twice for it."""
    found: defaultdict[str, dict[tuple[str, str], GlassJob]] = defaultdict(dict)
    for event in sorted(reading.under_glass, key=lambda each: (each.at_ms, each.agent_id, each.seq)):
        job = GlassJob(
            at_ms=event.at_ms,
            job_id=event.job_id,
            agent_id=event.agent_id,
            topic=event.topic,
            review=reading.review(event),
        )
        found[event.break_glass or ""].setdefault((event.agent_id, event.job_id), job)
    return {command: list(jobs.values()) for command, jobs in sorted(found.items())}
