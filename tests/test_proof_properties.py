"""What holds of every bundle, over all that one may hold: every kind of match, constraint, level and mode."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from random_bundles import (
    LEVELS,
    NUMBERS,
    READABLE,
    SHARES,
    UNREADABLE,
    WORDS,
    Case,
    case_of,
    random_case,
    random_constraints,
    random_documents,
    random_intent,
    random_rule,
    subject_of_intent,
)

from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.constraints import is_tighter_or_equal, merge_all, merge_constraints
from sluicegate.policies.evaluate import RANKS, Judgement
from sluicegate.policies.load import parse_documents


def _policy(documents: Mapping[str, Any]) -> CompiledPolicy:
    return compile_bundle(parse_documents(documents))


def _cases(seed: int, count: int, intents: int = 4) -> Iterator[tuple[random.Random, Case, dict[str, Any]]]:
    """Random bundles of every kind, each with a few intents."""
    chance = random.Random(seed)
    for _ in range(count):
        case = random_case(chance)
        for _ in range(intents):
            yield chance, case, random_intent(chance)


def _enforced(documents: Mapping[str, Any]) -> dict[str, Any]:
    """The documents without any mode: everything acts."""
    plain = copy.deepcopy(dict(documents))
    for document in plain.values():
        document.pop("mode", None)
        document.pop("classes", None)
    return plain


def _alike(judgement: Judgement | None) -> Any:
    """Decision and constraints, where the order of a list says nothing."""
    if judgement is None:
        return None
    constraints = {
        name: frozenset(value) if isinstance(value, list) else value for name, value in judgement.constraints.items()
    }
    return judgement.decision, constraints


def _permits_no_more(case: Case, judgement: Judgement, than: Judgement) -> bool:
    """Whether a judgement is stricter, or as strict under constraints that are each as tight."""
    ours, theirs = RANKS[judgement.decision], RANKS[than.decision]
    if ours != theirs or judgement.decision == "DENY":
        return ours >= theirs
    kept = set(than.constraints) <= set(judgement.constraints)
    return kept and case.policy.is_tighter_or_equal(judgement.constraints, than.constraints) == []


def test_whatever_the_facts_are_a_judgement_comes_out_and_the_same_again() -> None:
    """Total and deterministic: no value of a fact, no level and no mode ends in an error or in a second opinion."""
    for _, case, intent in _cases(21, 60, intents=8):
        subject = subject_of_intent(intent)
        judgement = case.policy.judge(subject)
        assert judgement.rules
        assert judgement.reason
        assert {rule.decision for rule in judgement.rules} == {judgement.decision}
        assert case.policy.judge(subject) == judgement == compile_bundle(case.bundle).judge(subject)
        assert {error.layer for error in judgement.errors} <= {"autonomy"}
        assert (judgement.constraints == {}) or judgement.decision in {"ALLOW_WITH_CONSTRAINTS", "REQUIRE_APPROVAL"}


def test_the_order_of_layers_decides_nothing_whatever_they_hold() -> None:
    """Layers get other names, before and behind the level's: acting and observed judgement stay the same."""
    for chance, case, intent in _cases(22, 60):
        files = [name for name, document in case.documents.items() if "rules" in document]
        stems = chance.sample(["a", "b", "zz", "y", "m", "autonom", "autonomyx"], len(files))
        names = dict(zip(files, stems, strict=True))
        renamed = {
            f"{names[file]}{PurePosixPath(file).suffix}" if file in names else file: document
            for file, document in case.documents.items()
        }
        before, after = case.policy.judge(subject_of_intent(intent)), _policy(renamed).judge(subject_of_intent(intent))
        assert _alike(after) == _alike(before)
        assert _alike(after.observed) == _alike(before.observed)


def test_a_denial_anywhere_never_widens() -> None:
    """A rule that denies, put anywhere into any layer, leaves nobody with more than they had."""
    changed = 0
    for chance, case, intent in _cases(23, 60):
        documents = _enforced(case.documents)
        before = case_of(documents)
        rules = chance.choice([document for document in documents.values() if "rules" in document])["rules"]
        denial = random_rule(chance) | {"decision": "deny"}
        rules.insert(chance.randint(0, len(rules)), denial)
        denial.pop("constraints", None)
        after = case_of(copy.deepcopy(documents))
        old, new = before.policy.judge(subject_of_intent(intent)), after.policy.judge(subject_of_intent(intent))
        assert _permits_no_more(before, new, old), (before.texts, denial, intent)
        changed += _alike(old) != _alike(new)
    assert changed > 20


def test_a_rule_as_strict_as_all_behind_it_never_widens() -> None:
    """At a layer's head: as strict as each rule behind it and as the default, under constraints as tight as theirs.

    A milder rule at the head does widen: it hides what stands behind it. That is what `first match` means.
    """
    changed = 0
    for chance, case, intent in _cases(24, 120):
        documents = _enforced(case.documents)
        layer = chance.choice([document for document in documents.values() if "rules" in document])
        head = random_rule(chance) | {"decision": "require_approval"}
        layer["rules"] = [rule for rule in layer["rules"] if rule["decision"] != "deny"]
        documents.get("bundle.yaml", {}).pop("default", None)
        if layer["rules"] == []:
            continue
        before = case_of(copy.deepcopy(documents))
        behind = [rule.get("constraints", {}) for rule in layer["rules"] if rule["decision"] == "require_approval"]
        head["constraints"] = merge_all(behind, before.policy.constraint_types)
        layer["rules"].insert(0, head)
        after = case_of(documents)
        old, new = before.policy.judge(subject_of_intent(intent)), after.policy.judge(subject_of_intent(intent))
        assert _permits_no_more(before, new, old), (before.texts, head, intent)
        changed += _alike(old) != _alike(new)
    assert changed > 20


def test_a_further_layer_of_any_kind_never_widens_what_a_rule_decided() -> None:
    """Where some rule has spoken a further layer tightens or says nothing; only the default gives way to a rule."""
    checked = 0
    for chance, case, intent in _cases(25, 80):
        documents = _enforced(case.documents)
        before = case_of(copy.deepcopy(documents))
        old = before.policy.judge(subject_of_intent(intent))
        if any(rule.layer == "default" for rule in old.rules):
            continue
        documents["added.yaml"] = {"rules": [random_rule(chance), random_rule(chance)]}
        new = case_of(documents).policy.judge(subject_of_intent(intent))
        assert _permits_no_more(before, new, old), (before.texts, documents["added.yaml"], intent)
        checked += 1
    assert checked > 100


def _some_value(chance: random.Random, fact: str) -> Any:
    shares = (0.1, 0.2, 0.35, 0.5, 0.8, 0.9)
    return chance.choice((True, False) if fact in WORDS else shares if fact in SHARES else READABLE)


def test_facts_unknown_together_never_widen() -> None:
    """With any declared facts unknown nothing is permitted that would be held, denied or fenced under some values.

    Strictness first: a job that is held while a value would have let it run fenced may be held without that fence. One
    thing may be milder: where nothing surely matches, an open approval answers although the default denies.
    """
    checked = milder = 0
    for chance, case, intent in _cases(26, 160):
        policy = case_of(_enforced(case.documents)).policy
        facts = dict(intent["facts"])
        unknown = chance.sample([*NUMBERS, *SHARES, *WORDS], chance.choice([1, 1, 2, 4]))
        absent = facts | {fact: chance.choice([None, None, "x", float("nan"), float("inf")]) for fact in unknown}
        judgement = policy.judge(subject_of_intent({**intent, "facts": absent}))
        for _ in range(4):
            values = facts | {fact: _some_value(chance, fact) for fact in unknown}
            known = policy.judge(subject_of_intent({**intent, "facts": values}))
            if known.decision == "DENY" and known.rules[0].layer == "default" and judgement.decision != "DENY":
                assert judgement.decision == "REQUIRE_APPROVAL"
                milder += 1
                continue
            assert _permits_no_more(case, judgement, known), (case.texts, absent, values)
            checked += 1
    assert checked > 1_500
    assert milder < checked / 20


def test_every_unreadable_value_is_as_good_as_absent() -> None:
    """An agent gains nothing by the way in which it spoils a fact."""
    for chance, case, intent in _cases(27, 100):
        fact = chance.choice([*NUMBERS, *SHARES])
        absent = case.policy.judge(subject_of_intent({**intent, "facts": intent["facts"] | {fact: None}}))
        for value in UNREADABLE:
            spoilt = case.policy.judge(subject_of_intent({**intent, "facts": intent["facts"] | {fact: value}}))
            assert spoilt == absent


def test_a_higher_level_is_not_taken_to_be_wider() -> None:
    """What a level permits stands in its own rules alone: rules that change places take their judgement along."""
    checked = 0
    for _, case, intent in _cases(28, 80):
        levels = case.documents.get("trust.yaml", {}).get("autonomy_levels", {})
        if len(levels) < 2:
            continue
        names = sorted(levels)
        turned = dict(zip(names, reversed(names), strict=True))
        other = copy.deepcopy(case.documents)
        other["trust.yaml"]["autonomy_levels"] = {turned[name]: levels[name] for name in names}
        for name in names:
            at, there = (int(each.removeprefix("level_")) for each in (name, turned[name]))
            here = case.policy.judge(subject_of_intent({**intent, "level": at}))
            moved = _policy(other).judge(subject_of_intent({**intent, "level": there}))
            assert (_alike(moved), _alike(moved.observed)) == (_alike(here), _alike(here.observed))
            checked += 1
    assert checked > 100


def test_what_is_only_observed_changes_nothing_that_acts() -> None:
    """Layers in observe: what acts is the bundle without them, what is observed the bundle with all of it enforced."""
    observed = differed = 0
    for chance, case, intent in _cases(29, 60):
        documents = _enforced(case.documents)
        whole = case_of(copy.deepcopy(documents)).policy.judge(subject_of_intent(intent))
        layers = [name for name, document in documents.items() if "rules" in document]
        hidden = chance.sample(layers, chance.randint(1, len(layers)))
        rest = {name: document for name, document in documents.items() if name not in hidden}
        acting = _policy(rest).judge(subject_of_intent(intent))
        for name in hidden:
            documents[name]["mode"] = "observe"
        judgement = _policy(documents).judge(subject_of_intent(intent))
        assert _alike(judgement) == _alike(acting)
        assert judgement.rules == acting.rules
        assert _alike(judgement.observed or judgement) == _alike(whole)
        observed += judgement.observed is not None
        differed += _alike(judgement) != _alike(whole)
    assert observed > 80
    assert differed > 25


def test_a_bundle_in_observe_grants_everything_and_says_what_it_would_have_held() -> None:
    """The bundle's own mode, or its mode for the agent's class: ALLOW by the rule `mode/observe`."""
    for chance, case, intent in _cases(30, 40):
        documents = _enforced(case.documents)
        whole = _policy(documents).judge(subject_of_intent(intent))
        modes = chance.choice([{"mode": "observe"}, {"classes": {intent["agent_class"]: {"mode": "observe"}}}])
        documents["bundle.yaml"] = documents.get("bundle.yaml", {}) | modes
        judgement = _policy(documents).judge(subject_of_intent(intent))
        assert [(rule.layer, rule.id) for rule in judgement.rules] == [("mode", "observe")]
        assert (judgement.decision, judgement.constraints, judgement.observed) == ("ALLOW", {}, whole)
        assert (judgement.missing, judgement.errors) == (whole.missing, whole.errors)


def test_the_level_counts_only_where_there_are_levels() -> None:
    """Without an autonomy document the level abstains; with one, a level it does not define asks a person and errs."""
    undefined = 0
    for _, case, intent in _cases(31, 80):
        judgements = {
            level: case.policy.judge(subject_of_intent({**intent, "level": level})) for level in (*LEVELS, 99)
        }
        if case.policy.levels is None:
            assert len({str(judgement) for judgement in judgements.values()}) == 1
            continue
        for level, judgement in judgements.items():
            if level in case.policy.levels:
                assert judgement.errors == ()
                continue
            undefined += 1
            spoken = judgement.observed or judgement
            assert RANKS[spoken.decision] >= RANKS["REQUIRE_APPROVAL"]
            assert [(error.layer, error.id) for error in judgement.errors] == [("autonomy", f"level_{level}")]
    assert undefined > 50


def test_merging_is_idempotent_commutative_associative_and_tighter_over_declared_types() -> None:
    """Of the built-in and the declared types alike: the merge is the least that is as tight as both."""
    chance = random.Random(32)
    for _ in range(60):
        case = case_of(random_documents(chance))
        types = case.policy.constraint_types
        names = tuple(sorted(case.documents.get("bundle.yaml", {}).get("constraint_types", {})))
        for _ in range(10):
            a, b, c = (random_constraints(chance, names) for _ in range(3))
            ab = merge_constraints(a, b, types)
            assert merge_constraints(a, a, types) == a
            assert merge_constraints(ab, b, types) == ab == merge_constraints(b, a, types)
            assert merge_constraints(ab, c, types) == merge_constraints(a, merge_constraints(b, c, types), types)
            for part in (a, b):
                assert is_tighter_or_equal(ab, part, types) == []
