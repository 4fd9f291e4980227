"""`output-policy.yaml` as a document of a bundle, and review where something is wrong: it never lets through."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from sluicegate.policies.compile import compile_bundle
from sluicegate.policies.detectors import Match
from sluicegate.policies.faults import PolicyFaults
from sluicegate.policies.load import OUTPUT_POLICY_FILE, parse_bundle, parse_documents, shipped_output_policy
from sluicegate.policies.output_document import PHRASE_CLASSES, OutputPolicyDocument
from sluicegate.policies.output_policy import OutputPolicy, audience_of
from sluicegate.policies.places import PLACE_CHARS_MAX, place_steps, place_text
from sluicegate.policies.redaction import HELD, Working, masked
from sluicegate.policies.review import FIELDS_MAX, Review, review, tags_of_phrases
from sluicegate.policies.scan import SCAN_LIMITS

RULES = {"a.yaml": 'rules: [{ match: { topics: ["*"] }, decision: deny }]\n'}
TOO_MANY = ["x"] * (SCAN_LIMITS.entries_max + 2)
SHIPPED = OutputPolicy(shipped_output_policy())


def reviewed(document: Any, policy: OutputPolicy = SHIPPED) -> Review:
    return review(json.dumps(document).encode(), topic="job.x", audience="customer", tenant="acme", policy=policy)


def policy_of(text: str) -> OutputPolicy:
    return compile_bundle(parse_bundle({OUTPUT_POLICY_FILE: text})).output_policy


class Broken:
    """A recogniser that fails, saying what it was reading."""

    def find(self, text: str, key: str | None) -> Iterable[Match]:
        raise ValueError(f"cannot read {text}")


class Greedy:
    """A recogniser that finds something in everything, in what stands for it too."""

    def find(self, text: str, key: str | None) -> Iterable[Match]:
        return [Match("greedy", "name", 0, len(text))] if key == "who" else []


class Late:
    """A recogniser that changes its mind: it finds what it has seen twice."""

    def __init__(self) -> None:
        self.seen = 0

    def find(self, text: str, key: str | None) -> Iterable[Match]:
        self.seen += key == "who"
        return [Match("late", "name", 0, len(text))] if key == "who" and self.seen > 2 else []


# --- the document in its bundle


def test_a_bundle_without_one_has_the_shipped_document() -> None:
    """The shipped one is made ready once for all bundles that have none."""
    first, second = (compile_bundle(parse_bundle(RULES)).output_policy for _ in range(2))
    assert first is second
    assert first.rule("job.x", "customer").id == "customer"


def test_the_shipped_document_has_no_fault_and_no_warning() -> None:
    """It is held to what is asked of users' documents."""
    assert reviewed({"a": 1}).rule == "customer"
    text = json.dumps(shipped_output_policy().model_dump(exclude_none=True))
    assert parse_bundle({"output-policy.json": text}).warnings == ()


def test_a_bundles_own_document_replaces_the_shipped_one() -> None:
    """Nothing is merged: what it leaves out is gone."""
    own = policy_of('rules: [{ id: mine, match: { topics: ["*"] } }]\n')
    assert own.rule("job.x", "customer").id == "mine"
    assert reviewed({"internal_notes": "x"}, own).decision == "ALLOW"


def test_the_document_is_part_of_the_snapshot_and_comes_back_from_it() -> None:
    """What may leave is decided by what a snapshot names, as everything else."""
    bundle = parse_bundle({**RULES, OUTPUT_POLICY_FILE: "default: { detect: { ssn: quarantine } }\n"})
    assert bundle.snapshot_digest != parse_bundle(RULES).snapshot_digest
    again = parse_documents(bundle.documents)
    assert again.snapshot_digest == bundle.snapshot_digest
    assert reviewed({"a": "536-22-8471"}, compile_bundle(again).output_policy).decision == "QUARANTINE"


def test_one_bundle_has_one_such_document() -> None:
    """Two spellings of its file name are the same document twice."""
    with pytest.raises(PolicyFaults, match="the same document twice"):
        parse_bundle({"output-policy.yaml": "default: {}\n", "output-policy.json": '{"default": {}}'})


def test_more_than_can_be_looked_for_is_a_fault() -> None:
    """How much a document adds has a limit, which shows only when all of it is put together."""
    looks = {f"tenant-{number}": [f"T{number}-[0-9]+"] for number in range(250)}
    with pytest.raises(PolicyFaults, match="more than 200 own detectors"):
        parse_documents({OUTPUT_POLICY_FILE: {"default": {}, "tenants": {"identifiers": looks}}})


def test_many_phrases_are_all_found() -> None:
    """They share few patterns; the first, the last and those at a seam are found like the others."""
    phrases = [f"the phrase of number {number} at last" for number in range(500)]
    document = {"default": {"detect": {"slogan": "redact"}}, "phrases": {"slogan": phrases}}
    own = compile_bundle(parse_documents({OUTPUT_POLICY_FILE: document})).output_policy
    assert all(reviewed({"a": phrase}, own).classes == ("slogan",) for phrase in phrases[::7] + phrases[-1:])


@pytest.mark.parametrize(("said", "audience"), [(None, "customer"), ("external", "customer"), ("agent", "agent")])
def test_who_reads_an_output_of_which_nobody_says_it(said: str | None, audience: str) -> None:
    """Unset, or a word of one's own, counts as customers: the strictest."""
    assert audience_of(said) == audience


# --- where something is wrong


def test_a_failing_scanner_quarantines_and_tells_nothing() -> None:
    """The error's text may quote the output, so only its kind is said."""
    said = reviewed({"a": "very secret"}, OutputPolicy(shipped_output_policy(), [Broken()]))
    assert (said.decision, said.document, said.redacted) == ("QUARANTINE", None, None)
    assert said.reason == "Review failed: ValueError"


def test_what_does_not_become_clean_is_quarantined() -> None:
    """A detector that still finds something in what is redacted: nothing leaves, nothing can be released redacted."""
    said = reviewed({"who": "Ada"}, OutputPolicy(shipped_output_policy(), [Greedy()]))
    assert (said.decision, said.document, said.redacted) == ("QUARANTINE", None, None)
    assert said.reason == "What was redacted does not become clean"


def test_what_leaves_is_looked_through_as_it_leaves() -> None:
    """The very bytes are, once more, at the end: only what is found clean there leaves."""
    said = reviewed({"who": "Ada", "ssn": "536-22-8471"}, OutputPolicy(shipped_output_policy(), [Late()]))
    assert (said.decision, said.reason) == ("QUARANTINE", "What was redacted does not become clean")


def test_a_scan_that_stops_at_a_limit_quarantines() -> None:
    """What was not looked through does not leave, whatever was found before."""
    said = reviewed(TOO_MANY)
    assert (said.decision, said.redacted) == ("QUARANTINE", None)
    assert said.reason.startswith("Cannot be looked through: ")


def test_more_fields_than_can_be_told_quarantine() -> None:
    """A result carries a detail for each field, so their number has a limit."""
    mails = [f"ada{number}@mail-example.org" for number in range(FIELDS_MAX + 1)]
    assert reviewed(mails[:-1]).decision == "REDACT"
    said = reviewed(mails)
    assert (said.decision, said.redacted) == ("QUARANTINE", None)
    assert said.details[0].field == "$"


def test_a_redacted_document_beyond_the_size_is_quarantined() -> None:
    """`[REDACTED]` may be longer than what it stands for; the limit holds for what leaves, too."""
    own = policy_of('limits: { bytes_max: 30 }\ndefault: {}\ndetectors: [{ id: x, class: x, pattern: "QQ" }]\n')
    assert reviewed({"a": "QQ"}, own).decision == "REDACT"
    assert reviewed({"a": "QQ QQ QQ"}, own).reason == "Larger than 30 bytes"


def test_every_held_output_has_a_detail_that_says_so() -> None:
    """QUARANTINE has no document, and at least one detail; each is `held`."""
    for document in ({"a": "AKIAQ4J7XW2MN5RTB3KD"}, {"tenant_id": "globex"}, {"a": "we guarantee a full refund"}):
        said = reviewed(document)
        assert (said.decision, said.document) == ("QUARANTINE", None)
        assert {detail.action for detail in said.details} == {HELD}


# --- phrases as tags


def test_phrases_are_tags() -> None:
    """Their classes alone, not those of data; the document's own as well."""
    document = {"reply": "We guarantee a full refund.", "ssn": "536-22-8471", "more": ["you have my word"]}
    assert tags_of_phrases(document, SHIPPED) == {"promise"}
    own = policy_of("default: {}\nphrases: { oath: [you have my word] }\n")
    assert tags_of_phrases(document, own) == {"promise", "oath"}
    assert tags_of_phrases({"a": 1}, own) == frozenset()


def test_what_cannot_be_looked_through_has_all_tags() -> None:
    """A tag may make something stricter, so the doubt counts as every one of them."""
    assert tags_of_phrases(TOO_MANY, SHIPPED) == set(PHRASE_CLASSES)


# --- taking out and writing again


def test_what_is_not_redacted_stays_as_it_was_written() -> None:
    """Numbers keep their digits, keys their order; only the space between them goes."""
    content = b'{ "z": 10.00, "a": 1E5, "n": 12345678901234567890.123456789, "ssn": "536-22-8471", "u": "\\u00fc" }'
    said = review(content, topic="", audience="customer", tenant=None, policy=SHIPPED)
    expected = '{"z":10.00,"a":1E5,"n":12345678901234567890.123456789,"ssn":"[REDACTED]","u":"ü"}'
    assert said.document == expected.encode()


def test_spans_that_touch_are_one() -> None:
    """One `[REDACTED]` for what belongs together, and no character of it beside."""
    assert masked("abcdef", [(1, 3), (3, 4), (2, 3)]) == "a[REDACTED]ef"
    assert masked("abcdef", [(4, 6), (0, 1)]) == "[REDACTED]bcd[REDACTED]"


def test_entries_keep_their_places_until_the_end() -> None:
    """Removing one entry moves none of those that are still to be changed, one inside another included."""
    working = Working(b'[1, [2, "x", [3]], "y", {"a": [4, 5]}]')
    working.remove((1, 2, 0))
    working.remove((0,))
    working.replace((1, 1), None)
    working.replace((2,), [(0, 1)])
    working.remove((3, "a", 1))
    working.remove((3, "a", 9))
    assert working.written() == b'[[2,"[REDACTED]",[]],"[REDACTED]",{"a":[4]}]'
    working.remove((1,))
    assert working.written() == b'["[REDACTED]",{"a":[4]}]'


@pytest.mark.parametrize(
    "place", [("a",), ("a", "b", 0, "c"), (0,), (1, 2), ("a.b", "", "$", "[0]", '"', "\\", "\n"), ("имя", "0", "a-b")]
)
def test_a_places_text_leads_back_to_it(place: tuple[str | int, ...]) -> None:
    """No two places read alike."""
    assert place_steps(place_text(place)) == place


def test_a_places_text_has_a_limit() -> None:
    """A key may be as long as an output; what is said of it is not."""
    assert place_text(()) == "$"
    assert len(place_text(("a" * 1_000_000,))) <= PLACE_CHARS_MAX + 3
    assert len(place_text(("a b",) * 1_000)) <= PLACE_CHARS_MAX + 3


def test_a_document_that_no_file_gave_is_the_strictest() -> None:
    """An empty model, as code may make it: no rule, no default, so everything is held."""
    said = reviewed({"a": 1}, OutputPolicy(OutputPolicyDocument()))
    assert (said.decision, said.reason) == ("QUARANTINE", "No rule says what may leave here")
