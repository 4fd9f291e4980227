"""The demo's second act: support work that passes, is held, repeats itself, and is paused in the middle of traffic."""

from __future__ import annotations

import json
import threading
from typing import Any, Final

from sluicegate.cli.configuration import OPERATOR
from sluicegate.cli.control_log import Operator, acknowledgements
from sluicegate.clients.agent import Agent
from sluicegate.clients.call import Call
from sluicegate.clients.pending import Pending
from sluicegate.clients.reviewer import Reviewer
from sluicegate.clients.worker import Worker
from sluicegate.examples.stage import Stage
from sluicegate.schemas.events import Acknowledged, ApprovalRequest, Closed, Decision, Held, Result, Started

TOPIC: Final = "job.support.refund"
BROKEN_ORDER: Final = "o-7103"
"""An order that the payment service refuses every time."""
TRAFFIC: Final = 60
EVERY_SEC: Final = 0.05


def handle_refunds(worker: Worker) -> None:
    """What the support workers do."""

    @worker.handles(TOPIC, spends=("max_amount_usd",))
    def refund(call: Call) -> dict[str, Any]:
        order = call.payload["order"]
        if order["id"] == BROKEN_ORDER:
            raise ConnectionError("the payment service does not answer")
        budget = call.budget("max_amount_usd")
        refund_usd = min(order["total_usd"], budget.left)
        budget.spend(refund_usd)
        return {"refunded_usd": refund_usd}


def play(stage: Stage) -> dict[str, str]:
    """All scenes of support; the jobs' ids by scene."""
    supporter, mei = Agent(stage.settings, "supporter"), Reviewer(stage.settings, "mei")
    try:
        jobs = {"routine": _routine(stage, supporter), "storm": _storm(stage, supporter)}
        jobs["escalated"] = _escalated(stage, supporter, mei)
        _pause(stage)
    finally:
        supporter.close()
        mei.close()
    return jobs


def _order(order_id: str, total_usd: float, age_days: int, prior_refunds: int) -> dict[str, Any]:
    return {
        "order": {"id": order_id, "total_usd": total_usd, "age_days": age_days},
        "customer": {"prior_refunds_this_quarter": prior_refunds},
    }


def _decided(stage: Stage, job_id: str, word: str) -> Decision | None:
    return stage.expect(
        f"the decision {word} for `{job_id}`",
        Decision,
        lambda event: event.job_id == job_id and event.decision == word,
    )


def _routine(stage: Stage, agent: Agent) -> str:
    stage.title("A small refund is routine and passes")
    pending = agent.submit(TOPIC, _order("o-7101", 45, 3, 0), job_id="refund-small", confidence=0.95)
    _decided(stage, "refund-small", "ALLOW_WITH_CONSTRAINTS")
    stage.expect("the result of `refund-small`", Result, lambda event: event.job_id == "refund-small")
    _read_back(stage, pending)
    return "refund-small"


def _read_back(stage: Stage, pending: Pending) -> None:
    outcome = pending.result(stage.expect_sec)
    job_id = pending.handle.job_id
    value = getattr(outcome, "value", None)
    if value is None:
        stage.miss(f"the agent of `{job_id}` got no result")
    else:
        stage.line("read by the agent", f"{job_id}: {json.dumps(value)}")


def _escalated(stage: Stage, agent: Agent, mei: Reviewer) -> str:
    stage.title("A large refund is escalated, with all that a person needs to decide it")
    context = {
        "why": "the customer says it never arrived",
        "checked": ["carrier: delivered, signed", "five refunds this quarter"],
    }
    pending = agent.submit(TOPIC, _order("o-7102", 1400, 45, 5), job_id="refund-large", confidence=0.3, context=context)
    _decided(stage, "refund-large", "REQUIRE_APPROVAL")
    asked = stage.expect(
        "the request for `refund-large`", ApprovalRequest, lambda event: event.job_id == "refund-large"
    )
    if asked is None:
        return "refund-large"
    request = mei.show(asked.request_id)
    for name, (value, source) in request.facts.items():
        stage.line("the request says", f"{name} = {'unknown' if value is None else f'{value:g}'} ({source})")
    stage.line("the agent's context", " ".join((request.context or "").split()))
    mei.approve(
        asked.request_id,
        reason="goodwill, half of it",
        constraints={"max_amount_usd": 700},
        timeout_sec=stage.expect_sec,
    )
    stage.expect("the result of `refund-large`", Result, lambda event: event.job_id == "refund-large")
    _read_back(stage, pending)
    return "refund-large"


def _storm(stage: Stage, agent: Agent) -> str:
    stage.title("The same refund fails again and again; the fourth try is for a person")
    for number in range(1, 4):
        pending = agent.submit(TOPIC, _order(BROKEN_ORDER, 20, 2, 0), job_id=f"refund-try-{number}", confidence=0.9)
        pending.result(stage.expect_sec)
        stage.expect(
            f"the failure of try {number}",
            Closed,
            lambda event, wanted=f"refund-try-{number}": event.job_id == wanted and event.outcome == "failed",  # type: ignore[misc]
        )
    agent.submit(TOPIC, _order(BROKEN_ORDER, 20, 2, 0), job_id="refund-try-4", confidence=0.9)
    decision = _decided(stage, "refund-try-4", "REQUIRE_APPROVAL")
    if decision is not None and [rule.id for rule in decision.rules] != ["hold-retry-storms"]:
        stage.miss("the fourth try was held for another reason than the storm")
    return "refund-try-4"


def _pause(stage: Stage) -> None:
    stage.title(f"Pause in the middle of traffic: {TRAFFIC} reads, stopped half-way, then let go on")
    half, ended = threading.Event(), threading.Event()

    def submit() -> None:
        with Agent(stage.settings, "researcher") as agent:
            for number in range(TRAFFIC):
                agent.submit("job.ledger.read", {"customer": f"c-{number}"}, job_id=f"paused-{number}")
                if number == TRAFFIC // 2:
                    half.set()
                ended.wait(EVERY_SEC)

    traffic = threading.Thread(target=submit, name="traffic")
    traffic.start()
    half.wait(stage.expect_sec)
    with Operator(stage.settings, OPERATOR) as operator, acknowledgements(stage.settings) as watching:
        paused = operator.command("pause", "topic:job.ledger.*", "the ledger is being moved")
        watching.wait(paused)
        stage.expect("the acknowledgement of the pause", Acknowledged, lambda event: event.command_id == paused)
        traffic.join()
        stage.expect("a held read", Held, _is_of_traffic)
        resumed = operator.command("resume", "topic:job.ledger.*", "the ledger has moved")
        watching.wait(resumed)
    stage.expect("the acknowledgement of the resume", Acknowledged, lambda event: event.command_id == resumed)
    for number in range(TRAFFIC):
        stage.await_one(
            f"the end of `paused-{number}`",
            Closed,
            lambda event, wanted=f"paused-{number}": event.job_id == wanted,  # type: ignore[misc]
        )
    _count_starts(stage, paused, resumed)


def _is_of_traffic(event: Held | Started) -> bool:
    return event.job_id.startswith("paused-")


def _count_starts(stage: Stage, paused: str, resumed: str) -> None:
    """By the broker's clock: nothing started between the bound after the pause was acknowledged, and the resume."""
    marks = stage.all(Acknowledged, lambda event: event.command_id in (paused, resumed))
    starts = [record.timestamp_ms for record, _ in stage.all(Started, _is_of_traffic)]
    held = len({event.job_id for _, event in stage.all(Held, _is_of_traffic)})
    begin, end = (
        next(record.timestamp_ms for record, event in marks if event.command_id == one) for one in (paused, resumed)
    )
    bound_ms = stage.settings.control_age_ms_max + stage.settings.transaction_timeout_ms
    between = [at - begin for at in starts if begin < at < end]
    stage.line("counted in the log", f"{held} of {TRAFFIC} reads were held, all {TRAFFIC} have ended")
    last = f"the last of them {max(between)} ms after it" if between else "none at all"
    stage.line(
        "counted in the log", f"{len(between)} starts between the pause's acknowledgement and the resume, {last}"
    )
    if any(after > bound_ms for after in between):
        stage.miss(f"a read started more than {bound_ms} ms after the pause was acknowledged")
