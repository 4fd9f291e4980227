"""The cases of `tests/corpus/judge-*.yaml`, one test each; a policy author can read and add to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.evaluate import Subject
from sluicegate.policies.load import parse_bundle, read_folder

CORPUS = Path(__file__).parent / "corpus"
FOLDERS = {"article": CORPUS / "article", "demo": Path(__file__).parents[1] / "policies" / "bundles" / "demo"}


def _policy(book: dict[str, Any]) -> CompiledPolicy:
    files = read_folder(FOLDERS[book["bundle"]]) if "bundle" in book else book["files"]
    return compile_bundle(parse_bundle(files))


def _cases() -> list[Any]:
    cases = []
    for path in sorted(CORPUS.glob("judge-*.yaml")):
        book = yaml.safe_load(path.read_text())
        policy = _policy(book)
        cases += [pytest.param(policy, case, id=f"{path.stem}: {case['name']}") for case in book["cases"]]
    return cases


@pytest.mark.parametrize(("policy", "case"), _cases())
def test_a_case_of_the_corpus_is_judged_as_it_says(policy: CompiledPolicy, case: dict[str, Any]) -> None:
    """A case gives decision, determining rules, constraints, missing facts, and, where it matters, the reason."""
    tags = sorted({*case.get("risk_tags", []), *policy.action(case["topic"]).risk_tags})
    judgement = policy.judge(Subject(case["topic"], tuple(tags), "someone", facts=case.get("facts", {})))
    assert judgement.decision == case["decision"]
    assert [f"{rule.layer}/{rule.id}" for rule in judgement.rules] == case["rules"]
    assert judgement.constraints == case.get("constraints", {})
    assert list(judgement.missing) == case.get("missing", [])
    assert judgement.errors == ()
    assert judgement.reason == case.get("reason", judgement.reason)
    assert all(rule.decision == judgement.decision for rule in judgement.rules)
