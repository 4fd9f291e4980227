"""What output review makes of a worker's answer to a stop, and of a grant that was revoked."""

from __future__ import annotations

from typing import Any

import pytest
from world import World, ids

from sluicegate.schemas.events import (
    AttemptEnded,
    Closed,
    Ended,
    Grant,
    GrantRefused,
    Noted,
    Refused,
    Result,
    StopAnswered,
)


@pytest.fixture
def world() -> World:
    world = World()
    world.submit("j1", "job.crm.list")
    return world


def grant_of(world: World) -> Grant:
    return world.grants("j1")[-1]


def answer(world: World, word: Any = "stopped", worker: str = "w1", **changes: Any) -> None:
    """A worker answers a stop of the job's attempt."""
    grant = grant_of(world)
    given: dict[str, Any] = {**ids(grant), "worker_id": worker, "command_id": "c1", "answer": word, **changes}
    world.plain("job.starts", grant.agent_id, StopAnswered(**given))
    world.run()


def revoke(world: World, **changes: Any) -> None:
    """A worker refuses the job's grant as revoked."""
    grant = grant_of(world)
    given: dict[str, Any] = {**ids(grant), "worker_id": "w1", "granted_seq": grant.granted_seq, "message": "revoked"}
    world.plain("job.starts", grant.agent_id, GrantRefused(code="revoked", **{**given, **changes}))
    world.run()


def stops(world: World) -> list[str | None]:
    return [event.detail for event in world.events("job.results", Noted) if event.kind == "stop"]


@pytest.mark.parametrize("word", ["stopped", "already_finished", "unknown"])
def test_a_workers_answer_to_a_stop_is_noted(world: World, word: str) -> None:
    """With the command it answers; the attempt lives on until its output or its lease ends it."""
    world.start(grant_of(world))
    answer(world, word)
    assert stops(world) == [f"{word} upon c1"]
    assert world.verified().clean


def test_an_answer_after_the_output_is_noted_as_well(world: World) -> None:
    """Starts and outputs have no order between them."""
    world.start(grant_of(world))
    world.finish(grant_of(world))
    answer(world)
    assert stops(world) == ["stopped upon c1"]


def test_an_answer_before_the_start_is_known_waits_for_it(world: World) -> None:
    """It is parked and met after its start."""
    answer(world)
    assert stops(world) == []
    world.start(grant_of(world))
    assert stops(world) == ["stopped upon c1"]


def test_another_workers_answer_is_late(world: World) -> None:
    """Only the worker that runs the attempt can say what became of it."""
    world.start(grant_of(world))
    answer(world, worker="w2")
    assert stops(world) == []
    assert world.last("job.results", Noted).kind == "late"


def test_an_answer_for_a_grant_that_is_not_the_attempts_is_refused(world: World) -> None:
    """Like anything else a worker writes without a grant."""
    world.start(grant_of(world))
    answer(world, grant_id="made-up")
    assert world.last("job.results", Refused).code == "no_grant"


def test_a_stopped_job_ends_as_failed_and_is_not_run_again(world: World) -> None:
    """The handler's word that it stopped is its output: no next attempt, whatever the topic says of retries."""
    grant = grant_of(world)
    world.start(grant)
    answer(world)
    world.plain("job.starts", grant.agent_id, Ended(**ids(grant), worker_id="w1", outcome="stopped", detail="Stopped"))
    world.finish(grant, b'{"error":{"type":"Stopped","message":"asked to stop"}}', succeeded=False)
    assert not world.last("job.results", Result).succeeded
    assert world.last("job.decisions", Closed).outcome == "failed"
    assert len(world.grants("j1")) == 1


def test_a_revoked_grant_ends_the_attempt_as_revoked(world: World) -> None:
    """It is no incident: the worker did what the operator asked for."""
    revoke(world)
    assert world.last("job.results", AttemptEnded).outcome == "revoked"
    assert world.events("job.results", Refused) == []


def test_a_job_whose_grant_was_revoked_gets_no_other(world: World) -> None:
    """The gate closes it instead of granting the next attempt."""
    revoke(world)
    assert len(world.grants("j1")) == 1
    assert world.last("job.decisions", Closed).job_id == "j1"


def test_a_started_attempt_cannot_be_revoked(world: World) -> None:
    """A worker that says so only accuses itself: the attempt goes on, and its output counts."""
    world.start(grant_of(world))
    revoke(world)
    refused = world.last("job.results", Refused)
    assert (refused.code, refused.incident) == ("already_started", True)
    world.finish(grant_of(world))
    assert world.last("job.results", Result).succeeded


def test_a_revoked_grant_that_starts_after_all_is_an_incident(world: World) -> None:
    """Nothing may run under it any more."""
    revoke(world)
    world.start(grant_of(world))
    refused = world.last("job.results", Refused)
    assert (refused.code, refused.incident) == ("already_started", True)


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"command_id": "c" * 200, "detail": "d" * 1000}, True),
        ({"command_id": "c" * 201}, False),
        ({"detail": "d" * 1001}, False),
    ],
)
def test_a_workers_answer_has_a_longest_form(world: World, changes: dict[str, str], taken: bool) -> None:
    """It is copied into a journal that is kept for ever."""
    world.start(grant_of(world))
    answer(world, **changes)
    assert bool(stops(world)) == taken
    assert [event.code for event in world.events("job.results", Refused)] == ([] if taken else ["malformed"])
    assert world.verified().clean


def test_what_a_worker_says_of_a_revocation_is_called_its_word(world: World) -> None:
    """Nobody else has said it; and no more than 200 characters of it are passed on."""
    revoke(world, message="m" * 5000)
    assert world.last("job.results", AttemptEnded).detail == "worker says: " + "m" * 200
    assert len(world.last("job.decisions", Closed).reason or "") < 1000
