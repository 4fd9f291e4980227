"""A second evaluator, written from the rules and from none of `sluicegate.policies`: slow, short and obvious.

It reads the plain documents of a bundle, compiles nothing and remembers nothing. Where it and the product disagree,
one of them has misread the rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final

STRICTNESS: Final = ["ALLOW", "ALLOW_WITH_CONSTRAINTS", "REQUIRE_APPROVAL", "DENY"]
HOLDS, FAILS, OPEN = "holds", "fails", "open"
SMALLEST: Final = "max_runtime_sec max_amount_usd max_affected_rows max_affected_users max_output_bytes"
BUILT_IN: Final = {
    **dict.fromkeys(SMALLEST.split(), "min"),
    **dict.fromkeys(["network_allowlist", "path_allowlist"], "intersection"),
    **dict.fromkeys(["read_only", "dry_run"], "or"),
}
MERGES: Final[dict[str, Any]] = {"min": min, "max": max, "or": any, "and": all}
MERGES.update(intersection=lambda lists: frozenset.intersection(*lists), union=lambda lists: frozenset.union(*lists))


@dataclass(frozen=True)
class Answer:
    """What a bundle says of an intent. ``rules`` are (layer, id); lists among the constraints are sets."""

    decision: str
    rules: frozenset[tuple[str, str]]
    constraints: dict[str, Any]
    missing: frozenset[str]
    observed: Answer | None = None


@dataclass(frozen=True)
class Voice:
    """A rule that is heard, surely or because a fact is absent; where it is not ``named`` only its constraints are."""

    layer: str
    id: str
    decision: str
    constraints: Mapping[str, Any]
    named: bool = True


def globbed(pattern: str, text: str) -> bool:
    """Whether the pattern describes the whole text, by keeping every place in it that may have been reached."""
    places = {0}
    for char in pattern:
        if char == "*":
            places = {place for place in range(len(text) + 1) if any(earlier <= place for earlier in places)}
        else:
            places = {place + 1 for place in places if text[place : place + 1] == char}
    return len(text) in places


def tested(value: Any, key: str, wanted: Any) -> str:
    """How one question about a declared fact ends."""
    if isinstance(wanted, bool):
        return OPEN if not isinstance(value, bool) else HOLDS if value == wanted else FAILS
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return OPEN
    if isinstance(value, float) and not math.isfinite(value):
        return OPEN
    return HOLDS if (value > wanted if key.endswith("_above") else value < wanted) else FAILS


def matched(match: Mapping[str, Any], intent: Mapping[str, Any]) -> tuple[str, set[str]]:
    """How a rule's match ends, and the absent facts that leave it open."""
    tags, absent = set(intent["tags"]), set()
    for key, wanted in match.items():
        if key == "topics":
            outcome = HOLDS if any(globbed(pattern, intent["topic"]) for pattern in wanted) else FAILS
        elif key == "risk_tags":
            outcome = HOLDS if tags & set(wanted) else FAILS
        elif key == "risk_tags_all":
            outcome = HOLDS if set(wanted) <= tags else FAILS
        elif key == "risk_tags_only":
            outcome = HOLDS if tags <= set(wanted) else FAILS
        else:
            name = key if isinstance(wanted, bool) else key.rpartition("_")[0]
            outcome = tested(intent["facts"][name], key, wanted) if name in intent["facts"] else FAILS
            absent |= {name} if outcome == OPEN else set()
        if outcome == FAILS:
            return FAILS, set()
    return (OPEN if absent else HOLDS), absent


def heard(layer: str, level: str, rules: Sequence[Any], intent: Any, usual: Any) -> tuple[list[Voice], bool, set[str]]:
    """What a layer says, whether it decides (or else abstains), and the absent facts that left a rule of it open."""
    sure, opened, missing = None, [], set()
    for index, rule in enumerate(rules):
        outcome, absent = matched(rule["match"], intent)
        decision = rule["decision"].upper()
        constraints = rule.get("constraints") or (usual if decision == "ALLOW_WITH_CONSTRAINTS" else {})
        voice = Voice(layer, rule.get("id") or f"{level}/{index}", decision, constraints)
        if outcome == OPEN:
            missing |= absent
            opened.append(voice)
        elif outcome == HOLDS:
            sure = voice
            break
    floor = STRICTNESS.index(sure.decision) if sure else -1
    adding = [voice for voice in opened if voice.decision == "ALLOW_WITH_CONSTRAINTS"]
    asking = [voice for voice in opened if voice.decision in {"REQUIRE_APPROVAL", "DENY"}]
    counting = [voice for voice in asking if STRICTNESS.index(voice.decision) > floor]
    silent = [replace(voice, named=False) for voice in asking if STRICTNESS.index(voice.decision) == floor]
    return [*([sure] if sure else []), *adding, *counting, *silent], bool(sure or counting), missing


def settled(bundle: Mapping[str, Any], layers: Mapping[str, Any], intent: Mapping[str, Any]) -> Answer:
    """The strictest word of these layers, the default where all abstain, and the constraints of all of them."""
    usual = bundle.get("default_constraints", {})
    said = [heard(layer, level, rules, intent, usual) for layer, (level, rules) in layers.items()]
    voices = [voice for words, _, _ in said for voice in words]
    if not any(decides for _, decides, _ in said):
        default = bundle.get("default", "require_approval").upper()
        voices.append(Voice("default", "default", default, usual if default == "ALLOW_WITH_CONSTRAINTS" else {}))
    decision = max((voice.decision for voice in voices), key=STRICTNESS.index)
    rules = frozenset((voice.layer, voice.id) for voice in voices if voice.named and voice.decision == decision)
    merges = BUILT_IN | {name: each["merge"] for name, each in bundle.get("constraint_types", {}).items()}
    parts: dict[str, list[Any]] = {}
    for voice in voices if decision != "DENY" else []:
        for name, value in voice.constraints.items():
            parts.setdefault(name, []).append(frozenset(value) if isinstance(value, list) else value)
    constraints = {name: MERGES[merges[name]](values) for name, values in parts.items()}
    return Answer(decision, rules, constraints, frozenset(name for _, _, absent in said for name in absent))


def judge(documents: Mapping[str, Any], intent: Mapping[str, Any]) -> Answer:
    """The answer to an intent: a mapping of ``topic``, ``tags``, ``facts``, ``level`` and ``agent_class``."""
    by_stem = {PurePosixPath(file).stem: document for file, document in documents.items()}
    bundle = by_stem.get("bundle", {})
    layers = {stem: (stem, document["rules"]) for stem, document in by_stem.items() if "rules" in document}
    watched = {stem for stem in layers if by_stem[stem].get("mode") == "observe"}
    for document in by_stem.values():
        if "autonomy_levels" in document:
            level = f"level_{intent['level']}"
            unknown = {"rules": [{"id": level, "match": {}, "decision": "require_approval"}]}
            layers["autonomy"] = (level, document["autonomy_levels"].get(level, unknown)["rules"])
            if document.get("mode") == "observe":
                watched.add("autonomy")
    everything = settled(bundle, layers, intent)
    if "observe" in {bundle.get("mode"), bundle.get("classes", {}).get(intent["agent_class"], {}).get("mode")}:
        return Answer("ALLOW", frozenset({("mode", "observe")}), {}, everything.missing, everything)
    acting = {stem: layers[stem] for stem in layers if stem not in watched}
    return replace(settled(bundle, acting, intent), observed=everything) if watched else everything
