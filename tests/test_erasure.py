"""Erasure: what is erased ends as `payload_erased`, is no incident and stops nothing; the log is still verified."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from erasure_world import Erasing, asked, erasing, granted, held, incidents, quarantined
from world import agent_key, ids

from sluicegate.processors.control_recall import PAYLOAD_ERASED
from sluicegate.schemas.events import Closed, Output, Refused, Result


@pytest.fixture
def world(tmp_path: Path) -> Erasing:
    return erasing(tmp_path)


def test_a_held_job_ends_when_it_would_be_judged(world: Erasing) -> None:
    """It cannot be judged any more, so it is over; nothing loops, nobody is accused."""
    held(world)
    world.erase("j1")
    world.command("resume", "agent:deployer")
    world.advance(6)
    closed = world.last("job.decisions", Closed)
    assert (closed.job_id, closed.outcome, closed.by) == ("j1", "withdrawn", "gate")
    assert (closed.reason or "").startswith(PAYLOAD_ERASED)
    assert not incidents(world)
    assert world.verified().faults == []


@pytest.mark.parametrize("edits", [False, True])
def test_an_approved_job_ends_when_it_would_be_granted(world: Erasing, edits: bool) -> None:
    """Nobody could read what people agreed to: it is granted to no worker, edited or not."""
    asked(world)
    changes: dict[str, Any] = {}
    if edits:
        key_id = world.request("j1").payload.key_id
        changes = {"edits": world.keys.seal(b'{"amount":40}', bytes(16), key_id), "edited": ["amount"]}
    world.erase("j1")
    world.decide("j1", "approve", **changes)
    assert not world.grants("j1")
    assert (world.last("job.decisions", Closed).reason or "").startswith(PAYLOAD_ERASED)
    assert not incidents(world)
    assert world.verified().faults == []


def test_the_output_of_an_erased_job_ends_it_and_does_not_leave(world: Erasing) -> None:
    """Its handler has run: the job has a result that says so, and nothing in it."""
    granted(world)
    grant = world.grants("j1")[-1]
    world.start(grant)
    content = b'{"ok":true}'
    output = Output(
        **ids(grant),
        worker_id="w1",
        succeeded=True,
        output=world.keys.seal(content, bytes(16), grant.payload.key_id, grant.grant_id),
        output_hash=hashlib.sha256(content).hexdigest(),
        output_size_bytes=len(content),
    )
    world.plain("job.outputs", "deployer", output)
    world.erase("j1")
    world.run()
    found = world.last("job.results", Result)
    assert (found.output_safety_decision, found.rule, found.output) == ("QUARANTINE", PAYLOAD_ERASED, None)
    assert world.last("job.decisions", Closed).outcome == "succeeded"
    assert not incidents(world)
    assert world.verified().faults == []


@pytest.mark.parametrize(("choice", "word"), [("release", "approve"), ("release_redacted", "approve")])
def test_a_held_output_cannot_be_released_once_it_is_erased(world: Erasing, choice: str, word: Any) -> None:
    """The job ends with a result without output, and the request is over."""
    quarantined(world)
    world.erase("j1")
    world.decide("j1", word, choice=choice)
    found = world.last("job.results", Result)
    assert (found.output_safety_decision, found.rule, found.output) == ("QUARANTINE", PAYLOAD_ERASED, None)
    assert (found.choice, found.redaction_details) == (choice, [])
    assert world.last("job.decisions", Closed).outcome == "succeeded"
    assert not incidents(world)
    assert world.verified().faults == []


def test_destroying_needs_no_key(world: Erasing) -> None:
    """An erased output can still be destroyed by people's word."""
    quarantined(world)
    world.erase("j1")
    world.decide("j1", "deny", choice="destroy")
    assert world.last("job.results", Result).rule != PAYLOAD_ERASED
    assert world.verified().faults == []


def test_what_comes_under_an_erased_key_is_refused_and_is_no_incident(world: Erasing) -> None:
    """An agent that sends its job again cannot know; a job that nobody can read is not judged."""
    intent = world.submit("j1", "job.pay.out", b'{"amount":100,"final":false}')
    other = world.intent("j2", "job.pay.out", b'{"amount":100,"final":false}')
    world.erase("j1")
    world.erase("j2")
    for each in (intent, other):
        world.signed(agent_key("deployer"), "job.intents", "deployer", each)
        world.run()
        refused = world.last("job.decisions", Refused)
        assert (refused.job_id, refused.code, refused.incident) == (each.job_id, PAYLOAD_ERASED, False)
    assert world.verified().faults == []
