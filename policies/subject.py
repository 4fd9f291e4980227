"""From an intent to what is judged: its tags, its level, and every fact there is of it. Pure.

Declared facts are read from the payload at the paths of `actions.yaml`; what is absent, or neither a number nor true or
false, is None: declared but unknown. Confidence is what the agent claims. Computed facts come from whoever remembers
the log; where nobody does (a case, an explanation) they are those of a first intent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sluicegate.policies.evaluate import FactValue, Subject
from sluicegate.policies.facts import COMPUTED_FACTS, CONFIDENCE
from sluicegate.policies.paths import read_path
from sluicegate.policies.review import tags_of_phrases
from sluicegate.policies.windows import BEYOND, COUNT, SUM_MAX, UNITS, millionths

if TYPE_CHECKING:
    from sluicegate.policies.actions import Action
    from sluicegate.policies.compile import CompiledPolicy
    from sluicegate.policies.intents import IntentDocument


def judged_tags(action: Action, risk_tags: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """The tags that are judged: the topic's, to which an agent may add but from which it may take none."""
    return tuple(sorted({*action.risk_tags, *risk_tags}))


def declared_facts(action: Action, payload: Any) -> dict[str, FactValue]:
    """The facts of the topic as this payload gives them."""
    return {name: _readable(read_path(payload, steps)) for name, steps in action.facts.items()}


def own_share(fact: str, facts: Mapping[str, FactValue]) -> int | None:
    """What one intent adds to the windows over a fact, in millionths; None where that is unknown."""
    if fact == COUNT:
        return UNITS
    value = facts.get(fact)
    if value is None or isinstance(value, bool) or (value.__class__ is float and not math.isfinite(value)):
        return None
    return millionths(value)


def alone(fact: str, facts: Mapping[str, FactValue]) -> float | None:
    """What a window over a fact holds when it holds one intent alone: the very value, for what is positive."""
    share = own_share(fact, facts)
    if share is None:
        return None
    return 1.0 if fact == COUNT else max(0.0, float(min(facts[fact] or 0, BEYOND)))


def subject_of(
    policy: CompiledPolicy,
    *,
    topic: str,
    agent_id: str,
    risk_tags: list[str] | tuple[str, ...],
    payload: Any,
    confidence: float | None,
    level: int | None = None,
    computed: Mapping[str, FactValue] | None = None,
    given: Mapping[str, FactValue] | None = None,
) -> Subject:
    """The subject of an intent.

    ``computed`` are facts remembered from the log; those not named are of a first intent, and windows hold this intent
    alone. ``given`` overrides any fact; each name in it counts as declared. ``level`` is by default the agent's own.
    """
    action = policy.action(topic)
    agent_class = policy.class_of(agent_id)
    facts: dict[str, FactValue] = {**COMPUTED_FACTS, **declared_facts(action, payload)}
    if policy.has_confidence(agent_class):
        facts[CONFIDENCE] = confidence
    facts.update(computed or {})
    facts.update(given or {})
    for window in policy.windows:
        if window.name not in facts and (window.fact == COUNT or window.fact in facts):
            facts[window.name] = alone(window.fact, facts)
    own_level = policy.level(agent_id, policy.domain(topic))
    schema = action.payload_schema
    tags = judged_tags(action, risk_tags)
    if action.phrases:
        tags = tuple(sorted({*tags, *tags_of_phrases(payload, policy.output_policy)}))
    return Subject(
        topic=topic,
        risk_tags=tags,
        agent_id=agent_id,
        agent_class=agent_class,
        facts=facts,
        level=level if level is not None else own_level or 0,
        fault=None if schema is None else schema.fault(payload),
    )


def finished_subject(policy: CompiledPolicy, job: IntentDocument, given: Mapping[str, FactValue]) -> Subject:
    """The subject of a job that is over, for its audit. A computed fact that is not given is false, or 0."""
    computed: dict[str, FactValue] = dict.fromkeys(COMPUTED_FACTS, 0)
    computed.update({name: False for name, value in COMPUTED_FACTS.items() if value.__class__ is bool})
    computed.update({window.name: 0 for window in policy.windows})
    return subject_of(
        policy,
        topic=job.topic,
        agent_id=job.agent_id,
        risk_tags=job.risk_tags,
        payload=job.payload,
        confidence=job.confidence,
        computed=computed,
        given=given,
    )


def _readable(value: Any) -> FactValue:
    """A number or a truth; None for anything else. Numbers too large for any window or threshold stay what they are."""
    if value.__class__ is float or value.__class__ is bool:
        return value
    if value.__class__ is int:
        return value if -SUM_MAX < value < SUM_MAX else float(SUM_MAX if value > 0 else -SUM_MAX)
    return None
