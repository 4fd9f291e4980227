"""Where a finding lies: its path, key or value, and the characters of the original text that it covers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sluicegate.policies.detectors import Detectors
from sluicegate.policies.scan import Finding, scan

DETECTORS = Detectors.build()
CARD = "4111 1111 1111 1111"
SSN = "856-45-6789"


def covered(text: str) -> list[str]:
    """The parts of a text that are covered."""
    return [text[each.start : each.end] for each in scan({"text": text}, DETECTORS).findings]


def only(document: Any) -> Finding:
    """The one finding of a document."""
    (finding,) = scan(document, DETECTORS).findings
    return finding


def test_a_finding_names_its_place() -> None:
    """The path leads from the root over keys and places in lists; the span counts characters, not bytes."""
    finding = only({"ä": [{"b": f"žluť 💳 {CARD}."}]})
    assert finding == Finding(("ä", 0, "b"), False, "card", "card", 7, 26)


def test_a_hit_in_a_key_is_the_keys() -> None:
    """A key is looked at as a value is; its finding says so and has no span."""
    assert only({"a": {CARD: None}}) == Finding(("a", CARD), True, "card", "card", None, None)


def test_a_number_hides_nothing() -> None:
    """A card or, beside its name, a social security number as a JSON number is found as a whole."""
    assert only({"n": 4111111111111111}) == Finding(("n",), False, "card", "card", None, None)
    assert only({"n": 4111111111111111.0}).klass == "card"
    assert only({"ssn": 856456789}) == Finding(("ssn",), False, "ssn_by_word", "ssn", None, None)
    assert scan({"count": 856456789, "n": [1, 2.5, True, None]}, DETECTORS).findings == ()


@pytest.mark.parametrize("document", [CARD, [CARD], [[CARD]], {"": CARD}, 4111111111111111])
def test_any_json_is_looked_through(document: Any) -> None:
    """A document may be a text, a number or a list too."""
    assert [each.klass for each in scan(document, DETECTORS).findings] == ["card"]


@pytest.mark.parametrize("document", [{}, [], "", None, 0, {"a": {}}, {"": ""}])
def test_an_empty_document_is_clean(document: Any) -> None:
    """What holds nothing gives nothing and fails at nothing."""
    assert scan(document, DETECTORS).findings == ()
    assert scan(document, DETECTORS).exceeded is None


def test_only_what_was_found_is_covered() -> None:
    """What stands around a value stays."""
    assert covered(f"pay with {CARD} or not") == [CARD]
    assert covered(f"{SSN}, a@example.com") == [SSN, "a@example.com"]
    assert covered("postgres://app:s3cr3t@db/x") == ["app:s3cr3t"]


def test_two_values_of_a_class_are_two_findings() -> None:
    """Each value is covered, none is merged over what stands between."""
    assert covered("+49 30 901820, (425) 882-9090; +49 30 901820 (425) 882-9090") == [
        "+49 30 901820",
        "(425) 882-9090",
        "+49 30 901820",
        "(425) 882-9090",
    ]


@pytest.mark.parametrize(
    ("text", "cover"),
    [
        ("x \uff14\uff11\uff11\uff11 1111 1111 1111 y", "\uff14\uff11\uff11\uff11 1111 1111 1111"),
        ("x 41\u280011 1111 11\u316411 1111 y", "41\u280011 1111 11\u316411 1111"),
        ("x 41\u200b11 1111\u00a01111 11\u206011 y", "41\u200b11 1111\u00a01111 11\u206011"),
        ("x ٤١١١ 1111 1111 1111 y", "٤١١١ 1111 1111 1111"),
        ("x 4111\u20111111\u20111111\u20111111 y", "4111\u20111111\u20111111\u20111111"),
        ("x 4111\x001111\x011111\x071111 y", "4111\x001111\x011111\x071111"),
        ("x %34111%201111 1111 1111 y", "%34111%201111 1111 1111"),
        ("x \\u0034111 1111 1111 \\x31111 y", "\\u0034111 1111 1111 \\x31111"),
        ("x &#52;111 1111 1111 &#x31;111 y", "&#52;111 1111 1111 &#x31;111"),
        ("x a&commat;example.com y", "a&commat;example.com"),
    ],
)
def test_a_mapped_decoding_covers_what_was_seen(text: str, cover: str) -> None:
    """Where each character has an origin, the cover is exact."""
    assert covered(text) == [cover]


@pytest.mark.parametrize(
    "run",
    [
        base64.b64encode(f"ssn {SSN} of the customer".encode()).decode(),
        base64.urlsafe_b64encode(f"ÿÿ>>{SSN}??".encode()).decode().rstrip("="),
        base64.b64encode(base64.b64encode(SSN.encode())).decode(),
        base64.b64encode(SSN.encode("utf-16")).decode(),
        base64.b64encode("\uff18\uff15\uff16-45-67\u200b89".encode()).decode(),
        SSN.encode().hex(),
        f"{SSN}!".encode().hex().upper(),
    ],
)
def test_a_run_is_covered_whole(run: str) -> None:
    """Base64 and hex change letters, so the run goes, and the rest of the text stays."""
    assert covered(f"see ({run}) for more") == [run]


@pytest.mark.parametrize("ahead", ["x", "xy", "id_", "/v1/"])
def test_a_run_may_begin_anywhere(ahead: str) -> None:
    """Letters in front of base64 shift it; it is read at each of the four shifts."""
    run = base64.b64encode(f"ssn {SSN} of the customer".encode()).decode()
    assert covered(ahead + run) == [ahead + run]


def test_base64_in_lines_is_read_as_one() -> None:
    """MIME breaks base64 into lines; a value over a break is found, the lines are covered."""
    lines = base64.encodebytes(b"x" * 49 + b" " + SSN.encode() + b" " + b"y" * 40).decode().strip()
    assert covered(lines) == [lines]


def test_json_inside_a_string_is_looked_through() -> None:
    """JSON in JSON in a string: the innermost key still names its value."""
    inner = json.dumps({"user": "x", "password": "hunter2", "n": 1})
    text = json.dumps({"payload": inner})
    (finding,) = scan({"text": text}, DETECTORS).findings
    assert "hunter2" in text[finding.start : finding.end]
    assert "user" not in text[finding.start : finding.end]


def test_hex_may_begin_anywhere() -> None:
    """A hex digit in front of hex shifts it by half a byte; it is read at both shifts."""
    run = "f" + f"{SSN} of 7".encode().hex()
    assert covered(run) == [run]


def test_a_documents_own_separators_shift_nothing() -> None:
    """The control characters that the scan joins entries with may stand in keys and values."""
    for mark in "\x00\x01":
        assert only({f"a{mark}b": CARD}) == Finding((f"a{mark}b",), False, "card", "card", 0, 19)
        assert only([mark, f"{mark}{mark}{CARD}"]) == Finding((1,), False, "card", "card", 2, 21)


def test_a_value_is_read_with_its_key() -> None:
    """A secret that only its key gives away is found in a value, in a list under the key, and as base64."""
    for value in ("856456789", ["x", "856456789"], base64.b64encode(b"number: 856456789").decode()):
        assert [each.klass for each in scan({"ssn": value}, DETECTORS).findings] == ["ssn"]
    assert scan({"order": "856456789"}, DETECTORS).findings == ()


def test_a_value_is_not_read_with_its_neighbour() -> None:
    """What stands in the next entry is no part of this one."""
    assert scan({"a": "ssn", "b": "856456789", "c": "4111 1111", "d": "1111 1111"}, DETECTORS).findings == ()


def test_findings_stand_in_the_documents_order() -> None:
    """Findings are sorted by where they stand, and the same scan gives the same findings."""
    document = {"z": f"{CARD} and {SSN}", "a": "a@example.com"}
    found = [each.klass for each in scan(document, DETECTORS).findings]
    assert found == ["card", "ssn", "email"]
    assert scan(document, DETECTORS) == scan(document, DETECTORS)


def test_lone_surrogates_are_no_error() -> None:
    """JSON may hold halves of characters; spans stay right behind them."""
    assert covered(f"\ud800 {CARD} \udfff") == [CARD]
