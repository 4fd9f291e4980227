"""What a model cannot say of a document: references, duplicates, facts, constraints, thresholds.

These checks read the plain document and step over whatever has the wrong shape, so that a file with a wrong type in
one rule still shows the wrong threshold in the next: every fault at once.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from sluicegate.policies import documents as docs
from sluicegate.policies.anomaly import FORMAT_VERSION, read_baseline
from sluicegate.policies.constraints import BUILT_IN, MERGES, ConstraintType, problem_of
from sluicegate.policies.facts import (
    MATCH_FIELDS,
    empty_range,
    fact_name_problem,
    is_known,
    key_problem,
    split_key,
)
from sluicegate.policies.faults import suggest
from sluicegate.policies.fields import LEVEL
from sluicegate.policies.output_document import OutputPolicyDocument
from sluicegate.policies.output_faults import check_output_policy
from sluicegate.policies.schema_words import schema_problems
from sluicegate.policies.shadow import impossible, shadows
from sluicegate.policies.source import Source, mapping_of, mappings_in, texts_in

Path = tuple[str | int, ...]

RESERVED_LAYERS: Final = frozenset({"default", "autonomy", "mode", "ask", "gate"})
"""Layer names that a rules document may not take."""


class Vocabulary:
    """What all documents of a bundle may refer to: constraint types and declared facts; None where that is unknown."""

    __slots__ = ("facts", "types")

    def __init__(self, constraint_types: Mapping[str, ConstraintType] | None, facts: frozenset[str] | None) -> None:
        self.types = constraint_types
        self.facts = facts


def check_meaning(source: Source, kind: type[BaseModel] | None, words: Vocabulary) -> None:
    """Record in ``source`` what is wrong beyond types and keys."""
    document = source.root.plain() if source.root is not None else None
    if not isinstance(document, dict):
        return
    if kind is docs.RulesDocument:
        _check_layer(source, document, words)
    elif kind is docs.AutonomyDocument:
        _check_gaps(source, mapping_of(document.get("autonomy_levels")))
        for name, level in mapping_of(document.get("autonomy_levels")).items():
            _check_rules(source, ("autonomy_levels", name, "rules"), name, mapping_of(level).get("rules"), words)
    elif kind is docs.AuditDocument:
        for index, entry in mappings_in(mapping_of(document.get("audit")).get("mandatory")):
            _check_match(source, ("audit", "mandatory", index, "match"), entry.get("match"), words)
    elif kind is docs.WorkflowDocument:
        _check_workflow(source, mapping_of(document.get("steps")), words)
    elif kind is docs.BundleDocument:
        _check_types(source, mapping_of(document.get("constraint_types")))
        _check_constraints(source, ("default_constraints",), document.get("default_constraints"), words)
    elif kind is docs.ActionsDocument:
        _check_actions(source, document.get("actions"))
    elif kind is docs.AgentsDocument:
        _check_agents(source, document.get("agents"))
    elif kind is docs.ReviewersDocument:
        _check_reviewers(source, document)
    elif kind is docs.BaselineDocument:
        _check_baseline(source, document)
    elif kind is OutputPolicyDocument:
        check_output_policy(source, document)


def declared_types(document: docs.BundleDocument) -> dict[str, ConstraintType]:
    """The built-in constraint types and the bundle's own, of a document that passes ``check_meaning``."""
    own = document.constraint_types.items()
    return {**BUILT_IN, **{name: ConstraintType(entry.type, entry.merge) for name, entry in own}}


def _check_types(source: Source, declared: Mapping[str, Any]) -> None:
    for name, entry in declared.items():
        path: Path = ("constraint_types", name)
        body = mapping_of(entry)
        kind, merge = body.get("type"), body.get("merge")
        sensible = next((merges for each, merges in MERGES.items() if each == kind), None)
        if name in BUILT_IN:
            source.fault(path, f"`{name}` is built in", "remove it or choose another name", at_key=True)
        elif sensible is not None and isinstance(merge, str) and merge not in sensible:
            fix = "use " + " or ".join(f"`{each}`" for each in sensible)
            source.fault((*path, "merge"), f"a {kind} cannot merge by `{merge}`", fix)


def _check_gaps(source: Source, levels: Mapping[str, Any]) -> None:
    """Levels count from 0 without a gap: an agent at a level that nobody defines waits for people with everything."""
    if not all(re.fullmatch(LEVEL, name) for name in levels):
        return
    numbers = {int(name.removeprefix("level_")) for name in levels}
    for number in range(max(numbers, default=-1)):
        if number not in numbers:
            message = f"there is no `level_{number}`, and everything of an agent at it would wait"
            source.fault(("autonomy_levels",), message, "define it", at_key=True, severity="warning")
            return


def _check_layer(source: Source, document: Mapping[str, Any], words: Vocabulary) -> None:
    layer = docs.stem_of(source.file)
    if layer in RESERVED_LAYERS:
        source.fault((), f"`{layer}` is a layer of its own", "give the file another name")
    _check_rules(source, ("rules",), layer, document.get("rules"), words)


def _check_rules(source: Source, path: Path, layer: str, rules: Any, words: Vocabulary) -> None:
    seen: set[str] = set()
    for index, rule in mappings_in(rules):
        here: Path = (*path, index)
        identity = rule.get("id") or f"{layer}/{index}"
        if isinstance(identity, str) and identity in seen:
            source.fault((*here, "id"), f"the rule id `{identity}` stands twice", "give each rule an id of its own")
        seen.add(str(identity))
        _check_match(source, (*here, "match"), rule.get("match"), words)
        constraints = rule.get("constraints")
        _check_constraints(source, (*here, "constraints"), constraints, words)
        if constraints and rule.get("decision") == "allow":
            message = "an `allow` rule has no constraints"
            source.fault((*here, "decision"), message, "write `allow_with_constraints` or remove them")
        elif constraints and rule.get("decision") == "deny":
            message = "the constraints of a `deny` rule never apply"
            source.fault((*here, "constraints"), message, "remove them", at_key=True, severity="warning")
        _check_request(source, here, rule)
        _check_claims(source, (*here, "match"), rule)
    _check_reached(source, path, layer, rules)


def _check_reached(source: Source, path: Path, layer: str, rules: Any) -> None:
    """Every rule can decide something that no earlier one of its list decides."""
    for index, first in shadows(rules if isinstance(rules, list) else ()):
        rule, cover = (rules[each].get("id") or f"{layer}/{each}" for each in (index, first))
        line = source.line_of((*path, first))
        where = f" in line {line}" if line else ""
        message = f"rule `{rule}` is never reached: `{cover}`{where} matches all that it does"
        step = "id" if rules[index].get("id") else "match"
        source.fault((*path, index, step), message, "move it up or remove it", at_key=step == "match")


def _check_request(source: Source, here: Path, rule: Mapping[str, Any]) -> None:
    """What a rule says of the request that it opens."""
    given = [key for key in docs.REQUEST_KEYS if rule.get(key) is not None]
    if given and rule.get("decision") in ("allow", "allow_with_constraints", "deny"):
        message = f"`{given[0]}` means nothing here: only a `require_approval` rule opens a request"
        source.fault((*here, given[0]), message, "remove it", at_key=True, severity="warning")
    if rule.get("tier") == "high" and rule.get("on_timeout") == "approve":
        message = "silence never approves what is of tier `high`"
        source.fault((*here, "on_timeout"), message, "write `deny` or `escalate`, or a lower tier")


def _check_claims(source: Source, path: Path, rule: Mapping[str, Any]) -> None:
    """What an agent says of itself should make nothing easier: its confidence, and tags that it adds."""
    if rule.get("decision") not in ("allow", "allow_with_constraints"):
        return
    match = mapping_of(rule.get("match"))
    for key in ("confidence_above", "confidence_below"):
        if key in match:
            message = "confidence is the agent's own word, and here it makes something easier"
            fix = "hold what is unsure instead: `confidence_below` in a `require_approval` rule before this one"
            source.fault((*path, key), message, fix, at_key=True, severity="warning")
    for key in ("risk_tags", "risk_tags_all"):
        if rule.get("decision") == "allow" and key in match:
            message = f"an agent may add tags itself, so it can bring about what this `{key}` wants"
            fix = "allow by `topics` and `risk_tags_only`"
            source.fault((*path, key), message, fix, at_key=True, severity="warning")


def _check_actions(source: Source, actions: Any) -> None:
    for index, entry in mappings_in(actions):
        here: Path = ("actions", index)
        for name in mapping_of(entry.get("facts")):
            problem = fact_name_problem(name)
            if problem is not None:
                source.fault((*here, "facts", name), problem, "choose another name", at_key=True)
        schema = entry.get("payload_schema")
        for place, message, fix in schema_problems(schema) if isinstance(schema, dict) else ():
            source.fault((*here, "payload_schema", *place), message, fix, at_key=True)


def _check_match(source: Source, path: Path, match: Any, words: Vocabulary) -> None:
    if not isinstance(match, dict):
        return
    if not match:
        source.fault(path, "an empty match matches nothing", 'write `topics: ["*"]` to match everything')
    for name in MATCH_FIELDS:
        if name in match and match[name] is None:
            source.fault((*path, name), f"`{name}` is empty", "write at least one entry or remove the key", at_key=True)
    problem = impossible(match)
    if problem is not None:
        source.fault(path, problem, "change or remove one of the two", at_key=True)
    tests = {key: value for key, value in match.items() if key not in MATCH_FIELDS}
    if words.facts is not None:
        for key, value in tests.items():
            _check_fact(source, (*path, key), key, value, words.facts)
    empty = empty_range(tests)
    if empty is not None:
        message = f"no `{empty}` is above `{tests[empty + '_above']}` and below `{tests[empty + '_below']}`"
        source.fault((*path, f"{empty}_above"), message, "swap or move the thresholds")


def _check_fact(source: Source, path: Path, key: str, value: Any, declared: frozenset[str]) -> None:
    problem = key_problem(key, value, declared)
    if problem is not None:
        message, fix, at_key = problem
        source.fault(path, message, fix, at_key=at_key)
    elif not is_known(split_key(key)[0], declared):
        message = f"no action declares the fact `{split_key(key)[0]}`, so the rule never matches"
        source.fault(path, message, "declare it in actions.yaml", at_key=True, severity="warning")


def _check_constraints(source: Source, path: Path, constraints: Any, words: Vocabulary) -> None:
    if words.types is None:
        return
    for name, value in mapping_of(constraints).items():
        problem = problem_of(name, value, words.types)
        if problem is not None:
            source.fault((*path, name), *problem, at_key=name not in words.types)


def _check_workflow(source: Source, steps: Mapping[str, Any], words: Vocabulary) -> None:
    for name, body in steps.items():
        here: Path = ("steps", name)
        step = mapping_of(body)
        _check_constraints(source, (*here, "constraints"), step.get("constraints"), words)
        if step.get("type") == "action" and "topic" not in step:
            source.fault(here, "an action needs a `topic`", "add `topic`")
        for index, wanted in texts_in(step.get("depends_on")):
            if wanted not in steps:
                source.fault((*here, "depends_on", index), f"there is no step `{wanted}`", suggest(wanted, steps))
        for label, branch in mapping_of(step.get("branches")).items():
            following = mapping_of(branch).get("next")
            if isinstance(following, str) and following not in steps:
                where = (*here, "branches", label, "next")
                source.fault(where, f"there is no step `{following}`", suggest(following, steps))


def _check_agents(source: Source, agents: Any) -> None:
    _check_unique(source, "agents", agents)
    for index, agent in mappings_in(agents):
        key = mapping_of(agent.get("key"))
        here: Path = ("agents", index, "key")
        if key.get("kind") == "ed25519" and key.get("public_key") is None:
            source.fault(here, "an `ed25519` key needs its `public_key`", "add it in base64, or use `hmac`")
        if key.get("kind") == "hmac" and key.get("public_key") is not None:
            source.fault((*here, "public_key"), "an `hmac` key has no public key", "remove it or use `ed25519`")


def _check_reviewers(source: Source, document: Mapping[str, Any]) -> None:
    people = document.get("people")
    _check_unique(source, "people", people)
    known = {str(person.get("id")) for _, person in mappings_in(people)}
    holders: dict[bytes, str] = {}
    for index, person in mappings_in(people):
        public_key = person.get("public_key")
        if not isinstance(public_key, str):
            continue
        where: Path = ("people", index, "public_key")
        key = _key_bytes(public_key)
        if key is None:
            continue  # another fault says that it is no key
        spelling = base64.b64encode(key).decode()
        if spelling != public_key:
            # The last sign's spare bits mean nothing: the same key would stand there in another spelling.
            source.fault(where, "this is not the usual base64 of the key", f"write `{spelling}`")
        if key in holders:
            # Two names on one key would let one person count as two.
            source.fault(where, f"`{holders[key]}` has the same public key", "give each person a key of their own")
        holders[key] = str(person.get("id"))
    for name, queue in mapping_of(document.get("queues")).items():
        for index, member in texts_in(mapping_of(queue).get("members")):
            if member not in known:
                where = ("queues", name, "members", index)
                source.fault(where, f"there is no person `{member}`", suggest(member, known))


def _key_bytes(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def _check_baseline(source: Source, document: Mapping[str, Any]) -> None:
    """Every sketch can be read: the score of an agent that has learned nothing rests on it."""
    fix = "compute the baseline again with `sluicegate policy baseline`"
    given = document.get("baseline_format")
    if given != FORMAT_VERSION and isinstance(given, int):
        source.fault(("baseline_format",), f"format `{given}` is not {FORMAT_VERSION}, which this version reads", fix)
        return
    for topic, entry in mapping_of(document.get("topics")).items():
        if not (isinstance(entry, dict) and entry.keys() == {"n", "sketch"}):
            continue
        try:
            read_baseline({"baseline_format": FORMAT_VERSION, "topics": {topic: entry}})
        except ValueError as problem:
            source.fault(("topics", topic), str(problem).partition("; compute")[0], fix, at_key=True)


def _check_unique(source: Source, list_name: str, entries: Any) -> None:
    seen: set[str] = set()
    for index, entry in mappings_in(entries):
        identity = str(entry.get("id"))
        if identity in seen:
            source.fault((list_name, index, "id"), f"the id `{identity}` stands twice", "keep one of them")
        seen.add(identity)
