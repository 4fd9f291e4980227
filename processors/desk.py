"""The desk: every request ends in exactly one resolution. One state per desk, so the order of its journal decides.

A verdict counts when an enrolled person signed it under their own name, its evidence is complete and fits the
request, the person is not the agent's owner or principal, it only tightens, and it was appended before the deadline.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sluicegate.policies.constraints import ConstraintError
from sluicegate.processors.plane import Card, Plane, Turn
from sluicegate.schemas.errors import InvariantBroken
from sluicegate.schemas.events import (
    ApprovalRequest,
    Event,
    Noted,
    RequestOpened,
    RequestWithdrawn,
    Resolution,
    ResolutionOutcome,
    Resolved,
    TimerFired,
    Verdict,
    VerdictAccepted,
    VerdictRef,
    VerdictWord,
    ViewAccepted,
    Viewed,
)
from sluicegate.schemas.ids import derived_id

EVIDENCE: Final = ("policy_snapshot", "job_hash", "approver_id", "decision_ts_ms")
"""The evidence contract: what a verdict must carry (article, reviewer operations)."""
EVIDENCE_NAMES: Final = {"decision_ts_ms": "decision_ts"}
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


CHOICES: Final[dict[str, VerdictWord]] = {"release": "approve", "release_redacted": "approve", "destroy": "deny"}
"""What may be chosen of a held output, and which verdict each is."""


class Open(msgspec.Struct, kw_only=True):
    """One request: encoded without its payload while open; who resolved it and when, afterwards."""

    request: bytes
    job_id: str
    agent_id: str
    expires_at_ms: int
    outcome: ResolutionOutcome | None = None
    by: str | None = None
    resolved_at_ms: int = 0
    forget_at_ms: int = 0


class DeskCard(Card, kw_only=True):
    """Bounded, one per desk."""

    open: int = 0


def entry_name(request_id: str) -> str:
    """The name of a request's entry."""
    return f"request/{request_id}"


def timer_name(request_id: str) -> str:
    """The id of the timer of a request's deadline."""
    return f"expire/{request_id}"


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
    light = msgspec.structs.replace(request, payload=_emptied(request), context=None, raw=None, redaction_details=[])
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
    resolve(turn, request, entry, "expired", None, [], request.constraints)


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


def fault(
    turn: Turn, verdict: Verdict, person: str, entry: Open | None, request: ApprovalRequest | None
) -> tuple[str | None, str]:
    """Why a signed verdict does not count: (code, message), or (None, "")."""
    missing = [EVIDENCE_NAMES.get(name, name) for name in EVIDENCE if getattr(verdict, name) in (None, "", 0)]
    if missing:
        return "incomplete", f"the evidence lacks {', '.join(f'`{name}`' for name in missing)}; send it complete"
    if verdict.approver_id != person:
        return "wrong_signer", f"signed by `{person}` in the name of `{verdict.approver_id}`; sign in your own name"
    if entry is not None and entry.outcome is not None:
        return "already_resolved", f"already {entry.outcome} by `{entry.by or 'the deadline'}`"
    if entry is None or request is None:
        return "unknown_request", f"there is no request `{verdict.request_id}`; list the open ones"
    if turn.record.timestamp_ms >= entry.expires_at_ms:
        return "expired", "appended at or after the deadline; the request expires"
    if verdict.job_hash != request.job_hash:
        return "hash_mismatch", "the verdict is for another job than the request's; look at the request again"
    if verdict.policy_snapshot != request.policy_snapshot:
        return "snapshot_mismatch", f"the request was asked under `{request.policy_snapshot}`; look at it again"
    if person in (request.agent_owner, request.on_behalf_of, *request.excluded):
        return "own_agent", "nobody decides on a job of their own; another person must"
    return _choice_fault(verdict, request) or _edit_fault(verdict, request) or _constraint_fault(turn, verdict, request)


def _choice_fault(verdict: Verdict, request: ApprovalRequest) -> tuple[str, str] | None:
    if not request.choices:
        return None if verdict.choice is None else ("bad_choice", "nothing is to be chosen here; approve or deny it")
    offered = ", ".join(f"`{choice}`" for choice in request.choices)
    if verdict.choice not in request.choices:
        return "bad_choice", f"`{verdict.choice or ''}` cannot be chosen here; choose one of {offered}"
    if CHOICES.get(verdict.choice) != verdict.verdict:
        return "bad_choice", f"`{verdict.choice}` is not what `{verdict.verdict}` says; send the verdict that it is"
    return None


def _edit_fault(verdict: Verdict, request: ApprovalRequest) -> tuple[str, str] | None:
    if (verdict.edits is None) != (not verdict.edited) or verdict.edited != sorted(set(verdict.edited)):
        return "bad_edits", "edits come with the sorted list of their paths; send both or neither"
    if verdict.edited and verdict.verdict != "approve":
        return "bad_edits", "a denial edits nothing"
    beyond = ", ".join(f"`{path}`" for path in verdict.edited if path not in request.editable)
    return (
        ("not_editable", f"{beyond} may not be edited; the rules permit it of other paths or none") if beyond else None
    )


def _constraint_fault(turn: Turn, verdict: Verdict, request: ApprovalRequest) -> tuple[str | None, str]:
    try:
        wanted = msgspec.json.decode(verdict.constraints, type=dict[str, Any])
        looser = turn.control.policy.is_tighter_or_equal(wanted, msgspec.json.decode(request.constraints))
    except (msgspec.MsgspecError, ConstraintError) as error:
        return "bad_constraints", f"the constraints cannot be read ({error}); send a JSON object of known constraints"
    if looser:
        names = ", ".join(f"`{name}`" for name in looser)
        return "looser", f"{names} would loosen what policy allows; a verdict may only tighten"
    return None, ""


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
    )
    turn.send("approval.resolutions", request.reply_key, resolution, derived_id("resolution", request.request_id))
    turn.card.open -= 1
    closed = msgspec.structs.replace(entry, request=b"", outcome=outcome, by=by, resolved_at_ms=turn.at_ms)
    closed.forget_at_ms = turn.at_ms + REMEMBERED_MS
    turn.put(entry_name(request.request_id), closed)
    turn.retire(entry_name(request.request_id), closed.forget_at_ms)


PLANE: Final = Plane("desk", "approval.events", DeskCard, addressed, handle)
