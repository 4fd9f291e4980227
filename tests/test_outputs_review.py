"""What leaves is reviewed once: allowed, redacted, or held until a person decides, whatever comes between."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from world import PEOPLE, World, ids, policy_files

from sluicegate.schemas.events import (
    ApprovalRequest,
    AttemptEnded,
    Breached,
    Closed,
    Ended,
    Grant,
    GrantRefused,
    Quarantined,
    Refused,
    Result,
    ViewAccepted,
    Viewed,
)
from sluicegate.schemas.payload import unseal

SSN = "536-90-4399"
PAGED = {"customer": {"name": "Ann", "ssn": SSN}, "internal_notes": "called twice", "total": 12.5}
LEAKED = {"note": "use ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8", "ok": True, "ssn": SSN}


def actions(**more: Any) -> str:
    return yaml.safe_dump({"actions": [{"topics": ["job.crm.*"], "risk_tags": ["read"], **more}]})


@pytest.fixture
def world() -> World:
    world = World(policy_files(**{"actions.yaml": actions()}))
    world.submit("j1", "job.crm.list")
    world.start(grant_of(world))
    return world


def grant_of(world: World) -> Grant:
    return world.grants("j1")[-1]


def finish(world: World, value: Any, **changes: Any) -> None:
    world.finish(grant_of(world), json.dumps(value).encode(), **changes)


def result(world: World) -> Result:
    (found,) = world.events("job.results", Result)
    return found


def opened(found: Result) -> Any:
    assert found.output is not None
    return json.loads(unseal(found.output)[0])


def decide(world: World, choice: str | None, word: Any = "approve", **changes: Any) -> None:
    world.decide("j1", word, choice=choice, **changes)


def breach(world: World, constraint: str = "network_allowlist", **changes: Any) -> None:
    event = Breached(
        **ids(grant_of(world)), worker_id="w1", constraint=constraint, detail="CONNECT evil.example:443", prevented=True
    )
    for name, value in changes.items():
        setattr(event, name, value)
    world.plain("job.starts", "deployer", event)
    world.run()


def test_an_output_without_a_finding_leaves_as_it_came(world: World) -> None:
    """ALLOW: the very bytes, and both hashes are of them."""
    finish(world, {"orders": [1, 2]})
    found = result(world)
    assert (found.output_safety_decision, found.redaction_details) == ("ALLOW", [])
    assert (opened(found), found.result_hash) == ({"orders": [1, 2]}, found.output_hash)


def test_what_is_for_nobody_outside_is_taken_out(world: World) -> None:
    """REDACT: the reviewed document, one detail a field, hashes of both versions, the snapshot and the rule."""
    finish(world, PAGED)
    found = result(world)
    assert opened(found) == {"customer": {"name": "Ann", "ssn": "[REDACTED]"}, "total": 12.5}
    assert found.output_safety_decision == "REDACT"
    details = {(each.field, each.reason, each.action) for each in found.redaction_details}
    assert details == {
        ("customer.ssn", "PII detected", "replaced with [REDACTED]"),
        ("internal_notes", "Internal-only data in customer-facing output", "field removed"),
    }
    assert (found.original_fields_redacted, found.rule) == (2, "customer")
    assert found.result_hash != found.output_hash
    assert found.classes == ["ssn"]


def test_the_audience_of_the_topic_chooses_the_rule() -> None:
    """What colleagues may read is decided by `actions.yaml`, not by the worker."""
    world = World(policy_files(**{"actions.yaml": actions(audience="internal")}))
    world.submit("j1", "job.crm.list")
    world.start(grant_of(world))
    finish(world, {"mail": "ann@corp.io", "internal_notes": "x"})
    assert (result(world).output_safety_decision, result(world).rule) == ("ALLOW", "internal")


def test_a_suspicious_output_is_held_and_people_are_asked(world: World) -> None:
    """QUARANTINE: no result leaves; a request carries the masked form, the job goes on waiting for its end."""
    finish(world, LEAKED)
    assert world.events("job.results", Result) == []
    assert world.events("job.decisions", Closed) == []
    held, request = world.last("job.results", Quarantined), world.request("j1")
    assert (held.output_safety_decision, held.request_id) == ("QUARANTINE", request.request_id)
    assert (request.kind, request.origin, request.choices) == (
        "output",
        "outputs",
        ["release", "release_redacted", "destroy"],
    )
    shown = unseal(request.payload)[0].decode()
    assert "ghp_" not in shown
    assert SSN not in shown
    assert {detail.action for detail in held.redaction_details} == {"held"}


@pytest.mark.parametrize(
    ("choice", "word", "decision"),
    [("release", "approve", "ALLOW"), ("release_redacted", "approve", "REDACT"), ("destroy", "deny", "QUARANTINE")],
)
def test_a_person_decides_what_becomes_of_it(world: World, choice: str, word: Any, decision: str) -> None:
    """Released whole, released redacted, or destroyed: one result, with who chose and why."""
    finish(world, LEAKED)
    decide(world, choice, word)
    found = result(world)
    assert (found.output_safety_decision, found.choice, found.by, found.reason) == (
        decision,
        choice,
        "person/ken",
        "because",
    )
    if choice == "destroy":
        assert (found.output, found.result_hash) == (None, "")
    else:
        assert ("ghp_" in json.dumps(opened(found))) == (choice == "release")
    assert world.last("job.decisions", Closed).outcome == "succeeded"
    assert world.verified().clean


def test_nobody_decides_in_time_and_it_never_leaves(world: World) -> None:
    """Expired is not destroyed: no choice, nobody's name, and still nothing leaves."""
    finish(world, LEAKED)
    world.advance(3600)
    found = result(world)
    assert (found.output_safety_decision, found.output, found.choice, found.by) == ("QUARANTINE", None, None, None)
    assert world.verified().clean


@pytest.mark.parametrize(
    ("choice", "word"),
    [(None, "approve"), ("destroy", "approve"), ("release", "deny"), ("correct", "approve"), ("", "deny")],
)
def test_a_verdict_on_an_output_says_what_it_chooses(world: World, choice: str | None, word: Any) -> None:
    """A plain approval, or a choice that contradicts its verdict, is refused, and the output stays held."""
    finish(world, LEAKED)
    decide(world, choice, word)
    assert world.last("approval.events", Refused).code == "bad_choice"
    assert world.events("job.results", Result) == []


def test_nothing_is_chosen_of_an_intent() -> None:
    """A choice where none is offered is refused by name."""
    world = World()
    world.submit("j1", "job.deploy.web")
    decide(world, "release")
    assert world.last("approval.events", Refused).code == "bad_choice"


def test_a_held_output_is_the_first_and_others_are_late(world: World) -> None:
    """Whatever comes while people look at it changes nothing."""
    finish(world, LEAKED)
    finish(world, {"other": 1})
    assert world.last("job.results", Refused).code == "late"
    world.advance(60)
    assert world.events("job.results", AttemptEnded) == []
    decide(world, "release_redacted")
    finish(world, {"other": 2})
    assert result(world).output_safety_decision == "REDACT"


def test_a_second_resolution_changes_nothing(world: World) -> None:
    """Two verdicts, one result."""
    finish(world, LEAKED)
    decide(world, "destroy", "deny")
    request = world.request("j1")
    verdict = world.verdict("j1", "approve", "mia", choice="release")
    world.signed(PEOPLE["mia"], "approval.verdicts", request.desk, verdict)
    world.run()
    assert world.last("approval.events", Refused).code == "already_resolved"
    assert result(world).output is None


def test_an_owner_does_not_release_an_output_of_their_agent(world: World) -> None:
    """The rule of every request holds here, too."""
    finish(world, LEAKED)
    decide(world, "release", person="rosa")
    assert world.last("approval.events", Refused).code == "own_agent"


def test_a_failed_attempts_words_are_reviewed_as_well(world: World) -> None:
    """An exception's text can leak what its arguments held."""
    finish(world, {"error": {"type": "KeyError", "message": f"no customer with {SSN}"}}, succeeded=False)
    found = result(world)
    assert (found.succeeded, found.output_safety_decision) == (False, "REDACT")
    assert SSN not in json.dumps(opened(found))


def test_what_is_no_json_is_held_and_can_only_be_released_whole_or_destroyed(world: World) -> None:
    """Nothing that review cannot read passes it."""
    world.finish(grant_of(world), b'{"a":NaN')
    assert world.request("j1").choices == ["release", "destroy"]
    decide(world, "release_redacted")
    assert world.last("approval.events", Refused).code == "bad_choice"


# --- breaches


def test_the_output_of_an_attempt_that_broke_a_constraint_is_held(world: World) -> None:
    """A breach is an incident, and what comes of it waits for a person even when it is clean."""
    breach(world)
    refused = world.last("job.results", Refused)
    assert (refused.code, refused.incident, refused.subject) == ("constraint_broken", True, "constraint")
    finish(world, {"ok": True})
    held = world.last("job.results", Quarantined)
    assert (held.rule, held.reason) == ("breach", "Its attempt broke `network_allowlist`")
    decide(world, "release_redacted")
    assert (result(world).output_safety_decision, opened(result(world))) == ("REDACT", {"ok": True})


def test_an_output_that_is_first_tells_of_the_breach_itself(world: World) -> None:
    """Topics have no order between them: review must not depend on which it reads first."""
    finish(world, {"ok": True}, breached=["max_amount_usd"])
    assert world.last("job.results", Quarantined).rule == "breach"
    breach(world, "max_amount_usd")
    assert world.last("job.results", Refused).incident


def test_a_breach_without_bounds_is_refused(world: World) -> None:
    """What a worker says is copied into a journal kept for ever."""
    breach(world, detail="x" * 2_000)
    assert world.last("job.results", Refused).code == "malformed"


def test_many_breaches_are_remembered_in_a_bound(world: World) -> None:
    """The entry of an attempt does not grow with what it does."""
    for number in range(40):
        breach(world, f"c{number}")
    finish(world, {"ok": True})
    assert len(world.last("job.results", Quarantined).reason) < 400


def test_an_attempt_that_overran_has_failed_and_is_not_run_again() -> None:
    """Killed for its run time: no output, an end for its agent, no second attempt even where retry is safe."""
    world = World(policy_files(**{"actions.yaml": actions(retry="safe")}))
    world.submit("j1", "job.crm.list")
    world.start(grant_of(world))
    ended = Ended(**ids(grant_of(world)), worker_id="w1", outcome="overran", detail="ran longer than 5 s")
    world.plain("job.starts", "deployer", ended)
    world.run()
    assert world.last("job.results", AttemptEnded).outcome == "overran"
    closed = world.last("job.decisions", Closed)
    assert (closed.outcome, closed.reason, len(world.grants("j1"))) == ("failed", "ran longer than 5 s", 1)
    assert world.verified().clean


@pytest.mark.parametrize(("code", "grants"), [("constraint_exceeded", 1), ("constraint_unenforceable", 2)])
def test_a_worker_that_cannot_keep_a_constraint_runs_nothing(code: str, grants: int) -> None:
    """Arguments beyond a limit end the job; a worker that cannot enforce leaves it to another one."""
    world = World(policy_files(**{"actions.yaml": actions()}))
    world.submit("j1", "job.crm.list")
    grant = grant_of(world)
    refusal = GrantRefused(**ids(grant), worker_id="w1", granted_seq=grant.granted_seq, code=code, message="said")
    world.plain("job.starts", "deployer", refusal)
    world.run()
    assert len(world.grants("j1")) == grants
    assert [event.outcome for event in world.events("job.decisions", Closed)] == ["failed"] * (grants == 1)


# --- views


def view(world: World, person: str = "ken", **changes: Any) -> None:
    request = world.request("j1")
    viewed = Viewed(view_id=world.number("view"), request_id=request.request_id, desk="desk", approver_id=person)
    for name, value in changes.items():
        setattr(viewed, name, value)
    world.signed(PEOPLE[person], "approval.verdicts", "desk", viewed)
    world.run()


def test_who_looks_at_what_is_masked_is_on_record(world: World) -> None:
    """A view is an event of the desk; it changes nothing else."""
    finish(world, LEAKED)
    view(world)
    found = world.last("approval.events", ViewAccepted)
    assert (found.approver_id, found.request_id) == ("ken", world.request("j1").request_id)
    decide(world, "destroy", "deny")
    assert world.verified().clean


@pytest.mark.parametrize(
    ("person", "changes", "code"),
    [
        ("rosa", {}, "own_agent"),
        ("ken", {"approver_id": "mia"}, "wrong_signer"),
        ("ken", {"request_id": "request-none"}, "unknown_request"),
        ("ken", {"desk": "other"}, "misrouted"),
    ],
)
def test_a_view_that_nobody_may_have_is_refused(world: World, person: str, changes: Any, code: str) -> None:
    """Owners, other people's names, unknown requests."""
    finish(world, LEAKED)
    view(world, person, **changes)
    assert world.last("approval.events", Refused).code == code
    assert world.events("approval.events", ViewAccepted) == []


def test_after_the_end_nothing_is_shown_any_more(world: World) -> None:
    """A resolved request gives no key."""
    finish(world, LEAKED)
    decide(world, "destroy", "deny")
    view(world)
    assert world.last("approval.events", Refused).code == "unknown_request"


def test_the_state_forgets_a_decided_output(world: World) -> None:
    """The raw output stands in the state no longer than people need."""
    finish(world, LEAKED)
    decide(world, "release_redacted")
    names = [name for store in world.engines[1]._group.state.values() for name in store]
    assert not [name for name in names if name.startswith(("raw/", "redacted/", "kept/"))]


def test_requests_of_outputs_are_withdrawn_by_nobody_else(world: World) -> None:
    """The agent's withdrawal of its job does not release or drop a held output."""
    finish(world, LEAKED)
    world.withdraw("j1")
    assert world.events("job.results", Result) == []
    assert len(world.events("approval.requests", ApprovalRequest)) == 1
