"""Sampled audit at the gate: drawn when a job ends, asked of people who did not approve it, found, counted."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from world import CODEC, TENANT, World, policy_files

from sluicegate.policies.sampling import drawn
from sluicegate.schemas.events import (
    AuditDrawn,
    Decision,
    Finding,
    LevelChanged,
    Noted,
    Refused,
    RequestEscalated,
    RequestOpened,
    Resolved,
    VerdictAccepted,
)
from sluicegate.streams.control_epochs import REVEAL_AFTER_MS, commitment_of, epoch_key

AUDIT = """
audit:
  sampling: { rate: 0.5, strategy: stratified, weights: { risk_tags: { prod: 3.0, read: 0.5 } } }
  mandatory: [ { match: { amount_usd_above: 5000 } } ]
  routing: { money: finance, default: ops }
"""
RULES = """
rules:
  - { match: { topics: ["job.ask.*"] }, decision: require_approval }
  - { match: { topics: ["*"] }, decision: allow }
"""
ACTIONS = """
actions:
  - { topics: ["job.pay.*"], category: money, facts: { amount_usd: amount } }
  - { topics: ["job.*.read"], risk_tags: [read] }
  - { topics: ["job.deploy"], risk_tags: [prod] }
"""
LEVELS = """
autonomy_levels:
  level_0: { name: all, rules: [ { match: { topics: ["*"] }, decision: allow } ] }
  level_1: { name: more, rules: [ { match: { topics: ["*"] }, decision: allow } ] }
promotion_criteria:
  min_successful_actions: 30
  max_error_rate: 0.2
  review_period_days: 1
  requires_human_sign_off: true
demotion_triggers: [safety_incident]
"""
WRONG = {"choice": "wrong", "error_class": "wrong-customer", "severity": "high"}


def files(**extra: str) -> dict[str, str]:
    mine = {"audit-policy.yaml": AUDIT, "rules.yaml": RULES, "actions.yaml": ACTIONS, **extra}
    found = policy_files(**mine)
    del found["safety-policy.yaml"]
    return {name: text for name, text in found.items() if text}


def begin_epoch(world: World, number: int = 1, scale: str = "1", master: bytes | None = None, **changed: Any) -> None:
    key = epoch_key(world.audit_master if master is None else master, number)
    fields = {"epoch": number, "commitment": commitment_of(key), "scale": scale, **changed}
    world.command("epoch", **fields)


def reveal(world: World, number: int, **changed: Any) -> None:
    fields = {"epoch": number, "revealed": epoch_key(world.audit_master, number).hex(), **changed}
    world.command("reveal", **fields)


@pytest.fixture
def world() -> World:
    found = World(files())
    begin_epoch(found)
    return found


def run(
    world: World, job_id: str, topic: str = "job.crm.read", content: bytes = b'{"ok":true}', **more: Any
) -> AuditDrawn:
    """Submit, approve where it must be, finish; how it was drawn."""
    succeeded = more.pop("succeeded", True)
    world.submit(job_id, topic, **more)
    if world.last("job.decisions", Decision).decision == "REQUIRE_APPROVAL":
        world.decide(job_id, "approve")
    (grant,) = world.grants(job_id)
    world.start(grant)
    world.finish(grant, content, succeeded=succeeded)
    found = world.last("agent.audits", AuditDrawn)
    assert found.job_id == job_id
    return found


def sampled(world: World, topic: str = "job.crm.read", **more: Any) -> str:
    """Run jobs until one is drawn; its id."""
    for number in range(100):
        job_id = f"{topic}-{number}-{world.numbers}"
        if run(world, job_id, topic, **more).drawn:
            return job_id
    raise AssertionError("nothing was drawn")


def find(world: World, job_id: str, choice: str, person: str = "ken", **more: Any) -> None:
    fields = {**WRONG, "choice": choice} if choice != "correct" else {"choice": choice}
    world.decide(job_id, "approve" if choice == "correct" else "deny", person, **{**fields, **more})


def refusal(world: World) -> str:
    return world.last("approval.events", Refused).code


def test_every_finished_job_is_on_record_with_its_probability(world: World) -> None:
    """Drawn or not: stratum, probability, epoch; and the draw is what the key says."""
    found = [run(world, f"j{number}", ("job.crm.read", "job.deploy", "job.x")[number % 3]) for number in range(30)]
    key = epoch_key(world.audit_master, 1)
    assert {(each.stratum, each.probability) for each in found} == {("read", "0.25"), ("prod", "1"), ("other", "0.5")}
    assert [each.number for each in found] == list(range(1, 31))
    for each in found:
        assert each.drawn == drawn(key, "deployer", each.job_id, Decimal(each.probability))
        assert (each.epoch, each.mandatory, each.outcome) == (1, False, "succeeded")
    assert {each.drawn for each in found if each.stratum == "read"} == {True, False}
    assert world.verified().clean
    assert world.verified().recomputed["AuditDrawn"] == 30


def test_a_drawn_job_is_a_request_with_the_whole_record(world: World) -> None:
    """Payload, result, how it ended, the rules, facts and constraints it was judged by, who approved it."""
    found = run(world, "m", "job.pay.bill", payload=b'{"amount":6000}')
    assert (found.mandatory, found.drawn, found.probability, found.queue) == (True, True, "1", "finance")
    request = world.request("m")
    assert (request.kind, request.request_id, request.queue) == ("audit", found.request_id, "finance")
    assert request.output is not None
    assert world.keys.open(request.output)[0] == b'{"ok":true}'
    assert world.keys.open(request.payload)[0] == b'{"amount":6000}'
    assert (request.ended, request.choices) == ("succeeded", ["correct", "wrong", "harmful"])
    assert [rule.layer for rule in request.rules] == ["rules"]
    assert [(fact.name, fact.value) for fact in request.facts if fact.name == "amount_usd"] == [("amount_usd", 6000)]
    assert world.last("approval.events", RequestOpened).kind == "audit"


def test_an_absent_fact_makes_it_mandatory(world: World) -> None:
    """What the payload does not say must not spare the job."""
    assert run(world, "m", "job.pay.bill", payload=b"{}").mandatory


def test_who_approved_a_job_does_not_audit_it(world: World) -> None:
    """The approver and the owner are refused, each with the reason; anybody else may."""
    run(world, "a", "job.ask.pay", risk_tags=["prod"])
    assert world.request("a").approved_by == ["ken"]
    find(world, "a", "correct", "ken")
    assert refusal(world) == "own_approval"
    find(world, "a", "correct", "rosa")
    assert refusal(world) == "own_agent"
    find(world, "a", "correct", "mia")
    assert world.last("agent.audits", Finding).by == "person/mia"
    assert world.verified().clean


def test_who_let_the_output_leave_does_not_audit_it() -> None:
    """Releasing a held output is an approval, too."""
    held = 'rules: [ { id: held, match: { topics: ["*"] }, detect: { ssn: quarantine } } ]\n'
    world = World(files(**{"output-policy.yaml": held}))
    world.submit("h", "job.deploy")
    (grant,) = world.grants("h")
    world.start(grant)
    world.finish(grant, b'{"ssn":"536-22-8143"}')
    world.decide("h", "approve", "ken", choice="release")
    assert world.request("h").kind == "audit"
    assert world.request("h").approved_by == ["ken"]


def test_what_is_wrong_says_what_and_how_bad(world: World) -> None:
    """Class, severity and note stand in the finding; without one of them the verdict is refused by name."""
    job = sampled(world)
    for left_out in ({"error_class": None}, {"severity": None}, {"reason": " "}):
        find(world, job, "wrong", **left_out)
        assert refusal(world) == "incomplete"
    find(world, job, "correct", severity="low")
    assert refusal(world) == "bad_finding"
    world.decide(job, "approve", choice="wrong")
    assert refusal(world) == "bad_choice"
    find(world, job, "harmful", error_class="x" * 65)
    assert refusal(world) == "bad_finding"
    find(world, job, "wrong")
    found = world.last("agent.audits", Finding)
    assert (found.finding, found.error_class, found.severity, found.note) == (
        "wrong",
        "wrong-customer",
        "high",
        "because",
    )
    assert (found.job_id, found.stratum, found.probability) == (job, "read", "0.25")
    assert world.last("approval.events", VerdictAccepted).severity == "high"
    find(world, job, "correct", "mia")
    assert refusal(world) == "already_resolved"
    assert world.verified().clean


def test_a_finding_counts_in_the_agents_trust() -> None:
    """Correct is a label; wrong takes the success away and is an error, once, also when found again in a review."""
    world = World(files(**{"autonomy.yaml": LEVELS}))
    begin_epoch(world)
    first = sampled(world)
    find(world, first, "correct")
    second = sampled(world)
    find(world, second, "wrong")
    while not world.events("agent.autonomy", LevelChanged):
        run(world, f"more-{world.numbers}")
    asked = world.last("agent.autonomy", LevelChanged)
    finished = world.events("agent.audits", AuditDrawn)
    assert (asked.change, asked.labelled_correct_count, asked.labelled_wrong_count) == ("requested", 1, 1)
    assert (asked.successes_count, asked.errors_count) == (len(finished) - 1, 1)
    case = json.loads(world.keys.open(world.request("").payload)[0])
    assert case["findings"] == {"correct": 1, "wrong": 1, "harmful": 0}
    (error,) = case["errors_found"]
    assert (error["job_id"], error["error_class"], error["severity"]) == (second, "wrong-customer", "high")
    assert world.verified().clean


def case_of(world: World) -> dict[str, Any]:
    """What is counted of the agent now, as the case for a promotion says it."""
    while not [each for each in world.events("agent.autonomy", LevelChanged) if each.change == "requested"]:
        run(world, f"more-{world.numbers}")
    found: dict[str, Any] = json.loads(world.keys.open(world.request("").payload)[0])
    return found


def test_what_was_right_at_another_level_is_no_evidence_at_this_one() -> None:
    """Found correct after the level moved: kept on record, no label; an error counts all the same."""
    world = World(
        files(
            **{
                "autonomy.yaml": LEVELS.replace(
                    "level_1: {",
                    'level_2: { name: most, rules: [ { match: { topics: ["*"] }, decision: allow } ] }\n  level_1: {',
                )
            }
        )
    )
    begin_epoch(world)
    right, wrong = sampled(world), sampled(world)
    world.command("set_level", "agent:deployer", level=1, reason="known from elsewhere")
    find(world, right, "correct")
    find(world, wrong, "wrong")
    case = case_of(world)
    assert (case["level"], case["labelled_correct"], case["labelled_wrong"]) == (1, 0, 1)
    assert case["findings"] == {"correct": 1, "wrong": 1, "harmful": 0}
    assert world.verified().clean


def test_what_another_version_did_is_said_of_that_one() -> None:
    """A new version is another agent: findings on the old one's jobs stand in the log and count for nothing."""
    first = files(**{"autonomy.yaml": LEVELS})
    world = World(first)
    begin_epoch(world)
    wrong = sampled(world)
    world.activate({**first, "agents.yaml": first["agents.yaml"].replace("version: '1'", "version: '2'")})
    run(world, "first-of-the-new")
    find(world, wrong, "wrong")
    assert world.last("agent.audits", Finding).finding == "wrong"
    assert case_of(world)["findings"] == {"correct": 0, "wrong": 0, "harmful": 0}
    assert world.verified().clean


def test_a_sample_outlives_the_memory_of_its_job(world: World) -> None:
    """Found a week later, it still counts, and as the same job."""
    job = sampled(world)
    world.advance(7 * 86_400)
    run(world, "later", "job.x")
    find(world, job, "harmful")
    assert world.last("agent.audits", Finding).finding == "harmful"
    note = world.last("job.decisions", Noted)
    assert (note.kind, note.job_id, note.detail) == ("incident", job, "found harmful: wrong-customer, high")
    assert world.verified().clean


def test_an_overdue_sample_goes_to_another_queue_and_never_expires() -> None:
    """After `due_sec`, again after as long; a verdict after a deadline counts."""
    world = World(files(**{"audit-policy.yaml": AUDIT + "  due_sec: 60\n  escalation: leads\n"}))
    begin_epoch(world)
    run(world, "d", "job.deploy")
    for number in (1, 2):
        world.advance(61)
        found = world.last("approval.events", RequestEscalated)
        before = "ops" if number == 1 else "leads"
        assert (found.number, found.queue_before, found.queue) == (number, before, "leads")
    world.log.advance(61_000)
    find(world, "d", "correct")
    assert world.last("approval.events", Resolved).outcome == "approved"
    world.advance(120)
    assert len(world.events("approval.events", RequestEscalated)) == 2
    assert world.verified().clean


def test_what_never_ran_is_not_in_the_population(world: World) -> None:
    """Denied, withdrawn and expired jobs are not drawn: there is no action to look at."""
    world.submit("d", "job.ask.x")
    world.decide("d", "deny")
    world.submit("w", "job.ask.x")
    world.withdraw("w")
    assert world.events("agent.audits", AuditDrawn) == []


def test_without_a_usable_key_everything_is_looked_at() -> None:
    """Before the first epoch, and in one whose key is not what was committed to."""
    world = World(files())
    first = run(world, "a")
    assert (first.epoch, first.probability, first.drawn) == (0, "1", True)
    begin_epoch(world, master=b"x" * 32)
    second = run(world, "b")
    assert (second.epoch, second.probability, second.drawn) == (0, "1", True)
    assert world.verified().clean


def test_policies_without_audit_draw_nothing() -> None:
    """No document, no events."""
    world = World(files(**{"audit-policy.yaml": ""}))
    world.submit("j", "job.deploy")
    (grant,) = world.grants("j")
    world.start(grant)
    world.finish(grant)
    assert world.events("agent.audits", AuditDrawn) == []


# --- epochs


def accepted(world: World) -> str | None:
    state = world.state()
    assert state.last is not None
    assert state.last.accepted == (state.last.code is None)
    return state.last.code


def test_an_epochs_key_is_told_when_no_gate_can_draw_with_it_any_more(world: World) -> None:
    """Not while it goes on, not right after its end, not another key; then once."""
    reveal(world, 1)
    assert accepted(world) == "bad_epoch"
    begin_epoch(world, 2)
    assert accepted(world) is None
    reveal(world, 1)
    assert accepted(world) == "too_soon"
    world.log.advance(REVEAL_AFTER_MS)
    reveal(world, 1, revealed="00" * 32)
    assert accepted(world) == "bad_key"
    reveal(world, 1)
    assert accepted(world) is None
    reveal(world, 1)
    assert accepted(world) == "bad_epoch"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"epoch": 3}, "bad_epoch"),
        ({"epoch": 1}, "bad_epoch"),
        ({"epoch": None}, "bad_epoch"),
        ({"commitment": "abc"}, "bad_terms"),
        ({"commitment": None}, "bad_terms"),
        ({"scale": "-1"}, "bad_terms"),
        ({"scale": "1e3"}, "bad_terms"),
        ({"scale": None}, "bad_terms"),
    ],
)
def test_epochs_follow_each_other(world: World, changed: dict[str, Any], code: str) -> None:
    """The next number, a commitment, a decimal; anything else changes nothing."""
    before = world.state().epoch
    begin_epoch(world, 2, **changed)
    assert accepted(world) == code
    assert world.state().epoch == before


def test_who_has_no_key_verifies_once_it_is_told(world: World) -> None:
    """Draws of an epoch whose key is not told are taken as recorded, and counted so; afterwards recomputed."""
    for number in range(6):
        run(world, f"j{number}")
    begin_epoch(world, 2)
    world.log.advance(REVEAL_AFTER_MS)
    reveal(world, 1)
    run(world, "late")
    world.audit_master, master = None, world.audit_master  # type: ignore[assignment]  # an auditor has none
    report = world.verified()
    assert report.clean
    assert (report.recomputed["AuditDrawn"], report.as_recorded["AuditDrawn"]) == (6, 1)
    world.audit_master = master
    assert world.verified().recomputed["AuditDrawn"] == 7


@pytest.mark.parametrize("field", ["drawn", "probability", "epoch", "stratum"])
def test_a_changed_draw_is_found(world: World, field: str) -> None:
    """A draw that was made to look otherwise does not verify."""
    for number in range(6):
        run(world, f"j{number}")
    begin_epoch(world, 2)
    world.log.advance(REVEAL_AFTER_MS)
    reveal(world, 1)
    records = world.records()
    place = next(at for at, record in enumerate(records) if record.topic == "agent.audits")
    event = CODEC.decode(records[place].value)
    assert isinstance(event, AuditDrawn)
    other = {"drawn": not event.drawn, "probability": "0.01", "epoch": 0, "stratum": "spare"}[field]
    changed = msgspec.structs.replace(event, **{field: other})
    records[place] = msgspec.structs.replace(records[place], value=CODEC.encode(changed))
    report = world.verified(records)
    assert not report.clean


def test_rates_are_scaled_where_the_bundle_asks(world: World) -> None:
    """By the factor that was published with the epoch; never beyond certainty."""
    normal = AUDIT.replace("strategy:", "normalise: true, strategy:")
    scaled = World(files(**{"audit-policy.yaml": normal}))
    begin_epoch(scaled, scale="0.5")
    assert run(scaled, "a", "job.x").probability == "0.25"
    assert run(scaled, "b", "job.deploy").probability == "0.75"
    begin_epoch(world, 2, scale="0.5")
    assert run(world, "a", "job.x").probability == "0.5"


def test_the_same_log_gives_the_same_draws(world: World) -> None:
    """Replayed step by step, every draw comes out again; the tenant and the agent are in it."""
    for number in range(20):
        run(world, f"j{number}", agent="deployer" if number % 2 else "reader")
    by_agent = Counter(each.agent_id for each in world.events("agent.audits", AuditDrawn))
    assert by_agent == {"deployer": 10, "reader": 10}
    assert world.verified().clean
    assert TENANT == "default"
