"""Events of trust: how an agent's level moves, which of its jobs are looked at, and what is found.

One class per Avro schema in `avro/`, field for field; a test keeps the two equal.
"""

from __future__ import annotations

import msgspec

from sluicegate.schemas.records import Cause, DecisionWord, FindingWord, JobOutcome, LevelWord, Severity


class LevelChanged(msgspec.Struct, kw_only=True):
    """What moved an agent's level of autonomy, or asked a person to."""

    cause: Cause
    at_ms: int
    number: int
    control_offset: int
    judge: int
    agent_id: str
    agent_version: str
    change: LevelWord
    level_before: int
    level: int
    reason: str
    successes_count: int
    errors_count: int
    labelled_correct_count: int
    labelled_wrong_count: int
    job_id: str | None = None
    request_id: str | None = None
    by: str | None = None
    domain: str | None = None
    policy_snapshot: str


class AuditDrawn(msgspec.Struct, kw_only=True):
    """Whether a finished job is looked at, and how likely that was."""

    cause: Cause
    at_ms: int
    number: int
    control_offset: int
    judge: int
    agent_id: str
    agent_version: str
    job_id: str
    topic: str
    outcome: JobOutcome
    stratum: str
    probability: str
    mandatory: bool
    drawn: bool
    epoch: int
    confidence: float | None = None
    decision: DecisionWord | None = None
    approved_by: list[str] = []
    queue: str | None = None
    request_id: str | None = None
    policy_snapshot: str


class Finding(msgspec.Struct, kw_only=True):
    """What a person says of a sampled job."""

    cause: Cause
    at_ms: int
    number: int
    control_offset: int
    judge: int
    agent_id: str
    job_id: str
    topic: str
    request_id: str
    finding: FindingWord
    error_class: str | None = None
    severity: Severity | None = None
    note: str | None = None
    by: str
    stratum: str
    probability: str
