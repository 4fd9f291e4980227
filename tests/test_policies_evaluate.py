"""What the corpus cannot say: rules that err, content hashes, and values that no document holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import rfc8785

from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.evaluate import Subject
from sluicegate.policies.load import parse_bundle
from sluicegate.policies.patterns import Glob


class _Failing(Mapping[str, Any]):
    """Facts of which one cannot be read without an error."""

    def __init__(self, **facts: Any) -> None:
        self._facts = facts

    def __getitem__(self, name: str) -> Any:
        if name == "confidence":
            raise ZeroDivisionError("no denominator")
        return self._facts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(["confidence", *self._facts])

    def __len__(self) -> int:
        return len(self._facts) + 1


def _policy(text: str) -> CompiledPolicy:
    return compile_bundle(parse_bundle({"a.yaml": text}))


def _judge(policy: CompiledPolicy, topic: str, facts: Mapping[str, Any]) -> Any:
    return policy.judge(Subject(topic, (), "someone", facts=facts))


def test_a_rule_that_errs_holds_the_job_and_the_error_stands_in_the_judgement() -> None:
    """Whatever the rule would have said, it fails closed, under its own constraints."""
    policy = _policy(
        "rules:\n"
        "  - id: e\n    match: { confidence_above: 0.5 }\n"
        "    decision: allow_with_constraints\n    constraints: { read_only: true }\n"
        '  - { id: f, match: { topics: ["*"] }, decision: allow }\n'
    )
    judgement = _judge(policy, "t", _Failing())
    assert judgement.decision == "REQUIRE_APPROVAL"
    assert [(rule.layer, rule.id, rule.decision) for rule in judgement.rules] == [("a", "e", "REQUIRE_APPROVAL")]
    assert [(error.layer, error.id, error.error) for error in judgement.errors] == [
        ("a", "e", "ZeroDivisionError: no denominator")
    ]
    assert judgement.constraints == {"read_only": True}
    assert "no denominator" in judgement.reason


def test_an_error_hides_no_denial_behind_it() -> None:
    """The layer goes on after a rule that errs."""
    policy = _policy(
        "rules:\n  - { match: { confidence_above: 0.5 }, decision: allow }\n"
        '  - { id: never, match: { topics: ["*"] }, decision: deny }\n'
    )
    judgement = _judge(policy, "t", _Failing())
    assert judgement.decision == "DENY"
    assert [rule.id for rule in judgement.rules] == ["never"]
    assert len(judgement.errors) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.9", True, [1], {}, object()])
def test_a_value_that_is_no_number_leaves_the_rule_open(value: Any) -> None:
    """An agent must not slip past a comparison by sending what cannot be compared."""
    policy = _policy(
        "rules:\n  - { match: { amount_usd_above: 5 }, decision: deny }\n"
        '  - { match: { topics: ["*"] }, decision: allow }\n'
    )
    judgement = _judge(policy, "t", {"amount_usd": value})
    assert (judgement.decision, judgement.missing) == ("DENY", ("amount_usd",))


def test_numbers_of_any_size_compare() -> None:
    """A whole number beyond every float is still above a threshold, without an error."""
    policy = _policy("rules:\n  - { match: { amount_usd_above: 5.5 }, decision: deny }\n")
    judgement = _judge(policy, "t", {"amount_usd": 10**400})
    assert (judgement.decision, judgement.errors, judgement.missing) == ("DENY", (), ())


def test_a_rules_content_hash_is_that_of_its_own_canonical_json() -> None:
    """An approval binds a rule by content: SHA-256 over the RFC 8785 JSON of the rule as its document has it."""
    policy = _policy("rules:\n  - decision: deny\n    match: { amount_usd_above: 5.0 }\n")
    rule: dict[str, Any] = {"match": {"amount_usd_above": 5}, "decision": "deny"}
    (ref,) = _judge(policy, "t", {"amount_usd": 6}).rules
    assert ref.content_hash == hashlib.sha256(rfc8785.dumps(rule)).hexdigest()
    assert (ref.layer, ref.id, ref.reason) == ("a", "a/0", None)


def test_a_pattern_of_many_stars_is_matched_in_one_scan() -> None:
    """Topics come from agents: the worst one for a pattern costs no more than a few passes over it."""
    assert not Glob("*a" * 50 + "*b").matches("a" * 5_000)
    assert Glob("*a" * 50 + "*b").matches("a" * 5_000 + "b")
