"""What a person edits before approving: judged anew, granted as edited, and nothing else reaches the worker."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from world import World, policy_files

from sluicegate.schemas.events import Closed, Decision, Granted, Refused, Resolution, VerdictAccepted
from sluicegate.schemas.payload import job_hash, seal, unseal

RULES = {
    "rules": [
        {
            "id": "too-much",
            "match": {"topics": ["job.pay.*"], "amount_usd_above": 900},
            "decision": "deny",
            "reason": "too much for anybody",
        },
        {
            "id": "large",
            "match": {"topics": ["job.pay.*"], "amount_usd_above": 500},
            "decision": "require_approval",
            "reason": "a lead decides",
            "approvals": 1,
        },
        {
            "id": "any",
            "match": {"topics": ["job.pay.*"]},
            "decision": "require_approval",
            "reason": "a person decides",
            "editable": ["amount", "lines[0].note"],
        },
    ]
}
ACTIONS = {"actions": [{"topics": ["job.pay.*"], "risk_tags": ["money"], "facts": {"amount_usd": "amount"}}]}
PAYLOAD = {"amount": 100, "lines": [{"note": "urgent"}], "to": "c-1"}


@pytest.fixture
def world() -> World:
    world = World(policy_files(**{"pay.yaml": yaml.safe_dump(RULES), "actions.yaml": yaml.safe_dump(ACTIONS)}))
    world.submit("j1", "job.pay.out", json.dumps(PAYLOAD).encode())
    return world


def approve(world: World, values: dict[str, Any], **changes: Any) -> None:
    sealed = seal(json.dumps(values).encode(), bytes(16))
    world.decide("j1", "approve", **{"edits": sealed, "edited": sorted(values), **changes})


def payload_of(world: World) -> Any:
    return json.loads(unseal(world.grants("j1")[-1].payload)[0])


def test_an_edited_payload_is_what_is_granted(world: World) -> None:
    """The grant holds the edited payload and its own hash, and says what was submitted."""
    assert world.request("j1").editable == ["amount", "lines[0].note"]
    approve(world, {"amount": 40, "lines[0].note": "checked"})
    assert payload_of(world) == {**PAYLOAD, "amount": 40, "lines": [{"note": "checked"}]}
    grant, granted = world.grants("j1")[-1], world.last("job.decisions", Granted)
    content, salt = unseal(grant.payload)
    assert grant.job_hash == job_hash(content, grant.topic, grant.agent_id, grant.risk_tags, salt)
    submitted = world.events("job.decisions", Decision)[0].job_hash
    assert grant.submitted_hash == granted.submitted_hash == submitted != grant.job_hash
    assert world.last("approval.events", VerdictAccepted).edited == ["amount", "lines[0].note"]
    assert world.last("approval.resolutions", Resolution).edited_by == "ken"


def test_what_was_edited_is_judged_anew(world: World) -> None:
    """An edit that meets a denial is denied, whoever made it: the facts are those of the edited payload."""
    approve(world, {"amount": 901})
    assert world.grants("j1") == []
    decision = world.last("job.decisions", Decision)
    assert (decision.decision, decision.reason) == ("DENY", "too much for anybody")
    assert decision.submitted_hash is not None


def test_an_edit_that_another_rule_holds_is_asked_anew_and_then_bound_to_the_edit(world: World) -> None:
    """A new approval rule opens a new request for the edited job; approving that one grants it."""
    approve(world, {"amount": 600})
    second = world.request("j1")
    assert [rule.id for rule in second.rules] == ["large"]
    assert second.editable == []
    world.decide("j1", "approve", person="mia")
    assert payload_of(world)["amount"] == 600


def test_the_same_job_submitted_again_is_still_the_same(world: World) -> None:
    """Editing changes what runs, not what the agent has submitted under the id."""
    approve(world, {"amount": 40})
    world.submit("j1", "job.pay.out", json.dumps(PAYLOAD).encode())
    assert len(world.grants("j1")) == 1
    assert world.events("job.decisions", Refused) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"edited": ["to"]}, "not_editable"),
        ({"edited": []}, "bad_edits"),
        ({"edits": None}, "bad_edits"),
        ({"edited": ["amount", "amount"]}, "bad_edits"),
        ({"verdict": "deny"}, "bad_edits"),
    ],
)
def test_an_edit_that_the_rules_do_not_permit_is_refused(world: World, changes: dict[str, Any], code: str) -> None:
    """Only editable paths, named beside the sealed values, and only in an approval."""
    approve(world, {"amount": 40}, **changes)
    assert world.last("approval.events", Refused).code == code
    assert world.grants("j1") == []


@pytest.mark.parametrize(
    "edits", [{"to": "c-2"}, {"amount": 40, "to": "c-2"}, {"lines[0].note": "x"}], ids=["other", "more", "another"]
)
def test_values_that_are_not_those_counted_are_not_applied(world: World, edits: dict[str, Any]) -> None:
    """The desk counts paths, the gate reads values: where the two differ nothing runs."""
    approve(world, edits, edited=["amount"])
    assert world.grants("j1") == []
    assert world.last("job.decisions", Closed).outcome == "denied"


def test_an_edit_of_what_is_not_there_runs_nothing() -> None:
    """An edit replaces; it adds no field that the agent has not asked for."""
    world = World(policy_files(**{"pay.yaml": yaml.safe_dump(RULES), "actions.yaml": yaml.safe_dump(ACTIONS)}))
    world.submit("j1", "job.pay.out", b'{"amount":1}')
    approve(world, {"lines[0].note": "x"})
    assert world.last("job.decisions", Closed).reason == "the approved edit of `lines[0].note` finds nothing there"


def test_a_log_with_edits_verifies(world: World) -> None:
    """Verify recomputes the edited job from the verdict."""
    approve(world, {"amount": 40})
    world.start(world.grants("j1")[-1])
    report = world.verified()
    assert report.faults == []
