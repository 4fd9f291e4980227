"""Each event as one plain English sentence. Pure; used by `tail` and by the demo.

What others wrote (ids, reasons, topics) is made visible first, so that no text in the log can steer a terminal.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any, Final, cast

from sluicegate.cli.visible import visible
from sluicegate.schemas import events as ev


def sentence(event: ev.Event) -> str:
    """What happened, in one line without a full stop. Every event class has its own words."""
    return _SENTENCES[type(event)](event)


def _v(text: str | None) -> str:
    return visible(text or "")


def _because(reason: str | None) -> str:
    return f": {_v(reason)}" if reason else ""


def _clock(at_ms: int) -> str:
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).strftime("%H:%M:%S UTC")


def _rules(rules: list[ev.RuleRef]) -> str:
    named = ", ".join([f"{_v(rule.layer)}/{_v(rule.id)}" for rule in rules])
    return f" ({named})" if named else ""


def _under(constraints: str) -> str:
    """` within max_runtime_sec 300`, or nothing."""
    try:
        found = json.loads(constraints)
    except ValueError:
        return f" within `{_v(constraints)}`"
    if not isinstance(found, dict) or not found:
        return ""
    return " within " + ", ".join([f"{_v(name)} {_v(_brief(value))}" for name, value in sorted(found.items())])


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join([str(each) for each in value]) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def _tags(tags: list[str]) -> str:
    return f" [{', '.join([_v(tag) for tag in tags])}]" if tags else ""


def _intent(event: ev.Intent) -> str:
    asked = " and wants a person to approve it" if event.ask is not None else ""
    return (
        f"{_v(event.agent_id)} wants to run {_v(event.topic)}{_tags(event.risk_tags)} as job {_v(event.job_id)}{asked}"
    )


def _withdrawal(event: ev.Withdrawal) -> str:
    return f"{_v(event.agent_id)} withdraws job {_v(event.job_id)}{_because(event.reason)}"


_DECIDED: Final = {
    "ALLOW": "may run",
    "ALLOW_WITH_CONSTRAINTS": "may run",
    "REQUIRE_APPROVAL": "waits for a person",
    "DENY": "is denied",
}


def _decision(event: ev.Decision) -> str:
    observed = ""
    if event.observed is not None:
        would = _rules(event.observed.rules)
        observed = f", and would be {event.observed.decision} were it not only observed{would}"
    elif event.break_glass:
        observed = f", with no person asked under {_v(event.break_glass)}"
    limits = _under(event.constraints) if event.decision != "DENY" else ""
    decided = f"{event.decision}: job {_v(event.job_id)} of {_v(event.agent_id)} {_DECIDED[event.decision]}{limits}"
    return f"{decided}{observed}{_because(event.reason)}{_rules(event.rules)}"


def _granted(event: ev.Granted) -> str:
    terms = f"attempt {event.attempt} in pool {_v(event.pool)}{_under(event.constraints)}"
    return f"the gate grants job {_v(event.job_id)} {terms}, to be started by {_clock(event.start_by_ms)}"


def _repeated(event: ev.Repeated) -> str:
    ended = f", which {_OUTCOMES[event.outcome]}" if event.outcome else ""
    return (
        f"job {_v(event.job_id)} was submitted again: its first answer {event.decision} stands{ended}, no second grant"
    )


def _refused(event: ev.Refused) -> str:
    about = f" of job {_v(event.job_id)}" if event.job_id else ""
    claimed = f", claimed to be from {_v(event.agent_id)}" if event.agent_id and not event.authenticated else ""
    alarm = " (an incident)" if event.incident else ""
    what = _v(event.subject) or "input"
    return f"refused as {_v(event.code)}: the {what}{about}{claimed}: {_v(event.message)}{alarm}"


def _held(event: ev.Held) -> str:
    return (
        f"job {_v(event.job_id)} of {_v(event.agent_id)} is held: {_v(event.scope)} is paused; "
        f"judged again at {_clock(event.until_ms)}"
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
    by = f" by {_v(event.by)}" if event.by else ""
    return f"job {_v(event.job_id)} of {_v(event.agent_id)} {_OUTCOMES[event.outcome]}{by}{_because(event.reason)}"


def _noted(event: ev.Noted) -> str:
    about = f" for job {_v(event.job_id)}" if event.job_id else ""
    return f"noted a {_v(event.kind)}{about}{_because(event.detail)}"


def _grant(event: ev.Grant) -> str:
    terms = f"under {_v(event.topic)}{_under(event.constraints)}"
    return f"pool {_v(event.pool)} gets the grant of job {_v(event.job_id)}, attempt {event.attempt}, {terms}"


def _started(event: ev.Started) -> str:
    return f"worker {_v(event.worker_id)} starts job {_v(event.job_id)}, attempt {event.attempt}"


def _lapsed(event: ev.Lapsed) -> str:
    return (
        f"worker {_v(event.worker_id)} met the grant of job {_v(event.job_id)} after {_clock(event.start_by_ms)}: "
        f"attempt {event.attempt} lapsed, nothing ran"
    )


def _grant_refused(event: ev.GrantRefused) -> str:
    why = f"{_v(event.code)}: {_v(event.message)}"
    return f"worker {_v(event.worker_id)} refuses a grant of job {_v(event.job_id)} as {why}; nothing ran"


def _progressed(event: ev.Progressed) -> str:
    return (
        f"worker {_v(event.worker_id)} still runs job {_v(event.job_id)}, attempt {event.attempt}{_because(event.note)}"
    )


_ENDS: Final = {
    "finished": "finished",
    "failed": "failed in",
    "lapsed": "let lapse",
    "stopped": "stopped",
    "overran": "ended for running too long",
}


def _ended(event: ev.Ended) -> str:
    what = f"job {_v(event.job_id)}, attempt {event.attempt}"
    return f"worker {_v(event.worker_id)} {_ENDS[event.outcome]} {what}{_because(event.detail)}"


_STOPS: Final = {
    "stopped": "has stopped it; what it did outside is not undone",
    "already_finished": "had finished it already",
    "unknown": "cannot say what became of it",
}


def _stop_answered(event: ev.StopAnswered) -> str:
    what = f"job {_v(event.job_id)}, attempt {event.attempt}"
    return f"worker {_v(event.worker_id)} was told to stop {what}, and {_STOPS[event.answer]}{_because(event.detail)}"


def _breached(event: ev.Breached) -> str:
    what = "was kept from breaking" if event.prevented else "broke"
    return (
        f"job {_v(event.job_id)} {what} {_v(event.constraint)}, says worker {_v(event.worker_id)}: {_v(event.detail)}"
    )


def _output(event: ev.Output) -> str:
    how = "returned" if event.succeeded else "failed with"
    return f"worker {_v(event.worker_id)} {how} {event.output_size_bytes} sealed bytes for job {_v(event.job_id)}"


def _attempt_opened(event: ev.AttemptOpened) -> str:
    return f"output review waits for attempt {event.attempt} of job {_v(event.job_id)}"


_ATTEMPTS: Final = {
    "lapsed": "lapsed before it started",
    "lost": "was lost: its worker gave no more sign of life",
    "revoked": "was revoked before it started",
    "overran": "was ended: it ran longer than it was granted",
    "exceeded": "was not begun: its arguments are beyond a constraint",
}


def _attempt_ended(event: ev.AttemptEnded) -> str:
    what = f"attempt {event.attempt} of job {_v(event.job_id)}"
    return f"{what} {_ATTEMPTS[event.outcome]}{_because(event.detail)}"


def _quarantined(event: ev.Quarantined) -> str:
    what = f"the output of job {_v(event.job_id)} of {_v(event.agent_id)}"
    review = f"review says {event.output_safety_decision} (rule {_v(event.rule)})"
    return f"{what} waits for a person until {_clock(event.expires_at_ms)}; {review}{_because(event.reason)}"


def _result(event: ev.Result) -> str:
    ran = "succeeded" if event.succeeded else "failed"
    took = f", {event.original_fields_redacted} fields redacted" if event.original_fields_redacted else ""
    review = f"review says {event.output_safety_decision} (rule {_v(event.rule)}{took})"
    leaves = "goes to the agent" if event.output is not None else "is kept back"
    review += f", {_v(event.by)} says {_v(event.choice)}" if event.choice and event.by else ""
    return f"job {_v(event.job_id)} of {_v(event.agent_id)} {ran}; {review}: its result {leaves}"


def _incident(event: ev.Incident) -> str:
    about = f" in job {_v(event.job_id)}" if event.job_id else ""
    return f"an incident of {_v(event.agent_id)}{about} is reported: {_v(event.kind)}{_because(event.note)}"


def _level_changed(event: ev.LevelChanged) -> str:
    agent, by = _v(event.agent_id), f" by {_v(event.by)}" if event.by else ""
    words = {
        "requested": f"level {event.level} is asked for {agent}, now at {event.level_before}",
        "promoted": f"{agent} rises from level {event.level_before} to {event.level}{by}",
        "demoted": f"{agent} falls from level {event.level_before} to {event.level}{by}",
        "set": f"{agent} is set from level {event.level_before} to {event.level}{by}",
        "anew": f"{agent} begins anew at level {event.level}, from {event.level_before}",
    }
    return f"{words[event.change]}{_because(event.reason)}"


_QUESTIONS: Final = {
    "intent": "whether it may run for",
    "lost_attempt": "after a lost attempt whether it may run again for",
    "break_glass": "to review what ran under break-glass for",
    "level": "to sign off a level of",
    "output": "whether the output may leave of",
}


def _of_job(job_id: str) -> str:
    return f" (job {_v(job_id)})" if job_id else ""


def _approval_request(event: ev.ApprovalRequest) -> str:
    return (
        f"queue {_v(event.queue)} is asked {_QUESTIONS[event.kind]} {_v(event.agent_id)} {_v(event.topic)}"
        f"{_of_job(event.job_id)} until {_clock(event.expires_at_ms)}{_because(event.reason)}"
    )


def _request_withdrawn(event: ev.RequestWithdrawn) -> str:
    return f"{_v(event.origin)} withdraws request {_v(event.request_id)}{_because(event.reason)}"


def _verdict(event: ev.Verdict) -> str:
    who = _v(event.approver_id) or "somebody without a name"
    said = f"{who} says {event.verdict} to request {_v(event.request_id)}"
    return f"{said}{_under(event.constraints)}{_because(event.reason)}"


def _viewed(event: ev.Viewed) -> str:
    return f"{_v(event.approver_id)} asks to see what request {_v(event.request_id)} keeps masked"


_ASKED: Final = {
    "intent": "job",
    "lost_attempt": "the lost attempt of job",
    "break_glass": "the break-glass run of job",
    "output": "the held output of job",
}


def _asked_about(event: ev.RequestOpened | ev.Resolution) -> str:
    if event.kind == "level":
        return f"a level of {_v(event.agent_id)}"
    return f"{_ASKED[event.kind]} {_v(event.job_id)}"


def _request_opened(event: ev.RequestOpened) -> str:
    return (
        f"the desk opens request {_v(event.request_id)} in queue {_v(event.queue)} for {_asked_about(event)}, "
        f"open until {_clock(event.expires_at_ms)}"
    )


def _verdict_accepted(event: ev.VerdictAccepted) -> str:
    said = f"the verdict {event.verdict} of {_v(event.approver_id)}"
    return f"the desk counts {said} on job {_v(event.job_id)}{_because(event.reason)}"


def _view_accepted(event: ev.ViewAccepted) -> str:
    return f"{_v(event.approver_id)} may see what is masked of job {_v(event.job_id)}"


def _resolved(event: ev.Resolved) -> str:
    by = f" by {_v(event.by)}" if event.by else ""
    about = f"for job {_v(event.job_id)} of" if event.job_id else "about"
    return f"the request {about} {_v(event.agent_id)} is {event.outcome}{by}"


def _resolution(event: ev.Resolution) -> str:
    people = ", ".join([_v(verdict.approver_id) for verdict in event.verdicts])
    by = f" by {people}" if people else ""
    limits = _under(event.constraints) if event.outcome == "approved" else ""
    asked = f"the request for {_asked_about(event)}"
    return f"{_v(event.origin)} is told: {asked} was {event.outcome}{by}{limits}"


def _timer_request(event: ev.TimerRequest) -> str:
    return f"{_v(event.owner)} asks to be woken at {_clock(event.fire_at_ms)} for {_v(event.timer_id)}"


def _timer_fired(event: ev.TimerFired) -> str:
    return f"time is up: {_v(event.timer_id)} of {_v(event.owner)}, set for {_clock(event.fire_at_ms)}"


def _acknowledged(event: ev.Acknowledged) -> str:
    now = f", policy {_v(event.policy_snapshot)} is active there" if event.policy_snapshot else ""
    what = "snapshot" if event.topic == "policy.snapshots" else "command"
    if event.accepted:
        verb = "knows" if what == "snapshot" else "obeys"
        if event.code == "awaiting_sign_off":
            now, verb = f"{now}, people must agree before it changes", "has taken down"
        return f"gate {_v(event.instance)} {verb} {what} {_v(event.command_id)}{now}"
    return f"gate {_v(event.instance)} refuses {what} {_v(event.command_id)} as {_v(event.code)}"


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
        before = f" in place of {_v(event.previous)}" if event.previous else ""
        changes = f" ({'; '.join([_v(line) for line in event.difference])})" if event.difference else ""
        return f"{_v(event.by)} activates policy {_v(event.policy_snapshot)}{before}{_because(event.reason)}{changes}"
    if event.kind == "set_level":
        return f"{_v(event.by)} sets {_v(event.scope)} to level {event.level}{_because(event.reason)}"
    if event.kind == "sign_off":
        return f"{_v(event.by)} agrees to activate policy {_v(event.policy_snapshot)}{_because(event.reason)}"
    until = f" until {_clock(event.until_ms)}" if event.until_ms else ""
    return f"{_v(event.by)} {_COMMANDS[event.kind]} {_v(event.scope)}{until}{_because(event.reason)}"


def _snapshot_published(event: ev.SnapshotPublished) -> str:
    commit = f" from commit {_v(event.git_commit)[:12]}" if event.git_commit else ""
    dirty = " with uncommitted changes" if event.git_dirty else ""
    return f"{_v(event.publisher)} publishes policy {_v(event.name)}{commit}{dirty}"


def _dead_letter(event: ev.DeadLetter) -> str:
    place = f"{_v(event.cause.topic)}/{event.cause.partition}/{event.cause.offset}"
    return f"{_v(event.application)} could not process {place} ({_v(event.reason)}): {_v(event.message)}"


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
        ev.ApprovalRequest: _approval_request,
        ev.RequestWithdrawn: _request_withdrawn,
        ev.Verdict: _verdict,
        ev.Viewed: _viewed,
        ev.RequestOpened: _request_opened,
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
