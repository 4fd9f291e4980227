"""Events of the desk: requests, verdicts, resolutions.

One class per Avro schema in `avro/`, field for field; a test keeps the two equal.
"""

from __future__ import annotations

import msgspec

from sluicegate.schemas.records import (
    Cause,
    Fact,
    JobOutcome,
    RedactionDetail,
    RequestKind,
    ResolutionOutcome,
    RuleRef,
    Sealed,
    Severity,
    VerdictRef,
    VerdictWord,
)


class ApprovalRequest(msgspec.Struct, kw_only=True):
    """Something a person must decide."""

    request_id: str
    kind: RequestKind
    origin: str
    reply_key: str
    tenant: str
    desk: str
    queue: str
    job_id: str
    agent_id: str
    agent_owner: str | None = None
    agent_version: str
    topic: str
    risk_tags: list[str] = []
    payload: Sealed
    context: Sealed | None = None
    job_hash: str
    rules: list[RuleRef] = []
    reason: str
    constraints: str = "{}"
    policy_snapshot: str
    policy_digest: str
    attempt: int
    created_at_ms: int
    expires_at_ms: int
    parents: list[str] = []
    run_id: str | None = None
    plan_hash: str | None = None
    on_behalf_of: str | None = None
    correlation_id: str | None = None
    facts: list[Fact] = []
    level: int | None = None
    excluded: list[str] = []
    raw: Sealed | None = None
    redaction_details: list[RedactionDetail] = []
    output_hash: str | None = None
    choices: list[str] = []
    editable: list[str] = []
    output: Sealed | None = None
    ended: JobOutcome | None = None
    approved_by: list[str] = []
    escalates_to: str | None = None
    domain: str | None = None


class RequestWithdrawn(msgspec.Struct, kw_only=True):
    """The origin no longer needs a request decided."""

    request_id: str
    desk: str
    origin: str
    reason: str | None = None


class Verdict(msgspec.Struct, kw_only=True):
    """What one reviewer said of one request; signed; a missing evidence field is null and is refused by name."""

    verdict_id: str
    request_id: str
    desk: str
    verdict: VerdictWord
    approver_id: str | None = None
    policy_snapshot: str | None = None
    job_hash: str | None = None
    decision_ts_ms: int | None = None
    reason: str | None = None
    constraints: str = "{}"
    choice: str | None = None
    edits: Sealed | None = None
    edited: list[str] = []
    error_class: str | None = None
    severity: Severity | None = None


class Viewed(msgspec.Struct, kw_only=True):
    """A reviewer asks to see what a request keeps masked; signed."""

    view_id: str
    request_id: str
    desk: str
    approver_id: str


class RequestOpened(msgspec.Struct, kw_only=True):
    """The desk has taken a request."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    request_id: str
    kind: RequestKind
    queue: str
    job_id: str
    agent_id: str
    topic: str
    reason: str
    expires_at_ms: int


class RequestEscalated(msgspec.Struct, kw_only=True):
    """A request that nobody decided by its deadline, and that does not expire, has gone to another queue."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    request_id: str
    kind: RequestKind
    job_id: str
    agent_id: str
    queue_before: str
    queue: str
    number: int
    expires_at_ms: int


class VerdictAccepted(msgspec.Struct, kw_only=True):
    """A verdict that counts."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    request_id: str
    job_id: str
    verdict_id: str
    approver_id: str
    verdict: VerdictWord
    reason: str | None = None
    choice: str | None = None
    edited: list[str] = []
    error_class: str | None = None
    severity: Severity | None = None


class ViewAccepted(msgspec.Struct, kw_only=True):
    """A reviewer may see what a request keeps masked, and is on record for it."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    request_id: str
    job_id: str
    view_id: str
    approver_id: str


class Resolved(msgspec.Struct, kw_only=True):
    """The desk's journal of a resolution."""

    cause: Cause
    at_ms: int
    seq: int
    control_offset: int
    judge: int
    request_id: str
    job_id: str
    agent_id: str
    outcome: ResolutionOutcome
    by: str | None = None
    choice: str | None = None


class Resolution(msgspec.Struct, kw_only=True):
    """How a request ended: exactly one per request."""

    request_id: str
    kind: RequestKind
    origin: str
    job_id: str
    agent_id: str
    outcome: ResolutionOutcome
    choice: str | None = None
    verdicts: list[VerdictRef] = []
    rules: list[RuleRef] = []
    constraints: str = "{}"
    job_hash: str
    policy_snapshot: str
    policy_digest: str
    attempt: int
    resolved_at_ms: int
    desk_seq: int
    edits: Sealed | None = None
    edited_by: str | None = None
    edited: list[str] = []
    error_class: str | None = None
    severity: Severity | None = None
