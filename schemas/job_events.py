"""Events of a job: intent, judgement, grant, attempt, output, result.

One class per Avro schema in `avro/`, field for field; a test keeps the two equal.
"""

from __future__ import annotations

import msgspec

from sluicegate.schemas.records import (
    Ask,
    AttemptWord,
    Cause,
    DecisionWord,
    EndWord,
    Fact,
    JobOutcome,
    Observed,
    RedactionDetail,
    RuleError,
    RuleRef,
    SafetyWord,
    Sealed,
    StopWord,
)


class Intent(msgspec.Struct, kw_only=True):
    """What an agent wants to do: a job, before it is judged."""

    job_id: str
    agent_id: str
    agent_version: str
    topic: str
    risk_tags: list[str] = []
    payload: Sealed
    job_hash: str
    context: Sealed | None = None
    confidence: float | None = None
    parents: list[str] = []
    run_id: str | None = None
    on_behalf_of: str | None = None
    plan_hash: str | None = None
    ask: Ask | None = None
    correlation_id: str | None = None
    tenant: str


class Withdrawal(msgspec.Struct, kw_only=True):
    """The agent no longer wants a job to run."""

    job_id: str
    agent_id: str
    reason: str | None = None


class Decision(msgspec.Struct, kw_only=True):
    """What policy says of one intent, with everything it rests on."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    job_id: str
    agent_id: str
    tenant: str
    agent_version: str
    topic: str
    risk_tags: list[str] = []
    job_hash: str
    decision: DecisionWord
    rules: list[RuleRef] = []
    facts: list[Fact] = []
    missing: list[str] = []
    errors: list[RuleError] = []
    constraints: str = "{}"
    reason: str
    policy_snapshot: str
    policy_digest: str
    pool: str
    retry_safe: bool
    request_id: str | None = None
    again_after: str | None = None
    mode: str
    run_id: str | None = None
    correlation_id: str | None = None
    plan_hash: str | None = None
    on_behalf_of: str | None = None
    parents: list[str] = []
    level: int | None = None
    observed: Observed | None = None
    features: list[int] = []
    break_glass: str | None = None
    submitted_hash: str | None = None


class Granted(msgspec.Struct, kw_only=True):
    """The gate permits one attempt; the terms of the grant it wrote."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    pool: str
    topic: str
    job_hash: str
    constraints: str = "{}"
    start_by_ms: int
    retry_safe: bool
    request_id: str | None = None
    policy_snapshot: str
    run_id: str | None = None
    plan_hash: str | None = None
    correlation_id: str | None = None
    submitted_hash: str | None = None


class Repeated(msgspec.Struct, kw_only=True):
    """The same content under the same id again: the same answer, no second grant."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    job_id: str
    agent_id: str
    decision: DecisionWord
    decision_seq: int
    outcome: JobOutcome | None = None


class Refused(msgspec.Struct, kw_only=True):
    """An input that was refused."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    job_id: str
    agent_id: str
    subject: str
    code: str
    message: str
    incident: bool
    authenticated: bool
    principal: str | None = None
    ref: str | None = None
    winner: str | None = None
    winner_at_ms: int | None = None


class Held(msgspec.Struct, kw_only=True):
    """A job in a paused scope waits; it is judged again when its timer fires."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    job_id: str
    agent_id: str
    scope: str
    job_hash: str
    until_ms: int


class Closed(msgspec.Struct, kw_only=True):
    """How a job ended, for its agent."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    job_id: str
    agent_id: str
    outcome: JobOutcome
    reason: str | None = None
    by: str | None = None
    request_id: str | None = None
    run_id: str | None = None


class Noted(msgspec.Struct, kw_only=True):
    """An input that changed nothing that others see."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    job_id: str | None = None
    agent_id: str | None = None
    kind: str
    detail: str | None = None


class Grant(msgspec.Struct, kw_only=True):
    """The permission to run one job once, under constraints, by a start-by time."""

    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    tenant: str
    topic: str
    pool: str
    payload: Sealed
    risk_tags: list[str] = []
    judged_tags: list[str] = []
    job_hash: str
    constraints: str = "{}"
    start_by_ms: int
    granted_seq: int
    control_offset: int
    policy_snapshot: str
    request_id: str | None = None
    run_id: str | None = None
    plan_hash: str | None = None
    on_behalf_of: str | None = None
    correlation_id: str | None = None
    submitted_hash: str | None = None


class Started(msgspec.Struct, kw_only=True):
    """A worker has taken a grant: the attempt has started."""

    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    pool: str
    worker_id: str
    job_hash: str
    granted_seq: int
    plan_hash: str | None = None


class Lapsed(msgspec.Struct, kw_only=True):
    """A worker met the grant after its start-by time: nothing ran."""

    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    worker_id: str
    granted_seq: int
    start_by_ms: int


class GrantRefused(msgspec.Struct, kw_only=True):
    """A worker refused a grant: nothing ran."""

    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    worker_id: str
    granted_seq: int
    code: str
    message: str


class Progressed(msgspec.Struct, kw_only=True):
    """A sign of life of a running attempt."""

    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    worker_id: str
    note: str | None = None


class Ended(msgspec.Struct, kw_only=True):
    """A worker's account of how an attempt ended."""

    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    worker_id: str
    outcome: EndWord
    detail: str | None = None


class Breached(msgspec.Struct, kw_only=True):
    """What ran under a grant went, or tried to go, beyond a constraint of it."""

    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    worker_id: str
    constraint: str
    detail: str
    prevented: bool


class StopAnswered(msgspec.Struct, kw_only=True):
    """A worker's answer to a command that stops what runs; what a job did outside is not undone."""

    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    worker_id: str
    command_id: str
    answer: StopWord
    detail: str | None = None


class Output(msgspec.Struct, kw_only=True):
    """What the worker returned, raw: read by output review only."""

    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    worker_id: str
    succeeded: bool
    output: Sealed
    output_hash: str
    output_size_bytes: int
    breached: list[str] = []


class AttemptOpened(msgspec.Struct, kw_only=True):
    """Output review knows of a grant and waits for its start and output."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    job_hash: str


class AttemptEnded(msgspec.Struct, kw_only=True):
    """An attempt ended without an output; the gate decides what follows."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    outcome: AttemptWord
    worker_id: str | None = None
    detail: str | None = None


class Quarantined(msgspec.Struct, kw_only=True):
    """An output is held: a person decides whether it leaves."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    topic: str
    succeeded: bool
    output_safety_decision: SafetyWord
    rule: str
    original_fields_redacted: int
    redaction_details: list[RedactionDetail] = []
    policy_snapshot: str
    output_hash: str
    classes: list[str] = []
    reason: str
    worker_id: str
    request_id: str
    expires_at_ms: int
    run_id: str | None = None
    correlation_id: str | None = None


class Result(msgspec.Struct, kw_only=True):
    """What may leave: the reviewed output of one job."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    job_id: str
    agent_id: str
    grant_id: str
    attempt: int
    topic: str
    succeeded: bool
    output_safety_decision: SafetyWord
    rule: str
    original_fields_redacted: int
    redaction_details: list[RedactionDetail] = []
    policy_snapshot: str
    output: Sealed | None = None
    output_hash: str
    result_hash: str
    worker_id: str
    run_id: str | None = None
    correlation_id: str | None = None
    classes: list[str] = []
    reason: str | None = None
    request_id: str | None = None
    choice: str | None = None
    by: str | None = None


class Incident(msgspec.Struct, kw_only=True):
    """Something an authorised person or monitor reports about an agent."""

    incident_id: str
    agent_id: str
    job_id: str | None = None
    kind: str
    note: str
