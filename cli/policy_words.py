"""What the offline verbs say to people: an explanation rule by rule, and the outcome of a case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sluicegate.cli.output import Output, json_text
from sluicegate.cli.visible import visible

if TYPE_CHECKING:
    from sluicegate.policies.explain import Explanation, LayerSteps, Reason
    from sluicegate.policies.intents import IntentDocument


def say_explanation(out: Output, intent: IntentDocument, said: Explanation) -> None:
    """Decision first, then what it rests on, then how each layer came to it."""
    from sluicegate.policies.explain import shown

    out.say(f"{said.decision}: {visible(said.reason)}")
    out.say(f"  by {_rules(said.rules)} of {said.policy_snapshot}")
    if said.constraints:
        what = "ceiling" if said.decision == "REQUIRE_APPROVAL" else "within"
        out.say(f"  {what} {visible(json_text(said.constraints))}")
    if said.missing:
        out.say(f"  missing facts: {visible(', '.join(said.missing))}")
    for error in said.errors:
        out.say(f"  error in {visible(f'{error.layer}/{error.id}: {error.error}')}")
    if said.observed is not None:
        seen = said.observed
        out.say(f"  observed, not enforced: {seen.decision} by {_rules(seen.rules)}: {visible(seen.reason)}")
    tags = ", ".join(said.risk_tags) or "no tags"
    agent = f"agent {intent.agent_id} of class {said.agent_class} at level {said.level}"
    out.say(f"{visible(intent.topic)}, {visible(tags)}, {visible(agent)}")
    facts = [f"{fact.name} {shown(fact.value)} ({fact.source})" for fact in said.facts]
    out.say(f"facts: {visible(', '.join(facts), 2_000)}")
    for layer in said.steps:
        _say_layer(out, layer)


def _rules(rules: tuple[Reason, ...]) -> str:
    return visible(", ".join(f"{rule.layer}/{rule.id}" for rule in rules))


def _say_layer(out: Output, layer: LayerSteps) -> None:
    mode = ", only observed" if layer.mode == "observe" else ""
    out.say(f"layer {visible(layer.layer)}{mode}: {layer.decision or 'abstains'}")
    for step in layer.rules:
        effect = f"; {step.effect}" if step.effect else ""
        out.say(f"  {step.outcome:<7} {visible(step.id)} ({step.decision}): {visible(step.why)}{effect}")
    if layer.unasked:
        out.say(f"  not asked: {layer.unasked} further")


def say_case(out: Output, answer: Mapping[str, Any]) -> None:
    """PASS or FAIL, which case, the time, and why it fails."""
    word = "PASS" if answer["ok"] else "FAIL"
    out.say(f"{word} {visible(answer['file'])}: {visible(answer['name'])} ({answer['duration_ms']:.2f} ms)")
    if answer["reason"]:
        out.say(f"     {visible(answer['reason'], 2_000)}")
