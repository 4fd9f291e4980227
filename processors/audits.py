"""Sampled audit at the gate: which finished jobs people look at, and what follows from what they find. Pure.

How likely a job is looked at is fixed when it is judged, by the policy, tags and facts of that judgement; it is drawn
when it ends, under the key of the epoch of that moment (`policies.sampling`). Every draw is an event of
`agent.audits`, drawn or not, so that what is estimated later knows the whole population; a drawn job is a request at
the desk with the whole record, for anybody but those who approved it. Without a key that is what was committed to
everything is looked at. A finding counts in the agent's trust as of the job it is about.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import msgspec

from sluicegate.policies.autonomy import Job as Scored
from sluicegate.policies.sampling import Inclusion, drawn, probability_text
from sluicegate.processors import trust
from sluicegate.processors.gate_facts import Computed
from sluicegate.processors.gate_state import Job, entry_name, job_of, request_of
from sluicegate.processors.plane import DEFAULT_DESK, DEFAULT_QUEUE, JUDGE, Turn, said_by
from sluicegate.schemas.events import (
    AuditDrawn,
    Finding,
    FindingWord,
    Intent,
    JobOutcome,
    Noted,
    Resolution,
    Result,
    RuleRef,
)
from sluicegate.schemas.ids import derived_id

AUDITS: Final = "agent.audits"
CHOICES: Final[tuple[FindingWord, ...]] = ("correct", "wrong", "harmful")
"""What a job may be found."""
DUE_SEC: Final = 86_400
"""When a sample is overdue, where no policy says."""
REQUEST_BYTES_MAX: Final = 900_000
"""What payload, context and result may weigh together in a request."""


class Sample(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A job that waits for its finding. ``scored`` is what it counts as in its agent's trust, until then."""

    job_id: str
    topic: str
    inclusion: Inclusion
    scored: Scored
    domain: str | None = None
    moves: int = 0
    version: str = ""
    """How often the agent's level had moved when the job ended, and the version it had: of these the finding tells."""


def _name(request_id: str) -> str:
    return f"audit/{request_id}"


def include(turn: Turn, job: Job, topic: str, computed: Computed, rules: list[RuleRef]) -> None:
    """Fix how likely a judged job will be looked at, and keep what its auditor will want to know."""
    terms, epoch = turn.control.policy.audit, turn.control.state.epoch
    if terms is None:
        job.inclusion, job.facts, job.rules = None, [], []
        return
    scale = Decimal(1 if epoch is None else epoch.scale)
    job.inclusion = terms.inclusion(topic, frozenset(job.tags), computed.subject.facts, scale)
    job.facts, job.rules = computed.facts, rules


def finished(turn: Turn, intent: Intent, job: Job, outcome: JobOutcome, result: Result | None = None) -> None:
    """Draw a job that has ended, if the policy it was judged by audits."""
    if job.inclusion is None:
        return
    number, inclusion, taken = _draw(turn, intent.job_id, job.inclusion)
    if result is not None and result.by is not None and result.output is not None:
        approved(job, result.by)
    terms = turn.control.policy.audit
    category = turn.control.policy.action(intent.topic).category
    queue = (DEFAULT_QUEUE if terms is None else terms.queue(category)) if taken else None
    turn.card.audits += 1
    confidence = next((fact.value for fact in job.facts if fact.name == "confidence"), None)
    event = AuditDrawn(
        cause=turn.cause,
        at_ms=turn.at_ms,
        number=turn.card.audits,
        control_offset=turn.control.offset,
        judge=JUDGE,
        agent_id=intent.agent_id,
        agent_version=intent.agent_version,
        job_id=intent.job_id,
        topic=intent.topic,
        outcome=outcome,
        stratum=inclusion.stratum,
        probability=probability_text(inclusion.probability),
        mandatory=inclusion.mandatory,
        drawn=taken,
        epoch=number,
        confidence=confidence,
        decision=job.decision,
        approved_by=job.approved_by,
        queue=queue,
        policy_snapshot=turn.control.policy.snapshot_name,
    )
    if queue is not None:
        event.request_id = job.audit_id = derived_id("audit", intent.agent_id, intent.job_id, turn.card.audits)
        moves, version = trust.standing(turn, job.domain)
        sample = Sample(
            job_id=intent.job_id,
            topic=intent.topic,
            inclusion=inclusion,
            scored=job.scored,
            domain=job.domain,
            moves=moves,
            version=version,
        )
        turn.put(_name(job.audit_id), sample)
        _ask(turn, intent, job, event, result)
    turn.send(AUDITS, turn.key, event, f"gate/{turn.key}/audit/{event.number}")


def approved(job: Job, key_id: str) -> None:
    """Remember who approved a job, or something of it: they do not audit it."""
    person = key_id.removeprefix("person/")
    job.approved_by = sorted({*job.approved_by, person})


def _draw(turn: Turn, job_id: str, inclusion: Inclusion) -> tuple[int, Inclusion, bool]:
    """The epoch, how likely it is in the end, and whether it is looked at: everything is, where no key is usable."""
    control, epoch, said = turn.control, turn.control.state.epoch, turn.control.said_drawn(turn.cause)
    key = None if epoch is None else control.epoch_key(epoch)
    if epoch is not None and key is not None and (said is None or said.epoch):
        return epoch.number, inclusion, drawn(key, turn.key, job_id, inclusion.probability)
    if epoch is not None and said is not None and said.epoch == epoch.number:
        return epoch.number, inclusion, said.drawn
    return 0, msgspec.structs.replace(inclusion, probability=Decimal(1)), True


def _ask(turn: Turn, intent: Intent, job: Job, drawn_as: AuditDrawn, result: Result | None) -> None:
    """Ask people what the job was, with all there is to know of it."""
    terms = turn.control.policy.audit
    due_sec = DUE_SEC if terms is None else terms.due_sec
    output = None if result is None else result.output
    weight = len(intent.payload.content) + (0 if intent.context is None else len(intent.context.content))
    fits = output is None or weight + len(output.content) <= REQUEST_BYTES_MAX
    why = "a rule asks for it" if drawn_as.mandatory else f"drawn with probability {drawn_as.probability}"
    without = "" if fits else "; its result is too large to be carried here and stands in job.results"
    reason = f"audit in stratum {drawn_as.stratum}: {why}{without}"
    request = request_of(turn, intent, job, "audit", job.rules, reason, job.constraints, job.facts, due_sec)
    request.request_id, request.queue = drawn_as.request_id or "", drawn_as.queue or DEFAULT_QUEUE
    request.choices, request.ended = list(CHOICES), drawn_as.outcome
    request.approved_by = request.excluded = job.approved_by
    request.escalates_to = DEFAULT_QUEUE if terms is None else terms.escalation
    if result is not None:
        request.redaction_details, request.output_hash = result.redaction_details, result.output_hash
    if fits:
        request.output = output
    turn.send("approval.requests", DEFAULT_DESK, request, request.request_id)


def on_finding(turn: Turn, event: Resolution) -> None:
    """Take up what people found of a sampled job."""
    sample = turn.get(_name(event.request_id), Sample)
    word = next((each for each in CHOICES if each == event.choice), None)
    by = said_by(event)
    if sample is None or word is None or by is None:
        turn.journal(Noted, job_id=event.job_id, agent_id=turn.key, kind="finding", detail="not the open sample")
        return
    turn.journal(Noted, job_id=event.job_id, agent_id=turn.key, kind="finding", detail=f"{word} by {by}")
    if word == "harmful":  # an incident on record; what the level loses by it, it loses as an error
        said = f"found harmful: {event.error_class}, {event.severity}"
        turn.journal(Noted, job_id=event.job_id, agent_id=turn.key, kind="incident", detail=said)
    turn.card.audits += 1
    finding = Finding(
        cause=turn.cause,
        at_ms=turn.at_ms,
        number=turn.card.audits,
        control_offset=turn.control.offset,
        judge=JUDGE,
        agent_id=turn.key,
        job_id=sample.job_id,
        topic=sample.topic,
        request_id=event.request_id,
        finding=word,
        error_class=event.error_class,
        severity=event.severity,
        note=event.verdicts[-1].reason,
        by=by,
        stratum=sample.inclusion.stratum,
        probability=probability_text(sample.inclusion.probability),
    )
    turn.send(AUDITS, turn.key, finding, f"gate/{turn.key}/audit/{finding.number}")
    trust.on_finding(turn, sample.domain, finding, sample.scored, (sample.moves, sample.version))
    turn.drop(_name(event.request_id))
    job = job_of(turn, sample.job_id)
    if job is not None and job.audit_id == event.request_id:
        job.scored = sample.scored
        turn.put(entry_name(sample.job_id), job)


def found_wrong(turn: Turn, job_id: str, job: Job) -> None:
    """Count a job that people, who reviewed its break-glass, say should not have run; its entry is not written here."""
    sample = None if job.audit_id is None else turn.get(_name(job.audit_id), Sample)
    if sample is None or job.audit_id is None:
        trust.happened(turn, "found_wrong", job.scored, job.domain, job_id)
        return
    trust.happened(turn, "found_wrong", sample.scored, sample.domain, job_id)
    turn.put(_name(job.audit_id), sample)
