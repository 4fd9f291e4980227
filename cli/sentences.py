"""Each event as one plain English sentence. Pure; used by `tail` and by the demo.

What others wrote (ids, reasons, topics) is made visible first, so that no text in the log can steer a terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from sluicegate.cli.phrases import because, clock, rules, tags, under, v
from sluicegate.schemas import events as ev


def sentence(event: ev.Event) -> str:
    """What happened, in one line without a full stop. Every event class has its own words."""
    return _SENTENCES[type(event)](event)


def _intent(event: ev.Intent) -> str:
    asked = " and wants a person to approve it" if event.ask is not None else ""
    return f"{v(event.agent_id)} wants to run {v(event.topic)}{tags(event.risk_tags)} as job {v(event.job_id)}{asked}"


def _withdrawal(event: ev.Withdrawal) -> str:
    return f"{v(event.agent_id)} withdraws job {v(event.job_id)}{because(event.reason)}"


_DECIDED: Final = {
    "ALLOW": "may run",
    "ALLOW_WITH_CONSTRAINTS": "may run",
    "REQUIRE_APPROVAL": "waits for a person",
    "DENY": "is denied",
}


def _decision(event: ev.Decision) -> str:
    observed = ""
    if event.observed is not None:
        would = rules(event.observed.rules)
        observed = f", and would be {event.observed.decision} were it not only observed{would}"
    elif event.break_glass:
        observed = f", with no person asked under {v(event.break_glass)}"
    limits = under(event.constraints) if event.decision != "DENY" else ""
    decided = f"{event.decision}: job {v(event.job_id)} of {v(event.agent_id)} {_DECIDED[event.decision]}{limits}"
    return f"{decided}{observed}{because(event.reason)}{rules(event.rules)}"


def _granted(event: ev.Granted) -> str:
    terms = f"attempt {event.attempt} in pool {v(event.pool)}{under(event.constraints)}"
    return f"the gate grants job {v(event.job_id)} {terms}, to be started by {clock(event.start_by_ms)}"


def _repeated(event: ev.Repeated) -> str:
    ended = f", which {_OUTCOMES[event.outcome]}" if event.outcome else ""
    return (
        f"job {v(event.job_id)} was submitted again: its first answer {event.decision} stands{ended}, no second grant"
    )


def _refused(event: ev.Refused) -> str:
    about = f" of job {v(event.job_id)}" if event.job_id else ""
    claimed = f", claimed to be from {v(event.agent_id)}" if event.agent_id and not event.authenticated else ""
    alarm = " (an incident)" if event.incident else ""
    what = v(event.subject) or "input"
    return f"refused as {v(event.code)}: the {what}{about}{claimed}: {v(event.message)}{alarm}"


def _held(event: ev.Held) -> str:
    return (
        f"job {v(event.job_id)} of {v(event.agent_id)} is held: {v(event.scope)} is paused; "
        f"judged again at {clock(event.until_ms)}"
    )


_OUTCOMES: Final = {
    "succeeded": "succeeded",
    "failed": "failed",
    "denied": "was denied",
    "expired": "expired undecided",
    "withdrawn": "was withdrawn",
    "lapsed": "lapsed: no worker took it in time",
    "unknown": "has an unknown end",
}


def _closed(event: ev.Closed) -> str:
    by = f" by {v(event.by)}" if event.by else ""
    return f"job {v(event.job_id)} of {v(event.agent_id)} {_OUTCOMES[event.outcome]}{by}{because(event.reason)}"


def _noted(event: ev.Noted) -> str:
    about = f" for job {v(event.job_id)}" if event.job_id else ""
    return f"noted a {v(event.kind)}{about}{because(event.detail)}"


def _grant(event: ev.Grant) -> str:
    terms = f"under {v(event.topic)}{under(event.constraints)}"
    return f"pool {v(event.pool)} gets the grant of job {v(event.job_id)}, attempt {event.attempt}, {terms}"


def _started(event: ev.Started) -> str:
    return f"worker {v(event.worker_id)} starts job {v(event.job_id)}, attempt {event.attempt}"


def _lapsed(event: ev.Lapsed) -> str:
    return (
        f"worker {v(event.worker_id)} met the grant of job {v(event.job_id)} after {clock(event.start_by_ms)}: "
        f"attempt {event.attempt} lapsed, nothing ran"
    )


def _grant_refused(event: ev.GrantRefused) -> str:
    why = f"{v(event.code)}: {v(event.message)}"
    return f"worker {v(event.worker_id)} refuses a grant of job {v(event.job_id)} as {why}; nothing ran"


def _progressed(event: ev.Progressed) -> str:
    return f"worker {v(event.worker_id)} still runs job {v(event.job_id)}, attempt {event.attempt}{because(event.note)}"


_ENDS: Final = {
    "finished": "finished",
    "failed": "failed in",
    "lapsed": "let lapse",
    "stopped": "stopped",
    "overran": "ended for running too long",
}


def _ended(event: ev.Ended) -> str:
    what = f"job {v(event.job_id)}, attempt {event.attempt}"
    return f"worker {v(event.worker_id)} {_ENDS[event.outcome]} {what}{because(event.detail)}"


_STOPS: Final = {
    "stopped": "has stopped it; what it did outside is not undone",
    "already_finished": "had finished it already",
    "unknown": "cannot say what became of it",
}


def _stop_answered(event: ev.StopAnswered) -> str:
    what = f"job {v(event.job_id)}, attempt {event.attempt}"
    return f"worker {v(event.worker_id)} was told to stop {what}, and {_STOPS[event.answer]}{because(event.detail)}"


def _breached(event: ev.Breached) -> str:
    what = "was kept from breaking" if event.prevented else "broke"
    return f"job {v(event.job_id)} {what} {v(event.constraint)}, says worker {v(event.worker_id)}: {v(event.detail)}"


def _output(event: ev.Output) -> str:
    how = "returned" if event.succeeded else "failed with"
    return f"worker {v(event.worker_id)} {how} {event.output_size_bytes} sealed bytes for job {v(event.job_id)}"


def _attempt_opened(event: ev.AttemptOpened) -> str:
    return f"output review waits for attempt {event.attempt} of job {v(event.job_id)}"


_ATTEMPTS: Final = {
    "lapsed": "lapsed before it started",
    "lost": "was lost: its worker gave no more sign of life",
    "revoked": "was revoked before it started",
    "overran": "was ended: it ran longer than it was granted",
    "exceeded": "was not begun: its arguments are beyond a constraint",
}


def _attempt_ended(event: ev.AttemptEnded) -> str:
    what = f"attempt {event.attempt} of job {v(event.job_id)}"
    return f"{what} {_ATTEMPTS[event.outcome]}{because(event.detail)}"


def _quarantined(event: ev.Quarantined) -> str:
    what = f"the output of job {v(event.job_id)} of {v(event.agent_id)}"
    review = f"review says {event.output_safety_decision} (rule {v(event.rule)})"
    return f"{what} waits for a person until {clock(event.expires_at_ms)}; {review}{because(event.reason)}"


def _result(event: ev.Result) -> str:
    ran = "succeeded" if event.succeeded else "failed"
    took = f", {event.original_fields_redacted} fields redacted" if event.original_fields_redacted else ""
    review = f"review says {event.output_safety_decision} (rule {v(event.rule)}{took})"
    leaves = "goes to the agent" if event.output is not None else "is kept back"
    review += f", {v(event.by)} says {v(event.choice)}" if event.choice and event.by else ""
    return f"job {v(event.job_id)} of {v(event.agent_id)} {ran}; {review}: its result {leaves}"


def _incident(event: ev.Incident) -> str:
    about = f" in job {v(event.job_id)}" if event.job_id else ""
    return f"an incident of {v(event.agent_id)}{about} is reported: {v(event.kind)}{because(event.note)}"


def _level_changed(event: ev.LevelChanged) -> str:
    agent, by = v(event.agent_id), f" by {v(event.by)}" if event.by else ""
    by = f"{by} in domain {v(event.domain)}" if event.domain else by
    words = {
        "requested": f"level {event.level} is asked for {agent}, now at {event.level_before}{by}",
        "promoted": f"{agent} rises from level {event.level_before} to {event.level}{by}",
        "demoted": f"{agent} falls from level {event.level_before} to {event.level}{by}",
        "set": f"{agent} is set from level {event.level_before} to {event.level}{by}",
        "anew": f"{agent} begins anew at level {event.level}, from {event.level_before}{by}",
    }
    return f"{words[event.change]}{because(event.reason)}"


def _audit_drawn(event: ev.AuditDrawn) -> str:
    after = f" after {event.decision}" if event.decision else ""
    job = f"job {v(event.job_id)} of {v(event.agent_id)}, which {_OUTCOMES[event.outcome]}{after},"
    how = "since a rule asks for it" if event.mandatory else f"with probability {v(event.probability)}"
    if not event.drawn:
        return f"{job} is not looked at; it could have been {how} (stratum {v(event.stratum)})"
    without = ", since no key of an epoch was usable" if not event.epoch else ""
    return f"{job} is looked at by queue {v(event.queue)}, drawn {how} (stratum {v(event.stratum)}){without}"


def _error(event: ev.Finding | ev.Verdict | ev.VerdictAccepted | ev.Resolution) -> str:
    return f" ({v(event.error_class)}, {event.severity})" if event.error_class and event.severity else ""


def _finding(event: ev.Finding) -> str:
    said = f"{v(event.by)} finds job {v(event.job_id)} of {v(event.agent_id)} {event.finding}"
    return f"{said}{_error(event)}{because(event.note)}"


_QUESTIONS: Final = {
    "intent": "whether it may run for",
    "lost_attempt": "after a lost attempt whether it may run again for",
    "break_glass": "to review what ran under break-glass for",
    "level": "to sign off a level of",
    "output": "whether the output may leave of",
    "audit": "what is to be said of a finished job of",
}


def _of_job(job_id: str) -> str:
    return f" (job {v(job_id)})" if job_id else ""


def _approval_request(event: ev.ApprovalRequest) -> str:
    return (
        f"queue {v(event.queue)} is asked {_QUESTIONS[event.kind]} {v(event.agent_id)} {v(event.topic)}"
        f"{_of_job(event.job_id)} until {clock(event.expires_at_ms)}{because(event.reason)}"
    )


def _request_withdrawn(event: ev.RequestWithdrawn) -> str:
    return f"{v(event.origin)} withdraws request {v(event.request_id)}{because(event.reason)}"


def _verdict(event: ev.Verdict) -> str:
    who = v(event.approver_id) or "somebody without a name"
    said = f"{who} says {event.verdict} to request {v(event.request_id)}"
    return f"{said}{_error(event)}{under(event.constraints)}{because(event.reason)}"


def _viewed(event: ev.Viewed) -> str:
    return f"{v(event.approver_id)} asks to see what request {v(event.request_id)} keeps masked"


_ASKED: Final = {
    "intent": "job",
    "lost_attempt": "the lost attempt of job",
    "break_glass": "the break-glass run of job",
    "output": "the held output of job",
    "audit": "the audit of job",
}


def _asked_about(event: ev.RequestOpened | ev.RequestEscalated | ev.Resolution) -> str:
    if event.kind == "level":
        return f"a level of {v(event.agent_id)}"
    return f"{_ASKED[event.kind]} {v(event.job_id)}"


def _request_opened(event: ev.RequestOpened) -> str:
    return (
        f"the desk opens request {v(event.request_id)} in queue {v(event.queue)} for {_asked_about(event)}, "
        f"open until {clock(event.expires_at_ms)}"
    )


def _request_escalated(event: ev.RequestEscalated) -> str:
    about = f"the request for {_asked_about(event)}"
    what = f"{about}, overdue in queue {v(event.queue_before)}"
    return f"{what}, goes to queue {v(event.queue)} until {clock(event.expires_at_ms)} (overdue {event.number} times)"


def _verdict_accepted(event: ev.VerdictAccepted) -> str:
    said = f"the verdict {event.verdict} of {v(event.approver_id)}"
    return f"the desk counts {said}{_error(event)} on job {v(event.job_id)}{because(event.reason)}"


def _view_accepted(event: ev.ViewAccepted) -> str:
    return f"{v(event.approver_id)} may see what is masked of job {v(event.job_id)}"


def _resolved(event: ev.Resolved) -> str:
    by = f" by {v(event.by)}" if event.by else ""
    about = f"for job {v(event.job_id)} of" if event.job_id else "about"
    return f"the request {about} {v(event.agent_id)} is {event.outcome}{by}"


def _resolution(event: ev.Resolution) -> str:
    people = ", ".join([v(verdict.approver_id) for verdict in event.verdicts])
    by = f" by {people}" if people else ""
    limits = under(event.constraints) if event.outcome == "approved" else ""
    asked = f"the request for {_asked_about(event)}"
    return f"{v(event.origin)} is told: {asked} was {event.outcome}{_error(event)}{by}{limits}"


def _timer_request(event: ev.TimerRequest) -> str:
    return f"{v(event.owner)} asks to be woken at {clock(event.fire_at_ms)} for {v(event.timer_id)}"


def _timer_fired(event: ev.TimerFired) -> str:
    return f"time is up: {v(event.timer_id)} of {v(event.owner)}, set for {clock(event.fire_at_ms)}"


def _acknowledged(event: ev.Acknowledged) -> str:
    now = f", policy {v(event.policy_snapshot)} is active there" if event.policy_snapshot else ""
    what = "snapshot" if event.topic == "policy.snapshots" else "command"
    if event.accepted:
        verb = "knows" if what == "snapshot" else "obeys"
        if event.code == "awaiting_sign_off":
            now, verb = f"{now}, people must agree before it changes", "has taken down"
        return f"gate {v(event.instance)} {verb} {what} {v(event.command_id)}{now}"
    return f"gate {v(event.instance)} refuses {what} {v(event.command_id)} as {v(event.code)}"


_COMMANDS: Final = {
    "pause": "pauses",
    "resume": "resumes",
    "stop": "stops",
    "revoke": "revokes every grant of",
    "break_glass": "breaks the glass for",
    "erase": "erases the keys of",
}


def _command(event: ev.Command) -> str:
    if event.kind == "activate":
        before = f" in place of {v(event.previous)}" if event.previous else ""
        changes = f" ({'; '.join([v(line) for line in event.difference])})" if event.difference else ""
        return f"{v(event.by)} activates policy {v(event.policy_snapshot)}{before}{because(event.reason)}{changes}"
    if event.kind == "set_level":
        where = f" in domain {v(event.domain)}" if event.domain else ""
        return f"{v(event.by)} sets {v(event.scope)} to level {event.level}{where}{because(event.reason)}"
    if event.kind == "epoch":
        return f"{v(event.by)} begins epoch {event.epoch} of sampled audit, committed to its key"
    if event.kind == "reveal":
        return f"{v(event.by)} tells the key of epoch {event.epoch} of sampled audit: its draws can be checked"
    if event.kind == "sign_off":
        return f"{v(event.by)} agrees to activate policy {v(event.policy_snapshot)}{because(event.reason)}"
    until = f" until {clock(event.until_ms)}" if event.until_ms else ""
    return f"{v(event.by)} {_COMMANDS[event.kind]} {v(event.scope)}{until}{because(event.reason)}"


def _snapshot_published(event: ev.SnapshotPublished) -> str:
    commit = f" from commit {v(event.git_commit)[:12]}" if event.git_commit else ""
    dirty = " with uncommitted changes" if event.git_dirty else ""
    return f"{v(event.publisher)} publishes policy {v(event.name)}{commit}{dirty}"


def _dead_letter(event: ev.DeadLetter) -> str:
    place = f"{v(event.cause.topic)}/{event.cause.partition}/{event.cause.offset}"
    return f"{v(event.application)} could not process {place} ({v(event.reason)}): {v(event.message)}"


_SENTENCES: Final = cast(
    dict[type[ev.Event], Callable[[Any], str]],
    {
        ev.Intent: _intent,
        ev.Withdrawal: _withdrawal,
        ev.Decision: _decision,
        ev.Granted: _granted,
        ev.Repeated: _repeated,
        ev.Refused: _refused,
        ev.Held: _held,
        ev.Closed: _closed,
        ev.Noted: _noted,
        ev.Acknowledged: _acknowledged,
        ev.Grant: _grant,
        ev.Started: _started,
        ev.Lapsed: _lapsed,
        ev.GrantRefused: _grant_refused,
        ev.Progressed: _progressed,
        ev.Ended: _ended,
        ev.StopAnswered: _stop_answered,
        ev.Breached: _breached,
        ev.Output: _output,
        ev.AttemptOpened: _attempt_opened,
        ev.AttemptEnded: _attempt_ended,
        ev.Quarantined: _quarantined,
        ev.Result: _result,
        ev.Incident: _incident,
        ev.LevelChanged: _level_changed,
        ev.AuditDrawn: _audit_drawn,
        ev.Finding: _finding,
        ev.ApprovalRequest: _approval_request,
        ev.RequestWithdrawn: _request_withdrawn,
        ev.Verdict: _verdict,
        ev.Viewed: _viewed,
        ev.RequestOpened: _request_opened,
        ev.RequestEscalated: _request_escalated,
        ev.VerdictAccepted: _verdict_accepted,
        ev.ViewAccepted: _view_accepted,
        ev.Resolved: _resolved,
        ev.Resolution: _resolution,
        ev.TimerRequest: _timer_request,
        ev.TimerFired: _timer_fired,
        ev.Command: _command,
        ev.SnapshotPublished: _snapshot_published,
        ev.DeadLetter: _dead_letter,
    },
)
