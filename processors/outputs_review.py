"""The review of an output, and what people decide of one that is held.

What leaves is written once: at once when review says ALLOW or REDACT, by a person's word when it says QUARANTINE. Until
then the raw output stands in the state and in the request, sealed, and nowhere else.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from sluicegate.policies.output_policy import audience_of
from sluicegate.policies.places import ROOT
from sluicegate.policies.redaction import HELD
from sluicegate.policies.review import Review, review
from sluicegate.processors.outputs_state import Attempt, entry_name, ids_of, over, refuse
from sluicegate.processors.plane import DEFAULT_DESK, DEFAULT_QUEUE, Turn
from sluicegate.schemas.errors import InvariantBroken, SealingError
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
from sluicegate.schemas.ids import derived_id
from sluicegate.schemas.key_ids import key_fault, parse_key_id, quarantine_key
from sluicegate.schemas.payload import NONE, SALT_BYTES

RELEASE: Final = "release"
RELEASE_REDACTED: Final = "release_redacted"
DESTROY: Final = "destroy"
BREACH: Final = "breach"
"""The name of the rule that holds the output of an attempt that went beyond a constraint."""
REQUEST_BYTES_MAX: Final = 900_000
"""What the raw output and its masked form may weigh together in a request."""


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
    try:
        content, _ = turn.control.keys.open(event.output)
    except SealingError as error:
        refuse(turn, event, "malformed", str(error))
        return
    digest = hashlib.sha256(content).hexdigest()
    if digest != event.output_hash or len(content) != event.output_size_bytes:
        refuse(turn, event, "hash_mismatch", "hash or size is not that of the output")
        return
    found = _reviewed(turn, content, attempt, [*attempt.breached, *event.breached])
    if found.decision == "QUARANTINE":
        _hold(turn, event, content, attempt, found)
        return
    over(turn, event.job_id, attempt)
    document = found.document or b""
    leaves = event.output if document == content else _sealed(turn, event, document)
    turn.journal(
        Result,
        **_reviewed_fields(turn, event, attempt, found),
        output=leaves,
        result_hash=hashlib.sha256(document).hexdigest(),
    )


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


def _reviewed(turn: Turn, content: bytes, attempt: Attempt, breached: list[str]) -> Review:
    policy = turn.control.policy
    audience = audience_of(policy.action(attempt.topic).audience)
    tenant = turn.control.tenant
    found = review(content, topic=attempt.topic, audience=audience, tenant=tenant, policy=policy.output_policy)
    if not breached:
        return found
    names = ", ".join(f"`{name}`" for name in dict.fromkeys(breached))
    reason = f"Its attempt broke {names}"
    held = RedactionDetail(field=ROOT, reason=reason, action=HELD)
    details = (held, *(found.details if found.decision == "QUARANTINE" else ()))
    redacted, redacted_details = found.redacted, found.redacted_details
    if found.decision != "QUARANTINE":
        redacted, redacted_details = found.document, found.details
    return msgspec.structs.replace(
        found,
        decision="QUARANTINE",
        rule=BREACH,
        details=details,
        document=None,
        redacted=redacted,
        redacted_details=redacted_details,
        reason=reason,
    )


def _sealed(turn: Turn, event: Output, content: bytes, key_id: str | None = None) -> Sealed:
    """Seal what this step made, by default under the key of the job; the same whenever the step is run again."""
    said = f"{turn.key}/{event.job_id}/{turn.card.seq}"
    salt = hashlib.sha256(said.encode()).digest()[:SALT_BYTES]
    return turn.control.keys.seal(content, salt, event.output.key_id if key_id is None else key_id, said)


# --- what is held


def _quarantine_key(event: Output, request_id: str) -> str:
    """The name of the key of a held output: beyond those who may read the job."""
    if event.output.algorithm == NONE:
        return ""
    return quarantine_key(parse_key_id(event.output.key_id), request_id).text


def _hold(turn: Turn, event: Output, content: bytes, attempt: Attempt, found: Review) -> None:
    """Keep the output back and ask people."""
    job_id = event.job_id
    expires_at_ms = turn.at_ms + turn.control.settings.request_timeout_sec * 1000
    kept = Kept(
        request_id=derived_id("request", "output", event.grant_id, event.output_hash),
        succeeded=event.succeeded,
        rule=found.rule,
        output_hash=event.output_hash,
        worker_id=event.worker_id,
        classes=list(found.classes),
        redacted_details=list(found.redacted_details),
        reason=found.reason,
    )
    redacted = None if found.redacted is None else _sealed(turn, event, found.redacted)
    raw = _sealed(turn, event, content, _quarantine_key(event, kept.request_id))
    attempt.phase = "held"
    turn.put(entry_name(job_id), attempt)
    turn.put(_kept_name(job_id), kept)
    turn.put(_raw_name(job_id), KeptOutput(raw))
    if redacted is not None:
        turn.put(_redacted_name(job_id), KeptOutput(redacted))
    turn.journal(
        Quarantined,
        **_reviewed_fields(turn, event, attempt, found),
        reason=found.reason,
        request_id=kept.request_id,
        expires_at_ms=expires_at_ms,
    )
    request = _request(turn, event, attempt, kept, raw, redacted, expires_at_ms)
    turn.send("approval.requests", DEFAULT_DESK, request, request.request_id)


def _request(
    turn: Turn, event: Output, attempt: Attempt, kept: Kept, raw: Sealed, redacted: Sealed | None, expires_at_ms: int
) -> ApprovalRequest:
    policy = turn.control.policy
    agent = policy.agent(event.agent_id)
    fits = redacted is not None and len(redacted.content) + len(event.output.content) <= REQUEST_BYTES_MAX
    shown = redacted if redacted is not None and fits else _sealed(turn, event, b"null")
    choices = [RELEASE, DESTROY] if redacted is None else [RELEASE, RELEASE_REDACTED, DESTROY]
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
        choices=choices,
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
    decision, leaves = _released(turn, event, choice, raw.sealed, None if redacted is None else redacted.sealed)
    last = event.verdicts[-1] if event.verdicts else None
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
        rule=kept.rule,
        original_fields_redacted=len(details),
        redaction_details=details,
        policy_snapshot=turn.control.policy.snapshot_name,
        output=leaves,
        output_hash=kept.output_hash,
        result_hash="" if leaves is None else hashlib.sha256(turn.control.keys.open(leaves)[0]).hexdigest(),
        worker_id=kept.worker_id,
        run_id=attempt.run_id,
        correlation_id=attempt.correlation_id,
        classes=kept.classes,
        reason=_reason(event, kept, last.reason if last else None),
        request_id=event.request_id,
        choice=choice,
        by=f"person/{last.approver_id}" if last else None,
    )


def _released(
    turn: Turn, event: Resolution, choice: str | None, raw: Sealed, redacted: Sealed | None
) -> tuple[SafetyWord, Sealed | None]:
    if choice == RELEASE:
        content, salt = turn.control.keys.open(raw)
        key_id = "" if raw.algorithm == NONE else msgspec.structs.replace(parse_key_id(raw.key_id), request="").text
        return "ALLOW", turn.control.keys.seal(content, salt, key_id, event.request_id)
    if choice == RELEASE_REDACTED and redacted is not None:
        return "REDACT", redacted
    return "QUARANTINE", None


def _reason(event: Resolution, kept: Kept, said: str | None) -> str:
    if event.outcome in ("approved", "denied"):
        return said or kept.reason
    return f"{kept.reason}; nobody decided in time" if event.outcome == "expired" else kept.reason
