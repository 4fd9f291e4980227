"""The gate's step: what it does with each input, on the memory engine."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from world import PEOPLE, World, agent_key, policy_files

from sluicegate.schemas.events import (
    Ask,
    AttemptEnded,
    Closed,
    Decision,
    Granted,
    Held,
    Incident,
    Noted,
    Refused,
    Repeated,
    Result,
)
from sluicegate.schemas.payload import job_hash, seal
from sluicegate.streams.identity import Ed25519Signer, HmacKey
from sluicegate.streams.partitioner import partition_for

DENY_DELETIONS = """
rules:
  - id: never-delete
    match: { topics: ["job.delete.*"] }
    decision: deny
    reason: "deletions go through the storage team"
"""
DENY_DEPLOYS = DENY_DELETIONS.replace("job.delete.*", "job.deploy.*")
ASK_DEPLOYS = DENY_DEPLOYS.replace(
    "decision: deny", "decision: require_approval\n    constraints: { max_amount_usd: 5 }"
)


@pytest.fixture
def world() -> World:
    return World()


def refusal(world: World) -> Refused:
    return world.last("job.decisions", Refused)


def test_a_read_is_granted_at_once(world: World) -> None:
    """ALLOW journals a decision and its grant's terms, and hands the payload to the pool."""
    intent = world.submit("j1", "job.crm.read")
    decision, granted = world.last("job.decisions", Decision), world.last("job.decisions", Granted)
    grant = world.grants("j1")[0]
    assert (decision.decision, decision.rules[0].id, decision.seq, granted.seq) == ("ALLOW", "allow-reads", 1, 2)
    assert (grant.payload, grant.job_hash, grant.granted_seq) == (intent.payload, intent.job_hash, granted.seq)


def test_a_deploy_waits_for_a_person(world: World) -> None:
    """REQUIRE_APPROVAL opens one request with the rule, the ceiling and the evidence, and grants nothing."""
    world.submit("j1", "job.deploy.web")
    request = world.request("j1")
    assert world.grants("j1") == []
    assert json.loads(request.constraints) == {"max_runtime_sec": 900}
    assert (request.rules[0].id, request.agent_owner, request.risk_tags) == (
        "approve-prod-deploys",
        "rosa",
        ["prod", "write"],
    )


def test_tags_come_from_the_platform(world: World) -> None:
    """An agent may add risk tags and cannot leave out those of its topic."""
    world.submit("j1", "job.deploy.web", risk_tags=["urgent"])
    assert world.last("job.decisions", Decision).risk_tags == ["prod", "urgent", "write"]


def test_nothing_matches_means_a_person_is_asked(world: World) -> None:
    """All layers abstain: the default holds, and stands in the decision as a rule of its own."""
    world.submit("j1", "job.unheard.of")
    decision = world.last("job.decisions", Decision)
    assert (decision.decision, decision.rules[0].layer) == ("REQUIRE_APPROVAL", "default")


def test_a_denied_topic_is_denied_with_its_reason() -> None:
    """DENY ends the job, says why, and grants nothing."""
    world = World(policy_files(**{"deletions.yaml": DENY_DELETIONS}))
    world.submit("j1", "job.delete.table")
    decision = world.last("job.decisions", Decision)
    assert (decision.decision, decision.reason) == ("DENY", "deletions go through the storage team")
    assert world.grants("j1") == []


def test_an_approval_grants_with_the_tighter_constraint(world: World) -> None:
    """What a verdict tightens reaches the grant; the request's rules are satisfied."""
    world.submit("j1", "job.deploy.web")
    world.decide("j1", "approve", constraints='{"max_runtime_sec":300}')
    assert json.loads(world.grants("j1")[0].constraints) == {"max_runtime_sec": 300}


@pytest.mark.parametrize(("word", "outcome"), [("deny", "denied"), (None, "expired"), ("withdraw", "withdrawn")])
def test_three_ways_not_to_run_are_three_outcomes(world: World, word: str | None, outcome: str) -> None:
    """Denied, expired and withdrawn are told apart, to the agent too, and none of them grants."""
    world.submit("j1", "job.deploy.web")
    if word == "deny":
        world.decide("j1", "deny")
    elif word == "withdraw":
        world.withdraw("j1")
    else:
        world.advance(3601)
    closed = world.last("job.decisions", Closed)
    assert (closed.outcome, world.grants("j1")) == (outcome, [])


def test_a_denial_gives_the_agent_the_reason(world: World) -> None:
    """The person's reason and name reach the agent."""
    world.submit("j1", "job.deploy.web")
    world.decide("j1", "deny", reason="wrong branch")
    closed = world.last("job.decisions", Closed)
    assert (closed.reason, closed.by) == ("wrong branch", "person/ken")


def test_the_same_content_again_gets_the_same_answer(world: World) -> None:
    """A job id is used once: no second decision, no second grant."""
    intent = world.submit("j1", "job.crm.read")
    world.signed(agent_key("deployer"), "job.intents", "deployer", intent)
    world.run()
    assert world.last("job.decisions", Repeated).decision == "ALLOW"
    assert (len(world.events("job.decisions", Decision)), len(world.grants("j1"))) == (1, 1)


def test_other_content_under_a_used_id_is_an_incident(world: World) -> None:
    """The id is spent even when its job has ended."""
    world.submit("j1", "job.crm.read")
    world.submit("j1", "job.crm.read", b'{"n":2}')
    assert (refusal(world).code, refusal(world).incident, len(world.grants("j1"))) == ("id_reused", True, 1)


def test_a_used_id_is_forgotten_only_after_twice_the_staleness_limit(world: World) -> None:
    """48 hours after its end an id counts as new; a moment before it does not."""
    world.submit("j1", "job.crm.read")
    grant = world.grants("j1")[0]
    world.start(grant)
    world.finish(grant)
    world.advance(48 * 3600 - 1)
    world.submit("j1", "job.crm.read")
    assert len(world.grants("j1")) == 1
    world.advance(2)
    world.submit("j1", "job.crm.read")
    assert len(world.grants("j1")) == 2


# --- identity


def test_an_unsigned_intent_is_refused(world: World) -> None:
    """No signature, no job; nobody is told that it was the agent's own."""
    world.plain("job.intents", "deployer", world.intent("j1", "job.crm.read"))
    world.run()
    assert (refusal(world).code, refusal(world).authenticated, refusal(world).incident) == ("unsigned", False, True)


def test_an_agent_cannot_write_as_another(world: World) -> None:
    """The gate takes the agent from the key id; another id in the body is an incident."""
    world.signed(agent_key("other"), "job.intents", "deployer", world.intent("j1", "job.crm.read"))
    world.run()
    assert (refusal(world).code, refusal(world).principal) == ("agent_mismatch", "agent/other")
    assert not refusal(world).authenticated
    assert world.grants("j1") == []


def test_a_forged_signature_is_refused(world: World) -> None:
    """A key of one's own making does not verify under an enrolled agent's name."""
    world.signed(HmacKey("agent/deployer", b"x" * 32), "job.intents", "deployer", world.intent("j1", "job.crm.read"))
    world.run()
    assert refusal(world).code == "bad_signature"


def test_an_unknown_agent_is_refused(world: World) -> None:
    """Who is not in `agents.yaml` has no key here."""
    world.submit("j1", "job.crm.read", agent="stranger")
    assert refusal(world).code == "unknown_key"


@pytest.mark.parametrize(("hours", "code"), [(24.01, "stale"), (-0.1, "ahead")])
def test_time_bounds_a_signature(world: World, hours: float, code: str) -> None:
    """Older than 24 h or ahead of the broker's clock by more than 5 minutes: refused; the old one is an incident."""
    intent = world.intent("j1", "job.crm.read")
    world.signed(agent_key("deployer"), "job.intents", "deployer", intent, issued_ms_ago=int(hours * 3_600_000))
    world.run()
    assert (refusal(world).code, refusal(world).incident) == (code, code == "stale")


def test_the_wrong_key_and_the_wrong_partition_are_misrouted(world: World) -> None:
    """The key follows from the body, the partition from the key; neither can be chosen."""
    intent = world.intent("j1", "job.crm.read")
    world.signed(agent_key("deployer"), "job.intents", "someone", intent)
    wrong = (partition_for(b"deployer", 3) + 1) % 3
    world.signed(agent_key("deployer"), "job.intents", "deployer", intent, partition=wrong)
    world.run()
    assert [event.code for event in world.events("job.decisions", Refused)] == ["misrouted", "misrouted"]
    assert world.verified().clean


# --- content


@pytest.mark.parametrize("payload", [b'{"a":1,"a":2}', b'{"a":NaN}', b"[" * 100 + b"]" * 100, b"\xff", b"", b"{"])
def test_a_payload_must_be_strict_json(world: World, payload: bytes) -> None:
    """Duplicate keys, NaN, absurd depth, bad UTF-8 and no JSON at all are malformed, and the agent is told."""
    world.submit("j1", "job.crm.read", payload)
    assert (refusal(world).code, refusal(world).job_id, refusal(world).authenticated) == ("malformed", "j1", True)


def test_a_hash_that_does_not_fit_is_refused(world: World) -> None:
    """The hash binds payload, topic, agent, tags and salt."""
    intent = world.intent("j1", "job.crm.read")
    intent.payload = seal(b'{"n":2}', agent_key("deployer").salt("j1"))
    world.signed(agent_key("deployer"), "job.intents", "deployer", intent)
    world.run()
    assert refusal(world).code == "hash_mismatch"


def test_what_cannot_be_decoded_becomes_a_dead_letter_and_an_answer(world: World) -> None:
    """Signed rubbish with a subject: the agent gets `malformed`, the bytes are kept."""
    from sluicegate.schemas.events import DeadLetter
    from sluicegate.streams.identity import sign

    headers = sign(agent_key("deployer"), "job.intents", "r1", world.log.clock_ms, b"deployer", b"rubbish")
    world.log.produce("job.intents", b"deployer", b"rubbish", (*headers, ("ce_subject", b"j9")))
    world.run()
    letter = world.last("dead.letters", DeadLetter)
    assert (refusal(world).code, refusal(world).job_id, refusal(world).authenticated) == ("malformed", "j9", True)
    assert letter.value.content.endswith(b"rubbish")


def test_an_event_of_another_topic_is_refused(world: World) -> None:
    """A resolution written to the intents is no resolution."""
    world.submit("j1", "job.deploy.web")
    world.decide("j1", "approve")
    record = world.log.records("approval.resolutions")[0]
    world.log.produce("job.intents", record.key, record.value)
    world.run()
    assert refusal(world).code == "wrong_topic"
    assert len(world.grants("j1")) == 1


@pytest.mark.parametrize(
    ("limit", "jobs"),
    [("payload_bytes_max", 1), ("intents_per_min_max", 3), ("in_flight_max", 3), ("open_requests_max", 3)],
)
def test_each_limit_refuses_by_its_name(limit: str, jobs: int) -> None:
    """Limits per agent: what exceeds one is an event that names it, and takes no job id."""
    world = World(None, **{limit: jobs - 1 if jobs > 1 else 10})
    topic = "job.deploy.web" if limit == "open_requests_max" else "job.crm.read"
    for number in range(jobs):
        world.submit(f"j{number}", topic, b'{"number": "ten or more bytes"}' if limit == "payload_bytes_max" else b"1")
    assert refusal(world).code == limit
    assert len(world.events("job.decisions", Decision)) == jobs - 1


# --- pauses and policy changes


def test_a_paused_scope_holds_and_a_timer_brings_it_back(world: World) -> None:
    """Held jobs wait with a timer that doubles; after the resume the next firing judges them."""
    world.command("pause", "agent:deployer")
    world.submit("j1", "job.crm.read")
    assert world.grants("j1") == []
    for wait in (5, 10, 20, 40, 60, 60):
        held = world.events("job.decisions", Held)[-1]
        assert held.until_ms - held.at_ms == wait * 1000
        world.advance(wait)
    world.command("resume", "agent:deployer")
    world.advance(60)
    assert len(world.grants("j1")) == 1


@pytest.mark.parametrize("scope", ["everything", "topic:job.crm.*", "tag:read", "job:j1"])
def test_every_kind_of_scope_pauses(world: World, scope: str) -> None:
    """A pause names everything, an agent, a topic, a tag or a job."""
    world.command("pause", scope)
    world.submit("j1", "job.crm.read")
    assert world.last("job.decisions", Held).scope == scope


def test_an_approval_in_a_pause_waits_for_its_end(world: World) -> None:
    """A pause between approval and grant holds the job; nobody is asked twice."""
    world.submit("j1", "job.deploy.web")
    world.command("pause", "everything")
    world.decide("j1", "approve")
    assert world.grants("j1") == []
    world.command("resume", "everything")
    world.advance(5)
    assert len(world.grants("j1")) == 1
    assert world.verified().clean


def test_a_denial_under_a_new_policy_wins_over_an_approval(world: World) -> None:
    """Judged again when it comes back: what is denied now does not run, whoever approved it."""
    world.submit("j1", "job.deploy.web")
    world.activate(policy_files(**{"deploys.yaml": DENY_DEPLOYS}))
    world.decide("j1", "approve")
    decision = world.last("job.decisions", Decision)
    assert (decision.decision, decision.again_after, world.grants("j1")) == ("DENY", world.request("j1").request_id, [])


def test_a_new_rule_asks_again_and_an_old_one_does_not(world: World) -> None:
    """An approval satisfies the rules it was asked under, by content; a new approval rule opens a new request."""
    world.submit("j1", "job.deploy.web")
    first = world.request("j1")
    world.activate(policy_files(**{"deploys.yaml": ASK_DEPLOYS}))
    world.decide("j1", "approve", constraints='{"max_runtime_sec":60}')
    second = world.request("j1")
    assert second.request_id != first.request_id
    assert [rule.layer for rule in second.rules] == ["deploys"]
    world.decide("j1", "approve", person="mia")
    assert json.loads(world.grants("j1")[0].constraints) == {"max_amount_usd": 5, "max_runtime_sec": 60}


def test_another_policy_with_the_same_rules_keeps_the_approval(world: World) -> None:
    """Changing people never makes an approval stale."""
    world.submit("j1", "job.deploy.web")
    world.activate(policy_files(**{"bundle.yaml": "version: v2\n"}))
    world.decide("j1", "approve")
    assert len(world.grants("j1")) == 1


def test_an_agent_may_ask_for_a_person(world: World) -> None:
    """`ask` only raises oversight: what policy allows waits for the approval the submitter wants."""
    world.submit("j1", "job.crm.read", ask=Ask(reason="unsure about the scope", timeout_sec=60))
    request = world.request("j1")
    assert (request.reason, request.expires_at_ms - request.created_at_ms) == ("unsure about the scope", 60_000)
    world.decide("j1", "approve")
    assert len(world.grants("j1")) == 1


def test_a_snapshot_that_does_not_compile_is_not_activated(world: World) -> None:
    """Signed or not: the activation is refused, and what was active goes on judging."""
    from world import OPERATOR

    from sluicegate.schemas.events import SnapshotPublished

    before = world.state().active
    documents = '{"a.yaml":{"rules":1}}'
    digest = hashlib.sha256(documents.encode()).hexdigest()
    name = f"v1:{digest[:6]}"
    bad = SnapshotPublished(name=name, digest=digest, documents=documents, publisher=OPERATOR.key_id, git_dirty=False)
    world.signed(OPERATOR, "policy.snapshots", digest, bad)
    world.command("activate", policy_snapshot=name, policy_digest=digest)
    state = world.state()
    assert state.last is not None
    assert (state.last.accepted, state.last.code, state.active) == (False, "unusable_snapshot", before)
    world.submit("j1", "job.crm.read")
    assert len(world.grants("j1")) == 1


# --- attempts


def ended(world: World, job_id: str, outcome: Any) -> None:
    grant = world.grants(job_id)[-1]
    if outcome == "lost":
        world.start(grant)
        world.advance(31)
    else:
        world.lapse(grant)


def test_a_lapsed_attempt_is_granted_again_and_at_last_closed(world: World) -> None:
    """Nothing ran, so the gate grants the next attempt, up to the limit."""
    world.submit("j1", "job.crm.list")
    for _ in range(3):
        ended(world, "j1", "lapsed")
    assert [grant.attempt for grant in world.grants("j1")] == [1, 2, 3]
    assert world.last("job.decisions", Closed).outcome == "lapsed"


def test_a_lost_attempt_runs_again_by_itself_only_where_that_is_safe(world: World) -> None:
    """`retry: safe` means the next attempt at once; elsewhere a person is asked whether to run it again."""
    world.submit("safe", "job.crm.read")
    ended(world, "safe", "lost")
    assert [grant.attempt for grant in world.grants("safe")] == [1, 2]
    world.submit("ask", "job.crm.list")
    ended(world, "ask", "lost")
    assert [grant.attempt for grant in world.grants("ask")] == [1]
    assert world.request("ask").kind == "lost_attempt"
    world.decide("ask", "approve")
    assert [grant.attempt for grant in world.grants("ask")] == [1, 2]


def test_nobody_permits_another_attempt_means_unknown(world: World) -> None:
    """Whether a vanished worker did the job is not known, and is told so."""
    world.submit("j1", "job.crm.list")
    ended(world, "j1", "lost")
    world.decide("j1", "deny")
    assert world.last("job.decisions", Closed).outcome == "unknown"


def test_a_result_closes_the_job(world: World) -> None:
    """The whole way once, and verify recomputes it."""
    world.submit("j1", "job.crm.read")
    grant = world.grants("j1")[0]
    world.start(grant)
    world.finish(grant)
    assert world.last("job.results", Result).output_safety_decision == "ALLOW"
    assert world.last("job.decisions", Closed).outcome == "succeeded"
    assert world.events("job.results", AttemptEnded) == []
    assert world.verified().clean


def test_incidents_need_a_monitor_or_an_operator(world: World) -> None:
    """A report by anyone else is refused; a second report of the same incident is, too."""
    from world import OPERATOR

    incident = Incident(incident_id="i1", agent_id="deployer", kind="leak", note="seen in a public bucket")
    world.signed(PEOPLE["ken"], "agent.incidents", "deployer", incident)
    world.signed(OPERATOR, "agent.incidents", "deployer", incident)
    world.signed(OPERATOR, "agent.incidents", "deployer", incident)
    world.signed(Ed25519Signer("monitor/none", b"z" * 32), "agent.incidents", "deployer", incident)
    world.run()
    codes = [event.code for event in world.events("job.decisions", Refused)]
    assert codes == ["wrong_signer", "repeated", "unknown_key"]
    assert world.last("job.decisions", Noted).kind == "incident"


def test_the_hash_is_over_the_exact_bytes() -> None:
    """Two spellings of the same JSON are two contents."""
    first = job_hash(b'{"a":1}', "t", "a", [], b"s" * 16)
    assert first != job_hash(b'{"a": 1}', "t", "a", [], b"s" * 16)
