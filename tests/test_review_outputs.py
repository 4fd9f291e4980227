"""What an outsider tries on review: values joined to other text, in other notations, under names that stand beside."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from sluicegate.policies.compile import compile_bundle
from sluicegate.policies.load import OUTPUT_POLICY_FILE, parse_bundle, shipped_output_policy
from sluicegate.policies.output_document import AudienceWord
from sluicegate.policies.output_policy import OutputPolicy
from sluicegate.policies.review import Review, review

SHIPPED = OutputPolicy(shipped_output_policy())

SSN = "536-22-8471"
CARD = "4111111111111111"
MAIL = "ada@mail-example.org"
IBAN = "GB82WEST12345698765432"
KEY = "AKIAQ4J7XW2MN5RTB3KD"


def reviewed(document: Any, policy: OutputPolicy = SHIPPED, audience: AudienceWord = "internal") -> Review:
    """A review for colleagues, who may see addresses, and for whom nothing is held."""
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return review(content, topic="job.x", audience=audience, tenant=None, policy=policy)


def leaves(document: Any, audience: AudienceWord = "customer") -> Any:
    """The document that leaves, or would by `release_redacted`."""
    said = reviewed(document, audience=audience)
    assert said.redacted is not None
    return json.loads(said.redacted)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("\u201c", "\u201d"),
        ("\u00ab", "\u00bb"),
        ("\u2192", "\u2026"),
        ("mail ", "\u2014call"),
        ("\u2022", "\u2019s"),
        ("\u8bf7\u8054\u7cfb", "\u8c22\u8c22"),
        ("\u65e5\u672c\u306e", "\u3092\u898b\u308b"),
    ],
)
def test_an_address_ends_where_its_letters_do(before: str, after: str) -> None:
    """Only the matched characters become [REDACTED]: no typographic sign, no word of a script without spaces."""
    assert leaves({"a": f"{before}{MAIL}{after}"}) == {"a": f"{before}[REDACTED]{after}"}


@pytest.mark.parametrize(
    "mail",
    [
        "jos\u00e9@mail-example.org",
        "\u7528\u6237@\u4f8b\u5b50.\u516c\u53f8",
        "\u0438\u0432\u0430\u043d@\u043f\u043e\u0447\u0442\u0430.\u0440\u0444",
    ],
)
def test_an_address_in_any_script_goes_as_a_whole(mail: str) -> None:
    """Letters of other scripts are part of an address (RFC 6531)."""
    assert leaves({"a": f"to {mail} now"}) == {"a": "to [REDACTED] now"}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("1,Ada,+1 415 555 2671,2026-01-01", "1,Ada,[REDACTED],2026-01-01"),
        ("7,415-555-2671,12", "7,[REDACTED],12"),
        ("9,+33 1 42 68 53 00,2", "9,[REDACTED],2"),
        ("https://wa.me/+14155552671", "https://wa.me/[REDACTED]"),
        ("to=+14155552671&n=1", "to=[REDACTED]&n=1"),
        (f"/customers/{SSN}/orders", "/customers/[REDACTED]/orders"),
        (f"report_{SSN}_final.csv", "report_[REDACTED]_final.csv"),
        (f"SSN{SSN}", "SSN[REDACTED]"),
        (f"ssn-{SSN}", "ssn-[REDACTED]"),
        ("ssn: 536 - 22 - 8471", "ssn: [REDACTED]"),
        (f"card_{CARD}.pdf", "card_[REDACTED].pdf"),
        (f"PAN{CARD}", "PAN[REDACTED]"),
        (f"%B{CARD}^DOE/ADA^2612101?", "%B[REDACTED]^DOE/ADA^2612101?"),
        (f"IBAN{IBAN}", "IBAN[REDACTED]"),
        ("client:2001:db8::1f", "client:[REDACTED]"),
        ("src:2001:db8:1:2:3:4:5:6 ok", "src:[REDACTED] ok"),
    ],
)
def test_a_value_is_found_where_other_text_is_joined_to_it(text: str, left: str) -> None:
    """Columns of a table, paths, file names and names joined by a colon hide nothing, and stay."""
    assert leaves({"a": text}) == {"a": left}


@pytest.mark.parametrize(
    "value", ["4111 1111 1111 1111", "+1 415 555 2671", "536 22 8471", "GB82 WEST 1234 5698 7654 32"]
)
@pytest.mark.parametrize("written", [quote, quote_plus, lambda text: quote_plus(quote_plus(text))])
def test_a_form_hides_nothing(value: str, written: Callable[[str], str]) -> None:
    """In `application/x-www-form-urlencoded` a plus is a space."""
    assert leaves({"a": written(value)}) == {"a": "[REDACTED]"}
    assert value.replace(" ", "+") not in json.dumps(leaves({"a": f"q={written(value)}"}))


@pytest.mark.parametrize(
    ("document", "left"),
    [
        ({"env": "DB_PASSWORD=hunter2"}, {"env": "DB_PASSWORD=[REDACTED]"}),
        ({"env": "PGPASSWORD=abc123 psql"}, {"env": "PGPASSWORD=[REDACTED] psql"}),
        ({"log": "password: hunter2"}, {"log": "password: [REDACTED]"}),
        ({"xml": "<password>hunter2x</password>"}, {"xml": "<password>[REDACTED]</password>"}),
        ({"api_key": "abcdef1234567890"}, {"api_key": "[REDACTED]"}),
        ({"x-api-key": "8f7a6b5c4d3e2f1a"}, {"x-api-key": "[REDACTED]"}),
        ({"auth_token": "3f2b1c0d9e8f7a6b5c4d"}, {"auth_token": "[REDACTED]"}),
        ({"u": "https://a.io/v?token=8f7a6b5c4d3e2f1a9b8c&n=1"}, {"u": "https://a.io/v?token=[REDACTED]&n=1"}),
        ({"h": "Authorization: Bearer mF_9.B5f-4.1JqM"}, {"h": "Authorization: Bearer [REDACTED]"}),
        ({"secret": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}, {"secret": "[REDACTED]"}),
        ({"f": f"AWS_{KEY}_1"}, {"f": "AWS_[REDACTED]_1"}),
    ],
)
def test_the_ways_in_which_credentials_are_usually_told(document: Any, left: Any) -> None:
    """Variables of an environment, headers, addresses with a token, short hex under a key that means a secret."""
    assert leaves(document) == left


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"env": [{"name": "DB_PASSWORD", "value": "Sup3rS3cret!"}]}, "env[0].value"),
        ({"Key": "Password", "Value": "hunter2"}, "Value"),
        ({"header": "X-Api-Key", "value": "8f7a6b5c4d3e2f1a"}, "value"),
        ({"ssn": {"value": "536228471"}}, "ssn.value"),
        ({"ssn": {"value": 536228471}}, "ssn.value"),
        ({"name": "ssn", "value": ["536228471"]}, "value[0]"),
        ({"phones": [{"number": "4155552671"}]}, "phones[0].number"),
        ({"card": {"number": 4222222222222}}, "card.number"),
        ({"password": {"value": "hunter2"}}, "password.value"),
    ],
)
def test_a_key_that_says_nothing_is_read_with_what_names_it(document: Any, field: str) -> None:
    """`{"name": ..., "value": ...}`, as variables and headers are listed, and `{"ssn": {"value": ...}}`."""
    assert [detail.field for detail in reviewed(document, audience="customer").details] == [field]


@pytest.mark.parametrize(
    "document",
    [
        {"name": "Order", "value": "536228471"},
        {"name": "total", "number": 1234567890},
        {"order": {"number": "4155552671"}},
        {"section": "see section 8.2.3.4 and \u00a7 7.1.2.3"},
        {"id": f"id_{CARD}", "n": "12/536-22-8471", "sum": "1+1=2 100%25"},
        {"text": "password: required", "hint": "password=changed", "x": "<password>required</password>"},
        {"code": "std::fade::beef() x:ab", "mac": "SHA:aa:bb:cc:dd:ee:ff:00:11"},
        {"token": "0123456789abcdef0123", "next": "your-key-example", "api_key": "example-key-for-docs"},
    ],
)
def test_what_only_looks_like_it_stays(document: Any) -> None:
    """The same neighbours where they mean something else."""
    assert reviewed(document, audience="customer").decision == "ALLOW"


@pytest.mark.parametrize("audience", ["customer", "internal", "agent"])
def test_a_key_that_tells_something_is_in_no_detail(audience: AudienceWord) -> None:
    """Details are kept for ever and in the clear: no key stands there in which anything was found, allowed or not."""
    document = {MAIL: {"inner": [{"ssn": SSN}]}, f"n {SSN}": {"x": KEY}, "10.1.2.3": {"iban": IBAN}}
    said = reviewed(document, audience=audience)
    assert said.details
    told = json.dumps(
        [[detail.field, detail.reason, detail.action] for detail in (*said.details, *said.redacted_details)]
    )
    assert not any(value in told + said.reason for value in (MAIL, SSN, "10.1.2.3", KEY, IBAN))


@pytest.mark.parametrize(
    "written",
    [
        SSN.replace("-", "\u2212"),
        SSN.replace("-", "\u2043"),
        "415\u00b7555\u00b72671",
        "".join(f"%u{ord(letter):04x}" for letter in SSN),
        "".join(chr(0xE0000 + ord(letter)) for letter in SSN),
        "\U000e0041".join(SSN),
    ],
)
def test_signs_that_read_as_the_usual_ones_hide_nothing(written: str) -> None:
    """A minus for a dash, a middle dot for a point, escapes of old browsers, tag characters as text or as fillers."""
    assert leaves({"a": f"see {written} now"}) == {"a": "see [REDACTED] now"}


def test_what_was_found_in_a_run_takes_the_whole_run() -> None:
    """Of base64 nothing can be replaced inside: the run goes, its neighbours stay."""
    run = base64.b64encode(f"the number is {SSN}, thanks".encode()).decode()
    assert leaves({"a": f"data {run} end"}) == {"a": "data [REDACTED] end"}


def own(pattern: str) -> OutputPolicy:
    """A policy with one detector of its own."""
    text = f"default: {{}}\ndetectors: [{{ id: a, class: x, pattern: '{pattern}' }}]\n"
    return compile_bundle(parse_bundle({OUTPUT_POLICY_FILE: text})).output_policy


@pytest.mark.parametrize(
    ("pattern", "document"),
    [
        ("[^z]+", ["ab"] * 20_000),
        ("EMP[^,]*,", ["EMP"] * 20_000),
        ("(EMP)[^,]*", {"x": "EMP " * 100_000}),
        ("(EMP)[^,]*", {"x": "EMP " * 100_000, "y": SSN}),
    ],
)
def test_no_pattern_of_a_user_reads_a_document_over_and_over(pattern: str, document: Any) -> None:
    """Work grows with the document, not with its square; before that was so, each of these took 10 s and more."""
    policy = own(pattern)
    before = time.process_time()
    reviewed(document, policy)
    assert time.process_time() - before < 5


def test_a_pattern_that_reads_far_lets_nothing_out() -> None:
    """What stands behind a match that read far is met when the document is looked through again, or it is held."""
    policy = own("(EMP-[0-9]+)[^,]*")
    for gap in (10, 5_000):
        said = reviewed({"x": f"EMP-1 {'y' * gap} EMP-2 {'y' * gap} EMP-3"}, policy)
        assert said.decision == "REDACT"
        assert said.document is not None
        assert b"EMP" not in said.document
    said = reviewed({"x": f"EMP-1 {'y' * 5_000} " * 20}, policy)
    assert (said.decision, said.redacted) == ("QUARANTINE", None)
