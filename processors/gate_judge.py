"""Judgement at the gate: from an intent that may be judged to a decision, and from a decision to a grant or a request.

Pure. What stands before what: a revocation before everything, then a pause, then policy; break-glass spares a job the
wait for people, never a denial, and people review it afterwards.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sluicegate.policies.constraints import ConstraintError
from sluicegate.policies.evaluate import Judgement
from sluicegate.processors import audits, trust
from sluicegate.processors.control_recall import ERASED, PAYLOAD_ERASED
from sluicegate.processors.gate_facts import compute, payload_of
from sluicegate.processors.gate_state import (
    Job,
    ask_people,
    ask_review,
    canonical,
    close,
    decide,
    grant,
    hold,
    judged_tags,
    save,
    shut,
)
from sluicegate.processors.plane import Turn
from sluicegate.schemas.errors import InvariantBroken, KeyErased
from sluicegate.schemas.events import Intent, RuleRef
from sluicegate.schemas.ids import derived_id
from sluicegate.streams.control_scopes import Glass

NO_ROOM: Final = "open_requests_max"
"""The scope of what is held since the agent has as many open requests as it may."""
UNPARSED: Final = object()
"""Says that the payload is still to be parsed."""


def paused(turn: Turn, intent: Intent) -> str | None:
    """The first paused scope that covers a job, or None."""
    return turn.control.state.paused(intent.agent_id, intent.topic, judged_tags(turn, intent), intent.job_id)


def revoked(turn: Turn, intent: Intent, job: Job) -> bool:
    """Whether a command since then has taken back what this job was or might have been permitted; it is over then."""
    tags = {*job.tags, *judged_tags(turn, intent)}
    found = turn.control.state.revoked(job.since, intent.agent_id, intent.topic, tags, intent.job_id)
    if found is None:
        return False
    close(turn, intent, job, "withdrawn", f"revoked: {found.reason}" if found.reason else "revoked", found.by)
    return True


def intent_of(turn: Turn, job: Job) -> Intent:
    """The intent that a job's entry keeps. Raises InvariantBroken where it holds none."""
    intent = turn.codec.decode(job.intent)
    if not isinstance(intent, Intent):
        raise InvariantBroken("a job's entry holds no intent; stop and run `sluicegate verify`")
    return intent


def judge(turn: Turn, intent: Intent, job: Job, again_after: str | None = None, payload: Any = UNPARSED) -> None:
    """Judge by the active policy, and act on it. ``again_after`` names the request that was approved before.

    Whatever permitted the job before permits it no longer: from here on only this judgement does.
    """
    job.permitted, job.glass_until_ms = False, 0
    try:
        computed = compute(turn, intent, job, payload_of(turn, intent) if payload is UNPARSED else payload)
    except KeyErased:
        close_erased(turn, intent, job)
        return
    job.tags, job.domain = list(computed.subject.risk_tags), trust.counted_in(turn, intent.topic)
    no_room = job.phase == "held" and turn.card.open_requests >= turn.control.settings.open_requests_max
    if no_room and turn.control.recalled is not None and turn.control.recalled.waited():
        hold(turn, intent, job, NO_ROOM)
        return
    judgement, rules = with_ask(intent, turn.control.policy.judge(computed.subject))
    judgement, rules = _under_ceiling(turn, job, judgement, rules)
    audits.include(turn, job, intent.topic, computed, rules)
    open_rules = [rule for rule in rules if (rule.layer, rule.id, rule.content_hash) not in job.satisfied]
    request_id: str | None = None
    glass: Glass | None = None
    if judgement.decision == "REQUIRE_APPROVAL" and open_rules:
        glass = None if job.found_wrong else _glass(turn, intent)
        if glass is None and no_room:
            hold(turn, intent, job, NO_ROOM)  # a pause is no way past the limit: it waits for room
            return
        if glass is None:
            request_id = ask_people(
                turn,
                intent,
                job,
                kind="intent",
                rules=open_rules,
                reason=judgement.reason,
                ceiling=canonical(judgement.constraints),
                facts=computed.facts,
            )
    decision = decide(
        turn,
        intent,
        job,
        judgement,
        facts=computed.facts,
        features=computed.features,
        level=computed.level,
        rules=rules,
        request_id=request_id,
        again_after=again_after,
        glass=glass,
    )
    job.decision, job.decision_seq = decision.decision, decision.seq
    job.digest = turn.control.policy.snapshot_digest
    if judgement.decision == "DENY" and trust.violated(rules):
        trust.lowered(turn, "policy_violation", intent.job_id)
    if judgement.decision == "DENY" and job.lost:
        close(turn, intent, job, "denied", judgement.reason, "policy")
        return
    if judgement.decision == "DENY":
        shut(turn, intent, job, "denied")
    elif request_id is None:
        job.constraints = canonical(judgement.constraints)
        job.permitted = True
        if glass is not None:
            job.glass_until_ms = glass.until_ms
            audits.approved(job, glass.by)
            ask_review(turn, intent, job, glass, open_rules, computed.facts)
        grant(turn, intent, job)
    save(turn, intent, job)


def _under_ceiling(turn: Turn, job: Job, judgement: Judgement, rules: list[RuleRef]) -> tuple[Judgement, list[RuleRef]]:
    """The judgement with what bound the job before, too; people decide anew where the two cannot be merged.

    That is so when another bundle gives a constraint another type: what was agreed to has no meaning any more.
    """
    policy = turn.control.policy
    try:
        ceiling = policy.merge_constraints(judgement.constraints, msgspec.json.decode(job.constraints))
    except (ConstraintError, TypeError) as problem:
        job.satisfied, job.constraints = [], "{}"
        if judgement.decision == "DENY":
            return judgement, rules
        said = f"constraints agreed to before cannot be merged with the policy's: {type(problem).__name__}"
        rule = RuleRef(
            layer="gate", id="constraints-changed", content_hash="", decision="REQUIRE_APPROVAL", reason=said
        )
        held = [each for each in rules if each.decision == "REQUIRE_APPROVAL"]
        return msgspec.structs.replace(judgement, decision="REQUIRE_APPROVAL", reason=said), [*held, rule]
    return msgspec.structs.replace(judgement, constraints=ceiling), rules


def permit(turn: Turn, intent: Intent, job: Job) -> None:
    """Grant the next attempt of a permitted job, unless a revocation, a pause or another policy stands before it.

    What ran under break-glass is judged again once that is over: its next attempt is no part of it.
    """
    if revoked(turn, intent, job):
        return
    scope = paused(turn, intent)
    glass_over = 0 < job.glass_until_ms <= turn.at_ms
    if scope is not None:
        hold(turn, intent, job, scope)
    elif glass_over or job.digest != turn.control.policy.snapshot_digest:
        judge(turn, intent, job, again_after=job.request_id)
    elif _readable(turn, intent):
        grant(turn, intent, job)
        save(turn, intent, job)
    else:
        close_erased(turn, intent, job)


def _readable(turn: Turn, intent: Intent) -> bool:
    """Whether a worker could open the payload: what nobody can read is granted to nobody."""
    try:
        payload_of(turn, intent)
    except KeyErased:
        return False
    return True


def close_erased(turn: Turn, intent: Intent, job: Job) -> None:
    """End a job whose payload nobody can open any more."""
    close(turn, intent, job, "withdrawn", f"{PAYLOAD_ERASED}: {ERASED}", "gate")


def with_ask(intent: Intent, judgement: Judgement) -> tuple[Judgement, list[RuleRef]]:
    """The judgement and its rules, with the approval that the submitter itself wants as one more rule."""
    rules = list(judgement.rules)
    if intent.ask is None or judgement.decision == "DENY":
        return judgement, rules
    content_hash = derived_id("ask", intent.ask.reason).removeprefix("ask-")
    asked = RuleRef(
        layer="ask", id="ask", content_hash=content_hash, decision="REQUIRE_APPROVAL", reason=intent.ask.reason
    )
    if judgement.decision == "REQUIRE_APPROVAL":
        return judgement, [*rules, asked]
    return msgspec.structs.replace(judgement, decision="REQUIRE_APPROVAL", reason=intent.ask.reason), [asked]


def _glass(turn: Turn, intent: Intent) -> Glass | None:
    """The break-glass that covers a job by what the platform team says of its topic, not by what its agent adds."""
    own = turn.control.policy.action(intent.topic).risk_tags
    job = (intent.agent_id, intent.topic, judged_tags(turn, intent), intent.job_id)
    return turn.control.state.glass(turn.at_ms, *job, action_tags=own)
