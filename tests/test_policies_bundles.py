"""The bundles that are shipped: they load without a word, say what their cases expect, and have no idle rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluicegate.policies.cases import Case, read_cases, run_case
from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.explain import explain
from sluicegate.policies.load import Bundle, parse_bundle, read_folder

BUNDLES = Path(__file__).parents[1] / "policies" / "bundles"
NAMES = ("demo", "finance", "graduated", "observe", "support")


def _bundle(name: str) -> Bundle:
    return parse_bundle(read_folder(BUNDLES / name))


def _cases(name: str) -> tuple[Case, ...]:
    return read_cases(read_folder(BUNDLES / name / "cases"))


def _all_cases() -> list[object]:
    found: list[object] = []
    for name in NAMES:
        bundle = _bundle(name)
        policy = compile_bundle(bundle)
        found += [pytest.param(bundle, policy, case, id=f"{name}: {case.name}") for case in _cases(name)]
    return found


def _rules_of(bundle: Bundle) -> set[str]:
    rules = {
        f"{layer}/{rule.id or f'{layer}/{index}'}"
        for layer, placed in bundle.layers.items()
        for index, rule in enumerate(placed.document.rules)
    }
    levels = bundle.autonomy.document.autonomy_levels if bundle.autonomy is not None else {}
    rules |= {
        f"autonomy/{rule.id or f'{name}/{index}'}"
        for name, level in levels.items()
        for index, rule in enumerate(level.rules)
    }
    return rules


def test_the_shipped_bundles_are_the_ones_tested_here() -> None:
    """A bundle that is added is tested, too."""
    assert tuple(sorted(path.name for path in BUNDLES.iterdir() if path.is_dir())) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_bundle_loads_without_a_word(name: str) -> None:
    """No error and no warning."""
    assert _bundle(name).warnings == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_bundle_says_who_changes_which_file(name: str) -> None:
    """Each file of the folder stands in its README."""
    readme = (BUNDLES / name / "README.md").read_text()
    assert [file for file in read_folder(BUNDLES / name) if f"`{file}`" not in readme] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_people_and_queues_that_a_shipped_bundle_names_are_there(name: str) -> None:
    """Owners and signers are people; every `route` is a queue; every role somebody's."""
    bundle = _bundle(name)
    people = {person.id for person in bundle.reviewers.people}
    roles = {role for person in bundle.reviewers.people for role in person.roles}
    for agent in bundle.agents.agents:
        assert agent.owner in people
        assert agent.initial_level is None or agent.initial_level.signer in people
    for layer in bundle.layers.values():
        assert {rule.route for rule in layer.document.rules if rule.route} <= set(bundle.reviewers.queues)
    assert set(bundle.settings.sign_off.roles if bundle.settings.sign_off else ()) <= roles
    assert bundle.settings.break_glass is None or bundle.settings.break_glass.role in roles


@pytest.mark.parametrize(("bundle", "policy", "case"), _all_cases())
def test_a_shipped_bundle_says_what_its_cases_expect(bundle: Bundle, policy: CompiledPolicy, case: Case) -> None:
    """The cases beside a bundle hold."""
    assert run_case(bundle, policy, case) is None


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_of_a_shipped_bundle_decides_some_case(name: str) -> None:
    """A rule that no case shows deciding, acting or observed, is a rule that nobody has seen work."""
    bundle = _bundle(name)
    policy = compile_bundle(bundle)
    decided: set[str] = set()
    for case in _cases(name):
        said = explain(bundle, policy, case.intent, case.facts, case.level)
        for each in (said, said.observed):
            decided |= {f"{rule.layer}/{rule.id}" for rule in each.rules} if each is not None else set()
    assert _rules_of(bundle) - decided == set()
