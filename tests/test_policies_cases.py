"""Cases beside a bundle: how they are read, when one fails, and what it says then."""

from __future__ import annotations

import pytest

from sluicegate.policies.cases import read_cases, run_case
from sluicegate.policies.compile import compile_bundle
from sluicegate.policies.faults import PolicyFaults
from sluicegate.policies.load import parse_bundle

LAYER = """
rules:
  - { id: large, match: { topics: ["pay.*"], amount_above: 100 }, decision: require_approval, reason: much }
  - id: fence
    match: { topics: ["pay.*"] }
    decision: allow_with_constraints
    constraints: { read_only: true, network_allowlist: [b, a] }
"""
ACTIONS = 'actions:\n  - { topics: ["pay.*"], facts: { amount: total } }\n'
AUTONOMY = """
autonomy_levels:
  level_0: { name: watched, rules: [ { match: { topics: ["*"] }, decision: deny } ] }
  level_3: { name: free, rules: [ { match: { topics: ["pay.*"] }, decision: allow } ] }
"""
SMALL = "intent: { topic: pay.bill, payload: { total: 5 } }"
WHOLE = "decision: ALLOW_WITH_CONSTRAINTS"


def _reason(expect: str, intent: str = SMALL, more: str = "", **files: str) -> str | None:
    """Why the one case fails."""
    text = f"cases:\n  - name: one\n    {intent}\n{more}    expect: {{ {expect} }}\n"
    (case,) = read_cases({"c.yaml": text})
    bundle = parse_bundle({"actions.yaml": ACTIONS, "a.yaml": LAYER, **{f"{n}.yaml": t for n, t in files.items()}})
    return run_case(bundle, compile_bundle(bundle), case)


@pytest.mark.parametrize(
    "expect",
    [
        WHOLE,
        f"{WHOLE}, rules: [a/fence]",
        f"{WHOLE}, constraints: {{ read_only: true, network_allowlist: [a, b] }}",
        f"{WHOLE}, missing: []",
        f"{WHOLE}, observed: null",
    ],
)
def test_a_case_passes_when_policy_says_what_it_names(expect: str) -> None:
    """Only what `expect` names is compared; the order of a list means nothing."""
    assert _reason(expect) is None


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ("decision: ALLOW", "expected ALLOW, got ALLOW_WITH_CONSTRAINTS; ALLOW_WITH_CONSTRAINTS is by `a/fence`"),
        (f"{WHOLE}, rules: [a/large]", "expected the rules `a/large`, got `a/fence`"),
        (f"{WHOLE}, rules: []", "expected the rules none, got `a/fence`"),
        (f"{WHOLE}, constraints: {{ read_only: 1, network_allowlist: [a, b] }}", "expected the constraints"),
        (f"{WHOLE}, constraints: {{}}", 'expected the constraints {}, got {"network_allowlist":["b","a"],"read_only":'),
        (f"{WHOLE}, missing: [amount]", "expected to miss `amount`, missed none"),
        (f"{WHOLE}, observed: DENY", "expected to observe DENY, observed nothing"),
    ],
)
def test_a_case_that_fails_says_what_was_expected_and_what_came(expect: str, said: str) -> None:
    """Decision, rules, constraints, missing facts and what is observed each make a case fail."""
    reason = _reason(expect)
    assert reason is not None
    assert reason.startswith(said)


def test_the_reason_of_a_failure_tells_why_policy_decided_so() -> None:
    """The rule's own reason, and what was open for want of a fact."""
    reason = _reason("decision: ALLOW", "intent: { topic: pay.bill }")
    assert reason == (
        "expected ALLOW, got REQUIRE_APPROVAL; REQUIRE_APPROVAL is by `a/large` (much); "
        "`a/large` is open: amount is absent"
    )


def test_facts_and_level_of_a_case_stand_over_those_of_its_intent() -> None:
    """As with `policy explain --facts --level`."""
    assert _reason("decision: REQUIRE_APPROVAL", more="    facts: { amount: 500 }\n") is None
    assert _reason("decision: DENY", grow=AUTONOMY) is None
    assert _reason(WHOLE, more="    level: 3\n", grow=AUTONOMY) is None


def test_a_level_that_the_bundle_does_not_define_fails_the_case() -> None:
    """The levels there are stand in the reason."""
    reason = _reason("decision: DENY", more="    level: 1\n", grow=AUTONOMY)
    assert reason == "there is no level 1; the levels are 0, 3"


def test_what_is_observed_is_compared() -> None:
    """A bundle that observes lets everything run; a case can still hold what it would have decided."""
    assert _reason(f"decision: ALLOW, observed: {WHOLE.split()[1]}", bundle="mode: observe\n") is None
    assert _reason("decision: ALLOW", bundle="mode: observe\n") is None
    reason = _reason("decision: ALLOW, observed: null", bundle="mode: observe\n")
    assert reason is not None
    assert reason.startswith("expected to observe nothing, observed ALLOW_WITH_CONSTRAINTS")


CASE = "cases:\n  - name: one\n    intent: { topic: t }\n    expect: { decision: DENY }\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            CASE + "  - name: one\n    intent: { topic: t }\n    expect: { decision: DENY }\n",
            "c.yaml:5:11: error: a second",
        ),
        (CASE.replace("expect", "expects"), "c.yaml:4:5: error: unknown key `expects`; did you mean `expect`?"),
        (CASE.replace("topic", "topik"), "c.yaml:3:15: error: unknown key `topik`; did you mean `topic`?"),
        (CASE.replace("DENY", "denied"), "c.yaml:4:25: error: `denied` is not known here"),
        (CASE + "    facts: { Amount: 5 }\n", "c.yaml:5:14: error: `Amount` is no name of a fact"),
        (CASE + "    level: -1\n", "c.yaml:5:12: error: `-1` is out of range"),
        ("cases: []\n", "c.yaml:1:8: error: `cases` is empty"),
        ("case: 1\n", "c.yaml:1:1: error: unknown key `case`; did you mean `cases`?"),
    ],
)
def test_cases_are_read_strictly(text: str, fault: str) -> None:
    """Whatever is no case is refused with its place, and nothing runs."""
    with pytest.raises(PolicyFaults) as refused:
        read_cases({"c.yaml": text})
    assert fault in str(refused.value)


def test_the_faults_of_every_file_are_told_at_once() -> None:
    """Nobody mends one file to be told of the next."""
    with pytest.raises(PolicyFaults) as refused:
        read_cases({"a.yaml": "case: 1\n", "b.yaml": "", "c.yaml": CASE})
    assert {fault.file for fault in refused.value.faults} == {"a.yaml", "b.yaml"}


def test_cases_keep_their_order_and_file() -> None:
    """By file name, then as they stand."""
    cases = read_cases(
        {
            "b.yaml": CASE,
            "a.json": '{"cases": [{"name": "x", "intent": {"topic": "t"}, '
            '"expect": {"decision": "DENY"}}, {"name": "w", "intent": {"topic": "t"}, '
            '"expect": {"decision": "DENY"}}]}',
        }
    )
    assert [(case.file, case.name) for case in cases] == [("a.json", "x"), ("a.json", "w"), ("b.yaml", "one")]
