"""The words and the nested records that events are made of.

What each field means stands in the Avro schemas, which are the contract; times are milliseconds since the epoch.
"""

from __future__ import annotations

from typing import Literal

import msgspec

DecisionWord = Literal["ALLOW", "ALLOW_WITH_CONSTRAINTS", "REQUIRE_APPROVAL", "DENY"]
SafetyWord = Literal["ALLOW", "REDACT", "QUARANTINE"]
RequestKind = Literal["intent", "lost_attempt", "break_glass", "output", "level", "audit"]
ResolutionOutcome = Literal["approved", "denied", "expired", "withdrawn"]
JobOutcome = Literal["succeeded", "failed", "denied", "expired", "withdrawn", "lapsed", "unknown"]
VerdictWord = Literal["approve", "deny"]
CommandKind = Literal[
    "activate",
    "pause",
    "resume",
    "stop",
    "revoke",
    "break_glass",
    "sign_off",
    "erase",
    "set_level",
    "epoch",
    "reveal",
]
EndWord = Literal["finished", "failed", "lapsed", "stopped", "overran"]
AttemptWord = Literal["lapsed", "lost", "revoked", "overran", "exceeded"]
LevelWord = Literal["requested", "promoted", "demoted", "set", "anew"]
FindingWord = Literal["correct", "wrong", "harmful"]
Severity = Literal["low", "medium", "high", "critical"]
StopWord = Literal["stopped", "already_finished", "unknown"]


class Cause(msgspec.Struct, kw_only=True):
    """The input record that an event answers."""

    topic: str
    partition: int
    offset: int


class Sealed(msgspec.Struct, kw_only=True):
    """An envelope: bytes that only holders of the erasure unit's key can read."""

    algorithm: str
    key_id: str
    nonce: bytes
    content: bytes = msgspec.field(name="bytes")


class Ask(msgspec.Struct, kw_only=True):
    """An approval that the submitter itself wants."""

    reason: str
    timeout_sec: int | None = None


class RuleRef(msgspec.Struct, kw_only=True):
    """One determining rule, bound to its content."""

    layer: str
    id: str
    content_hash: str
    decision: DecisionWord
    reason: str | None = None


class Fact(msgspec.Struct, kw_only=True):
    """One fact a judgement rested on."""

    name: str
    value: float | None = None
    source: str


class Observed(msgspec.Struct, kw_only=True):
    """What would have been decided, had everything that is only observed been enforced."""

    decision: DecisionWord
    rules: list[RuleRef] = []
    constraints: str = "{}"
    reason: str


class RuleError(msgspec.Struct, kw_only=True):
    """A rule that could not be evaluated."""

    layer: str
    id: str
    error: str


class VerdictRef(msgspec.Struct, kw_only=True):
    """One counted verdict, as evidence."""

    verdict_id: str
    approver_id: str
    verdict: VerdictWord
    decision_ts_ms: int
    policy_snapshot: str
    job_hash: str
    reason: str | None = None
    constraints: str = "{}"


class RedactionDetail(msgspec.Struct, kw_only=True):
    """One thing that review took out."""

    field: str
    reason: str
    action: str
