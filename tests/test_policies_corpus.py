"""The cases of `tests/corpus/judge-*.yaml`, one test each; a policy author can read and add to them.

A file holds one book, or several under ``books``. A book takes the texts of folders (``bundle``: all, ``from``: some),
writes its own under ``files``, or both. A case has ``topic`` and, where they matter, ``risk_tags``, ``payload``,
``confidence``, ``agent``, ``level``, and ``facts``, which stand over all others; null is declared and absent.
``before`` are intents of the same agent some ``minutes`` ago, ``times`` over, which the windows remember. Then follows
what must come out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.evaluate import Judgement
from sluicegate.policies.load import parse_bundle, read_folder
from sluicegate.policies.subject import declared_facts, own_share, subject_of
from sluicegate.policies.windows import COUNT, add, sum_of, value_of

CORPUS = Path(__file__).parent / "corpus"
BUNDLES = Path(__file__).parents[1] / "policies" / "bundles"
CASES_MIN = 200
"""How many cases of our own the corpus holds at least; those of the article come on top."""
GIVEN = {"topic", "risk_tags", "payload", "confidence", "agent", "level", "facts", "before"}
NOW_MS = 1_700_000_000_000
"""When every case happens."""
EXPECTED = {"decision", "rules", "constraints", "missing", "errors", "reason"}
FAULTS_MIN = 100
"""How many refused documents there are at least."""


def _folder(name: str) -> dict[str, str]:
    return read_folder(CORPUS / "article" if name == "article" else BUNDLES / name)


def _files(book: dict[str, Any]) -> dict[str, str]:
    files = dict(_folder(book["bundle"])) if "bundle" in book else {}
    for name, wanted in book.get("from", {}).items():
        files |= {file: text for file, text in _folder(name).items() if file in wanted}
    files.update(book.get("files", {}))
    return files


def _books() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(CORPUS.glob("judge-*.yaml")):
        text = yaml.safe_load(path.read_text())
        for book in text.get("books", [text]):
            yield f"{path.stem}: {book['name']}" if "name" in book else path.stem, book


def _cases() -> list[Any]:
    cases = []
    for title, book in _books():
        policy = compile_bundle(parse_bundle(_files(book)))
        cases += [pytest.param(policy, case, id=f"{title}: {case['name']}") for case in book["cases"]]
    return cases


def _windows(policy: CompiledPolicy, case: dict[str, Any]) -> dict[str, float | None]:
    """The windows over the earlier intents and this one, kept per entry of actions.yaml as the gate keeps them."""
    found: dict[str, float | None] = {}
    this = {"topic": case["topic"], "payload": case.get("payload", {}), "minutes": 0}
    for window in policy.windows:
        group = policy.action(case["topic"]).groups.get(window.fact)
        slices: dict[int, int] = {}
        share: int | None = None
        for earlier in sorted([*case["before"], this], key=lambda each: -each["minutes"]):
            action = policy.action(earlier["topic"])
            facts = declared_facts(action, earlier.get("payload", {}))
            share = own_share(window.fact, facts)
            if share is not None and action.groups.get(window.fact) == group:
                for _ in range(earlier.get("times", 1)):
                    slices = add(slices, window, NOW_MS - earlier["minutes"] * 60_000, share)
        if window.fact == COUNT or window.fact in policy.action(case["topic"]).facts:
            found[window.name] = None if share is None else value_of(sum_of(slices, window, NOW_MS))
    return found


@pytest.mark.parametrize(("policy", "case"), _cases())
def test_a_case_of_the_corpus_is_judged_as_it_says(policy: CompiledPolicy, case: dict[str, Any]) -> None:
    """A case gives decision, determining rules, constraints, missing facts, and, where it matters, more."""
    assert set(case) <= {"name", "observed"} | GIVEN | EXPECTED
    subject = subject_of(
        policy,
        topic=case["topic"],
        agent_id=case.get("agent", "someone"),
        risk_tags=case.get("risk_tags", []),
        payload=case.get("payload", {}),
        confidence=case.get("confidence"),
        level=case.get("level"),
        computed=_windows(policy, case) if "before" in case else None,
        given=case.get("facts"),
    )
    judgement = policy.judge(subject)
    _compare(judgement, case)
    if case.get("observed") is None:
        assert judgement.observed is None
    else:
        assert judgement.observed is not None
        assert set(case["observed"]) <= EXPECTED
        _compare(judgement.observed, case["observed"])


def _compare(judgement: Judgement, expected: dict[str, Any]) -> None:
    assert judgement.decision == expected["decision"]
    assert [f"{rule.layer}/{rule.id}" for rule in judgement.rules] == expected["rules"]
    assert judgement.constraints == expected.get("constraints", {})
    assert list(judgement.missing) == expected.get("missing", [])
    assert [f"{error.layer}/{error.id}: {error.error}" for error in judgement.errors] == expected.get("errors", [])
    assert judgement.reason == expected.get("reason", judgement.reason)
    assert all(rule.decision == judgement.decision for rule in judgement.rules)


def test_the_corpus_is_as_large_as_it_says() -> None:
    """At least 200 cases are ours, beside those of the article; no two cases of a file have one name."""
    names = [(title, case["name"]) for title, book in _books() for case in book["cases"]]
    assert len(set(names)) == len(names)
    assert sum(not title.startswith("judge-article") for title, _ in names) >= CASES_MIN


def test_the_faults_are_as_many_as_they_say() -> None:
    """The refused documents of `tests/corpus/faults.yaml` have names of their own, too."""
    names = [case["name"] for case in yaml.safe_load((CORPUS / "faults.yaml").read_text())["cases"]]
    assert len(set(names)) == len(names) >= FAULTS_MIN
