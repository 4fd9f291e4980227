"""An action's payload schema: what it takes, what it says, and that no payload makes it slow."""

from __future__ import annotations

from typing import Any

import pytest

from sluicegate.policies.actions import PayloadSchema, schema_problem


@pytest.mark.parametrize(
    ("schema", "payload", "said"),
    [
        ({"type": "object"}, {}, None),
        ({"type": "object"}, [], "`type` does not hold"),
        ({"properties": {"a": {"pattern": "^x+$"}}}, {"a": "xx"}, None),
        ({"properties": {"a": {"pattern": "^x+$"}}}, {"a": "secret"}, "`properties.a.pattern` does not hold"),
        ({"properties": {"a": {"pattern": "x"}}}, {"a": 1}, None),
        ({"uniqueItems": True}, [1, 2, {"a": 1}], None),
        ({"uniqueItems": True}, [{"a": 1, "b": 2}, {"b": 2, "a": 1}], "`uniqueItems` does not hold"),
        ({"uniqueItems": True}, [1, True], None),
        ({"$ref": "https://schemas.example/other"}, {}, "the schema cannot be applied: _WrappedReferencingError"),
    ],
)
def test_a_schema_names_what_is_broken_and_no_word_of_the_payload(schema: Any, payload: Any, said: str | None) -> None:
    """The place in the schema is the platform team's text; the payload is not."""
    assert PayloadSchema(schema).fault(payload) == said


def test_half_a_surrogate_pair_fits_no_pattern() -> None:
    """What is no text is refused, and does not end the step."""
    assert PayloadSchema({"pattern": "."}).fault("\ud800") is not None


def test_a_clever_payload_makes_no_pattern_slow() -> None:
    """A pattern on which a backtracking engine does not end within a lifetime."""
    assert PayloadSchema({"pattern": "^(a+)+$"}).fault("a" * 100_000 + "!") == "`pattern` does not hold"


def test_very_many_entries_are_told_apart_once_each() -> None:
    """Entries that cannot be hashed are not compared each with each."""
    assert PayloadSchema({"uniqueItems": True}).fault([{"n": number} for number in range(50_000)]) is None


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "object"}, None),
        ({"type": "objekt"}, "'objekt' is not valid under any of the given schemas"),
        ({"properties": {"a": {"pattern": "(?=x)"}}}, "RE2"),
        ({"patternProperties": {"^x": {}}}, "`patternProperties` is not taken"),
        ({"properties": {"pattern": {"type": "string"}}}, None),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_when_it_is_checked(schema: Any, said: str | None) -> None:
    """A fault of the schema is told to its author, not to every agent."""
    found = schema_problem(schema)
    assert found is None if said is None else found is not None and said in found
