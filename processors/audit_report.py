"""The report on sampled audit over a time: what nobody was asked about, then how often finished jobs were wrong. Pure.

Rates are estimated over sets of equal inclusion probability, as `policies.statistics` says: by Horvitz and Thompson,
with exact bounds. Jobs count by when they ended, findings on them whenever they came.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Final

import msgspec

from sluicegate.policies.statistics import Sampled, actions_to_find, estimate
from sluicegate.processors.audit_allocation import Allocation, allocation_of, rates_in_force
from sluicegate.processors.audit_control import Broken, ControlSeen, EpochSeen, control_seen
from sluicegate.processors.audit_log import AuditLog, Drawn, GlassJob, TimedOut, read_audits
from sluicegate.processors.impact import LISTED_MAX, ranked
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.events import FindingWord
from sluicegate.schemas.records import Severity
from sluicegate.streams.engine import Record
from sluicegate.streams.identity import Ed25519Verifier

CONFIDENCE: Final = Fraction(95, 100)
DEFECTS: Final = (Fraction(1, 100), Fraction(5, 100), Fraction(10, 100))
"""The rates of a defect of which is said how many jobs pass until it is drawn."""
UNNAMED: Final = "unnamed"
"""What errors without a class or a severity are counted as."""
UNKNOWN: Final = "unknown"


class GlassUse(msgspec.Struct, frozen=True, kw_only=True):
    """A broken glass and all that ran under it. ``counted`` is False where the gates did not accept the command."""

    command_id: str
    by: str
    scope: str
    reason: str
    at_ms: int | None
    until_ms: int | None
    counted: bool
    jobs_count: int
    jobs: list[GlassJob]


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """How often finished jobs are wrong or harmful; ``rate`` is None where none was judged.

    ``mandatory`` are jobs that had to be looked at, among ``drawn``; ``wrong`` includes ``harmful``.
    """

    name: str
    jobs: int
    mandatory: int
    drawn: int
    judged: int
    waiting: int
    wrong: int
    harmful: int
    rate: float | None
    low: float
    high: float


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs pass in a stratum until a defect is drawn once, at 95 %, by its rate; None for never."""

    stratum: str
    rate: float
    jobs_by_defect: dict[str, int | None]


class Wrong(msgspec.Struct, frozen=True, kw_only=True):
    """One job that was found wrong or harmful."""

    at_ms: int
    ended_at_ms: int
    job_id: str
    agent_id: str
    topic: str
    stratum: str
    finding: FindingWord
    error_class: str | None
    severity: Severity | None
    note: str | None
    by: str


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A sample that nobody has judged; ``waited_ms`` up to the newest record read."""

    request_id: str | None
    job_id: str
    agent_id: str
    topic: str
    queue: str | None
    ended_at_ms: int
    waited_ms: int
    overdue: int


class EpochUse(msgspec.Struct, frozen=True, kw_only=True):
    """An epoch in which jobs of the period were drawn, or that began in it."""

    epoch: EpochSeen
    jobs: int
    drawn: int


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the report rests on, so that anybody can make it again."""

    from_ms: int
    to_ms: int
    """The end, which is not in the period."""
    newest_ms: int
    records: int
    ends: dict[str, int]
    control_offset: int
    commands: int
    commands_refused: int
    policy_snapshot: str | None
    policy_digest: str | None
    epochs: list[EpochUse]
    without_key: int
    """Jobs that were all looked at, because no key was usable."""


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything; what nobody must overlook comes first. Lists end at ``listed_max``, counts do not."""

    timed_out_count: int
    timed_out: list[TimedOut]
    break_glass_count: int
    break_glass: list[GlassUse]
    agent_id: str | None
    whole: Rate
    agents: list[Rate]
    topics: list[Rate]
    strata: list[Rate]
    judged_share: float | None
    """Of the samples; None where there is none."""
    detection: list[Detection]
    allocation: Allocation
    errors_count: int
    errors: list[Wrong]
    errors_by_class: dict[str, int]
    errors_by_severity: dict[str, int]
    waiting_count: int
    waiting_overdue: int
    waiting: list[Waiting]
    evidence: Evidence
    listed_max: int = LISTED_MAX


def report_of_log(
    records: Sequence[Record],
    codec: Codec,
    tenant: str,
    operators: Mapping[str, Ed25519Verifier],
    period: tuple[int, int],
    agent_id: str | None = None,
) -> AuditReport:
    """The report on the jobs that ended from the first time on, before the second; of one agent where it is named.

    ``operators`` are those whose commands count. A broken glass is told whichever agent is asked about, its jobs not.
    """
    control = control_seen(records, codec, tenant, operators, period[1])
    return audit_report(read_audits(records, codec), control, period, agent_id)


def audit_report(
    log: AuditLog, control: ControlSeen, period: tuple[int, int], agent_id: str | None = None
) -> AuditReport:
    """As `report_of_log`, of what was read."""
    begins, ends = period

    def asked(at_ms: int, agent: str) -> bool:
        return begins <= at_ms < ends and agent_id in (None, agent)

    drawn = [each for each in log.drawn if asked(each.event.at_ms, each.event.agent_id)]
    timed_out = [each for each in log.timed_out if asked(each.at_ms, each.agent_id)]
    glasses = _glasses(log, control, period, agent_id)
    wrong = sorted([_wrong(each) for each in drawn if each.wrong], key=lambda each: (each.at_ms, each.job_id))
    waiting = [_waiting(each, log.newest_ms) for each in drawn if each.waiting]
    samples = sum(each.event.drawn for each in drawn)
    # What is in force is known of the whole tenant, whichever agent is asked about.
    everybody = [each for each in log.drawn if begins <= each.event.at_ms < ends]
    rates = rates_in_force(control.terms, Decimal(control.scale), everybody)
    return AuditReport(
        timed_out_count=len(timed_out),
        timed_out=timed_out[:LISTED_MAX],
        break_glass_count=len(glasses),
        break_glass=glasses[:LISTED_MAX],
        agent_id=agent_id,
        whole=_rate("all", drawn),
        agents=_rates(drawn, lambda each: each.event.agent_id),
        topics=_rates(drawn, lambda each: each.event.topic),
        strata=_rates(drawn, lambda each: each.event.stratum),
        judged_share=round(sum(each.judged for each in drawn) / samples, 4) if samples else None,
        detection=[_detection(stratum, rate) for stratum, rate in rates.items()],
        allocation=allocation_of(drawn, control.terms, rates),
        errors_count=len(wrong),
        errors=wrong[:LISTED_MAX],
        errors_by_class=ranked(Counter(each.error_class or UNNAMED for each in wrong)),
        errors_by_severity=ranked(Counter(each.severity or UNNAMED for each in wrong)),
        waiting_count=len(waiting),
        waiting_overdue=sum(each.overdue > 0 for each in waiting),
        waiting=waiting[:LISTED_MAX],
        evidence=_evidence(log, control, period, drawn),
    )


# --- rates


def _rates(drawn: Sequence[Drawn], name_of: Callable[[Drawn], str]) -> list[Rate]:
    groups: defaultdict[str, list[Drawn]] = defaultdict(list)
    for each in drawn:
        groups[name_of(each)].append(each)
    return [_rate(name, each) for name, each in sorted(groups.items())]


def _rate(name: str, drawn: Sequence[Drawn]) -> Rate:
    sets: defaultdict[Decimal, list[Drawn]] = defaultdict(list)
    for each in drawn:
        sets[each.probability].append(each)
    found = estimate([(chance, _sampled(each)) for chance, each in sorted(sets.items())], CONFIDENCE)
    return Rate(
        name=name,
        jobs=found.population,
        mandatory=sum(each.event.mandatory for each in drawn),
        drawn=sum(each.event.drawn for each in drawn),
        judged=found.judged,
        waiting=found.waiting,
        wrong=found.wrong,
        harmful=sum(each.harmful for each in drawn),
        rate=None if found.rate is None else float(found.rate),
        low=float(found.low),
        high=float(found.high),
    )


def _sampled(drawn: Sequence[Drawn]) -> Sampled:
    return Sampled(
        population=len(drawn),
        judged=sum(each.judged for each in drawn),
        wrong=sum(each.wrong for each in drawn),
        waiting=sum(each.waiting for each in drawn),
    )


def _detection(stratum: str, rate: Decimal) -> Detection:
    found = {str(float(defect)): actions_to_find(defect, Fraction(rate), CONFIDENCE) for defect in DEFECTS}
    return Detection(stratum=stratum, rate=float(rate), jobs_by_defect=found)


# --- one by one


def _wrong(each: Drawn) -> Wrong:
    finding, event = each.finding, each.event
    assert finding is not None
    return Wrong(
        at_ms=finding.at_ms,
        ended_at_ms=event.at_ms,
        job_id=event.job_id,
        agent_id=event.agent_id,
        topic=event.topic,
        stratum=event.stratum,
        finding=finding.finding,
        error_class=finding.error_class,
        severity=finding.severity,
        note=finding.note,
        by=finding.by,
    )


def _waiting(each: Drawn, newest_ms: int) -> Waiting:
    event = each.event
    return Waiting(
        request_id=event.request_id,
        job_id=event.job_id,
        agent_id=event.agent_id,
        topic=event.topic,
        queue=event.queue,
        ended_at_ms=event.at_ms,
        waited_ms=max(0, newest_ms - event.at_ms),
        overdue=each.overdue,
    )


def _glasses(log: AuditLog, control: ControlSeen, period: tuple[int, int], agent_id: str | None) -> list[GlassUse]:
    """Those that were broken at some time of the period, or under which a job was let run in it, with all their jobs.

    A command that the fold does not accept is told only where a decision names it: somebody let a job run by it.
    """
    begins, ends = period
    found = []
    for command in sorted({*control.broken, *log.glass_jobs}):
        glass, jobs = control.broken.get(command), log.glass_jobs.get(command, [])
        within = glass is not None and glass.counted and glass.at_ms < ends and glass.until_ms > begins
        if within or any(begins <= each.at_ms < ends for each in jobs):
            found.append(_glass_use(command, glass, [each for each in jobs if agent_id in (None, each.agent_id)]))
    return sorted(found, key=lambda each: (each.at_ms or 0, each.command_id))


def _glass_use(command: str, glass: Broken | None, jobs: list[GlassJob]) -> GlassUse:
    return GlassUse(
        command_id=command,
        by=UNKNOWN if glass is None else glass.by,
        scope=UNKNOWN if glass is None else glass.scope,
        reason="the command is gone from the log" if glass is None else glass.reason,
        at_ms=None if glass is None else glass.at_ms,
        until_ms=None if glass is None else glass.until_ms,
        counted=glass is not None and glass.counted,
        jobs_count=len(jobs),
        jobs=jobs[:LISTED_MAX],
    )


def _evidence(log: AuditLog, control: ControlSeen, period: tuple[int, int], drawn: Sequence[Drawn]) -> Evidence:
    jobs = Counter(each.event.epoch for each in drawn)
    samples = Counter(each.event.epoch for each in drawn if each.event.drawn)
    begins, ends = period
    epochs = [
        EpochUse(epoch=epoch, jobs=jobs[number], drawn=samples[number])
        for number, epoch in sorted(control.epochs.items())
        if jobs[number] or begins <= epoch.began_at_ms < ends
    ]
    return Evidence(
        from_ms=begins,
        to_ms=ends,
        newest_ms=log.newest_ms,
        records=log.records,
        ends=log.ends,
        control_offset=control.offset,
        commands=control.commands,
        commands_refused=control.refused,
        policy_snapshot=control.snapshot,
        policy_digest=control.digest,
        epochs=epochs,
        without_key=jobs[0],
    )
