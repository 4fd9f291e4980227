"""The review of an output, and what people decide of one that is held.

What leaves is written once: at once when review says ALLOW or REDACT, by a person's word when it says QUARANTINE. Until
then the raw output stands in the state and in the request, sealed, and nowhere else.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from sluicegate.policies.review import Review
from sluicegate.processors.control_recall import ERASED, PAYLOAD_ERASED
from sluicegate.processors.outputs_reviewed import (
    NOTHING_SHOWN,
    RELEASE_REDACTED,
    Reviewed,
    request_id,
    reviewed,
    under,
)
from sluicegate.processors.outputs_state import DESTROY, Attempt, entry_name, ids_of, over, refuse
from sluicegate.processors.plane import DEFAULT_DESK, DEFAULT_QUEUE, Turn, said_by
from sluicegate.schemas.errors import InvariantBroken, KeyErased
from sluicegate.schemas.events import (
    ApprovalRequest,
    Noted,
    Output,
    Quarantined,
    RedactionDetail,
    Resolution,
    Result,
    RuleRef,
    SafetyWord,
    Sealed,
)
from sluicegate.schemas.key_ids import key_fault, parse_key_id
from sluicegate.schemas.payload import NONE
from sluicegate.schemas.sealing import OVERHEAD_BYTES

RELEASE: Final = "release"


class Kept(msgspec.Struct, kw_only=True):
    """A held output until people decide; the raw output and what redacting leaves of it stand beside, sealed."""

    request_id: str
    succeeded: bool
    rule: str
    output_hash: str
    worker_id: str
    classes: list[str]
    redacted_details: list[RedactionDetail]
    reason: str


class KeptOutput(msgspec.Struct):
    """An envelope in the state."""

    sealed: Sealed


def _raw_name(job_id: str) -> str:
    return f"raw/{job_id}"


def _redacted_name(job_id: str) -> str:
    return f"redacted/{job_id}"


def _kept_name(job_id: str) -> str:
    return f"kept/{job_id}"


def on_output(turn: Turn, event: Output, attempt: Attempt) -> None:
    """Review the first output of the live attempt; any other is late. ``attempt`` has started."""
    if attempt.phase != "started" or event.worker_id != attempt.worker_id:
        message = "the attempt is over or another worker's; this output is not taken"
        refuse(turn, event, "late", message, incident=False)
        return
    fault = None
    if event.output.algorithm != NONE:
        fault = key_fault(event.output.key_id, turn.control.tenant, event.agent_id, event.job_id)
    elif turn.control.settings.sealing != NONE:
        fault = "outputs are sealed here; set `sealing` as the gate has it"
    if fault is not None:
        refuse(turn, event, "malformed", fault)
        return
    found = reviewed(turn, event, attempt)
    if isinstance(found, tuple):
        refuse(turn, event, *found)
    elif found.raw is not None:
        _hold(turn, event, attempt, found)
    else:
        over(turn, event.job_id, attempt)
        fields = _reviewed_fields(turn, event, attempt, found.review)
        reason = found.review.reason if found.leaves is None else None
        turn.journal(Result, **fields, output=found.leaves, result_hash=found.result_hash, reason=reason)


def _reviewed_fields(turn: Turn, event: Output, attempt: Attempt, found: Review) -> dict[str, Any]:
    """What a result and a quarantine both say of an output that was reviewed now."""
    return {
        **ids_of(event),
        "topic": attempt.topic,
        "succeeded": event.succeeded,
        "output_safety_decision": found.decision,
        "rule": found.rule,
        "original_fields_redacted": len(found.details),
        "redaction_details": list(found.details),
        "policy_snapshot": turn.control.policy.snapshot_name,
        "output_hash": event.output_hash,
        "worker_id": event.worker_id,
        "run_id": attempt.run_id,
        "correlation_id": attempt.correlation_id,
        "classes": list(found.classes),
    }


# --- what is held


def _hold(turn: Turn, event: Output, attempt: Attempt, found: Reviewed) -> None:
    """Keep the output back and ask people."""
    job_id, told = event.job_id, found.review
    if found.raw is None or found.shown is None:
        raise InvariantBroken(f"the output of job `{job_id}` is to be held and is not sealed; report this")
    expires_at_ms = turn.at_ms + turn.control.settings.request_timeout_sec * 1000
    kept = Kept(
        request_id=request_id(event),
        succeeded=event.succeeded,
        rule=told.rule,
        output_hash=event.output_hash,
        worker_id=event.worker_id,
        classes=list(told.classes),
        redacted_details=list(told.redacted_details),
        reason=told.reason,
    )
    attempt.phase = "held"
    turn.put(entry_name(job_id), attempt)
    turn.put(_kept_name(job_id), kept)
    turn.put(_raw_name(job_id), KeptOutput(found.raw))
    if found.redacted is not None:
        turn.put(_redacted_name(job_id), KeptOutput(found.redacted))
    turn.journal(
        Quarantined,
        **_reviewed_fields(turn, event, attempt, told),
        reason=told.reason,
        request_id=kept.request_id,
        expires_at_ms=expires_at_ms,
    )
    request = _request(turn, event, attempt, kept, found.raw, found.shown, expires_at_ms)
    request.choices = [RELEASE, DESTROY] if found.redacted is None else [RELEASE, RELEASE_REDACTED, DESTROY]
    turn.send("approval.requests", DEFAULT_DESK, request, request.request_id)


def _request(
    turn: Turn, event: Output, attempt: Attempt, kept: Kept, raw: Sealed, shown: Sealed, expires_at_ms: int
) -> ApprovalRequest:
    policy = turn.control.policy
    agent = policy.agent(event.agent_id)
    return ApprovalRequest(
        request_id=kept.request_id,
        kind="output",
        origin="outputs",
        reply_key=turn.key,
        tenant=turn.control.tenant,
        desk=DEFAULT_DESK,
        queue=DEFAULT_QUEUE,
        job_id=event.job_id,
        agent_id=event.agent_id,
        agent_owner=None if agent is None else agent.owner,
        agent_version="" if agent is None else agent.version,
        topic=attempt.topic,
        risk_tags=sorted(policy.action(attempt.topic).risk_tags),
        payload=shown,
        job_hash=attempt.job_hash,
        rules=[
            RuleRef(
                layer="output-policy", id=kept.rule, content_hash="", decision="REQUIRE_APPROVAL", reason=kept.reason
            )
        ],
        reason=kept.reason,
        policy_snapshot=policy.snapshot_name,
        policy_digest=policy.snapshot_digest,
        attempt=event.attempt,
        created_at_ms=turn.at_ms,
        expires_at_ms=expires_at_ms,
        run_id=attempt.run_id,
        correlation_id=attempt.correlation_id,
        raw=raw,
        redaction_details=kept.redacted_details,
        output_hash=kept.output_hash,
    )


def on_resolution(turn: Turn, event: Resolution) -> None:
    """What people decided of a held output: it leaves whole, redacted, or never."""
    attempt = turn.get(entry_name(event.job_id), Attempt)
    kept = turn.get(_kept_name(event.job_id), Kept)
    if attempt is None or kept is None or attempt.phase != "held" or kept.request_id != event.request_id:
        detail = "not the open request"
        turn.journal(Noted, job_id=event.job_id, agent_id=event.agent_id, kind="resolution", detail=detail)
        return
    raw = turn.get(_raw_name(event.job_id), KeptOutput)
    redacted = turn.get(_redacted_name(event.job_id), KeptOutput)
    if raw is None:
        raise InvariantBroken(f"the held output of job `{event.job_id}` is gone; run `sluicegate verify`")
    for name in (_kept_name, _raw_name, _redacted_name):
        turn.drop(name(event.job_id))
    over(turn, event.job_id, attempt)
    choice = event.choice if event.outcome == "approved" else DESTROY if event.outcome == "denied" else None
    sealed = None if redacted is None else redacted.sealed
    rule, reason = kept.rule, _reason(event, kept, event.verdicts[-1].reason if event.verdicts else None)
    try:
        decision, leaves, result_hash = _released(turn, event, kept, choice, raw.sealed, sealed)
    except KeyErased:
        decision, leaves, result_hash = "QUARANTINE", None, ""
        rule, reason = PAYLOAD_ERASED, ERASED
    details = kept.redacted_details if decision == "REDACT" else []
    turn.journal(
        Result,
        job_id=event.job_id,
        agent_id=event.agent_id,
        grant_id=attempt.grant_id,
        attempt=attempt.attempt,
        topic=attempt.topic,
        succeeded=kept.succeeded,
        output_safety_decision=decision,
        rule=rule,
        original_fields_redacted=len(details),
        redaction_details=details,
        policy_snapshot=event.policy_snapshot,  # what it was reviewed by, and what people decided upon
        output=leaves,
        output_hash=kept.output_hash,
        result_hash=result_hash,
        worker_id=kept.worker_id,
        run_id=attempt.run_id,
        correlation_id=attempt.correlation_id,
        classes=kept.classes,
        reason=reason,
        request_id=event.request_id,
        choice=choice,
        by=said_by(event),
    )


def _released(
    turn: Turn, event: Resolution, kept: Kept, choice: str | None, raw: Sealed, redacted: Sealed | None
) -> tuple[SafetyWord, Sealed | None, str]:
    """What leaves by people's word, and the hash of its content. Raises KeyErased where nobody can open it."""
    keys, recalled = turn.control.keys, turn.control.recalled
    if choice == RELEASE:
        key_id = "" if raw.algorithm == NONE else msgspec.structs.replace(parse_key_id(raw.key_id), request="").text
        try:
            content, salt = keys.open(raw)
            return "ALLOW", keys.seal(content, salt, key_id, event.request_id), kept.output_hash
        except KeyErased:
            said = None if recalled is None else recalled.released(event.request_id)
            if said is None:
                raise
            return "ALLOW", under(said.output, key_id), kept.output_hash
    if choice == RELEASE_REDACTED and redacted is not None:
        try:
            return "REDACT", redacted, hashlib.sha256(keys.open(redacted)[0]).hexdigest()
        except KeyErased:
            said = None if recalled is None else recalled.released(event.request_id)
            if said is None:
                raise
            stand_in = len(redacted.content) == OVERHEAD_BYTES + len(NOTHING_SHOWN)
            return "REDACT", under(said.output, redacted.key_id) if stand_in else redacted, said.result_hash
    return "QUARANTINE", None, ""


def _reason(event: Resolution, kept: Kept, said: str | None) -> str:
    if event.outcome in ("approved", "denied"):
        return said or kept.reason
    return f"{kept.reason}; nobody decided in time" if event.outcome == "expired" else kept.reason
