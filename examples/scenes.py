"""The story of the demo: what agents, people and workers do. What happened is read back by the stage."""

from __future__ import annotations

import json
from typing import Any

from sluicegate.clients.agent import Agent
from sluicegate.clients.call import Call
from sluicegate.clients.outcomes import Handle
from sluicegate.clients.pending import Pending
from sluicegate.clients.reviewer import Reviewer
from sluicegate.clients.worker import Worker
from sluicegate.examples import output_scenes, support_scenes, trust_scenes
from sluicegate.examples.stage import Stage
from sluicegate.schemas.events import (
    ApprovalRequest,
    Ask,
    Closed,
    Decision,
    Granted,
    Intent,
    Resolution,
    Result,
    Started,
    VerdictAccepted,
)
from sluicegate.streams.settings import Settings

Jobs = dict[str, str]
UNANSWERED_SEC = 4


def workers(settings: Settings) -> list[Worker]:
    """One worker for each pool; their handlers say what they were given."""
    ordinary, deploying = Worker(settings, "default"), Worker(settings, "deploy")

    @deploying.handles("job.deploy.*")
    def deploy(call: Call) -> dict[str, Any]:
        return {"deployed": call.payload["version"], "had_to_end_within_sec": call.constraints["max_runtime_sec"]}

    @ordinary.handles("job.*.read")
    def read(call: Call) -> dict[str, Any]:
        known: dict[str, Any] = {"customer": call.payload["customer"], "plan": "team", "seats": 12}
        if known["customer"] == "c-2044":
            known |= {"ssn": output_scenes.SSN, "internal_notes": "pays late"}
        return known

    output_scenes.handle(ordinary)
    trust_scenes.handle(ordinary)

    @ordinary.handles("job.*.external-api")
    def call_out(call: Call) -> dict[str, Any]:
        return {"may_reach": call.constraints["network_allowlist"]}

    support_scenes.handle_refunds(ordinary)
    return [ordinary, deploying]


def _submitted(stage: Stage, job_id: str) -> None:
    stage.expect(f"the intent `{job_id}` in the log", Intent, lambda event: event.job_id == job_id)


def _decided(stage: Stage, job_id: str, word: str) -> Decision | None:
    return stage.expect(
        f"the decision {word} for `{job_id}`",
        Decision,
        lambda event: event.job_id == job_id and event.decision == word,
    )


def _ran(stage: Stage, pending: Pending, wanted: Any) -> None:
    job_id = pending.handle.job_id
    stage.expect(f"the grant of `{job_id}`", Granted, lambda event: event.job_id == job_id)
    stage.expect(f"the start of `{job_id}`", Started, lambda event: event.job_id == job_id)
    stage.expect(f"the result of `{job_id}`", Result, lambda event: event.job_id == job_id and event.succeeded)
    outcome = pending.result(stage.expect_sec)
    if isinstance(outcome, Handle) or outcome.value != wanted:
        stage.miss(f"the agent of `{job_id}` did not get {wanted}")
    else:
        stage.line("read by the agent", f"{job_id}: {json.dumps(outcome.value)}")


def play(stage: Stage) -> Jobs:
    """All scenes but the last; the jobs' ids by scene."""
    settings = stage.settings
    deployer, researcher, cleaner = (Agent(settings, name) for name in ("deployer", "researcher", "cleaner"))
    ken, mei = Reviewer(settings, "ken"), Reviewer(settings, "mei")
    try:
        jobs = {
            "read": _read(stage, researcher),
            "call": _external_call(stage, researcher),
            "deploy": _deploy(stage, deployer, ken),
            "delete": _delete(stage, cleaner, mei),
            "silence": _silence(stage, deployer),
        }
    finally:
        for client in (deployer, researcher, cleaner, ken, mei):
            client.close()
    return {**jobs, **support_scenes.play(stage), **output_scenes.play(stage), **trust_scenes.play(stage)}


def _read(stage: Stage, agent: Agent) -> str:
    stage.title("A read passes at once")
    pending = agent.submit("job.crm.read", {"customer": "c-1042"}, job_id="read-customer")
    _submitted(stage, "read-customer")
    _decided(stage, "read-customer", "ALLOW")
    _ran(stage, pending, {"customer": "c-1042", "plan": "team", "seats": 12})
    return "read-customer"


def _external_call(stage: Stage, agent: Agent) -> str:
    stage.title("An external call is allowed under constraints")
    pending = agent.submit("job.status.external-api", {"page": "incidents"}, job_id="ask-status-page")
    _decided(stage, "ask-status-page", "ALLOW_WITH_CONSTRAINTS")
    _ran(stage, pending, {"may_reach": ["api.statuspage.example", "api.tracker.example"]})
    return "ask-status-page"


def _request(stage: Stage, job_id: str) -> str:
    found = stage.expect(f"the request for `{job_id}`", ApprovalRequest, lambda event: event.job_id == job_id)
    return found.request_id if found else ""


def _deploy(stage: Stage, agent: Agent, ken: Reviewer) -> str:
    stage.title("A production deploy waits for a person, who tightens it")
    pending = agent.submit("job.deploy.web", {"service": "web", "version": "1.4.2"}, job_id="deploy-web")
    _decided(stage, "deploy-web", "REQUIRE_APPROVAL")
    request_id = _request(stage, "deploy-web")
    if request_id:
        ken.approve(
            request_id,
            reason="the change window is open",
            constraints={"max_runtime_sec": 300},
            timeout_sec=stage.expect_sec,
        )
    stage.expect("ken's approval", VerdictAccepted, lambda event: event.request_id == request_id)
    stage.expect("the resolution", Resolution, lambda event: event.request_id == request_id)
    _ran(stage, pending, {"deployed": "1.4.2", "had_to_end_within_sec": 300})
    return "deploy-web"


def _delete(stage: Stage, agent: Agent, mei: Reviewer) -> str:
    stage.title("A deletion is denied, and the agent is told why")
    pending = agent.submit("job.storage.delete", {"bucket": "invoices-2019"}, job_id="delete-bucket")
    _decided(stage, "delete-bucket", "REQUIRE_APPROVAL")
    request_id = _request(stage, "delete-bucket")
    if request_id:
        mei.deny(request_id, reason="invoices are kept for ten years", timeout_sec=stage.expect_sec)
    stage.expect("mei's denial", Closed, lambda event: event.job_id == "delete-bucket" and event.outcome == "denied")
    outcome = pending.result(stage.expect_sec)
    if isinstance(outcome, Handle) or outcome.reason != "invoices are kept for ten years":
        stage.miss("the agent did not get the reason of the denial")
    else:
        stage.line("read by the agent", f"delete-bucket: {outcome.outcome}, {outcome.reason}")
    return "delete-bucket"


def _silence(stage: Stage, agent: Agent) -> str:
    stage.title("A request that nobody answers expires, which is not a denial")
    ask = Ask(reason="please look before this reaches customers", timeout_sec=UNANSWERED_SEC)
    agent.submit("job.deploy.banner", {"text": "maintenance"}, job_id="show-banner", ask=ask)
    _decided(stage, "show-banner", "REQUIRE_APPROVAL")
    _request(stage, "show-banner")
    stage.expect(
        "the expiry",
        Closed,
        lambda event: event.job_id == "show-banner" and event.outcome == "expired",
        longer_sec=UNANSWERED_SEC,
    )
    return "show-banner"
