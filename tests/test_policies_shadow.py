"""Rules that can never decide, held against an enumeration of a whole small world."""

from __future__ import annotations

import functools
import itertools
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from sluicegate.policies.faults import PolicyFaults
from sluicegate.policies.load import parse_bundle, parse_documents
from sluicegate.policies.shadow import impossible, shadows

# A letter, a tag and a value that no rule names stand for all others.
TOPICS = ["".join(letters) for size in range(4) for letters in itertools.product("abz", repeat=size)]
TAG_SETS = [frozenset(tags) for size in range(5) for tags in itertools.combinations("pqrz", size)]
AMOUNTS: tuple[Any, ...] = (None, 0, 1, 1.5, 2, 2.5, 3, 4, True, False)
FLAGS = (None, True, False, 2)
FACTS = list(itertools.product(AMOUNTS, FLAGS))
SECONDS_MAX = 3.0
"""How much of a processor the check of 10,000 rules may take; not the clock, which others on the machine share."""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _holds(key: str, wanted: Any, amount: Any, flag: Any) -> bool:
    if key == "amount_above":
        return _number(amount) and amount > wanted
    if key == "amount_below":
        return _number(amount) and amount < wanted
    value = flag if key == "flag" else amount
    return value is wanted


@functools.cache
def _topics_mask(patterns: tuple[str, ...]) -> int:
    block = (1 << len(TAG_SETS) * len(FACTS)) - 1
    fit = [re.compile("".join(".*" if part == "*" else part for part in pattern)) for pattern in patterns]
    chosen = (at for at, topic in enumerate(TOPICS) if any(each.fullmatch(topic) for each in fit))
    return sum(block << at * len(TAG_SETS) * len(FACTS) for at in chosen)


@functools.cache
def _tags_mask(some: frozenset[str] | None, every: frozenset[str], only: frozenset[str] | None) -> int:
    block = (1 << len(FACTS)) - 1
    mask = 0
    for at, tags in enumerate(TAG_SETS):
        if (some is None or some & tags) and every <= tags and (only is None or tags <= only):
            mask |= block << at * len(FACTS)
    return sum(mask << at * len(TAG_SETS) * len(FACTS) for at in range(len(TOPICS)))


@functools.cache
def _facts_mask(tests: tuple[tuple[str, Any], ...]) -> int:
    mask = 0
    for at, (amount, flag) in enumerate(FACTS):
        if all(_holds(key, wanted, amount, flag) for key, wanted in tests):
            mask |= 1 << at
    return sum(mask << at * len(FACTS) for at in range(len(TOPICS) * len(TAG_SETS)))


def _world_of(match: Mapping[str, Any]) -> int:
    """Everything in the world that a match fits, one bit for each of 25,600 subjects."""
    some, every, only = (match.get(name) for name in ("risk_tags", "risk_tags_all", "risk_tags_only"))
    tests = tuple(sorted((key, value) for key, value in match.items() if key.split("_")[0] in {"amount", "flag"}))
    tags = _tags_mask(
        None if some is None else frozenset(some), frozenset(every or ()), None if only is None else frozenset(only)
    )
    return _topics_mask(tuple(match.get("topics", ["*"]))) & tags & _facts_mask(tests)


def _match(chance: random.Random) -> dict[str, Any]:
    def pattern() -> str:
        return "".join(chance.choice("aab**") for _ in range(chance.randint(1, 3)))

    fields: dict[str, Any] = {
        "topics": [pattern() for _ in range(chance.randint(1, 3))],
        "risk_tags": chance.sample("pqr", chance.randint(1, 3)),
        "risk_tags_all": chance.sample("pqr", chance.randint(1, 2)),
        "risk_tags_only": chance.sample("pqr", chance.randint(0, 3)),
        "amount_above": chance.choice([0, 1, 2]),
        "amount_below": chance.choice([2, 3]),
        "flag": chance.random() < 0.5,
    }
    likely = {"topics": 0.6, "risk_tags": 0.3, "risk_tags_all": 0.2, "risk_tags_only": 0.25, "flag": 0.2}
    chosen = {name: value for name, value in fields.items() if chance.random() < likely.get(name, 0.3)}
    return chosen or {"topics": ["*"]}


def _enumerated(matches: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    worlds = [_world_of(match) for match in matches]
    found = []
    for later, world in enumerate(worlds):
        over = (first for first in range(later) if world and not world & ~worlds[first])
        found += [(later, first) for first in itertools.islice(over, 1)]
    return found


def _rules(*matches: Any) -> list[dict[str, Any]]:
    return [{"match": match, "decision": "deny"} for match in matches]


def test_exactly_the_shadowed_of_two_rules_is_found() -> None:
    """20,000 random pairs: what is found is what an enumeration of all topics, tags and facts finds."""
    chance = random.Random(1)
    shadowed = 0
    for _ in range(20_000):
        pair = [_match(chance), _match(chance)]
        expected = _enumerated(pair)
        assert list(shadows(_rules(*pair))) == expected, pair
        shadowed += len(expected)
    assert shadowed > 1_500


def test_the_first_rule_that_shadows_is_named_in_longer_lists() -> None:
    """2,000 random lists: each shadowed rule comes with the first one that leaves it nothing."""
    chance = random.Random(2)
    for _ in range(2_000):
        matches = [_match(chance) for _ in range(chance.randint(3, 14))]
        assert list(shadows(_rules(*matches))) == _enumerated(matches), matches


def test_a_ladder_of_bands_is_searched_as_an_enumeration_would() -> None:
    """Many rules that differ in nothing but the band of one number: the same answers."""
    chance = random.Random(3)
    for _ in range(1_000):
        matches: list[dict[str, Any]] = []
        for _ in range(30):
            low, high = sorted(chance.sample(range(40), 2))
            chosen = chance.choice([("above",), ("below",), ("above", "below"), ("above", "below")])
            matches.append({f"n_{word}": low if word == "above" else high for word in chosen})
        bands = [(match.get("n_above", -1), match.get("n_below", 99)) for match in matches]
        expected = []
        for later, (low, high) in enumerate(bands):
            over = [at for at in range(later) if bands[at][0] <= low and high <= bands[at][1]]
            expected += [(later, over[0])] if over else []
        assert list(shadows(_rules(*matches))) == expected, matches


def test_a_match_is_impossible_exactly_when_nothing_fits_it() -> None:
    """A match that can hold for no subject of the enumerated world is said to, and no other."""
    chance = random.Random(4)
    seen = 0
    for _ in range(5_000):
        match = _match(chance)
        if match.get("amount_below", 9) <= match.get("amount_above", 0):
            del match["amount_above"]
        assert (impossible(match) is not None) == (_world_of(match) == 0), match
        seen += impossible(match) is not None
    assert seen > 200
    assert impossible({"amount": True, "amount_above": 1}) is not None


@pytest.mark.parametrize(
    ("earlier", "later", "covered"),
    [
        (["job.*"], ["job.support.*"], True),
        (["job.support.*"], ["job.*"], False),
        (["job.*.read"], ["job.*.*.read"], True),
        (["job.*.*.read"], ["job.*.read"], False),
        (["a*", "*b"], ["*"], False),
        (["a*a"], ["a"], False),
        (["*"], ["a", "b*"], True),
        (["a", "b"], ["a", "c"], False),
        (["job.a", "job.b"], ["job.b"], True),
        (["*a*b*"], ["xa*by"], True),
        (["\x00*"], ["*"], False),
        (["\x00"], ["*"], False),
    ],
)
def test_a_pattern_covers_another_when_it_matches_every_topic_of_it(
    earlier: list[str], later: list[str], covered: bool
) -> None:
    """`*` is any text, also none; no letter of a pattern is taken for one that no pattern contains."""
    assert bool(list(shadows(_rules({"topics": earlier}, {"topics": later})))) is covered


def test_wrong_shapes_are_stepped_over() -> None:
    """What is no rule neither shadows nor is shadowed; what stands beside it is still looked at."""
    wrong: list[Any] = [
        None,
        {},
        {"topics": []},
        {"topics": "x"},
        {"topics": None},
        {"topics": [1]},
        {"amount_above": "1"},
        {"amount_above": True},
        {"flag": 1},
        {"topic": ["x"]},
        {"risk_tags": []},
        {"amount_above": 3, "amount_below": 2},
    ]
    rules = [*_rules(*wrong), "no rule", {}, *_rules({"topics": ["x"]}, *wrong, {"topics": ["x"]})]
    assert list(shadows(rules)) == [(len(rules) - 1, len(wrong) + 2)]
    assert [impossible(each) for each in wrong] == [None] * len(wrong)


SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {
    "distinct topics": lambda at: {"topics": [f"job.team-{at}.refund"]},
    "distinct ends": lambda at: {"topics": [f"job.*.refund-{at}"]},
    "one topic, distinct tags": lambda at: {"topics": ["job.a"], "risk_tags": [f"tag-{at}"]},
    "every topic, distinct tags": lambda at: {"topics": ["*"], "risk_tags_all": ["prod", f"tag-{at}"]},
    "every topic, distinct facts": lambda at: {f"fact_{at}_above": 1},
    "a falling ladder": lambda at: {"topics": ["job.a"], "amount_usd_above": 10_000 - at},
    "bands side by side": lambda at: {"topics": ["job.a"], "amount_usd_above": at, "amount_usd_below": at + 1},
    "mixed": lambda at: {"topics": [f"job.{at % 100}.*"], "risk_tags": [f"t{at // 100}", "prod"], "count_1h_above": at},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_ten_thousand_rules_are_checked_in_seconds(shape: str) -> None:
    """A large bundle is checked as fast as it is read; none of these rules shadows another."""
    rules = _rules(*(SHAPES[shape](at) for at in range(10_000)))
    started = time.process_time()
    assert list(shadows(rules)) == []
    assert time.process_time() - started < SECONDS_MAX
    assert list(shadows([*rules, *rules[:1]])) == [(10_000, 0)]


TEXT = """\
rules:
  - id: all-of-support
    match: { topics: ["job.support.*"] }
    decision: require_approval
  - id: refunds
    match: { topics: ["job.support.refund"], amount_usd_above: 100 }
    decision: deny
  - match:
      topics: ["job.support.*"]
    decision: deny
"""


def test_a_shadowed_rule_is_refused_with_the_line_of_the_one_before_it() -> None:
    """The author sees which rule is dead and which one took its place."""
    with pytest.raises(PolicyFaults) as refused:
        parse_bundle({"support.yaml": TEXT})
    says = "is never reached: `all-of-support` in line 2 matches all that it does; move it up or remove it"
    assert [str(fault) for fault in refused.value.faults] == [
        f"support.yaml:5:9: error: rule `refunds` {says}",
        f"support.yaml:8:5: error: rule `support/2` {says}",
    ]


def test_levels_are_lists_of_their_own() -> None:
    """A rule is shadowed within its level, never by another level; without lines the message has none."""
    rules = _rules({"topics": ["*"]})
    document = {"autonomy_levels": {f"level_{at}": {"name": "x", "rules": rules} for at in range(2)}}
    parse_documents({"autonomy.yaml": document})
    document["autonomy_levels"]["level_1"]["rules"] = rules * 2
    with pytest.raises(PolicyFaults) as refused:
        parse_documents({"autonomy.yaml": document})
    (fault,) = refused.value.faults
    assert fault.message == "rule `level_1/1` is never reached: `level_1/0` matches all that it does"


def test_a_match_that_nothing_fits_is_refused() -> None:
    """Tags that exclude one another are an error at the match."""
    rules = _rules({"risk_tags": ["prod"], "risk_tags_only": ["read"]}, {"risk_tags_all": ["a"], "risk_tags_only": []})
    with pytest.raises(PolicyFaults) as refused:
        parse_documents({"a.yaml": {"rules": rules}})
    assert [fault.message for fault in refused.value.faults] == [
        "`a` of `risk_tags_all` is not in `risk_tags_only`, so the match fits nothing",
        "no tag of `risk_tags` is in `risk_tags_only`, so the match fits nothing",
    ]
