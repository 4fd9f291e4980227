"""Each comparison, `any`, `all`, `and` and `or` of the evaluator turned once: every mutant dies, or is listed.

The list is `mutants_equivalent.yaml`: what a mutant that no test can tell apart is, and why nothing could.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from mutation import BASELINE, BROKEN, KILLED, SURVIVED, TIMED_OUT, Mutant, mutants_of, task_of

TESTS: Final = Path(__file__).parent
POLICIES: Final = TESTS.parent / "policies"
PACKAGE: Final = "sluicegate.policies"
FILES: Final = (
    *("evaluate.py", "patterns.py", "constraints.py", "facts.py", "compile.py"),
    *("subject.py", "paths.py", "windows.py", "actions.py", "matching.py"),
)
NO_PART_OF_JUDGING: Final = {
    *("CompiledPolicy.__init__", "CompiledPolicy.levels", "CompiledPolicy._facts_asked", "_own_rule"),
    *("key_problem", "_range_problem", "fact_name_problem", "empty_range", "_vocabulary", "_begins_with", "is_known"),
    *("pattern_problem", "path_problem", "window_problem", "schema_problem", "finished_subject"),
}
"""Functions of these files that only find faults of documents, answer questions about them or serve audits: other
tests' subject."""
JUDGES: Final = (
    *("test_policies_evaluate.py", "test_policies_constraints.py", "test_proof_parts.py"),
    *("test_proof_second_evaluator.py", "test_policies_corpus.py", "test_policies_faults.py"),
    *("test_proof_properties.py", "test_policies_properties.py"),
)
"""The tests that a mutant must get past, the quickest first."""
PRELOAD: Final = (
    *("pytest", "_pytest.assertion", "_pytest.assertion.rewrite", "pydantic", "yaml", "rfc8785", "msgspec"),
    *("re2", "sluicegate.schemas.records", "sluicegate.schemas.events"),
)
PROCESSES: Final = 2
TIMEOUT_SEC: Final = 120.0
SAMPLE: Final = 16
"""How many mutants the short form tries: half a minute on two idle cores, of which the unchanged code takes most."""
EQUIVALENT: Final[list[dict[str, str]]] = yaml.safe_load((TESTS / "mutants_equivalent.yaml").read_text())["equivalent"]


def _all_mutants() -> list[Mutant]:
    found = [mutant for file in FILES for mutant in mutants_of(file, (POLICIES / file).read_text())]
    return [mutant for mutant in found if mutant.function not in NO_PART_OF_JUDGING]


def _key(entry: dict[str, str]) -> tuple[str, str, str, str]:
    return entry["file"], entry["function"], entry["text"], entry["change"]


LISTED: Final = {_key(entry) for entry in EQUIVALENT}


def _outcomes(mutants: Sequence[Mutant]) -> list[str]:
    """How each mutant ended, tried by two processes side by side."""

    def run(part: Sequence[Mutant]) -> list[str]:
        paths = [str(TESTS / name) for name in JUDGES]
        said = subprocess.run(
            [sys.executable, TESTS / "mutation.py"],
            input=task_of(PACKAGE, PRELOAD, paths, TIMEOUT_SEC, part),
            cwd=TESTS.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 0, said.stderr
        return [json.loads(line)[1] for line in said.stdout.splitlines()]

    with ThreadPoolExecutor(PROCESSES) as pool:
        parts = list(pool.map(run, [mutants[number::PROCESSES] for number in range(PROCESSES)]))
    return [parts[index % PROCESSES][index // PROCESSES] for index in range(len(mutants))]


def assert_dead(mutants: Sequence[Mutant]) -> Counter[str]:
    """Try mutants; none may survive that is not listed. The figures."""
    nothing = Mutant(BASELINE, "", "", "", "")
    outcome, *outcomes = _outcomes([nothing, *mutants])
    assert outcome == SURVIVED, "the tests fail without any mutation"
    by_outcome: dict[str, list[Any]] = {word: [] for word in (KILLED, SURVIVED, TIMED_OUT, BROKEN)}
    for mutant, word in zip(mutants, outcomes, strict=True):
        by_outcome[word].append(mutant.key)
    assert by_outcome[BROKEN] == []
    assert by_outcome[SURVIVED] == []
    return Counter(outcomes)


def test_every_listed_mutant_exists_and_says_why_nothing_can_tell() -> None:
    """The list holds what is there now: an entry whose code has changed is taken out or written anew."""
    existing = {mutant.key for mutant in _all_mutants()}
    assert sorted(LISTED - existing) == []
    assert len(LISTED) == len(EQUIVALENT)
    assert [entry for entry in EQUIVALENT if len(entry["reason"]) < 20] == []


def test_a_sample_of_mutants_dies() -> None:
    """A seeded sample; the long form tries all of them."""
    candidates = [mutant for mutant in _all_mutants() if mutant.key not in LISTED]
    assert_dead(random.Random(84).sample(candidates, SAMPLE))


@pytest.mark.campaign
def test_every_mutant_dies_or_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """The long form: all that are not listed are killed, and all that are listed do survive."""
    mutants = _all_mutants()
    figures = assert_dead([mutant for mutant in mutants if mutant.key not in LISTED])
    listed = [mutant for mutant in mutants if mutant.key in LISTED]
    caught = [mutant.key for mutant, word in zip(listed, _outcomes(listed), strict=True) if word != SURVIVED]
    assert caught == [], "listed as equivalent, yet a test tells them apart"
    with capsys.disabled():
        sys.stdout.write(f"\n{len(mutants)} mutants: {dict(figures)}, {len(listed)} equivalent\n")
