"""What the platform team knows of a topic: `actions.yaml` made ready to be asked. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import rfc8785

from sluicegate.policies.documents import ActionEntry, ActionsDocument
from sluicegate.policies.paths import compile_path
from sluicegate.policies.patterns import Glob
from sluicegate.policies.payload_schema import PayloadSchema
from sluicegate.policies.windows import COUNT

DEFAULT_POOL: Final = "default"
ACTIONS_MAX: Final = 4_096
"""How many topics' actions are kept ready at a time."""

Steps = tuple[str | int, ...]
K = TypeVar("K")
T = TypeVar("T")


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
    phrases: bool = False
    """Whether the phrases in a payload are tags of it."""
    payload_schema: PayloadSchema | None = None
    retry_identity: tuple[Steps, ...] = ()
    retry_group: str = ""
    """The entry that says what makes two intents tries of one thing; empty where none does."""
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
        return found if found is not None else remember(self._known, topic, self._find(topic), ACTIONS_MAX)

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
            phrases=any(entry.phrases for entry in fitting),
            payload_schema=None if schema is None else PayloadSchema(schema),
            retry_identity=tuple(map(compile_path, _first(fitting, "retry_identity") or ())),
            retry_group=next((group_of(entry.topics) for entry in fitting if entry.retry_identity), ""),
            target=None if target is None else compile_path(target),
        )


def group_of(topics: Sequence[str]) -> str:
    """The name under which the topics of one entry share their windows: 12 hex digits of their SHA-256."""
    return hashlib.sha256(rfc8785.dumps(sorted(topics))).hexdigest()[:12]


def _first(entries: Sequence[ActionEntry], field: str) -> Any:
    """The field of the first entry that gives it."""
    return next((value for entry in entries if (value := getattr(entry, field)) is not None), None)


def remember(memory: dict[K, T], key: K, value: T, most: int) -> T:
    """Keep a value, forgetting the oldest one when there would be more than ``most``."""
    if len(memory) >= most:
        del memory[next(iter(memory))]
    memory[key] = value
    return value
