"""Which words a payload schema may use, and what is wrong with one, where and what to write instead. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import re2

from sluicegate.policies.faults import suggest

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
PATTERN: Final = "pattern"
PATTERN_BYTES_MAX: Final = 1 << 20
"""How much memory RE2 may take for one pattern; a larger one is refused."""
SHOWN_CHARS_MAX: Final = 80
"""How much of a value a message tells."""

Problem = tuple[tuple[str | int, ...], str, str]
"""Where in the schema, what is wrong, what to do."""

_HUGE_REPEAT: Final = re.compile(r"\{[0-9]*,?[0-9]{5}")
_TYPES: Final = ("array", "boolean", "integer", "null", "number", "object", "string")
_SCHEMA: Final = frozenset(
    {"additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then"}
)
_SCHEMAS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED_SCHEMAS: Final = frozenset({"$defs", "dependentSchemas", "properties"})
_NUMBER: Final = frozenset({"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum"})
_COUNT: Final = frozenset(
    {
        *("maxContains", "maxItems", "maxLength", "maxProperties"),
        *("minContains", "minItems", "minLength", "minProperties"),
    }
)
_FLAG: Final = frozenset({"deprecated", "readOnly", "uniqueItems", "writeOnly"})
_TEXT: Final = frozenset({"$comment", "contentEncoding", "contentMediaType", "description", "format", PATTERN, "title"})
_LIST: Final = frozenset({"enum", "examples"})
_ANYTHING: Final = frozenset({"const", "default"})
_OTHER: Final = frozenset({"$schema", "dependentRequired", "multipleOf", "required", "type"})
WORDS: Final = _SCHEMA | _SCHEMAS | _NAMED_SCHEMAS | _NUMBER | _COUNT | _FLAG | _TEXT | _LIST | _ANYTHING | _OTHER
_WRITE_OUT: Final = "write the schema out where it is wanted"
_NO_NAMES: Final = "remove it; nothing refers to it"
NOT_TAKEN: Final = {
    **dict.fromkeys(("$ref", "$dynamicRef", "$recursiveRef"), _WRITE_OUT),
    **dict.fromkeys(("$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"), _NO_NAMES),
    "$vocabulary": f"remove it; the words are those of {DIALECT}",
    "patternProperties": "name them in `properties`; `additionalProperties` speaks of all others",
    "unevaluatedProperties": "write `additionalProperties` beside all `properties`",
    "unevaluatedItems": "write `items` beside `prefixItems`",
    "additionalItems": "write `prefixItems` and `items`",
    "dependencies": "write `dependentRequired` or `dependentSchemas`",
    "definitions": _WRITE_OUT,
}
"""Words of JSON Schema, of this draft or an older one, that are not taken, and what to write instead."""


def schema_problems(schema: Any) -> Iterator[Problem]:
    """Everything that is wrong with a payload schema, each at its place."""
    yield from _problems(schema, ())


def _problems(schema: Any, place: tuple[str | int, ...]) -> Iterator[Problem]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield place, f"{_shown(schema)} is no schema", "write a mapping of keywords, `true` or `false`"
        return
    for word, value in schema.items():
        here = (*place, word)
        if word in NOT_TAKEN:
            yield here, f"`{word}` is not taken in a payload schema", NOT_TAKEN[word]
        elif word not in WORDS:
            if not word.startswith("x-"):
                yield here, f"`{_cut(word)}` is no keyword of JSON Schema", suggest(word, WORDS)
        elif word == "$schema":
            if place or value not in (DIALECT, f"{DIALECT}#"):
                yield (
                    here,
                    "a payload schema has one dialect, named at its top",
                    f"remove it, or write `{DIALECT}` there",
                )
        else:
            yield from _problems_of(word, value, here)


def _problems_of(word: str, value: Any, here: tuple[str | int, ...]) -> Iterator[Problem]:
    """What is wrong with the value of a keyword that is taken."""
    if word in _SCHEMA:
        yield from _problems(value, here)
    elif word in _SCHEMAS:
        if not isinstance(value, list) or not value:
            yield here, f"`{word}` is no list of schemas", "write at least one schema, behind `- `"
            return
        for index, each in enumerate(value):
            yield from _problems(each, (*here, index))
    elif word in _NAMED_SCHEMAS:
        if not isinstance(value, dict):
            yield here, f"`{word}` is no mapping of names to schemas", "write `name: schema` below it"
            return
        for name, each in value.items():
            yield from _problems(each, (*here, name))
    elif word == "dependentRequired" and isinstance(value, dict):
        for name, each in value.items():
            yield from _unless(_is_names(each), (*here, name), each, "list each name once, as in `[a, b]`")
    else:
        fix = _value_fix(word, value)
        yield from _unless(fix is None, here, value, fix or "")
        if word == PATTERN and isinstance(value, str) and regex(value) is None:
            fix = "leave out look-arounds, back-references and large repetitions"
            yield here, f"the pattern {_shown(value)} is none that RE2 takes", fix


def _value_fix(word: str, value: Any) -> str | None:
    """What to write instead of a keyword's value that is no schema; None when it will do."""
    if word in _NUMBER:
        return None if _is_number(value) else "write a number"
    if word == "multipleOf":
        return None if _is_number(value) and value > 0 else "write a number above 0"
    if word in _COUNT:
        whole = _is_number(value) and value >= 0 and (isinstance(value, int) or value.is_integer())
        return None if whole else "write a whole number, 0 or more"
    if word in _FLAG:
        return None if isinstance(value, bool) else "write `true` or `false`"
    if word in _TEXT:
        return None if isinstance(value, str) else "write text, in quotes"
    if word in _LIST:
        return None if isinstance(value, list) else "write a list"
    if word == "required":
        return None if _is_names(value) else "list each name once, as in `[a, b]`"
    if word == "type":
        several = _is_names(value) and bool(value) and set(value) <= set(_TYPES)
        known = (isinstance(value, str) and value in _TYPES) or several
        return None if known else f"write one or more of {', '.join(f'`{name}`' for name in _TYPES)}"
    return None if word in _ANYTHING else "write `name: [name]` below it"


def _unless(holds: bool, here: tuple[str | int, ...], value: Any, fix: str) -> Iterator[Problem]:
    if not holds:
        yield here, f"{_shown(value)} is no value of `{here[-1]}`", fix


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value) and len(set(value)) == len(value)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "..."


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else f"`{_cut(str(value))}`"


@lru_cache(maxsize=256)
def regex(pattern: str) -> Any:
    """A pattern as RE2 has it, to be asked of bytes in UTF-8; None where RE2 does not take it."""
    if _HUGE_REPEAT.search(pattern):
        return None  # RE2 takes what it cannot count for plain text
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = PATTERN_BYTES_MAX
    try:
        return re2.compile(pattern, options)
    except (re2.error, ValueError, OverflowError):
        return None
