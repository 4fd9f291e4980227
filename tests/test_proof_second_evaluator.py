"""A second evaluator, written from the rules alone, agrees with the product on random bundles and intents."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from naive_judge import Answer, judge
from random_bundles import Case, random_case, random_intent, subject_of_intent

from sluicegate.policies.evaluate import Judgement

INTENTS_EACH: Final = 10
"""Intents that are put to one bundle."""
SHORT_PAIRS: Final = 2_000
LONG_PAIRS: Final = 100_000


def answer_of(judgement: Judgement) -> Answer:
    """What the product said, in the second evaluator's terms."""
    constraints = {
        name: frozenset(value) if isinstance(value, list) else value for name, value in judgement.constraints.items()
    }
    observed = None if judgement.observed is None else answer_of(judgement.observed)
    rules = frozenset((rule.layer, rule.id) for rule in judgement.rules)
    assert len(rules) == len(judgement.rules)
    return Answer(judgement.decision, rules, constraints, frozenset(judgement.missing), observed)


def assert_agreed(case: Case, intent: dict[str, Any], where: str) -> Answer:
    """Hold the product against the second evaluator; the latter's answer."""
    expected = judge(case.documents, intent)
    judgement = case.policy.judge(subject_of_intent(intent))
    said = answer_of(judgement)
    if said.observed is None:
        # Where no rule of an observed layer fits topic and tags, the product says at once that nothing is observed.
        alike = expected.observed in (None, replace(expected, observed=None))
        said = replace(said, observed=expected.observed) if alike else said
    shown = f"{where}\n{case.texts}\n{intent}"
    assert said == expected, shown
    levels = case.documents.get("trust.yaml", {}).get("autonomy_levels")
    undefined = levels is not None and f"level_{intent['level']}" not in levels
    assert [error.layer for error in judgement.errors] == ["autonomy"] * undefined, shown
    return expected


def _features(intent: dict[str, Any], answer: Answer) -> list[str]:
    """What a pair has shown, so that a generator that went blind is noticed."""
    rules = {layer for layer, _ in answer.rules}
    merged = answer.observed or answer
    return [
        answer.decision,
        f"by default {answer.decision}" if "default" in rules else "by a rule",
        "observed" if answer.observed is not None else "enforced",
        f"observed {answer.observed.decision}" if answer.observed is not None else "enforced",
        "differs from observed" if answer.observed and answer.observed.decision != answer.decision else "the same",
        "by the level" if "autonomy" in rules else "by a layer",
        "by a level that is not defined" if ("autonomy", f"level_{intent['level']}") in answer.rules else "defined",
        "missing" if answer.missing else "complete",
        "several rules" if len(answer.rules) > 1 else "one rule",
        *(f"constraint {name}" for name in merged.constraints),
        *(f"missing {name}" for name in merged.missing),
    ]


def agree(seed: int, pairs: int) -> Counter[str]:
    """Put pairs to both; what they have shown. The failing bundle and intent stand in the assertion's message."""
    chance = random.Random(seed)
    shown: Counter[str] = Counter()
    for number in range(pairs):
        if number % INTENTS_EACH == 0:
            case = random_case(chance)
        intent = random_intent(chance)
        shown.update(_features(intent, assert_agreed(case, intent, f"seed {seed}, pair {number}")))
    return shown


EXPECTED: Final = (
    *("ALLOW", "ALLOW_WITH_CONSTRAINTS", "REQUIRE_APPROVAL", "DENY", "by default ALLOW", "by default DENY"),
    *("by default ALLOW_WITH_CONSTRAINTS", "by default REQUIRE_APPROVAL", "differs from observed", "observed DENY"),
    *("observed ALLOW_WITH_CONSTRAINTS", "by the level", "by a level that is not defined", "missing", "several rules"),
    *("constraint max_runtime_sec", "constraint network_allowlist", "constraint min_delay_sec", "constraint regions"),
    *("constraint unattended", "constraint denied_hosts", "constraint min_copies", "constraint dry_run"),
    *("missing amount_usd_24h", "missing count_1h", "missing first_time_action", "missing urgent"),
)


def test_a_second_evaluator_agrees_on_random_pairs() -> None:
    """On 2,000 pairs both give the same decision, rules, constraints, absent facts and observed judgement."""
    shown = agree(81, SHORT_PAIRS)
    assert [name for name in EXPECTED if not shown[name]] == []


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(8_100, 8_110))
def test_a_second_evaluator_agrees_on_a_hundred_thousand_pairs(seed: int) -> None:
    """The long form: 100,000 pairs from ten seeds."""
    shown = agree(seed, LONG_PAIRS // 10)
    assert [name for name in EXPECTED if not shown[name]] == []


def test_the_second_evaluator_is_short_and_takes_nothing_from_the_product() -> None:
    """At most 150 lines and no import of `sluicegate`: what both get wrong they must get wrong each by itself."""
    text = (Path(__file__).parent / "naive_judge.py").read_text()
    assert len(text.splitlines()) <= 150
    assert "import sluicegate" not in text
    assert "from sluicegate" not in text
