"""Constraints: what a grant may do at most, how two of them merge to the tightest, and what tighter means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from sluicegate.policies.faults import suggest
from sluicegate.schemas.errors import SluicegateError

Kind = Literal["number", "integer", "boolean", "list"]
Merge = Literal["min", "max", "or", "and", "intersection", "union"]
Constraints = dict[str, Any]
"""Constraint name to number, boolean or list of text."""

MERGES: Final[Mapping[Kind, tuple[Merge, ...]]] = {
    "number": ("min", "max"),
    "integer": ("min", "max"),
    "boolean": ("or", "and"),
    "list": ("intersection", "union"),
}
"""Which merges make sense for which kind of value."""


class ConstraintType(msgspec.Struct, frozen=True):
    """What values a constraint takes and which of two is tighter: the result of ``merge`` always is."""

    kind: Kind
    merge: Merge


class ConstraintError(SluicegateError):
    """A constraint whose type is not declared, or whose value is not of its type."""


BUILT_IN: Final[Mapping[str, ConstraintType]] = {
    "max_runtime_sec": ConstraintType("number", "min"),
    "max_amount_usd": ConstraintType("number", "min"),
    "max_affected_rows": ConstraintType("integer", "min"),
    "max_affected_users": ConstraintType("integer", "min"),
    "max_output_bytes": ConstraintType("integer", "min"),
    "network_allowlist": ConstraintType("list", "intersection"),
    "path_allowlist": ConstraintType("list", "intersection"),
    "read_only": ConstraintType("boolean", "or"),
    "dry_run": ConstraintType("boolean", "or"),
}
"""The constraints that need no declaration; `constraint_types` of `bundle.yaml` adds to them."""


def problem_of(name: str, value: Any, types: Mapping[str, ConstraintType] = BUILT_IN) -> tuple[str, str] | None:
    """(message, fix) when ``name: value`` is no constraint, else None."""
    declared = types.get(name)
    if declared is None:
        return f"unknown constraint `{name}`", suggest(name, types) + " or declare it under `constraint_types`"
    wanted = _wanted(declared.kind, value)
    if wanted is None:
        return None
    return f"`{name}` is not {wanted}", f"write {wanted}"


def _wanted(kind: Kind, value: Any) -> str | None:
    """What the value should have been, or None when it is that."""
    if kind == "boolean":
        return None if isinstance(value, bool) else "`true` or `false`"
    if kind == "list":
        texts = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
        return None if texts and len(set(value)) == len(value) else "a list of different texts"
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind == "integer":
        return None if whole and value >= 0 else "a whole number from 0"
    finite = isinstance(value, float) and math.isfinite(value)
    return None if (whole or finite) and value >= 0 else "a number from 0"


def merge_constraints(
    a: Mapping[str, Any], b: Mapping[str, Any], types: Mapping[str, ConstraintType] = BUILT_IN
) -> Constraints:
    """The tightest of both: every name of either, and where both have it the tighter value.

    Commutative and associative. Two different allowlists give their common entries in sorted order; entries are
    compared as text. Raises ConstraintError for a name without a declared type.
    """
    merged = dict(a)
    for name, value in b.items():
        merged[name] = _tighter(name, merged[name], value, types) if name in merged else value
    return merged


def merge_all(each: Iterable[Mapping[str, Any]], types: Mapping[str, ConstraintType] = BUILT_IN) -> Constraints:
    """The tightest over any number of constraint sets."""
    merged: Constraints = {}
    for one in each:
        if one:
            merged = merge_constraints(merged, one, types) if merged else dict(one)
    return merged


def _tighter(name: str, a: Any, b: Any, types: Mapping[str, ConstraintType]) -> Any:
    declared = types.get(name)
    if declared is None:
        raise ConstraintError(f"unknown constraint `{name}`; {suggest(name, types)}")
    if a == b:
        return a
    match declared.merge:
        case "min":
            return min(a, b)
        case "max":
            return max(a, b)
        case "or":
            return a or b
        case "and":
            return a and b
        case "intersection":
            return sorted(set(a) & set(b))
        case "union":
            return sorted(set(a) | set(b))


def is_tighter_or_equal(
    candidate: Mapping[str, Any], ceiling: Mapping[str, Any], types: Mapping[str, ConstraintType] = BUILT_IN
) -> list[str]:
    """The names in ``candidate`` that would loosen ``ceiling`` or are no constraints, sorted; empty when all is well.

    A constraint that the ceiling lacks may be added. One that the candidate leaves out stays as the ceiling has it:
    merge the two to get what holds.
    """
    return sorted(name for name, value in candidate.items() if not _tightens(name, value, ceiling, types))


def _tightens(name: str, value: Any, ceiling: Mapping[str, Any], types: Mapping[str, ConstraintType]) -> bool:
    if problem_of(name, value, types) is not None:
        return False
    if name not in ceiling:
        return True
    held = ceiling[name]
    if problem_of(name, held, types) is not None:
        return False
    merged = _tighter(name, value, held, types)
    return set(merged) == set(value) if isinstance(value, list) else bool(merged == value)
