"""The cases of `tests/corpus/review-*.yaml`, one test each; a policy author can read and add to them.

A file holds one book, or several under ``books``. A book may have ``files`` (its own bundle; without one the shipped
output-policy.yaml holds), ``tenant``, ``topic`` and ``audience``; a case may have its own. What comes in is
``document``, or ``text``, or ``hex``; what must come out stands in the head of `review-customer.yaml`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.load import parse_bundle
from sluicegate.policies.output_policy import audience_of
from sluicegate.policies.review import Review, review
from sluicegate.schemas.payload import parse_strict

CORPUS = Path(__file__).parent / "corpus"
CASES_MIN = 120
"""How many cases the corpus holds at least."""
ACTIONS = {"replaced": "replaced with [REDACTED]", "removed": "field removed", "held": "held"}
GIVEN = {"name", "topic", "audience", "tenant", "document", "text", "hex"}
EXPECTED = {"decision", "rule", "details", "leaves", "released", "classes"}
ANY = {"any.yaml": 'rules: [{ match: { topics: ["*"] }, decision: deny }]\n'}


def _books() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(CORPUS.glob("review-*.yaml")):
        text = yaml.safe_load(path.read_text())
        for book in text.get("books", [text]):
            yield f"{path.stem}: {book['name']}" if "name" in book else path.stem, book


def _cases() -> list[Any]:
    cases = []
    for title, book in _books():
        policy = compile_bundle(parse_bundle(book.get("files", ANY)))
        shared = {key: book[key] for key in ("tenant", "topic", "audience") if key in book}
        cases += [pytest.param(policy, {**shared, **case}, id=f"{title}: {case['name']}") for case in book["cases"]]
    return cases


def _content(case: dict[str, Any]) -> bytes:
    if "hex" in case:
        return bytes.fromhex(case["hex"])
    return (case["text"] if "text" in case else json.dumps(case["document"])).encode()


def reviewed(policy: CompiledPolicy, case: dict[str, Any]) -> Review:
    """What review says of a case's output."""
    return review(
        _content(case),
        topic=case.get("topic", "job.support.reply"),
        audience=audience_of(case.get("audience")),
        tenant=case.get("tenant"),
        policy=policy.output_policy,
    )


@pytest.mark.parametrize(("policy", "case"), _cases())
def test_a_case_of_the_corpus_is_reviewed_as_it_says(policy: CompiledPolicy, case: dict[str, Any]) -> None:
    """A case gives the decision, every detail in order, what leaves, and where it matters rule, classes, release."""
    assert set(case) <= GIVEN | EXPECTED
    said = reviewed(policy, case)
    details = [(detail.field, detail.reason, detail.action) for detail in said.details]
    assert said.decision == case["decision"]
    assert details == [(field, reason, ACTIONS[action]) for field, reason, action in case.get("details", [])]
    if "leaves" not in case:
        assert (said.decision, said.document) == ("QUARANTINE", None)
    elif case["leaves"] == "same":
        assert said.document == _content(case)
    else:
        assert said.document is not None
        assert parse_strict(said.document) == case["leaves"]
    if "released" in case:
        assert said.redacted is not None
        assert parse_strict(said.redacted) == case["released"]
    assert said.rule == case.get("rule", said.rule)
    assert list(said.classes) == case.get("classes", list(said.classes))


@pytest.mark.parametrize(("policy", "case"), _cases())
def test_what_review_lets_out_it_lets_out_again(policy: CompiledPolicy, case: dict[str, Any]) -> None:
    """What leaves, and what a person may release redacted, is clean by the same rule: a second review finds nothing."""
    said = reviewed(policy, case)
    for content in {said.document, said.redacted} - {None}:
        assert content is not None
        again = reviewed(policy, {**case, "text": content.decode(), "hex": content.hex()})
        assert (again.details, again.redacted) == ((), content) or again.details[0].field == "$"
        assert again.redacted == content


def test_the_articles_result_comes_out_of_review() -> None:
    """The article's output gives the five keys of its output-safety-result.json, to the letter."""
    expected = json.loads((CORPUS / "article" / "output-safety-result.json").read_text())
    case = yaml.safe_load((CORPUS / "review-article.yaml").read_text())["cases"][0]
    said = reviewed(compile_bundle(parse_bundle(ANY)), case)
    details = [
        {"field": detail.field, "reason": detail.reason, "action": detail.action} for detail in said.redacted_details
    ]
    assert {
        "job_id": expected["job_id"],
        "output_safety_decision": said.decision,
        "original_fields_redacted": len(said.details),
        "redaction_details": details,
        "policy_snapshot": expected["policy_snapshot"],
    } == expected


def test_the_review_corpus_is_as_large_as_it_says() -> None:
    """No two cases of a book have one name."""
    names = [(title, case["name"]) for title, book in _books() for case in book["cases"]]
    assert len(set(names)) == len(names) >= CASES_MIN
