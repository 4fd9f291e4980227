"""Trust and audits where something interferes: found twice, ids used again, agents gone, too much to carry."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import yaml
from test_audits import AUDIT, LEVELS, begin_epoch, files, find, refusal, run
from test_control_world import GLASS, say
from test_control_world import files as with_roles
from world import PEOPLE, World

from sluicegate.processors.plane import REMEMBERED_MS
from sluicegate.schemas.events import ApprovalRequest, AuditDrawn, Closed, Finding, LevelChanged, Result

ALL = AUDIT.replace("rate: 0.5", "rate: 1.0").replace("read: 0.5", "read: 1.0")


def asked(world: World, job_id: str, kind: str) -> ApprovalRequest:
    found = [each for each in world.events("approval.requests", ApprovalRequest) if each.job_id == job_id]
    return next(each for each in found if each.kind == kind)


def counted(world: World) -> tuple[int, int]:
    """Successes and errors of the agent so far, as the next change of its level says."""
    world.command("set_level", "agent:deployer", level=1, reason="to read what was counted")
    world.submit(f"look-{world.numbers}", "job.x")
    last = world.last("agent.autonomy", LevelChanged)
    return last.successes_count, last.errors_count


def resolve(world: World, request: ApprovalRequest, word: Any, **more: Any) -> None:
    verdict = world.verdict(request.job_id, word, "mia", request_id=request.request_id, **more)
    found = {"policy_snapshot": request.policy_snapshot, "job_hash": request.job_hash}
    world.signed(PEOPLE["mia"], "approval.verdicts", verdict.desk, msgspec.structs.replace(verdict, **found))
    world.run()


@pytest.mark.parametrize("first", ["review", "finding"])
def test_a_job_that_a_review_and_an_audit_find_wrong_is_one_error(first: str) -> None:
    """In either order, and the success it was is taken away once."""
    roles = {name: with_roles(**GLASS)[name] for name in ("bundle.yaml", "reviewers.yaml")}
    world = World(files(**{"audit-policy.yaml": ALL, "autonomy.yaml": LEVELS, **roles}))
    begin_epoch(world)
    run(world, "good", "job.x")
    say(world, "rosa", "break_glass", "agent:deployer", reason="fire", until_ms=world.log.clock_ms + 3_600_000)
    world.submit("j", "job.ask.now")
    (grant,) = world.grants("j")
    world.start(grant)
    world.finish(grant)
    review, sample = asked(world, "j", "break_glass"), asked(world, "j", "audit")
    assert sample.approved_by == ["rosa"]
    for each in (review, sample) if first == "review" else (sample, review):
        said = {"choice": "wrong", "error_class": "c", "severity": "low"} if each is sample else {}
        resolve(world, each, "deny", **said)
    assert world.last("agent.audits", Finding).job_id == "j"
    assert counted(world) == (1, 1)
    assert world.verified().clean


def test_a_job_id_that_comes_again_is_another_job() -> None:
    """The sample of the first is found after the second has ended; each counts for itself."""
    world = World(files(**{"audit-policy.yaml": ALL, "autonomy.yaml": LEVELS}))
    begin_epoch(world)
    run(world, "same", "job.x")
    old = asked(world, "same", "audit")
    world.advance(REMEMBERED_MS // 1000 + 60)
    run(world, "other", "job.x")  # what is over is forgotten by turns that come
    run(world, "other-2", "job.x")
    world.submit("same", "job.x", b'{"n":2}')
    (grant,) = [each for each in world.grants("same") if each.grant_id != old.request_id][-1:]
    world.start(grant)
    world.finish(grant)
    drawn = [each for each in world.events("agent.audits", AuditDrawn) if each.job_id == "same"]
    assert len({each.request_id for each in drawn}) == 2
    resolve(world, old, "deny", choice="harmful", error_class="c", severity="high")
    newer = world.request("same")
    assert newer.request_id != old.request_id
    resolve(world, newer, "approve", choice="correct")
    assert [each.finding for each in world.events("agent.audits", Finding)] == ["harmful", "correct"]
    assert world.verified().clean


def test_a_finding_on_an_agent_that_is_gone_stands_in_the_log() -> None:
    """Whoever is no longer enrolled has done what it has done."""
    first = files(**{"audit-policy.yaml": ALL, "autonomy.yaml": LEVELS})
    world = World(first)
    begin_epoch(world)
    run(world, "j", "job.x")
    agents = [each for each in yaml.safe_load(first["agents.yaml"])["agents"] if each["id"] != "deployer"]
    world.activate({**first, "agents.yaml": yaml.safe_dump({"agents": agents})})
    find(world, "j", "wrong", "mia")
    assert world.last("agent.audits", Finding).finding == "wrong"
    assert world.verified().clean


def test_a_result_too_large_to_be_carried_is_still_asked_about() -> None:
    """The job ends as it must; the request says where the result stands."""
    world = World(files(**{"audit-policy.yaml": ALL}))
    begin_epoch(world)
    payload = json.dumps({"text": "x" * 200_000}).encode()
    run(world, "big", "job.x", json.dumps({"text": "y" * 800_000}).encode(), payload=payload)
    assert world.last("job.results", Result).output is not None
    assert world.last("job.decisions", Closed).outcome == "succeeded"
    request = asked(world, "big", "audit")
    assert request.output is None
    assert "stands in job.results" in request.reason
    assert world.verified().clean


def test_who_permits_another_attempt_approves_the_job() -> None:
    """A lost attempt is a question to a person, whose word is an approval like any other."""
    world = World(files(**{"audit-policy.yaml": ALL}))
    begin_epoch(world)
    world.submit("l", "job.x")
    (grant,) = world.grants("l")
    world.start(grant)
    world.advance(31)
    assert world.request("l").kind == "lost_attempt"
    world.decide("l", "approve", "ken")
    again = world.grants("l")[-1]
    world.start(again)
    world.finish(again)
    assert world.request("l").approved_by == ["ken"]
    find(world, "l", "correct", "ken")
    assert refusal(world) == "own_approval"
    assert world.verified().clean


def test_which_policy_judged_a_job_last_says_whether_it_is_drawn() -> None:
    """Judged under a policy without audit it is not drawn, though one has come since; judged again it is."""
    without, audited = files(**{"audit-policy.yaml": ""}), files(**{"audit-policy.yaml": ALL})
    world = World(without)
    begin_epoch(world)
    world.submit("before", "job.x")
    world.submit("asked", "job.ask.x")
    world.activate(audited)
    world.decide("asked", "approve")
    for job in ("before", "asked"):
        (grant,) = world.grants(job)
        world.start(grant)
        world.finish(grant)
    assert [each.job_id for each in world.events("agent.audits", AuditDrawn)] == ["asked"]
    assert world.verified().clean
