"""Detectors as data: a user's own, other tenants' identifiers, recognisers; what is refused and why."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import pytest

from sluicegate.policies.decodings import _BLOCKS, _seen, odd_characters
from sluicegate.policies.detectors import (
    CLASSES,
    Detectors,
    DetectorSpec,
    Match,
    builtin_specs,
    detector_problem,
    phrase_detector,
)
from sluicegate.policies.presidio_recogniser import PresidioRecogniser
from sluicegate.policies.scan import Finding, scan
from sluicegate.policies.validators import VALIDATORS
from sluicegate.schemas.errors import BadInput

STAFF = {"id": "staff", "class": "staff_number", "pattern": "STAFF-([0-9]{4})", "keywords": ["staff-"]}


def own(**changed: Any) -> dict[str, Any]:
    """A user's detector as YAML gives it, with some keys changed."""
    return {**STAFF, **changed}


def test_the_shipped_detectors_are_sound() -> None:
    """Every id is there once, every class is one of ours, every validator exists, every class has a detector."""
    specs = builtin_specs()
    assert len({spec.id for spec in specs}) == len(specs)
    assert {spec.klass for spec in specs} == set(CLASSES) - {"foreign_tenant"}
    assert {spec.validator for spec in specs} - {None} <= set(VALIDATORS)


def test_keywords_are_never_stricter_than_their_pattern() -> None:
    """Every detector with keywords still finds what it finds without them."""
    texts = [
        "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",
        "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",
        "a@example.com",
        "2001:db8::1f",
        "hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
        "password: Xy7!kdk2",
        "We guarantee it",
    ]
    bare = Detectors(
        [DetectorSpec(id=s.id, klass=s.klass, pattern=s.pattern, validator=s.validator) for s in builtin_specs()]
    )
    for text in texts:
        assert scan(text, Detectors.build()).findings == scan(text, bare).findings != ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (own(patern="x"), "no key `patern`; did you mean `pattern`?"),
        ({"id": "a", "class": "b"}, "lacks `pattern`"),
        (own(pattern=7), "expected `str`"),
        (own(id="Staff 1"), "no id"),
        (own(**{"class": "Staff!"}), "no class"),
        (own(validator="lunh"), "no validator `lunh`"),
        (own(pattern="(?=x)y"), "not one of RE2"),
        (own(pattern="a("), "not one of RE2"),
        (own(pattern="x" * 1001), "1 to 1000 characters"),
        (own(pattern=""), "1 to 1000 characters"),
        (own(pattern="a*"), "matches an empty text"),
        (own(pattern="^a"), "anchor `^`"),
        (own(pattern=r"a\z"), "anchor"),
        (own(pattern="(a)(b)"), "2 groups"),
        (own(pattern="(?:a{1,200}){1,5}b{500}c{900}[^x]{900}x{900}(?i:q{900})w{900}e{900}"), "too large"),
        (own(keywords=["größe"]), "ASCII"),
        (own(keywords=["x" * 65]), "ASCII"),
        (own(keywords=["ab"] * 65), "more than 64 keywords"),
        (own(pattern="abc", exclude_group_equal="x"), "has no group"),
        (own(confidence="certain"), "invalid"),
    ],
)
def test_a_wrong_detector_is_refused(data: dict[str, Any], said: str) -> None:
    """The message names what is wrong; nothing wrong raises."""
    assert said in (detector_problem(data) or "")


@pytest.mark.parametrize("pattern", ["[^a]b", r"\^a", r"\$[0-9]+", "[$^]x", "[]$]x", "(?i)größe"])
def test_a_sound_pattern_is_taken(pattern: str) -> None:
    """What looks like an anchor and is none is no fault."""
    assert detector_problem(own(pattern=pattern, keywords=[])) is None


def test_an_own_detector_finds_its_group() -> None:
    """A user's detector covers its group alone, its keyword matches in any case, its class may be new."""
    assert detector_problem(STAFF) is None
    spec = DetectorSpec(id="staff", klass="staff_number", pattern="(?i)staff-([0-9]{4})", keywords=("STAFF-",))
    detectors = Detectors.build(builtin=False, extra=[spec])
    assert scan({"a": "see Staff-1234"}, detectors).findings == (
        Finding(("a",), False, "staff", "staff_number", 10, 14),
    )
    assert detectors.classes == {"staff_number"}


def test_an_own_pattern_stays_within_an_entry() -> None:
    """A greedy pattern that could reach over entries matches in each of them by itself."""
    spec = DetectorSpec(id="x", klass="x", pattern="begin[^!]*end")
    detectors = Detectors.build(builtin=False, extra=[spec])
    assert scan({"a": "begin", "b": "end"}, detectors).findings == ()
    found = scan({"a": "begin 1 end", "b": "2", "c": "begin 3 end"}, detectors).findings
    assert [each.path for each in found] == [("a",), ("c",)]


def test_a_group_without_a_part_in_the_match_hides_nothing() -> None:
    """Where the group took no part, the whole match is covered."""
    spec = DetectorSpec(id="x", klass="x", pattern="id=([0-9]+)|secret")
    found = scan({"a": "id=77 secret"}, Detectors.build(builtin=False, extra=[spec])).findings
    assert [(each.start, each.end) for each in found] == [(3, 5), (6, 12)]


def test_an_id_is_taken_once() -> None:
    """An own detector cannot stand for a shipped one, nor for another of its own."""
    with pytest.raises(BadInput, match="the id `card` is taken"):
        Detectors.build(extra=[DetectorSpec(id="card", klass="card", pattern="x")])


def test_a_wrong_own_detector_builds_nothing() -> None:
    """What `detector_problem` refuses cannot be built."""
    with pytest.raises(BadInput, match="not one of RE2"):
        Detectors.build(extra=[DetectorSpec(id="x", klass="x", pattern="(")])
    with pytest.raises(BadInput, match="has no group"):
        Detectors.build(foreign=["tenant-[a-z]+"])


def test_another_tenants_identifier_is_a_finding() -> None:
    """The job's own tenant may be named in any case; without one every tenant is foreign."""
    detectors = Detectors.build(builtin=False, foreign=["(?i)tenant[-_/:]([a-z0-9-]+)"])
    document = {"a": "tenant/ACME and tenant:globex", "tenant-initech": 1, "n": "tenant_acme-2"}
    found = scan(document, detectors, tenant="Acme").findings
    assert [(each.path, each.in_key, each.start) for each in found] == [
        (("a",), False, 23),
        (("tenant-initech",), True, None),
        (("n",), False, 7),
    ]
    assert len(scan(document, detectors).findings) == 4
    assert {each.klass for each in found} == {"foreign_tenant"}


def test_a_group_can_be_excluded() -> None:
    """A match whose group is the excluded text is none."""
    spec = DetectorSpec(id="org", klass="org", pattern="org=([a-z]+)", exclude_group_equal="Ours")
    detectors = Detectors.build(builtin=False, extra=[spec])
    assert [each.start for each in scan({"a": "org=ours org=theirs"}, detectors).findings] == [13]


def test_phrases_are_text() -> None:
    """A phrase is found in any case and over any space; marks in it mean themselves."""
    spec = phrase_detector("no_promise", "promise", ["by next (business) day", "100 % safe"])
    detectors = Detectors.build(builtin=False, extra=[spec])
    assert len(scan({"a": "By  next\n(Business) day; 100 % SAFE"}, detectors).findings) == 2
    assert scan({"a": "by next business day"}, detectors).findings == ()


class Shouting:
    """A recogniser that finds words in capitals under a key named `note`."""

    def find(self, text: str, key: str | None) -> Iterable[Match]:
        if key == "note":
            at = 0
            for word in text.split(" "):
                if word.isupper():
                    yield Match("shouting", "loud", at, at + len(word))
                at += len(word) + 1


def test_a_recogniser_sees_texts_keys_and_decodings() -> None:
    """What a recogniser finds lies where it says, in characters, in decoded texts too."""
    detectors = Detectors.build(builtin=False, recognisers=[Shouting()])
    found = scan({"note": "ä NO way", "other": "NO", "more": {"note": "a N\u200bO b"}}, detectors).findings
    assert [(each.path, each.start, each.end) for each in found] == [
        (("note",), 2, 4),
        (("more", "note"), 2, 5),
    ]


def test_what_a_recogniser_raises_is_not_hidden() -> None:
    """The caller must hear of it, to hold the document."""

    class Broken:
        def find(self, text: str, key: str | None) -> Iterable[Match]:
            raise RuntimeError("model lost")

    with pytest.raises(RuntimeError, match="model lost"):
        scan({"a": "b"}, Detectors.build(recognisers=[Broken()]))


def test_building_detectors_leaves_nothing_to_the_first_scan() -> None:
    """What is worked out once a process is worked out there, so no document waits for it."""
    odd_characters.cache_clear()
    Detectors.build(builtin=False)
    assert odd_characters.cache_info().currsize == 1


def test_no_character_is_missing_from_the_blocks() -> None:
    """What is outside of the blocks that are gone through is seen as what it is, by this Python's Unicode."""
    inside = {code for block in _BLOCKS for code in block}
    outside = (code for code in range(0x7F, sys.maxunicode + 1) if code not in inside)
    assert [hex(code) for code in outside if _seen(code) != chr(code) and not 0xD800 <= code < 0xE000] == []


def test_presidio_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error says what to install; an entity that needs a language model is refused."""
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    monkeypatch.setitem(sys.modules, "presidio_analyzer.predefined_recognizers", None)
    with pytest.raises(BadInput, match=r"sluicegate\[presidio\]"):
        PresidioRecogniser()
    with pytest.raises(BadInput, match="no entity `PERSON` without a language model"):
        PresidioRecogniser(["PERSON"])
