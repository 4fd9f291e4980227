"""What holds of every bundle: random bundles over a small world, so that rules meet one another."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

from sluicegate.policies.actions import ACTIONS_MAX
from sluicegate.policies.compile import SIGNATURES_MAX, CompiledPolicy, compile_bundle
from sluicegate.policies.constraints import is_tighter_or_equal
from sluicegate.policies.evaluate import RANKS, Judgement, Subject
from sluicegate.policies.load import parse_documents
from sluicegate.policies.shadow import shadows

TOPICS = ("job.a.read", "job.b.write")
TAGS = ("prod", "read")
DECISIONS = ("allow", "allow_with_constraints", "require_approval", "deny")
# One value on each side of the thresholds below, and on them.
VALUES: dict[str, tuple[Any, ...]] = {"confidence": (0.2, 0.5, 0.9), "first_time_action": (True, False)}


def _match(chance: random.Random) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "topics": [chance.choice(["*", "job.a.*", "*.write"])],
        "risk_tags": [chance.choice(TAGS)],
        "risk_tags_all": chance.sample(TAGS, chance.randint(1, 2)),
        "confidence_below": 0.5,
        "confidence_above": 0.5,
        "first_time_action": chance.random() < 0.5,
    }
    chosen = {name: value for name, value in fields.items() if chance.random() < 0.3}
    if {"confidence_below", "confidence_above"} <= set(chosen):
        del chosen["confidence_above"]
    return chosen or {"topics": ["*"]}


def _rule(chance: random.Random) -> dict[str, Any]:
    rule: dict[str, Any] = {"match": _match(chance), "decision": chance.choice(DECISIONS)}
    if rule["decision"] in {"allow_with_constraints", "require_approval"} and chance.random() < 0.7:
        rule["constraints"] = {
            "max_runtime_sec": chance.randint(1, 3),
            "network_allowlist": chance.sample("abc", chance.randint(1, 3)),
        }
    return rule


def _rules(chance: random.Random) -> list[dict[str, Any]]:
    """One to four rules, without those that an earlier one leaves nothing: a bundle with such a rule is refused."""
    return _reached([_rule(chance) for _ in range(chance.randint(1, 4))])


def _reached(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    dead = {index for index, _ in shadows(rules)}
    return [rule for index, rule in enumerate(rules) if index not in dead]


def _documents(chance: random.Random) -> dict[str, Any]:
    layers = chance.sample(["one", "two", "three"], chance.randint(1, 3))
    documents: dict[str, Any] = {f"{name}.yaml": {"rules": _rules(chance)} for name in layers}
    if chance.random() < 0.5:
        documents["bundle.yaml"] = {"default": chance.choice(DECISIONS), "default_constraints": {"max_runtime_sec": 2}}
    return documents


def _policy(documents: Mapping[str, Any]) -> CompiledPolicy:
    return compile_bundle(parse_documents(documents))


def _subject(chance: random.Random) -> Subject:
    facts = {name: chance.choice(values) for name, values in VALUES.items() if chance.random() < 0.9}
    tags = tuple(sorted(chance.sample(TAGS, chance.randint(0, 2))))
    return Subject(chance.choice(TOPICS), tags, "someone", facts=facts)


def _pairs(seed: int, count: int) -> Iterator[tuple[random.Random, dict[str, Any], Subject]]:
    chance = random.Random(seed)
    for _ in range(count):
        yield chance, _documents(chance), _subject(chance)


def _not_wider(judgement: Judgement, than: Judgement) -> bool:
    """Whether a judgement permits nothing that the other one does not."""
    ours, theirs = RANKS[judgement.decision], RANKS[than.decision]
    if judgement.decision == "DENY" or ours < theirs:
        return ours >= theirs
    kept = set(than.constraints) <= set(judgement.constraints)
    return kept and is_tighter_or_equal(judgement.constraints, than.constraints) == []


def test_every_subject_gets_a_judgement_with_a_rule_and_a_reason() -> None:
    """Evaluation is total, and no judgement is without what determined it."""
    for _, documents, subject in _pairs(1, 600):
        judgement = _policy(documents).judge(subject)
        assert judgement.decision in RANKS
        assert judgement.rules
        assert judgement.reason
        assert judgement.errors == ()


def test_the_same_subject_gets_the_same_judgement() -> None:
    """Neither what was judged before nor a new compilation changes an answer."""
    for _, documents, subject in _pairs(2, 200):
        warm = _policy(documents)
        for topic, tags in itertools.product(TOPICS, ((), ("prod",), ("prod", "read"))):
            warm.judge(Subject(topic, tags, "someone", facts={"confidence": None}))
        first = warm.judge(subject)
        assert warm.judge(subject) == first == _policy(documents).judge(subject)


def test_names_of_layers_decide_nothing() -> None:
    """The strictest layer wins in any order: renaming layers changes neither decision nor constraints."""
    for _, documents, subject in _pairs(3, 400):
        names = sorted(name for name in documents if name != "bundle.yaml")
        renamed = dict(zip(names, reversed(names), strict=True))
        judgement = _policy(documents).judge(subject)
        other = _policy({renamed.get(name, name): document for name, document in documents.items()}).judge(subject)
        assert (other.decision, other.constraints) == (judgement.decision, judgement.constraints)


def test_a_further_layer_never_widens_what_some_layer_decided() -> None:
    """Where a layer speaks already, one more can only make the answer stricter or its constraints tighter."""
    checked = 0
    for chance, documents, subject in _pairs(4, 800):
        before = _policy(documents).judge(subject)
        if before.rules[0].layer == "default":
            continue  # a layer that abstains leaves the default, which any rule may replace
        after = _policy({**documents, "added.yaml": {"rules": [_rule(chance)]}}).judge(subject)
        assert _not_wider(after, before)
        checked += 1
    assert checked > 400


def test_a_stricter_decision_in_a_rule_never_widens() -> None:
    """Making one rule stricter and keeping its match leaves no subject with more than it had."""
    checked = 0
    for chance, documents, subject in _pairs(5, 600):
        name = chance.choice([each for each in documents if each != "bundle.yaml"])
        rules = documents[name]["rules"]
        index = chance.randrange(len(rules))
        at = DECISIONS.index(rules[index]["decision"])
        stricter = {**rules[index], "decision": DECISIONS[min(at + 1, 3)]}
        if stricter["decision"] == "require_approval":
            # A rule that allows with the bundle's default constraints loses them when it asks instead.
            default = documents.get("bundle.yaml", {}).get("default_constraints", {})
            stricter.setdefault("constraints", default)
        before = _policy(documents).judge(subject)
        changed = {**documents, name: {"rules": [*rules[:index], stricter, *rules[index + 1 :]]}}
        assert _not_wider(_policy(changed).judge(subject), before)
        checked += 1
    assert checked == 600


def test_an_unknown_fact_never_widens() -> None:
    """With a fact absent nothing is permitted that some value of the fact would have held, denied or constrained."""
    checked = 0
    for chance, documents, subject in _pairs(6, 1_000):
        policy = _policy(documents)
        name = chance.choice(list(VALUES))
        known = {**VALUES, **{fact: (value,) for fact, value in subject.facts.items() if fact != name}}
        absent = policy.judge(Subject(subject.topic, subject.risk_tags, "x", facts={**subject.facts, name: None}))
        if absent.rules[0].layer == "default":
            continue  # the default speaks where no rule surely does; a known fact may let a rule speak instead
        for value in known[name]:
            facts = {**subject.facts, name: value}
            with_value = policy.judge(Subject(subject.topic, subject.risk_tags, "x", facts=facts))
            if with_value.rules[0].layer != "default":
                assert _not_wider(absent, with_value), (documents, subject, name, value)
                checked += 1
    assert checked > 700


def test_every_determining_rule_stands_in_the_judgement() -> None:
    """The rules named are exactly of the final decision, and each is found in the bundle by its content hash."""
    for _, documents, subject in _pairs(7, 300):
        policy = _policy(documents)
        hashes = {each.rule.ref.content_hash for layer in policy._layers for each in layer.rules}
        for rule in policy.judge(subject).rules:
            assert rule.decision == policy.judge(subject).decision
            assert rule.layer == "default" or rule.content_hash in hashes


def test_what_is_remembered_between_judgements_is_bounded() -> None:
    """An agent that makes up topics fills no memory."""
    policy = _policy({"a.yaml": {"rules": [{"match": {"confidence_below": 0.5}, "decision": "deny"}]}})
    for number in range(SIGNATURES_MAX + 100):
        policy.judge(Subject(f"job.{number}", (), "someone"))
        policy.action(f"job.{number}")
    assert len(policy._residues) == SIGNATURES_MAX
    assert len(policy._actions._known) == ACTIONS_MAX
