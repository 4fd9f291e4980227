"""Why a bundle says what it says of an intent, rule by rule, in words that its author used. Pure.

The judgement is the compiled policy's own; the steps beside it are read from the documents once more, so that they can
name what compiling leaves out: patterns that do not fit, comparisons that fail. A test holds the two to each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import rfc8785

from sluicegate.policies.compile import AUTONOMY, DEFAULT_LAYER, CompiledPolicy
from sluicegate.policies.constraints import Constraints
from sluicegate.policies.documents import Rule
from sluicegate.policies.evaluate import RANKS, FactValue, Judgement, Subject
from sluicegate.policies.facts import COMPUTED_FACTS, CONFIDENCE, FactTest, split_key, tests_of
from sluicegate.policies.faults import nearest
from sluicegate.policies.fields import DECISIONS
from sluicegate.policies.intents import IntentDocument
from sluicegate.policies.load import Bundle
from sluicegate.policies.patterns import Glob
from sluicegate.policies.subject import subject_of
from sluicegate.policies.windows import window_of
from sluicegate.schemas.payload import job_hash
from sluicegate.schemas.records import DecisionWord, RuleError, RuleRef

_APPROVE: Final = RANKS["REQUIRE_APPROVAL"]
_CONSTRAIN: Final = RANKS["ALLOW_WITH_CONSTRAINTS"]

FactSource = Literal["given", "claimed", "payload", "computed"]


class Reason(msgspec.Struct, frozen=True):
    """A determining rule; ``reason`` is None where its author wrote none."""

    layer: str
    id: str
    reason: str | None


class FactShown(msgspec.Struct, frozen=True):
    """A fact that was there to be asked; ``value`` is None where it is declared and absent."""

    name: str
    value: FactValue
    source: FactSource


class RuleStep(msgspec.Struct, frozen=True):
    """What became of one rule. ``effect`` is what an open rule did; None for one that matched or failed."""

    id: str
    decision: DecisionWord
    outcome: Literal["matched", "open", "failed"]
    why: str
    effect: str | None = None


class LayerSteps(msgspec.Struct, frozen=True):
    """One layer, in the order of its rules up to its sure match. ``decision`` is None when it abstains.

    ``unasked`` counts the rules behind the sure match.
    """

    layer: str
    mode: Literal["enforce", "observe"]
    decision: DecisionWord | None
    rules: tuple[RuleStep, ...]
    unasked: int


class Said(msgspec.Struct, frozen=True):
    """A judgement as it is shown."""

    decision: DecisionWord
    rules: tuple[Reason, ...]
    constraints: Constraints
    missing: tuple[str, ...]
    errors: tuple[RuleError, ...]
    reason: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer: what acts, what it rests on, and how it came about.

    ``observed`` is what would be decided if everything that is only observed were enforced; None where nothing is.
    ``job_hash`` is taken over the RFC 8785 JSON of the payload and an empty salt.
    """

    decision: DecisionWord
    rules: tuple[Reason, ...]
    constraints: Constraints
    missing: tuple[str, ...]
    errors: tuple[RuleError, ...]
    reason: str
    policy_snapshot: str
    job_hash: str
    level: int
    agent_class: str
    risk_tags: tuple[str, ...]
    facts: tuple[FactShown, ...]
    observed: Said | None
    steps: tuple[LayerSteps, ...]


def explain(
    bundle: Bundle,
    policy: CompiledPolicy,
    intent: IntentDocument,
    given: Mapping[str, FactValue],
    level: int | None = None,
) -> Explanation:
    """Judge an intent as a first one of its agent, with the given facts over its own, and say why.

    ``policy`` is the compiled ``bundle``; ``level`` is by default the agent's own.
    """
    subject = _subject(policy, intent, given, level)
    judgement = policy.judge(subject)
    said = _said(judgement)
    return Explanation(
        decision=said.decision,
        rules=said.rules,
        constraints=said.constraints,
        missing=said.missing,
        errors=said.errors,
        reason=said.reason,
        policy_snapshot=bundle.snapshot_name,
        job_hash=job_hash(rfc8785.dumps(intent.payload), intent.topic, intent.agent_id, intent.risk_tags, b""),
        level=subject.level,
        agent_class=subject.agent_class,
        risk_tags=subject.risk_tags,
        facts=tuple(FactShown(name, subject.facts[name], _source(name, given)) for name in sorted(subject.facts)),
        observed=None if judgement.observed is None else _said(judgement.observed),
        steps=tuple(_layer_steps(name, mode, rules, subject) for name, mode, rules in _layers(bundle, subject.level)),
    )


def notes_on(
    bundle: Bundle,
    policy: CompiledPolicy,
    intent: IntentDocument,
    given: Mapping[str, FactValue],
    level: int | None = None,
) -> tuple[str, ...]:
    """What differs between this question and the gate's, and what its author may have meant otherwise."""
    found = []
    if policy.agent(intent.agent_id) is None:
        found.append(f"agent `{intent.agent_id}` does not stand in agents.yaml: the gate would refuse its intent")
    schema = policy.action(intent.topic).payload_schema
    fault = None if schema is None else schema.fault(intent.payload)
    if fault is not None:
        found.append(f"the payload does not fit the topic's schema, so the gate would refuse it: {fault}")
    if level is not None and bundle.autonomy is None:
        found.append("the bundle has no autonomy document, so a level changes nothing")
    asked = facts_asked(bundle)
    for name in sorted(set(given) - asked):
        close = nearest(name, asked, cutoff=0.8)
        hint = f"; did you mean `{close}`?" if close else ""
        found.append(f"no rule asks for the fact `{name}`{hint}")
    return tuple(found)


def facts_asked(bundle: Bundle) -> set[str]:
    """Every fact that a rule of any layer or level asks for, and the facts that its windows sum."""
    rules = [rule for layer in bundle.layers.values() for rule in layer.document.rules]
    if bundle.autonomy is not None:
        rules += [rule for level in bundle.autonomy.document.autonomy_levels.values() for rule in level.rules]
    asked = {split_key(key)[0] for rule in rules for key in rule.match.fact_tests()}
    return asked | {window.fact for fact in asked if (window := window_of(fact)) is not None}


def shown(value: FactValue) -> str:
    """A fact as people write it."""
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else str(value)


def _subject(
    policy: CompiledPolicy, intent: IntentDocument, given: Mapping[str, FactValue], level: int | None
) -> Subject:
    return subject_of(
        policy,
        topic=intent.topic,
        agent_id=intent.agent_id,
        risk_tags=intent.risk_tags,
        payload=intent.payload,
        confidence=intent.confidence,
        level=level,
        given=given,
    )


def _said(judgement: Judgement) -> Said:
    refs = sorted(judgement.rules, key=lambda ref: ref.layer)
    return Said(
        decision=judgement.decision,
        rules=tuple(Reason(ref.layer, ref.id, _written(ref)) for ref in refs),
        constraints=judgement.constraints,
        missing=judgement.missing,
        errors=judgement.errors,
        reason=judgement.reason,
    )


def _written(ref: RuleRef) -> str | None:
    # Nobody wrote the default's reason; what the compiled policy says for it is our word, in ``reason``.
    return None if ref.layer == DEFAULT_LAYER else ref.reason


def _source(name: str, given: Mapping[str, FactValue]) -> FactSource:
    if name in given:
        return "given"
    if name == CONFIDENCE:
        return "claimed"
    return "computed" if name in COMPUTED_FACTS or window_of(name) is not None else "payload"


def _layers(bundle: Bundle, level: int) -> list[tuple[str, Literal["enforce", "observe"], list[tuple[str, Rule]]]]:
    """(layer, mode, its rules with their ids), by layer name; the agent's level is a layer."""
    found = [
        (name, layer.document.mode, _identified(name, layer.document.rules)) for name, layer in bundle.layers.items()
    ]
    if bundle.autonomy is not None:
        name = f"level_{level}"
        held = bundle.autonomy.document.autonomy_levels.get(name)
        found.append((AUTONOMY, bundle.autonomy.document.mode, [] if held is None else _identified(name, held.rules)))
    return sorted(found, key=lambda each: each[0])


def _identified(place: str, rules: Sequence[Rule]) -> list[tuple[str, Rule]]:
    """Each rule with its id, which is its place in the layer or level where its author gave none."""
    return [(rule.id or f"{place}/{index}", rule) for index, rule in enumerate(rules)]


def _layer_steps(
    layer: str, mode: Literal["enforce", "observe"], rules: Sequence[tuple[str, Rule]], subject: Subject
) -> LayerSteps:
    steps: list[RuleStep] = []
    floor = -1
    for name, rule in rules:
        outcome, why = _tried(rule, subject)
        steps.append(RuleStep(name, DECISIONS[rule.decision], outcome, why))
        if outcome == "matched":
            floor = RANKS[DECISIONS[rule.decision]]
            break
    steps = [
        msgspec.structs.replace(step, effect=_effect(step, floor)) if step.outcome == "open" else step for step in steps
    ]
    counted = [step.decision for step in steps if step.outcome == "matched" or step.effect == _STRICTER]
    decision = max(counted, key=RANKS.__getitem__, default=None)
    if decision == "ALLOW" and any(step.effect == _ADDS for step in steps):
        decision = "ALLOW_WITH_CONSTRAINTS"
    return LayerSteps(
        layer=layer,
        mode=mode,
        decision=decision,
        rules=tuple(steps),
        unasked=len(rules) - len(steps),
    )


_STRICTER: Final = "counts, since it is stricter than what surely matches"
_ADDS: Final = "adds its constraints"
_NOTHING: Final = "counts for nothing"


def _effect(step: RuleStep, floor: int) -> str:
    """What an open rule does beside the layer's sure match, whose strictness is ``floor`` (-1 where there is none)."""
    rank = RANKS[step.decision]
    if rank >= _APPROVE:
        return _STRICTER if rank > floor else _ADDS if rank == floor else _NOTHING
    return _ADDS if rank == _CONSTRAIN else _NOTHING


def _tried(rule: Rule, subject: Subject) -> tuple[Literal["matched", "open", "failed"], str]:
    """What becomes of a rule, and the words for it."""
    misfit = _misfit(rule, subject)
    if misfit is not None:
        return "failed", misfit
    held: list[str] = []
    unknown: list[str] = []
    for test in tests_of(rule.match.fact_tests()):
        outcome, words = _compared(test, subject.facts)
        if outcome == "failed":
            return "failed", words
        (held if outcome == "holds" else unknown).append(words)
    if unknown:
        return "open", " and ".join(unknown)
    return "matched", ", ".join([*_fitting(rule, subject), *held])


def _misfit(rule: Rule, subject: Subject) -> str | None:
    """Why topic or tags are not as the rule wants them, or None."""
    match, tags = rule.match, set(subject.risk_tags)
    have = _listed(subject.risk_tags) if tags else "none"
    if match.topics is not None and not any(Glob(each).matches(subject.topic) for each in match.topics):
        return f"topic `{subject.topic}` does not fit {_listed(match.topics, ' or ')}"
    if match.risk_tags is not None and tags.isdisjoint(match.risk_tags):
        return f"none of the tags {_listed(match.risk_tags)} is there; there are {have}"
    if match.risk_tags_all is not None and not tags.issuperset(match.risk_tags_all):
        lacking = [tag for tag in match.risk_tags_all if tag not in tags]
        return f"the tag {_listed(lacking)} is not there; there are {have}"
    if match.risk_tags_only is not None and not tags.issubset(match.risk_tags_only):
        further = sorted(tags.difference(match.risk_tags_only))
        return f"there is a further tag, {_listed(further)}"
    return None


def _fitting(rule: Rule, subject: Subject) -> list[str]:
    """How topic and tags are as the rule wants them."""
    match, found = rule.match, []
    if match.topics is not None:
        fitting = next(each for each in match.topics if Glob(each).matches(subject.topic))
        found.append(f"topic `{subject.topic}` fits `{fitting}`")
    if match.risk_tags is not None:
        found.append(f"tagged {_listed([tag for tag in match.risk_tags if tag in subject.risk_tags])}")
    if match.risk_tags_all is not None:
        found.append(f"tagged {_listed(match.risk_tags_all)}")
    if match.risk_tags_only is not None:
        only = _listed(match.risk_tags_only)
        found.append(f"tagged only from {only}" if match.risk_tags_only else "without tags")
    return found


def _compared(test: FactTest, facts: Mapping[str, Any]) -> tuple[Literal["holds", "failed", "unknown"], str]:
    """One comparison and the words for it."""
    name = test.fact
    if name not in facts:
        return "failed", f"the fact {name} is not declared for this topic"
    value: FactValue = facts[name]
    if value is None:
        return "unknown", f"{name} is absent"
    if test.operator == "is":
        if not isinstance(value, bool):
            return "unknown", f"{name} is {shown(value)}, which is neither true nor false"
        holds = value is test.threshold
        return ("holds" if holds else "failed"), f"{name} is {shown(value)}" + (
            "" if holds else f", not {shown(test.threshold)}"
        )
    if isinstance(value, bool) or not math.isfinite(value):
        return "unknown", f"{name} is {shown(value)}, which is no number"
    holds = value > test.threshold if test.operator == "above" else value < test.threshold
    is_or_not = "is" if holds else "is not"
    return (
        "holds" if holds else "failed"
    ), f"{name} {shown(value)} {is_or_not} {test.operator} {shown(test.threshold)}"


def _listed(names: Sequence[str], between: str = ", ") -> str:
    return between.join(f"`{name}`" for name in names)
