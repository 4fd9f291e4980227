"""The step of outputs: no result without grant, start and output, in whatever order they come."""

from __future__ import annotations

import pytest
from world import World, ids

from sluicegate.schemas.events import AttemptEnded, Ended, Grant, GrantRefused, Noted, Progressed, Refused, Result
from sluicegate.streams.control_state import StepSettings


@pytest.fixture
def world() -> World:
    world = World()
    world.submit("j1", "job.crm.list")
    return world


def grant_of(world: World) -> Grant:
    return world.grants("j1")[-1]


def refusal(world: World) -> Refused:
    return world.last("job.results", Refused)


def test_the_output_may_come_before_the_start(world: World) -> None:
    """Topics have no order between them: an early output is parked and met after its start."""
    world.finish(grant_of(world))
    assert world.events("job.results", Result) == []
    world.start(grant_of(world))
    assert world.last("job.results", Result).succeeded


def test_start_and_output_may_come_before_the_grant_is_known() -> None:
    """What names a `seq` beyond what is known waits for it."""
    world = World()
    gate, outputs, desk = world.engines
    intent = world.intent("j1", "job.crm.list")
    from world import agent_key

    world.signed(agent_key("deployer"), "job.intents", "deployer", intent)
    world.engines = [gate]
    world.run()
    grant = world.grants("j1")[0]
    held = world.log.group
    assert held is not None
    decisions = world.log._entries[("job.decisions", world.log.records("job.decisions")[0].partition)]
    for entry in decisions:
        entry.visible_at_ms = world.log.clock_ms + 1000
    world.engines = [outputs]
    world.log.produce("job.starts", b"deployer", b"")
    world.start(grant)
    world.finish(grant)
    world.engines = [gate, outputs, desk]
    world.run()
    assert world.last("job.results", Result).grant_id == grant.grant_id


def test_a_start_without_a_grant_is_refused_at_once(world: World) -> None:
    """A `seq` that has passed without this grant: there is none."""
    world.start(grant_of(world), job_id="made-up", granted_seq=1)
    assert (refusal(world).code, refusal(world).incident) == ("no_grant", True)


def test_a_start_that_claims_a_future_grant_is_refused_in_time(world: World) -> None:
    """It is parked for `unmatched_wait_sec`, then refused; its output with it."""
    made_up = grant_of(world)
    made_up.job_id = "made-up"
    world.start(made_up, granted_seq=10_000)
    world.finish(made_up)
    assert world.last("job.results", Noted).kind == "parked"
    world.advance(15)
    assert world.events("job.results", Refused) == []
    world.advance(15)
    refused = world.events("job.results", Refused)
    assert {event.code for event in refused} == {"no_grant"}
    assert len(refused) == 3
    assert world.events("job.results", Result) == []


def test_a_start_read_long_after_its_time_still_waits_for_its_grant(world: World) -> None:
    """Outputs was away for longer than the wait: the first timer is over at once, and the grants may come after it."""
    late = grant_of(world)
    late.job_id = "late"
    world.start(late, granted_seq=10_000)
    world.advance(300)
    assert (world.last("job.results", Noted).detail, world.events("job.results", Refused)) == ("once more", [])
    world.advance(15)
    assert refusal(world).code == "no_grant"


def test_an_agents_jobs_in_flight_can_all_be_parked() -> None:
    """Else a crash of outputs, which reads starts before decisions afterwards, would lose the starts of true jobs."""
    limits = StepSettings()
    assert limits.parked_max >= 4 * limits.in_flight_max


def test_parking_is_bounded() -> None:
    """An agent's unmatched events do not grow without limit."""
    world = World(parked_max=2)
    world.submit("j1", "job.crm.list")
    for number in range(3):
        world.start(grant_of(world), job_id=f"made-up-{number}", granted_seq=10_000)
    assert refusal(world).code == "parked_max"


def test_a_second_start_is_refused(world: World) -> None:
    """An attempt starts once; the second worker's output is not taken."""
    world.start(grant_of(world))
    world.start(grant_of(world), worker="w2")
    assert (refusal(world).code, refusal(world).incident) == ("already_started", True)
    world.finish(grant_of(world), worker="w2")
    assert refusal(world).code == "late"
    assert world.events("job.results", Result) == []


def test_a_start_with_another_hash_is_refused(world: World) -> None:
    """Who altered a grant's payload gets no start and no result."""
    world.start(grant_of(world), job_hash="0" * 64)
    world.finish(grant_of(world))
    assert world.events("job.results", Refused)[0].code == "grant_altered"
    assert world.events("job.results", Result) == []


def test_the_first_output_counts_and_others_are_late(world: World) -> None:
    """One result per attempt."""
    world.start(grant_of(world))
    world.finish(grant_of(world))
    world.finish(grant_of(world), b'{"other":1}')
    assert len(world.events("job.results", Result)) == 1
    assert refusal(world).code == "late"


def test_an_output_whose_hash_does_not_fit_is_refused(world: World) -> None:
    """The hash is over the exact bytes."""
    world.start(grant_of(world))
    world.finish(grant_of(world), output_hash="0" * 64)
    assert refusal(world).code == "hash_mismatch"


def test_a_silent_worker_is_lost_and_its_late_output_refused(world: World) -> None:
    """No sign of life within the lease ends the attempt; what comes afterwards is late."""
    world.start(grant_of(world))
    world.advance(30)
    assert world.last("job.results", AttemptEnded).outcome == "lost"
    world.finish(grant_of(world))
    assert (refusal(world).code, world.events("job.results", Result)) == ("late", [])


def test_signs_of_life_keep_the_lease(world: World) -> None:
    """A long job blocks nobody and is not lost while it reports."""
    grant = grant_of(world)
    world.start(grant)
    for _ in range(5):
        world.advance(20)
        world.plain("job.starts", grant.agent_id, Progressed(**ids(grant), worker_id="w1", note="still at it"))
        world.run()
    assert world.events("job.results", AttemptEnded) == []
    world.finish(grant)
    assert world.last("job.results", Result).succeeded


def test_a_start_that_was_appended_too_late_lapses(world: World) -> None:
    """`ended: lapsed` after a start: nothing ran, the gate grants the next attempt."""
    grant = grant_of(world)
    world.start(grant)
    world.plain("job.starts", grant.agent_id, Ended(**ids(grant), worker_id="w1", outcome="lapsed"))
    world.run()
    assert world.last("job.results", AttemptEnded).outcome == "lapsed"
    assert [grant.attempt for grant in world.grants("j1")] == [1, 2]


def test_a_refused_grant_is_an_incident_and_leaves_the_attempt_open(world: World) -> None:
    """A forged copy that a worker refuses does not stop the true one."""
    grant = grant_of(world)
    refused = GrantRefused(**ids(grant), worker_id="w1", granted_seq=1, code="grant_altered", message="hash differs")
    world.plain("job.starts", grant.agent_id, refused)
    world.run()
    assert (refusal(world).code, refusal(world).subject, refusal(world).incident) == ("grant_altered", "grant", True)
    world.start(grant)
    world.finish(grant)
    assert world.last("job.results", Result).succeeded


def test_a_failed_handler_is_a_result_too(world: World) -> None:
    """The caller learns that it failed, and the job is closed as failed."""
    from sluicegate.schemas.events import Closed

    world.start(grant_of(world))
    world.finish(grant_of(world), b'{"error":{"type":"X","message":"y"}}', succeeded=False)
    assert not world.last("job.results", Result).succeeded
    assert world.last("job.decisions", Closed).outcome == "failed"


def test_another_agents_key_is_misrouted(world: World) -> None:
    """The key of a worker's event is its agent."""
    grant = grant_of(world)
    world.plain("job.starts", "other", Ended(**ids(grant), worker_id="w1", outcome="finished"))
    world.run()
    assert refusal(world).code == "misrouted"
