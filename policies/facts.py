"""Facts as rules ask for them: `<fact>_above`, `<fact>_below` with a number, `<fact>` with true or false."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from sluicegate.policies.faults import nearest, suggest
from sluicegate.policies.windows import COUNT, window_of, window_problem

Operator = Literal["above", "below", "is"]
MATCH_FIELDS: Final = ("topics", "risk_tags", "risk_tags_all", "risk_tags_only")

BUILT_IN_FACTS: Final[Mapping[str, tuple[float, float] | None]] = {
    "confidence": (0.0, 1.0),
    "anomaly_score": (0.0, 1.0),
    "retry_count": (0.0, math.inf),
    "affected_users": (0.0, math.inf),
    "amount_usd": (-math.inf, math.inf),
    "first_time_action": None,
}
"""Facts with a settled meaning and the range of their values; None for those that are true or false."""

CONFIDENCE: Final = "confidence"
SUMMED: Final = ("amount_usd", "affected_users")
"""Built-in facts that an action declares and that can be summed over a window."""
COMPUTED_FACTS: Final[Mapping[str, float | bool]] = {
    "first_time_action": True,
    "retry_count": 0,
    "anomaly_score": 0.0,
}
"""Facts that the gate computes from the log, with their values at a first intent; windows are computed, too."""


class FactTest(msgspec.Struct, frozen=True):
    """One comparison of a rule: strict, and never true of a value that is absent or unreadable."""

    fact: str
    operator: Operator
    threshold: float


def split_key(key: str) -> tuple[str, Operator]:
    """The fact and the operator in a match key: `amount_usd_above` is (`amount_usd`, `above`)."""
    if key.endswith("_above"):
        return key[:-6], "above"
    if key.endswith("_below"):
        return key[:-6], "below"
    return key, "is"


def tests_of(fact_tests: Mapping[str, Any]) -> tuple[FactTest, ...]:
    """The comparisons of a checked match, by key name so that their order never depends on the writer."""
    return tuple(FactTest(*split_key(key), value) for key, value in sorted(fact_tests.items()))


def is_known(fact: str, declared: Iterable[str]) -> bool:
    """Whether a fact is built in, declared, or a window over a number (`amount_usd_24h`) or intents (`count_1h`)."""
    names = set(declared)
    window = window_of(fact)
    if window is None:
        return fact in BUILT_IN_FACTS or fact in names
    return window.fact == COUNT or window.fact in SUMMED or window.fact in names


def fact_name_problem(name: str) -> str | None:
    """Why an action cannot declare a fact of this name, or None."""
    if name in COMPUTED_FACTS:
        return f"`{name}` is computed by the gate; no payload may say it"
    if name == CONFIDENCE:
        return "confidence is what the agent says of itself; no payload needs to"
    if window_of(name) is not None:
        return f"`{name}` is a window, which the gate computes"
    if split_key(name)[1] != "is" or name in MATCH_FIELDS or name == COUNT:
        return f"`{name}` means something else in a match"
    return None


def key_problem(key: str, value: Any, declared: Iterable[str]) -> tuple[str, str, bool] | None:
    """(message, fix, at the key) when a further key of a match asks for no fact, else None."""
    declared = set(declared)
    fact, operator = split_key(key)
    vocabulary = _vocabulary(declared)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if operator == "is" and key in BUILT_IN_FACTS and BUILT_IN_FACTS[key] is None and not isinstance(value, bool):
        return f"`{key}` is true or false", "write `true` or `false`", False
    if operator == "is" and is_known(key, declared) and not isinstance(value, bool):
        return f"`{key}` is compared as a number", f"write `{key}_above` or `{key}_below`, and a number", True
    if operator == "is" and not isinstance(value, bool):
        base = _begins_with(key, declared)
        if base is not None and nearest(key, vocabulary, cutoff=0.9) is None:
            return f"unknown key `{key}`", f"write `{base}_above` or `{base}_below`; both are strict", True
        close = nearest(key, vocabulary) is not None or not number
        fix = suggest(key, vocabulary) if close else f"write `{key}_above` or `{key}_below` to compare a number"
        return f"unknown key `{key}`", fix, True
    if operator != "is" and not number:
        return f"`{key}` compares with a number", "write a number", False
    if not is_known(fact, declared):
        said = window_problem(fact, {*declared, *SUMMED, COUNT})
        if said is not None:
            return f"unknown fact `{fact}`", said, True
        close_name = nearest(key, vocabulary, cutoff=0.85)
        if close_name is not None:
            fix = f"did you mean `{close_name}`? else declare the fact `{fact}` in actions.yaml"
            return f"unknown fact `{fact}`", fix, True
        return None
    return _range_problem(key, fact, operator, value)


def _begins_with(key: str, declared: Iterable[str]) -> str | None:
    """The longest numeric fact that a key begins with, as in `amount_usd_gt`."""
    numeric = {name for name, span in BUILT_IN_FACTS.items() if span is not None} | set(declared)
    return max((name for name in numeric if key.startswith(f"{name}_")), key=len, default=None)


def _range_problem(key: str, fact: str, operator: Operator, value: Any) -> tuple[str, str, bool] | None:
    if fact not in BUILT_IN_FACTS:
        return None
    span = BUILT_IN_FACTS[fact]
    if span is None:
        if operator == "is":
            return None
        return f"`{fact}` is true or false, not a number", f"write `{fact}: true`", True
    low, high = span
    if operator == "is":
        return f"`{fact}` is a number", f"write `{fact}_above` or `{fact}_below`", True
    limits = f"from {low:g} to {high:g}" if math.isfinite(high) else f"from {low:g}"
    if not low <= value <= high:
        return f"threshold `{value}` is out of range: `{fact}` goes {limits}", f"write a number {limits}", False
    if (operator == "above" and value == high) or (operator == "below" and value == low):
        return f"`{key}: {value}` can never hold: `{fact}` goes {limits}", "move the threshold inwards", False
    return None


def empty_range(fact_tests: Mapping[str, Any]) -> str | None:
    """The first fact whose two thresholds leave no number between them."""
    for key, value in fact_tests.items():
        fact, operator = split_key(key)
        upper = fact_tests.get(f"{fact}_below")
        numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (value, upper))
        if operator == "above" and numbers and upper <= value:
            return fact
    return None


def _vocabulary(declared: set[str]) -> list[str]:
    names = list(MATCH_FIELDS)
    for fact in {*BUILT_IN_FACTS, *declared}:
        if BUILT_IN_FACTS.get(fact, (0.0, 0.0)) is None:
            names.append(fact)
        elif fact in BUILT_IN_FACTS:
            names += [f"{fact}_above", f"{fact}_below"]
        else:
            names += [f"{fact}_above", f"{fact}_below", fact]
    return names
