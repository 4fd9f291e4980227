"""The gate: an intent becomes a decision, and a decision a grant or a request. One state per agent.

Pure: what it knows is the turn (input, state, control). Signature, staleness, ownership, hash and limits come
first; then pauses; then policy (`gate_judge`). See the README, life of an intent.
"""

from __future__ import annotations

from typing import Any, Final

from sluicegate.policies.intents import CHARS_MAX
from sluicegate.processors import audits, trust
from sluicegate.processors.gate_edits import edited
from sluicegate.processors.gate_facts import learn
from sluicegate.processors.gate_judge import close_erased, intent_of, judge, paused, permit, revoked
from sluicegate.processors.gate_limits import content_fault, limit_fault, rate_fault
from sluicegate.processors.gate_state import (
    GateCard,
    Job,
    ask_people,
    close,
    entry_name,
    hold,
    job_of,
    save,
    timer_name,
)
from sluicegate.processors.outputs_state import BREACH, DESTROY
from sluicegate.processors.plane import REMEMBERED_MS, Plane, Turn, said_by
from sluicegate.schemas.errors import KeyErased
from sluicegate.schemas.events import (
    AttemptEnded,
    Event,
    Incident,
    Intent,
    JobOutcome,
    Noted,
    Quarantined,
    Repeated,
    RequestWithdrawn,
    Resolution,
    Result,
    RuleRef,
    TimerFired,
    Withdrawal,
)
from sluicegate.schemas.ids import derived_id

INCIDENT_CODES: Final = (
    "bad_signature",
    "unknown_key",
    "unsigned",
    "agent_mismatch",
    "misrouted",
    "stale",
    "id_reused",
)


CLEAN: Final = ("ALLOW", "REDACT")
"""What review says of an output from which it may be learned what is normal."""


def addressed(topic: str, event: Event) -> bool:
    """What the gate answers for: of resolutions its own, of results what ends an attempt."""
    if topic == "approval.resolutions":
        return not isinstance(event, Resolution) or event.origin == "gate"
    if topic == "job.results":
        return isinstance(event, (Result, AttemptEnded)) or (isinstance(event, Quarantined) and event.rule == BREACH)
    return True


def handle(turn: Turn, event: Event) -> None:
    """One turn of the gate."""
    topic = turn.record.topic
    if topic == "job.intents" and isinstance(event, Intent):
        on_intent(turn, event)
    elif topic == "job.intents" and isinstance(event, Withdrawal):
        on_withdrawal(turn, event)
    elif topic == "approval.resolutions" and isinstance(event, Resolution):
        on_resolution(turn, event)
    elif topic == "job.results" and isinstance(event, Result):
        on_result(turn, event)
    elif topic == "job.results" and isinstance(event, AttemptEnded):
        on_attempt_ended(turn, event)
    elif topic == "job.results" and isinstance(event, Quarantined):
        on_breach(turn, event)
    elif topic == "agent.incidents" and isinstance(event, Incident):
        on_incident(turn, event)
    elif topic == "timer.fired.gate" and isinstance(event, TimerFired):
        on_timer(turn, event)
    else:
        turn.misplaced(event)


# --- what agents send


def _fault_of_sender(turn: Turn, job_id: str, agent_id: str, subject: str) -> bool:
    """Refuse, and say so, what the named agent has not signed, freshly, under its own key."""
    checked = turn.checked()
    principal = checked.principal
    code, message = checked.code, checked.message
    if code is None and (principal is None or principal.kind != "agent" or principal.id != agent_id):
        code, message = "agent_mismatch", f"signed by another than agent `{agent_id}`; write under your own id"
    elif code is None and turn.key != agent_id:
        code, message = "misrouted", f"written under key `{turn.key}`; the key of an intent is its agent's id"
    if code is None:
        return False
    own = principal is not None and principal.id == agent_id == turn.key and principal.kind == "agent"
    turn.refuse(
        job_id=job_id,
        agent_id=agent_id,
        subject=subject,
        code=code,
        message=message,
        incident=code in INCIDENT_CODES,
        authenticated=own,
        principal=None if principal is None else principal.key_id,
    )
    return True


def _refuse_intent(turn: Turn, intent: Intent, code: str, message: str) -> None:
    turn.refuse(
        job_id=intent.job_id,
        agent_id=intent.agent_id,
        subject="intent",
        code=code,
        message=message,
        incident=code in INCIDENT_CODES,
        authenticated=True,
        principal=f"agent/{intent.agent_id}",
    )


def on_intent(turn: Turn, intent: Intent) -> None:
    """Refuse, repeat, hold or judge an intent."""
    if _fault_of_sender(turn, intent.job_id, intent.agent_id, "intent"):
        return
    fault = rate_fault(turn)
    payload: Any = None
    if fault is None:
        payload, fault = content_fault(intent, turn.control)
    if fault is not None:
        _refuse_intent(turn, intent, *fault)
        return
    known = job_of(turn, intent.job_id)
    if known is not None:
        _again(turn, intent, known)
        return
    fault = limit_fault(turn, intent)
    if fault is not None:
        _refuse_intent(turn, intent, *fault)
        return
    job = Job(phase="held", job_hash=intent.job_hash, intent=turn.record.value, since=turn.control.offset)
    scope = paused(turn, intent)
    if scope is not None:
        hold(turn, intent, job, scope)
        return
    judge(turn, intent, job, payload=payload)


def _again(turn: Turn, intent: Intent, known: Job) -> None:
    """A job id is used once: the same content has its answer, other content is an incident."""
    if known.job_hash != intent.job_hash:
        _refuse_intent(turn, intent, "id_reused", f"job id `{intent.job_id}` was used for other content; take a new id")
        return
    if known.phase == "held" and not known.decision_seq:
        turn.journal(
            Noted, job_id=intent.job_id, agent_id=intent.agent_id, kind="repeated", detail="held, not yet judged"
        )
        return
    turn.journal(
        Repeated,
        job_id=intent.job_id,
        agent_id=intent.agent_id,
        decision=known.decision,
        decision_seq=known.decision_seq,
        outcome=known.outcome,
    )


def on_withdrawal(turn: Turn, event: Withdrawal) -> None:
    """Stop a job that has no grant yet; afterwards it is too late here."""
    if _fault_of_sender(turn, event.job_id, event.agent_id, "withdrawal"):
        return
    job = job_of(turn, event.job_id)
    if job is None or job.phase in ("granted", "closed"):
        detail = "unknown job" if job is None else f"too late: {job.phase}"
        turn.journal(Noted, job_id=event.job_id, agent_id=event.agent_id, kind="not_withdrawn", detail=detail)
        return
    intent = intent_of(turn, job)
    if job.phase == "held":
        close(turn, intent, job, "withdrawn", event.reason, f"agent/{event.agent_id}")
        return
    job.withdrawn_because = event.reason or ""
    save(turn, intent, job)
    request_id = job.request_id or ""
    withdrawn = RequestWithdrawn(request_id=request_id, desk="desk", origin="gate", reason=event.reason)
    turn.send("approval.requests", "desk", withdrawn, derived_id("withdrawal", request_id))
    turn.journal(Noted, job_id=event.job_id, agent_id=event.agent_id, kind="withdrawal", detail="asked the desk")


# --- what comes back


def on_resolution(turn: Turn, event: Resolution) -> None:
    """Act on what people decided; a resolution that is not the open one changes nothing."""
    job = job_of(turn, event.job_id)
    if event.kind == "break_glass":
        on_review(turn, event, job)
        return
    if event.kind == "level":
        trust.on_sign_off(turn, event)
        return
    if event.kind == "audit":
        audits.on_finding(turn, event)
        return
    bound = None if job is None else job.edited_hash or job.job_hash
    if job is None or job.phase != "asked" or job.request_id != event.request_id or bound != event.job_hash:
        turn.journal(
            Noted, job_id=event.job_id, agent_id=event.agent_id, kind="resolution", detail="not the open request"
        )
        return
    turn.card.open_requests -= 1
    intent = intent_of(turn, job)
    last = event.verdicts[-1] if event.verdicts else None
    reason = last.reason if last else None
    by = said_by(event) or "desk"
    if event.outcome == "approved" and job.withdrawn_because is not None:
        close(turn, intent, job, "withdrawn", job.withdrawn_because or None, f"agent/{event.agent_id}")
    elif event.outcome == "approved":
        job.satisfied = job.satisfied + [(rule.layer, rule.id, rule.content_hash) for rule in event.rules]
        job.constraints, job.permitted = event.constraints, True
        audits.approved(job, by)
        _permit_as_edited(turn, intent, job, event)
    elif event.kind == "lost_attempt":
        close(turn, intent, job, "unknown", reason or "the worker vanished and nobody permitted another attempt", by)
    elif event.outcome == "denied":
        close(turn, intent, job, "denied", reason, by)
    elif event.outcome == "expired":
        close(turn, intent, job, "expired", "nobody decided in time", "desk")
    else:
        close(turn, intent, job, "withdrawn", job.withdrawn_because or None, f"agent/{event.agent_id}")


def _permit_as_edited(turn: Turn, intent: Intent, job: Job, event: Resolution) -> None:
    """Permit what was approved; what a person edited is judged anew, and only that is granted."""
    try:
        now = edited(turn, intent, event)
    except KeyErased:
        close_erased(turn, intent, job)
        return
    if isinstance(now, str):
        close(turn, intent, job, "denied", now, "gate")
        return
    if now is not intent:
        job.edited_hash, job.intent, job.digest = now.job_hash, turn.codec.encode(now), ""
    permit(turn, now, job)


def on_review(turn: Turn, event: Resolution, job: Job | None) -> None:
    """Record what people say afterwards of a job that ran under break-glass; nothing waits for it."""
    if job is None or job.review_id != event.request_id:
        detail = "not the open review"
    else:
        if event.outcome == "denied":
            job.found_wrong = True
            audits.found_wrong(turn, event.job_id, job)
            if job.glass_until_ms:
                job.glass_until_ms = turn.at_ms  # whatever is granted from now on is judged again
        elif event.outcome == "approved":
            audits.approved(job, said_by(event) or "desk")
        turn.put(entry_name(event.job_id), job)
        detail = _REVIEWED[event.outcome]
    turn.journal(Noted, job_id=event.job_id, agent_id=event.agent_id, kind="break_glass_review", detail=detail)


_REVIEWED: Final = {
    "approved": "right to run",
    "denied": "wrong to run",
    "expired": "nobody has reviewed it in time",
    "withdrawn": "withdrawn",
}


def on_result(turn: Turn, event: Result) -> None:
    """The job has its reviewed result: it is over."""
    job = job_of(turn, event.job_id)
    if job is None or job.phase != "granted" or job.grant_id != event.grant_id:
        turn.journal(Noted, job_id=event.job_id, agent_id=event.agent_id, kind="result", detail="not the live attempt")
        return
    learn(turn, event.topic, job, clean=event.output_safety_decision in CLEAN, succeeded=event.succeeded)
    _score(turn, event, job)
    intent = intent_of(turn, job)
    outcome: JobOutcome = "succeeded" if event.succeeded else "failed"
    audits.finished(turn, intent, job, outcome, event)
    close(turn, intent, job, outcome, None, "outputs")


def _score(turn: Turn, event: Result, job: Job) -> None:
    """What a finished job says of its agent. What was destroyed is an error; what nobody decided upon says nothing."""
    if job.violated:
        return
    if not event.succeeded or event.choice == DESTROY:
        trust.happened(turn, "failed", job.scored, job.domain, event.job_id)
    elif event.output is not None:
        if job.satisfied:  # a person approved it: that is a label, and stands before what follows from the success
            trust.happened(turn, "found_correct", job.scored, job.domain, event.job_id)
        trust.happened(turn, "succeeded", job.scored, job.domain, event.job_id)


def on_breach(turn: Turn, event: Quarantined) -> None:
    """An attempt went, or tried to go, beyond a constraint: that counts now, whatever people say of its output."""
    job = job_of(turn, event.job_id)
    if job is None or job.phase != "granted" or job.grant_id != event.grant_id:
        turn.journal(Noted, job_id=event.job_id, agent_id=event.agent_id, kind="breach", detail="not the live attempt")
        return
    turn.journal(Noted, job_id=event.job_id, agent_id=event.agent_id, kind="breach", detail=event.reason)
    _violates(turn, event.job_id, job)
    turn.put(entry_name(event.job_id), job)


def _violates(turn: Turn, job_id: str, job: Job) -> None:
    job.violated = True
    trust.lowered(turn, "policy_violation", job_id)


def on_attempt_ended(turn: Turn, event: AttemptEnded) -> None:
    """An attempt without an output: the next one, a person's word, or the end."""
    job = job_of(turn, event.job_id)
    if job is None or job.phase != "granted" or job.grant_id != event.grant_id:
        turn.journal(Noted, job_id=event.job_id, agent_id=event.agent_id, kind="attempt", detail="not the live attempt")
        return
    intent = intent_of(turn, job)
    if event.outcome == "revoked":
        if not revoked(turn, intent, job):
            close(turn, intent, job, "withdrawn", event.detail or "revoked", "worker")
        return
    if event.outcome in ("overran", "exceeded"):
        _violates(turn, event.job_id, job)
        audits.finished(turn, intent, job, "failed")
        close(turn, intent, job, "failed", event.detail or event.outcome, "worker")
        return
    job.lost = job.lost or event.outcome == "lost"
    last = job.attempt >= turn.control.settings.attempts_max
    if event.outcome == "lapsed" and last:
        close(turn, intent, job, "lapsed", f"no worker started it in time, {job.attempt} times", "gate")
    elif event.outcome == "lapsed" or (turn.control.policy.action(intent.topic).retry_safe and not last):
        permit(turn, intent, job)
    else:
        reason = "the worker vanished while it ran: whether it took effect is unknown"
        rule = RuleRef(layer="gate", id="lost-attempt", content_hash="", decision="REQUIRE_APPROVAL", reason=reason)
        request_id = ask_people(
            turn, intent, job, kind="lost_attempt", rules=[rule], reason=reason, ceiling=job.constraints, facts=[]
        )
        turn.journal(Noted, job_id=event.job_id, agent_id=event.agent_id, kind="attempt_lost", detail=request_id)
        save(turn, intent, job)


def on_incident(turn: Turn, event: Incident) -> None:
    """Record an incident that an authorised person or monitor reports, and lower the agent's level."""
    checked = turn.checked()
    code, message = checked.code, checked.message
    if code is None and (checked.principal is None or checked.principal.kind not in ("operator", "monitor")):
        code, message = "wrong_signer", "incidents are signed by a monitor or an operator"
    elif code is None and turn.key != event.agent_id:
        code, message = "misrouted", f"written under key `{turn.key}`; the key of an incident is its agent's id"
    elif code is None and turn.get(f"incident/{event.incident_id}", Job) is not None:
        code, message = "repeated", f"incident `{event.incident_id}` was reported before"
    if code is not None:
        principal = None if checked.principal is None else checked.principal.key_id
        turn.refuse(
            agent_id=event.agent_id,
            subject="incident",
            code=code,
            message=message,
            incident=code in INCIDENT_CODES,
            principal=principal,
            ref=event.incident_id,
        )
        return
    forget_at_ms = turn.at_ms + REMEMBERED_MS  # a replay after that is stale
    turn.put(f"incident/{event.incident_id}", Job(phase="closed", job_hash="", forget_at_ms=forget_at_ms))
    turn.retire(f"incident/{event.incident_id}", forget_at_ms)
    turn.journal(
        Noted, job_id=event.job_id, agent_id=event.agent_id, kind="incident", detail=f"{event.kind}: {event.note}"
    )
    by = None if checked.principal is None else checked.principal.key_id
    trust.lowered(turn, "safety_incident", event.job_id, by)


def on_timer(turn: Turn, event: TimerFired) -> None:
    """A held job's time has come: judge it again, or wait on while the pause lasts."""
    job_id = event.timer_id.removeprefix("hold/")
    job = job_of(turn, job_id)
    if job is None or job.phase != "held" or event.fire_at_ms != job.hold_until_ms:
        turn.journal(Noted, job_id=job_id, agent_id=turn.key, kind="timer", detail="not armed")
        return
    if turn.at_ms < job.hold_until_ms:
        turn.journal(Noted, job_id=job_id, agent_id=turn.key, kind="timer", detail="early")
        turn.arm(timer_name(job_id), job.hold_until_ms)
        return
    intent = intent_of(turn, job)
    if revoked(turn, intent, job):
        return
    scope = paused(turn, intent)
    if scope is not None:
        hold(turn, intent, job, scope)
    elif job.permitted:
        permit(turn, intent, job)
    else:
        judge(turn, intent, job)


def unprocessable(turn: Turn, code: str, message: str) -> None:
    """Tell the agent, where it can be known, that its intent was no intent."""
    checked = turn.checked()
    own = checked.principal is not None and checked.principal.kind == "agent" and checked.principal.id == turn.key
    subject = dict(turn.record.headers).get("ce_subject", b"").decode("utf-8", errors="replace")
    turn.refuse(
        job_id=subject[:CHARS_MAX] if own else "",
        agent_id=turn.key,
        subject="intent" if turn.record.topic == "job.intents" else "input",
        code=code,
        message=message,
        authenticated=own,
        principal=checked.principal.key_id if checked.principal else None,
    )


PLANE: Final = Plane("gate", "job.decisions", GateCard, addressed, handle, unprocessable)
