"""Recall and precision per class: on documents we generate, and on cases that we did not write.

The generated are clean documents and such with one value planted in each; we wrote the values and the detectors, so
what comes out is an upper bound. The others (`foreign_cases`) are the test tables of detect-secrets and
presidio-analyzer, and the example numbers that the package phonenumbers has for each region, where they are there.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sluicegate.bench.clean_documents import clean_documents
from sluicegate.bench.detection_process import PhoneExample, PresidioFound, presidio_finds
from sluicegate.bench.dirty_documents import VALUES, dirty_document, replaced, survives
from sluicegate.bench.figures import Findings, Text
from sluicegate.bench.foreign_cases import CASES_VARIABLE, Case, ForeignCases, counted, folder_named, read_cases
from sluicegate.bench.peer_process import PEERS_VARIABLE
from sluicegate.policies.detectors import Detectors
from sluicegate.policies.scan import scan

NO_CASES: Final = (
    "left out: their tests are in no package, and there is no folder with checkouts of their repositories",
    f"`make peers` fills .peers/cases where GitHub is in reach; {CASES_VARIABLE}=FOLDER names another such folder",
)
NO_PRESIDIO: Final = (
    "left out: presidio and phonenumbers are no dependencies",
    f"`make peers` makes an interpreter with both; then {PEERS_VARIABLE}=.peers/bin/python sluicegate bench detection",
)
SEED: Final = 9
TEXT_CHARS_TOLD: Final = 90

Place = tuple[str, int, int]
"""Of a finding in a text: class, start and end."""


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


@dataclass
class CaseFigures:
    """Of one class in cases of one origin: values that are to be found, found, and found in part; cases with none."""

    name: str
    """The class, and the kind where cases have one."""
    values: int = 0
    found: int = 0
    partly: int = 0
    """Of the found: some letter or digit of the value is not covered, and would be left."""
    clean: int = 0
    false: int = 0
    """Cases, with a value or without, in which the class was found where there is none."""
    missed_texts: list[str] = field(default_factory=list)
    false_texts: list[str] = field(default_factory=list)

    def tell(self) -> str:
        """The row as a line."""
        recall = f"{self.found / self.values:.1%}" if self.values else "none to find"
        right = self.found + self.false
        precision = f"{self.found / right:.1%}" if right else "nothing found"
        return (
            f"{self.name:<29} recall {recall} ({self.found} of {self.values}, {self.partly} in part), precision "
            f"{precision} (false in {self.false}, {self.clean} cases hold none)"
        )


def measure(findings: Findings, *, per_class: int, clean: int) -> None:
    """Both sets; what is not there is said with the command that brings it."""
    folder = folder_named()
    findings.texts.append(_generated(per_class, clean))
    every = read_cases(folder) if folder is not None else []
    interpreter = os.environ.get(PEERS_VARIABLE)
    texts = [case.text for each in every for case in each.cases]
    peer = presidio_finds(interpreter, texts) if interpreter else None
    findings.texts += foreign(every, peer)
    findings.texts.append(Text("phone numbers of all regions", _phones(peer.phones) if peer else list(NO_PRESIDIO)))


def class_figures(per_class: int = 500, clean: int = 2_000, seed: int = SEED) -> list[ClassFigures]:
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


def foreign(every: Sequence[ForeignCases], peer: PresidioFound | None = None) -> list[Text]:
    """The tables over cases of others: how much was understood, each origin's figures, what is missed and false."""
    if not every:
        return [Text("cases of others", list(NO_CASES))]
    told, at = [Text("cases of others, read from their tests, repeats once", counted(every))], 0
    detectors = Detectors.build()
    for each in every:
        ours = [places(case.text, detectors) for case in each.cases]
        rows = case_figures(each.cases, ours)
        told.append(Text(f"found in the cases of {each.name}", [row.tell() for row in rows.values()]))
        if peer is not None:
            theirs = peer.found[at : at + len(each.cases)]
            at += len(each.cases)
            about = f"the same by presidio-analyzer {peer.version} behind our interface"
            told.append(Text(f"{about}, alone", _told(each.cases, theirs)))
            both = [[*mine, *found] for mine, found in zip(ours, theirs, strict=True)]
            told.append(Text(f"{about}, together with ours", _told(each.cases, both)))
        for kind in ("missed", "false"):
            lines = [f"{row.name}: {line}" for row in rows.values() for line in getattr(row, f"{kind}_texts")]
            told.append(Text(f"{kind} in the cases of {each.name}", lines or ["nothing"]))
    return told


def _told(cases: Sequence[Case], found: Sequence[Iterable[Place]]) -> list[str]:
    """The rows of the classes in which anything was found: what presidio is not asked for says nothing of it."""
    return [row.tell() for row in case_figures(cases, found).values() if row.found + row.false]


def places(text: str, detectors: Detectors, key: str = "text") -> list[Place]:
    """Where what stands in a text that is a document's one value."""
    found = scan({key: text}, detectors).findings
    return [
        (each.klass, each.start or 0, len(text) if each.end is None else each.end) for each in found if not each.in_key
    ]


def case_figures(cases: Sequence[Case], found: Sequence[Iterable[Place]]) -> Mapping[str, CaseFigures]:
    """The figures by class; ``found`` are the findings in the text of each case."""
    rows: dict[str, CaseFigures] = {}
    for case, all_found in zip(cases, found, strict=True):
        name = f"{case.klass}, {case.kind}" if case.kind else case.klass
        row = rows.setdefault(name, CaseFigures(name))
        spans = [(start, end) for klass, start, end in all_found if klass == case.klass]
        row.values += case.count
        row.clean += case.count == 0
        right = [each for each in case.spans if any(_overlap(each, span) for span in spans)]
        hits = len(right) if case.spans else min(case.count, len(spans))
        row.found += hits
        row.partly += sum(not _covered(case.text, each, spans) for each in right)
        if hits < case.count:
            row.missed_texts.append(_short(case))
        # Of a value whose place is not known, more than one finding is not told from several in it.
        known = bool(case.spans) or case.count == 0
        if known and any(not any(_overlap(span, each) for each in case.spans) for span in spans):
            row.false += 1
            row.false_texts.append(_short(case))
    return rows


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _covered(text: str, value: tuple[int, int], spans: Iterable[tuple[int, int]]) -> bool:
    """Whether each letter and digit of the value lies in a finding."""
    inside = {at for start, end in spans for at in range(start, end)}
    return all(at in inside for at in range(*value) if text[at].isalnum())


def _short(case: Case) -> str:
    text = case.text if len(case.text) <= TEXT_CHARS_TOLD else f"{case.text[:TEXT_CHARS_TOLD]}..."
    return f"{case.source}: {text!r}"


def _generated(per_class: int, clean: int) -> Text:
    """The table over generated documents."""
    title = (
        f"what is found of {per_class} values of each class under up to two decodings, and what is found in {clean} "
        "clean documents and beside values of other classes"
    )
    return Text(title, [_class_line(row) for row in class_figures(per_class, clean)])


def _class_line(row: ClassFigures) -> str:
    return (
        f"{row.klass:<10} recall {row.recall:.1%}, precision {row.precision:.1%}; still readable {row.readable}, false "
        f"in clean documents {row.false_clean}, beside other classes {row.false_beside}"
    )


def _phones(examples: Sequence[PhoneExample]) -> list[str]:
    """Recall over example numbers, by how they are written and whether the key says what they are."""
    detectors = Detectors.build()
    lines = []
    ways: tuple[tuple[str, str, str], ...] = (
        ("international", "text", "with the country code"),
        ("national", "text", "as dialled at home, nothing beside it says what it is"),
        ("national", "phone", "as dialled at home, under the key `phone`"),
    )
    for form, key, meaning in ways:
        texts: list[Any] = [getattr(each, form) for each in examples]
        found = sum(any(klass == "phone" for klass, _, _ in places(text, detectors, key)) for text in texts)
        lines.append(f"{meaning}: recall {found / len(texts):.1%} ({found} of {len(texts)})")
    return lines
