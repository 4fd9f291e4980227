"""A tenant whose agents refund: actions with facts, and the words in which the tests of the gate's facts speak."""

from __future__ import annotations

import json
from typing import Any

import yaml
from world import World, policy_files

from sluicegate.schemas.events import Decision

ACTIONS = {
    "actions": [
        {
            "topics": ["job.support.*refund*"],
            "facts": {"amount_usd": "order.total_usd", "affected_users": "recipients.#"},
            "retry_identity": ["order.id"],
            "target": "order.id",
        }
    ]
}
REFUNDS = """
rules:
  - { id: many, match: { topics: ["job.support.*"], count_1h_above: 50 }, decision: require_approval }
  - { id: split, match: { topics: ["job.support.*"], amount_usd_24h_above: 100 }, decision: require_approval }
  - { id: small, match: { topics: ["job.support.*"], amount_usd_below: 100 }, decision: allow }
"""
PASS = 'rules: [{ id: pass, match: { topics: ["*"] }, decision: allow }]\n'


def files(**extra: str) -> dict[str, str]:
    base = policy_files()
    del base["safety-policy.yaml"]
    return {**base, "actions.yaml": yaml.safe_dump(ACTIONS), **{f"{name}.yaml": text for name, text in extra.items()}}


def refund(world: World, job: str, amount: Any, topic: str = "job.support.refund", order: str = "") -> Decision:
    payload = {"order": {"id": order or job, "total_usd": amount}}
    world.submit(job, topic, json.dumps(payload).encode())
    return next(each for each in world.events("job.decisions", Decision)[::-1] if each.job_id == job)


def facts(decision: Decision) -> dict[str, float | None]:
    return {fact.name: fact.value for fact in decision.facts}


def done(world: World, job: str) -> None:
    (grant,) = world.grants(job)
    world.start(grant)
    world.finish(grant)
