"""Why a verdict does not count: evidence, deadline, binding, own jobs, choices, edits, constraints. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sluicegate.policies.constraints import ConstraintError
from sluicegate.processors.desk_state import Open
from sluicegate.processors.plane import Turn
from sluicegate.schemas.events import ApprovalRequest, Verdict, VerdictWord

EVIDENCE: Final = ("policy_snapshot", "job_hash", "approver_id", "decision_ts_ms")
"""The evidence contract: what a verdict must carry (article, reviewer operations)."""
EVIDENCE_NAMES: Final = {"decision_ts_ms": "decision_ts"}
CHOICES: Final[dict[str, VerdictWord]] = {
    "release": "approve",
    "release_redacted": "approve",
    "destroy": "deny",
    "correct": "approve",
    "wrong": "deny",
    "harmful": "deny",
}
"""What may be chosen of a held output or found of a sampled job, and which verdict each is."""
ERRORS: Final = ("wrong", "harmful")
"""Findings that say what kind of error it is, and how bad."""
ERROR_CLASS_CHARS_MAX: Final = 64


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
    if turn.record.timestamp_ms >= entry.expires_at_ms and request.escalates_to is None:
        return "expired", "appended at or after the deadline; the request expires"
    if verdict.job_hash != request.job_hash:
        return "hash_mismatch", "the verdict is for another job than the request's; look at the request again"
    if verdict.policy_snapshot != request.policy_snapshot:
        return "snapshot_mismatch", f"the request was asked under `{request.policy_snapshot}`; look at it again"
    if person in request.approved_by:
        return "own_approval", "nobody audits a job that they approved; another person must"
    if person in (request.agent_owner, request.on_behalf_of, *request.excluded):
        return "own_agent", "nobody decides on a job of their own; another person must"
    said = _choice_fault(verdict, request) or _error_fault(verdict) or _edit_fault(verdict, request)
    return said or _constraint_fault(turn, verdict, request)


def _choice_fault(verdict: Verdict, request: ApprovalRequest) -> tuple[str, str] | None:
    if not request.choices:
        return None if verdict.choice is None else ("bad_choice", "nothing is to be chosen here; approve or deny it")
    offered = ", ".join(f"`{choice}`" for choice in request.choices)
    if verdict.choice not in request.choices:
        return "bad_choice", f"`{verdict.choice or ''}` cannot be chosen here; choose one of {offered}"
    if CHOICES.get(verdict.choice) != verdict.verdict:
        return "bad_choice", f"`{verdict.choice}` is not what `{verdict.verdict}` says; send the verdict that it is"
    return None


def _error_fault(verdict: Verdict) -> tuple[str, str] | None:
    """An error has a class, a severity and a note; what is none has none of the first two."""
    if verdict.choice not in ERRORS:
        said = verdict.error_class is not None or verdict.severity is not None
        return ("bad_finding", "what is no error has no class and no severity") if said else None
    missing = [
        name
        for name, value in (
            ("error_class", (verdict.error_class or "").strip()),
            ("severity", verdict.severity),
            ("reason", (verdict.reason or "").strip()),
        )
        if not value
    ]
    if missing:
        return "incomplete", f"`{verdict.choice}` needs {', '.join(f'`{name}`' for name in missing)}; say what is wrong"
    if len(verdict.error_class or "") > ERROR_CLASS_CHARS_MAX:
        return (
            "bad_finding",
            f"an error class has at most {ERROR_CLASS_CHARS_MAX} characters; put the rest into the note",
        )
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
