"""How `actions.yaml` changed: what an entry says of its topics, and what follows for the rules that ask for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from sluicegate.policies.changes import Change, Place, compare, pairs_of, widenings
from sluicegate.policies.evaluate import RANKS
from sluicegate.policies.facts import MATCH_FIELDS, split_key
from sluicegate.policies.fields import DECISIONS
from sluicegate.policies.windows import window_of
from sluicegate.policies.wording import canonical, list_change, named, quoted

TOPICS_NAMED_MAX: Final = 3
"""By how many of its topics an entry is called."""

Json = Mapping[str, Any]

_TABLE: Final = widenings(higher=["reversible"])
_BY_TOPIC: Final = ("topics", "risk_tags", "facts")
"""What every fitting entry adds to; of all else the first entry that says it wins."""


class _Asked:
    """What the rules make of a tag or a fact that comes: whether a milder rule may match, or a stricter one not."""

    def __init__(self, rules: Iterable[Json]) -> None:
        self._tags: set[str] = set()
        self._facts: set[str] = set()
        self._only: list[frozenset[str]] = []
        for rule in rules:
            match = rule["match"]
            if "risk_tags_only" in match:
                self._only.append(frozenset(match["risk_tags_only"]))
            if RANKS[DECISIONS[rule["decision"]]] == RANKS["DENY"]:
                continue
            self._tags.update(match.get("risk_tags") or (), match.get("risk_tags_all") or ())
            for key in match:
                if key not in MATCH_FIELDS:
                    fact = split_key(key)[0]
                    window = window_of(fact)
                    self._facts.add(window.fact if window is not None else fact)

    def tag(self, tag: str) -> bool:
        """Whether one more tag may permit more."""
        return tag in self._tags or any(tag not in only for only in self._only)

    def fact(self, fact: str) -> bool:
        """Whether one more declared fact may permit more."""
        return fact in self._facts


def action_changes(section: int, old: Json, new: Json, rules: Iterable[Json]) -> Iterator[Change]:
    """The changes of the entries; ``rules`` are all rules after them."""
    olds, news = (list(each.get("actions") or ()) for each in (old, new))
    if canonical(olds) == canonical(news):
        return
    asked = _Asked(rules)
    pairs = pairs_of(olds, news, (_by_topics, _by_rest))
    kept_old, kept_new = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    for index, entry in enumerate(news):
        if index not in kept_new:
            wider = (
                any(key not in _BY_TOPIC for key in entry)
                or any(map(asked.tag, entry.get("risk_tags", ())))
                or any(map(asked.fact, entry.get("facts", {})))
            )
            yield Change(section, f"{_label(entry)} is new: {_said(entry)}", wider)
    for index, entry in enumerate(olds):
        if index not in kept_old:
            yield Change(section, f"{_label(entry)} is gone: {_said(entry)}", wider=set(entry) != {"topics"})
    for at_old, at_new in pairs:
        yield from _entry(section, olds[at_old], news[at_new], asked)
    order = [pair[0] for pair in pairs]
    if order != sorted(order):
        yield Change(section, "actions: the entries stand in another order, and the first that fits wins", wider=True)


def _label(entry: Json) -> str:
    topics = entry["topics"]
    more = len(topics) - TOPICS_NAMED_MAX
    return f"action {', '.join(map(quoted, topics[:TOPICS_NAMED_MAX]))}" + f" and {more} more" * (more > 0)


def _said(entry: Json) -> str:
    return named({key: value for key, value in entry.items() if key != "topics"}) or "nothing"


def _by_topics(_: int, entry: Json) -> Any:
    return canonical(sorted(entry["topics"]))


def _by_rest(_: int, entry: Json) -> Any:
    rest = {key: value for key, value in entry.items() if key != "topics"}
    return canonical(rest) if rest else None


def _entry(section: int, old: Json, new: Json, asked: _Asked) -> Iterator[Change]:
    subject = _label(new)
    if canonical(old["topics"]) != canonical(new["topics"]):
        wider = {*old["topics"]} != {*new["topics"]}
        yield Change(section, f"{_label(old)}: the list of topics {list_change(old['topics'], new['topics'])}", wider)
    tags = [entry.get("risk_tags", []) for entry in (old, new)]
    if canonical(tags[0]) != canonical(tags[1]):
        wider = not {*tags[0]} <= {*tags[1]} or any(map(asked.tag, {*tags[1]} - {*tags[0]}))
        yield Change(section, f"{subject}: `risk_tags` {list_change(*tags)}", wider)
    facts = [entry.get("facts", {}) for entry in (old, new)]
    for name in sorted({*facts[0], *facts[1]}):
        if name not in facts[0]:
            text = f"the fact {quoted(name)} is new, read from {quoted(facts[1][name])}"
            yield Change(section, f"{subject}: {text}", asked.fact(name))
        elif name not in facts[1]:
            text = f"the fact {quoted(name)} is gone; it was read from {quoted(facts[0][name])}"
            yield Change(section, f"{subject}: {text}", wider=True)
        elif facts[0][name] != facts[1][name]:
            text = f"the fact {quoted(name)} is read from {quoted(facts[1][name])}, no longer {quoted(facts[0][name])}"
            yield Change(section, f"{subject}: {text}", wider=True)
    rest = [{key: value for key, value in entry.items() if key not in _BY_TOPIC} for entry in (old, new)]
    for key in _BY_TOPIC[1:]:
        if (key in old) != (key in new) and not old.get(key) and not new.get(key):
            yield Change(section, f"{subject}: an empty {quoted(key)} came or went")
    if "payload_schema" in new and "payload_schema" not in old:
        yield Change(section, f"{subject}: payloads are held against a schema from now on")
        del rest[1]["payload_schema"]
    was, becomes = (each.pop("retry", None) for each in rest)
    if was != becomes:
        words = {"safe": "it runs again by itself", "ask": "a person is asked", None: "nothing is said"}
        text = f"`retry`: when its worker vanished, {words[becomes]} from now on; before, {words[was]}"
        yield Change(section, f"{subject}: {text}", wider=becomes == "safe")
    yield from compare(Place(subject, section, _TABLE), *rest)
