"""What a new bundle would have done to the log: the facts the gate would have had, what widens, what is skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from world import CODEC, OPERATOR, PEOPLE, TENANT, World, policy_files

from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.load import parse_bundle
from sluicegate.processors.impact import Report
from sluicegate.processors.impact_replay import ERASED, GONE, NEEDED, SEALED, impact_of_log
from sluicegate.processors.plane import REMEMBERED_MS
from sluicegate.schemas.events import Ask, Command, Decision, Incident, Intent
from sluicegate.schemas.sealing import AES_256_GCM
from sluicegate.streams.control_state import COMMANDS
from sluicegate.streams.engine import Record
from sluicegate.streams.key_store import KeyStore, StoreKeyring

HOUR_MS = 3_600_000
ACTIONS = {
    "actions": [
        {
            "topics": ["job.support.*"],
            "facts": {"amount_usd": "order.total_usd"},
            "retry_identity": ["order.id"],
            "target": "order.id",
        }
    ]
}
PASS = 'rules: [{ id: pass, match: { topics: ["*"] }, decision: allow }]\n'
ASK = 'rules: [{ id: ask, match: { topics: ["*"] }, decision: require_approval }]\n'
DENY = 'rules: [{ id: never, match: { topics: ["*"] }, decision: deny }]\n'
LARGE = """
rules:
  - { id: large, match: { topics: ["*"], amount_usd_above: 100 }, decision: require_approval }
  - { id: pass, match: { topics: ["*"] }, decision: allow }
"""
SPLIT = """
rules:
  - { id: split, match: { topics: ["*"], amount_usd_24h_above: 100 }, decision: require_approval }
  - { id: pass, match: { topics: ["*"] }, decision: allow }
"""
CAPPED = """
rules: [{ id: cap, match: { topics: ["*"] }, decision: allow_with_constraints, constraints: { %s } }]
"""


def files(rules: str, **extra: str) -> dict[str, str]:
    """Actions with facts, the world's agents and people, and one layer."""
    base = policy_files()
    del base["safety-policy.yaml"]
    named = {f"{name}.yaml": text for name, text in extra.items()}
    return {**base, "actions.yaml": yaml.safe_dump(ACTIONS), "layer.yaml": rules, **named}


def policy(rules: str, **extra: str) -> CompiledPolicy:
    return compile_bundle(parse_bundle(files(rules, **extra)))


def impact(world: World, rules: str, **extra: str) -> Report:
    return impact_since(world, 0, rules, **extra)


def impact_since(world: World, since_ms: int, rules: str, **extra: str) -> Report:
    read = [record for record in world.records() if record.topic in NEEDED]
    return impact_of_log(read, CODEC, policy(rules, **extra), since_ms)


def refund(world: World, job: str, amount: Any = 20, order: str = "", **fields: Any) -> Intent:
    payload = {"order": {"id": order or job, "total_usd": amount}}
    return world.submit(job, fields.pop("topic", "job.support.refund"), json.dumps(payload).encode(), **fields)


def done(world: World, job: str, **changes: Any) -> None:
    grant = world.grants(job)[-1]
    world.start(grant)
    world.finish(grant, **changes)


# --- the facts


TRAFFIC = """
rules:
  - { id: storm, match: { topics: ["job.support.*"], retry_count_above: 1 }, decision: deny }
  - { id: many, match: { topics: ["job.support.*"], count_1h_above: 7 }, decision: deny }
  - { id: split, match: { topics: ["job.support.*"], amount_usd_24h_above: 100 }, decision: require_approval }
  - { id: first, match: { topics: ["job.support.*"], first_time_action: true }, decision: require_approval }
  - { id: pass, match: { topics: ["*"] }, decision: allow }
"""


def test_each_intent_is_judged_as_the_gate_itself_judges_under_that_bundle() -> None:
    """Windows, retries and first times are those that a gate finds which observes the same traffic by the new rules."""
    plain, observing = World(files(PASS)), World(files(TRAFFIC, bundle="mode: observe\n"))
    for world in (plain, observing):
        for number in range(48):
            job = f"j{number}"
            agent = ("deployer", "reader")[number % 2]
            topic = ("job.support.refund", "job.support.credit", "job.other")[number % 3]
            refund(world, job, number, f"o{number // 14}", agent=agent, topic=topic)
            if number % 4 == 3:
                done(world, job, succeeded=number % 5 > 0)
            world.log.advance(HOUR_MS // (6 if number < 24 else 40))
    report = impact(plain, TRAFFIC)
    wanted: dict[str, int] = {}
    rules: dict[str, int] = {}
    for decision in observing.events("job.decisions", Decision):
        assert decision.observed is not None
        wanted[decision.observed.decision] = wanted.get(decision.observed.decision, 0) + 1
        if decision.observed.decision != "ALLOW":
            name = f"layer/{decision.observed.rules[0].id}"
            rules[name] = rules.get(name, 0) + 1
    assert report.after.decisions == wanted
    assert report.tightened == rules
    assert len(rules) == 4


def test_a_window_holds_one_large_thing_that_was_split() -> None:
    """Five refunds of 25 passed; by a window over the day the fifth would have waited."""
    world = World(files(PASS))
    for number in range(5):
        refund(world, f"j{number}", 25)
    report = impact(world, SPLIT)
    assert report.after.decisions == {"ALLOW": 4, "REQUIRE_APPROVAL": 1}
    assert [(rule.rule, rule.before, rule.after, rule.place) for rule in report.held_rules] == [
        ("layer/split", 0, 1, "above")
    ]


def test_what_lies_before_the_time_teaches_and_is_not_counted() -> None:
    """A window knows of the morning, though only the afternoon is looked at."""
    world = World(files(PASS))
    for number in range(4):
        refund(world, f"j{number}", 25)
    world.log.advance(HOUR_MS)
    noon_ms = world.log.clock_ms
    refund(world, "late", 25)
    report = impact_since(world, noon_ms, SPLIT)
    assert (report.intents, report.after.decisions) == (1, {"REQUIRE_APPROVAL": 1})


def test_a_job_counts_once_however_often_it_was_judged() -> None:
    """A second judgement, after an approval or a lapse under another snapshot, is none of the report's."""
    world = World(files(ASK))
    for job in ("j1", "j2"):
        refund(world, job, 60)
    world.decide("j2", "deny")
    world.activate(files(PASS))
    world.decide("j1", "approve")
    refund(world, "j3", 60)
    world.activate(files(PASS + "# again\n", bundle="version: v2\n"))
    (grant,) = world.grants("j3")
    world.lapse(grant)
    assert [each.job_id for each in world.events("job.decisions", Decision)] == ["j1", "j2", "j1", "j3", "j3"]
    report = impact(world, PASS)
    assert (report.intents, report.skipped, report.widened_count) == (3, {}, 2)


def test_an_id_that_is_forgotten_may_come_again_as_another_job() -> None:
    """Each time it is a job of its own, also when nobody wrote how the first ended: a denial is an end."""
    world = World(files(DENY))
    refund(world, "j1")
    world.log.advance(REMEMBERED_MS + 1)
    refund(world, "j1")
    assert len(world.events("job.decisions", Decision)) == 2
    assert impact(world, PASS).widened_count == 2


def test_a_job_that_a_pause_held_is_found() -> None:
    """Its decision answers a timer; the intent is the one that was held."""
    world = World(files(PASS))
    world.command("pause", "agent:deployer")
    refund(world, "j1", 60)
    world.command("resume", "agent:deployer")
    world.advance(5)
    report = impact(world, ASK)
    assert (report.intents, report.skipped, report.tightened) == (1, {}, {"layer/ask": 1})


def test_a_job_that_waited_for_room_counts_from_when_it_was_first_judged() -> None:
    """What comes between the hold and the decision finds it in its window, as online."""
    world = World(files(ASK), open_requests_max=1)
    world.command("pause", "agent:deployer")
    refund(world, "j1", 10)
    refund(world, "j2", 60)
    world.command("resume", "agent:deployer")
    world.advance(5)
    world.decide("j1", "deny")
    refund(world, "j3", 60)
    world.decide("j3", "deny")
    world.advance(20)
    assert [each.job_id for each in world.events("job.decisions", Decision)] == ["j1", "j3", "j2"]
    assert impact(world, SPLIT).after.decisions == {"REQUIRE_APPROVAL": 2, "ALLOW": 1}


def test_what_the_submitter_asks_for_is_asked_under_any_bundle() -> None:
    """An approval that the agent itself wants stays, and is no change."""
    world = World(files(PASS))
    refund(world, "j1", ask=Ask(reason="unsure"))
    report = impact(world, PASS)
    assert (report.after.decisions, report.widened_count, report.tightened_count) == ({"REQUIRE_APPROVAL": 1}, 0, 0)
    observed = World(files(PASS, bundle="mode: observe\n"))
    refund(observed, "j1", ask=Ask(reason="unsure"))
    assert impact(observed, PASS).tightened_count == 0


# --- what changes


def test_each_decision_that_widens_is_listed() -> None:
    """With job, agent, topic, before, after and the rules of both."""
    world = World(files(DENY))
    refund(world, "j1")
    world.activate(files(ASK))
    refund(world, "j2")
    report = impact(world, PASS)
    assert [
        (each.job_id, each.agent_id, each.topic, each.before, each.after, each.rules_before, each.rules_after)
        for each in report.widened
    ] == [
        ("j1", "deployer", "job.support.refund", "DENY", "ALLOW", ("layer/never",), ("layer/pass",)),
        ("j2", "deployer", "job.support.refund", "REQUIRE_APPROVAL", "ALLOW", ("layer/ask",), ("layer/pass",)),
    ]
    assert report.tightened_count == 0


@pytest.mark.parametrize(
    ("before", "after", "loosened", "tightened"),
    [
        ("max_runtime_sec: 5", "max_runtime_sec: 9", ("max_runtime_sec",), 0),
        ("max_runtime_sec: 5, read_only: true", "max_runtime_sec: 4", ("read_only",), 0),
        ("max_runtime_sec: 9", "max_runtime_sec: 5", (), 1),
        ("max_runtime_sec: 5", "max_runtime_sec: 5, read_only: true", (), 1),
        ("max_runtime_sec: 5", "max_runtime_sec: 5", (), 0),
    ],
)
def test_a_constraint_that_is_gone_or_looser_widens(
    before: str, after: str, loosened: tuple[str, ...], tightened: int
) -> None:
    """The decision's word alone says nothing."""
    world = World(files(CAPPED % before))
    refund(world, "j1")
    report = impact(world, CAPPED % after)
    assert [change.loosened for change in report.widened] == ([loosened] if loosened else [])
    assert report.tightened_count == tightened


def test_what_tightens_is_counted_by_rule_with_what_became_of_it() -> None:
    """Of those newly asked it says how many failed or were an incident."""
    world = World(files(PASS))
    for job in ("j1", "j2", "j3"):
        refund(world, job)
        done(world, job, succeeded=job == "j2")
    incident = Incident(incident_id="i1", agent_id="deployer", job_id="j2", kind="wrong", note="refunded twice")
    world.signed(OPERATOR, "agent.incidents", "deployer", incident)
    world.run()
    report = impact(world, ASK)
    assert (report.tightened_count, report.tightened) == (3, {"layer/ask": 3})
    assert report.newly_asked == {"intents": 3, "failed": 2, "incidents": 1}
    assert report.widened == []


def test_of_the_newly_spared_it_says_what_people_had_said() -> None:
    """A rule that people always denied is worth keeping."""
    world = World(files(ASK))
    for job in ("j1", "j2", "j3", "j4"):
        refund(world, job)
    world.decide("j1", "deny")
    world.decide("j2", "approve")
    world.decide("j3", "deny")
    report = impact(world, PASS)
    assert report.newly_spared == {"intents": 4, "denied": 2, "approved": 1, "open": 1}
    assert [change.asked for change in report.widened] == ["denied", "approved", "denied", "open"]


def test_agents_that_the_bundle_does_not_enrol_are_refused_and_payloads_that_do_not_fit_are_denied() -> None:
    """The one is neither wider nor tighter, since the gate would not have judged it; the other is a denial."""
    world = World(files(PASS))
    refund(world, "j1")
    refund(world, "j2", agent="reader")
    without = yaml.safe_load(policy_files()["agents.yaml"])
    without["agents"] = [agent for agent in without["agents"] if agent["id"] != "reader"]
    schema = {"actions": [{"topics": ["*"], "payload_schema": {"type": "object", "required": ["why"]}}]}
    report = impact(world, PASS, agents=yaml.safe_dump(without), actions=yaml.safe_dump(schema))
    assert [(each.agent_id, each.why.partition(":")[0], each.intents) for each in report.refused] == [
        ("reader", "the bundle does not enrol the agent", 1),
    ]
    assert (report.widened_count, report.tightened) == (0, {"actions/payload-schema": 1})
    assert report.after.decisions == {"REFUSED": 1, "DENY": 1}


# --- modes


def test_an_observed_log_is_the_before_of_a_bundle_that_enforces() -> None:
    """Turning the same rules to enforce changes nothing that was not seen before."""
    world = World(files(ASK, bundle="mode: observe\n"))
    refund(world, "j1")
    report = impact(world, ASK)
    assert report.before is not None
    assert (report.before.held, report.after.held) == (1, 1)
    assert (report.widened_count, report.tightened_count) == (0, 0)


def test_a_bundle_that_stops_enforcing_widens_all_that_was_held() -> None:
    """What it would hold is said, and what it lets through is listed."""
    world = World(files(ASK))
    refund(world, "j1")
    report = impact(world, ASK, bundle="mode: observe\n")
    assert [(change.before, change.after) for change in report.widened] == [("REQUIRE_APPROVAL", "ALLOW")]
    assert report.only_observed == 1


def test_two_observed_bundles_are_compared_by_what_they_would_do() -> None:
    """Nothing acts in either, so what would act is all there is."""
    world = World(files(ASK, bundle="mode: observe\n"))
    refund(world, "j1")
    assert impact(world, ASK, bundle="mode: observe\n").widened_count == 0
    assert impact(world, PASS, bundle="mode: observe\n").widened_count == 1


# --- break-glass


def test_runs_under_break_glass_come_first() -> None:
    """With who broke it, why, what the new policy says, and whether people have looked at it."""
    people = yaml.safe_load(policy_files()["reviewers.yaml"])
    people["people"][0]["roles"] = ["commander"]
    extra = {"reviewers": yaml.safe_dump(people), "bundle": "break_glass: { role: commander, max_sec: 3600 }\n"}
    world = World(files(ASK, **extra))
    until_ms = world.log.clock_ms + 60_000
    command = Command(
        command_id="g1", kind="break_glass", scope="everything", by="person/ken", reason="fire", until_ms=until_ms
    )
    world.signed(PEOPLE["ken"], COMMANDS, "everything", command)
    refund(world, "j1")
    report = impact(world, ASK, **extra)
    (run,) = report.break_glass
    assert (run.job_id, run.by, run.reason, run.review, run.after) == (
        "j1",
        "person/ken",
        "fire",
        "open",
        "REQUIRE_APPROVAL",
    )
    assert next(iter(msgspec.to_builtins(report))) == "break_glass_count"
    world.decide("j1", "approve", "mia")
    assert impact(world, ASK, **extra).break_glass[0].review == "approved"
    assert impact(world, ASK, **extra).widened_count == 0


# --- what is not known, and figures


def test_what_cannot_be_known_is_skipped_and_said() -> None:
    """An intent that is gone, or whose payload only others can open, is counted by its reason, never guessed."""
    world = World(files(PASS))
    for job in ("j1", "j2", "j3"):
        refund(world, job)

    def sealed(record: Record) -> Record:
        intent = CODEC.decode(record.value)
        assert isinstance(intent, Intent)
        closed = msgspec.structs.replace(intent.payload, algorithm="other")
        return msgspec.structs.replace(record, value=CODEC.encode(msgspec.structs.replace(intent, payload=closed)))

    records = world.records()
    first, second = [record for record in records if record.topic == "job.intents"][:2]
    kept = [sealed(record) if record is second else record for record in records if record is not first]
    report = impact_of_log(kept, CODEC, policy(ASK))
    assert (report.intents, report.skipped) == (1, {GONE: 1, SEALED: 1})


def test_requests_an_hour_are_given_by_mean_and_busiest_hour() -> None:
    """Over the span of the intents; the hour is one of the clock."""
    world = World(files(PASS))
    world.log.advance(HOUR_MS - world.log.clock_ms % HOUR_MS)
    start_ms = world.log.clock_ms
    for number, minutes in enumerate([0, 130, 5, 5, 100]):
        world.log.advance(minutes * 60_000)
        refund(world, f"j{number}", 200 if number else 1)
    report = impact(world, LARGE)
    assert report.before is not None
    assert (report.before.requests_per_hour_mean, report.before.requests_busiest_hour) == (0.0, 0)
    assert (report.after.held, report.after.requests_per_hour_mean) == (4, 1.0)
    assert (report.after.requests_busiest_hour, report.after.busiest_hour_ms) == (3, start_ms + 2 * HOUR_MS)


@pytest.mark.parametrize(("large", "place"), [(0, "below"), (1, "within"), (2, "within"), (3, "above")])
def test_the_held_share_is_set_against_5_to_10_percent(large: int, place: str) -> None:
    """Both ends are within."""
    world = World(files(PASS))
    for number in range(20):
        refund(world, f"j{number}", 200 if number < large else 1)
    report = impact(world, LARGE)
    assert (report.after.held_share, report.after.held_place) == (large / 20, place)


def test_a_sealed_payload_is_judged_again_and_an_erased_one_counted_apart(tmp_path: Path) -> None:
    """With the key store at hand sealed jobs count; without it none does; erased is not the same as not here."""

    class Sealing(World):
        keys = StoreKeyring(KeyStore(tmp_path / "keystore.db", make=True), creates=True)

    world = Sealing(files(PASS), sealing=AES_256_GCM)
    for job in ("j1", "j2", "j3"):
        refund(world, job)
    KeyStore(tmp_path / "keystore.db").erase_job(TENANT, "deployer", "j2", "asked to", "operator/olga")
    report = impact_of_log(world.records(), CODEC, policy(ASK), 0, world.keys)
    assert (report.intents, report.skipped) == (2, {ERASED: 1})
    without = impact_of_log(world.records(), CODEC, policy(ASK))
    assert (without.intents, without.skipped) == (0, {SEALED: 3})
