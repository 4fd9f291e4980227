"""Whole documents: clean ones pass untouched, nothing planted stays readable."""

from __future__ import annotations

import random

import pytest

from sluicegate.bench.clean_documents import clean_documents, documents_of
from sluicegate.bench.detection import class_figures
from sluicegate.bench.dirty_documents import VALUES, dirty_document, replaced, survives
from sluicegate.policies.detectors import Detectors
from sluicegate.policies.scan import Scan, scan

DETECTORS = Detectors.build()


def flagged(count: int, seed: int) -> list[Scan]:
    scans = (scan(document, DETECTORS) for document in clean_documents(count, seed))
    return [each for each in scans if each.findings or each.exceeded]


def test_a_clean_document_is_not_flagged() -> None:
    """UUIDs, hashes, order numbers, prices, dates, versions, ISBNs, offsets and images are nobody's secret."""
    assert flagged(2_000, seed=9) == []


@pytest.mark.campaign
def test_no_clean_document_of_many_is_flagged() -> None:
    """The same over ten times as many."""
    assert flagged(20_000, seed=2026) == []


def test_a_large_clean_document_meets_no_limit() -> None:
    """64 KB of ordinary content stays within every limit of a scan."""
    assert [each for document in documents_of(64_000, 4) if (each := scan(document, DETECTORS)).exceeded] == []


def leaks(klass: str, count: int, seed: int, deepest: int) -> list[str]:
    """What can still be read, or was not found, of so many planted values."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        document, planted = dirty_document(klass, rng, deepest)
        seen = scan(document, DETECTORS)
        after = replaced(document, seen.findings)
        if seen.exceeded is None and (not seen.findings or survives(after, planted.secret_part)):
            found.append(f"{planted.under} {planted.text}")
    return found


@pytest.mark.parametrize("klass", sorted(VALUES))
def test_nothing_planted_stays_readable(klass: str) -> None:
    """A value of each class, in the clear or under up to two decodings, cannot be read once findings are replaced."""
    assert leaks(klass, 60, seed=1, deepest=2) == []


@pytest.mark.campaign
@pytest.mark.parametrize("klass", sorted(VALUES))
def test_nothing_of_much_more_stays_readable(klass: str) -> None:
    """The same over many values and under up to three decodings, or the scan says that it met a limit."""
    assert leaks(klass, 1_000, seed=2, deepest=3) == []


def test_what_was_replaced_is_clean() -> None:
    """A second scan of the replaced document finds nothing that the first did not cover."""
    rng = random.Random(3)
    for klass in VALUES:
        for _ in range(15):
            document, _planted = dirty_document(klass, rng)
            once = replaced(document, scan(document, DETECTORS).findings)
            assert [each.klass for each in scan(once, DETECTORS).findings if each.klass == klass] == []


def test_the_reader_would_see_a_leak() -> None:
    """The proof can fail: in the document as it was, what was planted is readable."""
    rng = random.Random(4)
    blind = 0
    for klass in VALUES:
        for _ in range(20):
            document, planted = dirty_document(klass, rng)
            blind += not survives(document, planted.secret_part)
    assert blind <= 3


def test_the_figures_hold() -> None:
    """Recall and precision per class on the generated set, as the README gives them."""
    for row in class_figures(per_class=40, clean=300):
        assert row.recall >= 0.99, row
        assert row.false_clean == 0, row
        assert row.precision >= 0.95, row
