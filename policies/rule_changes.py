"""How one list of rules became another: what came, went, changed and moved, and whether that may permit more.

A rule that fits more takes subjects from the rules after it, from the default and, through its vote, from nothing
else; one that fits less leaves them to those. So a change is harmless only where what decides now is as strict as
everything that may have decided before; otherwise its line is marked as wider.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from sluicegate.policies.changes import ABSENT, Change, pairs_of
from sluicegate.policies.constraints import Constraints, ConstraintType, is_tighter_or_equal
from sluicegate.policies.documents import REQUEST_KEYS
from sluicegate.policies.evaluate import RANKS
from sluicegate.policies.facts import MATCH_FIELDS
from sluicegate.policies.fields import DECISIONS
from sluicegate.policies.shadow import shadows
from sluicegate.policies.wording import DECISION_WORDS, canonical, from_to, list_change, quoted, ruled

MOVES_SHOWN_MAX: Final = 20
"""Of how many moved rules of one list each gets a line."""
STRENGTHS_MAX: Final = 200
"""Against how many different rules one is held; beyond it, it counts as wider."""

Rule = Mapping[str, Any]
_ALLOW, _CONSTRAIN, _APPROVE, _DENY = range(4)
_TIERS: Final = ("low", "medium", "high")


class Terms(msgspec.Struct, frozen=True):
    """What of a bundle bears on its rules: the default, and how constraints compare."""

    default: str
    default_constraints: Constraints
    types: Mapping[str, ConstraintType]


class Rules(msgspec.Struct, frozen=True):
    """One list of rules, with the name that rules without an id are called by."""

    layer: str
    rules: Sequence[Rule]
    terms: Terms

    def label(self, index: int) -> str:
        """The rule's id, else its layer and place from 0, as decisions name it; in backticks."""
        return quoted(self.rules[index].get("id") or f"{self.layer}/{index}")


class _Strength(msgspec.Struct, frozen=True):
    """How strict a rule is where it applies."""

    rank: int
    constraints: Constraints
    request: Mapping[str, Any]

    def holds(self, other: _Strength, types: Mapping[str, ConstraintType]) -> bool:
        """Whether this one permits nothing that ``other`` does not."""
        if self.rank != other.rank or self.rank in (_ALLOW, _DENY):
            return self.rank >= other.rank
        ours, theirs = self.request, other.request
        for key in {*ours, *theirs}:
            if ours.get(key) == theirs.get(key) or (key == "route" and key not in theirs):
                continue  # where no queue was named, nobody can have been kept out
            if _request_widens(key, theirs.get(key, ABSENT), ours.get(key, ABSENT)):
                return False
        return _is_tighter(self.constraints, other.constraints, types)


def _is_tighter(some: Constraints, than: Constraints, types: Mapping[str, ConstraintType]) -> bool:
    return set(than) <= set(some) and not is_tighter_or_equal({name: some[name] for name in than}, than, types)


def _strength(rule: Rule, terms: Terms) -> _Strength:
    rank = RANKS[DECISIONS[rule["decision"]]]
    constraints = rule.get("constraints") or (terms.default_constraints if rank == _CONSTRAIN else {})
    request = {key: rule[key] for key in REQUEST_KEYS if key in rule and rank == _APPROVE}
    return _Strength(rank, constraints, request)


class _Judge:
    """Says of a rule in its list whether giving or taking subjects may permit more."""

    def __init__(self, rules: Rules) -> None:
        self.terms = rules.terms
        self.strengths = [_strength(rule, rules.terms) for rule in rules.rules]
        self._label = rules.label
        keys = [msgspec.json.encode(strength) for strength in self.strengths]
        self._last = {key: index for index, key in enumerate(keys)}
        self._default = _strength({"decision": rules.terms.default}, rules.terms)

    def more(self, index: int) -> bool:
        """Whether it may permit more that the rule fits more: what was decided further on, or by default."""
        return self.taken(index) is not None

    def taken(self, index: int) -> str | None:
        """What stricter, or with other terms, decided of what the rule may take when it fits more; None for nothing."""
        own = self.strengths[index]
        if own.rank == _DENY:
            return None
        if len(self._last) > STRENGTHS_MAX:
            return "the rules after it"
        for last in sorted(self._last.values()):
            if last > index and not own.holds(self.strengths[last], self.terms.types):
                return f"{self._label(last)}, which has other terms,"
        return None if own.holds(self._default, self.terms.types) else "the default"

    def less(self, index: int) -> bool:
        """Whether it may permit more that the rule fits less: only what is allowed anyway has nothing to lose."""
        return self.strengths[index].rank != _ALLOW


def rule_changes(place: str, section: int, old: Rules, new: Rules, *, acts: bool = True) -> Iterator[Change]:
    """The changes of one list; ``acts`` is False where neither list decides anything, being observed only."""
    before, after = _Judge(old), _Judge(new)
    pairs = pairs_of(old.rules, new.rules, (_by_id, _by_content, _by_match, _by_place))
    kept_old, kept_new = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    for index, rule in enumerate(new.rules):
        if index not in kept_new:
            text = f"{place}: new rule {new.label(index)}: {ruled(rule)}"
            yield Change(section, text, acts and after.more(index))
    for index, rule in enumerate(old.rules):
        if index not in kept_old:
            text = f"{place}: rule {old.label(index)} is gone: {ruled(rule)}"
            yield Change(section, text, acts and before.less(index))
    for at_old, at_new in pairs:
        if canonical(old.rules[at_old]) != canonical(new.rules[at_new]):
            for words, wider in _field_changes((old, at_old, before), (new, at_new, after)):
                yield Change(section, f"{place}: rule {new.label(at_new)}: {words}", acts and wider)
    for text, wider in _moves(new, pairs, after):
        yield Change(section, f"{place}: {text}", acts and wider)


def whole_widens(rules: Rules, *, comes: bool) -> bool:
    """Whether it may permit more that a whole list begins to decide, or that it ceases to."""
    judge = _Judge(rules)
    return any(judge.more(index) if comes else judge.less(index) for index in range(len(rules.rules)))


def _by_id(_: int, rule: Rule) -> Any:
    return rule.get("id")


def _by_content(_: int, rule: Rule) -> Any:
    return canonical({key: value for key, value in rule.items() if key != "id"})


def _by_match(_: int, rule: Rule) -> Any:
    return canonical(rule["match"])


def _by_place(index: int, rule: Rule) -> Any:
    return index if rule.get("id") is None else None


def _moves(new: Rules, pairs: Sequence[tuple[int, int]], judge: _Judge) -> Iterator[tuple[str, bool]]:
    """The rules that stand in another order to the rest; a longest run that kept its order did not move."""
    moved = _out_of_order([pair[0] for pair in pairs])
    if len(moved) > MOVES_SHOWN_MAX:
        yield f"{len(moved)} rules stand in another order", True
        return
    for at in moved:
        at_old, at_new = pairs[at]
        own, types = judge.strengths[at_new], judge.terms.types
        wider, passed = False, 0
        for other_old, other_new in pairs:
            other = judge.strengths[other_new]
            if other_old < at_old and other_new > at_new:
                passed += 1
                wider = wider or not own.holds(other, types)
            elif other_old > at_old and other_new < at_new:
                passed += 1
                wider = wider or not other.holds(own, types)
        way = "up" if sum(pair[0] < at_old for pair in pairs) > at else "down"
        yield f"rule {new.label(at_new)} moved {way}, past {passed} other{'s' * (passed != 1)}", wider


def _out_of_order(order: Sequence[int]) -> list[int]:
    """The places outside a longest increasing run (patience sorting)."""
    ends: list[int] = []
    at_end: list[int] = []
    previous: list[int] = []
    for place, value in enumerate(order):
        pile = bisect_left(ends, value)
        previous.append(at_end[pile - 1] if pile else -1)
        ends[pile : pile + 1] = [value]
        at_end[pile : pile + 1] = [place]
    kept: set[int] = set()
    place = at_end[-1] if at_end else -1
    while place >= 0:
        kept.add(place)
        place = previous[place]
    return [place for place in range(len(order)) if place not in kept]


_Side = tuple[Rules, int, _Judge]


def _field_changes(before: _Side, after: _Side) -> Iterator[tuple[str, bool]]:
    (old_rules, at_old, _), (new_rules, at_new, _) = before, after
    old, new = old_rules.rules[at_old], new_rules.rules[at_new]
    if old["decision"] != new["decision"]:
        words = " to ".join(f"`{DECISION_WORDS[rule['decision']]}`" for rule in (old, new))
        ranks = [RANKS[DECISIONS[rule["decision"]]] for rule in (old, new)]
        # While a fact is absent an approval speaks and what is milder does not: then a default to deny is gone.
        speaks = ranks[0] < _APPROVE == ranks[1] and new_rules.terms.default == "deny"
        yield f"the decision from {words}", ranks[1] < ranks[0] or speaks
    for name in sorted({*old["match"], *new["match"]}):
        yield from _match_change(name, before, after)
    yield from _own_constraint_changes(old, new, old_rules.terms, new_rules.terms)
    for key in sorted({*old, *new} - {"decision", "match", "constraints"}):
        was, becomes = old.get(key, ABSENT), new.get(key, ABSENT)
        if was is ABSENT:
            yield f"{quoted(key)} is new: {quoted(becomes)}", _request_widens(key, was, becomes)
        elif becomes is ABSENT:
            yield f"{quoted(key)} is gone; it was {quoted(was)}", _request_widens(key, was, becomes)
        elif canonical(was) != canonical(becomes):
            words = list_change(was, becomes) if isinstance(was, list) else from_to(was, becomes)
            yield f"{quoted(key)} {words}", _request_widens(key, was, becomes) or (key == "timeout_sec" and _late(new))


def _late(rule: Rule) -> bool:
    return bool(rule.get("on_timeout", "deny") != "deny")


def _match_change(name: str, before: _Side, after: _Side) -> Iterator[tuple[str, bool]]:
    (old_rules, at_old, judge_old), (new_rules, at_new, judge_new) = before, after
    match = old_rules.rules[at_old]["match"]
    was, becomes = match.get(name, ABSENT), new_rules.rules[at_new]["match"].get(name, ABSENT)
    if was is not ABSENT and becomes is not ABSENT and canonical(was) == canonical(becomes):
        return
    changed = {key: value for key, value in match.items() if key != name}
    if becomes is not ABSENT:
        changed[name] = becomes
    pair = [{"match": match}, {"match": changed or {"topics": ["*"]}}]
    less, more = not any(shadows(pair[::-1])), not any(shadows(pair))
    if was is ABSENT:
        words = f"asks in addition for {quoted(name)} {quoted(becomes)}"
    elif becomes is ABSENT:
        words = f"no longer asks for {quoted(name)} {quoted(was)}"
    elif name in MATCH_FIELDS:
        words = f"{quoted(name)} {list_change(was, becomes)}"
    else:
        words = f"{quoted(name)} {from_to(was, becomes)}"
    fits = {(True, False): ", so it fits more", (False, True): ", so it fits less", (True, True): ", so it fits others"}
    taken = judge_new.taken(at_new) if more else None
    why = f", maybe some that {taken} decided" if taken else ""
    yield words + fits.get((more, less), "") + why, taken is not None or (less and judge_old.less(at_old))


def _own_constraint_changes(old: Rule, new: Rule, before: Terms, after: Terms) -> Iterator[tuple[str, bool]]:
    was, becomes = old.get("constraints") or {}, new.get("constraints") or {}
    if canonical(was) == canonical(becomes):
        if ("constraints" in old) != ("constraints" in new):
            yield "an empty list of constraints came or went", False
        return
    # Constraints of a rule's own take the place of the bundle's default ones.
    default = before.default_constraints if old["decision"] == "allow_with_constraints" and not was else {}
    yield from constraint_changes(
        was, becomes, after.types, added_widens=not _is_tighter(becomes, default, after.types)
    )


def constraint_changes(
    old: Constraints, new: Constraints, types: Mapping[str, ConstraintType], *, added_widens: bool = False
) -> Iterator[tuple[str, bool]]:
    """(words, may permit more) for each constraint that came, went or changed, by name."""
    for name in sorted({*old, *new}):
        if name not in old:
            yield f"the constraint {quoted(name)} is new: {quoted(new[name])}", added_widens
        elif name not in new:
            yield f"the constraint {quoted(name)} is gone; it was {quoted(old[name])}", True
        elif canonical(old[name]) != canonical(new[name]):
            lists = isinstance(old[name], list) and isinstance(new[name], list)
            words = (list_change if lists else from_to)(old[name], new[name])
            wider = bool(is_tighter_or_equal({name: new[name]}, {name: old[name]}, types))
            yield f"the constraint {quoted(name)} {words}", wider


def _request_widens(key: str, was: Any, becomes: Any) -> bool:
    """Whether what a rule says of the request it opens became easier to meet, as far as one key tells."""
    if key in ("id", "reason"):
        return False
    if key == "approvals":
        return bool((1 if becomes is ABSENT else becomes) < (1 if was is ABSENT else was))
    if key == "on_timeout":
        return bool(becomes != "deny" and was != "approve")
    if key == "tier":
        order = [_TIERS.index(each) if each in _TIERS else 1 for each in (was, becomes)]
        return order[1] < order[0] or becomes is ABSENT
    if key == "timeout_sec":
        return False
    if key == "editable":
        return becomes is not ABSENT and (was is ABSENT or bool({*becomes} - {*was}))
    return True
