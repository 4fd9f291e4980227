"""Levels at the gate: earned by what came back, signed off by people, lost in the transaction of the cause."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml
from world import CODEC, OPERATOR, World, agent_key, policy_files

from sluicegate.policies.compile import compile_bundle
from sluicegate.policies.load import parse_bundle
from sluicegate.processors.impact import Report
from sluicegate.processors.impact_replay import NEEDED, impact_of_level
from sluicegate.schemas.events import (
    ApprovalRequest,
    Breached,
    Decision,
    Incident,
    LevelChanged,
    Noted,
    Quarantined,
    RequestWithdrawn,
)

LEAK = b'{"ssn":"536-22-8143"}'
AUTONOMY = """
autonomy_levels:
  level_0: { name: watched, rules: [ { match: { topics: ["*"] }, decision: require_approval } ] }
  level_1:
    name: reader
    rules:
      - { match: { topics: ["job.*.read"] }, decision: allow }
      - { match: { topics: ["*"] }, decision: require_approval }
  level_2: { name: free, rules: [ { match: { topics: ["*"] }, decision: allow } ] }
promotion_criteria:
  min_successful_actions: 3
  max_error_rate: 0.25
  review_period_days: 1
  requires_human_sign_off: true
demotion_triggers: [policy_violation, safety_incident, { error_rate_above: 0.3 }]
"""
FORBIDDEN = """
rules:
  - { match: { topics: ["job.forbidden"] }, decision: deny, reason: never }
  - { match: { topics: ["*"] }, decision: allow }
"""
OUTPUTS = 'rules: [ { id: held, match: { topics: ["*"] }, detect: { ssn: quarantine } } ]\n'


def files(**extra: str) -> dict[str, str]:
    mine = {"levels.yaml": AUTONOMY, "forbidden.yaml": FORBIDDEN, "output-policy.yaml": OUTPUTS, **extra}
    found = policy_files(**mine)
    del found["safety-policy.yaml"]
    return found


@pytest.fixture
def world() -> World:
    return World(files())


def changes(world: World) -> list[tuple[str, int, int]]:
    return [(each.change, each.level_before, each.level) for each in world.events("agent.autonomy", LevelChanged)]


def level_request(world: World) -> ApprovalRequest:
    return world.request("")  # a level is about no job


def sign_off(world: World, word: Any, person: str = "ken") -> None:
    world.decide("", word, person)  # a level is about no job


def run(world: World, job_id: str, topic: str = "job.crm.read", content: bytes = b"{}", **changed: Any) -> None:
    """Submit a job, approve it where it must be, and finish it."""
    world.submit(job_id, topic)
    if world.last("job.decisions", Decision).decision == "REQUIRE_APPROVAL":
        world.decide(job_id, "approve")
    (grant,) = world.grants(job_id)
    world.start(grant)
    world.finish(grant, content, **changed)


def climb(world: World, level: int = 1) -> None:
    for number in range(level):
        for each in range(3):
            run(world, f"climb-{number}-{each}")
        sign_off(world, "approve")


def report_incident(world: World, incident_id: str = "i1") -> None:
    event = Incident(incident_id=incident_id, agent_id="deployer", kind="safety", note="it called a customer names")
    world.signed(OPERATOR, "agent.incidents", "deployer", event)
    world.run()


def set_level(world: World, level: int, **fields: Any) -> None:
    world.command("set_level", "agent:deployer", level=level, reason="known from elsewhere", **fields)


def decided(world: World) -> tuple[str, int | None]:
    found = world.last("job.decisions", Decision)
    return found.decision, found.level


def test_an_agent_climbs_by_what_came_back_and_by_a_persons_word(world: World) -> None:
    """Three successes ask for level 1; a person signs it off; the next intent is judged by it."""
    for number in range(3):
        run(world, f"j{number}")
    request = level_request(world)
    assert (request.agent_id, request.level, request.agent_owner) == ("deployer", 0, "rosa")
    case = yaml.safe_load(world.keys.open(request.payload)[0])
    assert (case["successes"], case["errors"], case["labelled_correct"]) == (3, 0, 3)
    assert case["error_rate_95_percent"] == "0 to 0.707599"
    assert changes(world) == [("requested", 0, 1)]
    sign_off(world, "approve")
    assert changes(world)[-1] == ("promoted", 0, 1)
    assert world.last("agent.autonomy", LevelChanged).by == "person/ken"
    world.submit("next", "job.crm.read")
    assert decided(world) == ("ALLOW", 1)
    world.submit("write", "job.crm.write")
    assert decided(world) == ("REQUIRE_APPROVAL", 1)
    assert world.verified().clean


def test_nobody_signs_off_their_own_agent(world: World) -> None:
    """The agent's owner is not asked about its level."""
    for number in range(3):
        run(world, f"j{number}")
    sign_off(world, "approve", "rosa")
    assert changes(world) == [("requested", 0, 1)]


def test_an_incident_holds_for_the_very_next_intent(world: World) -> None:
    """With one job in flight and one that comes right behind: the first runs on, the second is judged lower."""
    climb(world, 2)
    intents = [world.intent(job, "job.crm.write") for job in ("before", "after")]
    incident = Incident(incident_id="i1", agent_id="deployer", kind="safety", note="wrong number")
    world.signed(agent_key("deployer"), "job.intents", "deployer", intents[0])
    world.run()
    world.signed(OPERATOR, "agent.incidents", "deployer", incident)
    world.run()
    world.signed(agent_key("deployer"), "job.intents", "deployer", intents[1])
    world.run()
    found = [(each.job_id, each.decision, each.level) for each in world.events("job.decisions", Decision)[-2:]]
    assert found == [("before", "ALLOW", 2), ("after", "REQUIRE_APPROVAL", 0)]
    assert changes(world)[-1] == ("demoted", 2, 0)
    assert world.last("agent.autonomy", LevelChanged).by == OPERATOR.key_id
    assert world.verified().clean


def test_a_denial_by_a_rule_is_a_violation(world: World) -> None:
    """What a rule forbids takes the level; that nothing is allowed by default is no rule."""
    climb(world)
    world.submit("bad", "job.forbidden")
    assert decided(world) == ("DENY", 1)
    assert changes(world)[-1] == ("demoted", 1, 0)
    assert world.last("agent.autonomy", LevelChanged).job_id == "bad"
    world.submit("next", "job.crm.read")
    assert decided(world) == ("REQUIRE_APPROVAL", 0)
    assert world.verified().clean


def test_a_breach_counts_before_anybody_looks_at_its_output(world: World) -> None:
    """A handler that goes beyond a constraint costs the level at once; its success counts for nothing."""
    climb(world)
    world.submit("j", "job.crm.read")
    (grant,) = world.grants("j")
    world.start(grant)
    breached = Breached(
        job_id="j",
        agent_id="deployer",
        grant_id=grant.grant_id,
        attempt=1,
        worker_id="w1",
        constraint="network_allowlist",
        detail="example.org",
        prevented=True,
    )
    world.plain("job.starts", "deployer", breached)
    world.finish(grant)
    assert world.last("job.results", Quarantined).rule == "breach"
    assert changes(world)[-1] == ("demoted", 1, 0)
    world.decide("j", "approve", choice="release")
    assert len(changes(world)) == 3
    assert world.verified().clean


def test_what_people_destroy_is_an_error_and_what_nobody_looked_at_is_nothing(world: World) -> None:
    """Two held outputs: one destroyed, one expired; only the first is counted."""
    for number, word in enumerate(("destroy", "")):
        run(world, f"h{number}", content=LEAK)
        if word:
            world.decide(f"h{number}", "deny", choice=word)
        else:
            world.advance(4_000)
    for number in range(3):
        run(world, f"j{number}")
    first = world.events("agent.autonomy", LevelChanged)[0]
    assert (first.change, first.successes_count, first.errors_count) == ("requested", 3, 1)
    assert world.verified().clean


def test_what_fails_is_an_error_and_what_people_denied_is_none(world: World) -> None:
    """Failed by the handler counts; denied, withdrawn and lapsed do not."""
    run(world, "f", succeeded=False)
    world.submit("d", "job.crm.read")
    world.decide("d", "deny")
    world.submit("w", "job.crm.read")
    world.withdraw("w")
    for number in range(3):
        run(world, f"j{number}")
    first = world.events("agent.autonomy", LevelChanged)[0]
    assert (first.successes_count, first.errors_count) == (3, 1)


def test_too_many_errors_cost_one_level(world: World) -> None:
    """From 20 finished on, strictly above 30 %: from 2 to 1, and counting begins anew."""
    set_level(world, 2)
    for number in range(20):
        run(world, f"j{number}", succeeded=number >= 7)
    assert changes(world) == [("set", 0, 2), ("demoted", 2, 1)]
    assert "7 errors of 20 finished" in world.last("agent.autonomy", LevelChanged).reason
    assert world.verified().clean


def test_a_person_sets_a_level_and_the_next_intent_knows(world: World) -> None:
    """An operator's command with its reason holds at the agent's next input; an older one is not taken up again."""
    set_level(world, 2)
    world.submit("j", "job.crm.write")
    assert decided(world) == ("ALLOW", 2)
    found = world.last("agent.autonomy", LevelChanged)
    assert (found.change, found.reason, found.by) == ("set", "known from elsewhere", OPERATOR.key_id)
    report_incident(world)
    world.submit("k", "job.crm.write")
    assert decided(world) == ("REQUIRE_APPROVAL", 0)
    assert world.verified().clean


@pytest.mark.parametrize(("scope", "level"), [("topic:job.*", 2), ("agent:deployer", -1), ("agent:deployer", None)])
def test_a_level_is_set_of_one_agent_and_is_a_number(world: World, scope: str, level: int | None) -> None:
    """Anything else is refused as `bad_level`."""
    world.command("set_level", scope, level=level)
    said = world.state().last
    assert said is not None
    assert said.code == "bad_level"
    assert world.state().levels == {}


@pytest.mark.parametrize("reason", [None, "", "  "])
def test_nobody_sets_a_level_without_a_reason(world: World, reason: str | None) -> None:
    """A level that nobody can account for is not given."""
    world.command("set_level", "agent:deployer", level=2, reason=reason)
    said = world.state().last
    assert said is not None
    assert (said.code, world.state().levels) == ("no_reason", {})


def test_a_new_version_of_an_agent_starts_anew(world: World) -> None:
    """What another version earned says nothing of this one."""
    climb(world)
    agents = yaml.safe_load(files()["agents.yaml"])
    agents["agents"][0]["version"] = "2"
    world.activate(files(**{"agents.yaml": yaml.safe_dump(agents)}))
    world.submit("j", "job.crm.read")
    assert decided(world) == ("REQUIRE_APPROVAL", 0)
    assert changes(world)[-1] == ("anew", 1, 0)
    assert world.verified().clean


def test_an_agent_begins_at_the_level_that_its_document_gives(world: World) -> None:
    """Enrolment with a level and a reason; nothing is journaled before something moves."""
    agents = yaml.safe_load(files()["agents.yaml"])
    agents["agents"][0]["initial_level"] = {"level": 1, "reason": "ran for a year elsewhere", "signer": "rosa"}
    world.activate(files(**{"agents.yaml": yaml.safe_dump(agents)}))
    world.submit("j", "job.crm.read")
    assert decided(world) == ("ALLOW", 1)
    assert changes(world) == []


def test_what_is_asked_for_is_withdrawn_when_the_level_falls(world: World) -> None:
    """A sign-off that comes afterwards changes nothing."""
    climb(world)
    for number in range(3):
        run(world, f"j{number}")
    assert changes(world)[-1] == ("requested", 1, 2)
    request = level_request(world)
    report_incident(world)
    assert world.last("approval.requests", RequestWithdrawn).request_id == request.request_id
    sign_off(world, "approve")
    assert changes(world)[-1] == ("demoted", 1, 0)
    assert world.verified().clean


@pytest.mark.parametrize("word", ["deny", "silence"])
def test_a_refusal_and_silence_begin_the_counting_anew(world: World, word: str) -> None:
    """Nobody's word is no promotion; three more successes ask again."""
    for number in range(3):
        run(world, f"j{number}")
    if word == "deny":
        sign_off(world, "deny")
    else:
        world.advance(24 * 3600 + 60)
    assert world.last("job.decisions", Noted).kind == "level"
    for number in range(2):
        run(world, f"k{number}")
    assert changes(world) == [("requested", 0, 1)]
    run(world, "k2")
    assert changes(world) == [("requested", 0, 1), ("requested", 0, 1)]
    assert world.verified().clean


def test_a_level_that_somebody_else_wrote_is_found(world: World) -> None:
    """`verify` recomputes every change of level; one that was altered stands out."""
    climb(world)
    records = world.records()
    place = next(at for at, record in enumerate(records) if record.topic == "agent.autonomy")
    event = CODEC.decode(records[place].value)
    assert isinstance(event, LevelChanged)
    altered = CODEC.encode(msgspec.structs.replace(event, level=3))
    records[place] = msgspec.structs.replace(records[place], value=altered)
    report = world.verified(records)
    assert {fault.topic for fault in report.faults} == {"agent.autonomy"}


def test_without_an_autonomy_document_nothing_is_counted() -> None:
    """A bundle that has no levels costs no entry and has no history."""
    world = World({name: text for name, text in files().items() if name != "levels.yaml"})
    run(world, "j")
    report_incident(world)
    assert world.events("agent.autonomy", LevelChanged) == []
    assert world.last("job.decisions", Decision).level is None


def ahead(world: World, level: int, agent: str = "deployer", since_ms: int = 0) -> Report:
    policy = compile_bundle(parse_bundle(files()))
    read = [record for record in world.records() if record.topic in NEEDED]
    return impact_of_level(read, CODEC, policy, agent, level, since_ms)


def test_one_sees_what_the_next_level_would_have_let_through(world: World) -> None:
    """The agent's intents, judged again at that level: what people would not have been asked, and what they said."""
    run(world, "read")
    world.submit("write", "job.crm.write")
    world.decide("write", "deny")
    world.submit("open", "job.crm.read")
    world.submit("other", "job.crm.read", agent="reader")
    first = ahead(world, 1)
    assert (first.intents, first.newly_spared) == (3, {"intents": 2, "approved": 1, "open": 1})
    assert [each.job_id for each in first.widened] == ["read", "open"]
    second = ahead(world, 2)
    assert second.newly_spared == {"intents": 3, "approved": 1, "denied": 1, "open": 1}
    assert ahead(world, 0).widened_count == 0
    assert ahead(world, 2, "nobody").intents == 0
    assert ahead(world, 2, since_ms=world.log.clock_ms + 1).intents == 0


def test_what_was_judged_at_another_level_is_compared_with_that(world: World) -> None:
    """After the climb to 1, what was let through there is not spared by 2."""
    climb(world, 1)
    world.submit("read", "job.crm.read")
    world.submit("write", "job.crm.write")
    found = ahead(world, 2)
    assert [(each.job_id, each.before) for each in found.widened if each.job_id == "write"] == [
        ("write", "REQUIRE_APPROVAL")
    ]
    assert "read" not in [each.job_id for each in found.widened]


def test_only_jobs_of_the_named_topics_count() -> None:
    """What is done elsewhere earns nothing and costs nothing; a violation costs the level wherever it happens."""
    levels = AUTONOMY.replace("promotion_criteria:", 'promotion_criteria:\n  topics: ["job.crm.*"]')
    world = World(files(**{"levels.yaml": levels}))
    for number in range(4):
        run(world, f"x{number}", "job.x.read", succeeded=number < 3)
    assert changes(world) == []
    climb(world)
    assert world.events("agent.autonomy", LevelChanged)[0].errors_count == 0
    world.submit("bad", "job.forbidden")
    assert changes(world)[-1] == ("demoted", 1, 0)
    assert world.verified().clean
