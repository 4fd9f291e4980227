"""What the gate refuses, denies and takes back when something changed since: limits, schemas, policies, revocations."""

from __future__ import annotations

import yaml
from gate_world import PASS, files
from world import World, policy_files

from sluicegate.schemas.events import Closed, Decision, Refused, Repeated

# --- limits and schemas


def test_distinct_topics_in_a_day_are_limited() -> None:
    """Topics already used that day still pass; the next day counts anew."""
    world = World(files(free=PASS), topics_per_day_max=2)
    for number in range(3):
        world.submit(f"j{number}", f"job.made.up-{number}")
    assert world.last("job.decisions", Refused).code == "topics_per_day_max"
    world.submit("again", "job.made.up-1")
    assert world.last("job.decisions", Decision).job_id == "again"
    world.log.advance(86_400_000)
    world.submit("tomorrow", "job.made.up-7")
    assert world.last("job.decisions", Decision).job_id == "tomorrow"


def test_a_payload_that_is_not_as_actions_wants_it_is_denied() -> None:
    """The denial names the place in the schema; decisions are read by others, so it holds no word of the payload."""
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "maximum": 3}}}
    actions = yaml.safe_dump({"actions": [{"topics": ["*"], "payload_schema": schema}]})
    world = World({**files(free=PASS), "actions.yaml": actions})
    world.submit("j1", "job.x", b'{"n":4}')
    denied = world.last("job.decisions", Decision)
    assert (denied.decision, denied.rules[0].id, denied.reason) == (
        "DENY",
        "payload-schema",
        "the payload is not as actions.yaml wants it: `properties.n.maximum` does not hold",
    )
    world.submit("j2", "job.x", b'{"n":3}')
    assert world.last("job.decisions", Decision).job_id == "j2"


def test_a_schema_that_comes_while_a_job_waits_holds_for_it() -> None:
    """What was held is judged by what holds then, its payload too; and what was answered keeps its answer."""
    schema = {"properties": {"n": {"type": "integer", "maximum": 3}}}
    strict = {
        **files(free=PASS),
        "actions.yaml": yaml.safe_dump({"actions": [{"topics": ["*"], "payload_schema": schema}]}),
    }
    world = World(files(free=PASS))
    world.submit("early", "job.x", b'{"n":4}')
    world.command("pause", "job:held")
    world.submit("held", "job.x", b'{"n":4}')
    world.activate(strict)
    world.command("resume", "job:held")
    world.advance(10)
    assert world.last("job.decisions", Decision).decision == "DENY"
    assert world.grants("held") == []
    world.submit("early", "job.x", b'{"n":4}')
    assert world.last("job.decisions", Repeated).decision == "ALLOW"


def test_every_intent_counts_against_the_minute() -> None:
    """What comes again and what is malformed costs as much as what is new."""
    world = World(files(free=PASS), intents_per_min_max=3)
    for _ in range(2):
        world.submit("j1", "job.x")
    world.submit("j2", "job.x", confidence=7.0)
    world.submit("j1", "job.x")
    assert world.last("job.decisions", Refused).code == "intents_per_min_max"


# --- taking back


def test_a_full_desk_lets_no_job_past_a_tighter_policy() -> None:
    """A job that was approved, paused and judged again waits for room, and then for people, not for a timer."""
    ask = 'rules: [{ id: ask, match: { topics: ["*"] }, decision: require_approval }]\n'
    world = World(files(p='rules: [{ id: ask, match: { topics: ["job.x.*"] }, decision: require_approval }]\n', q=ask))
    world.activate(files(p=ask.replace('"*"', '"job.x.*"'), q=PASS), open_requests_max=2)
    world.submit("v", "job.x.y")
    world.command("pause", "job:v")
    world.decide("v", "approve")
    world.activate(files(p=ask), open_requests_max=2)
    for number in range(2):
        world.submit(f"f{number}", "job.z")
    world.command("resume", "job:v")
    for _ in range(6):
        world.advance(61)
    assert world.grants("v") == []
    assert world.verified().faults == []


def test_a_revocation_by_tag_holds_though_another_policy_drops_the_tag() -> None:
    """What was asked for under a tag is taken back by it."""
    world = World()
    world.submit("j1", "job.deploy.web")
    world.command("revoke", "tag:prod")
    world.activate({**policy_files(), "actions.yaml": "actions: []\n"})
    world.decide("j1", "approve")
    assert world.last("job.decisions", Closed).outcome == "withdrawn"


def test_constraints_that_changed_their_type_are_decided_anew() -> None:
    """What people agreed to has no meaning under another type, so they are asked again."""

    def bundle(kind: str, merge: str, value: str) -> dict[str, str]:
        return {
            **policy_files(),
            "bundle.yaml": f"constraint_types: {{ scope: {{ type: {kind}, merge: {merge} }} }}\n",
            "more.yaml": f"""
rules:
  - match: {{ topics: ["job.deploy.*"] }}
    decision: require_approval
    constraints: {{ scope: {value} }}
""",
        }

    world = World(bundle("number", "min", "3"))
    world.submit("j1", "job.deploy.web")
    world.activate(bundle("list", "intersection", "[a]"))
    world.decide("j1", "approve")
    decision = world.last("job.decisions", Decision)
    assert (decision.decision, decision.rules[-1].id) == ("REQUIRE_APPROVAL", "constraints-changed")
    world.decide("j1", "approve")
    assert len(world.grants("j1")) == 1


def test_a_revocation_takes_back_what_waits_for_a_person() -> None:
    """An approval that comes after it grants nothing; a job that comes after it is judged as ever."""
    world = World()
    world.submit("j1", "job.deploy.web")
    world.command("revoke", "agent:deployer", reason="key leaked")
    world.decide("j1", "approve")
    closed = world.last("job.decisions", Closed)
    assert (closed.outcome, closed.by, closed.reason) == ("withdrawn", "operator/olga", "revoked: key leaked")
    assert world.grants("j1") == []
    world.submit("j2", "job.crm.read")
    assert len(world.grants("j2")) == 1
    assert world.verified().faults == []
