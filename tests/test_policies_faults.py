"""Documents that are refused: the cases of `tests/corpus/faults.yaml`, and what no readable file can hold."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluicegate.policies.faults import Fault, PolicyFaults, nearest
from sluicegate.policies.load import parse_bundle, parse_documents

CORPUS = Path(__file__).parent / "corpus"
CASES = yaml.safe_load((CORPUS / "faults.yaml").read_text())["cases"]


def _faults(files: dict[str, str]) -> tuple[Fault, ...]:
    try:
        return parse_bundle(files).warnings
    except PolicyFaults as refused:
        return refused.faults


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES])
def test_every_fault_is_named_with_its_place_and_what_to_do(case: dict[str, Any]) -> None:
    """All faults of all files come at once: file, line, column, severity, message, and the way out."""
    assert [str(fault) for fault in _faults(case["files"])] == case["faults"]


def test_a_fault_shows_the_text_that_stands_there() -> None:
    """`text` is the source text at the fault, so that a page can underline it."""
    (fault,) = _faults({"a.yaml": 'rules:\n  - match: { topics: ["*"] }\n    decision: alow\n'})
    assert (fault.file, fault.line, fault.column, fault.text) == ("a.yaml", 3, 15, "alow")


def test_warnings_do_not_refuse_a_bundle() -> None:
    """A bundle with warnings alone compiles and carries them."""
    text = 'rules:\n  - match: { topics: ["*"] }\n    decision: deny\n    constraints: { read_only: true }\n'
    assert [fault.severity for fault in parse_bundle({"a.yaml": text}).warnings] == ["warning"]


def test_documents_from_the_log_are_checked_as_strictly() -> None:
    """A snapshot that no file could have made is refused; its faults have no position."""
    with pytest.raises(PolicyFaults) as refused:
        parse_documents({"a.yaml": {"rules": [{"match": {"topic": ["*"]}, "decision": "alow"}]}, "b.yaml": ["x"]})
    messages = [(fault.file, fault.line, fault.message) for fault in refused.value.faults]
    assert ("a.yaml", 0, "unknown key `topic`") in messages
    assert ("a.yaml", 0, "`alow` is not known here") in messages
    assert ("b.yaml", 0, "a document is a mapping of keys") in messages


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{" * 100_000, "a: " * 50_000, "\x00", "\ud800", "a: '\\", "- " * 5_000, "&a " * 100, "? " * 5_000],
)
@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_hostile_text_is_a_fault_and_no_crash(text: str, name: str) -> None:
    """Whatever the bytes, the answer is a list of faults."""
    assert any(fault.severity == "error" for fault in _faults({name: text}))


def test_broken_copies_of_good_documents_are_faults_or_bundles() -> None:
    """800 documents with characters cut out, doubled or swapped: none ends in anything but a bundle or faults."""
    chance = random.Random(7)
    originals = [path.read_text() for path in sorted((CORPUS / "article").iterdir())]
    for _ in range(800):
        text = chance.choice(originals)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(text))
            cut = chance.choice([0, 1, 5])
            text = (
                text[:at]
                + chance.choice(["", "&a ", "*a", "!!x ", "[", "}", ": ", "no", "\t", '"', "9" * 30])
                + text[at + cut :]
            )
        _faults({chance.choice(["a.yaml", "bundle.yaml", "actions.yaml", "a.json"]): text})


def test_an_unknown_name_gets_the_nearest_known_one() -> None:
    """Case does not matter for the likeness; a name like no other gets none."""
    assert nearest("DENNY", ["allow", "deny"]) == "deny"
    assert nearest("zzz", ["allow", "deny"]) is None
