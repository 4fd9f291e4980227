"""Which rules of one list can never decide: a match that nothing fits, and a rule that an earlier one leaves nothing.

What a match fits is a product of three independent things, topics, sets of tags and facts, so a rule that fits
something at all is covered by an earlier one exactly when it is covered in each of the three:

- Topics. Put one letter that no pattern of the list contains in the place of each `*` of a pattern. Another pattern
  that matches this witness must have met every such letter with a `*` of its own, so it also matches whatever else
  stands there: it matches the witness if and only if it includes the whole pattern. Several patterns cover one
  together only if one of them does alone, because one of them must match the witness.
- Tags. Wanting a tag is monotone, so the smallest sets decide it; `risk_tags_only` is a ceiling, so the largest does.
- Facts. Each comparison must follow from one of the same fact. What is absent counts as in `evaluate`: a rule that
  never surely decides is a fault, even though it could stand open while a fact is missing.

Rules are plain documents; one with a wrong shape neither covers nor is covered, since its author meant something else.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from sluicegate.policies.facts import MATCH_FIELDS, split_key
from sluicegate.policies.patterns import Glob

FILINGS_MAX: Final = 64
"""Under how many pairs of pattern and tag one rule is filed; beyond it, under its patterns alone."""

_PatternKey = tuple[str, str]
_Band = tuple[float, float]
"""A number above the first and below the second."""


class _Reach(msgspec.Struct, frozen=True):
    """What a rule can match: any pattern, tags with one of ``some``, all of ``every``, none beyond ``only``, facts."""

    patterns: frozenset[str]
    some: frozenset[str]
    every: frozenset[str]
    only: frozenset[str] | None
    bands: Mapping[str, _Band]
    flags: Mapping[str, bool]

    def facts(self) -> tuple[str, ...]:
        """The facts it asks for."""
        return tuple(sorted({*self.bands, *self.flags}))

    def least_tags(self) -> Iterator[frozenset[str]]:
        """The smallest sets of tags it matches: every other one it matches holds one of these."""
        if not self.some or self.some & self.every:
            yield self.every
            return
        for tag in sorted(self.some if self.only is None else self.some & self.only):
            yield self.every | {tag}


def shadows(rules: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """(index of a rule that never decides, index of the first earlier one that matches all that it can), in order."""
    reaches = [_reach_of(rule.get("match")) if isinstance(rule, Mapping) else None for rule in rules]
    earlier = _Earlier([reach for reach in reaches if reach is not None])
    for index, reach in enumerate(reaches):
        if reach is None:
            continue
        first = earlier.first_over(reach)
        if first is None:
            earlier.add(index, reach)
        else:
            # Nothing is lost by leaving it out: what it covers, the rule that covers it does, and earlier.
            yield index, first


def impossible(match: Any) -> str | None:
    """Why no subject fits a match, as a message, or None; thresholds that exclude each other are `empty_range`'s."""
    if not isinstance(match, Mapping):
        return None
    some, every = _texts(match.get("risk_tags")), _texts(match.get("risk_tags_all"))
    only = _texts(match.get("risk_tags_only"))
    if only is not None and some and some.isdisjoint(only):
        return "no tag of `risk_tags` is in `risk_tags_only`, so the match fits nothing"
    if only is not None and every and not every <= only:
        outside = min(every - only)
        return f"`{outside}` of `risk_tags_all` is not in `risk_tags_only`, so the match fits nothing"
    bands, flags = _tests(match)
    both = min(set(bands) & set(flags), default=None)
    if both is not None:
        return f"`{both}` cannot be a number and also true or false, so the match fits nothing"
    return None


def _texts(value: Any) -> frozenset[str] | None:
    """A list of texts as a set, None for anything else."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return frozenset(value)
    return None


def _tests(match: Mapping[str, Any]) -> tuple[dict[str, _Band], dict[str, bool]]:
    """The facts compared with numbers and those that are true or false; a test of a wrong shape is left out."""
    bands: dict[str, _Band] = {}
    flags: dict[str, bool] = {}
    for key, value in match.items():
        if key in MATCH_FIELDS:
            continue
        fact, operator = split_key(key)
        if operator == "is":
            if isinstance(value, bool):
                flags[fact] = value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            low, high = bands.get(fact, (-math.inf, math.inf))
            bands[fact] = (value, high) if operator == "above" else (low, value)
    return bands, flags


def _reach_of(match: Any) -> _Reach | None:
    """What a match can hold for; None when its shape is wrong or it holds for nothing."""
    if not isinstance(match, Mapping) or not match or impossible(match) is not None:
        return None
    sets = {name: _texts(match[name]) for name in MATCH_FIELDS if name in match}
    if not all(found or (name == "risk_tags_only" and found is not None) for name, found in sets.items()):
        return None
    bands, flags = _tests(match)
    asked = sum(1 for key in match if key not in MATCH_FIELDS)
    read = len(flags) + sum(math.isfinite(low) + math.isfinite(high) for low, high in bands.values())
    if asked != read or any(high <= low for low, high in bands.values()):
        return None
    return _Reach(
        patterns=sets.get("topics") or frozenset("*"),
        some=sets.get("risk_tags") or frozenset(),
        every=sets.get("risk_tags_all") or frozenset(),
        only=sets.get("risk_tags_only"),
        bands=bands,
        flags=flags,
    )


def _ends(pattern: str) -> tuple[str, str]:
    """The literal texts before the first and after the last `*`; both are the whole of a pattern without one."""
    return pattern.split("*", 1)[0], pattern.rsplit("*", 1)[-1]


class _Group:
    """Earlier rules that differ in nothing but their thresholds, so that topics and tags are compared once."""

    __slots__ = ("_band_fact", "_globs", "_highs", "_literals", "_lows", "_members", "_reach")

    def __init__(self, reach: _Reach) -> None:
        self._reach = reach
        self._literals = frozenset(pattern for pattern in reach.patterns if "*" not in pattern)
        self._globs = [Glob(pattern) for pattern in sorted(reach.patterns - self._literals)]
        self._band_fact = next(iter(reach.bands)) if len(reach.bands) == 1 and not reach.flags else None
        self._members: list[tuple[int, _Reach]] = []
        # Of the bands of one fact those that lie in no other, by their lower end; their upper ends then rise, too.
        self._lows: list[float] = []
        self._highs: list[float] = []

    def add(self, index: int, reach: _Reach) -> None:
        """File a rule that no rule of the group covers."""
        self._members.append((index, reach))
        if self._band_fact is None:
            return
        low, high = reach.bands[self._band_fact]
        start = end = bisect_right(self._lows, low)
        if start and self._lows[start - 1] == low:
            start -= 1
        while end < len(self._lows) and self._highs[end] <= high:
            end += 1
        self._lows[start:end] = [low]
        self._highs[start:end] = [high]

    def first_over(self, reach: _Reach, witnesses: Sequence[str]) -> int | None:
        """The index of the group's first rule that covers ``reach``."""
        fact = self._band_fact
        if fact is not None:
            if fact not in reach.bands:
                return None
            low, high = reach.bands[fact]
            at = bisect_right(self._lows, low) - 1
            if at < 0 or self._highs[at] < high:
                return None
        if not self._covers(reach, witnesses):
            return None
        return next((index for index, member in self._members if _follows(member, reach)), None)

    def _covers(self, reach: _Reach, witnesses: Sequence[str]) -> bool:
        """Whether topics and tags of ``reach`` are all among the group's."""
        ours = self._reach
        if ours.only is not None and (reach.only is None or not reach.only <= ours.only):
            return False
        for tags in reach.least_tags() if ours.some or ours.every else ():
            if (ours.some and ours.some.isdisjoint(tags)) or not ours.every <= tags:
                return False
        return all(text in self._literals or any(glob.matches(text) for glob in self._globs) for text in witnesses)


def _follows(wide: _Reach, narrow: _Reach) -> bool:
    """Whether every comparison of ``wide`` holds wherever those of ``narrow`` do."""
    for fact, (low, high) in wide.bands.items():
        band = narrow.bands.get(fact)
        if band is None or low > band[0] or high < band[1]:
            return False
    return all(narrow.flags.get(fact) is wanted for fact, wanted in wide.flags.items())


class _Earlier:
    """The rules met so far, filed so that a rule meets few of them.

    A rule is filed under an end of each of its patterns, a tag it needs and a fact it asks for, each the rarest of
    the list: whatever it covers has that end, that tag and that fact.
    """

    def __init__(self, reaches: Sequence[_Reach]) -> None:
        """``reaches`` are those of the whole list, which say what is rare and what letter is in no pattern."""
        patterns = [pattern for reach in reaches for pattern in reach.patterns]
        letters = set().union(*patterns) if patterns else set()
        self._fresh = next(letter for letter in map(chr, range(0x110000)) if letter not in letters and letter != "*")
        self._tags = Counter(tag for reach in reaches for tag in (*reach.some, *reach.every))
        self._facts = Counter(fact for reach in reaches for fact in reach.facts())
        self._ends = Counter(key for pattern in patterns for key in _keys_of(pattern))
        self._groups: dict[Any, _Group] = {}
        self._filed: dict[_PatternKey, dict[tuple[str | None, str | None], list[_Group]]] = {}
        self._lengths: dict[str, set[int]] = {"<": set(), ">": set()}

    def add(self, index: int, reach: _Reach) -> None:
        """File a rule that no earlier one covers."""
        facts = reach.facts()
        static = (reach.patterns, reach.some, reach.every, reach.only, facts, frozenset(reach.flags))
        group = self._groups.get(static)
        if group is None:
            group = self._groups[static] = _Group(reach)
            self._file(group, reach, min(facts, key=self._facts.__getitem__, default=None))
        group.add(index, reach)

    def _file(self, group: _Group, reach: _Reach, fact: str | None) -> None:
        tags: list[str | None] = [None]
        if reach.every:
            tags = [min(sorted(reach.every), key=self._tags.__getitem__)]
        elif reach.some and len(reach.some) * len(reach.patterns) <= FILINGS_MAX:
            tags = [*reach.some]
        for key in {min(_keys_of(pattern), key=self._ends.__getitem__) for pattern in reach.patterns}:
            if key[0] in self._lengths:
                self._lengths[key[0]].add(len(key[1]))
            for tag in tags:
                self._filed.setdefault(key, {}).setdefault((tag, fact), []).append(group)

    def first_over(self, reach: _Reach) -> int | None:
        """The index of the first rule that covers ``reach``."""
        witnesses = [pattern.replace("*", self._fresh) for pattern in reach.patterns]
        firsts: list[int] = []
        met: set[int] = set()
        for group in self._candidates(reach):
            if id(group) not in met:
                met.add(id(group))
                first = group.first_over(reach, witnesses)
                if first is not None:
                    firsts.append(first)
        return min(firsts, default=None)

    def _candidates(self, reach: _Reach) -> Iterator[_Group]:
        # Every pattern must be covered, so it is enough to look for those that cover the least particular one.
        pattern = min(sorted(reach.patterns), key=lambda each: sum(map(len, _ends(each))))
        tags = (None, *min(reach.least_tags(), key=lambda each: sum(map(self._tags.__getitem__, each))))
        facts = (None, *reach.facts())
        for key in self._keys_over(pattern):
            filed = self._filed.get(key)
            if filed is not None:
                for tag in tags:
                    for fact in facts:
                        yield from filed.get((tag, fact), ())

    def _keys_over(self, pattern: str) -> Iterable[_PatternKey]:
        """The keys under which a pattern that includes ``pattern`` may be filed."""
        first, last = _ends(pattern)
        if "*" not in pattern:
            yield "=", pattern
        for length in self._lengths["<"]:
            if length <= len(first):
                yield "<", first[:length]
        for length in self._lengths[">"]:
            if length <= len(last):
                yield ">", last[len(last) - length :]


def _keys_of(pattern: str) -> tuple[_PatternKey, ...]:
    """The keys one of which a pattern is filed under: itself when it is literal, else its beginning or its end."""
    if "*" not in pattern:
        return (("=", pattern),)
    first, last = _ends(pattern)
    return ("<", first), (">", last)
