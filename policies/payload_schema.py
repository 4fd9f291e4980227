"""The JSON Schema of an action's payload: a part of draft 2020-12 that no payload makes slow. Pure.

References and what depends on them are not taken, so a schema is a tree: there is no recursion, nothing is looked up
and the deepest call is as deep as the document. What is left is counted in steps, and ends after a number of them, so
the same schema and payload give the same answer on every machine. Meanings as in `JSON Schema Validation`, sections 6
and 10 of draft 2020-12; `format` is a note, as it says there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any, Final

from sluicegate.policies.schema_words import PATTERN, regex

STEPS_MAX: Final = 1_000_000
"""How many steps the schema of one payload may take, each a microsecond or so."""
CHARS_EACH_STEP: Final = 256
"""How much text is written or hashed in one step."""
PLACE_CHARS_MAX: Final = 300
"""How much of a place is told."""
STATES_EACH_STEP: Final = 64
"""How many letters times instructions of a pattern RE2 does in one step, where it does its worst."""

_NAMELESS: Final = ("", "if")
"""What stands in no place: the schema `false`, and `if`, beside which `then` and `else` stand."""

Place = tuple[str | int, ...]
_Check = Callable[["_Run", Any, Any], Place | None]
_Node = tuple[tuple[str, _Check, Any], ...]


class _OutOfStepsError(Exception):
    """The schema takes more steps than it may."""


class PayloadSchema:
    """A JSON Schema made ready to be asked of payloads."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """``schema`` has passed ``schema_problems``."""
        self._node = _compiled(dict(schema))

    def fault(self, payload: Any) -> str | None:
        """The first place of the schema that a payload breaks, never the payload's own words; None when it fits.

        Which place is the first one does not depend on the order in which the schema was written.
        """
        try:
            place = _Run().breach(self._node, payload)
        except _OutOfStepsError:
            return f"the schema takes more than {STEPS_MAX} steps for it"
        return None if place is None else f"`{'.'.join(map(str, place))[:PLACE_CHARS_MAX]}` does not hold"


class _Run:
    """One payload's way through a schema, with the steps that are left."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = STEPS_MAX

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise _OutOfStepsError

    def breach(self, node: _Node, value: Any) -> Place | None:
        """Where the first of the node's keywords that does not hold stands, below the node; None when all hold."""
        self.spend(1 + len(node))
        for word, check, argument in node:
            place = check(self, argument, value)
            if place is not None:
                return place if word in _NAMELESS else (word, *place)
        return None

    def fits(self, node: _Node, value: Any) -> bool:
        return self.breach(node, value) is None

    def form(self, value: Any) -> str:
        """A text that is the same for two values if and only if JSON Schema holds them equal: 1 is 1.0, not true."""
        self.spend(1)
        if isinstance(value, str):
            self.spend(len(value) // CHARS_EACH_STEP)
            return f'"{len(value)}:{value}'
        if isinstance(value, dict):
            return "{" + "".join(self.form(key) + self.form(value[key]) for key in sorted(value)) + "}"
        if isinstance(value, list):
            return "[" + "".join(map(self.form, value)) + "]"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        # Hexadecimal digits are written in linear time, and as many as there are.
        return f"{value:x}," if isinstance(value, int) and not isinstance(value, bool) else f"{value!r},"


def _compiled(schema: Any) -> _Node:
    if schema is True:
        return ()
    if schema is False:
        return (("", lambda *_: (), None),)
    return tuple((word, check, make(schema)) for word, (check, make) in _KEYWORDS.items() if word in schema)


# --- keywords of every value


def _type(run: _Run, names: tuple[str, ...], value: Any) -> Place | None:
    return None if any(_TYPES[name](value) for name in names) else ()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "array": lambda value: isinstance(value, list),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "null": lambda value: value is None,
    "number": _is_number,
    "object": lambda value: isinstance(value, dict),
    "string": lambda value: isinstance(value, str),
}


def _enum(run: _Run, forms: frozenset[str], value: Any) -> Place | None:
    return None if run.form(value) in forms else ()


def _forms(values: Iterable[Any]) -> frozenset[str]:
    return frozenset(map(_Run().form, values))


# --- numbers


def _multiple_of(run: _Run, divisor: int | Fraction, value: Any) -> Place | None:
    """By the decimal digits as they are written: 19.99 is a multiple of 0.01, whatever its binary form is."""
    if not _is_number(value):
        return None
    run.spend(8)
    if isinstance(value, float) and not math.isfinite(value):
        return ()
    if isinstance(divisor, Fraction) and isinstance(value, int) and abs(value) >= _FLOAT_END:
        return ()  # where fractions are wanted, a number beyond every fraction is a mistake
    exact = Fraction(repr(value)) if isinstance(value, float) else value
    return None if exact % divisor == 0 else ()


_FLOAT_END: Final = 2**1024


def _divisor(schema: Any) -> int | Fraction:
    divisor = schema["multipleOf"]
    return int(divisor) if isinstance(divisor, int) or divisor.is_integer() else Fraction(repr(divisor))


# --- text


def _pattern(run: _Run, pattern: Any, value: Any) -> Place | None:
    if not isinstance(value, str):
        return None
    try:
        text = value.encode()
    except UnicodeEncodeError:
        return ()  # half a surrogate pair is no text
    run.spend(1 + len(text) * pattern.programsize // STATES_EACH_STEP)
    return () if pattern.search(text) is None else None


# --- lists


def _unique_items(run: _Run, wanted: bool, value: Any) -> Place | None:
    if not wanted or not isinstance(value, list):
        return None
    return None if len(set(map(run.form, value))) == len(value) else ()


def _prefix_items(run: _Run, nodes: tuple[_Node, ...], value: Any) -> Place | None:
    if not isinstance(value, list):
        return None
    return _first(run, zip(range(len(nodes)), nodes, value, strict=False))


def _items(run: _Run, argument: tuple[int, _Node], value: Any) -> Place | None:
    if not isinstance(value, list):
        return None
    begin, node = argument
    for index in range(begin, len(value)):
        place = run.breach(node, value[index])
        if place is not None:
            return place
    return None


def _contains(run: _Run, argument: tuple[_Node, float, float], value: Any) -> Place | None:
    if not isinstance(value, list):
        return None
    node, least, most = argument
    fitting = 0
    for entry in value:
        fitting += run.fits(node, entry)
        if fitting > most:
            return ()
    return () if fitting < least else None


# --- mappings


def _required(run: _Run, names: tuple[str, ...], value: Any) -> Place | None:
    run.spend(len(names))
    return () if isinstance(value, dict) and any(name not in value for name in names) else None


def _dependent_required(run: _Run, wanted: tuple[tuple[str, tuple[str, ...]], ...], value: Any) -> Place | None:
    if not isinstance(value, dict):
        return None
    run.spend(len(wanted))
    for name, names in wanted:
        if name in value and _required(run, names, value) is not None:
            return ()
    return None


def _properties(run: _Run, nodes: tuple[tuple[str, _Node], ...], value: Any) -> Place | None:
    if not isinstance(value, dict):
        return None
    run.spend(len(nodes))
    return _first(run, ((name, node, value[name]) for name, node in nodes if name in value))


def _dependent_schemas(run: _Run, nodes: tuple[tuple[str, _Node], ...], value: Any) -> Place | None:
    if not isinstance(value, dict):
        return None
    run.spend(len(nodes))
    return _first(run, ((name, node, value) for name, node in nodes if name in value))


def _additional_properties(run: _Run, argument: tuple[frozenset[str], _Node], value: Any) -> Place | None:
    if not isinstance(value, dict):
        return None
    named, node = argument
    run.spend(len(value))
    for name, each in value.items():
        place = None if name in named else run.breach(node, each)
        if place is not None:
            return place
    return None


def _property_names(run: _Run, node: _Node, value: Any) -> Place | None:
    if not isinstance(value, dict):
        return None
    for name in value:
        place = run.breach(node, name)
        if place is not None:
            return place
    return None


# --- schemas of the same value


def _all_of(run: _Run, nodes: tuple[_Node, ...], value: Any) -> Place | None:
    return _first(run, ((index, node, value) for index, node in enumerate(nodes)))


def _any_of(run: _Run, nodes: tuple[_Node, ...], value: Any) -> Place | None:
    return None if any(run.fits(node, value) for node in nodes) else ()


def _one_of(run: _Run, nodes: tuple[_Node, ...], value: Any) -> Place | None:
    fitting = 0
    for node in nodes:
        fitting += run.fits(node, value)
        if fitting > 1:
            return ()
    return None if fitting == 1 else ()


def _not(run: _Run, node: _Node, value: Any) -> Place | None:
    return () if run.fits(node, value) else None


def _if(run: _Run, argument: tuple[_Node, _Node, _Node], value: Any) -> Place | None:
    condition, then, otherwise = argument
    word, node = ("then", then) if run.fits(condition, value) else ("else", otherwise)
    place = run.breach(node, value)
    return None if place is None else (word, *place)


def _first(run: _Run, parts: Iterable[tuple[str | int, _Node, Any]]) -> Place | None:
    for step, node, value in parts:
        place = run.breach(node, value)
        if place is not None:
            return (step, *place)
    return None


# --- what is made of a keyword's value before any payload is seen


def _as_it_is(word: str) -> Callable[[Any], Any]:
    return lambda schema: schema[word]


def _node(word: str) -> Callable[[Any], Any]:
    return lambda schema: _compiled(schema[word])


def _nodes(word: str) -> Callable[[Any], Any]:
    return lambda schema: tuple(map(_compiled, schema[word]))


def _named_nodes(word: str) -> Callable[[Any], Any]:
    return lambda schema: tuple((name, _compiled(each)) for name, each in sorted(schema[word].items()))


def _bound(kind: Callable[[Any], bool], fails: Callable[[Any, Any], bool]) -> _Check:
    return lambda _, bound, value: () if kind(value) and fails(value, bound) else None


_text, _list, _map = _TYPES["string"], _TYPES["array"], _TYPES["object"]
_KEYWORDS: Final[dict[str, tuple[_Check, Callable[[Any], Any]]]] = {
    "type": (_type, lambda schema: (schema["type"],) if isinstance(schema["type"], str) else tuple(schema["type"])),
    "const": (_enum, lambda schema: _forms([schema["const"]])),
    "enum": (_enum, lambda schema: _forms(schema["enum"])),
    "minimum": (_bound(_is_number, lambda value, bound: value < bound), _as_it_is("minimum")),
    "maximum": (_bound(_is_number, lambda value, bound: value > bound), _as_it_is("maximum")),
    "exclusiveMinimum": (_bound(_is_number, lambda value, bound: value <= bound), _as_it_is("exclusiveMinimum")),
    "exclusiveMaximum": (_bound(_is_number, lambda value, bound: value >= bound), _as_it_is("exclusiveMaximum")),
    "multipleOf": (_multiple_of, _divisor),
    "minLength": (_bound(_text, lambda value, bound: len(value) < bound), _as_it_is("minLength")),
    "maxLength": (_bound(_text, lambda value, bound: len(value) > bound), _as_it_is("maxLength")),
    PATTERN: (_pattern, lambda schema: regex(schema[PATTERN])),
    "minItems": (_bound(_list, lambda value, bound: len(value) < bound), _as_it_is("minItems")),
    "maxItems": (_bound(_list, lambda value, bound: len(value) > bound), _as_it_is("maxItems")),
    "minProperties": (_bound(_map, lambda value, bound: len(value) < bound), _as_it_is("minProperties")),
    "maxProperties": (_bound(_map, lambda value, bound: len(value) > bound), _as_it_is("maxProperties")),
    "required": (_required, lambda schema: tuple(schema["required"])),
    "dependentRequired": (
        _dependent_required,
        lambda schema: tuple((name, tuple(names)) for name, names in sorted(schema["dependentRequired"].items())),
    ),
    "properties": (_properties, _named_nodes("properties")),
    "additionalProperties": (
        _additional_properties,
        lambda schema: (frozenset(schema.get("properties", ())), _compiled(schema["additionalProperties"])),
    ),
    "propertyNames": (_property_names, _node("propertyNames")),
    "prefixItems": (_prefix_items, _nodes("prefixItems")),
    "items": (_items, lambda schema: (len(schema.get("prefixItems", ())), _compiled(schema["items"]))),
    "contains": (
        _contains,
        lambda schema: (
            _compiled(schema["contains"]),
            schema.get("minContains", 1),
            schema.get("maxContains", float("inf")),
        ),
    ),
    "uniqueItems": (_unique_items, _as_it_is("uniqueItems")),
    "dependentSchemas": (_dependent_schemas, _named_nodes("dependentSchemas")),
    "allOf": (_all_of, _nodes("allOf")),
    "anyOf": (_any_of, _nodes("anyOf")),
    "oneOf": (_one_of, _nodes("oneOf")),
    "not": (_not, _node("not")),
    "if": (
        _if,
        lambda schema: tuple(_compiled(schema.get(word, True)) for word in ("if", "then", "else")),
    ),
}
"""What each keyword checks and what it is made of, in the order in which they are asked: the cheap ones first."""
