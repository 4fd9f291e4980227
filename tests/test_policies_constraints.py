"""Constraints: merging to the tightest, and what a verdict may do to a ceiling."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from sluicegate.policies.constraints import (
    BUILT_IN,
    ConstraintError,
    ConstraintType,
    is_tighter_or_equal,
    merge_all,
    merge_constraints,
)

TYPES = {
    **BUILT_IN,
    "min_delay_sec": ConstraintType("number", "max"),
    "host_denylist": ConstraintType("list", "union"),
    "unattended": ConstraintType("boolean", "and"),
}


def _random(chance: random.Random) -> dict[str, Any]:
    """Constraints of every merge there is, over small ranges so that they meet."""
    values: dict[str, Any] = {
        "max_runtime_sec": chance.choice([0, 1, 2.5, 3]),
        "max_affected_rows": chance.randint(0, 3),
        "min_delay_sec": chance.choice([0, 1, 2.5]),
        "read_only": chance.random() < 0.5,
        "unattended": chance.random() < 0.5,
        "network_allowlist": chance.sample("cab", chance.randint(0, 3)),
        "host_denylist": chance.sample("cab", chance.randint(0, 3)),
    }
    return {name: value for name, value in values.items() if chance.random() < 0.6}


@pytest.mark.parametrize(
    ("name", "a", "b", "tightest"),
    [
        ("max_runtime_sec", 900, 60.5, 60.5),
        ("max_amount_usd", 0, 10, 0),
        ("max_affected_rows", 5, 5, 5),
        ("network_allowlist", ["b", "a"], ["c", "b"], ["b"]),
        ("network_allowlist", ["a"], ["b"], []),
        ("network_allowlist", ["b", "a"], ["b", "a"], ["b", "a"]),
        ("read_only", False, True, True),
        ("min_delay_sec", 1, 2, 2),
        ("host_denylist", ["b"], ["a"], ["a", "b"]),
        ("unattended", True, False, False),
    ],
)
def test_each_type_merges_to_the_tighter_value(name: str, a: Any, b: Any, tightest: Any) -> None:
    """Smaller maximum, larger minimum, common entries of allowlists, all entries of denylists."""
    assert merge_constraints({name: a}, {name: b}, TYPES) == {name: tightest}
    assert merge_constraints({name: b}, {name: a}, TYPES) == {name: tightest}


def test_merging_is_commutative_associative_and_tighter_than_each_part() -> None:
    """In whatever order layers meet, the same constraints come out, and they loosen none that went in."""
    chance = random.Random(11)
    for _ in range(800):
        parts = [_random(chance) for _ in range(3)]
        merged = merge_all(parts, TYPES)
        for order in itertools.permutations(parts):
            assert merge_all(order, TYPES) == merged
        a, b, c = parts
        left = merge_constraints(merge_constraints(a, b, TYPES), c, TYPES)
        right = merge_constraints(a, merge_constraints(b, c, TYPES), TYPES)
        assert left == right == merged
        for part in parts:
            assert is_tighter_or_equal(merged, part, TYPES) == []
            assert set(part) <= set(merged)


def test_a_candidate_is_tighter_exactly_when_merging_it_changes_nothing_of_it() -> None:
    """The two functions agree, so that what the desk accepts is what the grant then holds."""
    chance = random.Random(12)
    for _ in range(800):
        candidate, ceiling = _random(chance), _random(chance)
        merged = merge_constraints(candidate, ceiling, TYPES)
        loosened = {name for name, value in candidate.items() if _as_set(merged[name]) != _as_set(value)}
        assert set(is_tighter_or_equal(candidate, ceiling, TYPES)) == loosened


def _as_set(value: Any) -> Any:
    return frozenset(value) if isinstance(value, list) else value


def test_a_verdict_may_tighten_and_add_and_leave_out() -> None:
    """What is left out stays as the ceiling has it when the two are merged."""
    ceiling = {"max_runtime_sec": 900, "network_allowlist": ["b", "a"]}
    candidate = {"max_runtime_sec": 300, "read_only": True}
    assert is_tighter_or_equal(candidate, ceiling) == []
    assert merge_constraints(ceiling, candidate) == {
        "max_runtime_sec": 300,
        "network_allowlist": ["b", "a"],
        "read_only": True,
    }


@pytest.mark.parametrize(
    "candidate",
    [
        {"max_runtime_sec": 901},
        {"max_runtime_sec": float("nan")},
        {"max_runtime_sec": True},
        {"max_runtime_sec": "300"},
        {"max_runtime_sec": -1},
        {"max_runtime_sec": None},
        {"network_allowlist": ["a", "c"]},
        {"network_allowlist": "a"},
        {"network_allowlist": ["a", "a"]},
        {"read_only": False},
        {"max_runtime": 1},
    ],
)
def test_a_verdict_that_loosens_or_is_no_constraint_is_named(candidate: dict[str, Any]) -> None:
    """A larger maximum, a new host, a lifted flag, a wrong type, an unknown name: each is given back by name."""
    ceiling = {"max_runtime_sec": 900, "network_allowlist": ["a", "b"], "read_only": True}
    assert is_tighter_or_equal(candidate, ceiling) == list(candidate)


def test_constraints_of_an_unknown_type_do_not_merge() -> None:
    """Without a declared type nobody knows which of two values is tighter."""
    with pytest.raises(ConstraintError, match="did you mean `max_runtime_sec`"):
        merge_constraints({"max_runtime": 1}, {"max_runtime": 2})


def test_merging_changes_neither_part() -> None:
    """Constraint sets are shared between judgements; merging must leave them alone."""
    a, b = {"network_allowlist": ["b", "a"]}, {"network_allowlist": ["a"]}
    merge_constraints(a, b)
    assert (a, b) == ({"network_allowlist": ["b", "a"]}, {"network_allowlist": ["a"]})
