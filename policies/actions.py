"""What the platform team knows of a topic: `actions.yaml` made ready to be asked. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
import re2
import rfc8785
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from sluicegate.policies.documents import ActionEntry, ActionsDocument
from sluicegate.policies.paths import compile_path
from sluicegate.policies.patterns import Glob
from sluicegate.policies.windows import COUNT

DEFAULT_POOL: Final = "default"
ACTIONS_MAX: Final = 4_096
"""How many topics' actions are kept ready at a time."""
SCHEMA_TEXT_CHARS_MAX: Final = 300
"""How much of a schema's complaint is told."""

Steps = tuple[str | int, ...]


class PayloadSchema:
    """A JSON Schema (2020-12) that never looks outside itself, and that no payload makes slow.

    Patterns are RE2's, whose time is linear in the text; unique entries are told by their canonical form, not by
    comparing each with each.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """``schema`` has passed ``schema_problem``."""
        self._validator = _Validator(schema, registry=Registry())

    def fault(self, payload: Any) -> str | None:
        """The first place of the schema that a payload breaks, never the payload's own words; None when it fits.

        A reference that leads nowhere is broken by every payload.
        """
        try:
            found = next(self._validator.iter_errors(payload), None)
        except (Unresolvable, RecursionError) as problem:
            return f"the schema cannot be applied: {type(problem).__name__}"
        if found is None:
            return None
        place = ".".join(map(str, found.absolute_schema_path))
        return f"`{place}` does not hold"[:SCHEMA_TEXT_CHARS_MAX]


def schema_problem(schema: Any) -> str | None:
    """What is wrong with a JSON Schema itself, or None."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as problem:
        said: str = problem.message
        return said[:SCHEMA_TEXT_CHARS_MAX]
    except RecursionError:
        return "it is nested too deep"
    return next(_unusable(schema), None)


def _unusable(schema: Any) -> Iterator[str]:
    """Keywords that are not taken, and patterns that RE2 does not know."""
    if isinstance(schema, list):
        for each in schema:
            yield from _unusable(each)
    elif isinstance(schema, dict):
        if isinstance(schema.get("patternProperties"), dict):
            yield "`patternProperties` is not taken; name the properties"
        pattern = schema.get("pattern")
        if isinstance(pattern, str) and _regex(pattern) is None:
            yield f"the pattern `{pattern}` is none that RE2 knows; leave out look-arounds and back-references"
        for each in schema.values():
            yield from _unusable(each)


@lru_cache(maxsize=256)
def _regex(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        return None


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, str):
        return
    try:
        found = _regex(pattern).search(instance)
    except UnicodeEncodeError:
        found = None  # half a surrogate pair is no text
    if found is None:
        yield ValidationError("the pattern is not found")


def _unique_items(_: Any, wanted: bool, instance: Any, __: Any) -> Iterator[ValidationError]:
    if not wanted or not isinstance(instance, list):
        return
    forms = {json.dumps(entry, sort_keys=True) for entry in instance}
    if len(forms) != len(instance):
        yield ValidationError("an entry stands twice")


_Validator: Final[Any] = validators.extend(Draft202012Validator, {"pattern": _pattern, "uniqueItems": _unique_items})


class Action(msgspec.Struct, frozen=True):
    """One topic: the tags of every entry that fits, the rest of the first one that says it.

    ``groups`` maps a fact, and `count`, to the entry whose topics share one window; a topic that no entry fits shares
    the group of all such topics.
    """

    risk_tags: tuple[str, ...] = ()
    pool: str = DEFAULT_POOL
    retry_safe: bool = False
    category: str | None = None
    facts: Mapping[str, Steps] = {}
    groups: Mapping[str, str] = {}
    reversible: bool | None = None
    audience: str | None = None
    payload_schema: PayloadSchema | None = None
    retry_identity: tuple[Steps, ...] = ()
    target: Steps | None = None


class Actions:
    """The actions of one bundle, by topic."""

    def __init__(self, document: ActionsDocument) -> None:
        self._entries = [(tuple(map(Glob, entry.topics)), entry) for entry in document.actions]
        self._known: dict[str, Action] = {}
        self.pools: tuple[str, ...] = tuple(
            sorted({DEFAULT_POOL, *(entry.pool for entry in document.actions if entry.pool)})
        )

    def of(self, topic: str) -> Action:
        """What is known of a topic; the defaults where nothing is."""
        found = self._known.get(topic)
        if found is None:
            if len(self._known) >= ACTIONS_MAX:
                del self._known[next(iter(self._known))]
            found = self._known[topic] = self._find(topic)
        return found

    def _find(self, topic: str) -> Action:
        fitting = [entry for globs, entry in self._entries if any(glob.matches(topic) for glob in globs)]
        facts: dict[str, Steps] = {}
        groups: dict[str, str] = {}
        for entry in reversed(fitting):
            group = group_of(entry.topics)
            facts.update({name: compile_path(path) for name, path in entry.facts.items()})
            groups.update({COUNT: group, **dict.fromkeys(entry.facts, group)})
        schema = _first(fitting, "payload_schema")
        target = _first(fitting, "target")
        return Action(
            risk_tags=tuple(sorted({tag for entry in fitting for tag in entry.risk_tags})),
            pool=_first(fitting, "pool") or DEFAULT_POOL,
            retry_safe=_first(fitting, "retry") == "safe",
            category=_first(fitting, "category"),
            facts=facts,
            groups=groups,
            reversible=_first(fitting, "reversible"),
            audience=_first(fitting, "audience"),
            payload_schema=None if schema is None else PayloadSchema(schema),
            retry_identity=tuple(map(compile_path, _first(fitting, "retry_identity") or ())),
            target=None if target is None else compile_path(target),
        )


def group_of(topics: Sequence[str]) -> str:
    """The name under which the topics of one entry share their windows: 12 hex digits of their SHA-256."""
    return hashlib.sha256(rfc8785.dumps(sorted(topics))).hexdigest()[:12]


def _first(entries: Sequence[ActionEntry], field: str) -> Any:
    """The field of the first entry that gives it."""
    return next((value for entry in entries if (value := getattr(entry, field)) is not None), None)
