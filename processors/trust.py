"""Trust, the gate's other half: what an agent's work says of its level, in the same state and the same order. Pure.

A level that falls falls in the transaction of its cause, so the agent's next intent is judged lower. What is counted,
and when a level moves, is `policies.autonomy`; here are the events of the gate that it is counted from, the request in
which a person signs a promotion off, and the journal of all that, `agent.autonomy`. A person's `set_level` and a new
version of the agent are no inputs of its key: they are noticed at its next input.
"""

from __future__ import annotations

import json
from typing import Final

import msgspec

from sluicegate.policies.autonomy import Change, Happened, Job, Score, Word, move
from sluicegate.processors.plane import DEFAULT_DESK, DEFAULT_QUEUE, JUDGE, Turn, said_by
from sluicegate.schemas.events import (
    ApprovalRequest,
    Finding,
    FindingWord,
    LevelChanged,
    LevelWord,
    Noted,
    RequestWithdrawn,
    Resolution,
    RuleRef,
)
from sluicegate.schemas.ids import derived_id
from sluicegate.schemas.payload import SALT_BYTES, job_hash, seal

ENTRY: Final = "trust"
ERRORS_FOUND_MAX: Final = 10
"""Errors found that the case for a promotion tells one by one, the last ones."""
SIGN_OFF_SEC: Final = 24 * 3600
"""Within what time a person signs a promotion off; afterwards it counts as refused."""
TOPIC: Final = "agent.autonomy"
_FOUND: Final[dict[FindingWord, Word]] = {
    "correct": "found_correct",
    "wrong": "found_wrong",
    "harmful": "found_harmful",
}
OWN_LAYERS: Final = frozenset({"default", "actions", "mode", "ask", "gate"})
"""Layers of the gate itself: a denial by one of them alone violates no rule of a policy."""


class Found(msgspec.Struct, array_like=True):
    """One finding, as the case for a promotion tells it."""

    at_ms: int
    job_id: str
    finding: str
    error_class: str | None
    severity: str | None


class Standing(msgspec.Struct):
    """What is read of an agent's trust to tell its level, which every intent asks for."""

    level: int = 0
    version: str = ""
    set_offset: int = -1


class Trust(Score, kw_only=True):
    """What is remembered of one agent: its score, and what was said of it to whom."""

    found: dict[str, int] = msgspec.field(default_factory=dict)
    """How many jobs were found what, in audits, at this level."""
    errors_found: list[Found] = msgspec.field(default_factory=list)
    """The last errors among them."""

    version: str = ""
    set_offset: int = -1
    """The last command of a person that was taken up."""
    request_id: str | None = None


def level(turn: Turn, topic: str) -> int | None:
    """The level of the agent whose key this is, for a topic, now; None without an autonomy document."""
    policy = turn.control.policy
    if policy.autonomy is None:
        return None
    domain = policy.domain(topic)
    standing = turn.get(_entry(domain), Standing)
    if standing is not None and not _news(turn, standing, domain):
        return standing.level
    found = _trust(turn, domain)
    return None if found is None else found.level


def lowered(turn: Turn, word: Word, job_id: str | None, by: str | None = None) -> None:
    """Take up a violation or an incident, which costs the level in every domain."""
    terms = turn.control.policy.autonomy
    for domain in () if terms is None else terms.domains:
        happened(turn, word, None, domain, job_id, by)


def counted_in(turn: Turn, topic: str) -> str | None:
    """The domain in which a job of this topic counts; None where it counts for nothing."""
    terms = turn.control.policy.autonomy
    return None if terms is None or not terms.counts(topic) else terms.domain(topic)


def happened(
    turn: Turn, word: Word, job: Job | None, domain: str | None, job_id: str | None, by: str | None = None
) -> None:
    """Take up what happened to the agent, or to a job of it, in a domain; one that is gone is that of no topic."""
    if domain is None:
        return
    domain = _known(turn, domain)
    trust = _trust(turn, domain)
    if trust is not None:
        _weigh(turn, trust, domain, word, job, job_id, by)


def _weigh(
    turn: Turn, trust: Trust, domain: str, word: Word, job: Job | None, job_id: str | None, by: str | None
) -> None:
    """Count it, do what follows from the counts, and write the trust."""
    terms = turn.control.policy.autonomy
    changes = [] if terms is None else terms.weigh(trust, Happened(turn.at_ms * 1_000, word), job, terms.grain)
    for change in changes:
        _changed(turn, trust, domain, change, job_id=job_id, by=by)
    turn.put(_entry(domain), trust)


def standing(turn: Turn, domain: str | None) -> tuple[int, str]:
    """How often the agent's level in a domain has moved, and the agent's version."""
    trust = None if domain is None else _trust(turn, _known(turn, domain))
    return (0, "") if trust is None else (trust.moves, trust.version)


def on_finding(turn: Turn, domain: str | None, finding: Finding, job: Job, stood: tuple[int, str]) -> None:
    """Take up what an audit found of a job that ended when the agent ``stood`` so (`standing`).

    It is kept for who signs a promotion off, and counted. Of another version it says nothing of this one, which is
    another agent; and that a job was right at another level is no evidence at this one, while an error always counts.
    """
    if domain is None:
        return
    moves, version = stood
    domain = _known(turn, domain)
    trust = _trust(turn, domain)
    if trust is None or trust.version != version:
        return
    trust.found[finding.finding] = trust.found.get(finding.finding, 0) + 1
    if finding.finding != "correct":
        said = Found(turn.at_ms, finding.job_id, finding.finding, finding.error_class, finding.severity)
        trust.errors_found = [*trust.errors_found, said][-ERRORS_FOUND_MAX:]
    if finding.finding != "correct" or trust.moves == moves:
        _weigh(turn, trust, domain, _FOUND[finding.finding], job, finding.job_id, finding.by)
    else:
        turn.put(_entry(domain), trust)


def violated(rules: list[RuleRef]) -> bool:
    """Whether a denial is one by a rule that somebody wrote."""
    return any(rule.decision == "DENY" and rule.layer not in OWN_LAYERS for rule in rules)


def on_sign_off(turn: Turn, event: Resolution) -> None:
    """A person's word on a promotion, if it is still asked for."""
    terms = turn.control.policy.autonomy
    found = [(domain, _trust(turn, domain)) for domain in (() if terms is None else terms.domains)]
    asked = [(domain, trust) for domain, trust in found if trust is not None and trust.request_id == event.request_id]
    if not asked:
        _note(turn, "not the open request")
        return
    domain, trust = asked[0]
    trust.request_id = None
    before = turn.card.level_changes
    by = said_by(event)
    if event.outcome == "withdrawn":
        turn.put(_entry(domain), trust)
        _note(turn, "withdrawn")
    elif event.outcome == "approved":
        _weigh(turn, trust, domain, "signed_off", None, None, by)
        _note(turn, "signed off" if turn.card.level_changes > before else "signed off, and no longer earned")
    else:
        _weigh(turn, trust, domain, "sign_off_refused", None, None, by)
        _note(turn, "refused" if event.outcome == "denied" else "nobody signed it off in time")


def _note(turn: Turn, detail: str) -> None:
    turn.journal(Noted, job_id=None, agent_id=turn.key, kind="level", detail=detail)


def _known(turn: Turn, domain: str) -> str:
    """The domain, or that of no topic where the policy has it no more."""
    terms = turn.control.policy.autonomy
    return domain if terms is not None and domain in terms.domains else ""


def _entry(domain: str) -> str:
    return f"{ENTRY}/{domain}" if domain else ENTRY


def _trust(turn: Turn, domain: str) -> Trust | None:
    """The agent's trust in a domain, after whatever was said of it elsewhere was taken up."""
    policy = turn.control.policy
    terms = policy.autonomy
    if terms is None:
        return None
    trust = turn.get(_entry(domain), Trust)
    if trust is not None and not _news(turn, trust, domain):
        return trust
    agent = policy.agent(turn.key)
    version, first = "" if agent is None else agent.version, policy.level(turn.key, domain) or 0
    if trust is None:
        trust = Trust(level=first, version=version)
    elif trust.version != version:
        _begin_anew(turn, trust, domain, version, first)
    said = turn.control.state.level_set(turn.key, domain)
    if said is not None and said.offset > trust.set_offset:
        trust.set_offset = said.offset
        for change in terms.weigh(trust, Happened(turn.at_ms * 1_000, "level_set", said.level), None, terms.grain):
            reason = change.reason if said.reason is None else said.reason
            _changed(turn, trust, domain, msgspec.structs.replace(change, reason=reason), by=said.by)
    turn.put(_entry(domain), trust)
    return trust


def _news(turn: Turn, known: Standing | Trust, domain: str) -> bool:
    """Whether the agent has another version, or a person has said something, since then."""
    agent = turn.control.policy.agent(turn.key)
    said = turn.control.state.level_set(turn.key, domain)
    other = known.version != ("" if agent is None else agent.version)
    return other or (said is not None and said.offset > known.set_offset)


def _begin_anew(turn: Turn, trust: Trust, domain: str, version: str, first: int) -> None:
    """Another version of an agent is another agent, with the level that `agents.yaml` gives it."""
    former, trust.version = trust.version, version
    change = Change("set", first, f"version `{version}` after `{former}`", move(trust, first))
    _changed(turn, trust, domain, change, word="anew")


def _changed(
    turn: Turn,
    trust: Trust,
    domain: str,
    change: Change,
    *,
    word: LevelWord | None = None,
    job_id: str | None = None,
    by: str | None = None,
) -> None:
    """Journal one change; what it makes void is withdrawn, what it asks for is asked."""
    reason, before = change.reason, change.before
    if trust.request_id is not None:
        withdrawn = RequestWithdrawn(request_id=trust.request_id, desk=DEFAULT_DESK, origin="gate", reason=reason)
        turn.send("approval.requests", DEFAULT_DESK, withdrawn, derived_id("withdrawal", trust.request_id))
        trust.request_id = None
    if change.change != "requested":
        trust.found, trust.errors_found = {}, []
    turn.card.level_changes += 1
    number = turn.card.level_changes
    if change.change == "requested":
        trust.request_id = derived_id("level", turn.key, number, turn.card.seq)
        _ask(turn, trust, domain, change)
    event = LevelChanged(
        cause=turn.cause,
        at_ms=turn.at_ms,
        number=number,
        control_offset=turn.control.offset,
        judge=JUDGE,
        agent_id=turn.key,
        agent_version=trust.version,
        change=change.change if word is None else word,
        level_before=before.level,
        level=change.level,
        reason=reason,
        successes_count=before.successes,
        errors_count=before.errors,
        labelled_correct_count=before.right,
        labelled_wrong_count=before.wrong,
        job_id=job_id,
        request_id=trust.request_id,
        by=by,
        domain=domain or None,
        policy_snapshot=turn.control.policy.snapshot_name,
    )
    turn.send(TOPIC, turn.key, event, f"gate/{turn.key}/level/{number}")


def _ask(turn: Turn, trust: Trust, domain: str, change: Change) -> None:
    """Ask a person to sign a promotion off, with the whole case."""
    before = change.before
    policy = turn.control.policy
    agent = policy.agent(turn.key)
    case = {
        "agent_id": turn.key,
        "agent_version": trust.version,
        "level": before.level,
        "level_asked_for": change.level,
        **({"domain": domain} if domain else {}),
        **({} if policy.autonomy is None else policy.autonomy.case(before)),
        "findings": {word: trust.found.get(word, 0) for word in _FOUND},
        "errors_found": [msgspec.structs.asdict(each) for each in trust.errors_found],
    }
    content, salt = json.dumps(case, sort_keys=True).encode(), bytes(SALT_BYTES)
    request = ApprovalRequest(
        request_id=trust.request_id or "",
        kind="level",
        origin="gate",
        reply_key=turn.key,
        tenant=turn.control.tenant,
        desk=DEFAULT_DESK,
        queue=DEFAULT_QUEUE,
        job_id="",
        agent_id=turn.key,
        agent_owner=None if agent is None else agent.owner,
        agent_version=trust.version,
        topic=TOPIC,
        payload=seal(content, salt),
        job_hash=job_hash(content, TOPIC, turn.key, [], salt),
        reason=f"level {change.level} is asked for{f' in {domain}' if domain else ''}: {change.reason}",
        policy_snapshot=policy.snapshot_name,
        policy_digest=policy.snapshot_digest,
        attempt=0,
        created_at_ms=turn.at_ms,
        expires_at_ms=turn.at_ms + SIGN_OFF_SEC * 1_000,
        level=before.level,
        domain=domain or None,
    )
    turn.send("approval.requests", DEFAULT_DESK, request, request.request_id)
