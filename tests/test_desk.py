"""The desk's step: verdicts count once and only with whole evidence; every request ends once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from world import PEOPLE, World, agent_key

from sluicegate.schemas.events import Noted, Refused, Resolution, Resolved, TimerFired, VerdictAccepted


@pytest.fixture
def world() -> World:
    world = World()
    world.submit("j1", "job.deploy.web")
    return world


def refusal(world: World) -> Refused:
    return world.last("approval.events", Refused)


def test_a_verdict_resolves_with_its_evidence(world: World) -> None:
    """The resolution carries who, when, snapshot, hash and reason, and stands under the reply key."""
    world.decide("j1", "approve")
    resolution, request = world.last("approval.resolutions", Resolution), world.request("j1")
    evidence = resolution.verdicts[0]
    assert (resolution.outcome, evidence.approver_id, evidence.reason) == ("approved", "ken", "because")
    assert (evidence.job_hash, evidence.policy_snapshot) == (request.job_hash, request.policy_snapshot)
    assert world.log.records("approval.resolutions")[0].key == b"deployer"


@pytest.mark.parametrize("field", ["policy_snapshot", "job_hash", "approver_id", "decision_ts_ms"])
def test_incomplete_evidence_is_refused_by_name(world: World, field: str) -> None:
    """Each field of the evidence contract is required; the refusal names what is missing."""
    changes: dict[str, Any] = {field: None}
    world.decide("j1", "approve", **changes)
    assert refusal(world).code == "incomplete"
    assert f"`{field.removesuffix('_ms')}`" in refusal(world).message
    assert world.grants("j1") == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"job_hash": "0" * 64}, "hash_mismatch"),
        ({"policy_snapshot": "v1:000000"}, "snapshot_mismatch"),
        ({"approver_id": "mia"}, "wrong_signer"),
        ({"request_id": "request-none"}, "unknown_request"),
        ({"constraints": '{"max_runtime_sec":901}'}, "looser"),
        ({"constraints": '{"max_runtime":1}'}, "looser"),
        ({"constraints": "[1]"}, "bad_constraints"),
    ],
)
def test_a_verdict_that_does_not_fit_is_refused(world: World, changes: dict[str, Any], code: str) -> None:
    """Another job, another snapshot, another's name, no such request, or a loosened constraint."""
    world.decide("j1", "approve", **changes)
    assert refusal(world).code == code
    assert world.events("approval.resolutions", Resolution) == []


def test_nobody_approves_their_own_agents_job(world: World) -> None:
    """The owner of the agent may not decide, whatever the verdict."""
    world.decide("j1", "approve", person="rosa")
    assert refusal(world).code == "own_agent"


def test_nobody_approves_what_is_done_on_their_behalf() -> None:
    """The person for whom the agent acts may not decide."""
    world = World()
    world.submit("j1", "job.deploy.web", on_behalf_of="ken")
    world.decide("j1", "approve")
    assert refusal(world).code == "own_agent"


def test_the_second_verdict_is_told_who_won_and_when(world: World) -> None:
    """Two tabs, two people: one resolution; the loser learns the winner."""
    world.decide("j1", "approve")
    world.log.advance(1000)
    world.decide("j1", "deny", person="mia")
    resolved = world.events("approval.events", Resolved)
    assert (refusal(world).code, refusal(world).winner, refusal(world).winner_at_ms) == (
        "already_resolved",
        "ken",
        resolved[0].at_ms,
    )
    assert len(world.events("approval.resolutions", Resolution)) == len(resolved) == 1


def test_a_verdict_at_the_deadline_is_refused_even_if_the_firing_is_late(world: World) -> None:
    """The verdict's own append time decides, not when the watch got round to it."""
    world.log.advance(3_600_000)
    world.decide("j1", "approve")
    assert refusal(world).code == "expired"
    world.advance(0)
    assert world.last("approval.resolutions", Resolution).outcome == "expired"


def test_a_verdict_just_before_the_deadline_counts(world: World) -> None:
    """One millisecond is enough."""
    world.log.clock_ms = world.request("j1").expires_at_ms - 2
    world.decide("j1", "approve")
    assert world.log.records("approval.verdicts")[0].timestamp_ms == world.request("j1").expires_at_ms - 1
    world.advance(1)
    assert [event.outcome for event in world.events("approval.resolutions", Resolution)] == ["approved"]


def test_an_early_firing_ends_nothing_and_arms_again(world: World) -> None:
    """A watch whose clock runs ahead cannot expire a request."""
    request = world.request("j1")
    timer_id = f"expire/{request.request_id}"
    fired = TimerFired(owner="desk", key="desk", timer_id=timer_id, fire_at_ms=request.expires_at_ms)
    world.plain("timer.fired.desk", "desk", fired)
    world.run()
    assert world.last("approval.events", Noted).detail == "early"
    world.advance(3600)
    assert world.last("approval.resolutions", Resolution).outcome == "expired"


@pytest.mark.parametrize(("signer", "code"), [("agent", "unknown_key"), ("nobody", "unknown_key"), (None, "unsigned")])
def test_only_people_decide(world: World, signer: str | None, code: str) -> None:
    """An agent's signature, a stranger's and none at all do not count."""
    verdict = world.verdict("j1", "approve")
    if signer is None:
        world.plain("approval.verdicts", "desk", verdict)
    else:
        key = agent_key("deployer")
        if signer == "nobody":
            key.key_id = "person/nobody"
        world.signed(key, "approval.verdicts", "desk", verdict)
    world.run()
    assert (refusal(world).code, world.events("approval.events", VerdictAccepted)) == (code, [])


def test_a_replayed_verdict_counts_once(world: World) -> None:
    """The same record again finds the request resolved."""
    verdict = world.verdict("j1", "approve")
    for _ in range(2):
        world.signed(PEOPLE["ken"], "approval.verdicts", "desk", verdict)
    world.run()
    assert (refusal(world).code, len(world.events("approval.events", VerdictAccepted))) == ("already_resolved", 1)


def test_a_replayed_request_opens_nothing(world: World) -> None:
    """A request id is known for ever, also after its resolution."""
    record = world.log.records("approval.requests")[0]
    world.decide("j1", "approve")
    world.log.produce("approval.requests", record.key, record.value)
    world.run()
    assert world.last("approval.events", Noted).kind == "request"


def test_only_the_origin_withdraws(world: World) -> None:
    """Another application cannot end the gate's request."""
    from sluicegate.schemas.events import RequestWithdrawn

    request = world.request("j1")
    withdrawn = RequestWithdrawn(request_id=request.request_id, desk="desk", origin="workflows")
    world.plain("approval.requests", "desk", withdrawn)
    world.run()
    assert world.events("approval.resolutions", Resolution) == []


def test_the_desk_keeps_no_payload(world: World) -> None:
    """What the desk remembers of a request has neither payload nor context."""
    world = World()
    world.submit("j2", "job.deploy.web", b'{"secret":"hunter2-hunter2"}')
    state = world.engines[2]._group.state
    assert not any(b"hunter2" in value for entries in state.values() for value in entries.values())


def test_constraints_of_the_ceiling_stay_where_the_verdict_is_silent(world: World) -> None:
    """A verdict adds and tightens; what it leaves out stays."""
    world.decide("j1", "approve", constraints='{"max_amount_usd":10}')
    merged = json.loads(world.last("approval.resolutions", Resolution).constraints)
    assert merged == {"max_amount_usd": 10, "max_runtime_sec": 900}


def test_a_stale_verdict_is_refused(world: World) -> None:
    """Signed more than a day before it was appended."""
    world = World(request_timeout_sec=3 * 24 * 3600)
    world.submit("j1", "job.deploy.web")
    verdict = world.verdict("j1", "approve")
    world.signed(PEOPLE["ken"], "approval.verdicts", "desk", verdict, issued_ms_ago=86_400_001)
    world.run()
    assert refusal(world).code == "stale"
