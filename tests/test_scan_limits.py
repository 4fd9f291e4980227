"""Work is bounded by counts: at each limit the scan stops and says which."""

from __future__ import annotations

import base64
import json
import random
import time
from typing import Any

import pytest

from sluicegate.bench.dirty_documents import ENCODINGS
from sluicegate.policies.detectors import Detectors
from sluicegate.policies.scan import ScanLimits, scan

DETECTORS = Detectors.build()
CARD = "4111111111111111"


def nested(depth: int) -> Any:
    """Lists in one another."""
    document: Any = CARD
    for _ in range(depth):
        document = [document]
    return document


def wrapped(times: int) -> str:
    """A card under so many layers of base64."""
    text = f"card {CARD} of the customer"
    for _ in range(times):
        text = base64.b64encode(text.encode()).decode()
    return text


@pytest.mark.parametrize(
    ("document", "limits", "reason"),
    [
        (nested(65), {}, "more than 64 levels"),
        ([1_000_000] * 11, {"entries_max": 10}, "more than 10 keys and values"),
        ({str(place): "x" for place in range(11)}, {"entries_max": 10}, "more than 10 keys and values"),
        (["x" * 101], {"bytes_max": 100}, "more than 100 bytes of text"),
        (wrapped(5), {}, "decodings more than 4 deep"),
        (
            [wrapped(1)] * 2 + [f"{wrapped(1)} {place}" for place in range(99)],
            {"decoded_times_max": 0, "decoded_bytes_floor": 99},
            "decodings of more than",
        ),
        (
            [f"x{place} @" for place in range(9)] + ["4111111111111112"] * 9,
            {"candidates_max": 5},
            "more than 5 candidates",
        ),
        (["4111111111111112"] * 99, {"candidate_times_max": 0}, "too long ones"),
        ([f"{place}@example.com" for place in range(9)], {"findings_max": 5}, "more than 5 findings"),
        ([2**5000], {}, "more than 4096 bits"),
        ([(1, 2)], {}, "of the kind tuple"),
        ([b"x"], {}, "of the kind bytes"),
    ],
)
def test_a_limit_stops_the_scan(document: Any, limits: dict[str, int], reason: str) -> None:
    """Each limit has its reason; nothing raises."""
    assert reason in (scan(document, DETECTORS, ScanLimits(**limits)).exceeded or "")


def test_within_the_limits_nothing_is_said() -> None:
    """The deepest document and the deepest decodings that are allowed are looked through."""
    for document in (nested(64), wrapped(4)):
        result = scan(document, DETECTORS)
        assert (result.exceeded, [each.klass for each in result.findings]) == (None, ["card"])


def test_what_was_found_stands_at_a_limit() -> None:
    """The findings before a limit are kept."""
    result = scan([CARD, wrapped(5)], DETECTORS)
    assert result.exceeded
    assert [each.path for each in result.findings] == [(0,)]


@pytest.mark.parametrize(
    "text",
    [
        "\\" * 5_000,
        "C:\\new\\table\\reports\\x" * 50,
        "%25" * 4_000,
        "&amp;" * 4_000,
        json.dumps(json.dumps(json.dumps({"a": "b\\c"}))),
        "e\u0301" * 5_000,
        "👩\u200d💻" * 3_000,
        "注文は発送済みです。" * 500,
    ],
)
def test_ordinary_escapes_meet_no_limit(text: str) -> None:
    """Windows paths, nested JSON, accents, emoji and other scripts are no reason to hold a document."""
    assert scan({"a": text}, DETECTORS) == scan({"a": ""}, DETECTORS)


@pytest.mark.parametrize(
    "text",
    [
        "4" * 200_000,
        "4111 " * 40_000,
        "token=" * 30_000,
        "eyJaaaaaa-" * 20_000,
        "eyJaaaaaa." * 20_000,
        "-----BEGIN PRIVATE KEY-----" * 5_000,
        "a@" * 100_000,
        "::" * 100_000,
        "1.1.1." * 30_000,
        "+1 (" * 40_000,
        "password: " * 20_000,
        "de89" * 50_000,
        base64.b64encode(b"A" * 150_000).decode(),
        "NDExMTEx" * 25_000,
        "\\u0034" * 30_000,
        "%34" * 60_000,
        "\uff14" * 60_000,
        "34" * 100_000,
        "[" * 100_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """200 KB made to be slow end within two seconds, at a limit or not: work does not grow with the text's square."""
    begun = time.process_time()
    scan({"a": text}, DETECTORS)
    assert time.process_time() - begun < 2


def test_every_encoding_of_the_generator_is_decoded() -> None:
    """The generator has no encoding that the scanner does not know."""
    for name, encode in ENCODINGS.items():
        found = scan({"a": encode(f"a card {CARD} is", random.Random(1))}, DETECTORS).findings
        assert [each.klass for each in found] == ["card"], name
