"""From residual rules and facts to a judgement. Pure and total: whatever a rule does, a judgement comes out.

For one topic and one set of tags most of a bundle is settled when it is compiled: what is left of a layer, its
residue, are the rules that fit topic and tags, in order, up to the first that asks for no fact. Evaluating a residue:

1. A rule whose facts are all there and hold is the layer's sure match; the layer stops at it.
2. A rule is open when no comparison fails but some declared fact is absent or unreadable. The layer goes on. An open
   `require_approval` or `deny` counts where it is stricter than the sure match or there is none; an open
   `allow_with_constraints` only adds its constraints; an open `allow` counts for nothing.
3. A rule that errors counts as `require_approval`. The layer goes on, so that an error hides no later denial.

The strictest of what counts in all layers is the decision; constraints of everything that counts merge to the tightest.
An open rule as strict as its layer's sure match adds its constraints, too: had the fact been known and held, they
would be the ceiling, and an unknown fact must never widen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from sluicegate.policies.constraints import Constraints, ConstraintType, merge_all
from sluicegate.policies.facts import FactTest
from sluicegate.schemas.records import DecisionWord, RuleError, RuleRef

FactValue = float | bool | None

RANKS: Final[Mapping[DecisionWord, int]] = {
    "ALLOW": 0,
    "ALLOW_WITH_CONSTRAINTS": 1,
    "REQUIRE_APPROVAL": 2,
    "DENY": 3,
}
"""How strict each decision is."""
_WORDS: Final[tuple[DecisionWord, ...]] = tuple(RANKS)
_ALLOW, _CONSTRAIN, _APPROVE, _DENY = range(4)
_ABSTAINS: Final = -1

ERROR_CHARS_MAX: Final = 200
"""How much of a rule's error stands in the judgement, in characters."""


class Subject(msgspec.Struct, frozen=True):
    """What is judged. A fact that is named with None is declared but absent; one not named is not declared.

    ``fault`` is what is wrong with the payload by the action's schema: then it is denied, whatever rules say.
    """

    topic: str
    risk_tags: tuple[str, ...]
    agent_id: str
    agent_class: str = "default"
    facts: Mapping[str, FactValue] = {}
    level: int = 0
    fault: str | None = None


class Judgement(msgspec.Struct, frozen=True):
    """What policy says of a subject, and why.

    ``rules`` are all rules whose decision is the final one, by layer; ``constraints`` bind an allowed job and are
    the ceiling of an approval; ``missing`` are the absent facts that left a rule open, sorted. ``observed`` is what
    would have been decided, had everything that is only observed been enforced; None when nothing that fits the
    subject's topic and tags is only observed.
    """

    decision: DecisionWord
    rules: tuple[RuleRef, ...]
    constraints: Constraints
    missing: tuple[str, ...]
    errors: tuple[RuleError, ...]
    reason: str
    observed: Judgement | None = None


class ResidualRule(msgspec.Struct, frozen=True):
    """A rule that fits topic and tags, with the comparisons that are left."""

    ref: RuleRef
    rank: int
    tests: tuple[FactTest, ...]
    constraints: Constraints


class Residue(msgspec.Struct, frozen=True):
    """What is left of a bundle for one topic and one set of tags."""

    layers: tuple[tuple[ResidualRule, ...], ...]
    default: ResidualRule
    types: Mapping[str, ConstraintType]
    errors: tuple[RuleError, ...] = ()
    """What is wrong whatever the facts are."""


class _Tally:
    """What counts so far, over all layers."""

    __slots__ = ("added", "constraints", "counted", "errors", "missing", "rank")

    def __init__(self) -> None:
        self.rank = _ABSTAINS
        self.counted: list[RuleRef] = []
        self.added: list[RuleRef] = []
        self.constraints: list[Constraints] = []
        self.missing: set[str] = set()
        self.errors: list[RuleError] = []

    def count(self, ref: RuleRef, rank: int, constraints: Constraints) -> None:
        if rank > self.rank:
            self.rank, self.counted = rank, [ref]
        elif rank == self.rank:
            self.counted.append(ref)
        if constraints:
            self.constraints.append(constraints)


def evaluate(residue: Residue, facts: Mapping[str, FactValue]) -> Judgement:
    """The judgement of a subject with these facts. Never raises for what a fact or a rule holds."""
    tally = _Tally()
    for layer in residue.layers:
        _evaluate_layer(layer, facts, tally)
    if tally.rank == _ABSTAINS:
        default = residue.default
        tally.count(default.ref, default.rank, default.constraints)
    rules = tally.counted
    if tally.added:
        # An open rule adds constraints and no strictness, except that a bare ALLOW is one no longer.
        if tally.rank == _ALLOW:
            tally.rank, rules = _CONSTRAIN, []
        if tally.rank == _CONSTRAIN:
            rules = sorted(tally.added + rules, key=lambda ref: ref.layer)
    constrained = tally.rank in (_CONSTRAIN, _APPROVE)
    return Judgement(
        decision=_WORDS[tally.rank],
        rules=tuple(rules),
        constraints=merge_all(tally.constraints, residue.types) if constrained else {},
        missing=tuple(sorted(tally.missing)) if tally.missing else (),
        errors=(*residue.errors, *tally.errors) if residue.errors else tuple(tally.errors),
        reason=_reason(rules),
    )


def _reason(rules: Sequence[RuleRef]) -> str:
    if len(rules) == 1:
        return rules[0].reason or f"rule {rules[0].id}"
    return "; ".join(dict.fromkeys(ref.reason or f"rule {ref.id}" for ref in rules))


def _evaluate_layer(layer: Sequence[ResidualRule], facts: Mapping[str, FactValue], tally: _Tally) -> None:
    opened: list[ResidualRule] | None = None
    sure: ResidualRule | None = None
    for rule in layer:
        if rule.tests:
            try:
                absent = absent_facts(rule.tests, facts)
            except Exception as problem:  # noqa: BLE001 (whatever a rule does, a judgement must come out)
                _count_error(rule, problem, tally)
                continue
            if absent is None:
                continue
            if absent:
                tally.missing.update(absent)
                opened = [*opened, rule] if opened else [rule]
                continue
        sure = rule
        break
    floor = _ABSTAINS if sure is None else sure.rank
    for rule in opened or ():
        if rule.rank >= _APPROVE and rule.rank > floor:
            tally.count(rule.ref, rule.rank, rule.constraints)
        elif rule.rank == _CONSTRAIN:
            tally.added.append(rule.ref)
            tally.constraints.append(rule.constraints)
        elif rule.rank >= _APPROVE and rule.rank == floor:
            tally.constraints.append(rule.constraints)
    if sure is not None:
        tally.count(sure.ref, sure.rank, sure.constraints)


def absent_facts(tests: Sequence[FactTest], facts: Mapping[str, Any]) -> list[str] | tuple[()] | None:
    """Which facts are missing for the rule to hold: none, some, or None when it cannot hold whatever they are."""
    absent: list[str] | tuple[()] = ()
    for test in tests:
        if test.fact not in facts:
            return None
        value = facts[test.fact]
        operator = test.operator
        if operator == "is":
            if value is True or value is False:
                if value is not test.threshold:
                    return None
                continue
        elif (value.__class__ is float and math.isfinite(value)) or value.__class__ is int:
            if not (value > test.threshold if operator == "above" else value < test.threshold):
                return None
            continue
        absent = [*absent, test.fact]
    return absent


def _count_error(rule: ResidualRule, problem: Exception, tally: _Tally) -> None:
    said = f"{type(problem).__name__}: {problem}"[:ERROR_CHARS_MAX]
    ref = rule.ref
    tally.errors.append(RuleError(layer=ref.layer, id=ref.id, error=said))
    held = RuleRef(
        layer=ref.layer,
        id=ref.id,
        content_hash=ref.content_hash,
        decision="REQUIRE_APPROVAL",
        reason=f"the rule could not be evaluated: {said}",
    )
    tally.count(held, _APPROVE, rule.constraints)
