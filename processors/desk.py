"""The desk: every request ends in exactly one resolution. One state per desk, so the order of its journal decides.

A verdict counts when an enrolled person signed it under their own name, its evidence is complete and fits the
request, the person is not the agent's owner or principal, it only tightens, and it was appended before the deadline.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sluicegate.processors.desk_state import DeskCard, Open, entry_name, timer_name
from sluicegate.processors.plane import Plane, Turn
from sluicegate.processors.verdicts import fault
from sluicegate.schemas.errors import InvariantBroken
from sluicegate.schemas.events import (
    ApprovalRequest,
    Event,
    Noted,
    RequestEscalated,
    RequestOpened,
    RequestWithdrawn,
    Resolution,
    ResolutionOutcome,
    Resolved,
    TimerFired,
    Verdict,
    VerdictAccepted,
    VerdictRef,
    ViewAccepted,
    Viewed,
)
from sluicegate.schemas.ids import derived_id

INCIDENT_CODES: Final = (
    "bad_signature",
    "unknown_key",
    "unsigned",
    "wrong_signer",
    "misrouted",
    "stale",
    "hash_mismatch",
)


REMEMBERED_MS: Final = 30 * 24 * 3600 * 1000
"""How long a late verdict is still told who decided and when."""


def _entry(turn: Turn, request_id: str) -> Open | None:
    """The request's entry; one that may be forgotten counts as absent, whatever the disk still holds."""
    entry = turn.get(entry_name(request_id), Open)
    return None if entry is not None and 0 < entry.forget_at_ms <= turn.at_ms else entry


def addressed(topic: str, event: Event) -> bool:
    """Everything on the desk's topics is for the desk."""
    return True


def handle(turn: Turn, event: Event) -> None:
    """One turn of the desk."""
    topic = turn.record.topic
    if topic == "approval.requests" and isinstance(event, ApprovalRequest):
        on_request(turn, event)
    elif topic == "approval.requests" and isinstance(event, RequestWithdrawn):
        on_withdrawn(turn, event)
    elif topic == "approval.verdicts" and isinstance(event, Verdict):
        on_verdict(turn, event)
    elif topic == "approval.verdicts" and isinstance(event, Viewed):
        on_viewed(turn, event)
    elif topic == "timer.fired.desk" and isinstance(event, TimerFired):
        on_timer(turn, event)
    else:
        turn.misplaced(event)


def _note(turn: Turn, kind: str, detail: str, request: ApprovalRequest | None = None) -> None:
    job_id = request.job_id if request else None
    turn.journal(Noted, job_id=job_id, agent_id=request.agent_id if request else None, kind=kind, detail=detail)


def on_request(turn: Turn, request: ApprovalRequest) -> None:
    """Take a request and arm its deadline."""
    if turn.key != request.desk:
        turn.refuse(
            job_id=request.job_id,
            agent_id=request.agent_id,
            subject="request",
            code="misrouted",
            message=f"written under key `{turn.key}`; the key of a request is its desk",
            incident=True,
            ref=request.request_id,
        )
        return
    if _entry(turn, request.request_id) is not None:
        _note(turn, "request", f"{request.request_id} is known", request)
        return
    light = msgspec.structs.replace(
        request, payload=_emptied(request), context=None, raw=None, output=None, redaction_details=[], facts=[]
    )
    entry = Open(
        request=turn.codec.encode(light),
        job_id=request.job_id,
        agent_id=request.agent_id,
        expires_at_ms=request.expires_at_ms,
    )
    turn.card.open += 1
    turn.put(entry_name(request.request_id), entry)
    turn.journal(
        RequestOpened,
        request_id=request.request_id,
        kind=request.kind,
        queue=request.queue,
        job_id=request.job_id,
        agent_id=request.agent_id,
        topic=request.topic,
        reason=request.reason,
        expires_at_ms=request.expires_at_ms,
    )
    turn.arm(timer_name(request.request_id), request.expires_at_ms)


def _emptied(request: ApprovalRequest) -> Any:
    return msgspec.structs.replace(request.payload, content=b"", nonce=b"")


def _request_of(turn: Turn, entry: Open) -> ApprovalRequest:
    request = turn.codec.decode(entry.request)
    if not isinstance(request, ApprovalRequest):
        raise InvariantBroken("a request's entry holds no request; stop and run `sluicegate verify`")
    return request


def on_withdrawn(turn: Turn, event: RequestWithdrawn) -> None:
    """The origin needs no answer any more."""
    entry = _entry(turn, event.request_id)
    if entry is None or entry.outcome is not None:
        _note(turn, "withdrawal", f"{event.request_id} is not open")
        return
    request = _request_of(turn, entry)
    if request.origin != event.origin:
        _note(turn, "withdrawal", f"{event.request_id} is not of `{event.origin}`", request)
        return
    resolve(turn, request, entry, "withdrawn", request.agent_id, [], request.constraints)


def on_timer(turn: Turn, event: TimerFired) -> None:
    """A deadline: what is still open expires, which is not a denial."""
    request_id = event.timer_id.removeprefix("expire/")
    entry = _entry(turn, request_id)
    if entry is None or entry.outcome is not None:
        _note(turn, "timer", "not armed")
        return
    request = _request_of(turn, entry)
    if turn.at_ms < entry.expires_at_ms:
        turn.arm(timer_name(request_id), entry.expires_at_ms)
        _note(turn, "timer", "early", request)
        return
    if request.escalates_to is not None:
        escalate(turn, request, entry, request.escalates_to)
        return
    resolve(turn, request, entry, "expired", None, [], request.constraints)


def escalate(turn: Turn, request: ApprovalRequest, entry: Open, queue: str) -> None:
    """Hand an overdue request to another queue; it stays open, and is overdue again after as long."""
    period_ms = max(1_000, request.expires_at_ms - request.created_at_ms)
    entry.escalations += 1
    entry.expires_at_ms = turn.at_ms + period_ms
    entry.request = turn.codec.encode(msgspec.structs.replace(request, queue=queue))
    turn.put(entry_name(request.request_id), entry)
    turn.journal(
        RequestEscalated,
        request_id=request.request_id,
        kind=request.kind,
        job_id=request.job_id,
        agent_id=request.agent_id,
        queue_before=request.queue,
        queue=queue,
        number=entry.escalations,
        expires_at_ms=entry.expires_at_ms,
    )
    turn.arm(timer_name(request.request_id), entry.expires_at_ms)


# --- verdicts


def on_verdict(turn: Turn, verdict: Verdict) -> None:
    """Count a verdict once, or refuse it with the reason."""
    entry, request = _asked(turn, verdict.request_id)
    said = _spoken(turn, verdict, "verdict", verdict.verdict_id, entry)
    if said is None:
        return
    code, message = fault(turn, verdict, said, entry, request)
    if code is not None or request is None or entry is None:
        _refuse(turn, "verdict", verdict.verdict_id, code or "unknown_request", message, entry, f"person/{said}")
        return
    count(turn, verdict, request, entry)


def _asked(turn: Turn, request_id: str) -> tuple[Open | None, ApprovalRequest | None]:
    """The request's entry, and the request itself while it is open."""
    entry = _entry(turn, request_id)
    return entry, None if entry is None or entry.outcome is not None else _request_of(turn, entry)


def _spoken(turn: Turn, event: Verdict | Viewed, subject: str, ref: str, entry: Open | None) -> str | None:
    """The enrolled person who signed the input under their own desk; None when it was refused."""
    checked = turn.checked()
    code, message = checked.code, checked.message
    person = checked.principal.id if checked.principal is not None and checked.principal.kind == "person" else None
    if code is None and person is None:
        code, message = "wrong_signer", f"a {subject} is signed by an enrolled person"
    elif code is None and turn.key != event.desk:
        code, message = "misrouted", f"written under key `{turn.key}`; the key of a {subject} is its desk"
    if code is None:
        return person
    principal = None if checked.principal is None else checked.principal.key_id
    _refuse(turn, subject, ref, code, message, entry, principal, authenticated=person is not None)
    return None


def _refuse(
    turn: Turn,
    subject: str,
    ref: str,
    code: str,
    message: str,
    entry: Open | None,
    principal: str | None,
    *,
    authenticated: bool = True,
) -> None:
    turn.refuse(
        job_id=entry.job_id if entry else "",
        agent_id=entry.agent_id if entry else "",
        subject=subject,
        code=code,
        message=message,
        incident=code in INCIDENT_CODES,
        authenticated=authenticated,
        principal=principal,
        ref=ref,
        winner=entry.by if entry and entry.outcome else None,
        winner_at_ms=entry.resolved_at_ms if entry and entry.outcome else None,
    )


def on_viewed(turn: Turn, event: Viewed) -> None:
    """Put on record that a person sees what is masked; only against this record does the key store give the key."""
    entry, request = _asked(turn, event.request_id)
    said = _spoken(turn, event, "view", event.view_id, entry)
    if said is None:
        return
    code = None
    if event.approver_id != said:
        code, message = (
            "wrong_signer",
            f"signed by `{said}` in the name of `{event.approver_id}`; sign in your own name",
        )
    elif entry is None or request is None:
        code, message = "unknown_request", f"there is no open request `{event.request_id}`; list the open ones"
    elif request.kind != "output":
        code, message = "nothing_masked", "nothing of this request is masked"
    elif said in (request.agent_owner, request.on_behalf_of, *request.excluded):
        code, message = "own_agent", "nobody decides on a job of their own; another person must"
    if code is not None or request is None:
        _refuse(turn, "view", event.view_id, code or "unknown_request", message, entry, f"person/{said}")
        return
    turn.journal(
        ViewAccepted,
        request_id=event.request_id,
        job_id=request.job_id,
        view_id=event.view_id,
        approver_id=said,
    )


def count(turn: Turn, verdict: Verdict, request: ApprovalRequest, entry: Open) -> None:
    """Accept the verdict and resolve the request by it."""
    approver = verdict.approver_id or ""
    turn.journal(
        VerdictAccepted,
        request_id=request.request_id,
        job_id=request.job_id,
        verdict_id=verdict.verdict_id,
        approver_id=approver,
        verdict=verdict.verdict,
        reason=verdict.reason,
        choice=verdict.choice,
        edited=verdict.edited,
        error_class=verdict.error_class,
        severity=verdict.severity,
    )
    evidence = VerdictRef(
        verdict_id=verdict.verdict_id,
        approver_id=approver,
        verdict=verdict.verdict,
        decision_ts_ms=verdict.decision_ts_ms or 0,
        policy_snapshot=verdict.policy_snapshot or "",
        job_hash=verdict.job_hash or "",
        reason=verdict.reason,
        constraints=verdict.constraints,
    )
    ceiling, wanted = msgspec.json.decode(request.constraints), msgspec.json.decode(verdict.constraints)
    merged = turn.control.policy.merge_constraints(ceiling, wanted)
    constraints = msgspec.json.encode(merged, order="sorted").decode()
    outcome: ResolutionOutcome = "approved" if verdict.verdict == "approve" else "denied"
    resolve(turn, request, entry, outcome, approver, [evidence], constraints, verdict)


def resolve(
    turn: Turn,
    request: ApprovalRequest,
    entry: Open,
    outcome: ResolutionOutcome,
    by: str | None,
    verdicts: list[VerdictRef],
    constraints: str,
    said: Verdict | None = None,
) -> None:
    """End a request: the one place where a resolution is written."""
    choice = None if said is None else said.choice
    resolved = turn.journal(
        Resolved,
        request_id=request.request_id,
        job_id=request.job_id,
        agent_id=request.agent_id,
        outcome=outcome,
        by=by,
        choice=choice,
    )
    resolution = Resolution(
        request_id=request.request_id,
        kind=request.kind,
        origin=request.origin,
        job_id=request.job_id,
        agent_id=request.agent_id,
        outcome=outcome,
        choice=choice,
        verdicts=verdicts,
        rules=request.rules if outcome == "approved" else [],
        constraints=constraints,
        job_hash=request.job_hash,
        policy_snapshot=request.policy_snapshot,
        policy_digest=request.policy_digest,
        attempt=request.attempt,
        resolved_at_ms=turn.at_ms,
        desk_seq=resolved.seq,
        edits=None if said is None else said.edits,
        edited_by=by if said is not None and said.edited else None,
        edited=[] if said is None else said.edited,
        error_class=None if said is None else said.error_class,
        severity=None if said is None else said.severity,
    )
    turn.send("approval.resolutions", request.reply_key, resolution, derived_id("resolution", request.request_id))
    turn.card.open -= 1
    closed = msgspec.structs.replace(entry, request=b"", outcome=outcome, by=by, resolved_at_ms=turn.at_ms)
    closed.forget_at_ms = turn.at_ms + REMEMBERED_MS
    turn.put(entry_name(request.request_id), closed)
    turn.retire(entry_name(request.request_id), closed.forget_at_ms)


PLANE: Final = Plane("desk", "approval.events", DeskCard, addressed, handle)
