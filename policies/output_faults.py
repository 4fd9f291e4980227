"""What a model cannot say of `output-policy.yaml`: names, classes, patterns, rules that never hold.

Like `meaning`, these checks read the plain document and step over whatever has the wrong shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from sluicegate.policies.detectors import Detectors, builtin_specs, detector_problem, pattern_problem
from sluicegate.policies.faults import suggest
from sluicegate.policies.output_document import (
    AUDIENCES,
    DATA_CLASSES,
    FOREIGN_TENANT,
    PHRASE_CLASSES,
    PHRASE_PREFIX,
    TENANT_PREFIX,
    OutputPolicyDocument,
    removal_steps,
)
from sluicegate.policies.output_policy import added_detectors
from sluicegate.policies.places import is_name, plain_key
from sluicegate.policies.shadow import shadows
from sluicegate.policies.source import Source, mapping_of, mappings_in, texts_in
from sluicegate.schemas.errors import BadInput

Path = tuple[str | int, ...]

_RESERVED: Final = (TENANT_PREFIX, PHRASE_PREFIX)
_PLACES: Final = (
    ("the pattern", "pattern"),
    ("a pattern", "pattern"),
    ("there is no validator", "validator"),
    ("the keyword", "keywords"),
)


def check_output_policy(source: Source, document: Mapping[str, Any]) -> None:
    """Record in ``source`` what is wrong beyond types and keys."""
    classes = {*DATA_CLASSES, *PHRASE_CLASSES, *mapping_of(document.get("phrases"))}
    classes |= {str(each["class"]) for _, each in mappings_in(document.get("detectors")) if "class" in each}
    bodies: list[tuple[Path, Mapping[str, Any]]] = [
        (("rules", index), rule) for index, rule in mappings_in(document.get("rules"))
    ]
    if isinstance(document.get("default"), dict):
        bodies.append((("default",), document["default"]))
    for here, body in bodies:
        _check_removals(source, (*here, "remove"), body.get("remove"))
        for name in mapping_of(body.get("detect")):
            if name not in classes:
                message = f"nothing is of the class `{name}`"
                source.fault((*here, "detect", name), message, suggest(name, classes), at_key=True)
    _check_rules(source, document)
    _check_detectors(source, document.get("detectors"))
    _check_phrases(source, mapping_of(document.get("phrases")))
    _check_tenants(source, document, bodies)
    removed = {name for _, body in bodies for _, name in texts_in(body.get("remove"))}
    for name in mapping_of(document.get("reasons")):
        if name not in removed | classes:
            message = f"`{name}` is neither removed by a rule nor a class"
            source.fault(("reasons", name), message, suggest(name, removed | classes), at_key=True)
    if all(fault.severity == "warning" for fault in source.faults):
        _check_together(source, document)


def _check_together(source: Source, document: Mapping[str, Any]) -> None:
    """What only shows once all that the document adds is put together: how much it is."""
    try:
        added = added_detectors(OutputPolicyDocument.model_validate(document))
    except ValidationError:
        return  # a fault of its own, which the model says
    try:
        if added.specs:
            Detectors.build(extra=added.specs)
    except BadInput as problem:
        message, _, fix = str(problem).partition("; ")
        source.fault((), message, fix)


def _check_removals(source: Source, here: Path, removals: Any) -> None:
    first: dict[object, str] = {}
    for index, text in texts_in(removals):
        steps = removal_steps(text) if not is_name(text) else None
        if steps is None and not (is_name(text) and plain_key(text)):
            fix = "write a name like `internal_notes`, or a path of keys like `$.cost` or `order.lines.cost`"
            source.fault((*here, index), f"`{text}` is neither a name nor a path", fix)
            continue
        same = plain_key(text) if steps is None else steps
        if same in first:
            message = f"`{text}` is removed already, as `{first[same]}`"
            source.fault((*here, index), message, "keep one of them", severity="warning")
        first.setdefault(same, text)


def _check_rules(source: Source, document: Mapping[str, Any]) -> None:
    rules = document.get("rules")
    seen: set[str] = set()
    open_to = set(AUDIENCES)
    for index, rule in mappings_in(rules):
        here: Path = ("rules", index)
        identity = rule.get("id") or f"rules/{index}"
        if isinstance(identity, str) and (identity in seen or identity == "default"):
            said = "stands twice" if identity in seen else "is that of what holds where no rule fits"
            source.fault((*here, "id"), f"the rule id `{identity}` {said}", "give each rule an id of its own")
        seen.add(str(identity))
        match = rule.get("match")
        if match == {}:
            source.fault(
                (*here, "match"), "an empty match matches nothing", 'write `topics: ["*"]` to match everything'
            )
        for name in ("topics", "audience"):
            if name in mapping_of(match) and mapping_of(match)[name] is None:
                fix = "write at least one entry or remove the key"
                source.fault((*here, "match", name), f"`{name}` is empty", fix, at_key=True)
        if "*" in (mapping_of(match).get("topics") or ["*"]):
            open_to -= set(_audiences(rule))
    _check_reached(source, rules if isinstance(rules, list) else [])
    if open_to and document.get("default") is None:
        message = f"what no rule fits is quarantined, for {', '.join([f'`{each}`' for each in sorted(open_to)])}"
        source.fault(("rules",), message, "add `default`, or keep it so", at_key=True, severity="warning")


def _audiences(rule: Any) -> tuple[str, ...]:
    """The audiences of a rule; none of a match with a wrong shape or none."""
    match = mapping_of(rule).get("match")
    if not isinstance(match, dict) or not match:
        return ()
    given = match.get("audience", list(AUDIENCES))
    return tuple(each for _, each in texts_in(given) if each in AUDIENCES)


def _check_reached(source: Source, rules: list[Any]) -> None:
    """Every rule holds for something that no earlier one takes: for one audience of its own at least."""
    covers: dict[int, list[int]] = {}
    for audience in AUDIENCES:
        asked = [
            {"match": {"topics": rule["match"].get("topics", ["*"])}} if audience in _audiences(rule) else None
            for rule in rules
        ]
        for index, cover in shadows(asked):
            covers.setdefault(index, []).append(cover)
    for index, found in covers.items():
        if len(found) < len(set(_audiences(rules[index]))):
            continue
        first = min(found)
        name, over = (rules[each].get("id") or f"rules/{each}" for each in (index, first))
        line = source.line_of(("rules", first))
        where = f" in line {line}" if line else ""
        others = " and others match" if len(set(found)) > 1 else " matches"
        message = f"rule `{name}` is never reached: `{over}`{where}{others} all that it does"
        step = "id" if rules[index].get("id") else "match"
        source.fault(("rules", index, step), message, "move it up or remove it", at_key=step == "match")


def _check_detectors(source: Source, detectors: Any) -> None:
    taken = {spec.id for spec in builtin_specs()}
    for index, data in mappings_in(detectors):
        here: Path = ("detectors", index)
        problem = detector_problem(data)
        identity = str(data.get("id"))
        if problem is not None:
            message, _, fix = problem.partition("; ")
            source.fault((*here, *_place_of(message, data)), message, fix or "see the documents' guide")
        elif identity.startswith(_RESERVED):
            source.fault((*here, "id"), f"`{identity}` begins as ids of ours do", "choose another one")
        elif identity in taken:
            source.fault((*here, "id"), f"the id `{identity}` is taken", "choose another one")
        taken.add(identity)


def _place_of(message: str, data: Mapping[str, Any]) -> Path:
    """The key that a detector's problem is of, as its message begins."""
    for beginning, key in _PLACES:
        if message.startswith(beginning) and key in data:
            return (key,)
    if message.endswith("is no class"):
        return ("class",)
    return ("id",) if "is no id of" in message else ()


def _check_phrases(source: Source, phrases: Mapping[str, Any]) -> None:
    for name, texts in phrases.items():
        if name in DATA_CLASSES:
            message = f"`{name}` is a class of data, not of phrases"
            source.fault(("phrases", name), message, "choose another name, or write a detector", at_key=True)
        seen: set[str] = set()
        for index, text in texts_in(texts):
            same = " ".join(text.casefold().split())
            if len(same) < 2 or not any(sign.isalnum() for sign in same):
                source.fault(("phrases", name, index), f"`{text}` is no phrase", "write words, two letters at least")
            elif same in seen:
                message = f"the phrase `{text}` stands twice"
                source.fault(("phrases", name, index), message, "keep one of them", severity="warning")
            seen.add(same)


def _check_tenants(source: Source, document: Mapping[str, Any], bodies: list[tuple[Path, Mapping[str, Any]]]) -> None:
    tenants = mapping_of(document.get("tenants"))
    patterns: list[tuple[Path, str, int]] = [
        (("patterns", at), each, 1) for at, each in texts_in(tenants.get("patterns"))
    ]
    for name, looks in mapping_of(tenants.get("identifiers")).items():
        patterns += [(("identifiers", name, at), each, 0) for at, each in texts_in(looks)]
    for place, pattern, groups_min in patterns:
        problem = pattern_problem(pattern, groups_min)
        if problem is not None:
            message, _, fix = problem.partition("; ")
            source.fault(("tenants", *place), message, fix)
    for index, key in texts_in(tenants.get("keys")):
        if not is_name(key) or not plain_key(key):
            source.fault(("tenants", "keys", index), f"`{key}` is no name of a key", "write one like `tenant_id`")
    if any(tenants.values()):
        return
    for here, body in bodies:
        if mapping_of(body.get("detect")).get(FOREIGN_TENANT) is not None:
            message = "nothing says how other tenants are recognised, so none is"
            source.fault((*here, "detect", FOREIGN_TENANT), message, "add `tenants`", at_key=True, severity="warning")
            return
