"""The demo's fourth act: an agent earns a level, some of its work is looked at, an incident takes the level back."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from sluicegate.clients.agent import Agent
from sluicegate.clients.call import Call
from sluicegate.clients.monitor import Monitor
from sluicegate.clients.reviewer import Reviewer
from sluicegate.clients.worker import Worker
from sluicegate.examples.stage import Stage
from sluicegate.schemas.events import (
    ApprovalRequest,
    AuditDrawn,
    Decision,
    Finding,
    Incident,
    LevelChanged,
    Noted,
    Result,
    Started,
)

TOPIC: Final = "job.kb.publish"
WHO: Final = "apprentice"
WATCHED: Final = 5
"""Articles that a person reads before customers do: as many as the bundle asks for."""
ALONE: Final = 20
SLOW_SEC: Final = 3.0


def handle(worker: Worker) -> None:
    """What the workers of this act do."""

    @worker.handles("job.kb.*")
    def publish(call: Call) -> dict[str, Any]:
        time.sleep(call.payload.get("takes_sec", 0))
        return {"article": call.payload["article"], "published": True}


def play(stage: Stage) -> dict[str, str]:
    """All scenes of this act; the jobs' ids by scene."""
    apprentice = Agent(stage.settings, WHO)
    ken, mei = Reviewer(stage.settings, "ken"), Reviewer(stage.settings, "mei")
    try:
        _climb(stage, apprentice, ken, mei)
        wrong = _look(stage, apprentice, ken)
        return {"looked at": wrong, "in flight": _fall(stage, apprentice)}
    finally:
        for client in (apprentice, ken, mei):
            client.close()


def _submit(agent: Agent, job_id: str, **more: Any) -> None:
    agent.submit(TOPIC, {"article": job_id, **more}, job_id=job_id)


def _climb(stage: Stage, agent: Agent, ken: Reviewer, mei: Reviewer) -> None:
    stage.title(f"An apprentice earns a level: {WATCHED} articles that mei reads first, then ken's signature")
    for number in range(WATCHED):
        job_id = f"article-{number}"
        _submit(agent, job_id)
        asked = stage.await_one(
            f"the request for `{job_id}`",
            ApprovalRequest,
            lambda event, wanted=job_id: event.job_id == wanted,  # type: ignore[misc]
        )
        if asked is not None:
            mei.approve(asked[1].request_id, reason="it reads well", timeout_sec=stage.expect_sec)
        stage.expect(
            f"the result of `{job_id}`",
            Result,
            lambda event, wanted=job_id: event.job_id == wanted,  # type: ignore[misc]
        )
    asked_for = stage.expect(
        "the level that is asked for", LevelChanged, lambda event: event.change == "requested" and event.agent_id == WHO
    )
    if asked_for is None or asked_for.request_id is None:
        return
    request_id = asked_for.request_id
    stage.await_one("the request to sign it off", ApprovalRequest, lambda event: event.request_id == request_id)
    case = ken.show(request_id)
    for name, value in json.loads(case.payload).items():
        stage.line("the case says", f"{name.replace('_', ' ')}: {value}")
    ken.approve(request_id, reason="five of five", timeout_sec=stage.expect_sec)
    stage.expect("the promotion", LevelChanged, lambda event: event.change == "promoted" and event.level == 1)


def _look(stage: Stage, agent: Agent, ken: Reviewer) -> str:
    """Ken looks at what was drawn and finds the first of it wrong; the id of that job."""
    stage.title(f"It publishes {ALONE} articles alone; by the keyed draw ken reads some of them, and finds one wrong")
    jobs = [f"alone-{number}" for number in range(ALONE)]
    for job_id in jobs:
        _submit(agent, job_id)
    draws: list[AuditDrawn] = []
    for job_id in jobs:
        found = stage.await_one(
            f"the draw of `{job_id}`",
            AuditDrawn,
            lambda event, wanted=job_id: event.job_id == wanted,  # type: ignore[misc]
        )
        if found is not None:
            draws.append(found[1])
    drawn = [each for each in draws if each.drawn]
    chances = ", ".join(sorted({each.probability for each in draws}))
    stage.line("counted in the log", f"{len(drawn)} of {len(draws)} were drawn, each with probability {chances}")
    if not drawn:
        stage.miss("none of the articles was drawn")
        return ""
    first = drawn[0]
    stage.expect("the first draw", AuditDrawn, lambda event: event.job_id == first.job_id)
    for number, each in enumerate(drawn):
        request_id = each.request_id or ""
        stage.await_one(
            "the request to look at it",
            ApprovalRequest,
            lambda event, wanted=request_id: event.request_id == wanted,  # type: ignore[misc]
        )
        if number == 0:
            note = "it gives last year's price"
            ken.find(request_id, "wrong", note, error_class="outdated", severity="medium", timeout_sec=stage.expect_sec)
        else:
            ken.find(request_id, "correct", timeout_sec=stage.expect_sec)
    stage.expect("the finding", Finding, lambda event: event.job_id == first.job_id and event.finding == "wrong")
    stage.await_one("the last finding", Finding, lambda event: event.job_id == drawn[-1].job_id)
    return first.job_id


def _fall(stage: Stage, agent: Agent) -> str:
    """An incident comes while one job runs and the next is on its way; the id of the job that is judged after it."""
    stage.title("An incident costs the level at once: one job runs, the next intent is on its way")
    _submit(agent, "article-slow", takes_sec=SLOW_SEC)
    stage.expect("the start of `article-slow`", Started, lambda event: event.job_id == "article-slow")
    with Monitor(stage.settings) as monitor:
        incident_id = monitor.report(WHO, "safety", "it told a customer another customer's name")
        _submit(agent, "article-next")
    stage.expect("the incident", Incident, lambda event: event.incident_id == incident_id)
    fallen = stage.expect("the fall", LevelChanged, lambda event: event.change == "demoted" and event.agent_id == WHO)
    noted = stage.await_one("the gate's note", Noted, lambda event: event.kind == "incident" and event.agent_id == WHO)
    job_id = "article-next"
    for number in range(2):  # the two were written to two topics at once: which came first, the journal says
        found = stage.expect(
            f"the decision on `{job_id}`",
            Decision,
            lambda event, wanted=job_id: event.job_id == wanted,  # type: ignore[misc]
        )
        if found is None or noted is None or fallen is None:
            return job_id
        order = "before" if found.seq < noted[1].seq else "after"
        stage.line("the journal says", f"{job_id} is number {found.seq}, {order} the incident, number {noted[1].seq}")
        if order == "after":
            if (found.level, found.decision) != (0, "REQUIRE_APPROVAL"):
                stage.miss(f"`{job_id}` was judged after the incident and not at level 0")
            break
        job_id = f"article-after-{number}"
        _submit(agent, job_id)
    stage.expect("the slow one's result", Result, lambda event: event.job_id == "article-slow")
    return job_id
