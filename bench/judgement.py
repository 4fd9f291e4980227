"""What one judgement costs as a bundle grows, and what a topic that is new costs."""

from __future__ import annotations

import random
import time
from typing import Any, Final

from sluicegate.bench.figures import Findings, figure
from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.evaluate import Subject
from sluicegate.policies.load import parse_documents

RULES: Final = (3, 100, 1_000, 10_000)
DECISIONS: Final = ("allow", "allow_with_constraints", "require_approval", "deny")
FAMILIES: Final = 997
"""How many beginnings the topics of the rules have."""
SEED: Final = 11


def documents(rules: int) -> dict[str, Any]:
    """A bundle of two layers: a third of the rules compare an amount, every fifth wants a tag, all have topics."""
    found = []
    for number in range(rules):
        match: dict[str, Any] = {"topics": [_pattern(number)]}
        if number % 3 == 0:
            match["amount_usd_above"] = number % 500 + 1
        if number % 5 == 0:
            match["risk_tags"] = [f"tag-{number % 50}"]
        found.append({"id": f"rule-{number}", "match": match, "decision": DECISIONS[number % 4]})
    half = rules // 2
    return {
        "actions.yaml": {"actions": [{"topics": ["*"], "facts": {"amount_usd": "amount"}}]},
        "one.yaml": {"rules": found[:half]},
        "two.yaml": {"rules": found[half:]},
    }


def _pattern(number: int) -> str:
    return f"job.team-{number % FAMILIES}.*.do-{number}" if number % 2 else f"job.team-{number % FAMILIES}.do-{number}*"


def subjects(rules: int, count: int) -> list[Subject]:
    """Subjects that some rule of such a bundle fits, each with an amount."""
    chance = random.Random(SEED)  # noqa: S311  # the same subjects every time
    found = []
    for _ in range(count):
        number = chance.randrange(rules)
        topic = _pattern(number).replace("*", "x")
        facts = {"amount_usd": chance.random() * 600, "confidence": 0.9}
        found.append(Subject(topic, (f"tag-{number % 50}",), "someone", facts=facts))
    return found


def measure(findings: Findings, *, rounds: int, count: int) -> None:
    """Microseconds of a judgement with each number of rules, against that with the fewest, in the same rounds."""
    made = {rules: (compile_bundle(parse_documents(documents(rules))), subjects(rules, count)) for rules in RULES}
    known: dict[int, list[float]] = {rules: [] for rules in RULES}
    new: dict[int, list[float]] = {rules: [] for rules in RULES}
    for number in range(rounds):
        for rules, (policy, asked) in made.items():
            fresh = [_renamed(subject, number) for subject in asked[: count // 4]]
            new[rules].append(_timed(policy, fresh))
            _timed(policy, asked)
            known[rules].append(_timed(policy, asked))
    against = f"with {RULES[0]} rules"
    for rules in RULES[1:]:
        findings.figures.append(figure(f"a judgement by {rules:,} rules", "us", known[rules], against, known[RULES[0]]))
        name = f"a judgement by {rules:,} rules of a topic not met before"
        findings.figures.append(figure(name, "us", new[rules], against, new[RULES[0]]))


def _renamed(subject: Subject, number: int) -> Subject:
    """The same subject under tags that no judgement has met."""
    return Subject(subject.topic, (*subject.risk_tags, f"round-{number}"), subject.agent_id, facts=subject.facts)


def _timed(policy: CompiledPolicy, asked: list[Subject]) -> float:
    began = time.thread_time()
    for subject in asked:
        policy.judge(subject)
    return (time.thread_time() - began) / len(asked) * 1_000_000
