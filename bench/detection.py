"""Recall and precision per class, on clean documents and on such with one value planted in each."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sluicegate.bench.clean_documents import clean_documents
from sluicegate.bench.dirty_documents import VALUES, dirty_document, replaced, survives
from sluicegate.policies.detectors import Detectors
from sluicegate.policies.scan import scan


@dataclass
class ClassFigures:
    """Of one class: values planted, found, and still readable once findings are replaced; findings nobody planted."""

    klass: str
    planted: int = 0
    found: int = 0
    readable: int = 0
    false_clean: int = 0
    """Clean documents in which it was found."""
    false_beside: int = 0
    """Documents in which it was found and a value of another class was planted."""

    @property
    def recall(self) -> float:
        """The share of the planted that was found."""
        return self.found / self.planted

    @property
    def precision(self) -> float:
        """The share of the documents in which it was found that held one."""
        found = self.found + self.false_clean + self.false_beside
        return self.found / found if found else 0.0


def class_figures(per_class: int = 500, clean: int = 2_000, seed: int = 9) -> list[ClassFigures]:
    """The figures of every class over so many values each, under up to two decodings, and so many clean documents."""
    detectors = Detectors.build()
    rng = random.Random(seed)  # noqa: S311  # the same documents every time
    rows = {klass: ClassFigures(klass) for klass in VALUES}
    for document in clean_documents(clean, seed):
        for klass in {finding.klass for finding in scan(document, detectors).findings} & rows.keys():
            rows[klass].false_clean += 1
    for klass, row in rows.items():
        for _ in range(per_class):
            document, planted = dirty_document(klass, rng)
            seen = scan(document, detectors).findings
            classes = {finding.klass for finding in seen}
            row.planted += 1
            row.found += klass in classes
            row.readable += survives(replaced(document, seen), planted.secret_part)
            for other in classes & rows.keys() - {klass}:
                rows[other].false_beside += 1
    return list(rows.values())
