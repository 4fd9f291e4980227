"""Random bundles and intents over a small world, so that rules meet one another; everything comes from a seed.

A bundle is written as text with one rule a line: what the product refuses (a shadowed rule, a match that nothing can
meet) it names by line, and exactly those rules are taken out again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.evaluate import Subject
from sluicegate.policies.faults import PolicyFaults
from sluicegate.policies.load import Bundle, parse_bundle

Make = Callable[[random.Random], Any]

TOPICS: Final = ("job.a.read", "job.b.write", "job.a.b.read", "job", "", "job.a.\n.read", "JOB.a.read", "aab.read")
PATTERNS: Final = ("*", "job.a.*", "*.write", "job.*.read", "job", "*a*b*", "**read", "job.a.read", "j*", "*.*.*.*")
TAGS: Final = ("prod", "read", "write", "delete")
DECISIONS: Final = ("allow", "allow_with_constraints", "require_approval", "deny")
CLASSES: Final = ("default", "robot", "intern")
LEVELS: Final = (0, 1, 2, 3)
NUMBERS: Final = ("amount_usd", "affected_users", "score", "amount_usd_24h", "score_5m", "count_1h", "retry_count")
SHARES: Final = ("confidence", "anomaly_score")
WORDS: Final = ("first_time_action", "urgent")
THRESHOLDS: Final = (1, 2.5, 5)
# On each side of every threshold and on it, and what cannot be compared.
READABLE: Final[tuple[Any, ...]] = (0, -0.0, 1, 1.5, 2.5, 3, 5, 5.000001, 6, -7, 10**400, -(10**400), 2**63, 1e308)
UNREADABLE: Final[tuple[Any, ...]] = (None, float("nan"), float("inf"), float("-inf"), True, False, "5", [5], {}, b"5")
CONSTRAINTS: Final[dict[str, Make]] = {
    "max_runtime_sec": lambda chance: chance.choice([1, 2, 2.5, 900]),
    "max_amount_usd": lambda chance: chance.choice([0, 0.5, 10]),
    "max_affected_rows": lambda chance: chance.randint(0, 3),
    "max_affected_users": lambda chance: chance.randint(0, 3),
    "max_output_bytes": lambda chance: chance.randint(1, 3),
    "network_allowlist": lambda chance: chance.sample(["c", "a", "b"], chance.randint(1, 3)),
    "path_allowlist": lambda chance: chance.sample(["/x", "/y"], chance.randint(1, 2)),
    "read_only": lambda chance: chance.random() < 0.5,
    "dry_run": lambda chance: chance.random() < 0.5,
}
DECLARED: Final[dict[str, tuple[dict[str, str], Make]]] = {
    "min_delay_sec": ({"type": "number", "merge": "max"}, lambda chance: chance.choice([1, 2.5, 3])),
    "cap_usd": ({"type": "number", "merge": "min"}, lambda chance: chance.choice([1, 2.5, 3])),
    "min_copies": ({"type": "integer", "merge": "max"}, lambda chance: chance.randint(1, 3)),
    "unattended": ({"type": "boolean", "merge": "and"}, lambda chance: chance.random() < 0.5),
    "supervised": ({"type": "boolean", "merge": "or"}, lambda chance: chance.random() < 0.5),
    "denied_hosts": ({"type": "list", "merge": "union"}, lambda chance: chance.sample("xyz", chance.randint(1, 2))),
    "regions": ({"type": "list", "merge": "intersection"}, lambda chance: chance.sample("pqr", chance.randint(1, 3))),
}


@dataclass(frozen=True)
class Case:
    """A bundle as plain documents, as texts, and as the product compiled it; rules the product refused are gone."""

    documents: dict[str, Any]
    texts: dict[str, str]
    bundle: Bundle
    policy: CompiledPolicy
    refused: int


def random_match(chance: random.Random, width: float = 0.18) -> dict[str, Any]:
    """A match of about two fields, of every kind there is."""
    fields: dict[str, Make] = {
        "topics": lambda chance: chance.sample(PATTERNS, chance.choice([1, 1, 2])),
        "risk_tags": lambda chance: chance.sample(TAGS, chance.choice([1, 2])),
        "risk_tags_all": lambda chance: chance.sample(TAGS, chance.choice([1, 2])),
        "risk_tags_only": lambda chance: chance.sample(TAGS, chance.choice([0, 1, 2, 3])),
    }
    match = {name: make(chance) for name, make in fields.items() if chance.random() < 0.3}
    for fact in (*NUMBERS, *SHARES):
        if chance.random() < width / 1.5:
            low = chance.choice((0.2, 0.5, 0.8) if fact in SHARES else (1, 2, 5) if "count" in fact else THRESHOLDS)
            match[f"{fact}_{chance.choice(['above', 'below'])}"] = low
            if chance.random() < 0.2:
                match[f"{fact}_above"], match[f"{fact}_below"] = low / 2 if fact in SHARES else 0, low
    match |= {fact: chance.random() < 0.5 for fact in WORDS if chance.random() < width}
    return match or {"topics": [chance.choice(PATTERNS)]}


def random_constraints(chance: random.Random, declared: tuple[str, ...] = ()) -> dict[str, Any]:
    """Between none and a handful, of the built-in types and those the bundle declares."""
    share = chance.choice([0.1, 0.3])
    made = {name: make(chance) for name, make in CONSTRAINTS.items() if chance.random() < share}
    return made | {name: DECLARED[name][1](chance) for name in declared if chance.random() < share}


def random_rule(chance: random.Random, declared: tuple[str, ...] = (), number: int | None = None) -> dict[str, Any]:
    """A rule, with an id where a number is given."""
    rule: dict[str, Any] = {"match": random_match(chance), "decision": chance.choice(DECISIONS)}
    if rule["decision"] in {"allow_with_constraints", "require_approval"} and chance.random() < 0.7:
        rule["constraints"] = random_constraints(chance, declared)
    if number is not None:
        rule["id"] = f"r{number}"
    return rule


def random_rules(chance: random.Random, declared: tuple[str, ...], most: int = 6) -> list[dict[str, Any]]:
    """The rules of a layer."""
    count = chance.randint(1, most)
    return [random_rule(chance, declared, each if chance.random() < 0.5 else None) for each in range(count)]


def random_documents(chance: random.Random) -> dict[str, Any]:
    """One to four layers, often an autonomy document, often a `bundle.yaml` that declares, defaults and observes."""
    documents: dict[str, Any] = {
        "actions.yaml": {"actions": [{"topics": ["*"], "facts": {"score": "s", "urgent": "u"}}]}
    }
    declared: tuple[str, ...] = ()
    if chance.random() < 0.7:
        declared = tuple(sorted(chance.sample(sorted(DECLARED), chance.randint(0, 7))))
        bundle: dict[str, Any] = {"constraint_types": {name: DECLARED[name][0] for name in declared}}
        bundle["default_constraints"] = random_constraints(chance, declared) if chance.random() < 0.5 else {}
        if chance.random() < 0.7:
            bundle["default"] = chance.choice(DECISIONS)
        if chance.random() < 0.15:
            bundle["mode"] = chance.choice(["observe", "enforce"])
        if chance.random() < 0.3:
            bundle["classes"] = {"robot": {"mode": "observe"}, "intern": {"mode": "enforce", "confidence": True}}
        if bundle.get("default") == "allow_with_constraints" and not bundle["default_constraints"]:
            bundle["default_constraints"] = {"max_runtime_sec": 9}
        documents["bundle.yaml"] = bundle
    for name in chance.sample(["one.yaml", "two.json", "three.yml", "four.yaml"], chance.randint(1, 4)):
        documents[name] = {"rules": random_rules(chance, declared)}
        if chance.random() < 0.2:
            documents[name]["mode"] = chance.choice(["observe", "observe", "enforce"])
    if chance.random() < 0.5:
        levels = chance.sample(LEVELS, chance.randint(1, 4))
        documents["trust.yaml"] = {
            "autonomy_levels": {
                f"level_{level}": {"name": f"of {level}", "rules": random_rules(chance, declared, 3)}
                for level in sorted(levels)
            }
        }
        if chance.random() < 0.15:
            documents["trust.yaml"]["mode"] = chance.choice(["observe", "enforce"])
    return documents


def text_of(document: dict[str, Any]) -> str:
    """A document as JSON, which is YAML too, with each rule on a line of its own."""

    def lines(rules: list[Any]) -> str:
        return "[\n" + ",\n".join(json.dumps(rule) for rule in rules) + "\n]"

    if "rules" in document:
        rest = {name: value for name, value in document.items() if name != "rules"}
        return json.dumps({**rest, "rules": "R"}).replace('"R"', lines(document["rules"]))
    if "autonomy_levels" in document:
        levels = document["autonomy_levels"].items()
        inner = ", ".join(
            f'"{key}": {{"name": "{each["name"]}", "rules": {lines(each["rules"])}}}' for key, each in levels
        )
        return f'{{"mode": "{document.get("mode", "enforce")}", "autonomy_levels": {{{inner}}}}}'
    return json.dumps(document)


def _without_line(document: dict[str, Any], line: int) -> None:
    """Take the rule on a line of the text away."""
    at = 1
    for rules in (
        [document["rules"]]
        if "rules" in document
        else [level["rules"] for level in document["autonomy_levels"].values()]
    ):
        if at < line <= at + len(rules):
            del rules[line - at - 1]
            if not rules:
                rules.append({"match": {"topics": ["job"]}, "decision": "require_approval"})
            return
        at += len(rules) + 1
    raise AssertionError(f"no rule on line {line}")


def case_of(documents: dict[str, Any]) -> Case:
    """The product's reading of documents, after it has had its way with the rules it refuses."""
    refused = 0
    while True:
        texts = {name: text_of(document) for name, document in documents.items()}
        try:
            bundle = parse_bundle(texts)
        except PolicyFaults as faults:
            found = {(fault.file, fault.line) for fault in faults.faults if fault.severity == "error"}
            if any(line <= 1 for _, line in found):
                raise AssertionError(f"a fault that is no rule's:\n{faults}") from faults
            for file, line in sorted(found, reverse=True):
                _without_line(documents[file], line)
            refused += len(found)
            continue
        return Case(documents, texts, bundle, compile_bundle(bundle), refused)


def random_case(chance: random.Random) -> Case:
    """A bundle that compiles."""
    return case_of(random_documents(chance))


def random_facts(chance: random.Random) -> dict[str, Any]:
    """Facts of which some are not declared, some absent or unreadable, most on one side of a threshold."""
    facts: dict[str, Any] = {}
    for name in (*NUMBERS, *SHARES, *WORDS):
        if chance.random() < 0.12:
            continue
        if chance.random() < 0.2:
            facts[name] = chance.choice([None, chance.choice(UNREADABLE)])
        elif name in WORDS:
            facts[name] = chance.choice([True, False, True, False, 1, 0, "true"])
        else:
            facts[name] = chance.choice((0, 0.1, 0.2, 0.35, 0.5, 0.8, 0.9, 1) if name in SHARES else READABLE)
    return facts


def random_intent(chance: random.Random) -> dict[str, Any]:
    """An intent as the second evaluator takes it."""
    return {
        "topic": chance.choice(TOPICS),
        "tags": sorted(chance.sample(TAGS, chance.choice([0, 1, 1, 2, 3]))),
        "facts": random_facts(chance),
        "level": chance.choice(LEVELS),
        "agent_class": chance.choice(CLASSES),
    }


def subject_of_intent(intent: dict[str, Any]) -> Subject:
    """The same intent as the product takes it."""
    return Subject(
        intent["topic"],
        tuple(intent["tags"]),
        "someone",
        agent_class=intent["agent_class"],
        facts=intent["facts"],
        level=intent["level"],
    )
