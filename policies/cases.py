"""Cases beside a bundle: an intent, and what its author expects policy to say of it. Pure.

    cases:
      - name: a large refund waits
        intent: { topic: job.support.refund, payload: { amount_usd: 1400 } }
        expect: { decision: REQUIRE_APPROVAL, rules: [escalation-policy/0] }

What ``expect`` does not name is not compared, the decision always is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
import rfc8785
from pydantic import Field

from sluicegate.policies.checks import validated
from sluicegate.policies.compile import CompiledPolicy
from sluicegate.policies.evaluate import FactValue
from sluicegate.policies.explain import Explanation, explain
from sluicegate.policies.faults import Fault, PolicyFaults
from sluicegate.policies.fields import Confidence, Strict, Text
from sluicegate.policies.intents import IntentDocument, IntentTags, Named, facts_in
from sluicegate.policies.load import Bundle
from sluicegate.policies.reading import read_source
from sluicegate.schemas.records import DecisionWord

SOMEONE: Final = "someone"
"""The agent of a case that names none; as it stands in no agents.yaml, it is of the class `default` at level 0."""


class CaseIntent(Strict):
    """The intent of a case: only its topic must be given."""

    topic: Named
    agent_id: Named = SOMEONE
    job_id: Named = "case"
    risk_tags: IntentTags = Field(default=[])
    payload: dict[str, Any] = Field(default={})
    confidence: Confidence | None = None


class Expected(Strict):
    """What policy should say. ``observed`` is the decision that is only observed; null when nothing is."""

    decision: DecisionWord
    rules: list[Text] | None = None
    constraints: dict[str, Any] | None = None
    missing: list[Text] | None = None
    observed: DecisionWord | None = None


class CaseDocument(Strict):
    """One case. ``facts`` stand over those of the intent, as in a facts file; ``level`` over the agent's own."""

    name: Text
    intent: CaseIntent
    facts: dict[str, Any] = Field(default={})
    level: Annotated[int, Field(ge=0, le=99)] | None = None
    expect: Expected


class CasesDocument(Strict):
    """A file of cases."""

    cases: Annotated[list[CaseDocument], Field(min_length=1)]


class Case(msgspec.Struct, frozen=True):
    """A case that can be run, and the file that it stands in."""

    file: str
    name: str
    intent: IntentDocument
    facts: dict[str, FactValue]
    level: int | None
    expect: Expected


def read_cases(files: dict[str, str]) -> tuple[Case, ...]:
    """The cases of these texts by file name, in order. Raises PolicyFaults with every fault of every file."""
    cases: list[Case] = []
    faults: list[Fault] = []
    for file in sorted(files):
        source = read_source(file, files[file])
        document = validated(source, CasesDocument)
        names: set[str] = set()
        for index, case in enumerate(document.cases if document is not None else ()):
            if case.name in names:
                source.fault(("cases", index, "name"), "a second case has this name", "give each case its own")
            names.add(case.name)
            facts = facts_in(source, ("cases", index, "facts"))
            intent = IntentDocument.model_validate(case.intent.model_dump())
            cases.append(Case(file, case.name, intent, facts, case.level, case.expect))
        faults += source.faults
    if faults:
        raise PolicyFaults(faults)
    return tuple(cases)


def run_case(bundle: Bundle, policy: CompiledPolicy, case: Case) -> str | None:
    """Why a case fails, in words, or None when policy says what it expects. ``policy`` is the compiled ``bundle``."""
    if case.level is not None and policy.levels is not None and case.level not in policy.levels:
        return f"there is no level {case.level}; the levels are {', '.join(map(str, policy.levels))}"
    said = explain(bundle, policy, case.intent, case.facts, case.level)
    differences = list(_differences(case.expect, said))
    return "; ".join(differences) + f"; {_because(said)}" if differences else None


def _differences(expect: Expected, said: Explanation) -> Iterator[str]:
    if said.decision != expect.decision:
        yield f"expected {expect.decision}, got {said.decision}"
    rules = [f"{rule.layer}/{rule.id}" for rule in said.rules]
    if expect.rules is not None and sorted(expect.rules) != sorted(rules):
        yield f"expected the rules {_names(expect.rules)}, got {_names(rules)}"
    if expect.constraints is not None and _canonical(expect.constraints) != _canonical(said.constraints):
        yield f"expected the constraints {_json(expect.constraints)}, got {_json(said.constraints)}"
    if expect.missing is not None and sorted(set(expect.missing)) != list(said.missing):
        yield f"expected to miss {_names(sorted(expect.missing))}, missed {_names(said.missing)}"
    if "observed" in expect.model_fields_set:
        observed = said.observed.decision if said.observed is not None else None
        if observed != expect.observed:
            yield f"expected to observe {expect.observed or 'nothing'}, observed {observed or 'nothing'}"


def _because(said: Explanation) -> str:
    """Who decided and why, with what was missing or wrong on the way."""
    named = [f"`{rule.layer}/{rule.id}`" + (f" ({rule.reason})" if rule.reason else "") for rule in said.rules]
    parts = [f"{said.decision} is by {', '.join(named)}"]
    for layer in said.steps:
        parts += [f"`{layer.layer}/{step.id}` is open: {step.why}" for step in layer.rules if step.outcome == "open"]
    parts += [f"`{error.layer}/{error.id}` failed: {error.error}" for error in said.errors]
    return "; ".join(parts)


def _names(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _json(value: Any) -> str:
    return rfc8785.dumps(value).decode()


def _canonical(constraints: dict[str, Any]) -> bytes:
    """Constraints as bytes that are equal when they mean the same: `1` is not `true`, lists have no order."""
    unordered = {
        name: sorted(value, key=str) if isinstance(value, list) else value for name, value in constraints.items()
    }
    return rfc8785.dumps(unordered)
