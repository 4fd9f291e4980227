"""An action's payload schema: what it takes, what it says, and that no payload makes it slow."""

from __future__ import annotations

from typing import Any

import pytest

from sluicegate.policies.faults import PolicyFaults
from sluicegate.policies.load import parse_bundle
from sluicegate.policies.payload_schema import STEPS_MAX, PayloadSchema
from sluicegate.policies.schema_words import DIALECT, NOT_TAKEN, WORDS, schema_problems


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
        ({"uniqueItems": True}, [0, False, "", None, [], {}, "0"], None),
        ({"uniqueItems": True}, [1, 1.0], "`uniqueItems` does not hold"),
        ({"uniqueItems": True}, [{"a": [1]}, {"a": [1.0]}], "`uniqueItems` does not hold"),
        ({"uniqueItems": True}, [2**53, 2**53 + 1, 1e300], None),
        ({"uniqueItems": True}, [10**22, 1e22], "`uniqueItems` does not hold"),
        ({"uniqueItems": True}, [10**5_000, 10**5_000], "`uniqueItems` does not hold"),
        ({"uniqueItems": True}, [["a", "b"], ["a,b"], ['a"1:b']], None),
        ({"const": 1}, True, "`const` does not hold"),
        ({"enum": [1, "a"]}, 1.0, None),
        ({"multipleOf": 0.01}, 19.99, None),
        ({"multipleOf": 0.01}, 19.995, "`multipleOf` does not hold"),
        ({"multipleOf": 0.01}, 10**400, "`multipleOf` does not hold"),
        ({"multipleOf": 0.01}, 1e308, None),
        ({"multipleOf": 3}, 3 * 10**400, None),
        ({"if": {"type": "array"}, "then": {"minItems": 1}}, [], "`then.minItems` does not hold"),
        ({"$schema": DIALECT, "properties": {"e": {"pattern": "^(a+)+$"}}}, {"e": "aaa"}, None),
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
    "schema",
    [
        {"items": {"not": {"anyOf": [{"anyOf": [{"const": [[index]]}] * 8} for index in range(32)]}}},
        {"allOf": [{"not": {"not": {"uniqueItems": True}}}] * 100},
        {"allOf": [{"items": {"type": "array"}}] * 100},
        {"allOf": [{"not": {"contains": {"minItems": 2}}}] * 100},
    ],
)
def test_the_work_of_one_payload_is_counted_and_ends(schema: Any) -> None:
    """A schema that asks each of very many entries very much is refused by a number, not by a clock."""
    payload: list[Any] = [[index] for index in range(30_000)]
    assert PayloadSchema(schema).fault(payload) == f"the schema takes more than {STEPS_MAX} steps for it"


def test_a_long_text_and_a_large_pattern_are_counted_too() -> None:
    """What RE2 does for them grows by both."""
    assert "steps" in str(PayloadSchema({"pattern": "(?:a?b?){300}c"}).fault("ab" * 100_000))
    assert PayloadSchema({"pattern": "(?:a?b?){300}c"}).fault("ab" * 1_000) == "`pattern` does not hold"


def test_the_densest_payload_of_the_usual_size_is_within_the_count() -> None:
    """A quarter of a megabyte of numbers, each with its bounds."""
    assert PayloadSchema({"items": {"type": "integer", "minimum": 0, "maximum": 9}}).fault([1] * 131_000) is None


def test_the_order_in_which_a_schema_is_written_changes_no_answer() -> None:
    """A snapshot comes back from the log with its keys sorted: the same place is named."""
    keys = {"minProperties": 2, "type": "object", "required": ["b"], "properties": {"b": False, "a": False}}
    turned = {key: keys[key] for key in reversed(list(keys))} | {"properties": {"a": False, "b": False}}
    payloads: tuple[Any, ...] = ({}, {"a": 1}, {"b": 1}, {"a": 1, "b": 1}, [])
    for payload in payloads:
        assert PayloadSchema(keys).fault(payload) == PayloadSchema(turned).fault(payload)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"$schema": DIALECT},
        {"properties": {word: {"type": "string"} for word in (*NOT_TAKEN, "pattern", "$schema")}},
        {"const": {"$ref": 1, "pattern": "(?=x)"}, "enum": [{"patternProperties": 1}], "default": {"$id": 1}},
        {"examples": [{"type": 7}], "dependentRequired": {"$ref": ["$id"]}, "x-ours": {"$ref": "#"}},
        {"pattern": r"^\p{L}+\z"},
    ],
)
def test_what_a_schema_is_about_may_have_any_name(schema: Any) -> None:
    """Only keywords are looked at; names of properties and constants are not keywords."""
    assert list(schema_problems(schema)) == []


@pytest.mark.parametrize("word", NOT_TAKEN)
def test_references_and_older_words_are_refused_with_what_to_write_instead(word: str) -> None:
    """Wherever a schema may stand; without references there is no recursion and nothing to look up."""
    refused = {word: "#"}
    wholes: list[tuple[Any, tuple[str | int, ...]]] = [
        (refused, ()),
        *(({each: refused}, (each,)) for each in ("additionalProperties", "items", "contains", "propertyNames")),
        *(({each: refused}, (each,)) for each in ("not", "if", "then", "else")),
        *(({each: {"a": refused}}, (each, "a")) for each in ("properties", "dependentSchemas", "$defs")),
        *(({each: [{}, refused]}, (each, 1)) for each in ("prefixItems", "allOf", "anyOf", "oneOf")),
    ]
    for schema, place in wholes:
        message = f"`{word}` is not taken in a payload schema"
        assert list(schema_problems(schema)) == [((*place, word), message, NOT_TAKEN[word])]


@pytest.mark.parametrize(
    ("schema", "place", "said"),
    [
        ({"type": "objekt"}, ("type",), "`objekt` is no value of `type`"),
        ({"properties": {"a": {"pattern": "(?=x)"}}}, ("properties", "a", "pattern"), "RE2"),
        ({"pattern": "a{99999999999999999999}"}, ("pattern",), "RE2"),
        ({"pattern": "a{2,99999}"}, ("pattern",), "RE2"),
        ({"pattern": "a{1001}"}, ("pattern",), "RE2"),
        ({"pattern": "(?P<a>x)(?P=b)"}, ("pattern",), "RE2"),
        ({"pattern": r"(?:\pL{100})+"}, ("pattern",), "RE2"),
        ({"pattern": "("}, ("pattern",), "RE2"),
        ({"pattern": "\ud800"}, ("pattern",), "RE2"),
        ({"requierd": ["a"]}, ("requierd",), "no keyword"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, ("$schema",), "one dialect"),
        ({"items": {"$schema": DIALECT}}, ("items", "$schema"), "one dialect"),
        ({"properties": {"a": 7}}, ("properties", "a"), "`7` is no schema"),
        ({"multipleOf": 0}, ("multipleOf",), "`0` is no value"),
        ({"minLength": float("inf")}, ("minLength",), "`inf` is no value"),
        ({"minLength": -1}, ("minLength",), "`-1` is no value"),
        ({"required": ["a", "a"]}, ("required",), "a list is no value"),
        ({"dependentRequired": {"a": "b"}}, ("dependentRequired", "a"), "`b` is no value"),
        ({"dependentRequired": []}, ("dependentRequired",), "a list is no value"),
        ({"anyOf": []}, ("anyOf",), "no list of schemas"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_when_it_is_checked(
    schema: Any, place: tuple[str | int, ...], said: str
) -> None:
    """A fault of the schema is told to its author, where it stands, not to every agent."""
    (found,) = schema_problems(schema)
    assert found[0] == place
    assert said in found[1]


@pytest.mark.parametrize(
    "value", [None, True, 7, "x", [], {}, [7], {"a": 7}, float("nan"), 10**400], ids=lambda value: str(value)[:9]
)
def test_no_value_of_a_keyword_raises(value: Any) -> None:
    """Whatever stands behind a keyword is a schema that can be asked, or a fault."""
    for word in WORDS | {*NOT_TAKEN, "x-ours", "other"}:
        if not list(schema_problems({word: value})):
            PayloadSchema({word: value}).fault([{"a": "x"}, 1.5, 10**400])


def test_the_faults_of_a_schema_come_all_at_once_and_where_they_stand() -> None:
    """Line and column of the keyword, as for every other fault of a document."""
    lines = (
        "actions:",
        "  - topics: [job.*]",
        "    payload_schema:",
        "      type: objekt",
        "      properties: { a: { $ref: '#' } }",
    )
    with pytest.raises(PolicyFaults) as refused:
        parse_bundle({"a.yaml": "rules: []", "actions.yaml": "\n".join(lines)})
    found = [(fault.line, fault.column, fault.message) for fault in refused.value.faults if fault.severity == "error"]
    assert (4, 7, "`objekt` is no value of `type`") in found
    assert (5, 26, "`$ref` is not taken in a payload schema") in found
