"""Events of one job and one desk, as the tests of the clients need them."""

from __future__ import annotations

import hashlib
from typing import Any

from sluicegate.clients.agent import build_intent
from sluicegate.schemas.events import (
    ApprovalRequest,
    Cause,
    Closed,
    Decision,
    Grant,
    Intent,
    Refused,
    Repeated,
    RequestOpened,
    Resolved,
    Result,
    VerdictAccepted,
)
from sluicegate.schemas.payload import seal
from sluicegate.streams.identity import HmacKey

SIGNER = HmacKey("agent/a", b"k" * 32)
PAYLOAD_BYTES_MAX = 262_144


def place(topic: str = "job.intents", offset: int = 7, partition: int = 0) -> Cause:
    return Cause(topic=topic, partition=partition, offset=offset)


def journal(cause: Cause | None = None, seq: int = 1) -> dict[str, Any]:
    return {"cause": cause or place(), "at_ms": 1_000, "seq": seq, "control_offset": 0, "judge": 1}


def intent(payload: Any = None, job_id: str = "j1", topic: str = "job.read", **more: Any) -> Intent:
    given = {"n": 1} if payload is None else payload
    limit = more.pop("payload_bytes_max", PAYLOAD_BYTES_MAX)
    return build_intent(SIGNER, "default", "a", "1", topic, given, payload_bytes_max=limit, job_id=job_id, **more)


def decision(word: Any = "ALLOW", *, cause: Cause | None = None, seq: int = 1, **more: Any) -> Decision:
    values: dict[str, Any] = {
        "job_id": "j1",
        "agent_id": "a",
        "tenant": "default",
        "agent_version": "1",
        "topic": "job.read",
        "job_hash": "h1",
        "reason": "rule says so",
        "policy_snapshot": "v1:abcdef",
        "policy_digest": "d",
        "pool": "default",
        "retry_safe": False,
        "mode": "enforce",
    }
    return Decision(**journal(cause, seq), decision=word, **{**values, **more})


def refused(*, cause: Cause | None = None, authenticated: bool = True, **more: Any) -> Refused:
    values: dict[str, Any] = {
        "job_id": "j1",
        "agent_id": "a",
        "subject": "intent",
        "code": "id_reused",
        "message": "other content under a used id",
        "incident": True,
    }
    return Refused(**journal(cause), authenticated=authenticated, **{**values, **more})


def repeated(outcome: Any = None, *, cause: Cause | None = None) -> Repeated:
    return Repeated(**journal(cause), job_id="j1", agent_id="a", decision="ALLOW", decision_seq=1, outcome=outcome)


def closed(outcome: Any, *, cause: Cause | None = None, reason: str | None = None, by: str | None = None) -> Closed:
    return Closed(**journal(cause), job_id="j1", agent_id="a", outcome=outcome, reason=reason, by=by)


def result(content: bytes | None = b'{"rows":3}', *, succeeded: bool = True, safety: Any = "ALLOW") -> Result:
    return Result(
        **journal(place("job.outputs")),
        job_id="j1",
        agent_id="a",
        grant_id="g1",
        attempt=1,
        topic="job.read",
        succeeded=succeeded,
        output_safety_decision=safety,
        rule="none",
        original_fields_redacted=0,
        policy_snapshot="v1:abcdef",
        output=None if content is None else seal(content, b"s" * 16),
        output_hash="o",
        result_hash="r",
        worker_id="default.1",
    )


def grant(content: bytes = b'{"n":1}', grant_id: str = "g1", **more: Any) -> Grant:
    made = intent(content)
    values: dict[str, Any] = {
        "job_id": "j1",
        "agent_id": "a",
        "grant_id": grant_id,
        "attempt": 1,
        "tenant": "default",
        "topic": "job.read",
        "pool": "default",
        "payload": made.payload,
        "job_hash": made.job_hash,
        "start_by_ms": 10_000,
        "granted_seq": 2,
        "control_offset": 0,
        "policy_snapshot": "v1:abcdef",
    }
    return Grant(**{**values, **more})


def approval_request(request_id: str = "r1", queue: str = "ops", payload: bytes = b'{"n":1}') -> ApprovalRequest:
    return ApprovalRequest(
        request_id=request_id,
        kind="intent",
        origin="gate",
        reply_key="a",
        tenant="default",
        desk="desk",
        queue=queue,
        job_id="j1",
        agent_id="a",
        agent_version="1",
        topic="job.deploy.prod",
        payload=seal(payload, b"s" * 16),
        job_hash=hashlib.sha256(payload).hexdigest(),
        reason="prod needs a person",
        policy_snapshot="v1:abcdef",
        policy_digest="d",
        attempt=0,
        created_at_ms=1,
        expires_at_ms=9,
    )


def request_opened(request_id: str = "r1") -> RequestOpened:
    return RequestOpened(
        **journal(place("approval.requests")),
        request_id=request_id,
        kind="intent",
        queue="ops",
        job_id="j1",
        agent_id="a",
        topic="job.deploy.prod",
        reason="prod needs a person",
        expires_at_ms=9,
    )


def resolved(request_id: str = "r1", outcome: Any = "approved") -> Resolved:
    return Resolved(
        **journal(place("approval.verdicts")),
        request_id=request_id,
        job_id="j1",
        agent_id="a",
        outcome=outcome,
        by="rosa",
    )


def verdict_accepted(cause: Cause) -> VerdictAccepted:
    return VerdictAccepted(
        **journal(cause), request_id="r1", job_id="j1", verdict_id="v1", approver_id="rosa", verdict="approve"
    )
