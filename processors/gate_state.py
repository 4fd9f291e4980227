"""What the gate remembers: a card per agent, an entry per open job; and the events that follow from an entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from sluicegate.policies import subject
from sluicegate.policies.autonomy import Job as Scored
from sluicegate.policies.evaluate import Judgement
from sluicegate.policies.sampling import Inclusion
from sluicegate.processors import trust
from sluicegate.processors.control_recall import LOST_SAID
from sluicegate.processors.plane import DEFAULT_DESK, DEFAULT_QUEUE, REMEMBERED_MS, Card, Turn
from sluicegate.schemas.events import (
    ApprovalRequest,
    Closed,
    Decision,
    DecisionWord,
    Fact,
    Grant,
    Granted,
    Held,
    Intent,
    JobOutcome,
    Observed,
    RequestKind,
    RuleRef,
)
from sluicegate.schemas.ids import derived_id

if TYPE_CHECKING:
    from sluicegate.streams.control_scopes import Glass

NO_CONSTRAINTS: Final = "{}"
REVIEW_SEC: Final = 24 * 3600
"""Within what time people must have looked at a job that ran under break-glass."""


class GateCard(Card, kw_only=True, omit_defaults=True):
    """Bounded, one per agent. Counts are of now; ``minute`` is the minute since the epoch that is counted."""

    in_flight: int = 0
    """Jobs that are granted or held."""
    open_requests: int = 0
    minute: int = 0
    minute_intents: int = 0
    day: int = 0
    topics_today: list[int] = msgspec.field(default_factory=list)
    """The topics of the day that is counted, 64 bits of the SHA-256 of each: no more than may be used."""
    windows: dict[str, dict[int, int]] = msgspec.field(default_factory=dict)
    """Group and window to the sums of its slices; only of windows that some rule asks for."""
    rate_span: int = 0
    rate_now: int = 0
    rate_before: int = 0
    audits: int = 0
    """How many draws and findings there were."""
    level_changes: int = 0


class Profile(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What an agent's finished jobs of one topic were like."""

    sketch: bytes = b""
    forget_at_ms: int = 0


class Tries(msgspec.Struct):
    """How often one thing was tried since its last success."""

    count: int
    forget_at_ms: int


class Job(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One job. ``intent`` is kept, the very bytes that came, until the job is closed."""

    phase: Literal["held", "asked", "granted", "closed"]
    job_hash: str
    decision: DecisionWord = "DENY"
    decision_seq: int = 0
    digest: str = ""
    intent: bytes = b""
    counted: bool = False
    """Whether it is one of the agent's jobs in flight."""
    lost: bool = False
    """Whether a worker vanished with it: then nobody knows that it did not run."""
    permitted: bool = False
    """Whether all that is missing is a grant: policy allows it, or a person has approved."""
    constraints: str = "{}"
    satisfied: list[tuple[str, str, str]] = []
    request_id: str | None = None
    edited_hash: str | None = None
    """The hash of what it is now, where a person edited the payload; ``job_hash`` is what was submitted."""
    requests: int = 0
    attempt: int = 0
    grant_id: str | None = None
    withdrawn_because: str | None = None
    since: int = -1
    """The control offset when it came: a revocation after it takes back what was permitted."""
    windowed: dict[str, int] = msgspec.field(default_factory=dict)
    """Windows that have counted it, each with the number of the slice in which it did."""
    tries: int = -1
    """How many tries of the same there were when it was judged first; -1 before."""
    tags: list[str] = msgspec.field(default_factory=list)
    """The tags it was judged by: a revocation by tag holds under another policy, too."""
    features: list[int] = []
    retry_key: str = ""
    glass_until_ms: int = 0
    """Until when it may start without the people who should have been asked; 0 where they were not spared."""
    found_wrong: bool = False
    """Whether people found that it should not have been spared: then it is not again."""
    violated: bool = False
    """Whether it went beyond a constraint: then it is no success."""
    scored: Scored = msgspec.field(default_factory=Scored)
    """What it counts as in its agent's trust."""
    domain: str | None = None
    """The domain in which it does; None where it counts for nothing."""
    inclusion: Inclusion | None = None
    """How likely it is looked at when it is over; None where no policy audits it."""
    facts: list[Fact] = []
    rules: list[RuleRef] = []
    """What it was judged by, for who looks at it."""
    approved_by: list[str] = []
    audit_id: str | None = None
    """The request in which people look at it."""
    review_id: str | None = None
    """The request in which people review that afterwards."""
    hold_sec: int = 0
    hold_until_ms: int = 0
    outcome: JobOutcome | None = None
    forget_at_ms: int = 0


def entry_name(job_id: str) -> str:
    """The name of a job's entry."""
    return f"job/{job_id}"


def submitted_hash(intent: Intent, job: Job) -> str | None:
    """The hash of what was submitted, where what is judged is something else."""
    return None if intent.job_hash == job.job_hash else job.job_hash


def timer_name(job_id: str) -> str:
    """The id of the timer of a held job."""
    return f"hold/{job_id}"


def job_of(turn: Turn, job_id: str) -> Job | None:
    """The job's entry; one that may be forgotten counts as absent, whatever the disk still holds."""
    job = turn.get(entry_name(job_id), Job)
    return None if job is not None and job.phase == "closed" and job.forget_at_ms <= turn.at_ms else job


def save(turn: Turn, intent: Intent, job: Job) -> None:
    """Write the job's entry."""
    turn.put(entry_name(intent.job_id), job)


def canonical(constraints: dict[str, Any]) -> str:
    """Constraints as canonical JSON text."""
    return NO_CONSTRAINTS if not constraints else msgspec.json.encode(constraints, order="sorted").decode()


def decide(
    turn: Turn,
    intent: Intent,
    job: Job,
    judgement: Judgement,
    *,
    facts: list[Fact],
    features: list[int],
    level: int | None,
    rules: list[RuleRef],
    request_id: str | None,
    again_after: str | None,
    glass: Glass | None,
) -> Decision:
    """Journal a decision with all it rests on."""
    policy = turn.control.policy
    action = policy.action(intent.topic)
    observed = judgement.observed
    return turn.journal(
        Decision,
        job_id=intent.job_id,
        agent_id=intent.agent_id,
        tenant=intent.tenant,
        agent_version=intent.agent_version,
        topic=intent.topic,
        risk_tags=job.tags,
        job_hash=intent.job_hash,
        decision=judgement.decision,
        rules=rules,
        facts=facts,
        missing=list(judgement.missing),
        errors=list(judgement.errors),
        constraints=canonical(judgement.constraints),
        reason=judgement.reason,
        policy_snapshot=policy.snapshot_name,
        policy_digest=policy.snapshot_digest,
        pool=action.pool,
        retry_safe=action.retry_safe,
        request_id=request_id,
        again_after=again_after,
        mode="enforce" if observed is None else "observe",
        run_id=intent.run_id,
        correlation_id=intent.correlation_id,
        plan_hash=intent.plan_hash,
        on_behalf_of=intent.on_behalf_of,
        parents=intent.parents,
        level=level,
        observed=None if observed is None else _observed(observed),
        features=features,
        break_glass=None if glass is None else glass.command_id,
        submitted_hash=submitted_hash(intent, job),
    )


def _observed(judgement: Judgement) -> Observed:
    return Observed(
        decision=judgement.decision,
        rules=list(judgement.rules),
        constraints=canonical(judgement.constraints),
        reason=judgement.reason,
    )


def judged_tags(turn: Turn, intent: Intent) -> list[str]:
    """The tags that an intent is judged by now."""
    return list(subject.judged_tags(turn.control.policy.action(intent.topic), intent.risk_tags))


def grant(turn: Turn, intent: Intent, job: Job) -> None:
    """Permit the next attempt: journal its terms and hand the grant to the pool."""
    action = turn.control.policy.action(intent.topic)
    job.attempt += 1
    # The journal's number makes the id this job's own: a job id may come again once it is forgotten.
    job.grant_id = derived_id("grant", intent.agent_id, intent.job_id, job.attempt, turn.card.seq)
    _count(turn, job)
    job.phase = "granted"
    terms: dict[str, Any] = {
        "job_id": intent.job_id,
        "agent_id": intent.agent_id,
        "grant_id": job.grant_id,
        "attempt": job.attempt,
        "pool": action.pool,
        "topic": intent.topic,
        "job_hash": intent.job_hash,
        "constraints": job.constraints,
        "start_by_ms": _start_by_ms(turn, job),
        "request_id": job.request_id,
        "policy_snapshot": turn.control.policy.snapshot_name,
        "run_id": intent.run_id,
        "plan_hash": intent.plan_hash,
        "correlation_id": intent.correlation_id,
        "submitted_hash": submitted_hash(intent, job),
    }
    granted = turn.journal(Granted, **terms, retry_safe=action.retry_safe)
    record = Grant(
        **terms,
        tenant=intent.tenant,
        payload=intent.payload,
        risk_tags=intent.risk_tags,
        judged_tags=job.tags,
        granted_seq=granted.seq,
        control_offset=turn.control.offset,
        on_behalf_of=intent.on_behalf_of,
    )
    turn.send(f"job.grants.{action.pool}", intent.job_id, record, job.grant_id)


def _start_by_ms(turn: Turn, job: Job) -> int:
    """A grant under break-glass ends with it."""
    start_by_ms: int = turn.at_ms + turn.control.settings.start_within_sec * 1000
    return min(start_by_ms, job.glass_until_ms) if job.glass_until_ms else start_by_ms


def ask_people(
    turn: Turn,
    intent: Intent,
    job: Job,
    *,
    kind: RequestKind,
    rules: list[RuleRef],
    reason: str,
    ceiling: str,
    facts: list[Fact],
) -> str:
    """Open an approval request and return its id; the job waits for its resolution."""
    timeout_sec = turn.control.settings.request_timeout_sec
    if intent.ask is not None and intent.ask.timeout_sec is not None:
        timeout_sec = max(1, min(timeout_sec, intent.ask.timeout_sec))
    _discount(turn, job)
    request = request_of(turn, intent, job, kind, rules, reason, ceiling, facts, timeout_sec)
    turn.card.open_requests += 1
    job.request_id = request.request_id
    job.phase = "asked"
    turn.send("approval.requests", DEFAULT_DESK, request, request.request_id)
    return request.request_id


def ask_review(turn: Turn, intent: Intent, job: Job, glass: Glass, rules: list[RuleRef], facts: list[Fact]) -> None:
    """Have people other than who broke the glass look afterwards at what runs, once a job; it waits for nobody.

    Such a request takes no room among the agent's open ones: what it may ask people for stays what it is.
    """
    if job.review_id is not None:
        return
    reason = f"ran under break-glass by {glass.by}: {glass.reason}"
    request = request_of(turn, intent, job, "break_glass", rules, reason, job.constraints, facts, REVIEW_SEC)
    request.excluded = [glass.by.removeprefix("person/")]
    job.review_id = request.request_id
    turn.send("approval.requests", DEFAULT_DESK, request, request.request_id)


def request_of(
    turn: Turn,
    intent: Intent,
    job: Job,
    kind: RequestKind,
    rules: list[RuleRef],
    reason: str,
    ceiling: str,
    facts: list[Fact],
    timeout_sec: int,
) -> ApprovalRequest:
    """A request about a job, with what every such request carries."""
    policy = turn.control.policy
    agent = policy.agent(intent.agent_id)
    job.requests += 1
    return ApprovalRequest(
        request_id=derived_id("request", intent.agent_id, intent.job_id, job.requests, turn.card.seq),
        kind=kind,
        origin="gate",
        reply_key=turn.key,
        tenant=intent.tenant,
        desk=DEFAULT_DESK,
        queue=DEFAULT_QUEUE,
        job_id=intent.job_id,
        agent_id=intent.agent_id,
        agent_owner=None if agent is None else agent.owner,
        agent_version=intent.agent_version,
        topic=intent.topic,
        risk_tags=job.tags,
        payload=intent.payload,
        context=intent.context,
        job_hash=intent.job_hash,
        rules=rules,
        reason=reason,
        constraints=ceiling,
        policy_snapshot=policy.snapshot_name,
        policy_digest=policy.snapshot_digest,
        attempt=job.attempt,
        created_at_ms=turn.at_ms,
        expires_at_ms=turn.at_ms + timeout_sec * 1000,
        parents=intent.parents,
        run_id=intent.run_id,
        plan_hash=intent.plan_hash,
        on_behalf_of=intent.on_behalf_of,
        correlation_id=intent.correlation_id,
        facts=facts,
        level=trust.level(turn, intent.topic),
        editable=list(policy.editable(rules)) if kind == "intent" else [],
    )


def hold(turn: Turn, intent: Intent, job: Job, scope: str) -> None:
    """Let the job wait: a resume is no input of its key, so a timer brings it back."""
    settings = turn.control.settings
    job.hold_sec = min(settings.hold_max_sec, job.hold_sec * 2) if job.hold_sec else settings.hold_first_sec
    job.hold_until_ms = turn.at_ms + job.hold_sec * 1000
    _count(turn, job)
    job.phase = "held"
    turn.journal(
        Held,
        job_id=intent.job_id,
        agent_id=intent.agent_id,
        scope=scope,
        job_hash=intent.job_hash,
        until_ms=job.hold_until_ms,
    )
    turn.arm(timer_name(intent.job_id), job.hold_until_ms)
    save(turn, intent, job)


def close(turn: Turn, intent: Intent, job: Job, outcome: JobOutcome, reason: str | None, by: str | None) -> None:
    """End the job for its agent, and keep only what makes its id used.

    What may have run without a result is never said not to have run: its end is `unknown`.
    """
    if job.lost and outcome not in ("succeeded", "failed", "unknown"):
        reason = f"{reason or outcome}{LOST_SAID}"
        outcome = "unknown"
    turn.journal(
        Closed,
        job_id=intent.job_id,
        agent_id=intent.agent_id,
        outcome=outcome,
        reason=reason,
        by=by,
        request_id=job.request_id,
        run_id=intent.run_id,
    )
    shut(turn, intent, job, outcome)
    save(turn, intent, job)


def _count(turn: Turn, job: Job) -> None:
    if not job.counted:
        turn.card.in_flight += 1
        job.counted = True


def _discount(turn: Turn, job: Job) -> None:
    if job.counted:
        turn.card.in_flight -= 1
        job.counted = False


def shut(turn: Turn, intent: Intent, job: Job, outcome: JobOutcome) -> None:
    """Mark the entry closed and drop what it held."""
    _discount(turn, job)
    job.phase = "closed"
    job.outcome = outcome
    job.intent = b""
    job.satisfied = []
    job.features, job.facts, job.rules = [], [], []
    job.forget_at_ms = turn.at_ms + REMEMBERED_MS
    turn.retire(entry_name(intent.job_id), job.forget_at_ms)
