"""Break-glass at the gate: whom it covers, how long, and what people say of it afterwards."""

from __future__ import annotations

from test_control_world import GLASS, files, grants, say
from world import World

from sluicegate.schemas.events import ApprovalRequest, Decision, Noted, VerdictAccepted


def broken(scope: str = "agent:deployer", sec: int = 60, **settings: int) -> World:
    """A world in which rosa has broken the glass for a scope."""
    world = World(files(**GLASS), **settings)
    say(world, "rosa", "break_glass", scope, reason="fire", until_ms=world.log.clock_ms + sec * 1000)
    return world


def test_a_tag_that_the_agent_adds_puts_nothing_under_a_broken_glass() -> None:
    """The glass goes by what the platform team says of the topic."""
    world = broken("tag:hotfix")
    world.submit("j1", "job.deploy.prod", risk_tags=["hotfix"])
    assert grants(world) == []
    assert world.request("j1").kind == "intent"


def test_a_tag_of_the_topic_does() -> None:
    """So a class of work can be let through."""
    world = broken("tag:prod")
    world.submit("j1", "job.deploy.prod")
    assert len(grants(world)) == 1


def test_a_grant_ends_with_the_glass_and_its_next_attempt_is_judged_again() -> None:
    """The time box holds for starts, and for whatever is granted again."""
    world = broken(sec=60)
    world.submit("j1", "job.deploy.prod")
    glass_until_ms = world.state().glasses[0].until_ms
    assert grants(world)[0].start_by_ms == glass_until_ms
    world.log.advance(2 * 3_600_000)
    world.lapse(grants(world)[-1])
    assert len(grants(world)) == 1
    assert world.request("j1").kind == "intent"
    assert world.last("job.decisions", Decision).break_glass is None
    assert world.verified().clean


def test_a_review_that_finds_it_wrong_stops_what_has_not_started() -> None:
    """The next attempt waits for people, though the glass is still broken."""
    world = broken(sec=3_600, start_within_sec=1)
    world.submit("j1", "job.deploy.prod")
    world.decide("j1", "deny")
    world.log.advance(5_000)
    world.lapse(grants(world)[-1])
    assert len(grants(world)) == 1
    assert world.request("j1").kind == "intent"
    noted = [each for each in world.events("job.decisions", Noted) if each.kind == "break_glass_review"]
    assert [each.detail for each in noted] == ["wrong to run"]
    assert world.verified().clean


def test_whoever_broke_the_glass_and_whom_the_job_acts_for_may_not_review_it() -> None:
    """Three people are out: the agent's owner, the person it acts for, and whoever broke it."""
    world = broken()
    world.submit("j1", "job.deploy.prod", on_behalf_of="ken")
    request = world.request("j1")
    assert (request.kind, request.on_behalf_of, request.excluded) == ("break_glass", "ken", ["rosa"])
    for person in ("rosa", "ken"):
        world.decide("j1", "approve", person)
    assert world.events("approval.events", VerdictAccepted) == []
    world.decide("j1", "approve", "mia")
    assert len(world.events("approval.events", VerdictAccepted)) == 1


def test_reviews_take_no_room_among_the_open_requests() -> None:
    """What was let through in an emergency keeps nobody from asking afterwards."""
    world = broken(open_requests_max=1)
    for number in range(3):
        world.submit(f"j{number}", "job.deploy.prod")
    assert len(grants(world)) == 3
    world.log.advance(120_000)
    world.submit("j9", "job.deploy.prod")
    assert world.last("approval.requests", ApprovalRequest).kind == "intent"


def test_a_job_is_reviewed_once() -> None:
    """Another attempt under the same glass asks nobody twice."""
    world = broken(sec=3_600, start_within_sec=1)
    world.submit("j1", "job.deploy.prod")
    world.log.advance(5_000)
    world.lapse(grants(world)[-1])
    assert len(grants(world)) == 2
    assert [each.kind for each in world.events("approval.requests", ApprovalRequest)] == ["break_glass"]
