"""Rules and values in the words of the people who sign for them: one bounded line, no sign that hides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import rfc8785

from sluicegate.policies.facts import MATCH_FIELDS, split_key

VALUE_CHARS_MAX: Final = 80
"""How much of one value stands in a line, in characters."""
ITEMS_SHOWN_MAX: Final = 12
"""How many entries of one list stand in a line."""
DECISION_WORDS: Final[Mapping[str, str]] = {
    "allow": "allow",
    "allow_with_constraints": "allow within constraints",
    "require_approval": "ask a person",
    "deny": "deny",
}


def canonical(value: Any) -> bytes:
    """What two values have in common exactly when they are the same to a snapshot; `1` and `true` are not."""
    return rfc8785.dumps(value)


def clip(text: str, chars_max: int) -> str:
    """At most so many characters, the last of them `…` where some are left out."""
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def quoted(value: Any) -> str:
    """A value in backticks; texts as they are, everything else as JSON."""
    text = value if isinstance(value, str) else canonical(value).decode()
    return f"`{clip(_printable(text), VALUE_CHARS_MAX)}`"


def _printable(text: str) -> str:
    """Line ends, control characters and those that turn the reading direction, spelled out."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def listed(values: Iterable[Any], joint: str = "and") -> str:
    """Values in a row: `a`, `b` and `c`."""
    shown = [quoted(value) for value in values]
    if len(shown) > ITEMS_SHOWN_MAX:
        shown[ITEMS_SHOWN_MAX:] = [f"{len(shown) - ITEMS_SHOWN_MAX} more"]
    return f" {joint} ".join(filter(None, (", ".join(shown[:-1]), shown[-1] if shown else "")))


def from_to(old: Any, new: Any) -> str:
    """How a value changed; of texts that begin alike, where they part."""
    before, after = quoted(old), quoted(new)
    if before != after:
        return f"from {before} to {after}"
    texts = [value if isinstance(value, str) else canonical(value).decode() for value in (old, new)]
    alike = next((at for at, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = max(alike - VALUE_CHARS_MAX // 4, 0)
    return f"behind its character {alike} from {quoted(texts[0][start:])} to {quoted(texts[1][start:])}"


def matched(match: Mapping[str, Any]) -> str:
    """What a match fits: topics, tags, facts."""
    topics = match.get("topics")
    words = [listed(topics, "or") if topics else "any topic"]
    tags = {name: match[name] for name in MATCH_FIELDS[1:] if name in match}
    if tags.get("risk_tags"):
        words.append(f"tagged {listed(tags['risk_tags'], 'or')}")
    if tags.get("risk_tags_all"):
        words.append(f"tagged {listed(tags['risk_tags_all'])}")
    if "risk_tags_only" in tags:
        only = tags["risk_tags_only"]
        words.append(f"tagged with nothing but {listed(only)}" if only else "without tags")
    tests = [_tested(key, match[key]) for key in sorted(match) if key not in MATCH_FIELDS]
    if tests:
        words.append(f"when {' and '.join(tests)}")
    return " ".join(words)


def _tested(key: str, value: Any) -> str:
    fact, operator = split_key(key)
    return f"{quoted(fact)} is {quoted(value)}" if operator == "is" else f"{quoted(fact)} {operator} {quoted(value)}"


def ruled(rule: Mapping[str, Any]) -> str:
    """A rule: its decision, what it fits, and what else it says."""
    words = f"{DECISION_WORDS[rule['decision']]} on {matched(rule['match'])}"
    constraints = rule.get("constraints")
    if constraints:
        words += f", within {named(constraints)}"
    rest = {key: value for key, value in rule.items() if key not in ("id", "match", "decision", "constraints")}
    return f"{words}, {named(rest)}" if rest else words


def named(values: Mapping[str, Any]) -> str:
    """Names with their values: `a` `1` and `b` `2`."""
    shown = [f"{quoted(name)} {quoted(values[name])}" for name in sorted(values)]
    if len(shown) > ITEMS_SHOWN_MAX:
        shown[ITEMS_SHOWN_MAX:] = [f"{len(shown) - ITEMS_SHOWN_MAX} more"]
    return ", ".join(shown)


def gains_and_losses(old: Sequence[Any], new: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """(entries only in ``new``, entries only in ``old``), each as often as it is there more."""
    return _beyond(new, old), _beyond(old, new)


def _beyond(some: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    left: dict[bytes, int] = {}
    for each in others:
        left[canonical(each)] = left.get(canonical(each), 0) + 1
    beyond = []
    for each in some:
        key = canonical(each)
        left[key] = left.get(key, 0) - 1
        if left[key] < 0:
            beyond.append(each)
    return beyond


def list_change(old: Sequence[Any], new: Sequence[Any]) -> str:
    """How a list changed: what it gains and loses, else its order."""
    gained, lost = gains_and_losses(old, new)
    words = [f"gains {listed(gained)}"] if gained else []
    words += [f"loses {listed(lost)}"] if lost else []
    return " and ".join(words) or "stands in another order"
