"""What holds of every difference: nothing is left out, swapping mirrors it, and no widening goes unmarked."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from random_bundles import Case, case_of, random_case, random_intent, random_rule, subject_of_intent

from sluicegate.policies.constraints import ConstraintType, is_tighter_or_equal
from sluicegate.policies.difference import LINES_MAX, WIDER, difference
from sluicegate.policies.evaluate import RANKS, Judgement
from sluicegate.policies.faults import PolicyFaults
from sluicegate.policies.load import Bundle, parse_bundle, parse_documents, read_folder

BUNDLES = Path(__file__).parents[1] / "policies" / "bundles"
ARTICLE = Path(__file__).parent / "corpus" / "article"
FOLDERS = [*sorted(path for path in BUNDLES.iterdir() if path.is_dir()), ARTICLE]


def _spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for step in value if isinstance(value, dict) else range(len(value)):
            yield from _spots(value[step], (*path, step))


def _mutated(value: Any, chance: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + chance.choice([1, -1, 0.5])
    if isinstance(value, list):
        return chance.choice([value[:-1], value[1:], value[::-1], [*value, *value[:1]], [*value, "added"]])
    words = ["allow", "deny", "require_approval", "observe", "ask", "safe", "v9", "x.y", f"{value}x"]
    return chance.choice(words) if isinstance(value, str) else None


def _edit(documents: dict[str, Any], chance: random.Random) -> tuple[dict[str, Any], tuple[Any, ...]]:
    edited = copy.deepcopy(documents)
    path = chance.choice([spot for spot in _spots(edited) if spot])
    here: Any = edited
    for step in path[:-1]:
        here = here[step]
    if chance.random() < 0.4:
        del here[path[-1]]
    else:
        here[path[-1]] = _mutated(here[path[-1]], chance)
    return edited, path


def _names(documents: dict[str, Any], path: tuple[Any, ...]) -> set[str]:
    """What a line must name of a path, one of these: the rule, agent, person or action it is in, else a key or file."""
    here: Any = documents
    named: set[str] = set()
    for at, step in enumerate(path):
        here = here[step]
        if isinstance(here, dict) and "match" in here and "decision" in here:
            owner = Path(path[0]).stem if path[at - 1] == "rules" and at == 2 else path[at - 2]
            named = {here.get("id", f"{owner}/{step}")}
        elif isinstance(here, dict) and isinstance(here.get("id"), str):
            named = {here["id"]}
        elif isinstance(step, int) and isinstance(here, dict) and isinstance(here.get("topics"), list):
            named = {here["topics"][0]}
    beneath = {step for spot in _spots(here) for step in spot if isinstance(step, str)}
    entries = (
        {item["id"] for item in here if isinstance(item, dict) and "id" in item} if isinstance(here, list) else set()
    )
    return named or {
        path[0],
        Path(path[0]).stem,
        *(step for step in path[1:] if isinstance(step, str)),
        *beneath,
        *entries,
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_every_random_edit_of_a_shipped_bundle_is_named(folder: Path) -> None:
    """150 edits anywhere in the documents, of those that the product accepts each gives a line that names the place."""
    chance = random.Random(folder.name)
    before = parse_bundle(read_folder(folder))
    accepted = 0
    for _ in range(150):
        edited, path = _edit(dict(before.documents), chance)
        try:
            after = parse_documents(edited)
        except PolicyFaults:
            continue
        lines = difference(before, after)
        if after.snapshot_digest == before.snapshot_digest:
            assert lines == ()
            continue
        named = _names(dict(before.documents), path)
        assert any(name in line for line in lines for name in named), (path, lines)
        assert lines == difference(before, after)
        accepted += 1
    assert accepted > 15


def _came_and_went(lines: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """What lines say is new and what is gone, by name, without what they say of it."""
    came: list[str] = []
    went: list[str] = []
    for line in lines:
        plain = line.removeprefix(WIDER)
        if found := re.match(r"(.*: )new rule (`[^`]*`):", plain):
            came.append(found[1] + found[2])
        elif found := re.match(r"((?:layer|level) `[^`]*`: )rule (`[^`]*`) is gone:", plain):
            went.append(found[1] + found[2])
        elif ": rule `" in plain:
            continue  # a field of a rule that stayed; one without an id is called by its place afterwards
        elif " is new" in plain:
            came.append(plain.split(" is new")[0])
        elif " is gone" in plain:
            went.append(plain.split(" is gone")[0])
    return sorted(came), sorted(went)


def _as_written(bundle: Bundle) -> Bundle:
    return parse_documents(dict(bundle.documents))


def test_swapping_the_bundles_swaps_what_came_and_what_went() -> None:
    """60 random pairs and the shipped bundles: what is added one way is removed the other way."""
    chance = random.Random(5)
    shipped = [parse_bundle(read_folder(folder)) for folder in FOLDERS]
    pairs = [(one, other) for one in shipped for other in shipped]
    pairs += [(random_case(chance).bundle, random_case(chance).bundle) for _ in range(60)]
    for before, after in pairs:
        forth, back = difference(before, _as_written(after)), difference(after, before)
        assert len(forth) == len(back)
        if len(forth) <= LINES_MAX:
            assert _came_and_went(forth) == _came_and_went(back)[::-1], (forth, back)


def _wider(after: Judgement, before: Judgement, types: Mapping[str, ConstraintType]) -> bool:
    """Whether less is held: a milder decision, or as mild a one with looser constraints."""
    ours, theirs = RANKS[after.decision], RANKS[before.decision]
    if ours != theirs:
        return ours < theirs
    if after.decision != "ALLOW_WITH_CONSTRAINTS":
        return False  # with whom it waits, and under which ceiling, lines about the rule itself say
    names = set(before.constraints)
    kept = {name: after.constraints[name] for name in names & set(after.constraints)}
    return set(kept) != names or is_tighter_or_equal(kept, before.constraints, types) != []


def _random_change(case: Case, chance: random.Random) -> Case:
    """One to three edits of rules, levels, modes or settings."""
    documents = copy.deepcopy(case.documents)
    for _ in range(chance.randint(1, 3)):
        name = chance.choice([each for each in documents if each not in ("actions.yaml", "bundle.yaml")])
        body = documents[name]
        if chance.random() < 0.15:
            body["mode"] = chance.choice(["enforce", "observe"])
            continue
        if chance.random() < 0.15:
            documents.setdefault("bundle.yaml", {})["default"] = chance.choice(["require_approval", "deny", "allow"])
            continue
        rules = body["rules"] if "rules" in body else chance.choice(list(body["autonomy_levels"].values()))["rules"]
        at = chance.randrange(len(rules))
        match chance.randrange(5):
            case 0 if len(rules) > 1:
                del rules[at]
            case 1:
                rules.insert(at, random_rule(chance))
            case 2:
                rules.insert(0, rules.pop(at))
            case 3:
                rules[at] = {**rules[at], "match": random_rule(chance)["match"]}
            case _:
                rules[at] = {
                    **random_rule(chance),
                    **{key: rules[at][key] for key in ("id", "match") if key in rules[at]},
                }
    return case_of(documents)


def test_nothing_is_permitted_that_no_line_warned_of() -> None:
    """300 random changes, 60 intents each: where one is judged more mildly than before, some line is marked."""
    _check_warnings(seed=6, count=300)


@pytest.mark.campaign
def test_the_campaign_of_warnings() -> None:
    """The same for 10,000 random changes."""
    _check_warnings(seed=7, count=10_000)


def _check_warnings(seed: int, count: int) -> None:
    chance = random.Random(seed)
    widened = unmarked = marked = 0
    for _ in range(count):
        before = random_case(chance)
        after = _random_change(before, chance)
        lines = difference(before.bundle, after.bundle)
        warned = any(line.startswith(WIDER) for line in lines)
        marked += warned
        unmarked += bool(lines) and not warned
        for _ in range(60):
            subject = subject_of_intent(random_intent(chance))
            was, becomes = before.policy.judge(subject), after.policy.judge(subject)
            if _wider(becomes, was, after.bundle.constraint_types):
                widened += 1
                assert warned, (before.documents, after.documents, subject, was, becomes, lines)
    assert widened > count
    assert unmarked > count / 10
    assert marked > count / 10
